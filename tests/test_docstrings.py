"""Docstrings keep their word: parameters documented are parameters, and examples run.

`tox -e lint` runs numpydoc's own checks, which read source code and cannot see a dataclass's fields.
"""

import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import pytest
from numpydoc.docscrape import NumpyDocString

PACKAGES = ["hessops", "hessops_torch", "hessops_mpi"]
# What a module needs beyond the core, which not every environment has.
NEEDS = {
    "hessops_torch": "torch",
    "hessops_torch.lightning": "lightning",
    "hessops_mpi": "mpi4py",
    "hessops.cli": "typer",
}


def module_names() -> list[str]:
    """Return the names of all modules, found without importing those that need more."""
    names = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        paths = list(spec.submodule_search_locations or [])
        names.append(package)
        names.extend(info.name for info in pkgutil.walk_packages(paths, f"{package}."))
    return names


def module(name: str):
    """Import a module, or skip where something it needs is missing."""
    for prefix, needed in NEEDS.items():
        if name.startswith(prefix):
            pytest.importorskip(needed)
    return importlib.import_module(name)


def documented_objects(owner):
    """Yield the public classes, functions and methods that a module defines, with their names."""
    for name in getattr(owner, "__all__", ()):
        obj = getattr(owner, name)
        if getattr(obj, "__module__", None) != owner.__name__ or not callable(obj):
            continue
        yield name, obj
        if inspect.isclass(obj):
            for method_name, method in vars(obj).items():
                if inspect.isfunction(method) and not method_name.startswith("_"):
                    yield f"{name}.{method_name}", method


def parameters_of(obj) -> list[str]:
    """Return the parameters that a docstring should name: of a dataclass, its own fields."""
    if "__dataclass_fields__" in getattr(obj, "__dict__", {}):  # its own, not a base's
        inherited = {
            field.name
            for base in obj.__mro__[1:]
            if dataclasses.is_dataclass(base)
            for field in dataclasses.fields(base)
        }
        return [field.name for field in dataclasses.fields(obj) if field.name not in inherited]
    return [name for name in inspect.signature(obj).parameters if name not in {"self", "cls"}]


def documented_parameters(obj) -> list[str]:
    entries = NumpyDocString(inspect.cleandoc(obj.__doc__))["Parameters"]
    return [name.lstrip("*") for entry in entries for name in entry.name.split(", ")]


@pytest.mark.parametrize("name", module_names())
def test_documented_parameters_are_the_parameters(name):
    wrong = {
        label: (documented, parameters_of(obj))
        for label, obj in documented_objects(module(name))
        if (documented := documented_parameters(obj)) and documented != parameters_of(obj)
    }
    assert not wrong


@pytest.mark.parametrize("name", module_names())
def test_examples_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_there_are_examples_to_run():
    """A search that finds none would pass every test above."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [
        example
        for name in ("hessops", "hessops.operator", "hessops.algorithms.trace.trace")
        for example in finder.find(importlib.import_module(name), name)
        if example.examples
    ]
    assert len(examples) >= 3

"""What is public, what it imports, and what is written at its door."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sources import imports, source_of

import hessops
from hessops.result import Result

PACKAGE = Path(hessops.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LONGEST_FILE = 400
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(PACKAGE)], "hessops.")
    if not info.name.rpartition(".")[2].startswith("__")
)
CORE = [name for name in MODULES if not name.startswith("hessops.cli")]
ALGORITHMS = [name for name in CORE if name.startswith("hessops.algorithms.")]
HOST_LIBRARIES = {"numpy", "scipy", "array_api_compat"}
# Imported where it is used, never at the top of a file.
ON_DEMAND = {"hessops.density.plot": {"matplotlib"}}


def imported_by(module, *, everywhere):
    return set(imports(ast.parse(source_of(module)), everywhere=everywhere))


def ours(names):
    return {name for name in names if name in {*MODULES, "hessops"}}


def libraries(names):
    roots = {name.partition(".")[0] for name in names}
    return roots - set(sys.stdlib_module_names) - {"hessops"}


def public_names():
    return {
        name
        for name, value in vars(hessops).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }


def test_all_is_what_is_public():
    assert hessops.__all__ == sorted(hessops.__all__)
    assert set(hessops.__all__) == public_names()


def test_each_public_name_has_one_home_that_says_so():
    for name in hessops.__all__:
        thing = getattr(hessops, name)
        home = importlib.import_module(thing.__module__)
        assert name in home.__all__
        assert getattr(home, name) is thing


@pytest.mark.parametrize("module", CORE)
def test_all_of_a_module_is_there_and_made_there(module):
    loaded = importlib.import_module(module)
    if not hasattr(loaded, "__all__"):
        assert loaded.__file__.endswith("__init__.py")
        return
    for name in loaded.__all__:
        assert hasattr(loaded, name), f"{module}.__all__ lists {name}, which is not there"
    made_here = {
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
        and (inspect.isclass(value) or inspect.isfunction(value))
    }  # fmt: skip
    assert made_here <= set(loaded.__all__)


def test_importing_hessops_imports_no_backend_and_nothing_for_drawing_or_typing():
    program = "import sys, hessops; print(*{name.partition('.')[0] for name in sys.modules})"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    unwanted = {"torch", "cupy", "mpi4py", "matplotlib", "typer", "rich"}
    unwanted |= {"hessops_torch", "hessops_cupy", "hessops_mpi"}
    assert unwanted & set(output.split()) == set()


@pytest.mark.parametrize("module", CORE)
def test_the_core_needs_its_host_libraries_alone(module):
    assert libraries(imported_by(module, everywhere=False)) <= HOST_LIBRARIES
    allowed = HOST_LIBRARIES | ON_DEMAND.get(module, set())
    assert libraries(imported_by(module, everywhere=True)) <= allowed


# From the bottom up. A module imports from its own layer and those below it, wherever in the file the
# import stands and whether or not it is for a type checker alone; within a layer, never in a circle.
# There are no exceptions: `operator` gets the nodes that it builds from `algebra`, which sets them,
# and `plot` is given numbers, not results.
LAYERS = {
    "numbers": [
        "archive", "arrays", "atomic_file", "backends", "copies", "counted", "device_probes", "errors",
        "options", "philox", "probes", "some_of",
        "random", "scalars", "statistics", "structure", "spectral_function", "version", "bounds",
        r"bounds\.\w+",
    ],
    "vectors": [
        "comm", "partition", "row_collectives", "space", "array_space", "agreement", "together",
        "blocks", r"blocks\.\w+", "checkpoint", r"checkpoint\.\w+",
    ],
    "operators": ["operator", "operators", r"operators\.\w+", "wrap", "diagnostics"],
    "results": [
        "record", "result", "results", r"results\.\w+", "density", r"density\.\w+",
    ],
    "algorithms": ["algorithms", r"algorithms\.\w+", r"algorithms\.\w+\.\w+"],
    "problems": ["gallery", r"gallery\.\w+"],
    "command line": ["cli", r"cli\.\w+"],
}  # fmt: skip


def layer_of(module):
    """Return the number of the one layer that a module belongs to, from the bottom."""
    name = module.removeprefix("hessops.")
    found = [
        number
        for number, patterns in enumerate(LAYERS.values())
        if any(re.fullmatch(pattern, name) for pattern in patterns)
    ]
    assert len(found) == 1, f"say in LAYERS where {module} belongs"
    return found[0]


def every_import_of(module):
    return ours(imports(ast.parse(source_of(module)), everywhere=True, typing=True)) - {module}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    above = {n for n in every_import_of(module) - {"hessops"} if layer_of(n) > layer_of(module)}
    assert not above


@pytest.mark.parametrize("module", CORE)
def test_the_core_does_not_import_the_package_that_gathers_it(module):
    assert "hessops" not in every_import_of(module)


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: every_import_of(name) - {"hessops"} for name in MODULES}
    while graph:
        leaves = {name for name, needed in graph.items() if not needed & set(graph)}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in leaves}


def test_the_search_for_imports_finds_those_of_functions_and_type_checkers():
    tree = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from c import d\n    import e.f"
    )
    assert set(imports(tree, everywhere=False)) == {"a"}
    assert set(imports(tree, everywhere=True)) == {"a", "c", "c.d", "e.f"}
    assert set(imports(tree, everywhere=True, typing=True)) == {"a", "b", "c", "c.d", "e.f"}


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_longer_than_can_be_read_at_once(module):
    assert len(source_of(module).splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("module", CORE)
def test_the_core_is_silent(module):
    calls = [node for node in ast.walk(ast.parse(source_of(module))) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call.func) in {"print", "breakpoint"}]


# Style: the long axis is touched by elementwise arithmetic, X @ small and the space's reductions.


def long_axis_violations(tree):
    """Find reductions of blocks that bypass the space.

    Blocks live in `xp`, small matrices in `np`: so linear algebra of `xp` and its sums over rows are
    suspect, and so are `X.T @` and `adjoint(X) @` outside of a space.
    """
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.expr) else ""
        if isinstance(node, ast.Attribute) and re.fullmatch(r"(\w+\.)*xp\.linalg", text):
            yield text
        if isinstance(node, ast.Attribute) and re.fullmatch(
            r"(\w+\.)*xp\.(vecdot|tensordot|matmul|einsum|dot|norm|mean|std|var)", text
        ):
            yield text
        if isinstance(node, ast.Call) and re.fullmatch(r"(\w+\.)*xp\.sum", ast.unparse(node.func)):
            axis = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("axis")
            if axis != "1":
                yield text
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            left = ast.unparse(node.left)
            if re.search(r"\.(T|mT|H)$|^adjoint\(|matrix_transpose\(", left):
                yield text


@pytest.mark.parametrize("module", ALGORITHMS)
def test_algorithms_reduce_the_long_axis_through_the_space_alone(module):
    assert list(long_axis_violations(ast.parse(source_of(module)))) == []


@pytest.mark.parametrize(
    "line",
    [
        "X.T @ Y",
        "adjoint(X) @ Y",
        "xp.linalg.qr(X)",
        "space.xp.linalg.vector_norm(x)",
        "A.xp.sum(X * Y)",
        "xp.sum(X, axis=0)",
        "xp.vecdot(x, y)",
        "X.mT @ Y",
        "xp.matrix_transpose(X) @ Y",
    ],
)
def test_the_search_for_long_axis_reductions_finds(line):
    assert list(long_axis_violations(ast.parse(line)))


# What is written at the door.


def documented():
    classes = {name: getattr(hessops, name) for name in hessops.__all__}
    results = {n: k for n, k in Result.kinds.items() if k.__module__.startswith("hessops.")}
    return {**classes, **results}


def public_methods():
    """Yield the public methods that have parameters to document, of the public classes."""
    for name, thing in documented().items():
        if not inspect.isclass(thing) or getattr(thing, "_is_protocol", False):
            continue
        for attribute, value in vars(thing).items():
            if inspect.isfunction(value) and not attribute.startswith("_"):
                yield f"{name}.{attribute}", value


def complaints(thing):
    validate = pytest.importorskip("numpydoc.validate")
    configured = set(CONFIGURATION["tool"]["numpydoc_validation"]["checks"])
    checks = set(validate.ERROR_MSGS) - configured if "all" in configured else configured
    path = f"{thing.__module__}.{thing.__qualname__}"
    found = validate.validate(path)["errors"]
    return {code: sentence for code, sentence in found if code in checks}


@pytest.mark.parametrize("name", documented())
def test_docstrings_are_numpydoc(name):
    thing = documented()[name]
    found = complaints(thing)
    if getattr(thing, "_is_protocol", False):
        found.pop("PR01", None)  # a protocol is not called
    if inspect.isclass(thing) and issubclass(thing, Result) and thing is not Result:
        # The fields that results share are described where they are made, in Result and its kinds.
        bases = filter(dataclasses.is_dataclass, thing.__mro__[1:])
        inherited = {field.name for base in bases for field in dataclasses.fields(base)}
        missing = set(re.findall(r"'(\w+)'", found.pop("PR01", "")))
        assert missing <= inherited
    assert found == {}


@pytest.mark.parametrize("name", [name for name, _ in public_methods()])
def test_docstrings_of_methods_that_have_sections_are_numpydoc(name):
    method = dict(public_methods())[name]
    assert inspect.getdoc(method), f"{name} has no docstring"
    if "----" in method.__doc__:
        assert complaints(method) == {}


@pytest.mark.parametrize("module", ["hessops", *MODULES])
def test_every_module_says_what_it_is(module):
    summary = ast.get_docstring(ast.parse(source_of(module)))
    assert summary
    assert len(summary.splitlines()[0]) <= 100


# tests/test_docstrings.py runs the examples.


@pytest.mark.parametrize("name", hessops.__all__)
def test_every_verb_has_an_example(name):
    thing = getattr(hessops, name)
    if inspect.isfunction(thing):
        assert doctest.DocTestParser().get_examples(inspect.getdoc(thing))

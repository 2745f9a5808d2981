"""The folders of the PyTorch backend stand on each other, and its names are where they say."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest
from sources import imports, source_of

pytest.importorskip("torch")

import hessops_torch

PACKAGE = "hessops_torch"
LONGEST_FILE = 400
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(Path(hessops_torch.__file__).parent)], f"{PACKAGE}.")
)

# From the bottom up. A module imports from its own folder and those below it, wherever in the file the
# import stands; folders in one line know nothing of each other.
FOLDERS = [
    ["data"],
    ["model"],
    ["losses"],
    ["ranks"],
    ["graphs"],
    ["objective"],
    ["products"],
    ["operators"],
    ["traces"],
    ["layers", "sampling", "landscapes", "training"],
    ["planning"],
]
# What the core and users import by these names, on top of all.
DOORS = {"convert", "demo", "lightning", "probes"}


def folder_of(module):
    return module.split(".")[1]


def level_of(folder):
    levels = [level for level, folders in enumerate(FOLDERS) if folder in folders]
    assert levels or folder in DOORS, f"say in FOLDERS where {folder} belongs"
    return levels[0] if levels else len(FOLDERS)


def own_imports(module):
    found = imports(ast.parse(source_of(module)), everywhere=True, typing=True)
    return {name for name in found if name in MODULES} - {module}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    folder = folder_of(module)
    for name in own_imports(module):
        other = folder_of(name)
        assert other == folder or level_of(other) < level_of(folder), f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    """But for the eyes of a type checker."""
    graph = {
        name: {
            other
            for other in imports(ast.parse(source_of(name)), everywhere=True)
            if other in MODULES and other != name
        }
        for name in MODULES
    }
    while graph:
        leaves = {name for name, needed in graph.items() if not needed & set(graph)}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in leaves}


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_longer_than_can_be_read_at_once(module):
    assert len(source_of(module).splitlines()) <= LONGEST_FILE


def test_each_public_name_has_one_home_that_says_so():
    assert hessops_torch.__all__ == sorted(hessops_torch.__all__)
    for name in hessops_torch.__all__:
        thing = getattr(hessops_torch, name)
        assert name in importlib.import_module(thing.__module__).__all__

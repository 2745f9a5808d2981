"""What a module's source says that it imports."""

import ast
import importlib.util
from pathlib import Path


def source_of(module):
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).read_text(encoding="utf-8")


def imports(tree, *, everywhere, typing=False):
    """Yield the modules that are imported: in functions too, for the eyes of a type checker too."""
    nodes = list(ast.walk(tree)) if everywhere else tree.body
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            nodes = [other for other in nodes if other not in set(ast.walk(node))]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

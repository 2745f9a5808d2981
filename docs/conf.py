"""How the documentation is built: ``tox -e docs``."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from docutils import nodes
from numpydoc.xref import DEFAULT_LINKS
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "hessops"
author = "The hessops developers"
copyright = author
release = version = metadata.version("hessops")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"hessops {release}"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
# numpydoc names the types, and it does so in words.
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_aliases = {word: word for word in DEFAULT_LINKS}
default_role = "py:obj"

# A link that names something of ours has to lead somewhere. Those to other projects' types lead
# nowhere, as looking them up would take a network: hence no aliases for them above.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!hessops).*")]


def link_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.reference | None:
    """Link `TraceResult`, or `TraceResult.save`, to the one documented object whose name ends so."""
    target = node["reftarget"]
    # A lone word in lower case is a parameter, not some attribute of the same name.
    if node.get("refdomain") != "py" or not (target[:1].isupper() or "." in target):
        return None
    objects: dict[str, Any] = env.get_domain("py").objects  # type: ignore[attr-defined]
    found = [name for name in objects if name.endswith(f".{target}")]
    if len(found) != 1:
        return None
    entry = objects[found[0]]
    return make_refnode(
        app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0]
    )


def setup(app: Sphinx) -> None:
    """Register the above with Sphinx."""
    app.connect("missing-reference", link_short_name)

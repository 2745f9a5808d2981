"""Names of options that a function hands on as ``**options``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

__all__ = ["require_options"]


def require_options(verb: str, given: Mapping[str, Any], known: type) -> None:
    """Raise if an option is none of those that a typed dictionary knows, by the name of the verb."""
    for name in given:
        names = sorted(known.__annotations__)
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            raise TypeError(f"{verb} has no option {name!r}: {hint}")

"""Options that some estimators would not read, which is said rather than passed over."""

from __future__ import annotations

from hessops.random import ProbeKind

__all__ = ["require_read"]

# Their probes depend on each other, or there are none: no term can have its own.
_WHOLE = ("exact", "na-hutchpp", "xdiag", "xnystrace", "xtrace")


def require_read(method: str, *, stratify: bool | None, probe: ProbeKind | None) -> None:
    """Raise if an option that was given has no meaning for the method asked for.

    Parameters
    ----------
    method : str
        As asked for: 'auto' may come to read any of them.
    stratify : bool or None
        Of the verb; False and None ask for nothing.
    probe : str or None
        Of the verb; None where it was not given.

    Raises
    ------
    ValueError
        If `method` would not read it.
    """
    if stratify and method in _WHOLE:
        raise ValueError(
            f"stratify=True gives every term of a finite sum probes of its own, which "
            f"method={method!r} cannot: leave it out, or take method='hutchinson'"
        )
    if probe is not None and method == "exact":
        raise ValueError(
            f"probe={probe!r} has no meaning for method='exact', which takes unit vectors: leave it out"
        )

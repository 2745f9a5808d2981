"""What the core asks this backend to turn into an operator."""

from __future__ import annotations

from typing import Any

from torch import nn

from hessops.operator import LinearOperator
from hessops_torch.operators.hessian import hessian

__all__ = ["convert"]


def convert(obj: Any) -> LinearOperator | None:
    """Make an operator of what `hessops.aslinearoperator` was given.

    Parameters
    ----------
    obj : object
        ``(model, loss, data)``, as a tuple or list, or with a dict of options of `hessian` as a
        fourth item.

    Returns
    -------
    LinearOperator or None
        The Hessian; None if `obj` is not for this backend.

    Raises
    ------
    TypeError
        If `obj` is a model alone, or begins with one and has not three or four items.
    """
    if isinstance(obj, nn.Module):
        raise TypeError(
            f"a model ({type(obj).__name__}) alone has no Hessian; pass (model, loss, data)"
        )
    if isinstance(obj, tuple | list) and obj and isinstance(obj[0], nn.Module):
        if len(obj) not in {3, 4}:
            raise TypeError(
                f"a {type(obj).__name__} of {len(obj)} that begins with a model is no operator; pass "
                "(model, loss, data) or (model, loss, data, options)"
            )
        model, loss, data, *rest = obj
        return hessian(model, loss, data, **_options(rest))
    return None


def _options(rest: list[Any]) -> dict[str, Any]:
    if not rest:
        return {}
    if not isinstance(rest[0], dict):
        raise TypeError(
            "the fourth item, after (model, loss, data), has to be a dict of options, got "
            f"{rest[0]!r}"
        )
    return rest[0]

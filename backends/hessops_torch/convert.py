"""What the core asks this backend to turn into an operator."""

from __future__ import annotations

from typing import Any

from torch import nn

from hessops.operator import LinearOperator
from hessops_torch.hessian import hessian

__all__ = ["convert"]


def convert(obj: Any) -> LinearOperator | None:
    """Make an operator of what `hessops.aslinearoperator` was given.

    Parameters
    ----------
    obj : object
        ``(model, loss, data)``, or with a dict of options of `hessian` as a fourth item.

    Returns
    -------
    LinearOperator or None
        The Hessian; None if `obj` is not for this backend.

    Raises
    ------
    TypeError
        If `obj` is a model alone.
    """
    if isinstance(obj, nn.Module):
        raise TypeError(
            f"a model ({type(obj).__name__}) alone has no Hessian; pass (model, loss, data)"
        )
    if isinstance(obj, tuple) and len(obj) in {3, 4} and isinstance(obj[0], nn.Module):
        model, loss, data, *rest = obj
        options: dict[str, Any] = rest[0] if rest else {}
        return hessian(model, loss, data, **options)
    return None

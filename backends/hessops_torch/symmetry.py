"""One look at whether the products of a micro-batch are symmetric, as those of a Hessian have to be.

A second derivative that is wrong somewhere (in a `torch.autograd.Function`, or in PyTorch itself) as a
rule is not symmetric: <u, H v> and <H u, v> differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hessops.errors import NotSelfAdjointError

__all__ = ["shows_symmetry"]

_SEED = 0x5EED
_ROUNDINGS = 100


def shows_symmetry(
    products: Callable[[Tensor], Tensor], size: int, like: Tensor, name: str
) -> bool:
    """Raise if two products show that an operator is not symmetric.

    They may differ by half the digits; where they differ by more, a third product shows how much of
    that is rounding, which is large where the terms of a sum are larger than the sum.

    Parameters
    ----------
    products : callable
        From rows, shape (k, n), to the products of the operator with each, shape (k, n).
    size : int
        The length n of a row.
    like : torch.Tensor
        With the dtype and device of the rows.
    name : str
        What to call the micro-batch.

    Returns
    -------
    bool
        Whether the products say anything: those that are zero, infinite or NaN do not.

    Raises
    ------
    NotSelfAdjointError
        If <u, H v> and <H u, v> differ by more than rounding.
    """
    generator = torch.Generator(device=like.device).manual_seed(_SEED)
    bits = torch.randint(0, 2, (2, size), generator=generator, device=like.device, dtype=torch.int8)
    vectors = bits.to(like.dtype).mul_(2).sub_(1)
    results = products(vectors)
    scale = float(torch.linalg.vector_norm(results, dim=1, dtype=torch.float64).max())
    if scale == 0 or not math.isfinite(scale):
        return False
    # Multiplying by signs is exact; sums in double precision keep it so.
    left, right = (vectors * results.flip(0)).sum(1, dtype=torch.float64).tolist()
    difference = abs(left - right)
    if difference <= math.sqrt(torch.finfo(like.dtype).eps) * scale:
        return True
    # Three times a number rounds otherwise than the number.
    noise = products(3 * vectors[:1]) / 3 - results[:1]
    rounding = float(torch.linalg.vector_norm(noise, dtype=torch.float64))
    if difference <= _ROUNDINGS * rounding:
        return True
    raise NotSelfAdjointError(
        f"the Hessian products of {name} are not symmetric: <u, H v> = {left:.6g} and <H u, v> = "
        f"{right:.6g} with |H v| = {scale:.3g}, so some operation of the model or the loss has a "
        "wrong second derivative; torch.autograd.gradgradcheck tells which. The backward of a "
        "torch.autograd.Function has to be made of differentiable operations on what "
        f"ctx.save_for_backward kept{_precision(like.dtype)}"
    )


def _precision(dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return ""
    return f". If it is the rounding of {dtype} after all, move model and data to torch.float64"

"""One look at whether the products of a micro-batch fit each other, as those of derivatives have to.

A second derivative that is wrong somewhere (in a `torch.autograd.Function`, or in PyTorch itself) as a
rule is not symmetric: <u, H v> and <H u, v> differ. Likewise <u, J v> and <J^T u, v> differ where one
of the two products with a Jacobian is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from hessops.errors import NotSelfAdjointError

__all__ = ["shows_adjoint", "shows_symmetry"]

_SEED = 0x5EED
_ROUNDINGS = 100

Products: TypeAlias = Callable[[Tensor], Tensor]
"""From rows to the product with each."""


def shows_symmetry(products: Products, size: int, like: Tensor, name: str) -> bool:
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
    vectors = _signs((2, size), like)
    results = products(vectors)
    scale = float(torch.linalg.vector_norm(results, dim=1, dtype=torch.float64).max())
    if scale == 0 or not math.isfinite(scale):
        return False
    # Multiplying by signs is exact; sums in double precision keep it so.
    left, right = (vectors * results.flip(0)).sum(1, dtype=torch.float64).tolist()
    if _fit(left, right, scale, lambda: _rounding(products, vectors[:1], results[:1]), like.dtype):
        return True
    raise NotSelfAdjointError(
        f"the Hessian products of {name} are not symmetric: <u, H v> = {left:.6g} and <H u, v> = "
        f"{right:.6g} with |H v| = {scale:.3g}, so some operation of the model or the loss has a "
        f"wrong second derivative; {_ADVICE}{_precision(like.dtype)}"
    )


def shows_adjoint(
    forward: Products, adjoint: Products, shapes: Sequence[Sequence[int]], like: Tensor, name: str
) -> bool:
    """Raise if a product with a Jacobian and one with its adjoint show that they do not fit.

    Parameters
    ----------
    forward, adjoint : callable
        Products with J and J^T.
    shapes : (sequence of int, sequence of int)
        Of a vector that J multiplies, and of one that J^T multiplies.
    like : torch.Tensor
        With the dtype and device of both.
    name : str
        What to call the micro-batch.

    Returns
    -------
    bool
        Whether the products say anything: those that are zero, infinite or NaN do not.

    Raises
    ------
    NotSelfAdjointError
        If <u, J v> and <J^T u, v> differ by more than rounding.
    """
    v, u = (_signs((1, *shape), like, _SEED + i) for i, shape in enumerate(shapes))
    pushed, pulled = forward(v), adjoint(u)
    scale = max(
        float(torch.linalg.vector_norm(product, dtype=torch.float64))
        for product in (pushed, pulled)
    )
    if scale == 0 or not math.isfinite(scale):
        return False
    left, right = (float((a * b).sum(dtype=torch.float64)) for a, b in ((u, pushed), (pulled, v)))
    if _fit(left, right, scale, lambda: _rounding(forward, v, pushed), like.dtype):
        return True
    raise NotSelfAdjointError(
        f"the products of {name} with the Jacobian and its adjoint do not fit: <u, J v> = {left:.6g} "
        f"and <J^T u, v> = {right:.6g} where the larger has norm {scale:.3g}, so the backward pass of "
        f"some operation of the model has a wrong derivative; {_ADVICE}{_precision(like.dtype)}"
    )


def _signs(shape: Sequence[int], like: Tensor, seed: int = _SEED) -> Tensor:
    generator = torch.Generator(device=like.device).manual_seed(seed)
    bits = torch.randint(0, 2, shape, generator=generator, device=like.device, dtype=torch.int8)
    return bits.to(like.dtype).mul_(2).sub_(1)


def _fit(
    left: float, right: float, scale: float, rounding: Callable[[], float], dtype: torch.dtype
) -> bool:
    """Tell whether two numbers are one but for rounding, which is only measured in case of doubt."""
    difference = abs(left - right)
    half_the_digits = math.sqrt(torch.finfo(dtype).eps) * scale
    return difference <= half_the_digits or difference <= _ROUNDINGS * rounding()


def _rounding(products: Products, row: Tensor, product: Tensor) -> float:
    # Three times a number rounds otherwise than the number.
    noise = products(3 * row) / 3 - product
    return float(torch.linalg.vector_norm(noise, dtype=torch.float64))


_ADVICE = (
    "torch.autograd.gradgradcheck tells which. The backward of a torch.autograd.Function has to be "
    "made of differentiable operations on what ctx.save_for_backward kept"
)


def _precision(dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return ""
    return f". If it is the rounding of {dtype} after all, move model and data to torch.float64"

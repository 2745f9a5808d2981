"""States in one line: whoever prints one while stepping an engine wants numbers, not vectors."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hessops.arrays import is_array

__all__ = ["one_line"]


def one_line(state: Any) -> str:
    """Return the numbers of a state and the shapes of its arrays.

    Parameters
    ----------
    state : dataclass
        Of an engine; its class says ``__repr__ = one_line``.

    Returns
    -------
    str
        What is neither number nor array is left out: operators, spaces, bases.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> from hessops.algorithms.krylov.lanczos import lanczos_steps
    >>> A = hessops.Diagonal(np.arange(1.0, 6.0))
    >>> print(next(lanczos_steps(A, np.ones((5, 1)))))
    LanczosState(step=1, num_products=1, alphas: (1, 1), betas: (1, 1), lengths: (1,), ...)
    """
    names = dict.fromkeys(["step", "num_products", *_public_fields(state)])
    parts = [_part(name, getattr(state, name)) for name in names]
    return f"{type(state).__name__}({', '.join(part for part in parts if part)})"


def _public_fields(state: Any) -> list[str]:
    return [field.name for field in fields(state) if not field.name.startswith("_")]


def _part(name: str, value: Any) -> str:
    if is_array(value):
        shape = tuple(value.shape)
        return f"{name}={value:.6g}" if shape == () else f"{name}: {shape}"
    if isinstance(value, float):
        return f"{name}={value:.6g}"
    return f"{name}={value!r}" if isinstance(value, bool | int | str) else ""

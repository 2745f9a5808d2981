"""Functions of a self-adjoint operator: what is known of f beyond its values.

The error of a Gauss rule has the sign of an even derivative of f, that of a Gauss-Radau rule the sign
of an odd one (Golub & Meurant 2010). So a function comes with those signs, where they do not change
over the spectrum, and with where it is defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from hessops.arrays import HostArray

__all__ = ["FunctionName", "SpectralFunction", "power", "spectral_function"]

FunctionName: TypeAlias = Literal[
    "log", "inverse", "exp", "sqrt", "inverse_sqrt", "xlogx", "square", "abs", "sign"
]
"""Functions known by name; 'inverse_sqrt' is 1 / sqrt(x), 'xlogx' is x log(x)."""

# Probed on both sides of this, to find faults before products are paid for.
_PROBED = 1.0


@dataclass(frozen=True)
class SpectralFunction:
    """A real function of a real variable, and what is known of it.

    Parameters
    ----------
    name : str
        For messages.
    function : callable
        From a float64 array to an array of the same shape.
    even : int or None
        Sign (-1, 0, 1) of all derivatives of even order on the spectrum; None where it is not known
        or not the same everywhere.
    odd : int or None
        The same of odd orders.
    first_order : int
        Order from which on the signs hold.
    low : float
        Where the function begins to be defined.
    closed : bool
        Whether it is defined at `low` itself.
    operator_convex : int or None
        1 for a function f(x) = a + b x ± x² ± ∫ 1/(x + t) dμ(t) over t >= 0 with the plus signs, as
        1/x; -1 with the minus signs, as log and square root; None for all others. It orders matrices,
        and so brackets quadrature by blocks, where signs of derivatives are not enough.

    Examples
    --------
    >>> import numpy as np
    >>> from hessops.spectral_function import SpectralFunction
    >>> f = SpectralFunction("cosh", np.cosh, even=1)
    >>> f.sign(4), f.sign(5)
    (1, None)
    """

    name: str
    function: Callable[[HostArray], HostArray]
    even: int | None = None
    odd: int | None = None
    first_order: int = 2
    low: float = -math.inf
    closed: bool = False
    operator_convex: int | None = None

    def sign(self, order: int) -> int | None:
        """Return the sign of a derivative on the spectrum, None where it is not known."""
        if order < self.first_order:
            return None
        return self.odd if order % 2 else self.even

    def defined_at(self, x: float) -> bool:
        """Tell whether the function has a finite value at a real number."""
        inside = math.isfinite(x) and (x >= self.low if self.closed else x > self.low)
        return inside and math.isfinite(float(self._values(np.array([x]))[0]))

    def __call__(self, nodes: HostArray) -> HostArray:
        """Return the values at nodes.

        Parameters
        ----------
        nodes : numpy.ndarray
            Where, float64.

        Returns
        -------
        numpy.ndarray
            Of the same shape, float64.

        Raises
        ------
        ValueError
            If the function returns another shape, complex numbers, NaN or infinity.
        """
        values = self._values(nodes)
        bad = ~np.isfinite(values)
        if np.any(bad):
            raise ValueError(
                f"{self.name} returned {values[bad][0]} at the Ritz value {nodes[bad][0]:.6g}: the "
                "function must be finite over the whole spectrum; shift or scale the operator"
            )
        return values

    def variation(self, nodes: HostArray, distance: float) -> HostArray:
        """Return how much the values change within a distance of the nodes; inf where undefined."""
        center = self._values(nodes)
        sides = [
            self._values(np.maximum(nodes + step, self.low if self.closed else -math.inf))
            for step in (-distance, distance)
        ]
        changes = np.max([np.abs(side - center) for side in sides], axis=0)
        return np.where(np.isfinite(changes), changes, math.inf)

    def require_defined(self, smallest: float, rounding: float) -> None:
        """Raise if a Ritz value lies where the function is not defined.

        Parameters
        ----------
        smallest : float
            The smallest Ritz value.
        rounding : float
            What cannot be told from 0 in the operator's precision.

        Raises
        ------
        ValueError
            If it lies outside, or on an open end to rounding.
        """
        margin = smallest - self.low
        if margin > rounding or (self.closed and margin >= -rounding):
            return
        where = f"{self.low:g} or above" if self.closed else f"above {self.low:g}"
        if margin < -rounding:
            verdict = "so the operator is not positive definite"
        else:
            verdict = f"which is {self.low:g} to rounding ({rounding:.2g} in this precision)"
        raise ValueError(
            f"{self.name} needs eigenvalues {where}, and the smallest Ritz value is {smallest:.6g}, "
            f"{verdict}: shift the operator, or project its null space out"
        )

    def _values(self, nodes: HostArray) -> HostArray:
        with np.errstate(all="ignore"):
            values = np.asarray(self.function(nodes))
        if values.shape != nodes.shape:
            raise ValueError(
                f"{self.name} returned shape {values.shape} for nodes of shape {nodes.shape}; it "
                "must act entry by entry on a NumPy array"
            )
        if np.iscomplexobj(values):
            raise ValueError(
                f"{self.name} returned complex numbers; call once for the real part and once for the "
                "imaginary part"
            )
        return values.astype(np.float64)


def power(p: float) -> SpectralFunction:
    """Return x^p, with the signs of its derivatives for x > 0.

    Parameters
    ----------
    p : float
        Any; for integers from 0 on, x may be of either sign.

    Returns
    -------
    SpectralFunction
        To be given as `f`.

    Raises
    ------
    ValueError
        If `p` is not finite.

    Examples
    --------
    >>> import numpy as np, hessops
    >>> from hessops.spectral_function import power
    >>> A = np.diag([1.0, 4.0, 9.0])
    >>> round(hessops.trace_function(A, power(1.5), num_probes=2, rng=0).value, 9)
    36.0
    """
    if not math.isfinite(p):
        raise ValueError(f"power({p}): give a finite exponent")
    name = f"x^{p:g}"

    def function(x: HostArray) -> HostArray:
        return np.asarray(x**p)

    if p >= 0 and p == int(p):
        convex = 1 if p <= 2 else None
        return SpectralFunction(
            name, function, 0, 0, first_order=max(2, int(p) + 1), operator_convex=convex
        )
    # Convex on [-1, 0] and [1, 2], concave on [0, 1]: Löwner and Heinz.
    convex = None if not -1 <= p <= 2 else (-1 if 0 <= p <= 1 else 1)
    # From order ceil(p) on, each further derivative brings one more negative factor.
    first = max(math.ceil(p), 0)
    at_even = 1 if first % 2 == 0 else -1
    return SpectralFunction(
        name,
        function,
        even=at_even,
        odd=-at_even,
        first_order=max(2, first),
        low=0.0,
        closed=p > 0,
        operator_convex=convex,
    )


def _xlogx(x: HostArray) -> HostArray:
    return np.asarray(x * np.log(np.where(x == 0, 1.0, x)))


_NAMED: dict[str, SpectralFunction] = {
    "log": SpectralFunction("log", np.log, even=-1, odd=1, low=0.0, operator_convex=-1),
    "inverse": replace(power(-1.0), name="inverse"),
    "exp": SpectralFunction("exp", np.exp, even=1, odd=1),
    "sqrt": replace(power(0.5), name="sqrt"),
    "inverse_sqrt": replace(power(-0.5), name="inverse_sqrt"),
    "xlogx": SpectralFunction(
        "xlogx", _xlogx, even=1, odd=-1, low=0.0, closed=True, operator_convex=1
    ),
    "square": replace(power(2.0), name="square"),
    "abs": SpectralFunction("abs", np.abs),
    "sign": SpectralFunction("sign", np.sign),
}


def spectral_function(
    f: object, derivative_signs: tuple[int | None, int | None] | None = None
) -> SpectralFunction:
    """Return what `f` stands for.

    Parameters
    ----------
    f : callable, SpectralFunction or str
        A function of a float64 array, entry by entry, or a name of `FunctionName`.
    derivative_signs : tuple of int or None, optional
        Signs of all even and of all odd derivatives of a callable, from the second on.

    Returns
    -------
    SpectralFunction
        With values and signs.

    Raises
    ------
    ValueError
        If a name is unknown, a callable does not return an array of the same shape, or signs are
        given that are none or for a function that has its own.
    TypeError
        If `f` is neither a name nor callable.
    """
    names = get_args(FunctionName)
    if isinstance(f, str):
        if f not in names:
            raise ValueError(f"f={f!r} is unknown; choose one of {', '.join(names)}, or a callable")
        f = _NAMED[f]
    if isinstance(f, SpectralFunction):
        if derivative_signs is not None:
            raise ValueError(f"{f.name} brings its own signs: leave derivative_signs out")
        return f
    if not callable(f):
        raise TypeError(f"f={f!r} must be a callable or one of {', '.join(names)}")
    even, odd = (None, None) if derivative_signs is None else _signs(derivative_signs)
    function = SpectralFunction(getattr(f, "__name__", type(f).__name__), f, even, odd)
    function.variation(np.array([-_PROBED, _PROBED]), 0.0)
    return function


def _signs(signs: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    if len(signs) != 2 or any(sign not in {-1, 0, 1, None} for sign in signs):
        raise ValueError(
            f"derivative_signs={signs!r} must be two of -1, 0, 1 and None: the signs of the even and "
            "of the odd derivatives"
        )
    return signs

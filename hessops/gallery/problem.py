"""A problem with its answer: an operator together with its exact eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hessops.arrays import HostArray, dtype_name
from hessops.operator import LinearOperator
from hessops.operators.algebra import Shifted
from hessops.operators.elementary import DeclaredOperator
from hessops.structure import POSITIVE_SEMIDEFINITE

__all__ = ["Problem"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Problem:
    """An operator and its exact spectrum, on the host and in double precision.

    The eigenvalues are those of the operator in exact arithmetic. Products round, and an operator in
    float32 has its entries rounded, so what it computes belongs to eigenvalues that differ from these
    by about its precision times `norm`.

    Parameters
    ----------
    name : str
        How it was asked for.
    operator : LinearOperator
        Self-adjoint, of dimension n.
    spectrum : callable
        Returns the n eigenvalues in any order, each as often as its multiplicity. It is called once,
        when they are first wanted.
    closed_trace : float, optional
        The trace; the sum of the eigenvalues where not given.
    closed_logdet : float, optional
        The logarithm of the determinant; the sum of their logarithms where not given.

    Examples
    --------
    >>> import hessops.gallery
    >>> problem = hessops.gallery.laplacian_1d(3)
    >>> problem
    Problem(laplacian_1d(3), 3x3, float64)
    >>> problem.eigenvalues.round(4)
    array([0.5858, 2.    , 3.4142])
    >>> problem.trace, round(problem.logdet, 12)
    (6.0, 1.38629436112)
    """

    name: str
    operator: LinearOperator
    spectrum: Callable[[], HostArray]
    closed_trace: float | None = None
    closed_logdet: float | None = None

    @cached_property
    def eigenvalues(self) -> HostArray:
        """Return the n eigenvalues, ascending, repeated by multiplicity; they cannot be changed."""
        ascending = np.sort(np.asarray(self.spectrum(), dtype=np.float64))
        ascending.setflags(write=False)
        return ascending

    @property
    def norm(self) -> float:
        """Return the largest absolute value of an eigenvalue, which is the spectral norm."""
        return float(np.max(np.abs(self.eigenvalues[[0, -1]])))

    @cached_property
    def trace(self) -> float:
        """Return the trace."""
        if self.closed_trace is not None:
            return float(self.closed_trace)
        return math.fsum(self.eigenvalues)

    @cached_property
    def logdet(self) -> float:
        """Return the logarithm of the determinant, minus infinity where an eigenvalue is zero.

        An operator with negative eigenvalues has none, which raises a `ValueError`.
        """
        if self.closed_logdet is not None:
            return float(self.closed_logdet)
        smallest = float(self.eigenvalues[0])
        if smallest < 0:
            raise ValueError(
                f"{self.name} has negative eigenvalues, the smallest {smallest:.6g}, and so no real "
                f"log-determinant; shift it, for example shifted({math.floor(smallest) - 1})"
            )
        return -math.inf if smallest == 0 else self.trace_of(np.log)

    def trace_of(self, function: Callable[[HostArray], HostArray]) -> float:
        """Return the trace of a function of the operator, such as ``numpy.exp``.

        Parameters
        ----------
        function : callable
            From the array of eigenvalues to an array of the same shape.

        Returns
        -------
        float
            The sum over the eigenvalues, each as often as its multiplicity.
        """
        return math.fsum(np.asarray(function(self.eigenvalues), dtype=np.float64))

    def levels(self, tol: float = 1e-12) -> tuple[HostArray, HostArray]:
        """Return the distinct eigenvalues, ascending, and how often each occurs.

        Parameters
        ----------
        tol : float
            Neighbours that are at most ``tol * norm`` apart count as one, and the smaller stands for
            both: closed forms round, so that equal eigenvalues may differ in the last digits.

        Returns
        -------
        values : numpy.ndarray, shape (m,)
            The distinct eigenvalues.
        multiplicities : numpy.ndarray, shape (m,)
            Positive integers that sum to n.

        Raises
        ------
        ValueError
            If `tol` is negative or NaN.
        """
        if not tol >= 0:
            raise ValueError(f"tol={tol} must not be negative")
        apart = np.diff(self.eigenvalues) > tol * self.norm
        starts = np.concatenate([[0], 1 + np.flatnonzero(apart)])
        ends = np.concatenate([starts[1:], [len(self.eigenvalues)]])
        return self.eigenvalues[starts], ends - starts

    def shifted(self, shift: float) -> Problem:
        """Return the problem of the operator ``A - shift * I``.

        Parameters
        ----------
        shift : float
            What every eigenvalue is reduced by; a negative one makes A more definite.

        Returns
        -------
        Problem
            Declared positive semidefinite where its eigenvalues are not negative.
        """
        n = self.operator.shape[0]
        return _declared(
            name=f"({self.name} - {shift:g} I)",
            operator=Shifted(self.operator, float(shift)),
            eigenvalues=self.eigenvalues - shift,
            trace=self.trace - n * shift,
        )

    def scaled(self, factor: float) -> Problem:
        """Return the problem of the operator ``factor * A``.

        Parameters
        ----------
        factor : float
            What every eigenvalue is multiplied by.

        Returns
        -------
        Problem
            Declared positive semidefinite where its eigenvalues are not negative.
        """
        return _declared(
            name=f"{factor:g} {self.name}",
            operator=float(factor) * self.operator,
            eigenvalues=factor * self.eigenvalues,
            trace=factor * self.trace,
        )

    def __repr__(self) -> str:
        rows, columns = self.operator.shape
        return f"Problem({self.name}, {rows}x{columns}, {dtype_name(self.operator.dtype)})"


def _declared(name: str, operator: LinearOperator, eigenvalues: HostArray, trace: float) -> Problem:
    # The table of structures cannot know that 21 I lifts every eigenvalue above zero; we do.
    definite = bool(np.min(eigenvalues) >= 0)
    if definite and not operator.structure.positive_semidefinite:
        operator = DeclaredOperator(operator, POSITIVE_SEMIDEFINITE)
    return Problem(name=name, operator=operator, spectrum=lambda: eigenvalues, closed_trace=trace)

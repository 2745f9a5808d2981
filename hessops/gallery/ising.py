"""A ring of quantum spins in a transverse field, solved by free fermions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from hessops.arrays import Array, HostArray
from hessops.gallery.arguments import SpaceOptions, array_space, require_at_least
from hessops.gallery.hypercube_graph import sum_of_bit_flips
from hessops.gallery.problem import Problem
from hessops.operator import LinearOperator
from hessops.space import Space
from hessops.structure import SELF_ADJOINT

__all__ = ["TransverseFieldIsing", "transverse_field_ising"]


def transverse_field_ising(
    num_spins: int, field: float = 1.0, **options: Unpack[SpaceOptions]
) -> Problem:
    r"""Return the Hamiltonian of the transverse-field Ising ring.

    .. math:: H = -\sum_{i=1}^{s} \sigma^z_i \sigma^z_{i+1} - h \sum_{i=1}^{s} \sigma^x_i,
              \qquad \sigma_{s+1} = \sigma_1,

    for s spins, of dimension 2^s. A Jordan-Wigner transformation leaves free fermions of energies
    :math:`2 \sqrt{1 + h^2 - 2 h \cos q}` [1]_: an even number of them on the momenta
    :math:`q = (2 j + 1) \pi / s`, and an odd number on :math:`q = 2 j \pi / s`, where the one of
    q = 0 counts as 2 (h - 1), with its sign. The 2^s eigenvalues are all sums of plus or minus half
    of the energies that fit.

    Parameters
    ----------
    num_spins : int
        Number of spins, s.
    field : float
        The field h; the phase transition is at 1.
    **options
        `dtype`, `xp` and `device` as for `ArraySpace`.

    Returns
    -------
    Problem
        Indefinite, with trace 0.

    Raises
    ------
    ValueError
        If there are fewer than two spins or the field is not finite.

    References
    ----------
    .. [1] P. Pfeuty (1970). The one-dimensional Ising model with a transverse field. *Annals of
       Physics* 57, 79-90.

    Examples
    --------
    >>> import hessops.gallery
    >>> hessops.gallery.transverse_field_ising(10).eigenvalues[:2].round(8)
    array([-12.78490644, -12.62750303])
    """
    require_at_least(2, num_spins=num_spins)
    if not np.isfinite(field):
        raise ValueError(f"field={field} must be finite")
    return Problem(
        name=f"transverse_field_ising({num_spins}, {field:g})",
        operator=TransverseFieldIsing(array_space(2**num_spins, **options), field),
        spectrum=lambda: _energies(num_spins, abs(field)),
        closed_trace=0.0,
    )


class TransverseFieldIsing(LinearOperator):
    """The Hamiltonian of the transverse-field Ising ring, in the basis of the products of sigma^z.

    The binary digits of a row's number are the spins.

    Parameters
    ----------
    space : Space
        Its dimension is a power of two, and all rows are held here.
    field : float
        The field h.
    """

    def __init__(self, space: Space, field: float) -> None:
        super().__init__(space, structure=SELF_ADJOINT)
        self.field = float(field)
        self.bonds: Array = space.from_host(_bonds(space.dim.bit_length() - 1))[:, None]

    def _apply(self, X: Array) -> Array:
        return -(self.bonds * X) - self.field * sum_of_bit_flips(X)

    def _describe(self) -> str:
        return f"field {self.field:g}"


def _bonds(num_spins: int) -> HostArray:
    """Return the sum of the products of neighbouring spins of every configuration."""
    numbers = np.arange(2**num_spins)
    spins = [1.0 - 2.0 * ((numbers >> i) & 1) for i in range(num_spins)]
    bonds = np.zeros(2**num_spins)
    for i in range(num_spins):
        bonds += spins[i] * spins[i - 1]
    return bonds


def _energies(num_spins: int, field: float) -> HostArray:
    j = np.arange(num_spins)
    even = _fermions((2 * j + 1) * np.pi / num_spins, field)
    odd = _fermions(2 * j * np.pi / num_spins, field)
    odd[0] = 2 * (field - 1)
    return np.concatenate([_sums(even)[0], _sums(odd)[1]])


def _fermions(momenta: HostArray, field: float) -> HostArray:
    # (1 - h)^2 + 4 h sin^2(q / 2): no cancellation at the transition.
    energies: HostArray = 2 * np.hypot(1 - field, 2 * np.sqrt(field) * np.sin(momenta / 2))
    return energies


def _sums(energies: Sequence[float] | HostArray) -> tuple[HostArray, HostArray]:
    """Return all sums of plus or minus halves, apart for even and odd numbers of pluses."""
    even, odd = np.zeros(1), np.zeros(0)
    for energy in energies:
        empty, full = -energy / 2, energy / 2
        even, odd = (
            np.concatenate([even + empty, odd + full]),
            np.concatenate([odd + empty, even + full]),
        )
    return even, odd

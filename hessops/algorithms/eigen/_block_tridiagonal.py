"""The small matrix V^H A V of a block Krylov space on the host: banded, also after restarts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.arrays import HostArray

__all__ = ["BlockTridiagonal", "SmallPairs"]


# With so many times as many rows as pairs wanted, some pairs are found sooner than all.
_FEW = 16


@dataclass(frozen=True)
class SmallPairs:
    """Eigenpairs of the small matrix: values ascending, and orthonormal coefficients in the basis."""

    values: HostArray
    residual_norms: HostArray
    vectors: HostArray


class BlockTridiagonal:
    """The Hermitian T and the coupling B of ``A V = V T + Q B + E``.

    V is the basis, Q the next block, orthogonal to V. Only the last columns of B are not zero.
    Of E is kept what is along the vectors that the basis began with, `leak`; and column norms of the
    rest, `lost`: what was dropped where a block lost rank, and the rounding of T.

    Parameters
    ----------
    values : numpy.ndarray, shape (p,)
        T = diag(values) to begin with.
    lost : numpy.ndarray, shape (p,)
        The column norms of E to begin with.
    width : int
        Columns of the first block Q, which is not coupled to what there is.
    """

    def __init__(self, values: HostArray, lost: HostArray, width: int) -> None:
        self.size = len(values)
        self.lost = lost
        self.leak: HostArray = np.zeros((self.size, self.size))
        self._known: HostArray = np.eye(self.size)
        # The Frobenius norm of all that was lost, which no rotation changes. Sums of column norms
        # grow with each.
        self._lost_in_all = float(np.linalg.norm(lost))
        self.coupling: HostArray = np.zeros((width, 0))
        self._entries: HostArray = np.diag(values)
        self._tridiagonal = True

    @property
    def tridiagonal(self) -> bool:
        """Tell whether T is real and tridiagonal."""
        return self._tridiagonal

    @property
    def matrix(self) -> HostArray:
        """Return T."""
        return self._entries[: self.size, : self.size]

    def start(self, width: int) -> None:
        """Begin a new Krylov space of blocks of this width."""
        self.coupling = np.zeros((width, 0))

    def asymmetry(self, coefficients: HostArray) -> HostArray:
        """Return what of V^H A Q, V including Q, a self-adjoint operator would not have.

        Parameters
        ----------
        coefficients : numpy.ndarray, shape (size + w, w)
            V^H A Q as computed.

        Returns
        -------
        numpy.ndarray, shape (size + w, w)
            Its difference from the values that are known by symmetry.
        """
        before = self.coupling.shape[1]
        stray = np.array(coefficients)
        stray[self.size - before : self.size] -= self.coupling.conj().T
        own = coefficients[self.size :]
        stray[self.size :] = (own - own.conj().T) / 2
        return stray

    def grow(self, coefficients: HostArray, factor: HostArray, dropped: HostArray) -> None:
        """Add the block Q to the basis, given ``A Q = V coefficients + Q_next factor + dropped``.

        Parameters
        ----------
        coefficients : numpy.ndarray, shape (size + w, w)
            Along the basis that includes Q.
        factor : numpy.ndarray, shape (r, w)
            Along the next block.
        dropped : numpy.ndarray, shape (w,)
            Norms of what is left out.
        """
        width, before = self.coupling.shape
        stray = self.asymmetry(coefficients)
        known = np.conjugate(self._known.T)
        along = known @ stray[: self.size]
        stray[: self.size] -= self._known @ along
        first, last = self.size, self.size + width
        self._make_room(last, coefficients.dtype)
        own = coefficients[first:]
        self._entries[first:last, first:last] = (own + own.conj().T) / 2
        self._entries[first:last, first - before : first] = self.coupling
        self._entries[first - before : first, first:last] = self.coupling.conj().T
        self.leak = np.concatenate([self.leak, along], axis=1)
        self._known = np.concatenate([self._known, np.zeros((width, len(along)))])
        lost = np.hypot(np.linalg.norm(stray, axis=0), dropped)
        self.lost = np.concatenate([self.lost, lost])
        self._lost_in_all = float(np.hypot(self._lost_in_all, np.linalg.norm(lost)))
        self.size, self.coupling = last, factor
        self._tridiagonal = self._tridiagonal and width == 1

    def ends(self, count: int) -> SmallPairs:
        """Return the outermost `count` pairs at each end, cheaply where T is tridiagonal."""
        if not self._tridiagonal or self.size <= _FEW * count:
            everything = self.pairs()
            chosen = np.arange(self.size)
            if self.size > 2 * count:
                chosen = np.concatenate([chosen[:count], chosen[-count:]])
            return self._with_residuals(everything.values[chosen], everything.vectors[:, chosen])
        ends = [(0, count - 1), (self.size - count, self.size - 1)]
        # Of about unit size, as LAPACK multiplies entries with each other.
        diagonal, beside = self.diagonals()
        unit = float(max(np.max(np.abs(diagonal)), np.max(np.abs(beside)))) or 1.0
        diagonal, beside = diagonal / unit, beside / unit
        parts = [eigh_tridiagonal(diagonal, beside, select="i", select_range=end) for end in ends]
        return self._with_residuals(
            unit * np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts], axis=1),
        )

    def pairs(self) -> SmallPairs:
        """Return all pairs."""
        if self._tridiagonal:
            return self._with_residuals(*eigh_tridiagonal(*self.diagonals()))
        return self._with_residuals(*np.linalg.eigh(self.matrix))

    def restart(self, pairs: SmallPairs) -> HostArray:
        """Keep the span of some pairs, and return the coefficients of its new basis.

        It is turned so that T is banded and the next block coupled to its last vectors only, as if
        the recurrence had come there by itself: that keeps every later step as cheap.

        Parameters
        ----------
        pairs : SmallPairs
            What to keep.

        Returns
        -------
        numpy.ndarray, shape (size, p)
            The new basis vectors in the old ones, orthonormal.
        """
        width, before = self.coupling.shape
        coupling = self.coupling @ pairs.vectors[self.size - before :]
        # Those that are coupled last: the others are left as they are.
        order = np.argsort(np.linalg.norm(coupling, axis=0), kind="stable")
        turn, self._entries, coupling = _banded(pairs.values[order], coupling[:, order])
        kept: HostArray = pairs.vectors[:, order] @ turn
        self.lost, self.leak = self._lost_by(kept), self.leak @ kept
        rows = np.conjugate(kept.T)
        self._known = rows @ self._known
        self.coupling = coupling[:, max(0, len(turn) - width) :]
        self.size = len(turn)
        # What couples a single vector to a wider block may be complex.
        self._tridiagonal = width <= 1 and not np.any(np.imag(coupling))
        return kept

    def _with_residuals(self, values: HostArray, vectors: HostArray) -> SmallPairs:
        before = self.coupling.shape[1]
        coupled = np.linalg.norm(self.coupling @ vectors[self.size - before :], axis=0)
        leaked = np.linalg.norm(self.leak @ vectors, axis=0)
        return SmallPairs(values, np.hypot(coupled, leaked) + self._lost_by(vectors), vectors)

    def _lost_by(self, vectors: HostArray) -> HostArray:
        """Return bounds on the norms of E applied to some vectors."""
        return np.asarray(np.minimum(self.lost @ np.abs(vectors), self._lost_in_all))

    def diagonals(self) -> tuple[HostArray, HostArray]:
        """Return the diagonal and off-diagonal of a T that is tridiagonal."""
        # The coupling of single vectors is a norm, and so real.
        matrix = np.real(self.matrix)
        return np.diag(matrix).copy(), np.diag(matrix, -1).copy()

    def _make_room(self, size: int, dtype: np.dtype[np.generic]) -> None:
        kind = np.result_type(dtype, self._entries.dtype)
        room = len(self._entries)
        if size > room or kind != self._entries.dtype:
            wider = np.zeros((max(size, room + room // 2),) * 2, dtype=kind)
            wider[: self.size, : self.size] = self.matrix
            self._entries = wider


def _banded(values: HostArray, coupling: HostArray) -> tuple[HostArray, HostArray, HostArray]:
    """Turn a diagonal matrix so that it is banded and coupled at its end only.

    Householder reduction from the last row upwards, so that the vectors it is coupled to stay.

    Parameters
    ----------
    values : numpy.ndarray, shape (p,)
        The diagonal.
    coupling : numpy.ndarray, shape (w, p)
        Of the w vectors that follow.

    Returns
    -------
    turn : numpy.ndarray, shape (p, p)
        A unitary Y.
    matrix : numpy.ndarray, shape (p, p)
        ``Y^H diag(values) Y``, of bandwidth w.
    coupling : numpy.ndarray, shape (w, p)
        ``coupling Y``, zero but for the last w columns.
    """
    size, width = len(values), len(coupling)
    whole = np.zeros((size + width, size), dtype=np.result_type(coupling, np.float64))
    whole[:size], whole[size:] = np.diag(values), coupling
    turn = np.eye(size, dtype=whole.dtype)
    for row in range(size + width - 1, width if width else size, -1):
        end = row - width + 1
        reflector = np.conjugate(whole[row, :end])
        rest, last = np.linalg.norm(reflector[:-1]), reflector[-1]
        if rest == 0:
            continue
        phase = last / np.abs(last) if last != 0 else 1.0
        reflector[-1] = last + phase * np.hypot(rest, np.abs(last))
        reflector *= np.sqrt(2) / np.linalg.norm(reflector)
        for matrix in (whole, turn):
            matrix[:, :end] -= np.outer(matrix[:, :end] @ reflector, reflector.conj())
        whole[:end] -= np.outer(reflector, reflector.conj() @ whole[:end])
    # Outside of the band there is rounding.
    return turn, np.triu(np.tril(whole[:size], width), -width), whole[size:]

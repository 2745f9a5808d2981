"""The small matrix U^H A V of Golub-Kahan bidiagonalisation on the host: bidiagonal, also restarted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessops.arrays import HostArray

__all__ = ["Bidiagonal", "SmallTriplets"]

# Below this share of the largest, a singular value and its mirror image are no longer far apart: the
# eigenvectors of the tridiagonal form may mix them, by rounding over that share.
_APART = 1e-10


@dataclass(frozen=True)
class SmallTriplets:
    """Singular triplets of the small matrix: ascending values, coefficients in U and in V."""

    values: HostArray
    residual_norms: HostArray
    left: HostArray
    right: HostArray


class Bidiagonal:
    """The real upper bidiagonal B of ``A V = U (B + C) + E, A^H U = V (B + D)^H + β v e_j^T + F``.

    v is the next right vector, orthogonal to V. C and D are what inner products that vanish in exact
    arithmetic came out as; they are rounding, or what little was left out when a Krylov space was
    exhausted. Of E and F, which is what was left out and points elsewhere, column norms are known.

    Parameters
    ----------
    values : numpy.ndarray, shape (p,)
        B = diag(values) to begin with.
    lost : numpy.ndarray, shape (p,)
        The column norms of E and of F to begin with.
    """

    def __init__(self, values: HostArray, lost: HostArray) -> None:
        self.alphas = np.array(values, dtype=np.float64)
        self.betas = np.zeros(max(0, len(values) - 1))
        self.coupling = 0.0
        self.lost_left, self.lost_right = np.array(lost), np.array(lost)
        # Frobenius norms, which no rotation changes; sums of column norms grow with each.
        self._lost_in_all = np.full(2, np.linalg.norm(lost))
        self._stray_left: HostArray = np.zeros((len(values),) * 2)
        self._stray_right: HostArray = np.zeros((len(values),) * 2)

    @property
    def size(self) -> int:
        """Return the number of columns of V."""
        return len(self.alphas)

    @property
    def matrix(self) -> HostArray:
        """Return B."""
        return np.diag(self.alphas) + np.diag(self.betas, 1)

    def stray_left(self, inner: HostArray) -> HostArray:
        """Return what of U^H A v, v the next right vector, the recurrence does not have."""
        stray = np.array(inner)
        if self.size:
            stray[-1] -= self.coupling
        return stray

    def grow(
        self,
        left: tuple[HostArray, float, float],
        right: tuple[HostArray, float, float],
    ) -> None:
        """Add a vector to V and to U, given their products.

        Parameters
        ----------
        left : tuple
            Of A v: the inner products with the old U, the norm α of what is left, which is along the
            new u, and the norm of what was left out.
        right : tuple
            Of A^H u: the inner products with V, the new v included, the norm β of what is left, and the
            norm of what was left out.
        """
        inner, alpha, dropped = left
        size = self.size
        column = self.stray_left(inner)
        if size:
            self.betas = np.append(self.betas, self.coupling)
        self.alphas = np.append(self.alphas, alpha)
        row = np.conjugate(right[0])
        row[-1] -= alpha
        self._stray_left = _bordered(self._stray_left, column, np.zeros(size + 1))
        self._stray_right = _bordered(self._stray_right, np.zeros(size), row)
        self.coupling = right[1]
        self.lost_left = np.append(self.lost_left, dropped)
        self.lost_right = np.append(self.lost_right, right[2])
        self._lost_in_all = np.hypot(self._lost_in_all, [dropped, right[2]])

    def outermost(self, count: int, *, smallest: bool) -> SmallTriplets:
        """Return the `count` largest triplets; or as many of the smallest, and the largest.

        By the tridiagonal matrix [[0, B^T], [B, 0]] in the order v_1, u_1, v_2, u_2, ..., whose
        eigenvalues are the singular values and their mirror images (Golub & Kahan 1965).
        """
        size = self.size
        if size <= 2 * count + 1:
            return self._chosen(self.triplets(), count, smallest)
        diagonal, beside = np.zeros(2 * size), np.zeros(2 * size - 1)
        beside[0::2], beside[1::2] = self.alphas, self.betas
        last = 2 * size - 1
        ends = [(size, size + count - 1), (last, last)] if smallest else [(last - count + 1, last)]
        # Of about unit size, as LAPACK multiplies entries with each other.
        unit = float(np.max(beside)) or 1.0
        beside = beside / unit
        parts = [eigh_tridiagonal(diagonal, beside, select="i", select_range=end) for end in ends]
        values = unit * np.concatenate([part[0] for part in parts])
        if not values[0] > _APART * values[-1]:
            return self._chosen(self.triplets(), count, smallest)
        vectors = np.concatenate([part[1] for part in parts], axis=1)
        left, right = vectors[1::2], vectors[0::2]
        return self._with_residuals(
            values,
            left / np.linalg.norm(left, axis=0),
            right / np.linalg.norm(right, axis=0),
        )

    def triplets(self) -> SmallTriplets:
        """Return all triplets."""
        left, values, right = np.linalg.svd(self.matrix)
        return self._with_residuals(values[::-1], left[:, ::-1], right[::-1].T)

    def restart(self, kept: SmallTriplets) -> tuple[HostArray, HostArray]:
        """Keep the spans of some triplets, and return the coefficients of their new bases.

        They are turned so that B is bidiagonal and the next vector coupled to the last left one only,
        as if the recurrence had come there by itself: that keeps every later step as cheap.

        Parameters
        ----------
        kept : SmallTriplets
            What to keep.

        Returns
        -------
        tuple of two numpy.ndarray, shape (size, p)
            The new vectors of U and of V in the old ones, orthonormal.
        """
        spike = self.coupling * kept.left[-1]
        order = np.argsort(np.abs(spike), kind="stable")
        turns = _bidiagonalized(kept.values[order], spike[order])
        left, right = kept.left[:, order] @ turns[0], kept.right[:, order] @ turns[1]
        self.alphas, self.betas, self.coupling = turns[2:]
        lost = self._lost_by(left, right)
        self._stray_left, out_left = _turned(self._stray_left, left, right)
        stray, out_right = _turned(np.conjugate(self._stray_right.T), right, left)
        self._stray_right = np.conjugate(stray.T)
        self.lost_left, self.lost_right = lost[0] + out_left, lost[1] + out_right
        out = [np.linalg.norm(out_left), np.linalg.norm(out_right)]
        self._lost_in_all = np.hypot(self._lost_in_all, out)
        return left, right

    def _chosen(self, triplets: SmallTriplets, count: int, smallest: bool) -> SmallTriplets:
        size = len(triplets.values)
        chosen = np.arange(size)[-count:]
        if smallest:
            chosen = np.unique(np.append(np.arange(size)[:count], size - 1))
        return SmallTriplets(*(part[..., chosen] for part in vars(triplets).values()))

    def _with_residuals(
        self, values: HostArray, left: HostArray, right: HostArray
    ) -> SmallTriplets:
        lost = self._lost_by(left, right)
        first = np.linalg.norm(self._stray_left @ right, axis=0) + lost[0]
        inside = np.linalg.norm(np.conjugate(self._stray_right.T) @ left, axis=0)
        second = np.hypot(inside, self.coupling * left[-1]) + lost[1]
        return SmallTriplets(values, np.hypot(first, second), left, right)

    def _lost_by(self, left: HostArray, right: HostArray) -> tuple[HostArray, HostArray]:
        """Return bounds on the norms of E and F applied to some vectors."""
        return (
            np.minimum(self.lost_left @ np.abs(right), self._lost_in_all[0]),
            np.minimum(self.lost_right @ np.abs(left), self._lost_in_all[1]),
        )


def _bordered(matrix: HostArray, column: HostArray, row: HostArray) -> HostArray:
    wide = np.concatenate([matrix, column[:, None]], axis=1)
    return np.concatenate([wide, row[None, :]])


def _turned(stray: HostArray, rows: HostArray, columns: HostArray) -> tuple[HostArray, HostArray]:
    """Return a matrix in new bases, and the norms of the columns of what they do not hold."""
    image = stray @ columns
    inside = np.conjugate(rows.T) @ image
    return inside, np.linalg.norm(image - rows @ inside, axis=0)


def _bidiagonalized(
    values: HostArray, spike: HostArray
) -> tuple[HostArray, HostArray, HostArray, HostArray, float]:
    """Turn [diag(values) spike] so that it is upper bidiagonal: Householder reduction from its end.

    Parameters
    ----------
    values, spike : numpy.ndarray, shape (p,)
        Of the matrix of p rows and p + 1 columns.

    Returns
    -------
    left, right : numpy.ndarray, shape (p, p)
        Orthogonal X and Y, so that X^T diag(values) Y is upper bidiagonal.
    alphas, betas : numpy.ndarray, shape (p,), (p - 1,)
        Its diagonal and what is above.
    coupling : float
        The last entry of X^T spike; all others are zero.
    """
    size = len(values)
    work = np.concatenate([np.diag(values), spike[:, None]], axis=1)
    left, right = np.eye(size), np.eye(size)
    for row in reversed(range(size)):
        # What is in the column after the row goes to the row; what is in the row, to the diagonal.
        reflector = _reflector(work[: row + 1, row + 1])
        work[: row + 1] -= np.outer(reflector, reflector @ work[: row + 1])
        left[:, : row + 1] -= np.outer(left[:, : row + 1] @ reflector, reflector)
        reflector = _reflector(work[row, : row + 1])
        work[:, : row + 1] -= np.outer(work[:, : row + 1] @ reflector, reflector)
        right[:, : row + 1] -= np.outer(right[:, : row + 1] @ reflector, reflector)
    coupling = float(work[-1, -1])
    return left, right, np.diag(work).copy(), np.diag(work, 1)[:-1].copy(), coupling


def _reflector(vector: HostArray) -> HostArray:
    """Return w, of norm √2 or 0: I - w w^T takes the vector to a multiple of the last unit one."""
    rest = np.linalg.norm(vector[:-1])
    if rest == 0:
        return np.zeros_like(vector)
    reflector = np.array(vector)
    reflector[-1] += np.copysign(np.hypot(rest, vector[-1]), vector[-1])
    return np.asarray(reflector * (np.sqrt(2) / np.linalg.norm(reflector)))

"""Hypothesis strategies: matrices of every array library and dtype, and what they are compared by.

A `Place` is where a matrix lives: an array library and a dtype. Matrices are drawn on the host and
moved there, so that every test has its exact answer in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import array_api_strict
import numpy as np
from array_api_compat import numpy as numpy_namespace
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hessops import (
    ArraySpace,
    BlockDiagonal,
    Diagonal,
    FiniteSum,
    Identity,
    LinearOperator,
    LowRank,
    Projected,
    aslinearoperator,
)
from hessops.arrays import to_numpy

LIBRARIES: dict[str, ModuleType] = {"numpy": numpy_namespace, "strict": array_api_strict}
try:
    from array_api_compat import torch as torch_namespace
except ImportError:  # the core is tested without PyTorch, too
    pass
else:
    LIBRARIES["torch"] = torch_namespace

REAL = ("float64", "float32")
COMPLEX = ("complex128", "complex64")
DTYPES = REAL + COMPLEX


@dataclass(frozen=True)
class Place:
    """An array library and a dtype."""

    library: str
    dtype: str

    @property
    def xp(self) -> ModuleType:
        return LIBRARIES[self.library]

    @property
    def dtype_object(self) -> Any:
        return getattr(self.xp, self.dtype)

    @property
    def is_complex(self) -> bool:
        return self.dtype in COMPLEX

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps)

    def put(self, host: np.ndarray) -> Any:
        """Return a host array in this library and dtype."""
        return self.xp.asarray(np.array(host, dtype=self.dtype, order="C"))


PLACES = [Place(library, dtype) for library in LIBRARIES for dtype in DTYPES]


def places(dtypes: tuple[str, ...] = DTYPES) -> st.SearchStrategy[Place]:
    return st.sampled_from([place for place in PLACES if place.dtype in dtypes])


def sizes(largest: int = 6) -> st.SearchStrategy[int]:
    return st.integers(1, largest)


@st.composite
def blocks(draw, rows: int, columns: int, dtype: str = "float64") -> np.ndarray:
    """Normal numbers, which round; or eighths, among which zeros and ties are common."""
    if draw(st.booleans()):
        block = normal(draw(st.integers(0, 2**32 - 1)), (rows, columns), dtype)
    else:
        eighths = arrays(np.int64, (rows, columns), elements=st.integers(-32, 32))
        block = draw(eighths) / 8.0
        if dtype in COMPLEX:
            block = block + 1j * (draw(eighths) / 8.0)
    return block.astype(dtype)


@st.composite
def self_adjoint_matrices(draw, n: int, dtype: str = "float64") -> np.ndarray:
    B = draw(blocks(n, n, dtype))
    return hermitian_part(B)


@st.composite
def psd_matrices(draw, n: int, dtype: str = "float64") -> np.ndarray:
    """Positive semidefinite matrices of every rank from 0 to n."""
    B = draw(blocks(n, draw(st.integers(1, n)), dtype))
    return hermitian_part(B @ B.conj().T)


@st.composite
def orthonormal_blocks(draw, rows: int, columns: int, dtype: str = "float64") -> np.ndarray:
    return orthonormal(draw(st.integers(0, 2**32 - 1)), (rows, columns), dtype)


def normal(seed: int, shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    """Standard normal numbers, complex where the dtype is."""
    rng = np.random.default_rng(seed)
    block = rng.standard_normal(shape)
    if dtype in COMPLEX:
        block = (block + 1j * rng.standard_normal(shape)) / math.sqrt(2)
    return block.astype(dtype)


def orthonormal(seed: int, shape: tuple[int, int], dtype: str = "float64") -> np.ndarray:
    wide = "complex128" if dtype in COMPLEX else "float64"
    return np.linalg.qr(normal(seed, shape, wide))[0].astype(dtype)


def with_spectrum(eigenvalues: Any, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    """Return a dense self-adjoint matrix with the given eigenvalues (to rounding)."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    wide = "complex128" if dtype in COMPLEX else "float64"
    Q = orthonormal(seed, (len(values), len(values)), wide)
    return hermitian_part(Q * values @ Q.conj().T).astype(dtype)


def hermitian_part(B: np.ndarray) -> np.ndarray:
    return (B + B.conj().T) / 2


def norm(block: Any) -> float:
    """Return the Frobenius norm of an array of any library."""
    return float(np.linalg.norm(np.asarray(to_numpy(block), dtype=np.complex128)))


def assert_close(actual: Any, expected: np.ndarray, scale: float, roundings: float = 32) -> None:
    """Assert that two arrays differ by a few roundings per entry of a sum, relative to `scale`.

    `scale` is the product of the norms of what was multiplied; the precision is that of `actual`.
    """
    found = to_numpy(actual)
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    terms = max([*found.shape, 4])
    allowed = roundings * terms * float(np.finfo(found.dtype).eps) * scale
    deviation = norm(found.astype(np.complex128) - expected)
    assert deviation <= allowed, f"off by {deviation:.3g}, allowed {allowed:.3g}"


@dataclass(frozen=True)
class Known:
    """A square operator, its exact matrix, and a bound of the norms that rounding is relative to."""

    operator: LinearOperator
    matrix: np.ndarray
    size: float


Part = Callable[[], Known]


def known(operator: LinearOperator, matrix: np.ndarray) -> Known:
    return Known(operator, np.asarray(matrix, dtype=np.complex128), norm(matrix))


def space_at(place: Place, n: int) -> ArraySpace:
    return ArraySpace(n, place.dtype_object, place.xp)


_REAL_SCALARS = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.3, -1.7, 5.0])
_SCALARS = {False: _REAL_SCALARS, True: st.sampled_from([1j, -0.5j, 2.0 + 0j, 0.3 - 1.1j])}


def general_matrix(draw, place: Place, n: int) -> Known:
    A = draw(blocks(n, n, place.dtype))
    return known(aslinearoperator(place.put(A)), A)


def self_adjoint_matrix(draw, place: Place, n: int) -> Known:
    A = draw(self_adjoint_matrices(n, place.dtype))
    return known(aslinearoperator(place.put(A), self_adjoint=True), A)


def psd_matrix(draw, place: Place, n: int) -> Known:
    A = draw(psd_matrices(n, place.dtype))
    return known(aslinearoperator(place.put(A), positive_semidefinite=True), A)


def identity(draw, place: Place, n: int) -> Known:
    return known(Identity(space_at(place, n)), np.eye(n))


def diagonal(draw, place: Place, n: int) -> Known:
    values = draw(blocks(n, 1, place.dtype))[:, 0]
    return known(Diagonal(place.put(values)), np.diag(values))


def low_rank(draw, place: Place, n: int) -> Known:
    r = draw(sizes(3))
    U, C, V = (draw(blocks(*shape, place.dtype)) for shape in ((n, r), (r, r), (n, r)))
    operator = LowRank(place.put(U), place.put(C), place.put(V))
    return Known(operator, _wide(U) @ C @ V.conj().T, norm(U) * norm(C) * norm(V))


def function(draw, place: Place, n: int) -> Known:
    A = draw(blocks(n, n, place.dtype))
    moved, flipped = place.put(A), place.put(A.conj().T)
    operator = aslinearoperator(
        lambda X: moved @ X,
        shape=n,
        like=moved,
        adjoint_function=lambda X: flipped @ X,
        vectors_only=draw(st.booleans()),
    )
    return known(operator, A)


LEAVES = (
    general_matrix,
    self_adjoint_matrix,
    psd_matrix,
    identity,
    diagonal,
    low_rank,
    function,
)


def sum_of(draw, place: Place, part: Part) -> Known:
    parts = [part() for _ in range(draw(st.integers(2, 3)))]
    whole = parts[0].operator
    for other in parts[1:]:
        whole = whole + other.operator
    return Known(whole, sum(p.matrix for p in parts), sum(p.size for p in parts))


def difference(draw, place: Place, part: Part) -> Known:
    A, B = part(), part()
    return Known(A.operator - B.operator, A.matrix - B.matrix, A.size + B.size)


def negated(draw, place: Place, part: Part) -> Known:
    A = part()
    return Known(-A.operator, -A.matrix, A.size)


def scaled(draw, place: Place, part: Part) -> Known:
    A, c = part(), draw(_REAL_SCALARS)
    return Known(c * A.operator, c * A.matrix, abs(c) * A.size)


def complex_scaled(draw, place: Place, part: Part) -> Known:
    A, c = part(), draw(_SCALARS[True])
    return Known(A.operator * c, c * A.matrix, abs(c) * A.size)


def product_of(draw, place: Place, part: Part) -> Known:
    A, B = part(), part()
    return Known(A.operator @ B.operator, A.matrix @ B.matrix, A.size * B.size)


def congruence(draw, place: Place, part: Part) -> Known:
    A, M = part(), part()
    matrix = A.matrix.conj().T @ M.matrix @ A.matrix
    return Known(A.operator.H @ M.operator @ A.operator, matrix, A.size**2 * M.size)


def square_of(draw, place: Place, part: Part) -> Known:
    A = part()
    return Known(A.operator.H @ A.operator, A.matrix.conj().T @ A.matrix, A.size**2)


def adjoint_of(draw, place: Place, part: Part) -> Known:
    A = part()
    return Known(A.operator.H, A.matrix.conj().T, A.size)


def shifted(draw, place: Place, part: Part) -> Known:
    A, shift = part(), draw(_SCALARS[draw(st.booleans())])
    n = len(A.matrix)
    operator = A.operator - shift * Identity(A.operator.domain)
    return Known(operator, A.matrix - shift * np.eye(n), A.size + abs(shift) * n)


def projected(draw, place: Place, part: Part) -> Known:
    A = part()
    n = len(A.matrix)
    V = draw(orthonormal_blocks(n, draw(st.integers(0, n)), place.dtype))
    P = np.eye(n) - _wide(V) @ V.conj().T
    return Known(Projected(A.operator, place.put(V)), P @ A.matrix @ P, A.size)


def finite_sum(draw, place: Place, part: Part) -> Known:
    parts = [part() for _ in range(draw(st.integers(1, 3)))]
    weights = [draw(_REAL_SCALARS) for _ in parts]
    pairs = list(zip(weights, parts, strict=True))
    return Known(
        FiniteSum([p.operator for p in parts], weights),
        sum(w * p.matrix for w, p in pairs),
        sum(abs(w) * p.size for w, p in pairs),
    )


def block_diagonal(draw, place: Place, part: Part) -> Known:
    # Cut back to the size of its parts, so that trees stay square of one size.
    parts = [part() for _ in range(draw(st.integers(1, 3)))]
    whole = BlockDiagonal([p.operator for p in parts])
    size = sum(p.size for p in parts)
    n = len(parts[0].matrix)
    selection = np.kron(np.ones((len(parts), 1)), np.eye(n))
    S = aslinearoperator(place.put(selection))
    matrix = sum(p.matrix for p in parts)
    return Known(S.H @ whole @ S, matrix, len(parts) * n * size)


NODES = (
    sum_of,
    difference,
    negated,
    scaled,
    complex_scaled,
    product_of,
    congruence,
    square_of,
    adjoint_of,
    shifted,
    projected,
    finite_sum,
    block_diagonal,
)


@st.composite
def operators(draw, place: Place, n: int, depth: int = 2, root: Any = None) -> Known:
    """Trees of nodes over leaves, with `root` at the top where it is given."""
    if root in LEAVES or (root is None and (depth == 0 or draw(st.booleans()))):
        leaf = root or draw(st.sampled_from(LEAVES))
        return leaf(draw, place, n)
    node = root or draw(st.sampled_from(NODES))
    return node(draw, place, lambda: draw(operators(place, n, depth - 1)))


def _wide(block: np.ndarray) -> np.ndarray:
    return block.astype(np.complex128)

"""Ranks that multiply other blocks are told so, and get no sum that belongs to none of them."""

import array_api_strict
import numpy as np
import pytest
from doubles import run_on_ranks
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal

import hessops
from hessops.copies import number_of, require_alike

N = 30
DTYPES = ["float32", "float64", "complex64", "complex128"]


@given(
    n=st.sampled_from([1, 2, 30, 997, 998, 2500]),
    k=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 9),
)
def test_the_number_tells_blocks_apart_and_copies_not(n, k, dtype, seed):
    X = normal(seed, (n, k), dtype)
    number, eps = float(number_of(X)), float(np.finfo(dtype).eps)
    assert number == float(number_of(X.copy()))
    assert number == pytest.approx(float(number_of(np.asfortranarray(X))), abs=1e3 * eps)
    others = [normal(seed + 1, (n, k), dtype), 2 * X]
    if dtype[0] == "c":
        others.append(np.conj(X))
    for other in others:
        assert abs(float(number_of(other)) - number) > 1e-6


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e300])
def test_blocks_without_a_size(value):
    X = np.full((N, 2), value)
    assert float(number_of(X)) == 0.0


def test_it_is_plain_array_api():
    X = normal(0, (N, 3))
    found = number_of(array_api_strict.asarray(X))
    assert float(found) == pytest.approx(float(number_of(X)), rel=1e-12)


def test_numbers_that_are_alike():
    require_alike(np.array([3.0, 3.0 + 1e-9, 3.0]), 1e-8, "differs")
    with pytest.raises(ValueError, match="rank 2 of 3 differs"):
        require_alike(np.array([3.0, 3.0, 3.1]), 1e-8, "differs")


def blocks_of(rank, kind, dtype):
    X = normal(0, (N, 3), dtype)
    if rank != 1:
        return X
    nan = X.copy()
    nan[0, 0] = np.nan
    return {
        "other": normal(1, (N, 3), dtype),
        "longer": 2 * X,
        "one entry": X + 5 * (np.arange(N) == 7)[:, None].astype(dtype),
        "not finite": nan,
        "zero": 0 * X,
    }[kind]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["other", "longer", "one entry", "not finite", "zero"])
def test_another_block_on_one_rank_is_refused_on_all(kind, dtype):
    said = []

    def work(comm):
        A = hessops.data_parallel(np.eye(N, dtype=dtype), comm)
        with pytest.raises(ValueError, match="rank 1 of 3 multiplies another block than") as raised:
            A.apply(blocks_of(comm.rank, kind, dtype))
        said.append(str(raised.value))
        # And they go on together.
        return A.apply(normal(0, (N, 3), dtype))

    run_on_ranks(work, 3, timeout=5.0)
    assert len(set(said)) == 1


class Perturbed(hessops.LinearOperator):
    def __init__(self, operator, size):
        super().__init__(operator.domain, structure=operator.structure)
        self.operator, self.size = operator, size

    def _apply(self, X):
        return self.operator.apply(X) + self.size * np.sin(np.arange(N))[:, None] * X


@pytest.mark.parametrize("verb", [
    lambda A: hessops.eigsh(A, 2, rng=0),
    lambda A: hessops.lanczos(A, num_steps=6, rng=0),
    lambda A: hessops.cg(A, np.ones(N)),
    lambda A: hessops.spectral_norm(A, rng=0),
])  # fmt: skip
def test_another_operator_around_it_on_one_rank_is_refused_on_all(verb):
    def work(comm):
        A = hessops.data_parallel(np.diag(np.arange(1.0, 1.0 + N)), comm)
        # Multiples of it and of the identity would leave the Krylov space, and the answer, as it is.
        B = Perturbed(A, 0.1 * (comm.rank == 2))
        with pytest.raises(
            ValueError, match=r"rank 2 of 3 multiplies another block|its products are not"
        ):
            verb(B)
        return True

    assert run_on_ranks(work, 3, timeout=5.0) == [True] * 3


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_what_rounding_does_is_let_through(scale):
    def work(comm):
        A = hessops.data_parallel(np.eye(N), comm)
        X = scale * normal(0, (N, 3)) * (1 + 1e-9 * comm.rank)
        return np.all(np.isfinite(A.apply(X)))

    assert run_on_ranks(work, 2, timeout=5.0) == [True] * 2

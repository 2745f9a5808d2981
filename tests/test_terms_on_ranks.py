"""A fresh probe for every term, wherever the terms are: the answer of one process, on every rank."""

from functools import partial

import numpy as np
import pytest
from doubles import DealtSum, ThreadComm, run_on_ranks
from hypothesis import given
from hypothesis import strategies as st
from strategies import norm, normal, with_spectrum

import hessops
from hessops import FiniteSum, Identity, LinearOperator, aslinearoperator, data_parallel
from hessops.structure import SELF_ADJOINT

N, TERMS = 14, 5
RTOL = 1e-12
SAMPLES = [3.0, 1.0, 4.0, 1.0, 5.0]
# Uneven, out of order, and ranks without any.
DEALS = {1: [0] * 5, 2: [0, 1, 1, 0, 1], 3: [2, 2, 0, 0, 2], 4: [1, 3, 3, 3, 1]}

every_deal = pytest.mark.parametrize("size", DEALS)
every_kind = pytest.mark.parametrize("dtype", ["float64", "complex128"])


def matrices_of(dtype, seed=0):
    return [with_spectrum(normal(seed + i, (N,)), seed + i, dtype) for i in range(TERMS)]


def serial_sum(matrices):
    parts = [aslinearoperator(matrix, self_adjoint=True) for matrix in matrices]
    for part, count in zip(parts, SAMPLES, strict=True):
        part.num_samples = count
    return FiniteSum(parts)


def dealt(matrices, comm, size):
    return DealtSum(matrices, comm, DEALS[size], SELF_ADJOINT, SAMPLES)


def on_ranks(verb, matrices, size, around=lambda A: A):
    """Run a verb on every rank of the dealt out sum, and once on the whole."""
    serial = verb(around(serial_sum(matrices)))
    return serial, run_on_ranks(lambda comm: verb(around(dealt(matrices, comm, size))), size)


def shifted(A):
    """Scale, deflate and shift a sum: its terms keep their holders, and every rank has the shift."""
    V = np.linalg.qr(normal(7, (N, 2)))[0]
    return 2 * hessops.Projected(A, V) - 0.5 * Identity(A.domain)


@every_deal
@every_kind
@pytest.mark.parametrize("around", [lambda A: A, shifted], ids=["plain", "shifted"])
def test_trace_to_the_last_bit(size, dtype, around):
    verb = partial(hessops.trace, num_probes=6, block_size=4, rng=3)
    serial, results = on_ranks(verb, matrices_of(dtype), size, around)
    assert serial.num_terms == TERMS + (around is shifted)
    for result in results:
        # Sums with zeros round nothing.
        assert result.value == serial.value
        assert result.standard_error == serial.standard_error
        assert result.interval == serial.interval
        assert result.term_scatter == serial.term_scatter
        assert (result.num_products, result.num_terms) == (serial.num_products, serial.num_terms)


@every_deal
@every_kind
@pytest.mark.parametrize("around", [lambda A: A, shifted], ids=["plain", "shifted"])
def test_diagonal(size, dtype, around):
    verb = partial(hessops.diagonal, num_probes=6, block_size=4, rng=3)
    serial, results = on_ranks(verb, matrices_of(dtype), size, around)
    for result in results:
        assert norm(result.values - serial.values) <= RTOL * norm(serial.values)
        assert result.standard_errors == pytest.approx(serial.standard_errors, rel=RTOL)
        assert result.norm_error == pytest.approx(serial.norm_error, rel=RTOL)
        assert result.num_products == serial.num_products


@every_deal
@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_errors_of_a_diagonal_whose_squares_leave_the_range_of_numbers(size, scale):
    matrices = [scale * matrix for matrix in matrices_of("float64")]
    verb = partial(hessops.diagonal, method="hutchinson", num_probes=4, rng=3)
    try:
        serial = verb(serial_sum(matrices))
    except (ValueError, hessops.NonFiniteError):
        pytest.skip("refused by one process, too")
    for result in run_on_ranks(lambda comm: verb(dealt(matrices, comm, size)), size):
        assert result.standard_errors == pytest.approx(serial.standard_errors, rel=RTOL)


@every_deal
@pytest.mark.parametrize("method", ["auto", "hutchpp"])
def test_a_budget_is_spent_alike(size, method):
    matrices = [5.0 * np.outer(v, v) for v in normal(2, (TERMS, N))]
    verb = partial(hessops.trace, method=method, max_products=24, rng=3)
    serial, results = on_ranks(verb, matrices, size)
    for result in results:
        assert (result.method, result.reason) == (serial.method, serial.reason)
        assert result.value == pytest.approx(serial.value, rel=RTOL)
        assert result.num_products == serial.num_products


@every_deal
@pytest.mark.parametrize("verb", [hessops.trace, hessops.diagonal])
def test_a_control_with_the_same_terms(size, verb):
    near = matrices_of("float64")
    far = [matrix + 0.1 * with_spectrum(normal(9 + i, (N,)), i) for i, matrix in enumerate(near)]

    def run(A, B):
        return verb(A, control=(B, None), max_products=40, stratify=True, rng=3)

    serial = run(serial_sum(far), serial_sum(near))
    results = run_on_ranks(lambda comm: run(dealt(far, comm, size), dealt(near, comm, size)), size)
    name = "value" if verb is hessops.trace else "values"
    for result in results:
        expected = np.asarray(getattr(serial, name))
        assert norm(getattr(result, name) - expected) <= RTOL * norm(expected)
        assert result.num_products == serial.num_products


def test_a_control_dealt_out_otherwise_is_refused():
    matrices = matrices_of("float64")

    def work(comm):
        A = dealt(matrices, comm, 2)
        B = DealtSum(matrices, comm, DEALS[2][::-1], SELF_ADJOINT)
        return hessops.trace(A, control=(B, None), max_products=10, stratify=True, rng=0)

    with pytest.raises(ValueError, match="dealt their terms out to ranks otherwise"):
        run_on_ranks(work, 2)


@given(holders=st.lists(st.integers(0, 2), min_size=TERMS, max_size=TERMS), seed=st.integers(0, 99))
def test_any_deal_has_the_same_trace(holders, seed):
    matrices = matrices_of("float64", seed)
    serial = hessops.trace(serial_sum(matrices), num_probes=3, rng=seed)

    def work(comm):
        A = DealtSum(matrices, comm, holders, SELF_ADJOINT, SAMPLES)
        return hessops.trace(A, num_probes=3, rng=seed)

    for result in run_on_ranks(work, 3):
        assert result.value == serial.value


# Errors with single terms.


class Broken(LinearOperator):
    """A term that nobody can multiply with."""

    def _apply(self, X):
        raise MemoryError("no room for this term")


class Unreadable(FiniteSum):
    """A sum whose second term cannot be read after the first pass."""

    passes = 0

    def terms(self):
        self.passes += 1
        for index, term in enumerate(super().terms()):
            if index == 1 and self.passes > 1:
                raise OSError("no room for this term")
            yield term


VERBS = {
    "trace": partial(hessops.trace, num_probes=4),
    "trace, pilot": partial(hessops.trace, max_products=13),
    "trace, control": lambda A, rng: hessops.trace(
        A, control=(A, None), max_products=40, stratify=True, rng=rng
    ),
    "diagonal": partial(hessops.diagonal, num_probes=4),
    "diagonal, control": lambda A, rng: hessops.diagonal(
        A, control=(A, None), max_products=40, stratify=True, rng=rng
    ),
}
AROUND = {
    "plain": lambda A, good: A,
    "shifted": lambda A, good: shifted(A),
    # The terms of the second part begin with a collective.
    "with another": lambda A, good: FiniteSum([A, good]),
}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", ["broken", "unreadable"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_error_with_a_term_of_one_rank_is_told_to_all(verb, kind, around, size):
    said = []

    def work(comm):
        own = [
            aslinearoperator(matrix, self_adjoint=True)
            for matrix in matrices_of("float64", comm.rank)[:3]
        ]
        good = data_parallel(FiniteSum(own), comm)
        expected = hessops.trace(good, num_probes=2, rng=0).value
        part = FiniteSum(own)
        if comm.rank == 1:
            broken = [own[0], Broken(own[0].domain, structure=SELF_ADJOINT), own[2]]
            part = FiniteSum(broken) if kind == "broken" else Unreadable(own)
        A = AROUND[around](data_parallel(part, comm), data_parallel(FiniteSum(own), comm))
        for _ in range(2):
            with pytest.raises(
                (MemoryError, OSError, RuntimeError), match="no room for this term"
            ) as raised:
                VERBS[verb](A, rng=0)
            said.append((comm.rank, str(raised.value)))
        # And they go on together.
        assert hessops.trace(good, num_probes=2, rng=0).value == expected

    run_on_ranks(work, size, timeout=10.0)
    assert len(said) == 2 * size
    for rank, text in said:
        assert text.startswith(f"rank 1 of {size}: ") is (rank != 1)


def test_an_error_with_a_term_that_all_ranks_have_comes_to_all():
    def work(comm):
        A = dealt(matrices_of("float64"), comm, 2)
        with pytest.raises(MemoryError, match="no room for this term"):
            hessops.trace(FiniteSum([A, Broken(A.domain, structure=SELF_ADJOINT)]), num_probes=2)
        return hessops.trace(A, num_probes=2, rng=0).value

    first, second = run_on_ranks(work, 2, timeout=10.0)
    assert first == second


@every_deal
def test_products_of_sums_of_dealt_out_sums(size):
    matrices = matrices_of("float64")
    X = normal(4, (N, 2))
    whole = 0.5 * sum(matrices) + np.eye(N)

    def work(comm: ThreadComm):
        A = dealt(matrices, comm, size)
        return FiniteSum([A, Identity(A.domain)], [0.5, 1.0]).apply(X)

    for product in run_on_ranks(work, size):
        assert norm(product - whole @ X) <= RTOL * norm(whole @ X)

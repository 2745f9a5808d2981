"""Ranks go the same way whatever each of them rounds: rank 0 decides, and its seed counts.

A double whose sums differ from rank to rank stands for a library that does not promise the same bits,
and for processors that make different bits of them. It also stops any run in which ranks meet in
different collectives.
"""

import dataclasses
import re
from functools import partial

import numpy as np
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from strategies import norm, normal, with_spectrum

import hessops
from hessops import ArraySpace, LinearOperator
from hessops.agreement import agreed_seed, to_host
from hessops.blocks.tall_qr import extended_qr
from hessops.random import Stream
from hessops.structure import POSITIVE_SEMIDEFINITE, SELF_ADJOINT

N = 24
SPLIT = splits(N)[2]
SIZE = len(SPLIT)
# A rounding: more would show operators and vectors not to be what they are said to be.
NOISE = 3e-16

INDEFINITE = with_spectrum(np.concatenate([[-9.0, 9.0, 5.0], np.linspace(-2.0, 2.0, N - 3)]), 0)
DEFINITE = with_spectrum(0.7 ** np.arange(N), 1)
# Of rank 6 and with multiple eigenvalues: much of what steers is nothing but rounding.
SINGULAR = with_spectrum([4.0, 4.0, 1.0, 1.0, 1.0, 0.25] + [0.0] * (N - 6), 2)


def right_hand_sides(matrix, A, columns):
    B = matrix @ normal(5, (len(matrix), columns))
    return B[slice(*A.domain.rows)]


def solve(verb, matrix, A, **options):
    return getattr(hessops, verb)(A, right_hand_sides(matrix, A, 3), **options)


VERBS = {
    "lanczos": (hessops.lanczos, {"num_steps": N}),
    "lanczos, short": (hessops.lanczos, {"num_steps": N, "reorthogonalize": False}),
    "eigsh": (hessops.eigsh, {"k": 3}),
    "eigsh BE": (hessops.eigsh, {"k": 4, "which": "BE"}),
    "power": (hessops.power_iteration, {"num_eigenpairs": 2, "max_steps": 60}),
    "power, deflated": (
        hessops.power_iteration,
        {"num_eigenpairs": 3, "method": "deflated", "max_steps": 60},
    ),
    "spectral_density": (hessops.spectral_density, {"num_probes": 3, "num_steps": N}),
    "randomized_svd": (hessops.randomized_svd, {"k": 8}),
    "randomized_svd, tol": (hessops.randomized_svd, {"tol": 1e-6}),
    "randomized_eigh": (hessops.randomized_eigh, {"k": 8}),
    "randomized_eigh, tol": (hessops.randomized_eigh, {"tol": 1e-6}),
    "spectral_norm": (hessops.spectral_norm, {}),
    "frobenius_norm": (hessops.frobenius_norm, {"num_probes": 8}),
    "eigenvalue_count": (hessops.eigenvalue_count, {"interval": (0.5, 3.0)}),
    "numerical_rank": (hessops.numerical_rank, {"tol": 0.1}),
    "trace_function": (hessops.trace_function, {"f": "exp", "num_probes": 4}),
}
OF_SEMIDEFINITE = {
    "nystrom": (hessops.nystrom, {"rank": 8}),
    "nystrom, tol": (hessops.nystrom, {"tol": 1e-6}),
    "nuclear_norm": (hessops.nuclear_norm, {"num_probes": 8}),
    "effective_dimension": (hessops.effective_dimension, {"shift": 0.1, "num_probes": 8}),
    "schatten_norm": (hessops.schatten_norm, {"p": 3, "num_probes": 8}),
}
SOLVES = {
    "cg": ("cg", DEFINITE),
    "minres": ("minres", INDEFINITE),
    "minres, singular": ("minres", SINGULAR),
}


def on_noisy_ranks(verb, matrix, structure):
    def work(comm):
        return verb(ShardedMatrix(matrix, comm, SPLIT[comm.rank], structure))

    return run_on_ranks(work, SIZE, timeout=5.0, noise=NOISE)


def assert_went_the_same_way(results):
    """Hold every number on the host against rank 0's, to the last bit: any of them may steer."""
    first = results[0]
    for result in results[1:]:
        for column in ("step", "num_products", "estimate", "error"):
            mine, other = first.history[column], result.history[column]
            assert np.array_equal(mine, other, equal_nan=True), column
        for field in dataclasses.fields(first):
            mine, other = (getattr(one, field.name) for one in (first, result))
            if field.metadata.get("long"):
                assert np.shape(mine)[1:] == np.shape(other)[1:], field.name
            elif field.name not in {"seconds", "history"}:
                with np.printoptions(precision=17, threshold=10**6):
                    assert repr(mine) == repr(other), field.name


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("matrix", [INDEFINITE, SINGULAR], ids=["indefinite", "singular"])
@pytest.mark.parametrize("name", VERBS)
def test_ranks_that_round_differently_stay_together(name, matrix):
    verb, options = VERBS[name]
    work = partial(verb, **options, rng=0)
    assert_went_the_same_way(on_noisy_ranks(work, matrix, SELF_ADJOINT))


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("matrix", [DEFINITE, SINGULAR], ids=["definite", "singular"])
@pytest.mark.parametrize("name", OF_SEMIDEFINITE)
def test_so_they_do_for_semidefinite_operators(name, matrix):
    verb, options = OF_SEMIDEFINITE[name]
    work = partial(verb, **options, rng=0)
    assert_went_the_same_way(on_noisy_ranks(work, matrix, POSITIVE_SEMIDEFINITE))


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("name", SOLVES)
@pytest.mark.parametrize("tol", [1e-8, 1e-14])
def test_so_do_solvers(name, tol):
    verb, matrix = SOLVES[name]
    structure = POSITIVE_SEMIDEFINITE if matrix is DEFINITE else SELF_ADJOINT
    results = on_noisy_ranks(
        partial(solve, verb, matrix, tol=tol, max_steps=100), matrix, structure
    )
    assert_went_the_same_way(results)


@pytest.mark.parametrize("name", ["dependent", "full"])
def test_a_tall_qr_is_the_same_on_all_ranks(name):
    Y = SINGULAR[:, :10] if name == "dependent" else normal(3, (N, 10))

    def work(comm):
        rows = SPLIT[comm.rank]
        space = ArraySpace(N, comm=comm, rows=rows)
        Q, _ = extended_qr(space, None, Y[slice(*rows), :4], Stream(0))
        return extended_qr(space, Q, Y[slice(*rows), 4:], Stream(1))

    results = run_on_ranks(work, SIZE, timeout=5.0, noise=NOISE)
    assert len({factors.tobytes() for _, factors in results}) == 1
    Q = gathered([basis for basis, _ in results])
    assert norm(Q.T @ Q - np.eye(10)) < 1e-13
    assert norm(Q @ results[0][1] - Y[:, 4:]) < 1e-13 * norm(Y)


def test_what_comes_to_the_host_is_rank_0s():
    def work(comm):
        return to_host(ArraySpace(3, comm=comm), np.array([comm.rank + 1.0]))

    assert run_on_ranks(work, SIZE) == [1.0] * SIZE


# Seeds.


def seeds(rng_of_rank, dtype="float64"):
    def work(comm):
        return agreed_seed(ArraySpace(6, np.dtype(dtype), comm=comm), rng_of_rank(comm.rank))

    return run_on_ranks(work, SIZE, timeout=5.0)


def test_fresh_entropy_is_that_of_rank_0():
    first, second = seeds(lambda _: None), seeds(lambda _: None)
    assert len(set(first)) == len(set(second)) == 1
    assert first != second


def test_a_generator_counts_as_it_stands_on_rank_0():
    def advanced(rank):
        generator = np.random.default_rng(5)
        generator.random(rank)
        return generator

    expected = int(np.random.default_rng(5).integers(2**63))
    assert seeds(advanced) == [expected] * SIZE


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_the_same_integer_is_the_seed(dtype):
    assert seeds(lambda _: 7, dtype) == [7] * SIZE


@pytest.mark.parametrize("rng_of_rank", [lambda rank: 7 + rank, lambda rank: rank or None])
def test_another_integer_is_refused_on_every_rank(rng_of_rank):
    messages = []

    def work(comm):
        try:
            agreed_seed(ArraySpace(6, comm=comm), rng_of_rank(comm.rank))
        except ValueError as error:
            messages.append(str(error))

    run_on_ranks(work, SIZE, timeout=5.0)
    assert len(messages) == SIZE
    assert all(f"{SIZE - 1} of {SIZE} ranks were given another one" in text for text in messages)


@pytest.mark.parametrize("rng", [None, "generator"])
def test_a_verb_without_a_seed_gives_one_answer(rng):
    def work(comm):
        A = ShardedMatrix(DEFINITE, comm, SPLIT[comm.rank], SELF_ADJOINT)
        given = None if rng is None else np.random.default_rng(comm.rank)
        return hessops.spectral_norm(A, rng=given)

    results = run_on_ranks(work, SIZE, timeout=5.0)
    assert len({(result.value, result.seed) for result in results}) == 1
    assert results[0].value == pytest.approx(1.0, rel=0.01)


# Functions of a matrix.


FUNCTIONS = {
    "lambdas": lambda rank: (lambda x: np.exp(-x)) if rank else (lambda x: np.exp(2 * x)),
    "names": lambda rank: "sqrt" if rank else "abs",
    "powers": lambda rank: hessops.spectral_function.power(0.5 + rank),
    "constants": lambda rank: lambda x: np.exp(x) * (1 + 1e-6 * rank),
    "signs": lambda rank: hessops.spectral_function.SpectralFunction("e", np.exp, 1, rank or None),
}


def functions_of(verb, A, f):
    if verb == "trace_function":
        return hessops.trace_function(A, f, num_probes=2, num_steps=4, rng=0)
    return hessops.matrix_function(A, f, A.domain.unit_vectors(0, 1), max_steps=4)


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("verb", ["trace_function", "matrix_function"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_functions_on_another_rank_are_refused_on_all(verb, name):
    said = []

    def work(comm):
        A = ShardedMatrix(DEFINITE, comm, SPLIT[comm.rank], POSITIVE_SEMIDEFINITE)
        with pytest.raises(ValueError, match=r"f(\(.*\))? is .* on rank 2 and") as raised:
            functions_of(verb, A, FUNCTIONS[name](int(comm.rank == 2)))
        said.append(raised.value)
        functions_of(verb, A, FUNCTIONS[name](1))

    run_on_ranks(work, SIZE, timeout=5.0)
    assert len(said) == SIZE


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
def test_the_same_function_need_not_be_defined_everywhere_nor_be_quiet():
    def picky(x):
        if np.any(x < -2):
            raise ArithmeticError("too low")
        return np.log(x + 2)

    def work(comm):
        A = ShardedMatrix(DEFINITE, comm, SPLIT[comm.rank], POSITIVE_SEMIDEFINITE)
        return functions_of("trace_function", A, picky).value

    assert len(set(run_on_ranks(work, SIZE, timeout=5.0))) == 1


@pytest.mark.parametrize("names", [("logdet", "trace_inverse"), ("trace", "spectral_density")])
def test_calls_that_differ_have_public_names(names):
    verbs = {
        "logdet": hessops.logdet,
        "trace_inverse": hessops.trace_inverse,
        "trace": hessops.trace,
        "spectral_density": hessops.spectral_density,
    }

    def work(comm):
        A = ShardedMatrix(DEFINITE, comm, SPLIT[comm.rank], POSITIVE_SEMIDEFINITE)
        verb = verbs[names[comm.rank == 1]]
        with pytest.raises(ValueError, match=r"the call is [a-z]") as raised:
            verb(A, num_probes=2, rng=0)
        assert names[0] in str(raised.value)

    run_on_ranks(work, SIZE, timeout=5.0)


# Vectors of which every rank holds a copy.


GIVEN = {
    "eigsh": lambda A, x: hessops.eigsh(A, 2, start=x, rng=0),
    "lanczos": lambda A, x: hessops.lanczos(A, num_steps=3, start=x, rng=0),
    "svds": lambda A, x: hessops.svds(A, 2, start=x, rng=0),
    "power_iteration": lambda A, x: hessops.power_iteration(
        A, num_eigenpairs=2, start=x[:, None], rng=0, max_steps=1000, tol=1e-3
    ),
    "lobpcg": lambda A, x: hessops.lobpcg(A, 2, start=x[:, None], rng=0),
    "cg": hessops.cg,
    "cg, x0": lambda A, x: hessops.cg(A, np.ones(N), x0=x),
    "minres": hessops.minres,
    "matrix_function": lambda A, x: hessops.matrix_function(A, "sqrt", x),
    "trace": lambda A, x: hessops.trace(
        A, deflate=x[:, None] / norm(x), num_probes=4, stratify=False, rng=0
    ),
}


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("verb", GIVEN)
def test_other_vectors_on_another_rank_are_refused_on_all(verb):
    said = []

    def work(comm):
        A = hessops.data_parallel(
            hessops.aslinearoperator(DEFINITE / comm.size, positive_semidefinite=True), comm
        )
        x = np.linspace(1.0, 2.0, N)
        GIVEN[verb](A, x)
        try:
            GIVEN[verb](A, x + 0.1 * (comm.rank == 1) * np.arange(N))
        except ValueError as error:
            said.append(str(error))

    run_on_ranks(work, SIZE, timeout=5.0)
    assert len(said) == SIZE
    assert all(
        re.match("rank 1 of 3 has another (start|B|x0|v|deflate) than", text) for text in said
    )


@pytest.mark.parametrize("split", [False, True])
def test_another_number_of_columns_is_refused_on_all(split):
    said = []

    def work(comm):
        A = hessops.data_parallel(DEFINITE / comm.size, comm)
        if split:
            A = ShardedMatrix(DEFINITE, comm, SPLIT[comm.rank], POSITIVE_SEMIDEFINITE)
        with pytest.raises(ValueError, match="the number of columns of B is") as raised:
            hessops.cg(A, np.ones((A.domain.local_dim, 2 + (comm.rank == 2))))
        said.append(raised.value)

    run_on_ranks(work, SIZE, timeout=5.0)
    assert len(said) == SIZE


class SharesOfASum(LinearOperator):
    """A sum of which every rank has some terms, on vectors that all of them hold."""

    def __init__(self, parts, comm):
        space = ArraySpace(len(parts[0]), comm=comm)
        super().__init__(space, structure=SELF_ADJOINT)
        self.share = sum(parts[comm.rank :: comm.size], np.zeros_like(parts[0]))

    def _apply(self, X):
        return self.domain.comm.all_reduce(self.share @ X)


@pytest.mark.parametrize("verb", [
    partial(hessops.eigsh, k=3), partial(hessops.trace, num_probes=6), hessops.spectral_density,
    partial(hessops.randomized_svd, k=4), hessops.spectral_norm, hessops.check_operator,
])  # fmt: skip
def test_operators_whose_data_are_split_work_on_copies(verb):
    # Without the tie ±9, whose order in the results is rounding's.
    matrix = with_spectrum(np.linspace(-2.0, 9.0, N) ** 2, 3)
    parts = [matrix / 8, matrix / 4, matrix / 8, matrix / 2]
    serial = verb(hessops.aslinearoperator(matrix, self_adjoint=True), rng=1)
    results = run_on_ranks(lambda comm: verb(SharesOfASum(parts, comm), rng=1), SIZE, timeout=5.0)
    for result in results:
        if hasattr(result, "passed"):
            assert result.passed
            continue
        assert result.num_products == serial.num_products
        for name in ("value", "eigenvalues", "S", "interval"):
            if hasattr(serial, name):
                found, expected = np.array(getattr(result, name)), np.array(getattr(serial, name))
                assert norm(found - expected) <= 1e-12 * norm(expected)


def test_copies_do_not_fit_rows():
    def work(comm):
        copies, rows = ArraySpace(6, comm=comm), ArraySpace(6, comm=comm, rows=(0, 6))
        return copies.compatible_with(rows), copies.compatible_with(ArraySpace(6, comm=comm))

    assert run_on_ranks(work, 2) == [(False, True)] * 2
    assert ArraySpace(6).compatible_with(ArraySpace(6, rows=(0, 6)))

"""Ranks go the same way whatever each of them rounds: rank 0 decides, and its seed counts.

A double whose sums differ from rank to rank stands for a library that does not promise the same bits,
and for processors that make different bits of them. It also stops any run in which ranks meet in
different collectives.
"""

import dataclasses
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

"""Ranks go the same way whatever each of them rounds: rank 0 decides, and its seed counts.

A double whose sums differ from rank to rank stands for a library that does not promise the same bits,
and for processors that make different bits of them. It also stops any run in which ranks meet in
different collectives.
"""

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
# Far above rounding, so that any decision that a rank takes by itself soon differs.
NOISE = [2e-16, 1e-12]

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
    "trace": (hessops.trace, {"num_probes": 8}),
    "diagonal": (hessops.diagonal, {"num_probes": 8}),
    "trace_function": (hessops.trace_function, {"f": "exp", "num_probes": 4}),
    "check_operator": (hessops.check_operator, {}),
}
OF_SEMIDEFINITE = {
    "nystrom": (hessops.nystrom, {"rank": 8}),
    "nystrom, tol": (hessops.nystrom, {"tol": 1e-6}),
    "nuclear_norm": (hessops.nuclear_norm, {"num_probes": 8}),
    "effective_dimension": (hessops.effective_dimension, {"shift": 0.1, "num_probes": 8}),
    "schatten_norm": (hessops.schatten_norm, {"p": 3, "num_probes": 8}),
}
SOLVES = {
    "cg": ("conjugate_gradient", DEFINITE),
    "minres": ("minres", INDEFINITE),
    "minres, singular": ("minres", SINGULAR),
}


def on_noisy_ranks(verb, matrix, noise, structure):
    def work(comm):
        return verb(ShardedMatrix(matrix, comm, SPLIT[comm.rank], structure))

    return run_on_ranks(work, SIZE, noise=noise)


def assert_went_the_same_way(results):
    if hasattr(results[0], "checks"):
        verdicts = [[check.passed for check in report.checks] for report in results]
        assert verdicts[1:] == verdicts[:-1]
        return
    first = results[0]
    for result in results[1:]:
        assert result.num_products == first.num_products
        assert result.history["step"].tolist() == first.history["step"].tolist()
        assert (result.converged, result.seed) == (first.converged, first.seed)
        assert result.status == first.status
        for name, value in vars(first).items():
            if isinstance(value, np.ndarray | float) and name != "seconds":
                found = getattr(result, name)
                assert np.shape(found)[-1:] == np.shape(value)[-1:], name


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("matrix", [INDEFINITE, SINGULAR], ids=["indefinite", "singular"])
@pytest.mark.parametrize("name", VERBS)
def test_ranks_that_round_differently_stay_together(name, matrix, noise):
    verb, options = VERBS[name]
    for seed in range(3):
        work = partial(verb, **options, rng=seed)
        assert_went_the_same_way(on_noisy_ranks(work, matrix, noise, SELF_ADJOINT))


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("matrix", [DEFINITE, SINGULAR], ids=["definite", "singular"])
@pytest.mark.parametrize("name", OF_SEMIDEFINITE)
def test_so_they_do_for_semidefinite_operators(name, matrix, noise):
    verb, options = OF_SEMIDEFINITE[name]
    for seed in range(3):
        work = partial(verb, **options, rng=seed)
        assert_went_the_same_way(on_noisy_ranks(work, matrix, noise, POSITIVE_SEMIDEFINITE))


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("name", SOLVES)
@pytest.mark.parametrize("tol", [1e-8, 1e-14])
def test_so_do_solvers(name, noise, tol):
    verb, matrix = SOLVES[name]
    structure = POSITIVE_SEMIDEFINITE if matrix is DEFINITE else SELF_ADJOINT
    results = on_noisy_ranks(partial(solve, verb, matrix, tol=tol), matrix, noise, structure)
    assert_went_the_same_way(results)
    assert len({tuple(result.endings) for result in results}) == 1

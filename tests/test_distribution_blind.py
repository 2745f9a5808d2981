"""T26: every verb gives the serial answer when its vectors are split over ranks.

The ranks are threads. Their reductions add in another order than one process does, so answers agree
to rounding: 1e-12 relative, in double precision.
"""

import threading
from functools import partial

import numpy as np
import pytest
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given
from strategies import norm, normal, psd_matrices, with_spectrum

import hessops
from hessops import ArraySpace, FiniteSum, NotSelfAdjointError, Projected, aslinearoperator
from hessops.arrays import to_numpy
from hessops.operators.elementary import MatrixOperator
from hessops.structure import GENERAL, POSITIVE_SEMIDEFINITE, SELF_ADJOINT

N = 37
RTOL = 1e-12
SPECTRUM = np.concatenate([[-12.0, 9.0, 5.0], np.linspace(-2.0, 2.0, N - 3)])
SECTIONS = {"a": (0, 5), "b": (5, 20), "c": (20, N)}
MATRICES = {
    "real": with_spectrum(SPECTRUM, 0),
    "complex": with_spectrum(SPECTRUM, 1, "complex128"),
}

every_split = pytest.mark.parametrize("split", splits(N), ids=str)
every_matrix = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)


def whole_operator(matrix, structure=SELF_ADJOINT):
    space = ArraySpace(len(matrix), matrix.dtype, sections=SECTIONS)
    adjoint = matrix.conj().T
    return MatrixOperator(matrix, space, space, adjoint_matrix=adjoint, structure=structure)


def on_ranks(verb, matrix, split, structure=SELF_ADJOINT):
    """Run a verb on every rank of the split matrix, and once on the whole."""

    def work(comm):
        return verb(ShardedMatrix(matrix, comm, split[comm.rank], structure, SECTIONS))

    return verb(whole_operator(matrix, structure)), run_on_ranks(work, len(split))


def assert_near(found, expected, scale=None):
    size = norm(expected) if scale is None else scale
    assert np.shape(found) == np.shape(expected)
    assert norm(np.asarray(found) - np.asarray(expected)) <= RTOL * size


def assert_same_run(serial, results):
    """The same steps, the same cost, the same words, on every rank."""
    for result in results:
        assert result.num_products == serial.num_products
        assert result.history["step"].tolist() == serial.history["step"].tolist()
        assert (result.converged, result.seed) == (serial.converged, serial.seed)
        assert result.status == serial.status


def assert_same_pairs(serial, results):
    assert_same_run(serial, results)
    scale = np.max(np.abs(SPECTRUM))
    for result in results:
        assert_near(result.eigenvalues, serial.eigenvalues)
        assert_near(result.residual_norms, serial.residual_norms, scale)
        assert_near(result.error_bounds, serial.error_bounds, scale)
    vectors = gathered([result.eigenvectors for result in results])
    # Up to a sign, or a unit complex number.
    phases = np.sum(serial.eigenvectors.conj() * vectors, axis=0)
    assert np.allclose(np.abs(phases), 1, rtol=RTOL)
    assert_near(vectors, serial.eigenvectors * phases)


@every_split
@every_matrix
@pytest.mark.parametrize("probe", ["rademacher", "normal", "sphere"])
def test_trace(split, matrix, probe):
    verb = partial(hessops.trace, num_probes=10, probe=probe, block_size=4, rng=3)
    serial, results = on_ranks(verb, matrix, split)
    assert_same_run(serial, results)
    for result in results:
        assert_near(result.value, serial.value, norm(matrix))
        assert_near(result.standard_error, serial.standard_error)
        assert_near(result.interval, serial.interval)
        for name in SECTIONS:
            found, expected = result.sections[name], serial.sections[name]
            assert_near(found.value, expected.value, norm(matrix))
            assert_near(found.standard_error, expected.standard_error)


@every_split
@every_matrix
@pytest.mark.parametrize(
    "method", ["exact", "hutchpp", "na-hutchpp", "xtrace", "xnystrace", "auto"]
)
def test_every_estimator_of_a_trace(split, matrix, method):
    square = matrix @ matrix
    structure = POSITIVE_SEMIDEFINITE
    budget = None if method == "exact" else 16
    verb = partial(hessops.trace, method=method, max_products=budget, block_size=4, rng=3)
    serial, results = on_ranks(verb, square, split, structure)
    assert_same_run(serial, results)
    for result in results:
        assert_near(result.value, serial.value)
        assert (result.method, result.reason) == (serial.method, serial.reason)
        # Downdates cancel: the errors agree to fewer digits than the estimates.
        assert result.standard_error == pytest.approx(serial.standard_error, rel=1e-8, abs=1e-9)


@every_split
def test_trace_to_a_tolerance_takes_the_same_probes(split):
    verb = partial(hessops.trace, method="hutchinson", atol=8.0, rng=3)
    serial, results = on_ranks(verb, MATRICES["real"], split)
    assert 16 < serial.num_probes < 1000
    assert_same_run(serial, results)
    for result in results:
        assert result.num_probes == serial.num_probes
        assert_near(result.interval, serial.interval)


@every_split
def test_stratified_trace_and_diagonal(split):
    parts = [normal(seed, (N, N)) for seed in range(3)]
    weights = [0.5, 1.0, -0.25]

    def both(terms):
        operator = FiniteSum(terms, weights)
        trace = hessops.trace(operator, num_probes=6, rng=1)
        return trace, hessops.diagonal(operator, num_probes=6, rng=1)

    def work(comm):
        return both([ShardedMatrix(part, comm, split[comm.rank]) for part in parts])

    trace, diagonal = both([aslinearoperator(part) for part in parts])
    results = run_on_ranks(work, len(split))
    assert trace.num_terms == 3
    for found, _ in results:
        assert_near(found.value, trace.value, norm(parts[0]))
        assert_near(found.standard_error, trace.standard_error)
        assert_near(found.term_scatter, trace.term_scatter, norm(parts[0]))
    assert_near(gathered([found.values for _, found in results]), diagonal.values)


@every_split
@pytest.mark.parametrize("probe", ["rademacher", "steinhaus"])
def test_diagonal_of_an_operator_without_structure(split, probe):
    matrix = normal(0, (N, N), "complex128")
    verb = partial(hessops.diagonal, num_probes=9, probe=probe, rng=5)
    serial, results = on_ranks(verb, matrix, split, GENERAL)
    assert_same_run(serial, results)
    assert_near(gathered([result.values for result in results]), serial.values)
    errors = gathered([result.standard_errors for result in results])
    assert_near(errors, serial.standard_errors)
    for result in results:
        assert_near(result.norm_error, serial.norm_error)


@every_split
@every_matrix
@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_lanczos(split, matrix, reorthogonalize):
    # Rounding grows as the recurrence converges; the first steps are there to be compared.
    verb = partial(hessops.lanczos, num_steps=8, reorthogonalize=reorthogonalize, rng=2)
    serial, results = on_ranks(verb, matrix, split)
    assert_same_run(serial, results)
    for result in results:
        assert_near(result.alphas, serial.alphas)
        assert_near(result.betas, serial.betas)
        assert_near(result.residual_norm, serial.residual_norm)
    if reorthogonalize:
        assert_near(gathered([result.basis for result in results]), serial.basis)


@every_split
@every_matrix
@pytest.mark.parametrize("which", ["LM", "SA", "BE"])
def test_eigsh(split, matrix, which):
    serial, results = on_ranks(partial(hessops.eigsh, k=3, which=which, rng=2), matrix, split)
    assert serial.converged
    assert_same_pairs(serial, results)


@every_split
def test_eigsh_of_multiple_eigenvalues(split):
    # The copies come from a second Krylov space, whose start vector is projected off the first.
    matrix = with_spectrum([3.0, 3.0, 1.0, 1.0, 1.0] + [0.0] * (N - 5), 2)
    serial, results = on_ranks(partial(hessops.eigsh, k=3, rng=2), matrix, split)
    for result in results:
        assert_near(result.eigenvalues, [3.0, 3.0, 1.0])
        assert result.num_products == serial.num_products


@every_split
@every_matrix
@pytest.mark.parametrize("method", ["block", "deflated"])
def test_power_iteration(split, matrix, method):
    verb = partial(hessops.power_iteration, num_eigenpairs=2, method=method, tol=1e-8, rng=2)
    serial, results = on_ranks(verb, matrix, split)
    assert serial.converged
    assert_same_pairs(serial, results)


@every_split
@every_matrix
@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_spectral_density(split, matrix, reorthogonalize):
    verb = partial(
        hessops.spectral_density, num_probes=3, num_steps=8, reorthogonalize=reorthogonalize, rng=4
    )
    serial, results = on_ranks(verb, matrix, split)
    assert_same_run(serial, results)
    for result in results:
        assert_near(result.nodes, serial.nodes)
        assert_near(result.weights, serial.weights)
        assert_near(result.node_errors, serial.node_errors)
        assert (result.dim, result.nodes.shape) == (N, (3, 8))


@every_split
def test_check_operator(split):
    verb = partial(hessops.check_operator, rng=0)
    _, reports = on_ranks(verb, MATRICES["complex"], split)
    assert all(report.passed for report in reports)
    _, reports = on_ranks(verb, normal(0, (N, N)), split)
    assert len({tuple(report.failures) for report in reports}) == 1
    assert [check.name for check in reports[0].checks if not check.passed] == ["self-adjoint"]


@every_split
def test_algebra_of_split_operators(split):
    matrix = MATRICES["complex"]
    V = np.linalg.qr(normal(3, (N, 2), "complex128"))[0]

    def work(comm):
        rows = slice(*split[comm.rank])
        A = ShardedMatrix(matrix, comm, split[comm.rank], SELF_ADJOINT)
        node = Projected(2 * A @ A - 0.5 * hessops.Identity(A.domain), V[rows])
        return node.to_dense()

    P = np.eye(N) - V @ V.conj().T
    expected = P @ (2 * matrix @ matrix - 0.5 * np.eye(N)) @ P
    assert_near(gathered(run_on_ranks(work, len(split))), expected)


@given(psd_matrices(5))
def test_any_semidefinite_matrix_has_the_same_trace_on_ranks(matrix):
    serial = hessops.trace(matrix, num_probes=4, rng=0)
    for split in splits(5):
        work = partial(_trace_on_rank, matrix, split)
        for result in run_on_ranks(work, len(split)):
            assert_near(result, serial.value, norm(matrix) + 1e-300)


def _trace_on_rank(matrix, split, comm):
    return hessops.trace(ShardedMatrix(matrix, comm, split[comm.rank]), num_probes=4, rng=0).value


def test_rank_0_decides_when_to_stop():
    def work(comm):
        A = ShardedMatrix(MATRICES["real"], comm, splits(N)[1][comm.rank], SELF_ADJOINT)
        # Each rank would stop at another step.
        stop = partial(_reached, 3 + 2 * comm.rank)
        return hessops.lanczos(A, num_steps=8, rng=0, callback=stop)

    results = run_on_ranks(work, 2)
    assert [len(result.alphas) for result in results] == [3, 3]
    assert results[0].status == results[1].status == "stopped by the callback"


def _reached(step, state):
    return state.step >= step


def test_an_error_on_split_vectors_is_the_same_on_every_rank():
    raised = []

    def work(comm):
        A = ShardedMatrix(normal(0, (N, N)), comm, splits(N)[2][comm.rank], SELF_ADJOINT)
        try:
            hessops.eigsh(A, 2, rng=0)
        except NotSelfAdjointError as error:
            raised.append(str(error))

    run_on_ranks(work, 3)
    assert len(raised) == 3
    assert len(set(raised)) == 1


DECISIONS = {
    "auto": partial(hessops.trace, max_products=16),
    "tolerance": partial(hessops.trace, method="hutchinson", atol=15.0),
    "xtrace": partial(hessops.trace, method="xtrace", rtol=0.05, max_products=32),
    "xnystrace": partial(hessops.trace, method="xnystrace", rtol=0.05),
    "na-hutchpp": partial(hessops.trace, method="na-hutchpp", max_products=16),
    "diagonal": partial(hessops.diagonal, max_products=24),
    "diagonal to a tolerance": partial(hessops.diagonal, method="hutchinson", atol=8.0),
    "xdiag": partial(hessops.diagonal, method="xdiag", rtol=0.1, max_products=32),
    "frobenius": partial(hessops.frobenius_norm, rtol=0.05),
}


@pytest.mark.parametrize("name", DECISIONS)
@pytest.mark.parametrize("rounding", [1e-9, 1e-2])
@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
def test_rank_0_decides_where_rounding_differs(name, rounding):
    """Sums that differ by 1e-2 change choices, numbers of probes and what counts as dependent."""
    split = splits(N)[3]
    matrix = MATRICES["real"] @ MATRICES["real"]

    def work(comm):
        A = ShardedMatrix(matrix, comm, split[comm.rank], POSITIVE_SEMIDEFINITE)
        return DECISIONS[name](A, rng=3)

    results = run_on_ranks(work, len(split), noise=rounding)
    assert len({(r.num_products, r.num_probes, len(r.history)) for r in results}) == 1
    assert len({getattr(r, "reason", "") for r in results}) == 1


@pytest.mark.parametrize("verb", [hessops.trace, hessops.diagonal])
@pytest.mark.parametrize("closeness", [0.001, 1.0])
def test_rank_0_splits_the_work_of_a_control(verb, closeness):
    split = splits(N)[3]
    near = MATRICES["real"] + closeness * with_spectrum(np.linspace(-1, 1, N), 5)

    def work(comm):
        A, B = (
            ShardedMatrix(matrix, comm, split[comm.rank], SELF_ADJOINT)
            for matrix in (near, MATRICES["real"])
        )
        return verb(A, control=(B, None), max_products=40, rng=3)

    results = run_on_ranks(work, len(split), noise=1e-2)
    assert len({(r.num_products, r.num_probes) for r in results}) == 1


# The double itself: what would hide a fault must not happen silently.


def test_the_double_raises_the_error_of_the_rank_that_failed():
    def work(comm):
        if comm.rank == 1:
            raise KeyError("on rank 1")
        comm.all_reduce(np.ones(1))

    with pytest.raises(KeyError, match="on rank 1"):
        run_on_ranks(work, 3)


def test_a_rank_that_does_not_join_is_a_failure():
    def work(comm):
        if comm.rank == 0:
            comm.all_reduce(np.ones(1))

    with pytest.raises(threading.BrokenBarrierError):
        run_on_ranks(work, 2, timeout=0.2)


@pytest.mark.parametrize(
    "call",
    [
        lambda comm: comm.broadcast(1) if comm.rank else comm.all_reduce(np.ones(1)),
        lambda comm: comm.all_reduce(np.ones(1 + comm.rank)),
        lambda comm: comm.all_reduce(np.ones(1, dtype=["f4", "f8"][comm.rank])),
    ],
)
def test_ranks_that_meet_in_different_collectives_are_a_failure(call):
    with pytest.raises(RuntimeError, match="the ranks met in different collectives"):
        run_on_ranks(call, 2)


def test_the_double_reduces_and_broadcasts():
    def work(comm):
        total = comm.all_reduce(np.array([comm.rank, 1.0]))
        return total.tolist(), comm.broadcast(f"from {comm.rank}")

    assert run_on_ranks(work, 3) == [([3.0, 3.0], "from 0")] * 3


@every_split
def test_the_sharded_matrix_multiplies_its_rows(split):
    matrix, X = normal(0, (N, N), "complex128"), normal(1, (N, 2), "complex128")

    def work(comm):
        A = ShardedMatrix(matrix, comm, split[comm.rank])
        rows = slice(*split[comm.rank])
        return A.apply(X[rows]), A.apply_adjoint(X[rows]), A.to_dense()

    results = run_on_ranks(work, len(split))
    products, adjoint_products, dense = (gathered(parts) for parts in zip(*results, strict=True))
    assert_near(products, matrix @ X)
    assert_near(adjoint_products, matrix.conj().T @ X)
    assert np.array_equal(to_numpy(dense), matrix)

"""Hessians through the verbs, against their dense matrices and within their stated errors."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg

pytest.importorskip("torch")

import torch
from torch_problems import (
    assert_is_hessian,
    every_device,
    every_problem,
    images,
    language,
    regression,
    some_problems,
)

import hessops
from hessops.random import Stream
from hessops_torch import Hessian, hessian

NUM_PROBES = 400
# Normal tails: 2e-9 for every comparison.
Z = 6.0


def dense_of(problem):
    return problem.dense().cpu().numpy()


@every_device
@some_problems
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_trace_draws_fresh_probes_for_every_micro_batch(device, make_problem, weight_decay):
    problem = make_problem(device)
    operator = hessian(*problem.arguments, weight_decay=weight_decay)
    result = hessops.trace(operator, num_probes=4, rng=5)
    assert result.num_terms == len(problem.batches) + (weight_decay > 0)
    forms = []
    for index, term in enumerate(operator.terms()):
        Z = operator.space.probes(Stream(5).for_term(index), range(4), "rademacher")
        forms.append(float((Z * (term @ Z)).sum() / 4))
    assert result.value == pytest.approx(math.fsum(forms), rel=1e-12)
    one_for_all = hessops.trace(operator, num_probes=4, rng=5, stratify=False)
    assert one_for_all.num_terms == 1
    assert one_for_all.value != pytest.approx(result.value, rel=1e-6)


@every_device
def test_diagonal_draws_fresh_probes_for_every_micro_batch(device):
    operator = hessian(*images(device).arguments)
    fresh, by_choice, one_for_all = (
        hessops.diagonal(operator, num_probes=4, rng=5, stratify=stratify)
        for stratify in (None, True, False)
    )
    assert torch.equal(fresh.values, by_choice.values)
    assert not torch.allclose(fresh.values, one_for_all.values)


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_terms_say_how_much_data_they_stand_for(device, memory_budget):
    """What the mean divides by; samples of a sum; weight decay needs no data."""
    problem, options = regression(device), {"weight_decay": 0.1, "memory_budget": memory_budget}

    def num_samples(loss, problem=problem):
        operator = hessian(problem.model, loss, problem.batches, **options)
        operator.to_dense()
        return [term.num_samples for term in operator.terms()]

    assert num_samples(torch.nn.MSELoss()) == [6, 8, 2, 0]
    assert num_samples(torch.nn.MSELoss(reduction="sum")) == [3, 4, 1, 0]
    masked = language(device)
    tokens = [float(batch["mask"].sum()) for batch in masked.batches]
    assert num_samples(masked.loss, masked) == [*tokens, 0]


@every_device
def test_a_single_micro_batch_is_no_sum(device):
    operator = hessian(*regression(device, sizes=(8,)).arguments)
    assert hessops.trace(operator, num_probes=2, rng=0).num_terms == 1


@every_device
@some_problems
@pytest.mark.parametrize("stratify", [None, False])
def test_trace(device, make_problem, stratify):
    """Within 6 standard errors of many probes: false alarm 2e-9."""
    problem = make_problem(device)
    dense = dense_of(problem)
    result = hessops.trace(
        hessian(*problem.arguments), num_probes=NUM_PROBES, stratify=stratify, rng=1
    )
    assert abs(result.value - np.trace(dense)) <= Z * result.standard_error
    assert result.standard_error < 0.2 * np.linalg.norm(dense)


@every_device
@every_problem
def test_traces_of_layers_come_from_the_same_sweep(device, make_problem):
    """Each within 6 standard errors of its dense block: at most 16 layers, false alarm 3e-8."""
    problem = make_problem(device)
    operator, dense = hessian(*problem.arguments), dense_of(problem)
    result = hessops.trace(operator, num_probes=NUM_PROBES, rng=2)
    assert result.num_products == NUM_PROBES
    assert list(result.sections) == list(operator.objective.parameters)
    total = math.fsum(float(estimate) for estimate in result.sections.values())
    assert total == pytest.approx(result.value, rel=1e-10)
    for name, estimate in result.sections.items():
        rows = operator.space.section(name)
        exact = np.trace(dense[rows, rows])
        # Where the rows are zero but for the diagonal, probes leave no error but rounding.
        rounding = 1e-12 * np.linalg.norm(dense)
        assert abs(estimate.value - exact) <= Z * estimate.standard_error + rounding, name
        assert estimate.standard_error < 0.2 * np.linalg.norm(dense)


@every_device
@some_problems
def test_diagonal(device, make_problem):
    """Each of at most 80 entries within 6 standard errors of 380 degrees of freedom: 5e-7."""
    problem = make_problem(device)
    dense = dense_of(problem)
    result = hessops.diagonal(hessian(*problem.arguments), num_probes=NUM_PROBES, rng=3)
    error = np.abs(result.values.cpu().numpy() - np.diag(dense))
    allowed = Z * result.standard_errors.cpu().numpy() + 1e-12 * np.linalg.norm(dense)
    assert np.all(error <= allowed)
    assert result.norm_error < 0.2 * np.linalg.norm(dense)


@every_device
@every_problem
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_eigenpairs(device, make_problem, which):
    problem = make_problem(device)
    dense = dense_of(problem)
    everything = np.linalg.eigvalsh(dense)
    expected = {
        "LM": everything[np.argsort(-np.abs(everything))[:3]],
        "LA": everything[::-1][:3],
        "SA": everything[:3],
        "BE": everything[[0, -2, -1]],
    }[which]
    size = np.abs(everything).max()
    result = hessops.eigsh(hessian(*problem.arguments), 3, which=which, rng=4)
    np.testing.assert_allclose(result.eigenvalues, expected, atol=1e-10 * size)
    vectors = result.eigenvectors.cpu().numpy()
    residuals = np.linalg.norm(dense @ vectors - vectors * result.eigenvalues, axis=0)
    assert np.all(residuals <= 1e-9 * size)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert result.converged


@every_device
@some_problems
def test_power_iteration(device, make_problem):
    problem = make_problem(device)
    eigenvalues = np.linalg.eigvalsh(dense_of(problem))
    dominant = eigenvalues[np.argmax(np.abs(eigenvalues))]
    result = hessops.power_iteration(
        hessian(*problem.arguments), tol=1e-5, max_steps=2000, rng=5
    ).raise_if_failed()
    # The error of a Rayleigh quotient is the square of that of the vector, over the gap.
    assert float(result.eigenvalues[0]) == pytest.approx(dominant, rel=1e-6)


@pytest.mark.slow
@every_device
@some_problems
def test_spectral_density(device, make_problem):
    """Moments within 6 standard errors of 32 probes: five of t with 31 degrees, 6e-6."""
    problem = make_problem(device)
    operator = hessian(*problem.arguments)
    eigenvalues = np.linalg.eigvalsh(dense_of(problem))
    density = hessops.spectral_density(
        operator, num_probes=32, num_steps=operator.shape[0], reorthogonalize=True, rng=6
    )
    for p in range(1, 5):
        moment = density.moment(p)
        assert abs(moment.value - np.mean(eigenvalues**p)) <= Z * moment.standard_error
    negative = density.mass_below()
    share = np.mean(eigenvalues < -density.rounding)
    assert abs(negative.value - share) <= Z * negative.standard_error
    # Every node of a Krylov space that is exhausted is an eigenvalue.
    size = np.abs(eigenvalues).max()
    nodes = density.nodes[density.weights > 1e-12]
    distance = np.abs(nodes[:, None] - eigenvalues).min(axis=1)
    assert distance.max() <= 1e-7 * size
    low, high = density.support
    assert eigenvalues[0] - 1e-10 * size <= low
    assert high <= eigenvalues[-1] + 1e-10 * size


@every_device
@some_problems
def test_lanczos(device, make_problem):
    problem = make_problem(device)
    result = hessops.lanczos(hessian(*problem.arguments), num_steps=8, rng=7)
    T = np.diag(result.alphas) + np.diag(result.betas[:7], 1) + np.diag(result.betas[:7], -1)
    Q = result.basis.cpu().numpy()
    dense = dense_of(problem)
    np.testing.assert_allclose(Q.T @ dense @ Q, T, atol=1e-12 * np.linalg.norm(dense))


@every_device
def test_scipy_runs_on_it(device):
    problem = images(device)
    expected = np.linalg.eigvalsh(dense_of(problem))[-2:]
    found = scipy.sparse.linalg.eigsh(
        hessops.to_scipy(hessian(*problem.arguments)), k=2, which="LA", return_eigenvectors=False,
        v0=np.ones(len(dense_of(problem))),
    )  # fmt: skip
    np.testing.assert_allclose(np.sort(found), expected, rtol=1e-10)


@every_device
@every_problem
def test_a_model_with_loss_and_data_is_an_operator(device, make_problem):
    problem = make_problem(device)
    operator = hessops.aslinearoperator(problem.arguments)
    assert isinstance(operator, Hessian)
    assert_is_hessian(operator, problem.dense())


@every_device
def test_a_model_with_loss_data_and_options_is_an_operator(device):
    problem = images(device)
    operator = hessops.aslinearoperator(
        (*problem.arguments, {"params": "6", "micro_batch_size": 2})
    )
    assert list(operator.objective.parameters) == ["6.weight", "6.bias"]
    assert len(operator.objective.batches) == 4
    assert_is_hessian(operator, problem.dense()[-9:, -9:])


@every_device
def test_verbs_take_a_model_with_loss_and_data(device):
    problem = language(device)
    operator = hessian(*problem.arguments)
    assert hessops.trace(problem.arguments, rng=8).value == hessops.trace(operator, rng=8).value


@every_device
def test_the_whole_in_the_algebra(device):
    problem = regression(device)
    dense = problem.dense()
    operator = hessian(*problem.arguments)
    identity = torch.eye(len(dense), dtype=dense.dtype, device=device)
    assert_is_hessian(2 * operator - 0.5 * operator @ operator, 2 * dense - 0.5 * dense @ dense)
    shifted = operator + 3.0 * hessops.Identity(operator.domain)
    assert_is_hessian(shifted, dense + 3 * identity)
    terms = sum(term.to_dense() for term in shifted.terms())
    assert_is_hessian(hessops.aslinearoperator(terms), dense + 3 * identity)


@every_device
def test_representation_says_what_it_is(device):
    problem = images(device)
    problem.model.train()
    text = repr(hessian(*problem.arguments, mode="eval", weight_decay=0.1))
    assert (
        text
        == "Hessian(63x63, float64, self-adjoint, 2 micro-batches, eval mode, weight decay 0.1)"
    )
    assert "train mode" in repr(hessian(*problem.arguments))

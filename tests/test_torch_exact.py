"""Networks whose Hessians are known in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import assert_same, cut, every_device, integers, normal

import hessops
from hessops_torch import hessian

DOUBLE, SINGLE = torch.float64, torch.float32


def gram(x):
    return x.T @ x / len(x)


def zeros(*shape):
    """Return a linear model without bias and with weights zero."""
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(shape)))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def half_squares(model, batch):
    x, y = batch
    return 0.5 * (model(x) - y).square().sum(), len(x)


@every_device
@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-12), (SINGLE, 1e-6)])
@pytest.mark.parametrize("sizes", [(50,), (20, 29, 1)])
def test_softmax_at_zero(device, dtype, tolerance, sizes):
    """H = (I/K - 11^T/K²) ⊗ X^T X/N, whatever the labels."""
    d, K = 6, 4
    x, y = normal(0, 50, d, device=device, dtype=dtype), integers(1, K, 50, device=device)
    model = zeros(d, K).to(device, dtype)
    operator = hessian(model, nn.CrossEntropyLoss(), cut(sizes, x, y))
    of_classes = torch.eye(K, dtype=DOUBLE) / K - torch.full((K, K), 1 / K**2, dtype=DOUBLE)
    expected = torch.kron(of_classes.to(device), gram(x.double()))
    dense = operator.to_dense()
    assert dense.dtype == dtype
    assert_same(dense.double(), expected, tolerance)

    of_inputs = torch.linalg.eigvalsh(gram(x.double())).cpu().numpy()
    eigenvalues = np.sort(np.concatenate([np.tile(of_inputs / K, K - 1), np.zeros(d)]))
    found = torch.linalg.eigvalsh(dense.double()).cpu().numpy()
    np.testing.assert_allclose(found, eigenvalues, atol=tolerance * eigenvalues[-1])
    assert float(torch.trace(dense)) == pytest.approx(
        (K - 1) / K * float(torch.trace(gram(x.double()))), rel=tolerance
    )


@every_device
def test_two_linear_layers_at_zero(device):
    """The eigenvalues are ±σ_i(X^T Y/N), each as often as there are hidden units, and zeros."""
    d, hidden, outputs, count = 4, 3, 2, 12
    x, y = normal(0, count, d, device=device), normal(1, count, outputs, device=device)
    model = zeros(d, hidden, outputs).to(device, DOUBLE)
    operator = hessian(model, half_squares, cut([5, 7], x, y))
    sigma = torch.linalg.svdvals(x.T @ y / count).cpu().numpy()
    rest = np.zeros(operator.shape[0] - 2 * hidden * outputs)
    expected = np.sort(np.concatenate([np.repeat(sigma, hidden), np.repeat(-sigma, hidden), rest]))
    eigenvalues = torch.linalg.eigvalsh(operator.to_dense()).cpu().numpy()
    np.testing.assert_allclose(eigenvalues, expected, atol=1e-10 * sigma[0])

    lowest = hessops.eigsh(operator, 2 * hidden, which="SA", tol=1e-10, rng=0)
    np.testing.assert_allclose(lowest.eigenvalues, expected[: 2 * hidden], atol=1e-10 * sigma[0])
    both = hessops.eigsh(operator, 2, which="BE", tol=1e-10, rng=0)
    np.testing.assert_allclose(both.eigenvalues, [-sigma[0], sigma[0]], rtol=1e-10)
    largest = hessops.power_iteration(operator, num_eigenpairs=2, tol=1e-6, max_steps=500, rng=0)
    np.testing.assert_allclose(np.abs(largest.eigenvalues), sigma[0], rtol=1e-10)


@every_device
@pytest.mark.parametrize("outputs", [1, 3])
def test_linear_regression(device, outputs):
    """H = I ⊗ X^T X/N at any weights and for any targets."""
    d = 5
    x, y = normal(0, 20, d, device=device), normal(1, 20, outputs, device=device)
    model = zeros(d, outputs).to(device, DOUBLE)
    nn.init.ones_(model[0].weight)
    operator = hessian(model, half_squares, cut([7, 13], x, y))
    identity = torch.eye(outputs, dtype=DOUBLE, device=device)
    assert_same(operator.to_dense(), torch.kron(identity, gram(x)), 1e-12)


@every_device
def test_linear_regression_on_noise_follows_marchenko_and_pastur(device):
    """Half as many inputs as samples: E log λ = log 2 - 1 = -0.3069.

    Means over the spectrum are held against the sample's own to 5 standard errors with 63 degrees of
    freedom, four times: false alarm 2e-5. The sum of logarithms of the sample is normal about its
    limit with mean log(1/2)/2 and variance -2 log(1/2) (Jonsson 1982): 4 standard deviations, 6e-5.
    """
    n, limit = 400, -0.3068528194
    x = normal(0, 2 * n, n, device=device)
    y = torch.zeros(2 * n, 1, dtype=DOUBLE, device=device)
    operator = hessian(zeros(n, 1).to(device, DOUBLE), half_squares, (x, y))
    density = hessops.spectral_density(operator, num_probes=64, num_steps=40, rng=0)
    own = torch.linalg.eigvalsh(gram(x)).cpu().numpy()
    low, high = density.support
    assert own[0] - 1e-10 <= low <= own[0] + 0.02
    assert own[-1] - 0.02 <= high <= own[-1] + 1e-10
    for function in (np.log, lambda t: t, np.square, lambda t: t**3):
        estimate = density.mean_of(function)
        assert abs(estimate.value - np.mean(function(own))) <= 5 * estimate.standard_error
    fluctuation = (math.log(2) / 2 + 4 * math.sqrt(2 * math.log(2))) / n
    logarithm = density.mean_of(np.log)
    assert abs(logarithm.value - limit) <= fluctuation + 5 * logarithm.standard_error
    assert logarithm.standard_error < 0.01


@every_device
def test_logistic_regression_at_zero(device):
    """H = X^T X/(4N), whatever the labels."""
    x = normal(0, 30, 6, device=device)
    y = integers(1, 2, 30, 1, device=device).to(DOUBLE)
    operator = hessian(zeros(6, 1).to(device, DOUBLE), nn.BCEWithLogitsLoss(), cut([13, 17], x, y))
    assert_same(operator.to_dense(), gram(x) / 4, 1e-12)

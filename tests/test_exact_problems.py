"""Problems of the test bed with exact answers that no other file holds its algorithm against.

tests/problems.py has the problems; the table of all of them, with where each is tested, is at its top.
"""

import math

import numpy as np
import pytest
import scipy.linalg
from problems import (
    XTRACE_SPECTRA,
    laplacian_1d,
    laplacian_2d,
    laplacian_2d_eigenvalues,
    semicircle_cdf,
    toeplitz_gram,
)
from scipy.linalg import eigh_tridiagonal

import hessops
from hessops import Diagonal, aslinearoperator, gallery


def test_condition_number_of_the_second_difference():
    """T4: cot²(π/202), bracketed by what is certified and by what is probable."""
    result = hessops.condition_number(laplacian_1d(100), rtol=1e-6, rng=0)
    exact = 1 / math.tan(math.pi / 202) ** 2
    assert exact == pytest.approx(4133.6429268, rel=1e-10)
    assert result.value == pytest.approx(exact, rel=1e-10)
    assert result.lower_bound <= exact * (1 + 1e-12) <= result.upper_bound * (1 + 2e-12)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (3.5, 4.5), (6.0, 8.0)])
def test_eigenvalue_counts_of_the_square_laplacian(interval):
    """T5, at a sixth of the size; a false alarm of 4e-4 each, by t of 29 degrees of freedom."""
    values = laplacian_2d_eigenvalues(12)
    exact = int(np.sum((values >= interval[0]) & (values <= interval[1])))
    result = hessops.eigenvalue_count(
        laplacian_2d(12), interval, num_probes=30, num_steps=144, reorthogonalize=True, rng=0
    )
    open_to_quadrature = result.bracket.high - result.bracket.low
    assert open_to_quadrature < 0.5
    assert abs(result.value - exact) <= 4 * result.standard_error + open_to_quadrature


def test_fifty_probes_leave_more_than_a_thousandth_of_the_log_determinant():
    """T8 asks for 1e-3; signs have a standard error of 3.3e-3 for any quadrature."""
    values, vectors = np.linalg.eigh(toeplitz_gram(1000).toarray())
    logarithm = (vectors * np.log(values)) @ vectors.T
    variance = 2 * (np.sum(logarithm**2) - np.sum(np.diag(logarithm) ** 2))
    assert math.sqrt(variance / 50) / np.trace(logarithm) == pytest.approx(3.3e-3, rel=0.05)


@pytest.mark.parametrize("beta", [0.6, 3.0])
def test_partition_function_of_the_ising_ring_by_its_low_rank(beta):
    """T13, eight spins: tr exp(-β (H - b)) to 1e-3 by XNysTrace where few states are left.

    At β = 0.6 too many are, and the error is held against the standard error.
    """
    ring = gallery.transverse_field_ising(8, 1.0)
    energies, ground = ring.eigenvalues, -10.251661790966
    assert energies[0] == pytest.approx(ground, rel=1e-12)
    exact = np.sum(np.exp(-beta * (energies - ground)))
    weights = scipy.linalg.expm(-beta * (ring.operator.to_dense() - ground * np.eye(256)))
    operator = aslinearoperator((weights + weights.T) / 2, positive_semidefinite=True)
    result = hessops.trace(operator, method="xnystrace", max_products=100, rng=0)
    tolerance = 1e-3 * exact if beta == 3.0 else 4 * result.standard_error
    assert abs(result.value - exact) <= tolerance
    assert result.standard_error < 0.02 * exact


def distance_to_the_semicircle(nodes, weights):
    """Return the integral of the difference of the distribution functions."""
    x = np.linspace(-2.5, 2.5, 200_001)
    order = np.argsort(nodes)
    steps = np.concatenate([[0.0], np.cumsum(weights[order])])
    found = steps[np.searchsorted(nodes[order], x, side="right")]
    return np.trapezoid(np.abs(found - semicircle_cdf(x)), x)


def test_no_32_nodes_come_within_a_fiftieth_of_the_semicircle():
    """T16 asks for .02 with 32 steps, below what any measure of 32 nodes reaches: about .0304.

    The least first Wasserstein distance of k nodes to a density f tends to (∫ √f)² / (4 k) (Zador
    1982; in one dimension, Bennett 1948). Here nodes are put by that rule, at equal shares of ∫ √f,
    each with the mass that is nearest to it, and their distance is what the formula says. The Gauss
    rule, which Lanczos gives in the limit of large n, is a third worse.
    """
    k = 32
    x = np.linspace(-2, 2, 400_001)
    root = np.sqrt(np.sqrt(4 - x**2) / (2 * math.pi))
    share = np.concatenate([[0.0], np.cumsum((root[1:] + root[:-1]) / 2) * (x[1] - x[0])])
    least = share[-1] ** 2 / (4 * k)
    assert least == pytest.approx(0.0304, abs=5e-5)
    nodes = np.interp((np.arange(k) + 0.5) / k * share[-1], share, x)
    # Nearest mass: the distribution function at the middles between nodes.
    ends = np.concatenate([[0.0], semicircle_cdf((nodes[1:] + nodes[:-1]) / 2), [1.0]])
    assert distance_to_the_semicircle(nodes, np.diff(ends)) == pytest.approx(least, rel=0.03)
    gauss, vectors = eigh_tridiagonal(np.zeros(k), np.ones(k - 1))
    assert distance_to_the_semicircle(gauss, vectors[0] ** 2) == pytest.approx(0.0404, abs=1e-4)


def test_the_hilbert_matrix_directly():
    """T19: exact by Cauchy's formula; in double precision to the condition number times rounding.

    The determinant is 2.16417922643149e-53 (Choi 1983), of which the test bed's figure is 1.4e-4 off.
    """
    A = scipy.linalg.hilbert(10)

    def log_product(n):
        return sum(math.lgamma(i + 1) for i in range(n))

    exact = 4 * log_product(10) - log_product(20)
    assert exact == pytest.approx(math.log(2.16417922643149e-53), rel=1e-13)
    assert np.linalg.slogdet(A)[1] == pytest.approx(exact, abs=np.linalg.cond(A) * 2**-52)
    assert np.linalg.cond(A) == pytest.approx(1.6e13, rel=0.01)


@pytest.mark.parametrize("method", ["hutchpp", "xtrace", "xnystrace"])
@pytest.mark.parametrize("seed", range(3))
def test_a_projector_has_its_rank_as_trace(method, seed):
    """T20: to 1e-12 once there are more samples than the rank."""
    V = np.linalg.qr(np.random.default_rng(seed).standard_normal((300, 12)))[0]
    P = aslinearoperator(V @ V.T, positive_semidefinite=True)
    result = hessops.trace(P, method=method, max_products=48, rng=seed)
    assert result.value == pytest.approx(12, rel=1e-12)


def test_xtrace_of_a_big_step():
    """T20: 50 large eigenvalues above 1e-8, by 120 products: the rest is 2e-7 of the trace."""
    spectrum = XTRACE_SPECTRA["bigstep"]
    for seed in range(3):
        result = hessops.trace(
            Diagonal(spectrum), method="xtrace", max_products=120, probe="sphere", rng=seed
        )
        assert result.value == pytest.approx(np.sum(spectrum), rel=1e-12)


@pytest.mark.parametrize("name", XTRACE_SPECTRA)
@pytest.mark.parametrize("products", [26, 62])
def test_the_variance_of_hutchpp_on_every_spectrum(name, products):
    """T22: at most 16 tr² / (m - 2)²; 60 runs, whose variance is 4 deviations off in 1 of 10,000."""
    spectrum = XTRACE_SPECTRA[name]
    operator = aslinearoperator(Diagonal(spectrum))
    values = [
        hessops.trace(
            operator, method="hutchpp", max_products=products, probe="normal", rng=seed
        ).value
        for seed in range(60)
    ]
    deviation = 1 + 4 * math.sqrt(2 / 59)
    assert np.var(values, ddof=1) <= deviation * 16 * spectrum.sum() ** 2 / (products - 2) ** 2

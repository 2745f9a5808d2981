"""The exact answers of the test problems, against dense solvers and published figures."""

import math

import numpy as np
import problems as p
import pytest
from scipy.linalg import eigvalsh_tridiagonal


def counted(spectrum):
    return np.sort(np.repeat(list(spectrum), list(spectrum.values())))


@pytest.mark.parametrize(
    ("matrix", "eigenvalues"),
    [
        (p.laplacian_1d(40), p.laplacian_1d_eigenvalues(40)),
        (p.laplacian_2d(9), p.laplacian_2d_eigenvalues(9)),
        (p.kneser(5, 2), counted(p.kneser_eigenvalues(5, 2))),
        (p.kneser(8, 3), counted(p.kneser_eigenvalues(8, 3))),
        (p.hypercube(6), counted(p.hypercube_eigenvalues(6))),
    ],
    ids=["laplacian_1d", "laplacian_2d", "petersen", "kneser", "hypercube"],
)
def test_eigenvalues_are_those_of_the_dense_matrix(matrix, eigenvalues):
    dense = np.linalg.eigvalsh(matrix.toarray())
    np.testing.assert_allclose(dense, np.sort(eigenvalues), atol=1e-11)


def test_published_figures():
    traces = {name: float(np.sum(spectrum)) for name, spectrum in p.XTRACE_SPECTRA.items()}
    assert traces == pytest.approx(
        {
            "flat": 2000.0,
            "poly": 1.6439345666815601,
            "slowexp": 10.0,
            "fastexp": 10 / 3,
            "smallstep": 50.95,
            "bigstep": 50.0000095,
        },
        rel=1e-12,
    )
    strakos = p.strakos_eigenvalues()
    assert np.sum(strakos) == pytest.approx(415.54322218656387, rel=1e-13)
    assert np.sum(np.log(strakos)) == pytest.approx(30.487035536063914, rel=1e-13)
    assert np.sum(1 / strakos) == pytest.approx(37.3591700213145, rel=1e-13)
    wilkinson = p.wilkinson_eigenvalues()
    assert wilkinson[-2:] == pytest.approx([10.746194182903322, 10.746194182903393], abs=1e-13)
    assert wilkinson[0] == pytest.approx(-1.1254415221199854, abs=1e-13)
    line, square = p.laplacian_1d_eigenvalues(100), p.laplacian_2d_eigenvalues(30)
    assert np.sum(np.log(line)) == pytest.approx(math.log(101), abs=1e-10)
    assert np.sum(1 / line) == pytest.approx(1700, rel=1e-10)
    assert np.sum(np.log(square)) == pytest.approx(1065.0006883542344, rel=1e-12)
    assert np.sum(1 / square) == pytest.approx(512.6441819996354, rel=1e-12)
    assert p.marchenko_pastur_log_mean(0.5) == pytest.approx(-0.3068528194, abs=1e-10)
    assert eigvalsh_tridiagonal(*p.clement(21)) == pytest.approx(np.arange(-20, 21, 2), abs=1e-11)


def test_log_determinant_of_toeplitz_gram():
    sign, logdet = np.linalg.slogdet(p.toeplitz_gram(60).toarray())
    assert sign == 1
    assert logdet == pytest.approx(120 * math.log(2), rel=1e-12)


def test_semicircle_is_a_distribution_with_moments_1_and_2():
    x = np.linspace(-2, 2, 20001)
    mass, middle = np.diff(p.semicircle_cdf(x)), (x[1:] + x[:-1]) / 2
    assert (mass.sum(), mass @ middle**2, mass @ middle**4) == pytest.approx((1, 1, 2), abs=1e-6)

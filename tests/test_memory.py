"""What an algorithm stores at its peak, in blocks or vectors, as its documentation says."""

import tracemalloc
import warnings

import numpy as np
import pytest

import hessops
from hessops import ConvergenceWarning


def ramp(n):
    """Return an operator whose product allocates what it returns and no more."""
    return hessops.Diagonal(np.linspace(1.0, 2.0, n))


def peak_vectors(run, n):
    """Return the peak of what a run allocates, in vectors of n doubles."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / (8 * n)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [4, 16])
def test_a_spectral_density_takes_three_blocks(count):
    n = 200_000
    A = ramp(n)

    def density():
        hessops.spectral_density(A, num_probes=count, num_steps=6, rng=0)

    assert 2.9 * count <= peak_vectors(density, n) <= 3.2 * count


def test_lanczos_without_reorthogonalisation_takes_four_vectors():
    """Three in a step; four, for a single vector, when a normal start vector is drawn."""
    n = 200_000
    A = ramp(n)

    def lanczos():
        hessops.lanczos(A, num_steps=6, reorthogonalize=False, rng=0)

    assert 3.9 <= peak_vectors(lanczos, n) <= 4.2


@pytest.mark.parametrize("count", [4, 12])
def test_lobpcg_takes_twelve_blocks(count):
    n = 50_000
    A = ramp(n)

    def lobpcg():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            hessops.lobpcg(A, count - 1, preconditioner=A, max_steps=25, tol=1e-15, rng=0)

    assert 11.5 * count <= peak_vectors(lobpcg, n) <= 12.2 * count


def test_eigsh_takes_its_basis_and_an_eighth():
    n, steps, k = 20_000, 160, 2
    A = ramp(n)

    def eigsh():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            hessops.eigsh(A, k, max_steps=steps, tol=1e-15, rng=0)

    # Beside the basis: what a step, or forming and verifying the eigenvectors, takes.
    assert steps <= peak_vectors(eigsh, n) <= 1.125 * steps + 4 * k + 4

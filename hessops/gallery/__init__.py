"""Operators whose spectra are known: to test a method, to compare methods, to learn.

Each function returns a `Problem`: an operator, known by its products alone, and its exact
`eigenvalues`, `trace` and `logdet`. For `wigner` and `marchenko_pastur`, which are random, it is a
`RandomProblem`, with the density that the eigenvalues tend to.

Examples
--------
>>> import hessops.gallery
>>> problem = hessops.gallery.laplacian_2d(30)
>>> found = hessops.eigsh(problem.operator, 1, which="LA", rng=0)
>>> bool(abs(found.eigenvalues[0] - problem.eigenvalues[-1]) <= found.residual_norms[0])
True
"""

from hessops.gallery.clement_matrix import clement
from hessops.gallery.grid import laplacian_1d, laplacian_2d
from hessops.gallery.hypercube_graph import hypercube
from hessops.gallery.ising import transverse_field_ising
from hessops.gallery.kneser_graph import kneser
from hessops.gallery.limiting_density import (
    LimitingDensity,
    MarchenkoPastur,
    RandomProblem,
    Semicircle,
)
from hessops.gallery.linear_network import linear_network_hessian
from hessops.gallery.problem import Problem
from hessops.gallery.random_matrices import marchenko_pastur, wigner
from hessops.gallery.rotation import with_eigenvalues
from hessops.gallery.softmax import softmax_hessian
from hessops.gallery.strakos_spectrum import strakos
from hessops.gallery.toeplitz import toeplitz_gram
from hessops.gallery.wilkinson_matrix import wilkinson
from hessops.gallery.xtrace_spectra import xtrace_matrix

__all__ = [
    "LimitingDensity",
    "MarchenkoPastur",
    "Problem",
    "RandomProblem",
    "Semicircle",
    "clement",
    "hypercube",
    "kneser",
    "laplacian_1d",
    "laplacian_2d",
    "linear_network_hessian",
    "marchenko_pastur",
    "softmax_hessian",
    "strakos",
    "toeplitz_gram",
    "transverse_field_ising",
    "wigner",
    "wilkinson",
    "with_eigenvalues",
    "xtrace_matrix",
]

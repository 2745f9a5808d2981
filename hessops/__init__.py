"""The spectrum of any operator you can multiply with.

Three nouns: a `LinearOperator` multiplies blocks of vectors; a `Space` knows how those are stored and
reduced; a result holds a value, its error, its cost and how it was found.

Verbs: `power_iteration` and `eigsh` for eigenpairs, `randomized_svd`, `randomized_eigh` and `nystrom`
for low rank; `trace`, `diagonal`, `logdet` and other functions of the spectrum by random probes;
`lanczos` for the tridiagonal matrix itself, `spectral_density` for all eigenvalues at once; norms,
counts and ranks; `cg`, `minres` and `inverse`.
`hessops.gallery` has operators whose spectra are known, `hessops.bounds` the theory as functions.

Examples
--------
>>> import numpy as np, hessops
>>> A = np.diag(np.arange(1.0, 101.0))
>>> hessops.trace(A, rng=0).value
5050.0
"""

from hessops.algebra import Adjoint, Product, Scaled, Shifted, Sum
from hessops.algorithms.condition_number import condition_number
from hessops.algorithms.conjugate_gradient import cg
from hessops.algorithms.diagonal import diagonal
from hessops.algorithms.effective_dimension import effective_dimension
from hessops.algorithms.eigenvalue_count import eigenvalue_count
from hessops.algorithms.eigsh import eigsh
from hessops.algorithms.frobenius_norm import frobenius_norm
from hessops.algorithms.inverse import inverse
from hessops.algorithms.lanczos import lanczos
from hessops.algorithms.matrix_function import matrix_function
from hessops.algorithms.minres import minres
from hessops.algorithms.numerical_rank import numerical_rank
from hessops.algorithms.nystrom import nystrom
from hessops.algorithms.nystrom_preconditioner import nystrom_preconditioner
from hessops.algorithms.power import power_iteration
from hessops.algorithms.randomized_eigh import randomized_eigh
from hessops.algorithms.randomized_svd import randomized_svd
from hessops.algorithms.schatten_norm import nuclear_norm, schatten_norm
from hessops.algorithms.slq import spectral_density
from hessops.algorithms.spectral_norm import spectral_norm
from hessops.algorithms.trace import trace
from hessops.algorithms.trace_function import (
    estrada_index,
    logdet,
    trace_function,
    trace_inverse,
)
from hessops.block_diagonal import BlockDiagonal
from hessops.cdf_band import cdf_band
from hessops.comm import Communicator, SerialComm
from hessops.diagnostics import check_operator
from hessops.elementary import Diagonal, Identity, LowRank
from hessops.errors import (
    ConvergenceError,
    ConvergenceWarning,
    NonFiniteError,
    NotSelfAdjointError,
)
from hessops.finite_sum import FiniteSum
from hessops.haydock import haydock
from hessops.kernel_polynomial import kernel_polynomial
from hessops.operator import LinearOperator
from hessops.projected import Projected
from hessops.result import load
from hessops.space import ArraySpace, Space
from hessops.structure import Structure
from hessops.wasserstein import wasserstein
from hessops.wrap import aslinearoperator, to_scipy

__version__ = "0.1.0"

__all__ = [
    "Adjoint",
    "ArraySpace",
    "BlockDiagonal",
    "Communicator",
    "ConvergenceError",
    "ConvergenceWarning",
    "Diagonal",
    "FiniteSum",
    "Identity",
    "LinearOperator",
    "LowRank",
    "NonFiniteError",
    "NotSelfAdjointError",
    "Product",
    "Projected",
    "Scaled",
    "SerialComm",
    "Shifted",
    "Space",
    "Structure",
    "Sum",
    "aslinearoperator",
    "cdf_band",
    "cg",
    "check_operator",
    "condition_number",
    "diagonal",
    "effective_dimension",
    "eigenvalue_count",
    "eigsh",
    "estrada_index",
    "frobenius_norm",
    "haydock",
    "inverse",
    "kernel_polynomial",
    "lanczos",
    "load",
    "logdet",
    "matrix_function",
    "minres",
    "nuclear_norm",
    "numerical_rank",
    "nystrom",
    "nystrom_preconditioner",
    "power_iteration",
    "randomized_eigh",
    "randomized_svd",
    "schatten_norm",
    "spectral_density",
    "spectral_norm",
    "to_scipy",
    "trace",
    "trace_function",
    "trace_inverse",
    "wasserstein",
]

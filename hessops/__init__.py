"""The spectrum of any operator you can multiply with.

Three nouns: a `LinearOperator` multiplies blocks of vectors; a `Space` knows how those are stored and
reduced; a result holds a value, its error, its cost and how it was found.

Verbs: `spectrum` for a first look at everything; `eigsh`, `lobpcg` and `power_iteration` for
eigenpairs, `svds` for singular triplets; `randomized_svd`, `randomized_eigh` and `nystrom` for low
rank; `trace`, `diagonal`, `logdet` and other functions of the spectrum by random probes; `lanczos` for
the tridiagonal matrix itself, `spectral_density` for all eigenvalues at once; norms, counts and ranks;
`cg`, `minres` and `inverse`; `checkpointed` for runs that may be killed.
`hessops.gallery` has operators whose spectra are known, `hessops.bounds` the theory as functions.

Examples
--------
>>> import numpy as np, hessops
>>> A = np.diag(np.arange(1.0, 101.0))
>>> hessops.trace(A, rng=0).value
5050.0
"""

from hessops.algorithms.eigen.eigsh import eigsh
from hessops.algorithms.eigen.lobpcg import lobpcg
from hessops.algorithms.eigen.power import power_iteration
from hessops.algorithms.eigen.svds import svds
from hessops.algorithms.functions.matrix_function import matrix_function
from hessops.algorithms.functions.trace_function import (
    estrada_index,
    logdet,
    trace_function,
    trace_inverse,
)
from hessops.algorithms.krylov.lanczos import lanczos
from hessops.algorithms.krylov.slq import spectral_density
from hessops.algorithms.low_rank.nystrom import nystrom
from hessops.algorithms.low_rank.randomized_eigh import randomized_eigh
from hessops.algorithms.low_rank.randomized_svd import randomized_svd
from hessops.algorithms.norms.condition_number import condition_number
from hessops.algorithms.norms.effective_dimension import effective_dimension
from hessops.algorithms.norms.eigenvalue_count import eigenvalue_count
from hessops.algorithms.norms.frobenius_norm import frobenius_norm
from hessops.algorithms.norms.numerical_rank import numerical_rank
from hessops.algorithms.norms.schatten_norm import nuclear_norm, schatten_norm
from hessops.algorithms.norms.spectral_norm import spectral_norm
from hessops.algorithms.solvers.conjugate_gradient import cg
from hessops.algorithms.solvers.inverse import inverse
from hessops.algorithms.solvers.minres import minres
from hessops.algorithms.solvers.nystrom_preconditioner import nystrom_preconditioner
from hessops.algorithms.spectrum.spectrum import spectrum
from hessops.algorithms.trace.diagonal import diagonal
from hessops.algorithms.trace.trace import trace
from hessops.array_space import ArraySpace
from hessops.comm import Communicator, SerialComm
from hessops.density.cdf_band import cdf_band
from hessops.density.haydock import haydock
from hessops.density.kernel_polynomial import kernel_polynomial
from hessops.density.wasserstein import wasserstein
from hessops.diagnostics import check_operator
from hessops.errors import (
    CheckpointError,
    ConvergenceError,
    ConvergenceWarning,
    NonFiniteError,
    NotSelfAdjointError,
)
from hessops.operator import LinearOperator
from hessops.operators.algebra import Adjoint, Product, Scaled, Shifted, Sum
from hessops.operators.block_diagonal import BlockDiagonal
from hessops.operators.checkpointed import Checkpointed, checkpointed
from hessops.operators.data_parallel import DataParallel, data_parallel
from hessops.operators.elementary import Diagonal, Identity, LowRank
from hessops.operators.finite_sum import FiniteSum
from hessops.operators.projected import Projected
from hessops.operators.sharded import Sharded, sharded
from hessops.result import load
from hessops.row_collectives import gathered
from hessops.space import Space
from hessops.structure import Structure
from hessops.version import __version__ as __version__
from hessops.wrap import aslinearoperator, to_scipy

__all__ = [
    "Adjoint",
    "ArraySpace",
    "BlockDiagonal",
    "CheckpointError",
    "Checkpointed",
    "Communicator",
    "ConvergenceError",
    "ConvergenceWarning",
    "DataParallel",
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
    "Sharded",
    "Shifted",
    "Space",
    "Structure",
    "Sum",
    "aslinearoperator",
    "cdf_band",
    "cg",
    "check_operator",
    "checkpointed",
    "condition_number",
    "data_parallel",
    "diagonal",
    "effective_dimension",
    "eigenvalue_count",
    "eigsh",
    "estrada_index",
    "frobenius_norm",
    "gathered",
    "haydock",
    "inverse",
    "kernel_polynomial",
    "lanczos",
    "load",
    "lobpcg",
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
    "sharded",
    "spectral_density",
    "spectral_norm",
    "spectrum",
    "svds",
    "to_scipy",
    "trace",
    "trace_function",
    "trace_inverse",
    "wasserstein",
]

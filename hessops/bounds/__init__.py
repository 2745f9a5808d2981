"""What theory says of an error: bounds to draw over a convergence history.

Each function is one theorem. It takes plain numbers, arrays of steps where a curve is wanted, and
returns a float or an array. What a bound assumes stands in its docstring, and `docs/bounds.md` has the
proofs of those that are not quoted.

Examples
--------
>>> import numpy as np
>>> from hessops import bounds
>>> bounds.lanczos_error(np.array([10, 20, 40]), dim=1000).round(4)
array([0.0632, 0.0156, 0.0038])
"""

from hessops.bounds.low_rank import (
    nystrom_nuclear_error,
    range_finder_frobenius_error,
    range_finder_sampled_error,
    range_finder_spectral_error,
)
from hessops.bounds.quadrature import (
    exponential_chebyshev_error,
    exponential_error,
    matrix_function_error,
    quadrature_error,
    quadrature_wasserstein_error,
    wasserstein_error,
    wasserstein_needed,
)
from hessops.bounds.random_start import (
    lanczos_error,
    lanczos_failure,
    lanczos_overlap_error,
    lanczos_steps_needed,
    power_error,
    power_failure,
    power_steps_needed,
)
from hessops.bounds.ritz import (
    conjugate_gradient_error,
    krylov_angle,
    ritz_value_error,
    ritz_vector_error,
)
from hessops.bounds.trace_probes import (
    hutchinson_failure,
    hutchinson_probes_needed,
    hutchinson_variance,
    hutchpp_variance,
)

__all__ = [
    "conjugate_gradient_error",
    "exponential_chebyshev_error",
    "exponential_error",
    "hutchinson_failure",
    "hutchinson_probes_needed",
    "hutchinson_variance",
    "hutchpp_variance",
    "krylov_angle",
    "lanczos_error",
    "lanczos_failure",
    "lanczos_overlap_error",
    "lanczos_steps_needed",
    "matrix_function_error",
    "nystrom_nuclear_error",
    "power_error",
    "power_failure",
    "power_steps_needed",
    "quadrature_error",
    "quadrature_wasserstein_error",
    "range_finder_frobenius_error",
    "range_finder_sampled_error",
    "range_finder_spectral_error",
    "ritz_value_error",
    "ritz_vector_error",
    "wasserstein_error",
    "wasserstein_needed",
]

"""CuPy on a GPU: sparse matrices as hessops operators, and probes drawn on the device.

Importing it is not needed: `hessops.aslinearoperator` finds it for the sparse matrices of
``cupyx.scipy.sparse``, and the spaces of CuPy arrays find it for their probes. Dense arrays and CuPy's
own ``LinearOperator`` need no backend.
"""

try:
    import cupy as _cupy  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hessops_cupy needs CuPy, the extra 'cupy': pip install '.[cupy]' in a clone, "
        "pip install 'hessops[cupy]' elsewhere (for CUDA 13; of other builds of CuPy, install yours "
        "first)"
    ) from error

from hessops_cupy.convert import convert
from hessops_cupy.interface import to_cupyx
from hessops_cupy.probes import fill_probes
from hessops_cupy.sparse import SparseOperator

__all__ = ["SparseOperator", "convert", "fill_probes", "to_cupyx"]

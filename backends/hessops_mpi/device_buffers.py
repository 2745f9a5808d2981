"""Arrays in the memory of a GPU: whether MPI reads them, and when they are ready to be read."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from mpi4py import MPI

from hessops.arrays import namespace

__all__ = ["is_cuda_aware", "synchronize"]

# By which MPI libraries are told to read the memory of GPUs, where they can.
_SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "OMPI_MCA_opal_cuda_support", "I_MPI_OFFLOAD")
_ON = {"1", "true", "yes", "on"}


def is_cuda_aware() -> bool:
    """Tell whether the MPI library says, or was told, that it reads the memory of GPUs.

    Returns
    -------
    bool
        By the info key ``mpi_memory_alloc_kinds`` of MPI 4.1, or a switch in the environment:
        ``MPICH_GPU_SUPPORT_ENABLED``, ``OMPI_MCA_opal_cuda_support`` or ``I_MPI_OFFLOAD``. False where
        nothing is said.
    """
    kinds = MPI.COMM_WORLD.Get_info().get("mpi_memory_alloc_kinds") or ""
    told = any(os.environ.get(name, "").lower() in _ON for name in _SWITCHES)
    return told or "cuda" in kinds


def synchronize(array: Any) -> None:
    """Wait until what computes an array has finished.

    Parameters
    ----------
    array : array
        Of PyTorch or CuPy, on a CUDA device.
    """
    library = namespace(array).__name__
    if "torch" in library:
        import_module("torch").cuda.current_stream(array.device).synchronize()
    else:
        import_module("cupy").cuda.get_current_stream().synchronize()

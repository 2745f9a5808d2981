"""The command line on several ranks: one of them speaks, and all end together."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from hessops.comm import Communicator, SerialComm

__all__ = ["end_together", "launched_rank", "launched_ranks", "one_speaks", "wait_for_the_others"]

# How many ranks a launcher says there are: Open MPI's and PRRTE's, MPICH's and Intel's, SLURM's.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_TORCHRUN = "TORCHELASTIC_RUN_ID"
# And which of them this process is; torchrun's counts where that has started it.
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
# Where all fail alike, one should say so: rank 0, if it has anything to say, or who knows why.
_AFTER_RANK_0, _AFTER_THE_FAILED = 0.5, 1.0


def launched_ranks() -> Communicator:
    """Return the ranks that ``mpirun``, ``srun`` or ``torchrun`` has started, if one of them has.

    Returns
    -------
    Communicator
        Of this process alone, where it was started by itself.

    Raises
    ------
    ImportError
        If the library that the launcher stands for is missing.
    """
    if _TORCHRUN in os.environ:
        by_torch: Communicator = importlib.import_module("hessops_torch").distributed_comm()
        return by_torch
    sizes = [os.environ.get(name, "") for name in _SIZES]
    if any(size.isdigit() and int(size) > 1 for size in sizes):
        by_mpi: Communicator = importlib.import_module("hessops_mpi").world()
        return by_mpi
    return SerialComm()


def launched_rank() -> int:
    """Return which of the ranks that a launcher has started this is; 0 where it was started alone.

    Returns
    -------
    int
        By the environment, without a word to the other ranks.
    """
    names = ("RANK",) if _TORCHRUN in os.environ else _RANKS
    said = [os.environ[name] for name in names if os.environ.get(name, "").isdigit()]
    return int(said[0]) if said else 0


def wait_for_the_others() -> None:
    """Let rank 0 say what all of them have met: the launcher ends it once another has failed."""
    time.sleep(_AFTER_RANK_0)


@contextmanager
def one_speaks(comm: Communicator) -> Iterator[None]:
    """Let rank 0 print and warn, and no other; who fails gets its voice back.

    Parameters
    ----------
    comm : Communicator
        The ranks.

    Yields
    ------
    None
        While the others are silent.
    """
    if comm.rank == 0:
        yield
        return
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def end_together(comm: Communicator, error: Exception, sentence: str, code: int) -> None:
    """Say what went wrong, on one rank if all know it, and end the others; this one its caller ends.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    error : Exception
        What this rank has met.
    sentence : str
        What to say.
    code : int
        The exit code.
    """
    if comm.rank > 0:
        time.sleep(_AFTER_THE_FAILED if hasattr(error, "told_by") else _AFTER_RANK_0)
    sys.stderr.write(f"hessops: {sentence}\n")
    sys.stderr.flush()
    if comm.size > 1 and hasattr(comm, "abort"):
        comm.abort(code)

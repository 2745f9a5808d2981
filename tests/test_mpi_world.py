"""What `hessops_mpi` makes of where it runs: of its environment, and of what is missing there."""

import subprocess
import sys

import pytest

pytest.importorskip("mpi4py")

import hessops_mpi
from hessops_mpi.device_buffers import is_cuda_aware

SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "OMPI_MCA_opal_cuda_support", "I_MPI_OFFLOAD")


def test_without_mpirun_there_is_one_rank():
    comm = hessops_mpi.world()
    assert (comm.rank, comm.size, comm.local_rank(), comm.local_size()) == (0, 1, 0, 1)
    assert repr(comm) == "MpiComm(rank 0 of 1)"


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_time_out_that_is_none(timeout):
    with pytest.raises(ValueError, match=f"timeout={timeout} must be a positive number of seconds"):
        hessops_mpi.world(timeout=timeout)


@pytest.mark.parametrize("words", ["soon", "0", "-3"])
def test_a_time_out_of_the_environment_that_is_none(words, monkeypatch):
    monkeypatch.setenv("HESSOPS_MPI_TIMEOUT", words)
    with pytest.raises(ValueError, match=f"HESSOPS_MPI_TIMEOUT='{words}' must be a positive"):
        hessops_mpi.world()
    assert hessops_mpi.world(timeout=3.0).size == 1


@pytest.mark.parametrize("switch", SWITCHES)
def test_whether_mpi_reads_the_memory_of_gpus(switch, monkeypatch):
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    assert not is_cuda_aware()
    monkeypatch.setenv(switch, "0")
    assert not is_cuda_aware()
    monkeypatch.setenv(switch, "1")
    assert is_cuda_aware()
    assert hessops_mpi.world().cuda_aware
    assert not hessops_mpi.world(cuda_aware=False).cuda_aware


def test_without_mpi4py_it_says_how_to_get_it():
    program = "import sys; sys.modules['mpi4py'] = None; import hessops_mpi"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "hessops_mpi needs mpi4py and an MPI library" in done.stderr
    assert "pip install 'hessops[mpi]'" in done.stderr

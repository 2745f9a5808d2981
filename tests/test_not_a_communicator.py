"""What is passed for a communicator and is none: named by all that take one, with what to pass."""

from types import SimpleNamespace

import numpy as np
import pytest

import hessops

# As mpi4py's own have it.
FOREIGN = SimpleNamespace(rank=0, size=1, Get_rank=lambda: 0)


def by_torch(name):
    def call(comm):
        pytest.importorskip("torch")
        import torch
        from torch import nn

        import hessops_torch

        data = [(torch.eye(2), torch.zeros(2, 1))]
        if name == "shard":
            return hessops_torch.shard(data, comm)
        if name == "jacobian":
            return hessops_torch.jacobian(nn.Linear(2, 1), data, comm=comm)
        make = getattr(hessops_torch, name)
        return make(nn.Linear(2, 1), nn.MSELoss(), data, comm=comm)

    return call


def by_mpi(name):
    def call(comm):
        hessops_mpi = pytest.importorskip("hessops_mpi", exc_type=ImportError)
        if name == "shard":
            return hessops_mpi.shard([1.0, 2.0], comm)
        if name == "grid":
            return hessops_mpi.grid(comm, probes=1)
        return hessops_mpi.sharded_laplacian((3, 3), comm)

    return call


TAKERS = {
    "space": lambda comm: hessops.ArraySpace(3, comm=comm),
    "data_parallel": lambda comm: hessops.data_parallel(np.eye(3), comm),
    "sharded": lambda comm: hessops.sharded(np.eye(3), comm),
    **{f"torch {name}": by_torch(name) for name in ("hessian", "ggn", "jacobian", "shard")},
    **{f"mpi {name}": by_mpi(name) for name in ("shard", "grid", "sharded_laplacian")},
}


@pytest.mark.parametrize("comm", [3, "world", FOREIGN], ids=["number", "name", "mpi4py"])
@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS.keys())
def test_what_is_no_communicator_is_named(take, comm):
    with pytest.raises(TypeError, match=r"comm=.* is no communicator: pass hessops_mpi\.world\(\)"):
        take(comm)


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS.keys())
def test_one_process_is_one(take):
    take(hessops.SerialComm())

"""What the processes run in the tests that start torchrun."""

import json
import os
import signal
import sys
import time

import numpy as np
import torch

import hessops
import hessops_torch


def answers(comm):
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(23, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (23,), generator=generator)
    data = hessops_torch.shard(torch.utils.data.TensorDataset(X, y), comm, batch_size=5)
    A = hessops_torch.hessian(
        model, torch.nn.CrossEntropyLoss(), data, micro_batch_size=5, comm=comm
    )
    product = (A @ torch.ones(A.shape[1], 2, dtype=torch.float64)).numpy().tobytes()
    # The same bits in every process.
    assert comm.broadcast(product) == product
    return {
        "trace": hessops.trace(A, num_probes=4, rng=0).value,
        "eigenvalues": hessops.eigsh(A, 2, rng=0).eigenvalues.tolist(),
        "repr": repr(A),
        "split": hessops.eigsh(hessops.sharded(A, comm), 2, rng=0).eigenvalues.tolist(),
    }


def collectives(comm):
    for dtype in ("f4", "f8", "c8", "c16"):
        for array in (np.ones((2, 3), dtype), np.ones((3, 2), dtype).T, np.ones((0, 2), dtype)):
            tensor = torch.as_tensor(array)
            for given in (array, tensor):
                total = comm.all_reduce(given)
                assert type(total) is type(given)
                assert total.dtype == given.dtype
                assert np.array_equal(np.asarray(total), comm.size * array)
            assert np.array_equal(array, np.ones_like(array))
            counts = [1, 0, 4, 2, 3][: comm.size]
            own = np.full((counts[comm.rank], 3), comm.rank, dtype)
            whole = np.concatenate([np.full((c, 3), r, dtype) for r, c in enumerate(counts)])
            rows = slice(sum(counts[: comm.rank]), sum(counts[: comm.rank + 1]))
            for kind in (np.asarray, torch.as_tensor):
                gathered = comm.all_gather_rows(kind(own), counts)
                scattered = comm.reduce_scatter_rows(kind(whole), counts)
                assert type(gathered) is type(scattered) is type(kind(own))
                assert np.array_equal(np.asarray(gathered), whole)
                assert np.array_equal(np.asarray(scattered), comm.size * whole[rows])
                assert np.asarray(scattered).dtype == dtype
    assert comm.broadcast({"rank": comm.rank}) == {"rank": 0}
    assert comm.local_rank() == comm.rank
    assert comm == hessops_torch.distributed_comm()
    half = torch.distributed.new_group([0])
    if comm.rank == 0:
        assert hessops_torch.TorchComm(half).all_reduce(np.ones(1)) == 1
        assert hessops_torch.TorchComm(half) != comm


def fail():
    raise KeyError("what process 1 has to say")


FAULTS = {
    "fail": fail,
    "hang": lambda: time.sleep(1000),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


if __name__ == "__main__":
    comm = hessops_torch.distributed_comm(timeout=4.0 if "hang" in sys.argv else 60.0)
    if sys.argv[1:]:
        if comm.rank == 1:
            FAULTS[sys.argv[1]]()
        comm.all_reduce(np.ones(1))
        raise AssertionError("nothing has gone wrong")
    collectives(comm)
    found = json.dumps(answers(comm))
    if comm.rank == 0:
        sys.stdout.write(found + "\n")

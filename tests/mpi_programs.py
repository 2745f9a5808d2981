"""What the ranks run in the tests that start real ones: ``mpirun -n 3 python mpi_programs.py NAME``."""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import hessops
import hessops_mpi
from hessops import FiniteSum, aslinearoperator
from hessops.structure import GENERAL

N, TERMS = 20, 7
MATRICES = np.random.default_rng(0).standard_normal((TERMS, N, N))
MATRICES = MATRICES + MATRICES.transpose(0, 2, 1)


def parts(matrices):
    return FiniteSum([aslinearoperator(matrix, self_adjoint=True) for matrix in matrices])


def answers(A):
    """Return what the verbs say of an operator, in words that JSON can hold."""
    trace = hessops.trace(A, num_probes=6, block_size=4, rng=1)
    plain = hessops.trace(A, num_probes=6, stratify=False, rng=1)
    diagonal = hessops.diagonal(A, num_probes=6, rng=1)
    density = hessops.spectral_density(A, num_probes=2, num_steps=8, rng=1)
    return {
        "probes": A.domain.probes(hessops.random.Stream(7), range(3), "normal").tolist(),
        "trace": [trace.value, trace.standard_error, trace.term_scatter, plain.value],
        "terms": trace.num_terms,
        "diagonal": diagonal.values.tolist(),
        "errors": diagonal.standard_errors.tolist(),
        "eigenvalues": hessops.eigsh(A, 3, rng=1).eigenvalues.tolist(),
        "nodes": density.nodes.tolist(),
        "products": [trace.num_products, density.num_products],
    }


def estimates():
    comm = hessops_mpi.world()
    A = hessops_mpi.data_parallel(parts(hessops_mpi.shard(MATRICES, comm)), comm)
    X = np.random.default_rng(1).standard_normal((N, 3))
    # The same bits on every rank.
    found = json.dumps([answers(A), (A @ X).tolist()])
    assert found == comm.broadcast(found)
    say(comm, answers(A))


def collectives():
    """Library calls as they arrive at MPI, and what is sent, of every shape, dtype and library."""
    comm = hessops_mpi.world()
    ones = [np.ones((2, 3), dtype) for dtype in ("f4", "f8", "c8", "c16", "i8")]
    ones += [np.ones(()), np.ones((0, 2)), np.ones((3, 2)).T, np.ones((4, 4))[::2, 1:3]]
    for array in ones:
        total = comm.all_reduce(array)
        assert total.dtype == array.dtype
        assert total.shape == array.shape
        assert np.array_equal(total, comm.size * array)
        assert np.array_equal(array, np.ones_like(array))
    # Libraries reduce small, middling and large arrays by different algorithms.
    for size in (1, 10, 3_000, 500_000):
        mine = np.random.default_rng(comm.rank).standard_normal(size) * 1e3**comm.rank
        total = comm.all_reduce(mine).tobytes()
        assert comm.broadcast(total) == total, "sums are not the same bits on every rank"
    assert comm.broadcast({"rank": comm.rank}) == {"rank": 0}
    assert comm == hessops_mpi.world()
    assert hash(comm) == hash(hessops_mpi.world())
    assert comm.local_rank() == comm.rank
    uneven = hessops_mpi.shard(list(range(2)), comm)
    lengths = np.zeros(comm.size)
    lengths[comm.rank] = len(uneven)
    say(comm, comm.all_reduce(lengths).tolist())


def fault(what):
    """Go wrong on rank 1 in the middle of a run."""
    comm = hessops_mpi.world()
    A = hessops_mpi.data_parallel(np.diag(np.arange(1.0, 31.0)), comm)
    hessops.trace(A, num_probes=2, rng=0)
    if comm.rank == 1:
        sys.stderr.write(f"rank 1 goes wrong at {time.time()}\n")
        sys.stderr.flush()
        FAULTS.get(what, do_nothing)(A)
    if what == "return" and comm.rank == 1:
        return
    if what in ALL:
        ALL[what](comm, comm.rank == 1)
    hessops.trace(A, num_probes=2, rng=0)
    raise AssertionError("nothing has gone wrong")


def do_nothing(A):
    """What the other ranks do."""


def fail(A):
    raise KeyError("what rank 1 has to say")


def wait(comm, here):
    say(comm, "waiting")
    sys.stdout.flush()
    time.sleep(1000)


# What rank 1 does alone.
FAULTS = {
    "raise": fail,
    "exit": lambda A: sys.exit(5),
    "kill": lambda A: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda A: time.sleep(1000),
    "seed": lambda A: hessops.trace(A, num_probes=2, rng=1),
    "arguments": lambda A: hessops.trace(A, num_probes=4, rng=0),
    "verb": lambda A: hessops.eigsh(A, 2, rng=0),
}
# What all ranks do, and rank 1 otherwise.
ALL = {
    "product": lambda comm, here: hessops_mpi.data_parallel(Broken(30, here), comm) @ np.ones(30),
    "term": lambda comm, here: hessops.trace(of_terms(comm, here), num_probes=2, rng=0),
    "block": lambda comm, here: of_terms(comm, False) @ np.full(30, 1.0 + here),
    "vectors": lambda comm, here: hessops.cg(of_terms(comm, False), np.full(30, 1.0 + here)),
    "shape": lambda comm, here: hessops_mpi.data_parallel(np.eye(30 + here), comm),
    "length": lambda comm, here: hessops_mpi.shard(list(range(30 + here)), comm),
    "items": lambda comm, here: hessops_mpi.shard(np.eye(30)[:: -1 if here else 1], comm),
    "wait": wait,
}


class Broken(hessops.LinearOperator):
    """An operator that fails on one rank."""

    def __init__(self, n, broken, structure=GENERAL):
        super().__init__(hessops.ArraySpace(n), structure=structure)
        self.broken = broken

    def _apply(self, X):
        if self.broken:
            raise MemoryError("too little memory on this rank")
        return X


def of_terms(comm, broken):
    """Return a sum of two terms of each rank, of which one may fail."""
    whole = aslinearoperator(np.eye(30), positive_semidefinite=True)
    second = Broken(30, broken, whole.structure)
    return hessops_mpi.data_parallel(FiniteSum([whole, second]), comm)


def caught():
    """Catch on all ranks what one has met in the product with a term, and go on."""
    comm = hessops_mpi.world()
    try:
        hessops.trace(of_terms(comm, comm.rank == 1), num_probes=2, rng=0)
    except (MemoryError, RuntimeError) as error:
        words = str(error)
    found = comm.all_reduce(np.array([float(words.startswith("rank 1 of 3: "))]))
    trace = hessops.trace(of_terms(comm, False), num_probes=2, rng=0)
    say(comm, [words, found.tolist(), trace.value])


def warn():
    """Miss a target, and warn of something on one rank alone."""
    comm = hessops_mpi.world()
    A = hessops_mpi.data_parallel(np.diag(np.arange(1.0, 31.0)), comm)
    result = hessops.cg(A, np.ones(30), max_steps=2)
    if comm.rank == 1:
        warnings.warn("seen by rank 1 alone", RuntimeWarning, stacklevel=1)
    say(comm, result.converged)


def device_arrays():
    """Sums of arrays that MPI reads where they are: here of PyTorch's, on the host."""
    import torch

    import hessops_mpi.communicator as module

    waited = []
    module.is_on_host = lambda array: isinstance(array, np.ndarray)
    module.synchronize = waited.append
    comm = hessops_mpi.world(cuda_aware=True)
    for array in (torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float64).T, torch.ones(())):
        total = comm.all_reduce(array)
        assert torch.is_tensor(total)
        assert (total.shape, total.dtype) == (array.shape, array.dtype)
        assert torch.equal(total, comm.size * array)
        assert torch.equal(array, torch.ones_like(array))
    say(comm, len(waited))


def network():
    """The same network, on the first 1, 2, 3 and 4 of the ranks."""
    from mpi4py import MPI

    world = hessops_mpi.world()
    found = {}
    for size in range(1, world.size + 1):
        color = 0 if world.rank < size else MPI.UNDEFINED
        group = world.mpi.Split(color)
        if group == MPI.COMM_NULL:
            continue
        found[size] = of_network(hessops_mpi.MpiComm(group))
    say(world, found)


def of_network(comm):
    import torch

    import hessops_torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    model = model.double()
    X, y = torch.randn(23, 4, dtype=torch.float64), torch.randint(3, (23,))
    data = torch.utils.data.TensorDataset(X, y)
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64))
    mine = hessops_mpi.shard(loader, comm)
    H = hessops_torch.hessian(model, loss, mine, weight_decay=0.01, comm=comm)
    G = hessops_torch.ggn(model, loss, mine, comm=comm)
    of_samples = hessops_mpi.shard(data, comm, batch_size=5)
    again = hessops_torch.hessian(model, loss, of_samples, micro_batch_size=5, comm=comm)
    return {
        **answers(H),
        "repr": repr(H),
        "traces": [hessops.trace(A, num_probes=3, rng=0).value for A in (G, again)],
    }


def say(comm, answer):
    if comm.rank == 0:
        sys.stdout.write(json.dumps(answer) + "\n")


def recorded(folder, steps, kill):
    """Run with products kept in a folder; be killed after some, or finish."""
    comm = hessops_mpi.world()
    A = hessops_mpi.data_parallel(parts(hessops_mpi.shard(MATRICES, comm)), comm)
    A = hessops.checkpointed(A, Path(folder))

    def callback(state):
        if kill == "kill" and state.step == 3 and comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    result = hessops.eigsh(A, 2, max_steps=int(steps), rng=0, callback=callback)
    trace = hessops.trace(A, num_probes=3, rng=0)
    say(
        comm,
        {
            "eigenvalues": result.eigenvalues.tolist(),
            "trace": trace.value,
            "replayed": A.num_replayed,
            "made": A.num_made,
        },
    )


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

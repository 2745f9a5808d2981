"""How often ranks meet, and what they send: counted, per product and per step.

What is less than it could be is said where it is asserted.
"""

import numpy as np
import pytest
from doubles import run_on_ranks
from row_doubles import on_row_ranks
from strategies import normal

import hessops

pytest.importorskip("mpi4py")

import hessops_mpi

POINTS = (40, 40)
SIZE = 3


def counted_step(verb, **options):
    """Return what the last step of a verb on a Laplacian takes, on rank 1, which has two neighbours."""

    def work(comm):
        counting = hessops_mpi.CountingComm(comm)
        A = hessops_mpi.sharded_laplacian(POINTS, counting)
        seen = []
        verb(
            A,
            callback=lambda _: seen.append((counting.calls, counting.sent_bytes)),
            rng=0,
            **options,
        )
        (before, bytes_before), (after, bytes_after) = seen[-2:]
        calls = {name: after[name] - before.get(name, 0) for name in after}
        sent = {name: bytes_after[name] - bytes_before.get(name, 0) for name in after}
        return {name: calls[name] for name in calls if calls[name]}, sent

    return on_row_ranks(work, SIZE)[1]


@pytest.mark.parametrize("num_probes", [1, 4, 16])
def test_a_step_of_quadrature(num_probes):
    # Alpha and beta of all probes together. The broadcasts are rank 0's coefficients, and its word on
    # whether to go on: whatever ranks round, none goes alone.
    calls, sent = counted_step(hessops.spectral_density, num_probes=num_probes, num_steps=6)
    assert calls == {"exchange": 1, "all_reduce": 1, "broadcast": 2}
    # Two lines of the grid, a number of every probe for each point.
    assert sent["exchange"] == 2 * POINTS[1] * num_probes * 8
    # Of every probe alpha, the inner product with the vector before, and two squared norms.
    assert sent["all_reduce"] == 4 * num_probes * 8


def test_a_step_whose_beta_would_lose_digits():
    # Beta is a thousandth of alpha: its square would be a difference of nearly equal numbers.
    calls, sent = counted_step(
        lambda A, **options: hessops.spectral_density(
            A + 4000 * hessops.Identity(A.domain), **options
        ),
        num_probes=4,
        num_steps=6,
    )
    assert calls == {"exchange": 1, "all_reduce": 2, "broadcast": 3}
    assert sent["all_reduce"] == (4 + 1) * 4 * 8


def test_a_step_of_lanczos_with_full_reorthogonalization():
    # One for each of two passes over the basis, which alpha comes with, and one for the norm.
    calls, sent = counted_step(hessops.lanczos, num_steps=8)
    assert calls == {"exchange": 1, "all_reduce": 3, "broadcast": 2}
    assert sent["all_reduce"] == (2 * 8 + 1) * 8


@pytest.mark.parametrize("choice", ["none", "partial"])
def test_a_step_of_lanczos_that_takes_nothing_off(choice):
    calls, _ = counted_step(hessops.lanczos, num_steps=6, reorthogonalize=choice)
    assert calls == {"exchange": 1, "all_reduce": 1, "broadcast": 2}


def test_a_step_of_eigsh():
    # Without sweeps: alpha, then the norm. A third broadcast tells all ranks rank 0's Ritz pairs.
    calls, _ = counted_step(hessops.eigsh, k=2, which="LA")
    assert calls == {"exchange": 1, "all_reduce": 2, "broadcast": 3}


@pytest.mark.parametrize("block_size", [1, 8])
def test_a_block_of_probes(block_size):
    calls, _ = counted_step(
        hessops.trace, method="hutchinson", num_probes=4 * block_size, block_size=block_size
    )
    assert calls == {"exchange": 1, "all_reduce": 1, "broadcast": 1}


def test_a_block_of_xtrace():
    # Two products. A pass of QR takes two reductions, one against the basis and one of triangles, for a
    # block of any width; there are two passes, and one reduction for the squared norms.
    calls, _ = counted_step(hessops.trace, method="xtrace", max_products=48)
    assert calls == {"exchange": 2, "all_reduce": 5, "broadcast": 5}


def counted_product(make, width, runner=on_row_ranks):
    def work(comm):
        counting = hessops_mpi.CountingComm(comm)
        A = make(counting)
        X = np.ones((A.domain.local_dim, width))
        A.apply(X)
        counting.reset()
        A.apply(X)
        return counting.calls, counting.sent_bytes

    return runner(work, SIZE)[1]


@pytest.mark.parametrize("width", [1, 16])
def test_a_product_of_a_split_matrix(width):
    calls, sent = counted_product(lambda comm: hessops_mpi.sharded_laplacian(POINTS, comm), width)
    assert (calls, sent) == ({"exchange": 1}, {"exchange": 2 * POINTS[1] * width * 8})


@pytest.mark.parametrize("width", [1, 16])
def test_a_product_of_split_data(width):
    share = hessops.aslinearoperator(normal(0, (30, 30)))
    calls, sent = counted_product(
        lambda comm: hessops_mpi.data_parallel(share, comm), width, run_on_ranks
    )
    assert calls == {"all_reduce": 1}
    # And a flag of every rank.
    assert sent["all_reduce"] == (30 * width + SIZE) * 8


@pytest.mark.parametrize("width", [1, 16])
def test_a_product_of_split_data_and_split_vectors(width):
    share = hessops.aslinearoperator(normal(0, (30, 30)))
    calls, sent = counted_product(
        lambda comm: hessops_mpi.sharded(hessops_mpi.data_parallel(share, comm), comm), width
    )
    # Both together send what one sum does; and there is a flag of every rank.
    assert calls == {"all_gather_rows": 1, "reduce_scatter_rows": 1, "all_reduce": 1}
    assert sent == {
        "all_gather_rows": 10 * width * 8,
        "reduce_scatter_rows": 30 * width * 8,
        "all_reduce": SIZE * 8,
    }


@pytest.mark.parametrize("width", [1, 8])
def test_a_product_of_a_network_on_split_data(width):
    torch = pytest.importorskip("torch")
    import copy

    import hessops_torch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2).double()
    batches = [(torch.randn(3, 4).double(), torch.randn(3, 2).double()) for _ in range(SIZE)]

    def work(comm):
        counting = hessops_mpi.CountingComm(comm)
        H = hessops_torch.hessian(
            copy.deepcopy(model), torch.nn.MSELoss(), [batches[comm.rank]], comm=counting
        )
        X = torch.ones(10, width, dtype=torch.float64)
        H.apply(X)
        counting.reset()
        H.apply(X)
        return counting.calls

    assert run_on_ranks(work, SIZE)[0] == {"all_reduce": 1}

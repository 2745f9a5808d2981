"""What tests/test_sharded_mpi.py runs on several ranks: each holds itself against one process."""

import json
import sys

import numpy as np
import scipy.sparse

import hessops
import hessops_mpi
from hessops.random import Stream

RTOL = 1e-12
N = 301


def symmetric():
    rng = np.random.default_rng(8)
    diagonals = [
        rng.uniform(0.1, 0.2, N - 17),
        rng.uniform(0.5, 1.5, N - 1),
        np.linspace(3.5, 9, N),
    ]
    lower = scipy.sparse.csr_array(scipy.sparse.diags_array(diagonals, offsets=[-17, -1, 0]))
    return scipy.sparse.csr_array(lower + lower.T)


def uneven(size):
    """Return rows for every rank, of which the last of three or more gets none."""
    return [N] if size == 1 else [N - 40, 40] + [0] * (size - 2)


def assert_near(found, expected):
    assert np.linalg.norm(np.subtract(found, expected)) <= RTOL * np.linalg.norm(expected)


def assert_same(A, serial, verb, *names, **options):
    mine, other = verb(A, rng=3, **options), verb(serial, rng=3, **options)
    assert mine.num_products == other.num_products
    for name in names:
        assert_near(getattr(mine, name), getattr(other, name))
    return mine


def say(comm, answer):
    if comm.rank == 0:
        sys.stdout.write(json.dumps(answer) + "\n")


def matrix():
    comm = hessops_mpi.world()
    whole = symmetric()
    counts = uneven(comm.size)
    serial = hessops.aslinearoperator(whole, positive_semidefinite=True)
    A = hessops_mpi.sharded_matrix(
        whole if comm.rank == 0 else None, comm, row_counts=counts, positive_semidefinite=True
    )
    rows = slice(*A.domain.rows)
    probes = serial.domain.probes(Stream(1), range(3), "normal")
    assert np.array_equal(A.domain.probes(Stream(1), range(3), "normal"), probes[rows])
    assert np.array_equal(A.apply(probes[rows]), (whole @ probes)[rows])
    assert_same(A, serial, hessops.trace, "value", num_probes=8)
    assert_same(A, serial, hessops.trace, "value", method="xtrace", max_products=20)
    assert_same(A, serial, hessops.spectral_density, "nodes", "weights", num_probes=4, num_steps=10)
    assert_same(A, serial, hessops.lanczos, "alphas", "betas", num_steps=10)
    assert_same(A, serial, hessops.logdet, "value", num_probes=4, rtol=1e-2)
    assert_same(A, serial, hessops.nystrom, "eigenvalues", rank=8)
    assert_same(A, serial, hessops.power_iteration, "eigenvalues", tol=1e-2)
    pairs = assert_same(A, serial, hessops.eigsh, "eigenvalues", k=2)
    V = pairs.eigenvectors
    assert V.shape == (A.domain.local_dim, 2)
    overlap = A.domain.gram(V, A.apply(V))
    assert np.abs(overlap - np.diag(pairs.eigenvalues)).max() <= pairs.residual_norms.max()
    tall = scipy.sparse.random_array((N, 20), density=0.2, rng=np.random.default_rng(4)).tocsr()
    A = hessops_mpi.sharded_matrix(tall, comm, row_counts=counts)
    serial = hessops.aslinearoperator(tall)
    assert_same(A, serial, hessops.svds, "singular_values", k=1, tol=1e-3)
    say(comm, comm.size)


def vectors():
    comm = hessops_mpi.world()
    whole = symmetric().toarray()
    serial = hessops.aslinearoperator(whole)
    counting = hessops_mpi.CountingComm(comm)
    mine = hessops.aslinearoperator(whole * (comm.rank + 1) / sum(range(comm.size + 1)))
    kept = hessops_mpi.sharded(serial, counting, row_counts=uneven(comm.size))
    added = hessops_mpi.sharded(mine, counting, share=True, row_counts=uneven(comm.size))
    for A in (kept, added):
        assert_same(A, serial, hessops.lanczos, "alphas", "betas", num_steps=10)
        assert_same(A, serial, hessops.trace, "value", num_probes=5)
    assert counting.calls["all_gather_rows"] == 2 * (10 + 1)
    # Without the counts: what a user writes.
    A = hessops_mpi.sharded(serial, comm)
    assert_same(A, serial, hessops.lanczos, "alphas", num_steps=6)
    say(comm, A.domain.local_dim)


def groups():
    comm = hessops_mpi.world()
    ranks = hessops_mpi.grid(comm, probes=2)
    whole = symmetric()
    A = hessops_mpi.sharded_matrix(whole, ranks.rows)
    trace = hessops.trace(whole, method="hutchinson", num_probes=7, rng=3)
    assert_near(ranks.trace(A, num_probes=7, rng=3).value, trace.value)
    density = hessops.spectral_density(whole, num_probes=5, num_steps=10, rng=3)
    found = ranks.spectral_density(A, num_probes=5, num_steps=10, rng=3)
    assert_near(found.nodes, density.nodes)
    assert_near(found.weights, density.weights)
    say(comm, [ranks.rows.size, ranks.probes.size])


def fault():
    comm = hessops_mpi.world()
    eye = scipy.sparse.eye_array(10, format="csr")
    hessops_mpi.sharded_matrix(eye * (np.inf if comm.rank == 1 else 1.0), comm)


if __name__ == "__main__":
    globals()[sys.argv[1]]()

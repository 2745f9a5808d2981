"""Split vectors on real processes: the answers of one process, with the same seed."""

import pytest

pytest.importorskip("mpi4py")

from row_doubles import mpirun

SCRIPT = """
import numpy as np, scipy.sparse
import hessops, hessops_mpi
from hessops.random import Stream

comm = hessops_mpi.world()
rng = np.random.default_rng(8)
n = 301
matrix = scipy.sparse.csr_array(scipy.sparse.diags_array(
    [rng.uniform(0.1, 0.2, n - 17), rng.uniform(0.5, 1.5, n - 1), np.linspace(3.5, 9, n)],
    offsets=[-17, -1, 0],
))
matrix = scipy.sparse.csr_array(matrix + matrix.T)
# Uneven, and the last of three or more ranks has nothing.
counts = [n] if comm.size == 1 else [n - 40] + [40] + [0] * (comm.size - 2)
serial = hessops.aslinearoperator(matrix, positive_semidefinite=True)
A = hessops_mpi.sharded_matrix(
    matrix if comm.rank == 0 else None, comm, row_counts=counts, positive_semidefinite=True
)
first, last = A.domain.rows

probes = serial.domain.probes(Stream(1), range(3), "normal")
assert np.array_equal(A.domain.probes(Stream(1), range(3), "normal"), probes[first:last])
assert np.array_equal(A.apply(probes[first:last]), (matrix @ probes)[first:last])

def near(found, expected):
    return np.linalg.norm(np.subtract(found, expected)) <= 1e-12 * np.linalg.norm(expected)

def same(verb, *names, **options):
    mine, other = verb(A, rng=3, **options), verb(serial, rng=3, **options)
    assert mine.num_products == other.num_products
    for name in names:
        assert near(getattr(mine, name), getattr(other, name)), (verb, name)
    return mine

same(hessops.trace, "value", num_probes=8)
same(hessops.trace, "value", method="xtrace", max_products=20)
same(hessops.spectral_density, "nodes", "weights", num_probes=4, num_steps=10)
same(hessops.lanczos, "alphas", "betas", num_steps=10)
same(hessops.logdet, "value", num_probes=4, rtol=1e-2)
same(hessops.nystrom, "eigenvalues", rank=8)
same(hessops.power_iteration, "eigenvalues", tol=1e-2)
pairs = same(hessops.eigsh, "eigenvalues", k=2)
V = pairs.eigenvectors
assert V.shape == (last - first, 2)
overlap = A.domain.gram(V, A.apply(V))
assert np.abs(overlap - np.diag(pairs.eigenvalues)).max() <= pairs.residual_norms.max()

tall = scipy.sparse.random_array((n, 20), density=0.2, rng=np.random.default_rng(4)).tocsr()
A = hessops_mpi.sharded_matrix(tall, comm, row_counts=counts)
serial = hessops.aslinearoperator(tall)
same(hessops.svds, "singular_values", k=1, tol=1e-3)
if comm.rank == 0:
    print("the same on", comm.size)
"""

FAULTY = """
import scipy.sparse, hessops_mpi
comm = hessops_mpi.world()
matrix = scipy.sparse.eye_array(10, format="csr") * (float("inf") if comm.rank == 1 else 1.0)
try:
    hessops_mpi.sharded_matrix(matrix, comm)
except Exception as error:
    told = comm.broadcast(str(error))
    if comm.rank == 0:
        print(told)
"""


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_answers_of_one_process(size):
    assert mpirun(SCRIPT, size).split("\n")[0] == f"the same on {size}"


def test_an_error_on_one_rank_is_told_to_the_others():
    assert "rank 1 of 2: the matrix holds 10 entries" in mpirun(FAULTY, 2)

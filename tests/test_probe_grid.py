"""Groups of ranks that share the probes: the probes and the answers of one process."""

import numpy as np
import pytest
import scipy.sparse
from strategies import norm

import hessops

pytest.importorskip("mpi4py")

from row_doubles import on_row_ranks
from test_sharded_matrix import N, path

import hessops_mpi

MATRIX = path(N)
GRIDS = [(1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (6, 3)]


@pytest.mark.parametrize(("size", "groups"), GRIDS)
@pytest.mark.parametrize("probe", ["rademacher", "sphere"])
def test_the_trace_of_one_process(size, groups, probe):
    serial = hessops.trace(
        MATRIX, method="hutchinson", num_probes=7, probe=probe, block_size=2, rng=4
    )

    def work(comm):
        ranks = hessops_mpi.grid(comm, probes=groups)
        A = hessops_mpi.sharded_matrix(MATRIX, ranks.rows)
        return ranks.trace(A, num_probes=7, probe=probe, block_size=2, rng=4)

    for result in on_row_ranks(work, size):
        assert result.value == pytest.approx(serial.value, rel=1e-12)
        assert result.standard_error == pytest.approx(serial.standard_error, rel=1e-10)
        assert np.allclose(result.interval, serial.interval, rtol=1e-12)
        assert (result.num_products, result.num_probes, result.seed) == (7, 7, 4)


@pytest.mark.parametrize(("size", "groups"), GRIDS)
@pytest.mark.parametrize("reorthogonalize", [False, True])
def test_the_density_of_one_process(size, groups, reorthogonalize):
    options = {"num_probes": 5, "num_steps": 9, "reorthogonalize": reorthogonalize, "rng": 4}
    serial = hessops.spectral_density(MATRIX, **options)

    def work(comm):
        ranks = hessops_mpi.grid(comm, probes=groups)
        A = hessops_mpi.sharded_matrix(MATRIX, ranks.rows)
        return ranks.spectral_density(A, **options)

    results = on_row_ranks(work, size)
    for result in results:
        for name in ("nodes", "weights"):
            found, expected = getattr(result, name), getattr(serial, name)
            assert norm(found - expected) <= 1e-12 * norm(expected)
        assert result.num_products == serial.num_products
        assert str(result.density()) == str(results[0].density())


def test_sections_are_merged_too():
    space = hessops.ArraySpace(N, sections={"a": (0, 10), "b": (10, N)})
    from hessops.operators.elementary import MatrixOperator

    A = MatrixOperator(MATRIX, space, space, structure=hessops.structure.SELF_ADJOINT)
    serial = hessops.trace(A, method="hutchinson", num_probes=6, rng=4)

    def work(comm):
        return hessops_mpi.grid(comm, probes=2).trace(A, num_probes=6, rng=4)

    for result in on_row_ranks(work, 2):
        for name in ("a", "b"):
            found, expected = result.sections[name], serial.sections[name]
            assert found.value == pytest.approx(expected.value, rel=1e-12)
            assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-10)
            assert found.freedom == expected.freedom


def test_a_generator_and_fresh_entropy_give_all_groups_one_seed():
    def work(comm):
        ranks = hessops_mpi.grid(comm, probes=2)
        return ranks.trace(hessops.Identity(5), num_probes=4, rng=None).seed

    assert len(set(on_row_ranks(work, 4))) == 1


def test_what_does_not_fit_is_refused():
    def work(comm):
        with pytest.raises(ValueError, match="cannot share 4 ranks evenly"):
            hessops_mpi.grid(comm, probes=3)
        ranks = hessops_mpi.grid(comm, probes=4)
        with pytest.raises(ValueError, match="leaves some of 4 groups without a probe"):
            ranks.trace(hessops.Identity(5), num_probes=3)
        with pytest.raises(ValueError, match="rank 0 has the seed"):
            ranks.trace(hessops.Identity(5), num_probes=8, rng=comm.rank // 2)

    on_row_ranks(work, 4)


@pytest.mark.parametrize("option", ["num_probes", "block_size"])
def test_other_options_on_another_rank_are_refused(option):
    def work(comm):
        ranks = hessops_mpi.grid(comm, probes=2)
        options = {"num_probes": 6, "block_size": 3, option: 4 + comm.rank}
        with pytest.raises(ValueError, match=f"{option} is"):
            ranks.trace(hessops.Identity(5), rng=0, **options)

    on_row_ranks(work, 2, timeout=5.0)


def refused_on_all(size, groups, make, match):
    """Hold that both verbs refuse an operator on all ranks."""

    def work(comm):
        ranks = hessops_mpi.grid(comm, probes=groups)
        A = make(comm, ranks)
        with pytest.raises(ValueError, match=match):
            ranks.trace(A, num_probes=6, rng=0)
        with pytest.raises(ValueError, match=match):
            ranks.spectral_density(A, num_probes=6, num_steps=4, rng=0)

    on_row_ranks(work, size, timeout=5.0)


@pytest.mark.parametrize(("size", "groups"), [(2, 2), (4, 2)])
def test_an_operator_made_with_other_ranks_is_refused(size, groups):
    refused_on_all(
        size,
        groups,
        lambda comm, ranks: hessops_mpi.sharded_matrix(MATRIX, comm),
        r"make it with ranks\.rows",
    )


def test_so_is_one_made_with_the_ranks_of_other_groups():
    refused_on_all(
        4,
        2,
        lambda comm, ranks: hessops_mpi.sharded_matrix(MATRIX, ranks.probes),
        r"make it with ranks\.rows",
    )


@pytest.mark.parametrize(("size", "groups"), [(2, 2), (4, 2)])
def test_groups_with_different_operators_are_refused(size, groups):
    refused_on_all(
        size,
        groups,
        lambda comm, ranks: hessops_mpi.sharded_matrix(
            MATRIX * (1 + 1e-3 * ranks.probes.rank), ranks.rows
        ),
        f"rank {size // groups} has another operator than rank 0",
    )


def test_so_are_permuted_ones_with_the_same_traces():
    def make(comm, ranks):
        order = np.roll(np.arange(N), ranks.probes.rank)
        return hessops_mpi.sharded_matrix(
            scipy.sparse.csr_array(MATRIX)[order][:, order], ranks.rows
        )

    refused_on_all(2, 2, make, "rank 1 has another operator than rank 0")


def test_an_operator_that_one_rank_lacks_is_refused_on_all():
    refused_on_all(2, 2, lambda comm, ranks: np.ones((3, 3 + comm.rank)), "needs a square operator")


def test_other_numbers_of_groups_are_refused_on_all():
    def work(comm):
        with pytest.raises(ValueError, match="probes is "):
            hessops_mpi.grid(comm, probes=1 + comm.rank % 2)

    on_row_ranks(work, 2, timeout=5.0)


def test_one_process_is_a_grid():
    ranks = hessops_mpi.grid(hessops.SerialComm(), probes=1)
    matrix = scipy.sparse.csr_array(MATRIX)
    found = ranks.trace(matrix, num_probes=6, rng=2)
    assert found.value == pytest.approx(
        hessops.trace(matrix, method="hutchinson", num_probes=6, rng=2).value, rel=1e-14
    )

"""Split vectors on real ranks: the answers of one process, with the same seed."""

import sys
from pathlib import Path

import pytest
from mpi_launch import needs_mpi, run

pytestmark = needs_mpi

PROGRAMS = Path(__file__).with_name("sharded_programs.py")
# Ranks that wait leave the processor to others: there are more of them than cores.
QUIET = {"OMPI_MCA_mpi_yield_when_idle": "1"}


def run_program(size, name):
    return run(size, sys.executable, PROGRAMS, name, **QUIET)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_split_matrices_give_the_answers_of_one_process(size):
    assert run_program(size, "matrix").answer == size


def test_split_vectors_give_the_answers_of_one_process():
    assert run_program(3, "vectors").answer == 100


def test_groups_of_ranks_give_the_answers_of_one_process():
    assert run_program(4, "groups").answer == [2, 2]


def test_an_error_on_one_rank_is_told_to_the_others_and_ends_them():
    ended = run_program(3, "fault")
    assert ended.code != 0
    assert "the matrix holds 10 entries that are NaN or infinite" in ended.err

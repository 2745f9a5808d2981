"""Engines take blocks of start vectors, and say so of anything else."""

import numpy as np
import pytest

from hessops import aslinearoperator
from hessops.algorithms.eigen.golub_kahan import svds_steps
from hessops.algorithms.eigen.locally_optimal import lobpcg_steps
from hessops.algorithms.eigen.power import power_steps
from hessops.algorithms.eigen.thick_restart import eigsh_steps
from hessops.algorithms.krylov.lanczos import lanczos_steps
from hessops.random import Stream

A = aslinearoperator(np.diag(np.arange(1.0, 6.0)))
ENGINES = {
    "lanczos": lambda start: lanczos_steps(A, start),
    "power": lambda start: power_steps(A, start, stream=Stream(0)),
    "eigsh": lambda start: eigsh_steps(A, start, stream=Stream(0), num_ends=1),
    "svds": lambda start: svds_steps(A, start, stream=Stream(0), count=1),
    "lobpcg": lambda start: lobpcg_steps(A, start, stream=Stream(0)),
}
every_engine = pytest.mark.parametrize("steps", ENGINES.values(), ids=ENGINES.keys())


@every_engine
@pytest.mark.parametrize("start", [np.ones(5), np.ones((4, 1)), np.ones((1, 5, 1)), [1.0] * 5, 3.0])
def test_what_is_no_block_is_refused(steps, start):
    with pytest.raises(
        ValueError, match=r"start must be a block of shape \(5, k\), got .*: of one"
    ):
        next(steps(start))


@every_engine
def test_a_block_is_taken(steps):
    assert next(steps(np.ones((5, 1)))) is not None

"""Verbs that never look at the loss itself say, too, that it is NaN for a sample."""

import pytest

pytest.importorskip("torch")

import torch
from torch_problems import every_device, regression

import hessops
from hessops_torch import gauss_newton_diagonal, gauss_newton_trace, ggn


@every_device
@pytest.mark.parametrize("which", [0, 1], ids=["input", "target"])
def test_gauss_newton_trace_and_diagonal(device, which):
    problem = regression(device, sizes=(4, 4))
    batches = [[t.clone() for t in batch] for batch in problem.batches]
    batches[1][which][2, 0] = torch.nan
    G = ggn(problem.model, problem.loss, [tuple(batch) for batch in batches])
    for compute in (
        lambda: gauss_newton_trace(G, method="exact"),
        lambda: gauss_newton_trace(G, method="sampled", rng=0),
        lambda: gauss_newton_diagonal(G),
    ):
        with pytest.raises(hessops.NonFiniteError, match="loss of micro-batch 1 is nan: look for"):
            compute()

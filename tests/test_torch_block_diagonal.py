"""Operators without what couples their layers, and restricted to some, against dense blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch_problems import (
    assert_same,
    batch_sizes,
    every_device,
    few_examples,
    images,
    language,
    normal,
    regression,
    rows_of,
    seeds,
    ways_to_compute,
)

from hessops_torch import Hessian, block_diagonal, hessian, layer_curvature

# Normal tails: 2e-9 for every comparison.
Z = 6.0


def only_blocks(model, dense, blocks):
    """Return a dense matrix without what couples its blocks."""
    expected = torch.zeros_like(dense)
    for names in blocks.values():
        rows = rows_of(model, names).to(dense.device)
        expected[rows[:, None], rows] = dense[rows[:, None], rows]
    return expected


@every_device
@given(batch_sizes, ways_to_compute(), st.sampled_from([0.0, 0.3]), st.integers(1, 40), seeds)
@few_examples
def test_block_diagonal_of_mlps(device, sizes, ways, decay, block_size, seed):
    problem = regression(device, sizes, seed)
    operator = block_diagonal(hessian(*problem.arguments, weight_decay=decay, **ways))
    dense = problem.dense()
    dense += decay * torch.eye(len(dense), device=device, dtype=dense.dtype)
    expected = only_blocks(problem.model, dense, operator.blocks)
    assert_same(operator.to_dense(block_size=block_size), expected)
    assert_same(sum(term.to_dense() for term in operator.terms()), expected)


@every_device
@pytest.mark.parametrize("make_problem", [regression, images, language])
@pytest.mark.parametrize("general", [False, True])
def test_block_diagonal(device, make_problem, general, monkeypatch):
    """By one graph for all blocks, as Hessians do it, and by products with the whole."""
    if general:
        monkeypatch.delattr(Hessian, "_add_block_products")
    problem = make_problem(device)
    whole = hessian(*problem.arguments)
    dense = problem.dense()
    X = normal(0, len(dense), 3, device=device)
    for each in ("module", "tensor"):
        operator = block_diagonal(whole, each=each)
        assert operator.structure == whole.structure
        expected = only_blocks(problem.model, dense, operator.blocks) @ X
        assert_same(operator @ X, expected)
        # Once more by the graphs that were kept, which the whole uses too.
        assert len(operator.graphs) == len(whole.graphs) == len(problem.batches)
        assert_same(operator @ X, expected)
    assert_same(whole @ X, dense @ X)


def test_block_diagonal_of_some_parameters_acts_on_them_alone():
    problem = images("cpu")
    whole = hessian(*problem.arguments)
    operator = block_diagonal(whole, {"head": "6", "norms": ["1", "3.inner.1"]})
    dense = problem.dense()
    names = list(operator.domain.sections)
    rows = rows_of(problem.model, names)
    expected = only_blocks(problem.model, dense, operator.blocks)[rows[:, None], rows]
    assert_same(operator.to_dense(), expected)
    part = operator.restricted(["6.weight", "1"])
    rows = rows_of(problem.model, list(part.domain.sections))
    kept = {"head": ["6.weight"], "norms": ["1.weight", "1.bias"]}
    expected = only_blocks(problem.model, dense, kept)[rows[:, None], rows]
    assert_same(part.to_dense(), expected)
    with pytest.raises(ValueError, match=r"does not act on 0\.weight"):
        operator.restricted("0.weight")


def test_block_diagonals_have_less_noisy_layers():
    """Each probe's deviation is that of the block alone, and not of the rows that it lies in."""
    operator = hessian(*images("cpu").arguments)
    whole = layer_curvature(operator, num_probes=200, rng=0)
    alone = layer_curvature(block_diagonal(operator), num_probes=200, rng=0)
    for block in whole.blocks:
        difference = float(whole.traces[block]) - float(alone.traces[block])
        errors = [one.traces[block].standard_error for one in (whole, alone)]
        assert abs(difference) <= Z * np.hypot(*errors)
        assert errors[1] < errors[0]


@every_device
def test_restricted_operators_are_diagonal_blocks(device):
    problem = images(device)
    operator = hessian(*problem.arguments, weight_decay=0.2)
    operator.to_dense()
    block = operator.restricted("3.*")
    assert isinstance(block, Hessian)
    rows = rows_of(problem.model, list(block.domain.sections)).to(device)
    expected = problem.dense()[rows[:, None], rows]
    expected += 0.2 * torch.eye(len(rows), device=device, dtype=expected.dtype)
    assert_same(block.to_dense(), expected)
    assert_same(sum(term.to_dense() for term in block.terms()), expected)
    # What the whole keeps is not there for the block.
    assert block.graphs.memory_budget == operator.graphs.memory_budget - operator.graphs.num_bytes

"""Operators of one model in several threads at once."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

pytest.importorskip("torch")

import torch
from torch_problems import assert_same, every_device, images, normal

from hessops_torch import hessian

NUM_THREADS = 4


@pytest.fixture
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(jobs):
    """Run jobs in threads that begin together, and return what they return."""
    barrier = Barrier(len(jobs))

    def begin(job):
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(begin, jobs))


def everything_of(model):
    return {
        "modes": [module.training for module in model.modules()],
        "parameters": [(id(p), p._version, p.requires_grad) for p in model.parameters()],
        "buffers": [(id(b), b._version, b.tolist()) for b in model.buffers()],
        "kernels": torch.backends.mha.get_fastpath_enabled(),
        "random state": torch.get_rng_state().tolist(),
    }


@every_device
@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "read again"])
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_one_operator(device, memory_budget, resident, monkeypatch):
    if not resident:
        # With no memory free, no batch is kept on the device.
        module = importlib.import_module("hessops_torch.objective.objective")
        monkeypatch.setattr(module, "free_memory", lambda device: 0)
    problem = images(device, sizes=(4, 3, 3), train=True)
    expected = problem.dense()
    operator = hessian(*problem.arguments, memory_budget=memory_budget)
    before = everything_of(problem.model)
    blocks = [normal(seed, len(expected), 2, device=device) for seed in range(NUM_THREADS)]

    def products(block):
        return [operator @ block for _ in range(10)]

    for found, block in zip(
        at_once([lambda b=b: products(b) for b in blocks]), blocks, strict=True
    ):
        for product in found:
            assert_same(product, expected @ block)
    assert everything_of(problem.model) == before


@every_device
@pytest.mark.usefixtures("quick_switches")
def test_operators_of_one_model_that_want_it_in_different_states(device):
    evaluated, trained = images(device), images(device, train=True)
    problem = images(device)
    before = everything_of(problem.model)
    operators = {
        "eval": (hessian(*problem.arguments, mode="eval"), evaluated.dense()),
        "train": (hessian(*problem.arguments, mode="train", memory_budget=0), trained.dense()),
        "one layer": (hessian(*problem.arguments, params="6"), evaluated.dense()[-9:, -9:]),
        "sum": (hessian(*problem.arguments), evaluated.dense()),
    }

    def products(operator):
        return [operator.to_dense() for _ in range(3)]

    def by_terms(operator):
        return [sum(term.to_dense() for term in operator.terms()) for _ in range(3)]

    jobs = [
        lambda how=by_terms if name == "sum" else products, operator=operator: how(operator)
        for name, (operator, _) in operators.items()
    ]
    for found, (_, expected) in zip(at_once(jobs), operators.values(), strict=True):
        for dense in found:
            assert_same(dense, expected)
    assert everything_of(problem.model) == before

"""Operators of networks are pickled and copied with model and data, and are then as good as new."""

import copy
import pickle

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset
from torch_problems import build, every_device, integers, mlp, normal

import hessops_torch
from hessops_torch import hessian

LOSS = nn.CrossEntropyLoss()
WAYS = {"pickle": lambda A: pickle.loads(pickle.dumps(A)), "deepcopy": copy.deepcopy}


def of_a_function(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])


def problem(device, precision=torch.float64):
    model = build(lambda: mlp(5, outputs=3), 0, device, precision)
    x, y = normal(1, 7, 3, device=device).to(precision), integers(2, 3, 7, device=device)
    return model, LOSS, [(x[:4], y[:4]), (x[4:], y[4:])]


def plain(name):
    return lambda device: getattr(hessops_torch, name)(*problem(device))


def read_again(device, **options):
    model, loss, batches = problem(device)
    x, y = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    return hessian(model, loss, loader, memory_budget=0, **options)


MAKERS = {
    **{
        name: plain(name)
        for name in (
            "hessian", "ggn", "fisher", "empirical_fisher", "gradient_covariance",
            "residual_curvature",
        )
    },
    "function": lambda device: hessian(problem(device)[0], of_a_function, problem(device)[2]),
    "forward mode": lambda device: hessian(*problem(device), product="forward-over-reverse"),
    "pullbacks": lambda device: hessops_torch.ggn(*problem(device), product="batched"),
    "blocks": lambda device: hessops_torch.block_diagonal(hessian(*problem(device)), each="tensor"),
    "jacobian": lambda device: hessops_torch.jacobian(problem(device)[0], [problem(device)[2][0][0]]),
    "inputs": lambda device: hessops_torch.input_hessian(*problem(device)),
    "term": lambda device: next(iter(hessian(*problem(device)).terms())),
    "loader": read_again,
    "sum": lambda device: 2 * hessian(*problem(device)) + hessops_torch.ggn(*problem(device)),
}  # fmt: skip


@every_device
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_copy_multiplies_as_the_operator(device, make, used, way):
    operator = make(device)
    V = normal(3, operator.shape[1], 2, device=device)
    for _ in range(2 * used):
        operator @ V
    found = way(operator)
    for _ in range(2):
        torch.testing.assert_close(found @ V, operator @ V)


@every_device
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_copy_has_a_model_of_its_own(device, way):
    operator = hessian(*problem(device))
    before = operator.to_dense()
    found = way(operator)
    with torch.no_grad():
        for parameter in found.objective.model.parameters():
            parameter.mul_(2.0)
    assert torch.equal(operator.to_dense(), before)
    assert not torch.allclose(found.to_dense(), before)


@every_device
@pytest.mark.parametrize("way", [*WAYS.values(), copy.copy], ids=[*WAYS.keys(), "copy"])
def test_data_that_was_written_to_does_not_pass_as_new_by_a_copy(device, way):
    model, loss, batches = problem(device)
    operator = hessian(model, loss, batches)
    batches[0][0].add_(1.0)
    with pytest.raises(ValueError, match="micro-batch 0 was written to"):
        way(operator) @ normal(3, operator.shape[1], device=device)


@every_device
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_in_lower_precision_knows_its_error(device, used, way):
    operator = hessian(*problem(device, torch.float32), precision="bf16")
    error = operator.product_error if used else 0.0
    found = way(operator)
    assert found.precision == "bf16"
    assert found.product_error == (error or operator.product_error) > 0

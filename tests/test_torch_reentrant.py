"""Reentrant checkpoints of the data itself leave no trace in the graph; what is inside would be 0."""

import warnings

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch_problems import assert_is_hessian, build, dense_hessian, every_device, integers, normal

import hessops_torch
from hessops_torch import SplitLoss, hessian

MAKERS = {
    name: getattr(hessops_torch, name)
    for name in (
        "hessian", "ggn", "fisher", "empirical_fisher", "gradient_covariance", "residual_curvature",
    )
}  # fmt: skip
LOSS = nn.CrossEntropyLoss()


class Checkpointed(nn.Module):
    """Two layers, of which a checkpoint has the first, or something between them and the data."""

    def __init__(self, *, reentrant=True, what="first"):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.reentrant, self.what = reentrant, what

    def forward(self, x):
        scale = self.first.weight.norm()
        inside = {
            "first": lambda x: torch.tanh(self.first(x)),
            "captured": lambda x: nn.functional.pad(x * scale, (0, 1)),
            "nothing": lambda x: x.sin(),
        }[self.what]
        with torch.no_grad():
            # Who looks at weights without a graph means to.
            self.first.weight.norm()
        x = checkpoint(inside, x, use_reentrant=self.reentrant)
        return self.last(torch.tanh(self.first(x)) if self.what == "nothing" else x)


def problem(device, **options):
    model = build(lambda: Checkpointed(**options), 0, device)
    return model, [(normal(1, 5, 3, device=device), integers(2, 3, 5, device=device))]


def in_one_function(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])


@every_device
@pytest.mark.parametrize("what", ["first", "captured"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_what_is_cut_off_is_refused(device, make, what):
    model, data = problem(device, what=what)
    with pytest.raises(
        RuntimeError, match=r"first batch .*use_reentrant=True.*use_reentrant=False"
    ):
        make(model, LOSS, data)
    assert ("error", True) not in {
        (f[0], "None of the inputs" in str(f[1])) for f in warnings.filters
    }
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@every_device
@pytest.mark.parametrize(
    "loss", [in_one_function, SplitLoss(lambda m, b: m(b[0]), LOSS, lambda b: b[1])]
)
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_losses_of_all_kinds_are_looked_at(device, loss):
    with pytest.raises(RuntimeError, match=r"use_reentrant=False"):
        hessian(*problem(device)[:1], loss, problem(device)[1])
    model, data = problem(device, reentrant=False)
    expected = dense_hessian(model, lambda f: LOSS(f(data[0][0]), data[0][1]))
    assert_is_hessian(hessian(model, loss, data), expected)


@every_device
@pytest.mark.parametrize(("what", "params"), [("first", "last.*"), ("nothing", None)])
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_checkpoints_of_what_is_constant_do_no_harm(device, what, params):
    model, data = problem(device, what=what)
    found = hessian(model, LOSS, data, params=params).to_dense()
    model.reentrant = False
    torch.testing.assert_close(found, hessian(model, LOSS, data, params=params).to_dense())
    assert found.any()


@every_device
def test_other_warnings_are_told_as_before(device):
    class Telling(nn.Linear):
        def forward(self, x):
            warnings.warn("of the model", UserWarning, stacklevel=1)
            return super().forward(x)

    model = build(lambda: Telling(3, 3), 0, device)
    with pytest.warns(UserWarning, match="of the model"):
        hessian(model, LOSS, problem(device)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="of the model"):
            hessian(model, LOSS, problem(device)[1])

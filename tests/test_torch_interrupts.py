"""Ctrl-C at any line leaves the model as it was found, and operators right."""

import sys
from contextlib import contextmanager
from functools import partial

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import build, normal

from hessops_torch import ggn, hessian
from hessops_torch.model import state
from hessops_torch.products import transforms


class Model(nn.Module):
    """In train mode, with buffers, a frozen parameter, hooks, and activations that are put aside."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.outer.bias.requires_grad_(False)
        self.inner.weight.register_hook(lambda gradient: 2 * gradient)
        self.outer.register_full_backward_hook(lambda module, inputs, outputs: None)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.hidden = torch.tanh(self.norm(self.inner(x)))
        return self.outer(self.hidden)


class At:
    """Interrupts at one of the lines of a file, as long as something holds."""

    def __init__(self, file, line, holds):
        self.file = file
        self.left = line
        self.holds = holds
        self.where = None

    @contextmanager
    def tracing(self):
        before = sys.gettrace()
        sys.settrace(self._of_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _of_call(self, frame, event, argument):
        return self._of_line if frame.f_code.co_filename == self.file else None

    def _of_line(self, frame, event, argument):
        if event == "line" and self.holds(frame):
            self.left -= 1
            if self.left == 0:
                self.where = frame.f_code.co_name
                raise KeyboardInterrupt
        return self._of_line


def seen(model):
    """Return what a user would find changed."""
    return (
        [(id(p), p.requires_grad, bool(p._backward_hooks)) for p in model.parameters()],
        [id(buffer) for buffer in model.buffers()],
        [(m.training, len(m._backward_hooks)) for m in model.modules()],
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_grad_enabled(),
    )  # fmt: skip


def interrupted(make, file, line, holds):
    """Interrupt a product at a line; return where that was, None if it has no such line."""
    model = build(Model, 0, "cpu").train()
    batch = normal(1, 5, 3, device="cpu"), normal(2, 5, 2, device="cpu")
    A = make(
        model, nn.MSELoss(), [batch], params=["inner.*", "norm.*", "outer.weight"], mode="eval"
    )
    v, calls, before = torch.ones(A.shape[0], dtype=torch.float64), model.calls, seen(model)
    trap = At(file, line, lambda frame: holds(frame, model.calls > calls))
    with trap.tracing():
        try:
            A @ v
        except KeyboardInterrupt:
            assert trap.where is not None
    assert seen(model) == before, trap.where
    plain = make(
        model, nn.MSELoss(), [batch], params=["inner.*", "norm.*", "outer.weight"], mode="eval"
    )
    torch.testing.assert_close(A @ v, plain @ v, rtol=1e-12, atol=1e-14)
    return trap.where


WAYS = [hessian, partial(ggn, product="batched"), partial(hessian, product="forward-over-reverse")]


def lines(make, file, holds):
    """Interrupt at every line in turn, and return in which functions these were."""
    found, line = set(), 1
    while where := interrupted(make, file, line, holds):
        found.add(where)
        line += 1
    return found


def test_while_the_model_is_made_ready():
    """Copies of large buffers, say, take a while."""

    def before_it_is_applied(frame, applied):
        return not applied

    found = lines(hessian, state.__file__, before_it_is_applied)
    assert {"_mode", "_gradients_for", "_own_buffers", "_without_gradient_hooks"} <= found


@pytest.mark.parametrize("make", WAYS[1:])
def test_while_attributes_are_put_back(make):
    def there(frame, applied):
        return applied and frame.f_code.co_name == "attributes_kept"

    assert lines(make, transforms.__file__, there) == {"attributes_kept"}

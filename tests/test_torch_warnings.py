"""Warnings of the PyTorch backend point at the line that called, however deep they come from."""

import pytest

pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import regression

from hessops import ConvergenceWarning
from hessops_torch import ggn, hessian, hessian_trace


def test_of_a_trace_that_was_cut_short():
    operator = hessian(*regression("cpu").arguments)
    with pytest.warns(ConvergenceWarning) as caught:
        hessian_trace(operator, rtol=1e-4, max_products=20, rng=0)
    assert caught[0].filename == __file__


def test_of_a_closed_form_that_is_not_used(monkeypatch):
    mse_loss = F.mse_loss
    monkeypatch.setattr(F, "mse_loss", lambda z, t, **kw: 3 * mse_loss(z, t, **kw))
    operator = ggn(*regression("cpu").arguments)
    with pytest.warns(RuntimeWarning) as caught:
        operator.to_dense()
    assert caught[0].filename == __file__

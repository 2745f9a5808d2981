"""Ten mistakes that everybody makes, each with a sentence of its own that says what to do.

All are looked at in more detail elsewhere (test_torch_refusals.py, test_torch_refused_data.py,
test_torch_refused_losses.py, test_torch_messages.py); this is the list.
"""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch_problems import build, cut, every_device, mlp, regression, seeded

import hessops
from hessops_torch import hessian

SQUARES = nn.MSELoss()


def example(device, count=8):
    problem = regression(device, sizes=(count,))
    return problem.model, problem.batches[0]


def a_loader_that_shuffles(device):
    model, batch = example(device)
    return model, SQUARES, DataLoader(TensorDataset(*batch), batch_size=3, shuffle=True)


def a_dropout_left_on(device):
    model, batch = example(device)
    return nn.Sequential(model, nn.Dropout(0.5)).train(), SQUARES, batch


def an_empty_batch(device):
    model, (x, y) = example(device)
    return model, SQUARES, [(x, y), (x[:0], y[:0])]


def an_empty_first_batch(device):
    model, (x, y) = example(device)
    return model, SQUARES, [(x[:0], y[:0]), (x, y)]


def nan_for_one_sample(device):
    model, (x, y) = example(device)
    y = y.clone()
    y[5, 0] = torch.nan
    return model, SQUARES, cut([4, 4], x, y)


def a_frozen_model(device):
    model, batch = example(device)
    return model.requires_grad_(False), SQUARES, batch


def a_name_that_matches_nothing(device):
    model, batch = example(device)
    return model, SQUARES, batch, {"params": "0.wieght"}


def mixed_devices(device):
    model, batch = example(device)
    model[2].to("meta")
    return model, SQUARES, batch


def integers_where_floats_are_due(device):
    model, (x, y) = example(device)
    return model, nn.BCEWithLogitsLoss(), (x, (y > 0).long())


def integers_for_squares(device):
    model, (x, y) = example(device)
    return model, SQUARES, (x, (y > 0).long())


def integers_as_inputs(device):
    model, (x, y) = example(device)
    return model, SQUARES, (x.long(), y)


def a_generator(device):
    model, batch = example(device)
    return model, SQUARES, (part for part in [batch])


def a_batch_norm_with_one_sample(device):
    model = build(lambda: nn.Sequential(mlp(), nn.BatchNorm1d(2)), 0, device).train()
    _, (x, y) = example(device)
    return model, SQUARES, cut([7, 1], x, y)


BAD = {
    a_loader_that_shuffles: (ValueError, r"two passes over the data differ.*shuffle=False.*list"),
    a_dropout_left_on: (ValueError, r"draws random numbers \(dropout.*mode='eval'"),
    an_empty_batch: (ValueError, r"^batch 1 is empty.*leave it out"),
    an_empty_first_batch: (ValueError, r"^the first batch is empty.*leave it out"),
    nan_for_one_sample: (hessops.NonFiniteError, r"loss of micro-batch 1 is nan: look for NaN"),
    a_frozen_model: (ValueError, r"no parameter that requires a gradient; name some in params"),
    a_name_that_matches_nothing: (ValueError, r"no parameter fits '0.wieght'; did you mean '0.weigh"),
    mixed_devices: (ValueError, r"0.weight has device \S+ and 2.weight meta"),
    integers_where_floats_are_due: (TypeError, r"target is torch.int64.*takes floating.*target\.to\("),
    integers_for_squares: (TypeError, r"target is torch.int64.*takes floating.*target\.to\("),
    integers_as_inputs: (RuntimeError, r"first batch \(\(8, 3\) torch.int64.*torch.float64 on"),
    a_generator: (TypeError, r"generator can be read once.*list\(\.\.\.\)"),
    a_batch_norm_with_one_sample: (ValueError, r"Expected more than 1 value.*drop_last=True"),
}  # fmt: skip


@every_device
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_each_has_its_own_sentence(device, make):
    error, sentence = BAD[make]
    model, loss, data, *options = make(device)
    with seeded(0), pytest.raises(error, match=sentence) as caught:
        hessian(model, loss, data, **(options[0] if options else {})).to_dense()
    assert len(str(caught.value)) < 600


@every_device
def test_the_sentences_differ(device):
    found = []
    for make in BAD:
        model, loss, data, *options = make(device)
        with seeded(0), pytest.raises(BAD[make][0]) as caught:
            hessian(model, loss, data, **(options[0] if options else {})).to_dense()
        found.append(str(caught.value))
    assert len(set(found)) == len(BAD)

"""Wrong input, each kind with a sentence of its own."""

import re

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch_problems import (
    assert_is_hessian,
    every_device,
    images,
    language,
    normal,
    regression,
)

import hessops
from hessops_torch import hessian

SQUARES = nn.MSELoss()


def example(device, count=8):
    """Return a model and one batch of data."""
    problem = regression(device, sizes=(count,))
    return problem.model, problem.batches[0]


@every_device
@pytest.mark.parametrize("mode", [None, "train"])
def test_dropout_in_train_mode(device, mode):
    model, batch = example(device, count=50)
    model = nn.Sequential(model[0], nn.Dropout(0.5), model[2]).train(mode is None)
    with pytest.raises(ValueError, match=r"draws random numbers \(dropout.*mode='eval'"):
        hessian(model, SQUARES, batch, mode=mode)
    assert hessian(model, SQUARES, batch, mode="eval").to_dense().isfinite().all()


@every_device
@pytest.mark.parametrize("mode", [None, "train"])
def test_batch_norm_in_train_mode_is_not_split(device, mode):
    problem = images(device, train=mode is None)
    with pytest.raises(ValueError, match="cannot be split: leave micro_batch_size out"):
        hessian(*problem.arguments, mode=mode, micro_batch_size=2)
    in_eval_mode = hessian(*problem.arguments, mode="eval", micro_batch_size=2)
    assert_is_hessian(in_eval_mode, images(device).dense())


@every_device
def test_batch_norm_in_train_mode_takes_no_batches_that_nobody_chose(device):
    problem = images(device, sizes=(7,), train=True)
    data = TensorDataset(*problem.batches[0])
    with pytest.raises(
        ValueError, match="a Dataset does not say what its batches are: pass a DataL"
    ):
        hessian(problem.model, problem.loss, data)
    by_sevens = DataLoader(data, batch_size=7)
    assert_is_hessian(hessian(problem.model, problem.loss, by_sevens), problem.dense())
    in_eval_mode = hessian(problem.model, problem.loss, data, mode="eval")
    assert_is_hessian(in_eval_mode, images(device, sizes=(7,)).dense())


@every_device
def test_batch_norm_that_is_put_into_train_mode_later_is_not_split(device):
    problem = images(device)
    operator = hessian(*problem.arguments, micro_batch_size=2)
    term = next(operator.terms())
    problem.model.train()
    vector = torch.ones(operator.shape[0], dtype=torch.float64, device=device)
    for product in (operator, term):
        with pytest.raises(ValueError, match="cannot be split"):
            product @ vector


@every_device
def test_batch_norm_without_running_statistics_is_not_split(device):
    def norm(channels):
        return nn.BatchNorm2d(channels, track_running_stats=False)

    problem = images(device, train=True, norm=norm)
    with pytest.raises(ValueError, match="cannot be split"):
        hessian(*problem.arguments, mode="eval", micro_batch_size=2)


SHAPES = {
    "features": (lambda x, y: (x[:, :2], y), r"\(8, 2\) torch.float64.*cannot be multiplied"),
    "targets": (lambda x, y: (x, y[:, :1].expand(8, 3)), r"\(8, 3\) torch.float64.*must match"),
    "single precision data": (
        lambda x, y: (x.float(), y), r"torch.float32 on .*parameters are torch.float64.*same dtype",
    ),
    "integer data": (lambda x, y: (x.long(), y), r"torch.int64 on .*parameters are torch.float64"),
}  # fmt: skip


@every_device
@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", SHAPES)
def test_data_that_does_not_fit_the_model(device, name):
    change, sentence = SHAPES[name]
    model, batch = example(device)
    with pytest.raises(RuntimeError, match=f"cannot be applied to the first batch .*{sentence}"):
        hessian(model, SQUARES, change(*batch))


@every_device
def test_double_precision_data_for_a_single_precision_model(device):
    model, batch = example(device)
    sentence = r"\(8, 3\) torch.float64 on .*parameters are torch.float32 on"
    with pytest.raises(RuntimeError, match=sentence):
        hessian(model.float(), SQUARES, batch)


@every_device
def test_labels_that_are_no_classes(device):
    if device == "cuda":
        pytest.skip("a kernel that fails leaves the device unusable")
    model, (x, _) = example(device)
    labels = torch.full((8,), 7)
    with pytest.raises((RuntimeError, IndexError), match=r"first batch .*out of bounds"):
        hessian(model, nn.CrossEntropyLoss(), (x, labels))


@every_device
def test_labels_for_a_batch_of_another_size(device):
    model, (x, _) = example(device)
    labels = torch.zeros(5, dtype=torch.long, device=device)
    with pytest.raises(ValueError, match=r"batch_size \(8\) to match target batch_size \(5\)"):
        hessian(model, nn.CrossEntropyLoss(), (x, labels))


@every_device
def test_parameters_of_mixed_kinds(device):
    model, batch = example(device)
    model[2].float()
    sentence = "0.weight has dtype torch.float64 and 2.weight torch.float32.*select by params"
    with pytest.raises(ValueError, match=sentence):
        hessian(model, SQUARES, batch)


@every_device
def test_parameters_on_mixed_devices(device):
    model, batch = example(device)
    model[2].to("meta")
    with pytest.raises(ValueError, match=rf"0.weight has device {device}\S* and 2.weight meta"):
        hessian(model, SQUARES, batch)


@every_device
def test_parameters_that_are_integers(device):
    model, batch = example(device)
    model.table = nn.Parameter(torch.zeros(3, dtype=torch.long), requires_grad=False)
    with pytest.raises(
        ValueError, match=r"parameter table is torch.int64, which has no derivative"
    ):
        hessian(model, SQUARES, batch, params="table")
    # Frozen, as it has to be, it is no parameter to differentiate by.
    assert hessian(model, SQUARES, batch).shape == (20, 20)


def test_a_model_without_numbers():
    model, batch = example("cpu")
    with pytest.raises(ValueError, match=r"0.weight is on the meta device.*load weights first"):
        hessian(model.to("meta"), SQUARES, batch)


def test_a_lazy_model():
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"0.weight has no shape yet: apply the lazy model"):
        hessian(model, SQUARES, (torch.ones(2, 2), torch.ones(2, 2)))


@every_device
def test_a_model_that_changes_its_kind_afterwards(device):
    model, batch = example(device)
    operator = hessian(model, SQUARES, batch)
    model.float()
    sentence = "0.weight was torch.float64 of shape .* is torch.float32 .*: move the model back"
    with pytest.raises(ValueError, match=sentence):
        operator.to_dense()
    model.double()
    assert operator.to_dense().isfinite().all()
    model[2] = nn.Identity()
    with pytest.raises(ValueError, match=r"lost its parameter 2.weight: make the operator again"):
        operator.to_dense()


@every_device
def test_ties_that_are_cut_afterwards(device):
    problem = language(device)
    operator = hessian(*problem.arguments)
    problem.model.load_state_dict(problem.model.state_dict(), assign=True)
    # Assigned from one tensor, the two names hold two parameters that share their memory.
    sentence = "had the names embedding.weight, head.weight .* has embedding.weight now: tie them"
    with pytest.raises(ValueError, match=sentence):
        operator.to_dense()
    problem.model.head.weight = problem.model.embedding.weight
    assert_is_hessian(operator, problem.dense())


NO_PARAMETERS = {
    "misspelt": ("0.wieght", "no parameter fits '0.wieght'; did you mean '0.weight'"),
    "far off": ("qqq", "no parameter fits 'qqq'; the model has 0.weight, 0.bias, 2.weight, 2.bias"),
    "a foreign module": (nn.Linear(1, 1), "Linear in params has parameters that are not of this"),
    "an empty module": (nn.Tanh(), "the Tanh in params has no parameters"),
    "a foreign tensor": (torch.zeros(3), r"tensor of shape \(3,\) in params is no parameter"),
    "glob": ("layer*.bias", "no parameter fits 'layer"),
    "regex": (re.compile("^conv"), "no parameter fits '\\^conv'"),
    "one of two": (["0.bias", "3"], "no parameter fits '3'"),
    "none": ([], "params names no parameter; leave it out to take all"),
}


@every_device
@pytest.mark.parametrize("name", NO_PARAMETERS)
def test_selections_that_fit_nothing(device, name):
    params, sentence = NO_PARAMETERS[name]
    model, batch = example(device)
    with pytest.raises(ValueError, match=sentence):
        hessian(model, SQUARES, batch, params=params)


@pytest.mark.parametrize("params", [7, [7], [None]])
def test_selections_of_another_kind(params):
    model, batch = example("cpu")
    with pytest.raises(TypeError, match="give names, shell patterns"):
        hessian(model, SQUARES, batch, params=params)


@every_device
def test_a_model_with_nothing_to_differentiate_by(device):
    model, batch = example(device)
    model.requires_grad_(False)
    with pytest.raises(
        ValueError, match="no parameter that requires a gradient; name some in params"
    ):
        hessian(model, SQUARES, batch)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        hessian(nn.Tanh(), SQUARES, batch)
    with pytest.raises(ValueError, match="MSELoss has none at all; give the model first"):
        hessian(nn.MSELoss(), model, batch)


OPTIONS = [
    ({"mode": "test"}, "mode='test' is unknown; choose 'eval' or 'train'"),
    ({"micro_batch_size": 0}, "micro_batch_size=0 must be a positive"),
    ({"micro_batch_size": -1}, "micro_batch_size=-1 must be a positive"),
    ({"weight_decay": float("nan")}, "weight_decay=nan must be a finite"),
    ({"weight_decay": float("inf")}, "weight_decay=inf must be a finite"),
]


@every_device
@pytest.mark.parametrize(("options", "sentence"), OPTIONS)
def test_options_out_of_range(device, options, sentence):
    model, batch = example(device)
    with pytest.raises(ValueError, match=sentence):
        hessian(model, SQUARES, batch, **options)


@every_device
def test_blocks_that_do_not_fit(device):
    operator = hessian(*regression(device).arguments)
    with pytest.raises(ValueError, match="expected 20 rows"):
        operator @ normal(0, 19, device=device)
    with pytest.raises(TypeError, match="integer or boolean dtype int64"):
        operator @ torch.ones(20, dtype=torch.long, device=device)
    with pytest.raises(TypeError, match="arrays of torch, got one of numpy"):
        operator @ np.ones(20)
    with pytest.raises(ValueError, match="the block on meta"):
        operator @ torch.ones(20, device="meta")


@every_device
def test_a_model_alone_is_no_operator(device):
    model, batch = example(device)
    with pytest.raises(TypeError, match=r"\(Sequential\) alone has no Hessian; pass \(model, loss"):
        hessops.aslinearoperator(model)
    with pytest.raises(
        TypeError, match=r"tuple of 2 that begins with a model.*\(model, loss, data"
    ):
        hessops.aslinearoperator((model, batch))

"""Arguments of the wrong kind and failures on the way: value, batch and a way out are named."""

import copy
import functools

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    FailsTransformed,
    assert_is_hessian,
    build,
    cut,
    dense_hessian,
    every_device,
    mlp,
    normal,
    regression,
)

import hessops
from hessops_torch import convert, ggn, hessian

SQUARES = nn.MSELoss()


def example(device, count=8):
    """Return a model and one batch of data."""
    problem = regression(device, sizes=(count,))
    return problem.model, problem.batches[0]


NO_MODELS = {
    "name": ("resnet", "must be a torch.nn.Module, got 'resnet'; put"),
    "function": (lambda x: x, "must be a torch.nn.Module, got a function"),
    "class": (nn.Linear, r"model is the class Linear: pass an instance"),
    "nothing": (None, "must be a torch.nn.Module, got a NoneType"),
}


@pytest.mark.parametrize("name", NO_MODELS)
def test_models_that_are_none(name):
    model, sentence = NO_MODELS[name]
    with pytest.raises(TypeError, match=sentence):
        hessian(model, SQUARES, example("cpu")[1])


NO_LOSSES = {
    "list": ([1], "must be a criterion or a function, got list; pass one such as"),
    "class": (nn.MSELoss, r"loss is the class MSELoss: pass an instance, MSELoss\(\)"),
}


@pytest.mark.parametrize("name", NO_LOSSES)
def test_losses_that_are_none(name):
    loss, sentence = NO_LOSSES[name]
    model, batch = example("cpu")
    with pytest.raises(TypeError, match=sentence):
        hessian(model, loss, batch)


CALLED_OTHERWISE = {
    "lengths": (nn.CTCLoss(), "input_lengths.*called as loss\\(output, target\\)"),
    "three": (nn.TripletMarginLoss(), "negative.*pass a function of \\(model, batch\\)"),
    "partial": (functools.partial(F.cross_entropy), "called as loss\\(model, batch\\) and returns"),
    "functional": (F.kl_div, "called as loss\\(model, batch\\) and returns \\(sum, count\\)"),
}


@every_device
@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", CALLED_OTHERWISE)
def test_losses_that_are_called_otherwise(device, name):
    loss, sentence = CALLED_OTHERWISE[name]
    model, batch = example(device)
    with pytest.raises(
        TypeError, match=rf"to the first batch \(\(8, 3\) torch.float64.*{sentence}"
    ):
        hessian(model, loss, batch)


COUNTS = {
    "text": ("8", TypeError, "count '8'; it must be a real number or a tensor"),
    "nothing": (None, TypeError, "count None; it must be a real number"),
    "complex": (3j, TypeError, "count 3j; it must be a real number"),
    "vector": (torch.ones(8), ValueError, r"count a tensor of shape \(8,\).*one real number"),
    "complex tensor": (torch.tensor(3j), ValueError, "complex64; it must be one real number"),
}


@every_device
@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_are_none(device, name):
    count, error, sentence = COUNTS[name]
    model, batch = example(device)
    with pytest.raises(error, match=sentence):
        hessian(model, lambda f, b: (F.mse_loss(f(b[0]), b[1], reduction="sum"), count), batch)


@every_device
@pytest.mark.parametrize(
    "form", [int, float, np.float32, np.int64, torch.tensor, lambda n: torch.ones(1) * n]
)
def test_counts_of_every_kind(device, form):
    problem = regression(device)

    def loss(model, batch):
        x, y = batch
        return F.mse_loss(model(x), y, reduction="sum"), form(y.numel())

    operator = hessian(problem.model, loss, problem.batches)
    assert_is_hessian(operator, problem.dense())
    assert_is_hessian(operator, problem.dense())


@every_device
@pytest.mark.parametrize("wrap", [lambda batch: batch, lambda batch: [batch]])
def test_numpy_batches(device, wrap):
    model, (x, y) = example(device)
    arrays = x.cpu().numpy(), y.cpu().numpy()
    sentence = r"input of a batch is a NumPy array of float64.*torch\.as_tensor"
    with pytest.raises(TypeError, match=sentence):
        hessian(model, SQUARES, wrap(arrays))
    with pytest.raises(TypeError, match="target of a batch is a NumPy array"):
        hessian(model, SQUARES, wrap((x, arrays[1])))

    def loss(model, batch):
        x, y = (torch.as_tensor(array, device=device) for array in batch)
        return F.mse_loss(model(x), y, reduction="sum"), y.numel()

    # A function gets them as they are.
    expected = dense_hessian(model, lambda f: F.mse_loss(f(x), y))
    assert_is_hessian(hessian(model, loss, wrap(arrays)), expected)


@every_device
def test_batches_of_numbers(device):
    model, _ = example(device)
    with pytest.raises(TypeError, match=r"first batch \(float, float; .*must be Tensor, not float"):
        hessian(model, SQUARES, [[1.0, 2.0], [3.0, 4.0]])


@every_device
def test_a_later_batch_of_another_shape(device):
    model, (x, y) = example(device)
    operator = hessian(model, SQUARES, [(x, y), (x, y), (x[:, :2], y)])
    sentence = r"cannot be applied to micro-batch 2 \(\(8, 2\) .*cannot be multiplied"
    with pytest.raises(RuntimeError, match=sentence):
        operator.to_dense()
    with pytest.raises(RuntimeError, match=sentence):
        next(operator.terms())


class RunsOutOfMemory(nn.Linear):
    def forward(self, x):
        raise torch.OutOfMemoryError("too large")


def test_a_lack_of_memory_keeps_its_kind():
    model = RunsOutOfMemory(3, 2).double()
    with pytest.raises(torch.OutOfMemoryError, match=r"^too large$"):
        hessian(model, SQUARES, example("cpu")[1])


@every_device
def test_batch_norm_with_a_batch_of_one(device):
    model = build(
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), 0, device
    )
    _, (x, y) = example(device)
    operator = hessian(model.train(), SQUARES, cut([7, 1], x, y))
    with pytest.raises(ValueError, match=r"to micro-batch 1 .*Expected more.*drop_last=True"):
        operator.to_dense()


@every_device
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_later_batch_without_a_finite_loss(device, value):
    model, (x, y) = example(device)
    operator = hessian(model, SQUARES, [(x, y), (x, y * value)])
    sentence = f"the loss of micro-batch 1 is {value}: look for NaN or infinity in its data"
    term = list(operator.terms())[1]
    for product in (operator, operator, term, term):
        with pytest.raises(hessops.NonFiniteError, match=sentence):
            product.to_dense()


@every_device
def test_a_model_made_in_inference_mode(device):
    _, (x, y) = example(device)
    with torch.inference_mode():
        model = mlp().to(device, torch.float64)
    with pytest.raises(ValueError, match=r"0.weight was made in torch.inference_mode.*deepcopy"):
        hessian(model, SQUARES, (x, y))
    copied = copy.deepcopy(model)
    expected = dense_hessian(copied, lambda f: F.mse_loss(f(x), y))
    assert_is_hessian(hessian(copied, SQUARES, (x, y)), expected)


@every_device
def test_buffers_made_in_inference_mode(device):
    problem = regression(device)
    with torch.inference_mode():
        shift = normal(3, 2, device=device)
    problem.model[2].register_buffer("shift", shift)
    operator = hessian(*problem.arguments)
    assert_is_hessian(operator, problem.dense())
    assert_is_hessian(operator, problem.dense())


@every_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_half_precision(device, dtype):
    model, batch = example(device)
    with pytest.raises(ValueError, match=rf"0.weight is {dtype}: .*torch.float32 or torch.float64"):
        hessian(model.to(dtype), SQUARES, tuple(t.to(dtype) for t in batch))


OPTIONS = [
    ({"mode": [1]}, r"mode=\[1\] is unknown; choose 'eval' or 'train'"),
    ({"micro_batch_size": 2.5}, "micro_batch_size=2.5 must be a positive integer"),
    ({"micro_batch_size": "2"}, "micro_batch_size='2' must be a positive integer"),
    ({"micro_batch_size": True}, "micro_batch_size=True must be a positive integer"),
    ({"weight_decay": None}, "weight_decay=None must be a finite real number"),
    ({"weight_decay": "0.1"}, "weight_decay='0.1' must be a finite real number"),
    ({"weight_decay": 1j}, "weight_decay=1j must be a finite real number"),
    ({"memory_budget": "1"}, "memory_budget='1' must be a number of bytes, not negative"),
    ({"memory_budget": -1}, "memory_budget=-1 must be a number of bytes, not negative"),
    ({"memory_budget": float("nan")}, "memory_budget=nan must be a number of bytes"),
]


@pytest.mark.parametrize(("options", "sentence"), OPTIONS)
def test_options_of_another_kind(options, sentence):
    model, batch = example("cpu")
    with pytest.raises(ValueError, match=sentence):
        hessian(model, SQUARES, batch, **options)


def test_numbers_of_every_library():
    problem = regression("cpu", sizes=(8,))
    options = {
        "micro_batch_size": np.int64(3),
        "memory_budget": 1e9,
        "weight_decay": np.float32(0.5),
    }
    operator = hessian(*problem.arguments, **options)
    assert len(operator.objective.batches) == 3
    assert_is_hessian(operator, problem.dense() + 0.5 * torch.eye(20, dtype=torch.float64))


TUPLES = {
    "two": (
        lambda m, b: (m, b),
        r"tuple of 2 that begins with a model.*pass \(model, loss, data\)",
    ),
    "a list of two": (lambda m, b: [m, b], "list of 2 that begins with a model"),
    "five": (lambda m, b: (m, SQUARES, b, {}, {}), "tuple of 5"),
    "options": (lambda m, b: (m, SQUARES, b, "train"), "fourth item.*dict of options, got 'train'"),
}


@pytest.mark.parametrize("name", TUPLES)
def test_tuples_that_are_no_operators(name):
    make, sentence = TUPLES[name]
    with pytest.raises(TypeError, match=sentence):
        convert(make(*example("cpu")))


def test_a_list_of_model_loss_and_data():
    problem = regression("cpu")
    assert_is_hessian(convert(list(problem.arguments)), problem.dense())


TRANSFORMED = [
    functools.partial(ggn, product="forward"),
    functools.partial(ggn, product="batched"),
    functools.partial(hessian, product="forward-over-reverse"),
]


@pytest.mark.parametrize("make", TRANSFORMED)
@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError])
def test_what_fails_after_the_trial_is_named_with_its_batch(make, kind):
    model = build(lambda: FailsTransformed(kind("the reason"), 5), 0, "cpu")
    x, y = normal(1, 9, 3, device="cpu"), normal(2, 9, 2, device="cpu")
    A = make(model, SQUARES, cut([4, 5], x, y))
    with pytest.raises(kind, match=r"cannot be applied to micro-batch 1 .*: the reason"):
        A @ torch.ones(A.shape[0], 2, dtype=torch.float64)

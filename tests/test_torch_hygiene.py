"""What the user had before is there afterwards: model, gradients, modes, random states, memory."""

import contextlib
import copy
import random

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch_problems import (
    Encoder,
    OnceDifferentiable,
    assert_is_hessian,
    assert_same,
    build,
    dense_hessian,
    every_device,
    every_problem,
    images,
    language,
    mlp,
    normal,
    regression,
    some_problems,
)

import hessops
from hessops_torch import hessian
from hessops_torch.data.micro_batches import MicroBatches


def encoder_layer(device):
    return language(device, factory=Encoder)


def random_states():
    of_numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()],
        "numpy": (of_numpy["state"]["pos"], of_numpy["state"]["key"].tolist()),
        "python": random.getstate(),
    }


def settings_of_torch():
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "attention": (
            cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(), torch.backends.mha.get_fastpath_enabled(),
        ),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
    }  # fmt: skip


def values(tensor):
    return None if tensor is None else (id(tensor), tensor._version, tensor.tolist())


def state_of(model):
    return {
        "parameters": {
            name: (values(p), p.requires_grad, p.is_leaf, values(p.grad))
            for name, p in model.named_parameters(remove_duplicate=False)
        },
        "buffers": {name: values(b) for name, b in model.named_buffers(remove_duplicate=False)},
        "modes": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
    }


@contextlib.contextmanager
def nothing_changes(model):
    before = state_of(model), random_states(), settings_of_torch()
    yield
    after = state_of(model), random_states(), settings_of_torch()
    for old, new in zip(before, after, strict=True):
        for part, value in old.items():
            assert new[part] == value, part


def in_a_mixed_state(model):
    """Give some parts another mode, some parameters no gradient, and some a `.grad`."""
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 1)
        parameter.grad = None if index % 2 else torch.ones_like(parameter)
    return model


def all_kinds_of_use(arguments, **options):
    yield hessian(*arguments, **options)
    operator = hessian(*arguments, **options)
    yield operator.to_dense()
    yield operator.to_dense()
    for term in operator.terms():
        yield term @ torch.ones(
            operator.shape[0], dtype=operator.dtype, device=operator.domain.device
        )
    yield hessops.trace(operator, num_probes=2, rng=0)
    yield hessops.diagonal(operator, num_probes=2, rng=0)
    yield hessops.eigsh(operator, 1, tol=1e-3, rng=0)


@every_device
@every_problem
@pytest.mark.parametrize("options", [{}, {"memory_budget": 0}, {"mode": "train"}, {"params": "*"}])
def test_use_leaves_no_trace(device, make_problem, options):
    problem = make_problem(device)
    model = in_a_mixed_state(problem.model)
    uses = all_kinds_of_use((model, *problem.arguments[1:]), **options)
    for _ in range(7):
        with nothing_changes(model):
            next(uses)


@every_device
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("make_problem", [language, encoder_layer])
def test_the_choice_of_kernels_is_put_back(device, make_problem, enabled):
    problem = make_problem(device)
    expected = problem.dense()
    mha, cuda = torch.backends.mha, torch.backends.cuda
    before = mha.get_fastpath_enabled(), cuda.math_sdp_enabled()
    mha.set_fastpath_enabled(enabled)
    cuda.enable_math_sdp(enabled)
    try:
        with nothing_changes(problem.model):
            assert_is_hessian(hessian(*problem.arguments), expected)
    finally:
        mha.set_fastpath_enabled(before[0])
        cuda.enable_math_sdp(before[1])


class Observer(nn.Module):
    """Counts its calls in a buffer, and remembers the last input, in every mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean(0)
        return x


@every_device
@pytest.mark.parametrize("train", [False, True])
def test_buffers_that_are_written_in_any_mode(device, train):
    problem = regression(device)
    model = nn.Sequential(Observer().to(device, torch.float64), problem.model).train(train)
    with nothing_changes(model):
        operator = hessian(model, problem.loss, problem.batches)
        for _ in range(2):
            assert_is_hessian(operator, problem.dense())
    assert len(operator.graphs) == len(problem.batches)


@every_device
def test_running_statistics_do_not_move(device):
    problem = images(device, train=True)
    before = copy.deepcopy(problem.model.state_dict())
    hessops.trace(hessian(*problem.arguments), num_probes=4, rng=0)
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Fails(nn.Module):
    """Raises at its call number `at`."""

    def __init__(self, inner, at, error):
        super().__init__()
        self.inner = inner
        self.at = at
        self.error = error

    def forward(self, x):
        self.at -= 1
        if self.at == 0:
            raise self.error
        return self.inner(x)


@every_device
@some_problems
@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt("no")])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_exception_in_the_model_leaves_no_trace(device, make_problem, error, at):
    """The first two calls are of the constructor, the next of the first product."""
    problem = make_problem(device)
    model = in_a_mixed_state(Fails(problem.model, at, error))
    with nothing_changes(model), pytest.raises(type(error), match="no"):
        hessian(model, *problem.arguments[1:], params="*").to_dense()
    model.at = 0
    operator = hessian(model.eval(), *problem.arguments[1:], params="*")
    expected = hessian(problem.model, *problem.arguments[1:], params="*").to_dense()
    assert_same(operator.to_dense(), expected)


@every_device
def test_a_product_works_after_one_that_failed(device):
    problem = regression(device)
    model = Fails(problem.model, 0, RuntimeError("no"))
    operator = hessian(model, *problem.arguments[1:])
    model.at = 2
    with pytest.raises(RuntimeError, match="no"):
        operator.to_dense()
    assert_is_hessian(operator, problem.dense())


@every_device
def test_an_exception_in_a_derivative_leaves_no_trace(device):
    problem = regression(device)
    model = in_a_mixed_state(build(OnceDifferentiable, 0, device))
    operator = hessian(model, problem.loss, problem.batches, params="*")
    with nothing_changes(model), pytest.raises(RuntimeError, match="once_differentiable"):
        operator.to_dense()


class Draws(nn.Module):
    """Multiplies by what it draws from one of the global generators."""

    def __init__(self, draw):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.draw = draw

    def forward(self, x):
        return self.linear(x) * self.draw()


DRAWS = {
    "torch": lambda: torch.rand(()).item(),
    "numpy": np.random.rand,
    "python": random.random,
}


@every_device
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_random_states_outlive_a_model_that_draws(device, draw):
    problem = regression(device)
    model = build(lambda: Draws(draw), 0, device)
    with nothing_changes(model), pytest.raises(ValueError, match="draws random numbers"):
        hessian(model, problem.loss, problem.batches)


class DrawsItems(Dataset):
    """Items that are drawn anew from one of the global generators, or an exception."""

    def __init__(self, draw, fail_after=None):
        self.draw = draw
        self.left = fail_after

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError("the disk is gone")
        noise = self.draw()
        return torch.full((3,), index + noise, dtype=torch.float64), torch.zeros(2).double()


@every_device
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
@pytest.mark.parametrize("fail_after", [None, 4, 8])
def test_random_states_outlive_data_that_is_drawn(device, draw, fail_after):
    model = build(mlp, 0, device)
    expected = (ValueError, "two passes") if fail_after is None else (OSError, "disk")
    with nothing_changes(model), pytest.raises(expected[0], match=expected[1]):
        hessian(model, nn.MSELoss(), DrawsItems(draw, fail_after))


@every_device
def test_random_states_outlive_a_loader(device):
    """A loader draws a seed for its workers in every pass."""
    problem = regression(device, sizes=(8,))
    loader = DataLoader(TensorDataset(*problem.batches[0]), batch_size=3)
    with nothing_changes(problem.model):
        assert_is_hessian(hessian(problem.model, problem.loss, loader), problem.dense())


@every_device
@some_problems
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("made_inside", [True, False])
def test_without_gradients_enabled(device, make_problem, context, made_inside):
    problem = make_problem(device)
    expected = problem.dense()
    with contextlib.nullcontext() if not made_inside else context():
        operator = hessian(*problem.arguments, weight_decay=0.5)
    identity = torch.eye(len(expected), dtype=expected.dtype, device=device)
    with context(), nothing_changes(problem.model):
        assert_is_hessian(operator, expected + 0.5 * identity)
        assert_is_hessian(operator, expected + 0.5 * identity)
        total = sum(term.to_dense() for term in operator.terms())
        assert_same(total, expected + 0.5 * identity)


@every_device
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_data_made_in_inference_mode(device, micro_batch_size):
    problem = regression(device, sizes=(8,))
    with torch.inference_mode():
        batch = tuple(tensor.clone() for tensor in problem.batches[0])
        operators = [
            hessian(problem.model, problem.loss, data, micro_batch_size=micro_batch_size)
            for data in (batch, TensorDataset(*batch), TensorDataset(*problem.batches[0]))
        ]
    assert all(tensor.is_inference() for tensor in batch)
    for operator in operators:
        assert_is_hessian(operator, problem.dense())


@every_device
@some_problems
def test_gradients_come_from_autograd_grad_alone(device, make_problem, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("backward was called")

    problem = make_problem(device)
    monkeypatch.setattr(Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    for _ in all_kinds_of_use(problem.arguments):
        pass


@every_device
def test_data_is_left_as_it_was(device):
    problem = language(device)
    before = copy.deepcopy(problem.batches)
    hessops.trace(hessian(*problem.arguments), num_probes=2, rng=0)
    for batch, copied in zip(problem.batches, before, strict=True):
        assert batch.keys() == copied.keys()
        assert all(torch.equal(batch[key], copied[key]) for key in batch)
        assert not any(tensor.requires_grad for tensor in batch.values())


@every_device
def test_a_loss_keeps_its_reduction_and_its_tensors(device):
    model = build(mlp, 0, device)
    criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0], dtype=torch.float64, device=device))
    x, y = normal(1, 4, 3, device=device), torch.tensor([0, 1, 1, 0], device=device)
    weight = criterion.weight.clone()
    operator = hessian(model, criterion, (x, y))
    assert_is_hessian(operator, dense_hessian(model, lambda f: criterion(f(x), y)))
    assert criterion.reduction == "mean"
    assert torch.equal(criterion.weight, weight)


@every_device
def test_draws_between_terms_are_the_callers_own(device):
    """Data that does not fit is read while the caller walks through the terms."""
    problem = regression(device)
    batches = MicroBatches(problem.batches, torch.device(device), None, memory_budget=0)
    torch.manual_seed(3)
    expected = torch.rand(len(batches))
    torch.manual_seed(3)
    drawn = torch.cat([torch.rand(1) for _ in batches])
    assert torch.equal(drawn, expected)


class CountsPasses(list):
    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


@every_device
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_the_source_is_read_no_more_than_needed(device, micro_batch_size):
    problem = regression(device)
    source = CountsPasses(problem.batches)
    for budget in (0, 2**20):
        source.passes = 0
        batches = MicroBatches(source, torch.device(device), micro_batch_size, budget)
        assert source.passes == 1
        assert len(batches) == len(list(batches))

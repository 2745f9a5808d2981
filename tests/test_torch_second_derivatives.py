"""Models and losses without a second derivative, with a wrong one, or cut off from the parameters."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch.utils.checkpoint import checkpoint
from torch_problems import (
    OnceDifferentiable,
    assert_is_hessian,
    build,
    cut,
    dense_hessian,
    every_device,
    every_problem,
    integers,
    mlp,
    normal,
    regression,
)

import hessops
from hessops_torch import ggn, hessian
from hessops_torch.graphs.symmetry import shows_symmetry

SQUARES = nn.MSELoss()


def example(device, count=8):
    """Return a model and one batch of data."""
    problem = regression(device, sizes=(count,))
    return problem.model, problem.batches[0]


class Through(nn.Module):
    """A module whose forward calls a function with an inner module and the input."""

    def __init__(self, function, inner):
        super().__init__()
        self.function = function
        self.inner = inner

    def forward(self, x):
        return self.function(self.inner, x)


@every_device
def test_functions_without_a_second_derivative(device):
    """Autograd itself, asked for the derivative by the parameters, would give zero."""

    model = build(OnceDifferentiable, 0, device)
    _, batch = example(device)
    operator = hessian(model, SQUARES, batch)
    with pytest.raises(RuntimeError, match="once_differentiable, so there is no Hessian"):
        operator.to_dense()


NORMS = {
    "parametrization": nn.utils.parametrizations.weight_norm,
    "hook": nn.utils.weight_norm,
}


def normed(name, device, **options):
    def factory():
        return nn.Sequential(NORMS[name](nn.Linear(3, 3), **options), nn.Tanh(), nn.Linear(3, 2))

    return build(factory, 0, device)


@every_device
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", NORMS)
def test_weight_norm(device, name, dim):
    """In torch 2.13 its second derivative is off by tens of per cent."""
    model, (_, batch) = normed(name, device, dim=dim), example(device)
    operator = hessian(model, SQUARES, batch)
    sentence = r"weight_norm, of which PyTorch computes wrong.*remove_parametrizations"
    with pytest.raises(RuntimeError, match=sentence):
        operator.to_dense()
    # Where no derivative goes through it, nothing is wrong.
    hessian(model, SQUARES, batch, params="2").to_dense()
    # What the sentence says to do works.
    if name == "hook":
        nn.utils.remove_weight_norm(model[0])
    else:
        nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    x, y = batch
    folded = hessian(model, SQUARES, batch)
    assert_is_hessian(folded, dense_hessian(model, lambda f: F.mse_loss(f(x), y)))


class ByHand(nn.Module):
    """Weight norm in simple operations."""

    def __init__(self, weight):
        super().__init__()
        self.g = nn.Parameter(weight.detach().norm(dim=1, keepdim=True))

    def forward(self, v):
        return v * (self.g / v.norm(dim=1, keepdim=True))


def normed_by_hand():
    layer = nn.Linear(3, 3)
    nn.utils.parametrize.register_parametrization(layer, "weight", ByHand(layer.weight))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2))


@every_device
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", [*NORMS, "by hand"])
def test_weight_norm_in_simple_operations(device, name):
    by_hand = name == "by hand"
    model = build(normed_by_hand, 0, device) if by_hand else normed(name, device, dim=None)
    _, (x, y) = example(device)
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    gradients = torch.autograd.grad(F.mse_loss(model(x), y), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in flat]
    expected = torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])
    assert sum(sizes) == len(expected)
    assert_is_hessian(hessian(model, SQUARES, (x, y)), expected)


class WrongBackward(torch.autograd.Function):
    """A function of two variables whose derivative by one forgets that it depends on the other."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y * y

    @staticmethod
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        return gradient * y.detach() ** 2, gradient * 2 * x * y


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return WrongBackward.apply(self.first(x), self.second(x))


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivatives_that_are_not_symmetric(device, dtype, memory_budget):
    model = build(Wrong, 0, device, dtype)
    batch = tuple(tensor.to(dtype) for tensor in example(device)[1])
    operator = hessian(model, SQUARES, batch, memory_budget=memory_budget)
    sentence = "first batch are not symmetric: .*wrong second derivative; .*gradgradcheck"
    for product in (operator, next(operator.terms())):
        with pytest.raises(hessops.NotSelfAdjointError, match=sentence) as caught:
            product @ torch.ones(operator.shape[0], dtype=dtype, device=device)
        assert ("move model and data to torch.float64" in str(caught.value)) == (
            dtype == torch.float32
        )


@every_device
def test_symmetry_is_looked_at_in_the_first_batch_with_curvature(device):
    model, (x, y) = build(Wrong, 0, device), example(device)[1]
    none = torch.zeros_like(x), torch.zeros_like(y)

    def loss(model, batch):
        # Zero, with a graph of zeros, where the input is zero.
        return ((model(batch[0]) - batch[1]) * batch[0][:, :2]).square().sum(), len(batch[0])

    operator = hessian(model, loss, [none, (x, y)])
    with pytest.raises(hessops.NotSelfAdjointError, match="of micro-batch 1 are not symmetric"):
        operator.to_dense()


class Counting(torch.autograd.Function):
    """The identity, which counts how often derivatives are pulled through its derivative."""

    pulls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Counting.pulls += 1
        return gradient.clone()


@every_device
def test_symmetry_costs_two_products_of_one_batch_once(device):
    model, (x, y) = example(device)
    counted = nn.Sequential(model, Through(lambda _inner, x: Counting.apply(x), nn.Identity()))
    batches = cut([4, 2, 2], x, y)

    def pulls(operator, columns):
        Counting.pulls = 0
        operator @ torch.ones(operator.shape[0], columns, dtype=torch.float64, device=device)
        return Counting.pulls

    operator = hessian(counted, SQUARES, batches)
    first, later = pulls(operator, 2), pulls(operator, 2)
    of_one_product = later / (2 * len(batches))
    building = len(batches)
    assert of_one_product > 0
    assert first == building + later + 2 * of_one_product
    assert pulls(operator, 2) == later


@every_device
@every_problem
def test_single_precision_is_symmetric_to_rounding(device, make_problem):
    problem = make_problem(device)
    model = problem.model.float()

    def single(tensor):
        return tensor.float() if tensor.dtype == torch.float64 else tensor

    batches = [
        {key: single(value) for key, value in batch.items()}
        if isinstance(batch, dict)
        else tuple(single(value) for value in batch)
        for batch in problem.batches
    ]
    assert hessian(model, problem.loss, batches).to_dense().isfinite().all()


@every_device
def test_single_precision_where_all_digits_cancel(device):
    """Of a network that is sure of itself, single precision leaves rounding: no false alarm."""
    model = build(lambda: mlp(32, outputs=4), 0, device, torch.float32)
    x, y = normal(1, 50, 3, device=device, dtype=torch.float32), integers(2, 4, 50, device=device)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
        model[2].bias.copy_(torch.tensor([20.0, 0.0, 0.0, 0.0]))
    operator = hessian(model, nn.CrossEntropyLoss(), (x, torch.zeros_like(y)))
    single = operator.to_dense().double()
    model.double()
    double = hessian(model, nn.CrossEntropyLoss(), (x.double(), torch.zeros_like(y))).to_dense()
    # The test says something only if rounding is far above that of a sum without cancellation.
    error = torch.linalg.norm(single - double) / torch.linalg.norm(double)
    assert error > 1e-3


def test_rounding_is_told_from_asymmetry():
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(40, 40, generator=generator)
    symmetric = 1e-6 * (B + B.T)
    large = torch.randn(40, 40, generator=generator)

    def with_cancellation(rows):
        return (rows @ (symmetric + large).T) - rows @ large.T

    def skew(rows):
        return rows @ (symmetric + 1e-2 * symmetric.abs().max() * (B - B.T)).T

    like = torch.zeros(())
    assert shows_symmetry(lambda rows: rows @ symmetric, 40, like, "it")
    assert shows_symmetry(with_cancellation, 40, like, "it")
    with pytest.raises(hessops.NotSelfAdjointError, match="of it are not symmetric"):
        shows_symmetry(skew, 40, like, "it")
    for nothing in (0.0, float("nan"), float("inf")):
        assert not shows_symmetry(lambda rows, c=nothing: torch.full_like(rows, c), 40, like, "it")


CUT_OFF = {
    "no_grad": lambda inner, x: torch.no_grad()(inner)(x),
    "inference_mode": lambda inner, x: torch.inference_mode()(inner)(x),
    "detach": lambda inner, x: inner(x).detach(),
}


@every_device
@pytest.mark.parametrize("name", CUT_OFF)
def test_a_forward_pass_that_is_cut_off_from_its_parameters(device, name):
    """Its Hessian would be zero, found with an error of zero."""
    model, (x, y) = example(device)
    cut_off = Through(CUT_OFF[name], model)
    with pytest.raises(ValueError, match=r"does not depend on the parameters, or is cut off"):
        hessian(cut_off, SQUARES, cut([4, 4], x, y))


@every_device
def test_a_loss_that_is_cut_off_from_the_parameters(device):
    model, batch = example(device)

    def loss(model, batch):
        return F.mse_loss(model(batch[0]), batch[1], reduction="sum").detach(), 8

    with pytest.raises(ValueError, match=r"is cut off from them.*\.detach\(\)"):
        hessian(model, loss, batch)


@every_device
def test_parameters_that_the_loss_does_not_use(device):
    model, batch = example(device)
    model.append(nn.Identity())
    model[3].unused = nn.Parameter(torch.zeros(2, dtype=torch.float64, device=device))
    with pytest.raises(ValueError, match="whether params names parameters that are used"):
        hessian(model, SQUARES, batch, params="3.unused")
    assert hessian(model, SQUARES, batch, params=["3.unused", "2.bias"]).shape == (4, 4)


@every_device
def test_a_batch_without_a_loss_among_others(device):
    """The first batch may be masked away and its loss a constant."""
    problem = regression(device, sizes=(3, 5))

    def loss(model, batch):
        x, y = batch
        if len(x) == 3:
            return torch.zeros((), dtype=torch.float64, device=device), 0
        return F.mse_loss(model(x), y, reduction="sum"), y.numel()

    x, y = problem.batches[1]
    expected = dense_hessian(problem.model, lambda f: F.mse_loss(f(x), y))
    assert_is_hessian(hessian(problem.model, loss, problem.batches), expected)


def with_cdist(inner, x):
    return torch.cdist(inner(x), torch.zeros(2, 2).to(x))


def with_pdist(inner, x):
    return F.pdist(inner(x))[:16].reshape(8, 2)


NOT_TWICE = {
    "hardsigmoid": (lambda m: nn.Sequential(m, nn.Hardsigmoid()), "hardsigmoid_backward"),
    "cdist": (lambda m: Through(with_cdist, m), "_cdist_backward"),
    "pdist": (lambda m: Through(with_pdist, m), "_pdist_backward"),
    "compiled": (
        lambda m: torch.compile(m, backend="aot_eager"), "pass the model as it was before torch.comp",
    ),
    "checkpoint": (
        lambda m: nn.Sequential(
            build(lambda: nn.Linear(3, 3), 1, "cpu").to(m[0].weight.device),
            Through(lambda inner, x: checkpoint(inner, x, use_reentrant=True), m),
        ),
        "use_reentrant=False",
    ),
    "checkpoint of inputs with a gradient": (
        lambda m: Through(
            lambda inner, x: checkpoint(inner, x.clone().requires_grad_(), use_reentrant=True), m
        ),
        "use use_reentrant=False",
    ),
}  # fmt: skip


@every_device
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NOT_TWICE)
def test_what_can_be_differentiated_once_only(device, name):
    change, sentence = NOT_TWICE[name]
    model, batch = example(device)
    operator = hessian(change(model), SQUARES, batch)
    with pytest.raises(RuntimeError, match=sentence):
        operator.to_dense()


@every_device
def test_what_cannot_be_differentiated_twice_is_named_with_its_batch(device):
    def sometimes(inner, x):
        return F.hardsigmoid(inner(x)) if len(x) == 5 else inner(x)

    problem = regression(device, sizes=(3, 5))
    operator = hessian(Through(sometimes, problem.model), problem.loss, problem.batches)
    with pytest.raises(
        RuntimeError, match=r"loss of micro-batch 1 cannot be differentiated twice.*torch\.clamp"
    ):
        operator.to_dense()


@every_device
def test_a_criterion_without_a_second_derivative(device):
    model, (x, _) = example(device)
    labels = integers(3, 2, 8, device=device)
    operator = hessian(model, nn.MultiMarginLoss(), (x, labels))
    with pytest.raises(
        RuntimeError, match=r"multi_margin_loss_backward.*not implemented; write what"
    ):
        operator.to_dense()


@every_device
@pytest.mark.parametrize("verb", [hessian, ggn], ids=["hessian", "ggn"])
def test_a_loss_without_a_second_derivative_by_outputs_has_its_sentence(device, verb):
    model = build(lambda: nn.Linear(3, 4), 0, device)
    data = [(normal(1, 5, 3, device=device), integers(2, 4, 5, device=device))]
    with pytest.raises(RuntimeError, match=r"cannot be differentiated twice: .*multi_margin_loss"):
        verb(model, nn.MultiMarginLoss(p=2), data).to_dense()

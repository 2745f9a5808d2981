"""Outer products of per-sample gradients, and their covariance, against dense ones."""

import pytest
from hypothesis import given

pytest.importorskip("torch")

import torch
from test_torch_ggn import assert_is_ggn
from test_torch_losses import LOSSES, criterion_of, labels_with_holes
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch.utils.checkpoint import checkpoint
from torch_outputs import unit_gradients
from torch_problems import (
    assert_same,
    batch_sizes,
    build,
    cut,
    every_device,
    few_examples,
    images,
    language,
    mlp,
    normal,
    regression,
    seeds,
    ways_to_compute,
)

import hessops
from hessops import check_operator
from hessops_torch import SplitLoss, empirical_fisher, gradient_covariance

SUMMED = {"reduction": "sum"}


def second_moments(gradients, counted, divisor):
    """Return the empirical Fisher matrix, the uncentred and the centred covariance."""
    g = gradients[counted]
    h = len(g) / divisor * g
    empirical = g.T @ g / divisor
    centred = h - h.mean(0)
    return empirical, h.T @ h / len(h), centred.T @ centred / len(h)


def assert_are(arguments, expected, ways, **options):
    empirical, uncentred, centred = expected
    assert_is_ggn(empirical_fisher(*arguments, **options, **ways), empirical)
    assert_is_ggn(gradient_covariance(*arguments, centred=False, **options, **ways), uncentred)
    operator = gradient_covariance(*arguments, **options, **ways)
    assert operator.structure.positive_semidefinite
    # Relative to what the mean is taken off from: of a single sample, nothing is left.
    dense = operator.to_dense()
    assert torch.linalg.norm(dense - centred) <= 1e-10 * torch.linalg.norm(uncentred)
    terms = [term.to_dense() for term in operator.terms()]
    deviation = torch.stack(terms).sum(0) - centred
    assert torch.linalg.norm(deviation) <= 1e-10 * torch.linalg.norm(uncentred)
    for term in terms:
        lowest = torch.linalg.eigvalsh((term + term.T) / 2)[0]
        assert lowest >= -1e-12 * torch.linalg.norm(uncentred)


@every_device
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "name",
    ["ignored labels", "weights and smoothing", "weighted probabilities", "squares", "Huber"],
)
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_criteria(device, name, reduction, sizes, ways, seed):
    kind, options, make_targets = LOSSES[name]
    criterion = criterion_of(kind, options, reduction, device)
    summed = criterion_of(kind, options, "sum", device)
    model = build(lambda: mlp(outputs=4, width=2), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = make_targets(seed + 2, sum(sizes), device)
    gradients = unit_gradients(model, lambda f: f(x), lambda z: summed(z, y))
    outputs = model(x).detach()
    # The sum over the mean is what the mean divides by.
    divisor = float(summed(outputs, y) / criterion(outputs, y))
    counted = y != -100 if y.ndim == 1 else torch.ones(len(y), dtype=torch.bool, device=device)
    expected = second_moments(gradients, counted, divisor)
    assert_are((model, criterion, cut(sizes, x, y)), expected, ways)


@every_device
@pytest.mark.parametrize("axes", [(0,), (0, 2), (0, 2, 3), (3, 0)])
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_samples_lines_and_pixels(device, axes, sizes, ways, seed):
    model = build(lambda: nn.Conv2d(1, 4, 2), seed, device)
    x = normal(seed + 1, sum(sizes), 1, 3, 4, device=device)
    y = labels_with_holes(seed + 2, 6 * sum(sizes), device).reshape(-1, 2, 3)
    gradients = unit_gradients(
        model, lambda f: f(x), lambda z: F.cross_entropy(z, y, reduction="sum"), tuple(sorted(axes))
    )
    kept = y != -100
    others = [axis - 1 for axis in (2, 3) if axis not in axes]
    counted = (kept.flatten(1).any(1) if len(axes) == 1 else
               kept if not others else kept.any(others[0])).flatten()  # fmt: skip
    expected = second_moments(gradients, counted, float(kept.sum()))
    arguments = model, nn.CrossEntropyLoss(), cut(sizes, x, y)
    assert_are(arguments, expected, ways, sample_axes=axes)


@every_device
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_every_entry_of_the_outputs_on_its_own(device, sizes, ways, seed):
    model = build(mlp, seed, device)
    x, y = (normal(seed + i, sum(sizes), size, device=device) for i, size in ((1, 3), (2, 2)))
    gradients = unit_gradients(
        model, lambda f: f(x), lambda z: F.mse_loss(z, y, reduction="sum"), (0, 1)
    )
    counted = torch.ones(len(gradients), dtype=torch.bool, device=device)
    expected = second_moments(gradients, counted, y.numel())
    assert_are((model, nn.MSELoss(), cut(sizes, x, y)), expected, ways, sample_axes=(0, 1))


@every_device
def test_outputs_with_no_axis_but_that_of_samples(device):
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x):
            return torch.tanh(self.linear(x)).squeeze(1)

    model = build(Squeezed, 0, device)
    x, y = normal(1, 5, 3, device=device), normal(2, 5, device=device)
    gradients = unit_gradients(model, lambda f: f(x), lambda z: (z - y).square().sum())
    expected = second_moments(gradients, torch.ones(5, dtype=torch.bool, device=device), 5)
    assert_are((model, nn.MSELoss(), cut([2, 3], x, y)), expected, {})


@every_device
@pytest.mark.parametrize("axes", [(0,), (0, 1)])
def test_sequences_and_tokens_of_a_loss_in_two_parts(device, axes):
    problem = language(device)
    whole = {key: torch.cat([b[key] for b in problem.batches]) for key in problem.batches[0]}

    def masked(outputs, batch):
        values = F.cross_entropy(outputs.transpose(1, 2), batch["labels"], reduction="none")
        return (values * batch["mask"]).sum()

    gradients = unit_gradients(
        problem.model, lambda f: f(whole["tokens"]), lambda z: masked(z, whole), axes
    )
    # Of a loss that is only a function it is not known which samples it ignores.
    counted = torch.ones(len(gradients), dtype=torch.bool, device=device)
    expected = second_moments(gradients, counted, float(whole["mask"].sum()))
    loss = SplitLoss(lambda f, b: f(b["tokens"]), lambda z, b: (masked(z, b), b["mask"].sum()))
    assert_are((problem.model, loss, problem.batches), expected, {}, sample_axes=axes)
    assert_are(
        (problem.model, loss, problem.batches), expected, {"micro_batch_size": 1}, sample_axes=axes
    )


@every_device
def test_batch_norm_in_train_mode(device):
    """A sample's gradient is what its outputs add to that of the batch."""
    problem = images(device, train=True)
    y = torch.cat([batch[1] for batch in problem.batches])
    gradients = unit_gradients(
        problem.model,
        lambda f: torch.cat([f(x) for x, _ in problem.batches]),
        lambda z: F.cross_entropy(z, y, reduction="sum"),
    )
    counted = torch.ones(len(y), dtype=torch.bool, device=device)
    assert_are(problem.arguments, second_moments(gradients, counted, len(y)), {})


@every_device
def test_samples_that_are_all_the_same_have_no_covariance(device):
    """A difference of two large matrices would leave rounding of their size."""
    model = build(mlp, 0, device)
    x, y = (
        normal(1, 1, 3, device=device).repeat(64, 1),
        normal(2, 1, 2, device=device).repeat(64, 1),
    )
    arguments = model, nn.MSELoss(), cut([40, 24], x, y)
    uncentred = gradient_covariance(*arguments, centred=False).to_dense()
    vector = normal(3, len(uncentred), device=device)
    form = float(vector @ (gradient_covariance(*arguments) @ vector))
    # Zero but for rounding, whose sign depends on the processor.
    assert abs(form) < 1e-25 * float(vector @ uncentred @ vector)


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_the_mean_gradient_follows_the_parameters_and_costs_one_pass(device, memory_budget):
    problem = regression(device)
    calls = []
    problem.model.register_forward_hook(lambda *_: calls.append(1))
    operator = gradient_covariance(*problem.arguments, memory_budget=memory_budget)
    vector = normal(1, operator.shape[0], device=device)
    batches = len(problem.batches)

    def passes():
        calls.clear()
        operator @ vector
        return len(calls)

    # The product itself, the mean gradient, and counting samples, which is done once.
    own = batches if memory_budget == 0 else 0
    assert passes() == 3 * batches
    assert passes() == own
    for _ in range(2):
        with torch.no_grad():
            problem.model[0].weight.mul_(2)
        assert passes() == 2 * batches
        assert passes() == own
        fresh = gradient_covariance(*problem.arguments)
        assert_same(operator.to_dense(), fresh.to_dense())


@every_device
def test_linear_symmetric_and_deterministic(device):
    for options in ({}, {"centred": False}):
        operator = gradient_covariance(*images(device).arguments, **options)
        check_operator(operator, rng=0).raise_if_failed()
        for term in operator.terms():
            check_operator(term, rng=0).raise_if_failed()


@every_device
def test_the_criterion_may_change(device):
    model = build(lambda: mlp(outputs=4, width=2), 0, device)
    x, y = normal(1, 6, 3, device=device), torch.tensor([0, 1, 1, 2, 3, 1], device=device)
    criterion = nn.CrossEntropyLoss()
    operator = gradient_covariance(model, criterion, cut([4, 2], x, y))
    before = operator.to_dense()
    criterion.ignore_index = 1
    kept = y != 1
    expected = gradient_covariance(model, nn.CrossEntropyLoss(), (x[kept], y[kept])).to_dense()
    assert torch.linalg.norm(expected - before) > 1e-2 * torch.linalg.norm(before)
    assert_same(operator.to_dense(), expected)


@every_device
def test_a_layer_of_the_whole(device):
    problem = images(device)
    for function in (empirical_fisher, gradient_covariance):
        whole = function(*problem.arguments).to_dense()
        part = function(*problem.arguments, params="0")
        assert_is_ggn(part, whole[: part.shape[0], : part.shape[0]])


def test_verbs_run_on_it():
    operator = gradient_covariance(*images("cpu").arguments)
    dense = operator.to_dense()
    found = hessops.eigsh(operator, 2, rng=0)
    expected = torch.linalg.eigvalsh(dense)[-2:].flip(0).tolist()
    assert found.eigenvalues == pytest.approx(expected, rel=1e-6)
    # No more eigenvalues than there are samples, but one for the mean.
    assert torch.linalg.matrix_rank(dense) <= 6


@pytest.mark.parametrize("axes", [(), (1,), (0, 0), 0, (0, -1), (0, True), "0", None])
def test_axes_that_tell_no_samples_apart(axes):
    with pytest.raises(ValueError, match="must be different axes of the outputs"):
        empirical_fisher(*regression("cpu").arguments, sample_axes=axes)


def test_axes_that_the_outputs_do_not_have():
    operator = empirical_fisher(*regression("cpu").arguments, sample_axes=(0, 2))
    with pytest.raises(ValueError, match=r"no axes of outputs of shape \(3, 2\)"):
        operator.to_dense()


def test_classes_of_one_label_belong_to_one_sample():
    operator = empirical_fisher(*images("cpu").arguments, sample_axes=(0, 1))
    with pytest.raises(ValueError, match=r"axis 1 .* holds the classes of one label"):
        operator.to_dense()
    model = build(lambda: mlp(outputs=4), 0, "cpu")
    batch = normal(1, 3, device="cpu"), torch.tensor(2)
    operator = empirical_fisher(model, nn.CrossEntropyLoss(), [batch])
    with pytest.raises(ValueError, match="add an axis of samples"):
        operator.to_dense()


def test_a_function_of_model_and_batch_is_refused():
    problem = regression("cpu")

    def loss(model, batch):
        return F.mse_loss(model(batch[0]), batch[1], reduction="sum"), batch[1].numel()

    for function in (empirical_fisher, gradient_covariance):
        with pytest.raises(TypeError, match=r"needs the model's outputs .*SplitLoss"):
            function(problem.model, loss, problem.batches)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_data_without_a_label_is_refused(reduction):
    model = build(lambda: mlp(outputs=4), 0, "cpu")
    batch = normal(1, 3, 3, device="cpu"), torch.full((3,), -100)
    operator = gradient_covariance(model, nn.CrossEntropyLoss(reduction=reduction), batch)
    with pytest.raises(ValueError, match=r"labels of all samples are ignored|nothing to average"):
        operator.to_dense()


class Checkpointed(nn.Module):
    """A layer behind a checkpoint, of inputs with a gradient by a layer before or of their own."""

    def __init__(self, *, reentrant, before):
        super().__init__()
        self.first, self.inner, self.last = (nn.Linear(3, 3) for _ in range(3))
        self.reentrant, self.before = reentrant, before

    def forward(self, x):
        x = self.first(x) if self.before else self.first(x).detach().requires_grad_()
        if self.reentrant is None:
            return self.last(torch.tanh(self.inner(x)))
        inner = checkpoint(lambda h: torch.tanh(self.inner(h)), x, use_reentrant=self.reentrant)
        return self.last(inner)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss()], ids=str)
def test_a_reentrant_checkpoint_is_refused_and_another_is_not(centred, before, loss):
    model = build(lambda: Checkpointed(reentrant=True, before=before), 0, "cpu")
    x, y = (normal(seed, 6, 3, device="cpu") for seed in (1, 2))
    data = [(part, target.softmax(1)) for part, target in zip(x.split(3), y.split(3), strict=True)]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        gradient_covariance(model, loss, data, centred=centred).to_dense()
    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[name], now) for name, now in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    found = []
    for model.reentrant in (False, None):
        found.append(gradient_covariance(model, loss, data, centred=centred).to_dense())
    assert_same(*found)
    assert torch.count_nonzero(found[0]) > 0

"""Fisher matrices, exact and by labels drawn from the model, against dense ones."""

import math
from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from test_torch_ggn import assert_is_ggn, masked_labels
from test_torch_losses import LOSSES, WEIGHTS, criterion_of, labels_with_holes
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_outputs import dense_ggn, dense_jacobian, outputs_of
from torch_problems import (
    assert_same,
    batch_sizes,
    build,
    cut,
    every_device,
    few_examples,
    images,
    integers,
    language,
    mlp,
    normal,
    regression,
    seeds,
    ways_to_compute,
)

import hessops
from hessops_torch import SplitLoss, fisher, ggn

KNOWN = [
    name
    for name, (kind, _, _) in LOSSES.items()
    if kind in {nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss}
]


def classifier(device, name, sizes=(3, 2), seed=0, reduction="mean"):
    kind, options, make_targets = LOSSES[name]
    criterion = criterion_of(kind, options, reduction, device)
    model = build(lambda: mlp(outputs=4, width=2), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = make_targets(seed + 2, sum(sizes), device)
    return model, criterion, x, y


@every_device
@pytest.mark.parametrize("name", KNOWN)
@few_examples
@given(batch_sizes, st.integers(1, 20), ways_to_compute(), seeds)
def test_the_exact_matrix_is_the_gauss_newton_matrix(device, name, sizes, block_size, ways, seed):
    model, criterion, x, y = classifier(device, name, sizes, seed)
    operator = fisher(model, criterion, cut(sizes, x, y), **ways)
    assert operator.structure.positive_semidefinite
    expected = dense_ggn(model, lambda f: f(x), lambda z: criterion(z, y))
    assert_is_ggn(operator, expected, block_size)


def enumerated(model, x, y, weight, log_probabilities):
    """Return the sum over samples and classes of w p(c) g_c g_c^T, over the sum of the weights w."""
    J = dense_jacobian(model, lambda f: f(x)).reshape(len(x), 4, -1)
    p = log_probabilities(outputs_of(model, lambda f: f(x))).exp()
    total, mass = 0.0, 0.0
    for i in range(len(x)):
        if y[i] == -100:
            continue
        own = float(weight[y[i]])
        mass += own
        for c in range(4):
            leaf = outputs_of(model, lambda f, i=i: f(x[i])).clone().requires_grad_()
            (r,) = torch.autograd.grad(-log_probabilities(leaf)[c], leaf)
            g = J[i].T @ r
            total = total + own * float(p[i, c]) * torch.outer(g, g)
    return total / mass


@every_device
@pytest.mark.parametrize("normalized", [False, True])
@few_examples
@given(batch_sizes, seeds)
def test_the_expectation_over_all_labels(device, normalized, sizes, seed):
    """Of logits by CrossEntropyLoss, of log-probabilities by NLLLoss."""
    last = nn.LogSoftmax(-1) if normalized else nn.Identity()
    model = build(lambda: nn.Sequential(mlp(outputs=4, width=2), last), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = labels_with_holes(seed + 2, sum(sizes), device)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64, device=device)
    kind = nn.NLLLoss if normalized else nn.CrossEntropyLoss
    operator = fisher(model, kind(weight), cut(sizes, x, y))

    def log_probabilities(outputs):
        return outputs if normalized else outputs.log_softmax(-1)

    assert_is_ggn(operator, enumerated(model, x, y, weight, log_probabilities))


@every_device
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_probabilities_and_logits_have_one_fisher_matrix(device, reduction):
    model = build(lambda: nn.Sequential(nn.Conv1d(2, 4, 2), nn.LogSoftmax(1)), 0, device)
    x = normal(1, 3, 2, 4, device=device)
    y = labels_with_holes(2, 9, device).reshape(3, 3)
    of_logits = ggn(model[0], nn.CrossEntropyLoss(reduction=reduction), cut([2, 1], x, y))
    operator = fisher(model, nn.NLLLoss(reduction=reduction), cut([2, 1], x, y))
    assert_is_ggn(operator, of_logits.to_dense())


@every_device
@pytest.mark.parametrize(
    "name", ["weights and smoothing", "squares", "weighted binary", "pixels", "log-probabilities"]
)
@few_examples
@given(st.data(), seeds)
def test_the_draw_is_the_same_however_it_is_computed(device, name, data, seed):
    sizes = data.draw(batch_sizes)
    count = sum(sizes)
    if name == "pixels":
        model = build(lambda: nn.Conv2d(1, 4, 2), seed, device)
        criterion, x = nn.CrossEntropyLoss(), normal(seed + 1, count, 1, 3, 4, device=device)
        y = labels_with_holes(seed + 2, 6 * count, device).reshape(-1, 2, 3)
    elif name == "log-probabilities":
        model = build(lambda: nn.Sequential(mlp(outputs=4), nn.LogSoftmax(1)), seed, device)
        criterion, x = nn.NLLLoss(), normal(seed + 1, count, 3, device=device)
        y = labels_with_holes(seed + 2, count, device)
    else:
        model, criterion, x, y = classifier(device, name, sizes, seed)
    draws = {"num_draws": data.draw(st.integers(1, 3)), "rng": data.draw(st.integers(0, 2**64 - 1))}
    ways = data.draw(ways_to_compute())
    expected = fisher(model, criterion, [(x, y)], **draws).to_dense()
    operator = fisher(model, criterion, cut(sizes, x, y), **draws, **ways)
    assert operator.seed == draws["rng"]
    assert_is_ggn(operator, expected)
    assert torch.count_nonzero(expected)


@every_device
@pytest.mark.parametrize("name", ["class weights", "squares", "weighted binary"])
def test_the_mean_over_draws_is_the_exact_matrix(device, name):
    """One sample many times over: terms of the sum are independent draws of one matrix."""
    copies = 400
    model, criterion, x, y = classifier(device, name, sizes=(2,), seed=4)
    batch = x[1:].repeat(copies, 1), y[1:].repeat(copies, *[1] * (y.ndim - 1))
    exact = fisher(model, criterion, [(x[1:], y[1:])]).to_dense()
    vector = normal(9, len(exact), device=device)
    variances = []
    for num_draws in (1, 4):
        drawn = fisher(model, criterion, batch, num_draws=num_draws, rng=0, micro_batch_size=1)
        forms = torch.stack([copies * (vector @ (term @ vector)) for term in drawn.terms()])
        error = float(forms.std()) / math.sqrt(copies)
        assert abs(float(forms.mean() - vector @ exact @ vector)) <= 4 * error
        variances.append(float(forms.var()))
    # Of 400 numbers, a variance is known to about a fifth.
    assert 2 < variances[0] / variances[1] < 8


@every_device
def test_one_draw_is_the_outer_product_of_one_labels_gradient(device):
    model = build(lambda: mlp(outputs=4, width=2), 3, device)
    x = normal(1, 1, 3, device=device)
    J = dense_jacobian(model, lambda f: f(x))
    p = outputs_of(model, lambda f: f(x)).softmax(1)[0]
    candidates = [J.T @ (torch.eye(4, dtype=p.dtype, device=device)[c] - p) for c in range(4)]
    y = torch.tensor([1], device=device)
    drawn = []
    for seed in range(40):
        found = fisher(model, nn.CrossEntropyLoss(), [(x, y)], num_draws=1, rng=seed).to_dense()
        distances = [float(torch.linalg.norm(found - torch.outer(g, g))) for g in candidates]
        assert min(distances) <= 1e-12
        drawn.append(distances.index(min(distances)))
    assert len(set(drawn)) == 4


@every_device
def test_draws_go_with_the_parameters(device):
    """Where a model becomes sure of a class, that class is drawn."""
    model = nn.Linear(2, 3).to(device, torch.float64)
    x, y = normal(1, 4, 2, device=device), integers(2, 3, 4, device=device)
    operator = fisher(model, nn.CrossEntropyLoss(), [(x, y)], num_draws=2, rng=0)
    before = operator.to_dense()
    with torch.no_grad():
        model.bias[1] += 100.0
    again = fisher(model, nn.CrossEntropyLoss(), [(x, y)], num_draws=2, rng=0)
    assert_same(operator.to_dense(), again.to_dense())
    assert torch.linalg.norm(operator.to_dense()) < 1e-20
    assert torch.linalg.norm(before) > 0.1


@every_device
def test_tokens_in_dict_batches(device):
    problem = language(device)
    loss = SplitLoss(
        lambda model, batch: model(batch["tokens"]).flatten(0, 1),
        nn.CrossEntropyLoss(),
        masked_labels,
    )
    expected = ggn(problem.model, loss, problem.batches).to_dense()
    assert_is_ggn(fisher(problem.model, loss, problem.batches), expected)
    drawn = fisher(problem.model, loss, problem.batches, num_draws=4000, rng=0).to_dense()
    # 4000 draws leave an error of a few per cent.
    assert torch.linalg.norm(drawn - expected) < 0.1 * torch.linalg.norm(expected)
    one = fisher(problem.model, loss, problem.batches, num_draws=1, rng=0)
    cut_up = fisher(problem.model, loss, problem.batches, num_draws=1, rng=0, micro_batch_size=1)
    assert_same(cut_up.to_dense(), one.to_dense())


@every_device
@pytest.mark.parametrize("options", [{}, {"num_draws": 2, "rng": 0}])
def test_weight_decay_selection_and_single_precision(device, options):
    problem = images(device)
    whole = fisher(*problem.arguments, **options).to_dense()
    decayed = fisher(*problem.arguments, weight_decay=0.5, **options)
    identity = torch.eye(len(whole), dtype=whole.dtype, device=device)
    assert_is_ggn(decayed, whole + 0.5 * identity)
    part = fisher(*problem.arguments, params="0", **options)
    size = part.shape[0]
    assert_is_ggn(part, whole[:size, :size])
    problem.model.float()
    batches = [(x.float(), y) for x, y in problem.batches]
    single = fisher(problem.model, problem.loss, batches, **options).to_dense()
    assert_same(single, whole.float(), 1e-5)


def test_negative_weights_are_not_declared_semidefinite():
    model, _, x, y = classifier("cpu", "cross-entropy")
    criterion = nn.CrossEntropyLoss(torch.tensor([1.0, -2.0, 1.0, 4.0], dtype=torch.float64))
    for operator in (fisher(model, criterion, [(x, y)]), ggn(model, criterion, [(x, y)])):
        assert operator.structure.self_adjoint
        assert not operator.structure.positive_semidefinite
    assert not fisher(
        model, nn.CrossEntropyLoss(), [(x, y)], weight_decay=-1.0
    ).structure.positive_semidefinite


def test_it_says_what_it_is():
    problem = regression("cpu")
    assert "exact, 3 micro-batches" in repr(fisher(*problem.arguments))
    assert "2 draws, seed 7, 3" in repr(fisher(*problem.arguments, num_draws=2, rng=7))
    assert isinstance(fisher(*problem.arguments, num_draws=1).seed, int)


class Tempered(nn.CrossEntropyLoss):
    def forward(self, outputs, target):
        return super().forward(2 * outputs, target)


UNKNOWN = {
    "a subclass": (Tempered(), "of this Tempered it is not known"),
    "another criterion": (nn.HuberLoss(), "of this HuberLoss it is not known"),
    "a function": (lambda f, b: (f(b[0]).square().sum(), 1), "of this loss it is not known"),
    "two parts": (
        SplitLoss(lambda f, b: f(b[0]), lambda z, b: (z.square().sum(), 1)), "hessops_torch.ggn is"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_losses_of_no_known_distribution_are_refused(name):
    loss, sentence = UNKNOWN[name]
    model = build(lambda: mlp(outputs=4), 0, "cpu")
    y = normal(2, 5, 4, device="cpu").softmax(1)
    with pytest.raises(TypeError, match=sentence):
        fisher(model, loss, (normal(1, 5, 3, device="cpu"), y))


def test_a_criterion_that_computes_something_else_is_refused(monkeypatch):
    problem = regression("cpu")
    operator = fisher(*problem.arguments)
    mse_loss = F.mse_loss
    monkeypatch.setattr(F, "mse_loss", lambda z, t, **kw: 3 * mse_loss(z, t, **kw))
    with pytest.raises(ValueError, match="MSELoss by its input is not that of the likelihood"):
        operator.to_dense()


def test_outputs_that_are_no_log_probabilities_are_refused():
    model = build(lambda: mlp(outputs=4), 0, "cpu")
    batch = normal(1, 5, 3, device="cpu"), integers(2, 4, 5, device="cpu")
    operator = fisher(model, nn.NLLLoss(), batch)
    with pytest.raises(ValueError, match="do not add up to one: end the model with log_softmax"):
        operator.to_dense()


@pytest.mark.parametrize("num_draws", [0, -1, 1.5, True, "2"])
def test_a_number_of_draws_that_is_none(num_draws):
    with pytest.raises(ValueError, match=r"num_draws=.* must be a positive integer"):
        fisher(*regression("cpu").arguments, num_draws=num_draws)


def test_a_seed_without_draws_is_refused():
    with pytest.raises(ValueError, match="give num_draws, or leave rng out"):
        fisher(*regression("cpu").arguments, rng=0)


def test_estimators_run_on_it():
    operator = fisher(*images("cpu").arguments, num_draws=3, rng=1)
    dense = operator.to_dense()
    found = hessops.trace(operator, num_probes=16, rng=0)
    assert abs(found.value - float(dense.trace())) <= 5 * float(found.standard_error)
    by_terms = reduce(add, [term.to_dense() for term in operator.terms()])
    assert_same(by_terms, dense)

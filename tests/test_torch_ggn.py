"""Gauss-Newton matrices against dense J^T M J, in double precision to 1e-10."""

import re
from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from test_torch_losses import LOSSES, criterion_of, labels_with_holes
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_outputs import dense_ggn
from torch_problems import (
    Attention,
    Encoder,
    Recurrent,
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
    rows_of,
    seeds,
    ways_to_compute,
)

import hessops
from hessops import check_operator
from hessops_torch import SplitLoss, ggn, hessian

block_sizes = st.integers(1, 40)


def assert_is_ggn(operator, expected, block_size=256):
    dense = operator.to_dense(block_size=block_size)
    assert_same(dense, expected)
    by_terms = reduce(add, [term.to_dense() for term in operator.terms()])
    assert_same(by_terms, expected)
    if operator.structure.positive_semidefinite:
        lowest, *_, highest = torch.linalg.eigvalsh((dense + dense.T) / 2).tolist()
        assert lowest >= -1e-12 * highest


@every_device
@pytest.mark.parametrize(
    ("name", "reduction"),
    [(name, "mean") for name in sorted(set(LOSSES) - {"L1"})]
    + [(name, "sum") for name in ("weights and smoothing", "squares", "Huber")],
)
@few_examples
@given(batch_sizes, block_sizes, ways_to_compute(), seeds)
def test_criteria(device, name, reduction, sizes, block_size, ways, seed):
    kind, options, make_targets = LOSSES[name]
    criterion = criterion_of(kind, options, reduction, device)
    model = build(lambda: mlp(outputs=4, width=2), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = make_targets(seed + 2, sum(sizes), device)
    operator = ggn(model, criterion, cut(sizes, x, y), **ways)
    convex = name != "Poisson"
    assert operator.structure.positive_semidefinite == convex
    expected = dense_ggn(model, lambda f: f(x), lambda z: criterion(z, y))
    assert_is_ggn(operator, expected, block_size)


@every_device
@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss])
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_a_subclass_of_a_criterion_is_differentiated(device, criterion, sizes, ways, seed):
    """It may compute anything."""

    class Tempered(criterion):
        def forward(self, outputs, target):
            return super().forward(torch.sin(outputs), target)

    model = build(lambda: mlp(outputs=4, width=2), seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = normal(seed + 2, sum(sizes), 4, device=device).softmax(1)
    operator = ggn(model, Tempered(), cut(sizes, x, y), **ways)
    assert not operator.structure.positive_semidefinite
    assert_is_ggn(operator, dense_ggn(model, lambda f: f(x), lambda z: Tempered()(z, y)))


CHANGES = {
    "forward": lambda c: setattr(c, "forward", lambda z, y: 2 * F.mse_loss(z, y, reduction="none")),
    "hook": lambda c: c.register_forward_hook(lambda _module, _inputs, out: 2 * out),
    "pre-hook": lambda c: c.register_forward_pre_hook(lambda _module, both: (2 * both[0], both[1])),
}


@every_device
@pytest.mark.parametrize("name", CHANGES)
def test_a_criterion_whose_forward_pass_was_changed(device, name):
    problem = regression(device)
    x, y = (torch.cat(parts) for parts in zip(*problem.batches, strict=True))
    operator = ggn(*problem.arguments)
    plain = dense_ggn(problem.model, lambda f: f(x), lambda z: F.mse_loss(z, y))
    assert_is_ggn(operator, plain)
    CHANGES[name](problem.loss)
    factor = {"forward": 2, "hook": 2, "pre-hook": 4}[name]
    assert_is_ggn(operator, factor * plain)


@every_device
def test_a_closed_form_that_is_wrong_is_noticed_and_not_used(device, monkeypatch):
    """As when a later version of PyTorch gives a criterion one more setting."""
    problem = regression(device)
    x, y = (torch.cat(parts) for parts in zip(*problem.batches, strict=True))
    mse_loss = F.mse_loss
    monkeypatch.setattr(F, "mse_loss", lambda z, t, **kw: 3 * mse_loss(z, t, **kw))
    operator = ggn(*problem.arguments)
    with pytest.warns(RuntimeWarning, match="MSELoss by its input is not what .* autograd"):
        operator.to_dense()
    assert_is_ggn(operator, dense_ggn(problem.model, lambda f: f(x), lambda z: F.mse_loss(z, y)))


@every_device
@pytest.mark.parametrize("weighted", [False, True])
@few_examples
@given(batch_sizes, ways_to_compute(), st.sampled_from([0.0, 0.2]), seeds)
def test_labels_of_every_pixel(device, weighted, sizes, ways, smoothing, seed):
    model = build(lambda: nn.Conv2d(1, 4, 2), seed, device)
    x = normal(seed + 1, sum(sizes), 1, 3, 4, device=device)
    y = labels_with_holes(seed + 2, 6 * sum(sizes), device).reshape(-1, 2, 3)
    weight = [0.5, 2.0, 1.0, 3.0] if weighted else None
    options = {"label_smoothing": smoothing} | ({"weight": weight} if weighted else {})
    criterion = criterion_of(nn.CrossEntropyLoss, options, "mean", device)
    operator = ggn(model, criterion, cut(sizes, x, y), **ways)
    assert_is_ggn(operator, dense_ggn(model, lambda f: f(x), lambda z: criterion(z, y)))


@every_device
def test_one_sample_without_a_batch_axis(device):
    model = build(lambda: mlp(outputs=4), 0, device)
    x, y = normal(1, 3, device=device), torch.tensor(2, device=device)
    operator = ggn(model, nn.CrossEntropyLoss(), [(x, y)])
    assert_is_ggn(operator, dense_ggn(model, lambda f: f(x), lambda z: F.cross_entropy(z, y)))


@every_device
@few_examples
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.sampled_from([None, 0]), seeds)
def test_batch_norm_in_train_mode(device, sizes, budget, seed):
    problem = images(device, sizes, seed, train=True)
    y = torch.cat([batch[1] for batch in problem.batches])
    operator = ggn(*problem.arguments, memory_budget=budget)

    def forward(f):
        return torch.cat([f(x) for x, _ in problem.batches])

    assert_is_ggn(operator, dense_ggn(problem.model, forward, lambda z: F.cross_entropy(z, y)))


def split(problem, loss=None):
    """Return a token loss in two parts."""

    def forward(model, batch):
        return model(batch["tokens"])

    def of_outputs(outputs, batch):
        values = F.cross_entropy(outputs.flatten(0, 1), batch["labels"].flatten(), reduction="none")
        mask = batch["mask"].flatten()
        return (values * mask).sum(), mask.sum()

    return problem.model, SplitLoss(forward, of_outputs if loss is None else loss), problem.batches


def dense_of_tokens(problem):
    whole = {key: torch.cat([b[key] for b in problem.batches]) for key in problem.batches[0]}
    chosen = whole["mask"].bool()
    return dense_ggn(
        problem.model,
        lambda f: f(whole["tokens"]),
        lambda z: F.cross_entropy(z[chosen], whole["labels"][chosen]),
    )


def masked_labels(batch):
    return batch["labels"].masked_fill(batch["mask"] == 0, -100).flatten()


@every_device
@pytest.mark.parametrize(
    "factory",
    [Attention, lambda: Attention(tied=False), Encoder],
    ids=["tied", "untied", "encoder"],
)
@pytest.mark.parametrize("ways", [{}, {"memory_budget": 0, "micro_batch_size": 1}])
def test_tokens_in_dict_batches(device, factory, ways):
    problem = language(device, (1, 2), 5, factory)
    expected = dense_of_tokens(problem)
    operator = ggn(*split(problem), **ways)
    assert not operator.structure.positive_semidefinite
    assert_is_ggn(operator, expected)
    with_criterion = SplitLoss(
        lambda model, batch: model(batch["tokens"]).flatten(0, 1),
        nn.CrossEntropyLoss(),
        masked_labels,
    )
    operator = ggn(problem.model, with_criterion, problem.batches, **ways)
    assert operator.structure.positive_semidefinite
    assert_is_ggn(operator, expected)
    if ways:
        H = hessian(problem.model, with_criterion, problem.batches, **ways)
        assert_same(H.to_dense(), problem.dense())


@every_device
@few_examples
@given(batch_sizes, ways_to_compute(), seeds)
def test_recurrent_networks(device, sizes, ways, seed):
    model = build(lambda: Recurrent(nn.GRU), seed, device)
    x = normal(seed + 1, sum(sizes), 3, 3, device=device)
    y = normal(seed + 2, sum(sizes), 2, device=device)
    operator = ggn(model, nn.MSELoss(), cut(sizes, x, y), **ways)
    parameters = list(model.parameters())
    outputs = model(x).reshape(-1)
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in outputs]
    J = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    assert_is_ggn(operator, 2 * J.T @ J / y.numel())


@every_device
@pytest.mark.parametrize("params", ["0", ["3.inner.0.weight", "*.bias"], re.compile("6")])
def test_selected_parameters_have_their_block_of_the_whole(device, params):
    problem = images(device)
    whole = ggn(*problem.arguments)
    operator = ggn(*problem.arguments, params=params)
    rows = rows_of(problem.model, list(operator.space.shapes)).to(device)
    assert_is_ggn(operator, whole.to_dense()[rows][:, rows])


@every_device
def test_parameters_that_the_outputs_do_not_depend_on(device):
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).to(device, torch.float64)
    model.unused = nn.Parameter(torch.ones(2, device=device, dtype=torch.float64))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    x, y = normal(1, 5, 3, device=device), normal(2, 5, 1, device=device)
    operator = ggn(model, nn.MSELoss(), (x, y))
    rows = rows_of(model, ["unused"]).to(device)
    dense = operator.to_dense()
    assert torch.count_nonzero(dense[rows]) == torch.count_nonzero(dense[:, rows]) == 0
    others = rows_of(model, ["0.weight", "0.bias", "2.weight", "2.bias"]).to(device)
    model.forward = lambda x: nn.Sequential.forward(model, x)
    expected = ggn(model, nn.MSELoss(), (x, y), params="[02].*").to_dense()
    assert_same(dense[others][:, others], expected)


class LinearInItsParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(torch.cat([x, x.prod(1, keepdim=True)], 1)) + x.sum(1, keepdim=True)


@every_device
@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.CrossEntropyLoss(label_smoothing=0.1)])
@given(batch_sizes, ways_to_compute(), seeds)
def test_the_hessian_of_a_model_that_is_linear_in_its_parameters(
    device, criterion, sizes, ways, seed
):
    model = build(LinearInItsParameters, seed, device)
    x = normal(seed + 1, sum(sizes), 3, device=device)
    y = normal(seed + 2, sum(sizes), 3, device=device).softmax(1)
    arguments = model, criterion, cut(sizes, x, y)
    decayed = ggn(*arguments, weight_decay=0.3, **ways)
    assert_same(decayed.to_dense(), hessian(*arguments, weight_decay=0.3).to_dense())
    assert decayed.structure.positive_semidefinite
    assert not ggn(*arguments, weight_decay=-0.3).structure.positive_semidefinite


@every_device
@pytest.mark.parametrize("make_problem", [regression, images])
@pytest.mark.parametrize("memory_budget", [None, 0])
def test_linear_symmetric_and_deterministic(device, make_problem, memory_budget):
    operator = ggn(*make_problem(device).arguments, memory_budget=memory_budget)
    check_operator(operator, rng=0).raise_if_failed()
    for term in operator.terms():
        check_operator(term, rng=0).raise_if_failed()


@every_device
@pytest.mark.parametrize("make_problem", [regression, images])
@few_examples
@given(st.floats(0.0, 1.2), seeds)
def test_the_cache_respects_its_budget(device, make_problem, share, seed):
    problem = make_problem(device)
    everything = ggn(*problem.arguments)
    block = normal(seed, everything.shape[0], 2, device=device)
    expected = everything @ block
    budget = int(share * everything.graphs.num_bytes)
    operator = ggn(*problem.arguments, memory_budget=budget)
    for _ in range(2):
        assert_same(operator @ block, expected, 1e-12)
        assert operator.graphs.num_bytes <= budget
    if share >= 1:
        assert len(operator.graphs) == len(problem.batches)


@every_device
def test_single_precision_stays_single(device):
    problem = images(device)
    expected = ggn(*problem.arguments).to_dense().to(torch.float32)
    problem.model.float()
    batches = [(x.float(), y) for x, y in problem.batches]
    assert_same(ggn(problem.model, problem.loss, batches).to_dense(), expected, 1e-5)


@every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confident_predictions(device, dtype):
    """Where probabilities are one to rounding, the curvature is small and not zero."""
    model = nn.Linear(1, 1, bias=False).to(device, dtype)
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = torch.tensor([[30.0], [-30.0]], dtype=dtype, device=device)
    operator = ggn(model, nn.BCEWithLogitsLoss(), (x, (x > 0).to(dtype)))
    expected = 900 * torch.sigmoid(torch.tensor([[-30.0]], dtype=torch.float64, device=device))
    assert_same(operator.to_dense(), expected.to(dtype), 1e-6)
    assert operator.structure.positive_semidefinite


@every_device
def test_verbs_run_on_it(device):
    operator = ggn(*images(device).arguments)
    dense = operator.to_dense()
    top = torch.linalg.eigvalsh(dense)[-2:].flip(0)
    found = hessops.eigsh(operator, 2, rng=0)
    assert found.eigenvalues == pytest.approx(top.tolist(), rel=1e-6)
    estimate = hessops.trace(operator, num_probes=8, rng=0)
    assert abs(estimate.value - float(dense.trace())) <= 5 * float(estimate.standard_error)

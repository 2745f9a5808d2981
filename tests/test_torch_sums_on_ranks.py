"""Every finite sum over a network's data on several ranks: the matrix of one process, dealt out or not.

The ranks are threads, each with a model of its own.
"""

import copy
import re
from functools import partial
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from doubles import run_on_ranks  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from strategies import norm  # noqa: E402
from test_torch_ranks import Counted, raised_on_all  # noqa: E402
from torch import nn  # noqa: E402
from torch_problems import build, cut, integers, normal  # noqa: E402

import hessops  # noqa: E402
from hessops_torch import (  # noqa: E402
    GaussNewton,
    Hessian,
    Objective,
    ShiftHessian,
    SplitLoss,
    block_diagonal,
    empirical_fisher,
    fisher,
    gauss_newton_trace,
    ggn,
    gradient_covariance,
    hessian,
    hessian_trace,
    jacobian,
    layer_curvature,
    ntk,
    preconditioned,
    residual_curvature,
)

SIZES = [3, 1, 4, 2, 5, 1]
RTOL = 1e-12
MODEL = build(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), 0, "cpu")
X = normal(1, sum(SIZES), 3, device="cpu")
LABELS = integers(2, 3, sum(SIZES), device="cpu")
NUMBERS = normal(3, sum(SIZES), 3, device="cpu")
OF_CLASSES, OF_NUMBERS = cut(SIZES, X, LABELS), cut(SIZES, X, NUMBERS)

CLASSES = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64))
SUM = nn.CrossEntropyLoss(reduction="sum", ignore_index=1)
SQUARES = nn.MSELoss()


def fourth_powers(outputs, batch):
    return (outputs - batch[1]).pow(4).sum(), len(outputs)


def forward(model, batch):
    return model(batch[0])


POWERS = SplitLoss(forward, fourth_powers)

MATRICES = {
    "Fisher": fisher,
    "Fisher, drawn": partial(fisher, num_draws=3, rng=5),
    "empirical Fisher": partial(empirical_fisher, weight_decay=0.1),
    "covariance": gradient_covariance,
    "second moment": partial(gradient_covariance, centred=False),
    "blocks of the covariance": lambda *given, **options: block_diagonal(
        gradient_covariance(*given, **options), each="tensor"
    ),
    "residual": residual_curvature,
    "Gauss-Newton": ggn,
}
OF_POWERS = ["empirical Fisher", "covariance", "residual", "Gauss-Newton"]
LOSSES = {
    "classes": (CLASSES, OF_CLASSES),
    "sum": (SUM, OF_CLASSES),
    "squares": (SQUARES, OF_NUMBERS),
    "powers": (POWERS, OF_NUMBERS),
}
CASES = [(m, n) for n in LOSSES for m in MATRICES if n != "powers" or m in OF_POWERS]
# Of 1 to 4 ranks, some of them without data.
cuts = st.lists(st.integers(0, len(SIZES)), min_size=0, max_size=3).map(
    lambda inner: [0, *sorted(inner), len(SIZES)]
)


def on_ranks(make, loss, batches, bounds, then):
    """Return what every rank finds of the matrix of all the data, of which it has a part."""

    def work(comm):
        first, last = list(pairwise(bounds))[comm.rank]
        own = copy.deepcopy(MODEL), copy.deepcopy(loss), batches[first:last]
        return then(make(*own, comm=comm))

    return run_on_ranks(work, len(bounds) - 1)


@pytest.mark.parametrize(("matrix", "loss"), CASES)
@settings(max_examples=3)
@given(bounds=cuts)
def test_any_deal_is_the_matrix_of_all_the_data(matrix, loss, bounds):
    make, (criterion, batches) = MATRICES[matrix], LOSSES[loss]
    serial = make(copy.deepcopy(MODEL), criterion, batches)
    expected, trace = serial.to_dense(), hessops.trace(serial, num_probes=2, rng=0)

    def look(A):
        return repr(A), A.structure, A.to_dense(), hessops.trace(A, num_probes=2, rng=0)

    for words, structure, dense, found in on_ranks(make, criterion, batches, bounds, look):
        assert words == repr(serial)
        assert structure == serial.structure
        assert float((dense - expected).norm()) <= RTOL * float(expected.norm())
        assert found.num_terms == trace.num_terms
        assert found.value == pytest.approx(trace.value, rel=RTOL)
        if "covariance" not in matrix:
            # The same products and the same divisor, to the last bit.
            assert found.value == trace.value


@pytest.mark.parametrize("matrix", ["Fisher, drawn", "empirical Fisher", "covariance"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_reductions_of_a_product(matrix, size):
    bounds = [*[0, 2, 2, 3, 6][:size], 6]

    def work(comm):
        counted = Counted(comm)
        first, last = list(pairwise(bounds))[comm.rank]
        A = MATRICES[matrix](copy.deepcopy(MODEL), SQUARES, OF_NUMBERS[first:last], comm=counted)
        block = torch.ones(A.shape[1], 4, dtype=torch.float64)
        A.apply(block)  # And once for what has to be known of all the data.
        counted.calls.clear()
        A.apply(block)
        return counted.calls, A.shape[1]

    for calls, n in run_on_ranks(work, size):
        product = (4 * n + size + 1,)
        before = [(1,)] if matrix == "covariance" else []
        assert calls == ([] if size == 1 else [*before, product])


@pytest.mark.parametrize("centred", [True, False])
def test_the_covariance_follows_the_model_and_the_loss(centred):
    make = partial(gradient_covariance, centred=centred)

    def change(model, loss):
        with torch.no_grad():
            model[0].weight.mul_(2)
        loss.ignore_index = 2

    model, loss = copy.deepcopy(MODEL), copy.deepcopy(SUM)
    change(model, loss)
    expected = make(model, loss, OF_CLASSES).to_dense()

    def work(comm):
        own, criterion = copy.deepcopy(MODEL), copy.deepcopy(SUM)
        A = make(own, criterion, OF_CLASSES[3 * comm.rank : 3 * comm.rank + 3], comm=comm)
        before = A.to_dense()
        mine = next(term for term in A.terms() if term.held_by == comm.rank)
        change(own, criterion)
        with pytest.raises(RuntimeError, match="has changed since"):
            mine.apply(torch.ones(A.shape[1], dtype=torch.float64))
        dense = A.to_dense()
        assert float((dense - before).norm()) > 0.01 * float(before.norm())
        return dense

    for dense in run_on_ranks(work, 2):
        assert float((dense - expected).norm()) <= RTOL * float(expected.norm())


def test_samples_without_a_label_are_refused_on_all_ranks():
    def work(comm):
        batches = [
            (x, torch.ones_like(y)) for x, y in OF_CLASSES[2 * comm.rank : 2 * comm.rank + 2]
        ]
        A = gradient_covariance(copy.deepcopy(MODEL), copy.deepcopy(SUM), batches, comm=comm)
        A.apply(torch.ones(A.shape[1], dtype=torch.float64))

    for error in raised_on_all(work):
        assert "the labels of all samples are ignored" in str(error)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_layers_and_metrics(size):
    bounds = [*[0, 1, 1, 4, 6][:size], 6]
    options = {"num_probes": 6, "block_size": 4, "num_eigenvalues": 1, "num_density_steps": 3}

    def look(A):
        scaled = preconditioned(A, torch.linspace(1.0, 2.0, A.shape[1], dtype=torch.float64))
        return layer_curvature(A, rng=0, **options), hessops.trace(scaled, num_probes=3, rng=0)

    serial, trace = look(hessian(copy.deepcopy(MODEL), CLASSES, OF_CLASSES))
    for layers, scaled in on_ranks(hessian, CLASSES, OF_CLASSES, bounds, look):
        assert scaled.value == pytest.approx(trace.value, rel=RTOL)
        assert layers.trace.value == pytest.approx(serial.trace.value, rel=RTOL)
        assert layers.trace.standard_error == pytest.approx(serial.trace.standard_error, rel=RTOL)
        for name, block in serial.traces.items():
            assert layers.traces[name].value == pytest.approx(block.value, rel=RTOL)
            for found, expected in (
                (layers.shares[name], serial.shares[name]),
                (layers.rms_diagonals[name], serial.rms_diagonals[name]),
            ):
                assert found[0] == pytest.approx(expected[0], rel=1e-10)
                assert found[1] == pytest.approx(expected[1], rel=1e-8)
            pairs, others = layers.eigenpairs[name], serial.eigenpairs[name]
            assert pairs.eigenvalues == pytest.approx(others.eigenvalues, rel=1e-10)
            assert norm(layers.densities[name].nodes - serial.densities[name].nodes) < 1e-10


@settings(max_examples=5)
@given(bounds=cuts)
def test_jacobians_have_rows_of_each_rank(bounds):
    data = [x for x, _ in OF_CLASSES]
    serial, kernel = (make(copy.deepcopy(MODEL), data) for make in (jacobian, ntk))
    dense, form = serial.to_dense(), kernel.to_dense()
    values = hessops.svds(serial, 2, rng=0).singular_values
    top = hessops.eigsh(kernel, 2, rng=0).eigenvalues

    def work(comm):
        first, last = list(pairwise(bounds))[comm.rank]
        given = copy.deepcopy(MODEL), data[first:last]
        J, K = (make(*given, comm=comm) for make in (jacobian, ntk))
        rows = slice(*J.codomain.rows) if comm.size > 1 else slice(None)
        assert J.shape == serial.shape
        assert K.structure == kernel.structure
        assert float((J.to_dense() - dense[rows]).norm()) <= RTOL * float(dense.norm())
        assert float((K.to_dense() - form[rows]).norm()) <= RTOL * float(form.norm())
        Y = torch.linspace(1.0, 2.0, J.shape[0], dtype=torch.float64)
        expected = dense.T @ Y
        assert float((J.H @ Y[rows] - expected).norm()) <= RTOL * float(expected.norm())
        assert hessops.svds(J, 2, rng=0).singular_values == pytest.approx(values, rel=1e-10)
        assert hessops.eigsh(K, 2, rng=0).eigenvalues == pytest.approx(top, rel=1e-10)
        trace = hessops.trace(K, num_probes=3, rng=0).value
        assert trace == pytest.approx(hessops.trace(kernel, num_probes=3, rng=0).value, rel=RTOL)

    run_on_ranks(work, len(bounds) - 1)


# Refused.


def other(make, loss=CLASSES, batches=OF_CLASSES, **options):
    """Make a matrix on each rank, with options of which the last rank has the second ones."""

    def work(comm):
        last = comm.rank == comm.size - 1
        own = {name: pair[last] for name, pair in options.items()}
        criterion = loss[last] if isinstance(loss, tuple) else copy.deepcopy(loss)
        model = own.pop("model", None) or copy.deepcopy(MODEL)
        kind = make[last] if isinstance(make, tuple) else make
        kind(model, criterion, batches[2 * comm.rank : 2 * comm.rank + 2], comm=comm, **own)

    return work


def frozen(value):
    model = copy.deepcopy(MODEL)
    model[0].requires_grad_(requires_grad=False)
    with torch.no_grad():
        model[0].weight[0, 0] = value
    return model


def normalized(value):
    model = copy.deepcopy(MODEL)
    model[1] = nn.BatchNorm1d(4).double()
    model[1].running_mean[0] = value
    return model.eval()


def weighted(value):
    return nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, value], dtype=torch.float64))


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (other(fisher, num_draws=(2, 3), rng=(0, 0)), "num_draws is 3 on rank 2 and 2 on rank 0"),
        (other(fisher, num_draws=(None, 3)), "num_draws is 3 on rank 2 and None on rank 0"),
        (other(fisher, num_draws=(2, 2), rng=(0, 1)), "rank 0 has the seed 0"),
        (other(fisher, weight_decay=(0.0, 0.1)), "weight_decay is 0.1 on rank 2 and 0.0 on rank 0"),
        (other(hessian, weight_decay=(0.0, 0.1)), "weight_decay is 0.1 on rank 2"),
        (other((hessian, ggn)), "the operator is GaussNewton on rank 2 and Hessian on rank 0"),
        (other(empirical_fisher, sample_axes=((0,), (0, 1))), "sample_axes is"),
        (other(empirical_fisher, sample_axes=((0,), (1,))), "sample_axes is"),
        (other(gradient_covariance, centred=(True, False)), "centred is False on rank 2"),
        (other(hessian, model=(frozen(0.5), frozen(1.5))), "parameter 0.weight is .* weights"),
        (other(hessian, model=(normalized(0.0), normalized(0.1))), "buffer 1.running_mean is"),
        (other(hessian, (weighted(3.0), weighted(2.0))), "buffer of the loss weight is"),
        (
            other(hessian, (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1))),
            "CrossEntropyLoss.label_smoothing is 0.1 on rank 2 and 0.0 on rank 0",
        ),
        (other(ggn, nn.L1Loss(), OF_NUMBERS), "the loss is linear"),
        (
            other(ggn, SplitLoss(forward, lambda z, batch: (z.sum(), len(z)))),
            "the loss is linear in the model's outputs",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_on_all_ranks(work, words):
    for error in raised_on_all(work):
        assert re.search(words, str(error), flags=re.DOTALL)


def test_statistics_that_train_mode_does_not_read_may_differ():
    def work(comm):
        model = normalized(0.1 * comm.rank).train()
        model[1].num_batches_tracked.fill_(comm.rank)
        mine = OF_CLASSES[2 * comm.rank : 2 * comm.rank + 1]
        return hessian(model, copy.deepcopy(CLASSES), mine, comm=comm).to_dense()

    first, *others = run_on_ranks(work, 3)
    assert all(torch.equal(first, other_) for other_ in others)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda objective: ShiftHessian(objective, None),
            "entries for every sample.*make it without comm",
        ),
        (lambda objective: hessian_trace(Hessian(objective), rng=0), "or use hessops.trace"),
        (lambda objective: gauss_newton_trace(GaussNewton(objective)), "make it without comm"),
        (
            lambda objective: layer_curvature(
                hessops.sharded(Hessian(objective), objective.ranks.comm), rng=0
            ),
            "pass the operator that sharded was given",
        ),
    ],
)
def test_what_needs_all_the_data_says_what_to_do(make, words):
    def work(comm):
        mine = OF_CLASSES[2 * comm.rank : 2 * comm.rank + 2]
        make(Objective(copy.deepcopy(MODEL), copy.deepcopy(CLASSES), mine, comm=comm))

    for error in raised_on_all(work):
        assert re.search(words, str(error), flags=re.DOTALL)


# Errors with single terms.


def spoilt(batch):
    """Make a batch useless after the operator has looked at it: its loss is NaN."""
    batch[0].data.fill_(float("nan"))


def written(batch):
    """Write to a batch, which the next pass over the data refuses."""
    batch[0].add_(0.0)


VERBS = {
    "trace": partial(hessops.trace, num_probes=2, rng=0),
    "diagonal": partial(hessops.diagonal, num_probes=2, rng=0),
    "layers": partial(layer_curvature, num_probes=2, rng=0),
}


@pytest.mark.parametrize("make", [hessian, fisher, gradient_covariance])
@pytest.mark.parametrize(("fault", "words"), [(spoilt, "is nan"), (written, "was written to")])
@pytest.mark.parametrize("verb", VERBS)
def test_an_error_with_one_micro_batch_is_told_to_all_ranks(make, fault, words, verb):
    def work(comm):
        batches = [(x.clone(), y) for x, y in OF_CLASSES[2 * comm.rank : 2 * comm.rank + 2]]
        # Without graphs of before, which would not read the data again.
        A = make(copy.deepcopy(MODEL), copy.deepcopy(CLASSES), batches, memory_budget=0, comm=comm)
        VERBS[verb](A)
        if comm.rank == 1:
            fault(batches[1])
        VERBS[verb](A)

    for rank, error in enumerate(raised_on_all(work)):
        assert words in str(error)
        assert str(error).startswith("rank 1 of 3: ") is (rank != 1)

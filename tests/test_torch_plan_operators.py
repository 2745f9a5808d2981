"""Plans for all operators that are sums over data against what their runs take."""

import pytest

pytest.importorskip("torch")

import torch
from test_torch_plan import (
    NETWORKS,
    TOLERANCE,
    VERBS,
    allocated,
    gradient_of,
    living,
    network,
    operations,
)
from torch import nn

import hessops
from hessops_torch import (
    Work,
    block_diagonal,
    empirical_fisher,
    fisher,
    ggn,
    gradient_covariance,
    hessian,
    jacobian,
    plan,
    residual_curvature,
)
from hessops_torch.planning.micro_batch_cost import measure_micro_batch


def uncentred(*arguments, **options):
    return gradient_covariance(*arguments, centred=False, **options)


def drawn_labels(*arguments, **options):
    return fisher(*arguments, num_draws=3, rng=0, **options)


def blocks(*arguments, **options):
    return block_diagonal(hessian(*arguments, **options))


def blocks_of_covariance(*arguments, **options):
    return block_diagonal(gradient_covariance(*arguments, **options))


def by_transforms(product):
    def make(*arguments, **options):
        return hessian(*arguments, product=product, **options)

    make.__name__ = product
    return make


RUNS = VERBS | {
    "diagonal": (
        lambda H: Work.diagonal(H.space, 12),
        lambda H: hessops.diagonal(H, num_probes=12, rng=0),
    )
}


def forget(operator):
    """Leave nothing of what was found before a run."""
    operator.graphs.clear()
    operator.objective._counts = None
    operator.objective.found.clear()


CASES = [
    (ggn, "convolutional", "eigsh", None),
    (ggn, (24, 900), "trace", 0),
    (ggn, (90, 60), "density", 0),
    (ggn, (24, 900), "diagonal", None),
    (empirical_fisher, (24, 900), "density", None),
    (empirical_fisher, "convolutional", "trace", 0),
    (empirical_fisher, (90, 60), "eigsh", 0),
    (gradient_covariance, (24, 900), "eigsh", None),
    (gradient_covariance, "convolutional", "trace", None),
    (gradient_covariance, (90, 60), "density", 0),
    (gradient_covariance, (24, 900), "density", 0),
    (uncentred, (24, 900), "density", None),
    (uncentred, (90, 60), "trace", 0),
    (fisher, (24, 900), "density", 0),
    (drawn_labels, (24, 900), "trace", None),
    (residual_curvature, (24, 900), "trace", None),
    (residual_curvature, (90, 60), "density", 0),
    (hessian, (24, 900), "diagonal", 0),
    (hessian, (90, 60), "diagonal", None),
    (blocks, (24, 900), "density", None),
    (blocks, (90, 60), "trace", 0),
    (blocks_of_covariance, (24, 900), "density", None),
    (by_transforms("forward-over-reverse"), (24, 900), "trace", None),
    (by_transforms("forward-over-reverse"), (90, 60), "eigsh", None),
    (by_transforms("reverse-over-forward"), (24, 900), "density", None),
    (by_transforms("reverse-over-forward"), "convolutional", "trace", None),
]


SLOW = (90, 60), "convolutional"


@pytest.mark.parametrize(
    ("make", "kind", "verb", "budget"),
    [
        pytest.param(
            *case,
            id="-".join([case[0].__name__, *map(str, case[1:])]),
            marks=[pytest.mark.slow] * (case[1] in SLOW or case[0] is blocks_of_covariance),
        )
        for case in CASES
    ],
)
def test_bytes_and_work_are_within_a_fifth(make, kind, verb, budget):
    model, loss, data = network(kind)
    operator = make(model, loss, data, memory_budget=budget)
    work, run = RUNS[verb]
    planned = plan(operator, work(operator))
    resident = planned.memory["data"]
    forget(operator)
    # Inner products of vectors convert within operations, which the allocator alone sees.
    peak = (allocated if kind == (90, 60) else living)(lambda: run(operator))
    assert len(operator.graphs) == planned.kept_graphs
    assert planned.peak_bytes - resident == pytest.approx(peak, rel=TOLERANCE)

    again = make(model, loss, data, memory_budget=budget)
    # The first product of all looks at the operator itself: adjoint, symmetric, computed how.
    plan(again, num_products=1)
    forget(again)
    counted = operations(lambda: run(again)) / operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(counted, rel=TOLERANCE)


@pytest.mark.parametrize("make", [ggn, empirical_fisher, gradient_covariance, residual_curvature])
def test_options_are_those_of_the_operator(make):
    model, loss, data = network((24, 900))
    whole = plan(make(model, loss, data), num_products=8, block_size=2)
    assert "product" not in str(whole).splitlines()[1]
    planned = plan(
        make(model, loss, data),
        num_products=8,
        block_size=2,
        memory_limit=whole.peak_bytes * 2 // 3,
    )
    assert planned.fits
    limited = make(model, loss, data, **planned.options)
    block = limited.space.zeros(2) + 1.0

    def run():
        for _ in range(4):
            limited.apply(block)

    peak = living(run)
    assert peak + planned.memory["data"] <= (1 + TOLERANCE) * planned.memory_limit
    assert len(limited.graphs) == planned.kept_graphs < len(limited.objective.batches)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_function_transforms_within_a_memory_limit(share):
    """They take as many vectors at a time as the budget for graphs allows."""
    model, loss, data = network((24, 900))
    make = by_transforms("forward-over-reverse")
    whole = plan(make(model, loss, data), num_products=16, block_size=8)
    planned = plan(
        make(model, loss, data),
        num_products=16,
        block_size=8,
        memory_limit=int(share * whole.peak_bytes),
    )
    assert planned.fits
    limited = hessian(model, loss, data, **planned.options)
    block = limited.space.zeros(8) + 1.0

    def run():
        for _ in range(2):
            limited.apply(block)

    # It looks first at whether products are right, which takes a graph.
    limited.apply(block)
    peak = living(run)
    assert peak + planned.memory["data"] <= (1 + TOLERANCE) * planned.memory_limit
    gradients = operations(run) / operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(gradients, rel=TOLERANCE)


@pytest.mark.slow
def test_what_is_compiled_is_counted_uncompiled():
    """What machine code does is not seen."""
    model, loss, data = network((8, 60))
    compiled = hessian(model, loss, data, product="compiled")
    plain = hessian(model, loss, data, product="forward-over-reverse")
    found = [plan(operator, num_products=4, block_size=2) for operator in (compiled, plain)]
    if found[0].product != "compiled":
        pytest.skip("nothing can be compiled here")
    works = [one.gradient_equivalents for one in found]
    assert works[0] == pytest.approx(works[1])
    assert found[0].memory == found[1].memory
    assert compiled.product_found == "compiled"


def test_operators_by_outputs_without_matrix_products_have_units():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.scale

    operator = ggn(Scales(), nn.MSELoss(), (torch.ones(4, 3), torch.zeros(4, 3)))
    cost = measure_micro_batch(operator, 0, next(iter(operator.objective.batches)), 4, 4)
    assert cost.gradient_work / cost.forward_work == 3
    # 7 forward passes for the first product, and 4 for each of two more.
    assert plan(operator, num_products=3).gradient_equivalents == pytest.approx(5)


def test_operators_that_are_no_sums_over_data_are_refused():
    model, loss, data = network((8, 60))
    J = jacobian(model, data)
    for operator in (J, J.H @ J, 2 * hessian(model, loss, data)):
        with pytest.raises(
            TypeError, match="it takes sums over data on parameter vectors, such as"
        ):
            plan(operator, num_products=2)


def test_diagonal_blocks_of_a_covariance_are_divided_like_it():
    """The mean of `MSELoss` divides by entries, of which a sample has two."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(3, 2).double()
        data = [(torch.randn(5, 3).double(), torch.randn(5, 2).double()) for _ in range(2)]
    covariance = gradient_covariance(model, nn.MSELoss(), data)
    dense = covariance.to_dense()
    found = block_diagonal(covariance, each="tensor").to_dense()
    torch.testing.assert_close(found[:6, :6], dense[:6, :6])
    torch.testing.assert_close(found[6:, 6:], dense[6:, 6:])
    assert not found[:6, 6:].any()


@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_wide_blocks_through_outputs(kind):
    """Every vector of a block holds outputs of its own, beyond the eight that are measured."""
    model, loss, data = network(kind)
    operator = ggn(model, loss, data)
    planned = plan(operator, num_products=40, block_size=20)
    block = operator.space.zeros(20) + 1.0

    def run():
        for _ in range(2):
            operator.apply(block)

    peak = living(run)
    assert planned.peak_bytes - planned.memory["data"] - block.nbytes == pytest.approx(
        peak, rel=TOLERANCE
    )

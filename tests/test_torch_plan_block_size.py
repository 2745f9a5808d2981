"""Plans that choose how many vectors to multiply at once."""

import pytest

pytest.importorskip("torch")

from test_torch_plan import TOLERANCE, gradient_of, living, network, operations

import hessops
from hessops_torch import Work, ggn, hessian, plan

VERBS = {
    "trace": (Work.trace, hessops.trace),
    "diagonal": (Work.diagonal, hessops.diagonal),
}
PROBES = 16


def units(planned, per_column, of_graph):
    """Return the forward passes that a run takes by the formula: with graphs, and without."""
    kept = planned.kept_graphs / planned.num_micro_batches
    calls = -(-planned.work.num_products // planned.block_size)
    return per_column * planned.work.num_products + of_graph * (kept + calls * (1 - kept))


@pytest.mark.parametrize(
    "share", [0.7, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.4, 0.2))]
)
@pytest.mark.parametrize(
    ("kind", "verb", "make"),
    [
        ((90, 60), "trace", hessian),
        ((90, 60), "diagonal", ggn),
        ((24, 900), "trace", ggn),
        ((24, 900), "diagonal", hessian),
    ],
    # A function has no name that two processes share.
    ids=["even-trace", "even-diagonal", "uneven-trace", "uneven-diagonal"],
)
def test_a_memory_limit_is_kept_at_the_least_cost(kind, verb, make, share):
    model, loss, data = network(kind)
    of_verb, run = VERBS[verb]
    operator = make(model, loss, data)
    whole = plan(operator, of_verb(operator.space, PROBES))
    assert whole.block_size == PROBES
    limit = int(share * whole.peak_bytes)
    planned = plan(operator, of_verb(operator.space, PROBES), memory_limit=limit)
    if not planned.fits:
        assert planned.block_size == 1
        assert planned.micro_batch_size == 1
        return
    limited = make(model, loss, data, **planned.options)
    peak = living(lambda: run(limited, num_probes=PROBES, block_size=planned.block_size, rng=0))
    assert peak + planned.memory["data"] <= (1 + TOLERANCE) * limit
    again = make(model, loss, data, **planned.options)
    # The first product of all looks at the operator itself.
    plan(again, num_products=1)
    again.graphs.clear()
    again.objective._counts = None
    counted = operations(
        lambda: run(again, num_probes=PROBES, block_size=planned.block_size, rng=0)
    )
    gradients = counted / operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(gradients, rel=TOLERANCE)
    for width in (1, 3, 8, PROBES):
        given = of_verb(operator.space, PROBES, block_size=width)
        other = plan(operator, given, memory_limit=limit)
        assert other.block_size == width
        # With smaller micro-batches it may be cheaper, if not by so much that it would be chosen.
        if other.fits:
            assert planned.gradient_equivalents <= other.gradient_equivalents / 0.89


def test_a_block_is_narrowed_before_micro_batches_are_cut():
    """Vectors take the memory here, and smaller micro-batches would gain nothing."""
    model, loss, data = network((90, 60))
    operator = hessian(model, loss, data, memory_budget=0)
    whole = plan(operator, Work.trace(operator.space, PROBES))
    planned = plan(
        operator, Work.trace(operator.space, PROBES), memory_limit=whole.peak_bytes * 2 // 3
    )
    assert planned.fits
    assert 1 < planned.block_size < PROBES
    assert planned.micro_batch_size is None
    assert planned.gradient_equivalents < 1.1 * whole.gradient_equivalents
    line = f"trace: 16 products, {planned.block_size} at a time (block_size={planned.block_size})"
    assert str(planned).splitlines()[0] == line


def test_micro_batches_are_cut_where_that_is_cheaper_than_a_narrow_block():
    """Room for one vector beside a graph: half a graph makes room for more."""
    model, loss, data = network((24, 900))
    operator = hessian(model, loss, data, memory_budget=0)
    narrow = plan(operator, Work.trace(operator.space, PROBES, block_size=1))
    planned = plan(
        operator, Work.trace(operator.space, PROBES), memory_limit=narrow.peak_bytes + 1000
    )
    assert planned.fits
    assert planned.block_size > 1
    assert planned.gradient_equivalents < 0.9 * narrow.gradient_equivalents
    if planned.micro_batch_size is None:
        pytest.skip("a vector takes less than a thousand bytes")


@pytest.mark.parametrize("budget", [0, None])
def test_costs_are_those_of_the_formula(budget):
    """3 + 6 k forward passes for k vectors through a graph that is built, 6 k through a kept one."""
    model, loss, data = network((90, 60))
    operator = hessian(model, loss, data, memory_budget=budget)
    for width in (1, 2, 5, 16):
        planned = plan(operator, Work.trace(operator.space, PROBES, block_size=width))
        # Less than the formula says, as nothing is differentiated by the input of the first layer; and
        # one pass more, which counts the samples.
        expected = (units(planned, 6, 3) + 1) / 3
        assert 0.8 * expected < planned.gradient_equivalents <= expected


def test_without_a_limit_the_block_is_the_verbs():
    operator = hessian(*network((24, 900)))
    for of_verb, run in VERBS.values():
        planned = plan(operator, of_verb(operator.space, 40))
        assert planned.block_size == 32
        assert run(operator, num_probes=4, block_size=planned.block_size, rng=0).num_products == 4


def test_a_block_size_that_is_given_is_kept():
    operator = hessian(*network((24, 900)))
    work = Work.trace(operator.space, PROBES, block_size=4)
    planned = plan(operator, work, memory_limit=10**9)
    assert planned.block_size == 4
    assert str(planned).splitlines()[0] == "trace: 16 products, 4 at a time"
    with pytest.raises(
        ValueError, match="the block size of trace is not free to be chosen: it is 4"
    ):
        work.with_block_size(2)
    with pytest.raises(ValueError, match="the block size of spectral_density is not free"):
        Work.density(num_probes=4).with_block_size(2)


def test_a_density_that_does_not_fit_says_how_many_probes_would():
    model, loss, data = network((90, 60))
    operator = hessian(model, loss, data)
    whole = plan(operator, Work.density(num_probes=8, num_steps=6), memory_limit=10**9)
    assert whole.fits
    assert whole.fitting_probes is None
    limit = whole.memory["data"] + whole.memory["vectors"] // 2
    planned = plan(operator, whole.work, memory_limit=limit)
    assert not planned.fits
    assert 1 <= planned.fitting_probes < 8
    assert f"num_probes={planned.fitting_probes} would fit" in str(planned)
    works = [Work.density(num_probes=planned.fitting_probes + i, num_steps=6) for i in (0, 1)]
    fitting, more = (plan(operator, work, memory_limit=limit) for work in works)
    assert fitting.fits
    assert not more.fits
    limited = hessian(model, loss, data, **fitting.options)
    peak = living(
        lambda: hessops.spectral_density(
            limited, num_probes=planned.fitting_probes, num_steps=6, rng=0
        )
    )
    assert peak + fitting.memory["data"] <= (1 + TOLERANCE) * limit
    nothing = plan(operator, whole.work, memory_limit=1000)
    assert nothing.fitting_probes == 0
    assert "would fit" not in str(nothing)

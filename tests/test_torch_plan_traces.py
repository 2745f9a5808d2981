"""Plans of `hessian_trace` and `layer_curvature` against what their runs take."""

import copy

import pytest

pytest.importorskip("torch")

import torch
from doubles import run_on_ranks
from test_torch_plan import TOLERANCE, allocated, gradient_of, network, operations
from torch import nn
from torch_problems import images, seeded

from hessops_torch import (
    SplitLoss,
    Work,
    block_diagonal,
    ggn,
    hessian,
    hessian_trace,
    layer_curvature,
    ntk,
    plan,
)

FEW = {"first": "0.*"}


def trained(kind, num_steps):
    """Return a network whose samples are alike, or after some steps by far not."""
    model, loss, data = network(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(num_steps):
        for x, y in data:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model, loss, data


VERBS = {
    "trace": (
        lambda H: Work.hessian_trace(H.space),
        lambda H: hessian_trace(H, rng=0),
    ),
    "sections": (
        lambda H: Work.hessian_trace(H.space, 60, sections=True),
        lambda H: hessian_trace(H, max_products=60, sections=True, rng=0),
    ),
    "pilot": (
        lambda H: Work.hessian_trace(H.space, 8),
        lambda H: hessian_trace(H, max_products=8, rng=0),
    ),
    "layers": (
        lambda H: Work.layer_curvature(H.space),
        lambda H: layer_curvature(H, rng=0),
    ),
    "probes": (
        lambda H: Work.layer_curvature(H.space, FEW, method="probes", max_products=24),
        lambda H: layer_curvature(H, FEW, method="probes", max_products=24, rng=0),
    ),
    "densities": (
        lambda H: Work.layer_curvature(H.space, max_products=12, num_density_steps=3),
        lambda H: layer_curvature(H, max_products=12, num_density_steps=3, rng=0),
    ),
    "densities by probes": (
        lambda H: Work.layer_curvature(H.space, num_probes=8, num_density_steps=3),
        lambda H: layer_curvature(H, num_probes=8, num_density_steps=3, rng=0),
    ),
}
DENSE = [
    ((90, 60), 0, "trace", 0),
    ((90, 60), 100, "layers", 0),
    ((24, 900), 0, "trace", None),
    ((24, 900), 100, "trace", None),
    ((24, 900), 0, "pilot", None),
    ((90, 60), 0, "probes", None),
    ((24, 900), 0, "densities by probes", None),
]
SLOW = [
    ((90, 60), 100, "trace", 0),
    ((90, 60), 0, "layers", 0),
    ((24, 900), 100, "sections", 0),
    ((24, 900), 100, "layers", None),
    ((90, 60), 100, "densities", None),
    ("convolutional", 0, "trace", None),
    ("convolutional", 100, "layers", 0),
    ("convolutional", 0, "probes", 0),
    ("convolutional", 0, "densities by probes", None),
]


@pytest.mark.parametrize(
    ("kind", "num_steps", "verb", "budget"),
    [*DENSE, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=str,
)
def test_bytes_and_work_are_within_a_fifth(kind, num_steps, verb, budget):
    model, loss, data = trained(kind, num_steps)
    work, run = VERBS[verb]
    operator = hessian(model, loss, data, memory_budget=budget)
    planned = plan(operator, work(operator))
    assert planned.least_gradients is None
    again = hessian(model, loss, data, memory_budget=budget)
    counted = operations(lambda: run(again)) / operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(counted, rel=TOLERANCE)
    again = hessian(model, loss, data, memory_budget=budget)
    peak = allocated(lambda: run(again))
    assert planned.peak_bytes - planned.memory["data"] == pytest.approx(peak, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("verb", "num_steps"),
    [
        ("trace", 100),
        ("probes", 0),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("trace", 0), ("layers", 100))),
    ],
)
def test_a_tolerance_ends_a_run_between_the_least_and_the_most(verb, num_steps):
    model, loss, data = trained((24, 900), num_steps)
    run, work = {
        "trace": (hessian_trace, Work.hessian_trace),
        "layers": (layer_curvature, Work.layer_curvature),
        "probes": (
            lambda H, **options: layer_curvature(H, method="probes", **options),
            lambda *args, **options: Work.layer_curvature(*args, method="probes", **options),
        ),
    }[verb]
    operator = hessian(model, loss, data)
    planned = plan(operator, work(operator.space, max_products=64, tolerance=True))
    gradient = operations(gradient_of(model, loss, data))
    fresh = [hessian(model, loss, data) for _ in range(2)]
    least = operations(lambda: run(fresh[0], rtol=1e6, max_products=64, rng=0))
    assert planned.least_gradients == pytest.approx(least / gradient, rel=TOLERANCE)
    with pytest.warns(match="raise max_products"):
        most = operations(lambda: run(fresh[1], rtol=1e-9, max_products=64, rng=0))
    assert planned.gradient_equivalents == pytest.approx(most / gradient, rel=TOLERANCE)
    said = str(planned)
    assert "at most max_products=64" in said
    assert "gradients, then as many as the tolerance takes, at most" in said
    assert "  time     at most" in said


def test_eigenvalues_of_a_block_take_what_they_are_said_to():
    model, loss, data = trained((24, 900), 0)
    blocks = {"last": "4.*"}
    operator = hessian(model, loss, data)
    found = layer_curvature(operator, blocks, num_eigenvalues=1, max_products=12, rng=0)
    planned = plan(
        hessian(model, loss, data),
        Work.layer_curvature(
            operator.space,
            blocks,
            max_products=12,
            num_eigenvalues=1,
            num_block_products=found.num_block_products,
        ),
    )
    again = hessian(model, loss, data)
    counted = operations(
        lambda: layer_curvature(again, blocks, num_eigenvalues=1, max_products=12, rng=0)
    )
    gradient = operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(counted / gradient, rel=TOLERANCE)


@pytest.mark.parametrize("share", [0.9, 0.5])
@pytest.mark.parametrize("verb", ["trace", "layers", "probes"])
def test_a_memory_limit_is_kept(verb, share):
    model, loss, data = trained((24, 900), 0)
    work, run = VERBS[verb]
    operator = hessian(model, loss, data)
    limit = int(share * plan(operator, work(operator)).peak_bytes)
    planned = plan(operator, work(operator), memory_limit=limit)
    assert planned.fits
    limited = hessian(model, loss, data, **planned.options)
    if verb == "probes":
        peak = allocated(
            lambda: layer_curvature(
                limited, FEW, num_probes=24, block_size=planned.block_size, rng=0
            )
        )
    else:
        peak = allocated(lambda: run(limited))
    assert peak + planned.memory["data"] <= (1 + TOLERANCE) * limit
    assert planned.num_micro_batches == len(limited.objective.batches)


def test_a_plan_leaves_everything_as_it_was():
    model, loss, data = trained((24, 900), 0)
    operator = hessian(model, loss, data)
    block = operator.space.zeros(2) + 1.0
    before = operator.apply(block)
    kept, state = operator.graphs, torch.get_rng_state()
    for work in (Work.hessian_trace(operator.space), Work.layer_curvature(operator.space)):
        plan(operator, work)
    assert operator.graphs is kept
    assert len(kept) == len(data)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(operator.apply(block), before)
    assert all(p.grad is None for p in model.parameters())


def test_where_the_outputs_are_not_seen_it_is_plain_probes():
    model, loss, data = trained((24, 900), 0)
    operator = hessian(model, lambda f, batch: (loss(f(batch[0]), batch[1]) * 1.0, 1), data)
    planned = plan(operator, Work.hessian_trace(operator.space, 24))
    assert planned.work.num_products == 24
    assert str(planned).startswith("hessian_trace, max_products=24: 24 products, 24 at a time")
    counted = operations(lambda: hessian_trace(operator, max_products=24, rng=0))
    gradient = operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(counted / gradient, rel=TOLERANCE)
    adaptive = plan(operator, Work.hessian_trace(operator.space, tolerance=True))
    assert adaptive.work.num_products == 1000
    assert 16 * 1.5 < adaptive.least_gradients < 16 * 2.5


def test_where_the_largest_batch_has_no_root_a_plan_says_what_is_spent_at_most():
    """The first batch bends upwards, and the run finds out that the other does not."""
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        data = [torch.randn(count, 3) for count in (8, 24)]
    loss = SplitLoss(
        lambda f, x: f(x),
        lambda z, x: (z.square().sum() * (1 if len(z) < 10 else -1), z.numel()),
    )
    operator = hessian(model, loss, data)
    planned = plan(operator, Work.hessian_trace(operator.space, 16))
    counted = operations(lambda: hessian_trace(operator, max_products=16, rng=0))
    gradient = operations(
        lambda: [torch.autograd.grad(loss(model, x)[0], list(model.parameters())) for x in data]
    )
    assert 0 < counted / gradient <= (1 + TOLERANCE) * planned.gradient_equivalents


def test_batch_norm_in_train_mode_leaves_batches_whole():
    problem = images("cpu", train=True)
    operator = hessian(*problem.arguments)
    for work in (Work.hessian_trace(operator.space, 12), Work.layer_curvature(operator.space)):
        planned = plan(operator, work, memory_limit=1000)
        assert planned.micro_batch_size is None
        assert not planned.fits


def test_other_sums_over_data_have_layers_too():
    model, loss, data = trained((24, 900), 0)
    for make in (ggn, lambda *problem: block_diagonal(hessian(*problem))):
        operator = make(model, loss, data)
        planned = plan(operator, Work.layer_curvature(operator.space, num_probes=8))
        operator.graphs.clear()
        counted = operations(lambda A=operator: layer_curvature(A, num_probes=8, rng=0))
        gradient = operations(gradient_of(model, loss, data))
        assert planned.gradient_equivalents == pytest.approx(counted / gradient, rel=TOLERANCE)


def test_what_does_not_go_together_is_refused():
    model, loss, data = network((8, 60))
    H, G = hessian(model, loss, data), ggn(model, loss, data)
    with pytest.raises(TypeError, match=r"hessian_trace takes what .* got GaussNewton"):
        plan(G, Work.hessian_trace(G.space))
    with pytest.raises(ValueError, match="max_products=5 does not pay for a pilot"):
        Work.hessian_trace(H.space, 5)
    with pytest.raises(ValueError, match="num_eigenvalues=2 takes for each block, no plan knows"):
        Work.layer_curvature(H.space, num_eigenvalues=2)
    with pytest.raises(ValueError, match="method='no' is unknown"):
        Work.layer_curvature(H.space, method="no")
    with pytest.raises(TypeError, match="method='gauss-newton' is for what"):
        plan(G, Work.layer_curvature(G.space, method="gauss-newton"))
    work = Work.layer_curvature(H.space, num_density_steps=4)
    with pytest.raises(ValueError, match="memory_limit=1000000 is for the sweep alone"):
        plan(H, work, memory_limit=1_000_000)


def test_a_kernel_is_refused_with_what_to_plan_instead():
    model, _, data = network((8, 60))
    with pytest.raises(TypeError, match=r"as ntk makes it: plan ggn with a squared loss"):
        plan(ntk(model, data), num_products=3)


def test_ranks_are_refused_with_what_to_plan_instead():
    # Not drawn on the ranks, which are threads.
    with seeded(0):
        model, x = nn.Linear(3, 2), torch.randn(2, 4, 3)

    def refused(comm):
        data = [(x[comm.rank], torch.zeros(4, 2))]
        H = hessian(copy.deepcopy(model), nn.MSELoss(), data, comm=comm)
        with pytest.raises(RuntimeError, match=r"dealt out to the 2 ranks of its comm: make the"):
            plan(H, num_products=3)

    run_on_ranks(refused, 2)


def test_products_in_lower_precision_are_refused_as_by_the_verb():
    model, loss, data = network((8, 60))
    data = [(x.float(), y.float() if y.is_floating_point() else y) for x, y in data]
    H = hessian(model.float(), loss, data, precision="bf16")
    with pytest.raises(ValueError, match=r"hessian_trace knows no error .*in_full_precision"):
        plan(H, Work.hessian_trace(H.space))

"""Plans against what runs take: bytes by torch's own allocator, work by counting operations."""

import logging
import warnings

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torch_problems import (
    build,
    convolutional,
    images,
    normal,
    regression,
    seeded,
    some_problems,
)

import hessops
from hessops_torch import Objective, Plan, Work, ggn, hessian, plan
from hessops_torch.operators.hessian import Hessian
from hessops_torch.planning.live_memory import LiveMemory
from hessops_torch.planning.micro_batch_cost import measure_micro_batch

TOLERANCE = 0.2


def allocated(function):
    """Return the most bytes that the allocator has out at a time, above those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def living(function):
    """Return the same by the tensors that operations return, in a tenth of the time."""
    with LiveMemory(torch.device("cpu")) as memory:
        function()
    return memory.peak


def operations(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def network(kind, seed=0, dtype=torch.float32):
    """Return a model and loss with batches of which the last is shorter."""
    if kind == "convolutional":
        model = build(lambda: convolutional(8), seed, "cpu", dtype).eval()
        x = normal(seed, 200, 1, 12, 12, device="cpu", dtype=dtype)
        model[-3] = nn.AdaptiveAvgPool2d(1)
    else:
        width, samples = kind
        with seeded(seed):
            model = nn.Sequential(
                nn.Linear(20, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                nn.Linear(width, 3),
            ).to(dtype)  # fmt: skip
        x = normal(seed, samples, 20, device="cpu", dtype=dtype)
    with seeded(seed):
        y = torch.randint(3, (len(x),))
    loader = DataLoader(TensorDataset(x, y), batch_size=max(len(x) * 3 // 10, 1))
    return model, nn.CrossEntropyLoss(), list(loader)


def few_steps(operator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hessops.ConvergenceWarning)
        hessops.eigsh(operator, 3, max_steps=20, tol=1e-14, rng=0)


VERBS = {
    "eigsh": (lambda H: Work.eigsh(H.space, 3, num_products=23), few_steps),
    "trace": (
        lambda H: Work.trace(H.space, 12),
        lambda H: hessops.trace(H, num_probes=12, rng=0),
    ),
    "density": (
        lambda _: Work.density(num_probes=4, num_steps=6),
        lambda H: hessops.spectral_density(H, num_probes=4, num_steps=6, rng=0),
    ),
}
# Memory that data makes, that vectors make, and that convolutions make.
NETWORKS = ["convolutional", (24, 900), (90, 60)]
every_network = pytest.mark.parametrize("kind", NETWORKS, ids=str)


def gradient_of(model, loss, data):
    def gradient():
        for x, y in data:
            torch.autograd.grad(loss(model(x), y), list(model.parameters()))

    return gradient


@pytest.mark.parametrize(
    ("kind", "verb", "budget", "measured"),
    [
        ("convolutional", "density", None, living),
        ((24, 900), "trace", 0, allocated),
        ((90, 60), "eigsh", None, allocated),
        ("convolutional", "trace", 0, living),
        ((24, 900), "eigsh", None, living),
        ((90, 60), "density", 0, allocated),
    ],
)
def test_bytes_and_work_are_within_a_fifth(kind, verb, budget, measured):
    model, loss, data = network(kind)
    operator = hessian(model, loss, data, memory_budget=budget)
    work, run = VERBS[verb]
    planned = plan(operator, work(operator))
    assert planned.kept_graphs == (0 if budget == 0 else len(data))
    peak = measured(lambda: run(operator))
    resident = planned.memory["data"]
    assert resident == sum(t.nbytes for batch in data for t in batch)
    assert planned.peak_bytes - resident == pytest.approx(peak, rel=TOLERANCE)

    operator.graphs.clear()
    operator.objective._counts = None
    counted = operations(lambda: run(operator)) / operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(counted, rel=TOLERANCE)


@settings(max_examples=6)
@given(
    st.sampled_from([torch.float32, torch.float64]), st.integers(8, 60), st.integers(20, 300),
    st.integers(1, 5), st.integers(1, 4), st.sampled_from([None, 0, 200_000]), st.integers(0, 99),
)  # fmt: skip
def test_plain_products(dtype, width, samples, block_size, calls, budget, seed):
    model, loss, data = network((width, samples), seed, dtype)
    operator = hessian(model, loss, data, memory_budget=budget)
    planned = plan(operator, num_products=calls * block_size, block_size=block_size)
    block = operator.space.zeros(block_size)
    block += 1.0

    def run():
        for _ in range(calls):
            operator.apply(block)

    counted = operations(run) / operations(gradient_of(model, loss, data))
    assert len(operator.graphs) == planned.kept_graphs
    assert planned.gradient_equivalents == pytest.approx(counted, rel=TOLERANCE)
    operator.graphs.clear()
    held = planned.peak_bytes - planned.memory["data"] - block.nbytes
    assert held == pytest.approx(living(run), rel=TOLERANCE)


@every_network
@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-forward"])
def test_other_ways_to_compute_products(kind, mode):
    model, loss, data = network(kind)
    operator = hessian(model, loss, data, product=mode)
    planned = plan(operator, num_products=8, block_size=4)
    assert (planned.product, planned.kept_graphs) == (mode, 0)
    block = operator.space.zeros(4)
    block += 1.0

    def run():
        for _ in range(2):
            operator.apply(block)

    counted = operations(run) / operations(gradient_of(model, loss, data))
    assert planned.gradient_equivalents == pytest.approx(counted, rel=TOLERANCE)
    held = planned.peak_bytes - planned.memory["data"] - block.nbytes
    assert held == pytest.approx(living(run), rel=TOLERANCE)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.4])
def test_a_memory_limit_is_kept(share):
    model, loss, data = network((24, 900))
    operator = hessian(model, loss, data)
    whole = plan(operator, Work.density(num_probes=4, num_steps=6))
    limit = int(share * whole.peak_bytes)
    planned = plan(operator, whole.work, memory_limit=limit)
    assert planned.fits
    assert planned.kept_graphs < len(data)
    assert planned.gradient_equivalents > whole.gradient_equivalents
    limited = hessian(model, loss, data, **planned.options)
    peak = living(lambda: hessops.spectral_density(limited, num_probes=4, num_steps=6, rng=0))
    assert peak + planned.memory["data"] <= (1 + TOLERANCE) * limit
    assert len(limited.graphs) == planned.kept_graphs
    assert len(limited.objective.batches) == planned.num_micro_batches


def test_what_cannot_fit_is_said():
    operator = hessian(*network((24, 900)))
    planned = plan(operator, num_products=10, block_size=4, memory_limit=1000)
    assert planned.micro_batch_size == 1
    assert not planned.fits
    assert "does not fit into 1e+03 bytes" in str(planned)


def test_batches_that_are_functions_of_all_their_samples_stay_whole():
    problem = images("cpu", train=True)
    planned = plan(hessian(*problem.arguments), num_products=4, memory_limit=1000)
    assert planned.micro_batch_size is None


@some_problems
def test_a_plan_leaves_the_operator_as_it_was(make_problem):
    problem = make_problem("cpu")
    operator = hessian(*problem.arguments)
    block = torch.ones(operator.shape[0], 2, dtype=torch.float64)
    before = operator @ block
    kept, state = operator.graphs, torch.get_rng_state()
    plan(operator, num_products=4)
    assert operator.graphs is kept
    assert len(kept) == len(problem.batches)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(operator @ block, before)
    assert all(p.grad is None for p in problem.model.parameters())


def test_a_plan_finds_the_fastest_product():
    operator = hessian(*network((24, 900)))
    planned = plan(operator, num_products=4, calibrate=True)
    assert planned.product in ("backward", "forward-over-reverse", "reverse-over-forward")
    assert operator.product_found == "backward"


def test_a_plan_reads_as_a_report():
    operator = hessian(*network((24, 900)))
    planned = plan(operator, Work.eigsh(operator.space, 5, num_products=30))
    lines = str(planned).splitlines()
    assert lines[0] == "eigsh, k = 5: 30 products, 1 at a time"
    assert "4 micro-batches, whole; 4 graphs kept; product backward" in lines[1]
    assert "kept graphs" in lines[2]
    assert "a product" in lines[3]
    least, median, most = planned.seconds
    assert 0 < least <= median <= most


@pytest.mark.parametrize("verb", ["hessian_trace", "layer_curvature"])
def test_traces_are_planned_for_the_operator_as_it_stands(verb, caplog):
    """Their graphs, of H and G at once, know no other way to compute products."""
    operator = hessian(*network((24, 900)))
    with caplog.at_level(logging.INFO, "hessops"):
        planned = plan(operator, getattr(Work, verb)(operator.space), calibrate=True)
    assert planned.product == planned.options["product"] == "backward"
    assert not caplog.records


@pytest.mark.parametrize("make", [hessian, ggn])
def test_calibration_is_for_blocks_as_wide_as_most(make, caplog):
    """Not for that by which `eigsh` verifies its pairs."""
    operator = make(*network((24, 900)))
    with caplog.at_level(logging.INFO, "hessops"):
        plan(operator, Work.eigsh(operator.space, 5, num_products=20), calibrate=True)
    assert "of 1 column: backward" in caplog.text


def test_what_is_no_work_is_refused():
    operator = hessian(*regression("cpu").arguments)
    with pytest.raises(
        TypeError, match=r"work='trace' is no Work: pass Work\.trace\(H\.space, 64\)"
    ):
        plan(operator, "trace")


BY_SPACE = ["eigsh", "trace", "diagonal", "hessian_trace", "layer_curvature"]


@pytest.mark.parametrize("verb", BY_SPACE)
@pytest.mark.parametrize("no_space", [3, hessian(*regression("cpu").arguments)])
def test_work_on_what_is_no_space_is_refused(verb, no_space):
    options = {"num_products": 9} if verb == "eigsh" else {}
    with pytest.raises(TypeError, match=r"space=.* is no space: pass operator\.space"):
        getattr(Work, verb)(no_space, **options)


@pytest.mark.parametrize("verb", BY_SPACE)
def test_work_for_another_dimension_is_refused(verb):
    operator = hessian(*network((24, 900)))
    part = operator.restricted(next(iter(operator.space.sections)))
    options = {"num_products": 9} if verb == "eigsh" else {}
    work = getattr(Work, verb)(part.space, **options)
    with pytest.raises(
        ValueError, match=f"{verb}.* in dimension {part.shape[0]}, and the operator"
    ):
        plan(operator, work)


def test_wrong_arguments():
    operator = hessian(*regression("cpu").arguments)
    with pytest.raises(ValueError, match="give one of work and num_products, got None and None"):
        plan(operator)
    with pytest.raises(ValueError, match="num_products=0 must be a positive integer"):
        plan(operator, num_products=0)
    with pytest.raises(TypeError, match="a plan is for an operator on a model, got Diagonal"):
        plan(hessops.Diagonal(torch.ones(3)), num_products=2)
    with pytest.raises(ValueError, match="num_probes=0 must be a positive integer"):
        Work.density(num_probes=0)


@given(st.integers(1, 40), st.integers(1, 40))
def test_live_memory_is_that_of_tensors_that_live(first, second):
    held = torch.ones(10)
    with LiveMemory(torch.device("cpu")) as memory:
        a = torch.ones(first) + 1
        view = a[:1].view(1)
        held.add_(1)
        del a
        assert memory.now == 4 * first
        b = torch.zeros(second)
        assert memory.now == 4 * (first + second)
        del view
        assert memory.now == 4 * second
        del b
        assert memory.now == 0
    assert memory.peak >= 4 * (first + max(first, second))


def test_a_model_without_matrix_products_has_units():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.scale

    objective = Objective(Scales(), nn.MSELoss(), (torch.ones(4, 3), torch.zeros(4, 3)))
    operator = Hessian(objective)
    cost = measure_micro_batch(operator, 0, next(iter(objective.batches)), 4, 4)
    assert cost.gradient_work / cost.forward_work == 3
    assert isinstance(plan(operator, num_products=3), Plan)
    assert plan(operator, num_products=3).gradient_equivalents == pytest.approx(7)

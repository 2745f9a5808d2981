"""How far a sample of data is from the whole of it: intervals hold as often as they say."""

import functools
from dataclasses import replace

import numpy as np
import problems
import pytest
from scipy.special import ndtr

pytest.importorskip("torch")

import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import build, integers, mlp, normal, regression

from hessops import FiniteSum, aslinearoperator
from hessops_torch import (
    SamplesNeeded,
    SamplingError,
    density_sampling_error,
    eigenvalue_sampling_error,
    hessian,
    trace_sampling_error,
)
from hessops_torch.sampling.sample import sample_of

POPULATION = 600
SEEDS = 500
SAMPLE, BATCH = 128, 8
WIDTH = 0.1


@functools.cache
def hessians_of_samples():
    """Return the Hessian of each sample of a population, for a network of 12 parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    x = torch.randn(POPULATION, 2, dtype=torch.float64)
    y = torch.randint(2, (POPULATION,))
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss(flat, x, y):
        parts = flat.split([shape.numel() for shape in shapes.values()])
        pairs = zip(shapes.items(), parts, strict=True)
        pieces = {name: part.view(shape) for (name, shape), part in pairs}
        return F.cross_entropy(functional_call(model, pieces, (x[None],)), y[None])

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return vmap(jacrev(jacrev(loss)), (None, 0, 0))(flat, x, y).numpy()


def operator_of(chosen, batch=BATCH):
    """Return the mean over samples as a sum over micro-batches, the last one ragged."""
    found = hessians_of_samples()[chosen]
    terms = []
    for start in range(0, len(chosen), batch):
        part = found[start : start + batch]
        term = aslinearoperator(part.sum(axis=0) / len(chosen), self_adjoint=True)
        term.num_samples = float(len(part))
        terms.append(term)
    return FiniteSum(terms)


def drawn(seed, population, count=SAMPLE):
    """Return a sample from the distribution over all samples, or one without replacement."""
    rng = np.random.default_rng(seed)
    if population is None:
        return operator_of(rng.integers(0, POPULATION, count))
    return operator_of(rng.permutation(POPULATION)[:count])


def whole():
    return hessians_of_samples().mean(axis=0)


def holds(interval, truth):
    return (interval.low <= truth) & (truth <= interval.high)


every_population = pytest.mark.parametrize("population", [None, POPULATION])


def test_the_network_has_what_the_tests_say():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    x = torch.randn(POPULATION, 2, dtype=torch.float64)
    y = torch.randint(2, (POPULATION,))
    dense = hessian(model, nn.CrossEntropyLoss(), (x, y)).to_dense().numpy()
    assert np.linalg.norm(dense - whole()) < 1e-12 * np.linalg.norm(dense)


@pytest.mark.slow
@every_population
@pytest.mark.parametrize("num_probes", [4, 32])
def test_coverage_of_the_trace(population, num_probes):
    found = [
        trace_sampling_error(
            drawn(seed, population), population=population, num_probes=num_probes, rng=seed
        )
        for seed in range(SEEDS)
    ]
    low, high = problems.COVERED
    assert low <= np.mean([holds(e.interval, np.trace(whole())) for e in found]) <= high


@pytest.mark.slow
@every_population
def test_the_probes_noise_is_taken_off(population):
    """The error of sampling alone is known from the population, whatever the probes add."""
    traces = np.trace(hessians_of_samples(), axis1=1, axis2=2)
    correction = 1.0 if population is None else 1 - SAMPLE / POPULATION
    exact = np.sqrt(correction * traces.var(ddof=1) / SAMPLE)
    squares = [
        trace_sampling_error(
            drawn(seed, population), population=population, num_probes=64, rng=seed
        ).sampling_error
        ** 2
        for seed in range(100)
    ]
    error = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - exact**2) < 3 * error
    assert error < 0.1 * exact**2


@pytest.mark.slow
@every_population
def test_coverage_of_the_largest_eigenvalue(population):
    found = [
        eigenvalue_sampling_error(
            drawn(seed, population), population=population, tol=1e-6, rng=seed
        )
        for seed in range(SEEDS)
    ]
    truth = np.linalg.eigvalsh(whole())[-1]
    low, high = problems.COVERED
    assert low <= np.mean([holds(e.interval, truth)[0] for e in found]) <= high


@pytest.mark.slow
@every_population
@pytest.mark.parametrize("count", [SAMPLE, 2 * SAMPLE])
def test_coverage_of_the_second_eigenvalue(population, count):
    """Wherever the status does not say that it lies too near to a neighbour."""
    truth = np.linalg.eigvalsh(whole())[-2]
    inside, named = [], 0
    for seed in range(SEEDS):
        error = eigenvalue_sampling_error(
            drawn(seed, population, count), 2, population=population, tol=1e-6, rng=seed
        )
        if "1 (from 0) lie nearer" in error.status:
            named += 1
            continue
        inside.append(holds(error.interval, truth)[1])
    # With 128 samples its gap to the third is 3.3 errors, and one sample in seven draws them together.
    assert named < 0.25 * SEEDS
    low, high = problems.coverage_band(0.95, len(inside))
    assert low <= np.mean(inside) <= high


@pytest.mark.slow
@every_population
def test_the_bias_of_the_second_eigenvalue(population):
    """It is drawn away from both neighbours, here by half of its error and more from below."""
    found = [
        eigenvalue_sampling_error(
            drawn(seed, population), 2, population=population, tol=1e-6, rng=seed
        )
        for seed in range(SEEDS)
    ]
    values = np.array([e.value[1] for e in found])
    bias = values.mean() - np.linalg.eigvalsh(whole())[-2]
    error = values.std() / np.sqrt(SEEDS)
    assert bias > 3 * error
    assert abs(np.mean([e.bias[1] for e in found]) - bias) < 0.35 * bias + 3 * error


@pytest.mark.slow
def test_the_bias_of_the_largest_eigenvalue():
    """With 32 samples it is a third of the standard error, and known to a third of itself."""
    found = [
        eigenvalue_sampling_error(drawn(seed, None, 32), tol=1e-6, rng=seed)
        for seed in range(SEEDS)
    ]
    values = np.array([e.value[0] for e in found])
    bias = values.mean() - np.linalg.eigvalsh(whole())[-1]
    error = values.std() / np.sqrt(SEEDS)
    assert bias > 3 * error
    assert abs(np.mean([e.bias[0] for e in found]) - bias) < 0.35 * bias + 3 * error


@pytest.mark.slow
@every_population
def test_coverage_of_the_number_of_samples_needed(population):
    """Its interval is approximate: it holds what the population says in 90 % of all cases at least."""
    traces = np.trace(hessians_of_samples(), axis1=1, axis2=2)
    variance, target = traces.var(ddof=1), (0.05 * traces.mean()) ** 2
    exact = variance / (target + variance / (population or np.inf))
    inside = []
    for seed in range(300):
        A = drawn(seed, population)
        error = trace_sampling_error(A, population=population, num_probes=64, rng=seed)
        needed = error.samples_needed(0.05)
        inside.append(needed.low <= exact <= needed.high)
    assert np.mean(inside) >= 0.9


@every_population
def test_samples_needed_by_the_formula(population):
    error = trace_sampling_error(drawn(0, population), population=population, num_probes=64, rng=0)
    now = float(error.relative_error)
    assert error.samples_needed(now).number == pytest.approx(SAMPLE, abs=1)
    tenth = error.samples_needed(now / 10).number
    if population is None:
        assert tenth == pytest.approx(100 * SAMPLE, abs=1)
    else:
        # 1 / n' - 1 / N = (1 / n - 1 / N) / 100
        exact = 1 / ((1 / SAMPLE - 1 / POPULATION) / 100 + 1 / POPULATION)
        assert tenth == pytest.approx(exact, abs=1)
        assert error.samples_needed(1e-9).number == POPULATION
    with pytest.raises(ValueError, match=r"relative_error=0 must be positive, e\.g\. 0\.05"):
        error.samples_needed(0)


def test_the_whole_has_no_sampling_error():
    everything = operator_of(np.arange(POPULATION))
    trace = trace_sampling_error(everything, population=POPULATION, num_probes=8, rng=0)
    top = eigenvalue_sampling_error(everything, population=POPULATION, tol=1e-8, rng=0)
    density = density_sampling_error(everything, population=POPULATION, num_steps=12, rng=0)
    assert trace.sampling_error == 0
    assert trace.standard_error == trace.computing_error > 0
    assert top.sampling_error == top.bias == 0
    assert density.distance == 0
    assert np.all(density.cdf.computing_error[60:140] > 0)


@pytest.mark.slow
@every_population
def test_the_distribution_of_eigenvalues(population):
    """Point by point between the ends, and as a distance; both of the smoothed function."""
    eigenvalues = np.linalg.eigvalsh(whole())

    def smoothed(values, points):
        return ndtr((points[:, None] - values) / WIDTH).mean(axis=1)

    inside, found, exact = [], [], []
    for seed in range(100):
        A = drawn(seed, population)
        error = density_sampling_error(
            A,
            population=population,
            num_probes=16,
            num_steps=12,
            num_points=101,
            width=WIDTH,
            rng=seed,
        )
        at = np.searchsorted(error.points, [-0.05, 0.1, 0.25, 0.4, 0.8])
        truth = smoothed(eigenvalues, error.points)
        inside.append(holds(error.cdf.interval, truth)[at])
        found.append(error.distance)
        own = smoothed(np.linalg.eigvalsh(A.to_dense()), error.points)
        exact.append(np.trapezoid(np.abs(own - truth), error.points))
    # What the docstring says of it; a share of 100 seeds deviates by 2.9 % at 91 %.
    assert 0.86 <= np.mean(inside) <= 0.97
    assert 0.82 <= np.mean(found) / np.mean(exact) <= 1.02


def test_by_a_sum_over_micro_batches_the_scatter_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    sample = sample_of(operator_of(rng.permutation(POPULATION)[:60]), None)
    shares = rng.normal(size=(sample.num_batches, 3))
    weights = sample.weights[:, None]
    expected = ((shares - weights * shares.sum(0)) ** 2 / weights).sum(0) / (len(weights) - 1)
    assert np.allclose(sample.variance(shares), expected)
    assert sample.num_batches == 8
    assert sample.weights[-1] == pytest.approx(4 / 60)


def test_a_network_says_how_many_samples_it_has():
    """The loss counts entries, two for a sample; the weight decay is none, and scatters nowhere."""
    problem = regression("cpu", sizes=(4, 4, 3))
    H = hessian(*problem.arguments, weight_decay=0.5)
    sample = sample_of(H, 1000)
    assert (sample.num_samples, sample.num_batches) == (11, 3)
    assert np.allclose(sample.weights, np.array([4, 4, 3]) / 11)
    without = hessian(*problem.arguments)
    for measure in (trace_sampling_error, eigenvalue_sampling_error):
        assert np.allclose(
            measure(H, rng=0).sampling_error, measure(without, rng=0).sampling_error, rtol=1e-3
        )
    shifted = (
        eigenvalue_sampling_error(H, rng=0).value - eigenvalue_sampling_error(without, rng=0).value
    )
    assert shifted == pytest.approx(0.5, rel=1e-3)


def test_what_it_says():
    model = build(lambda: mlp(outputs=3), 0, "cpu")
    data = normal(1, 64, 3, device="cpu"), integers(2, 3, 64, device="cpu")
    H = hessian(model, nn.CrossEntropyLoss(), data, micro_batch_size=8)
    trace = trace_sampling_error(H, population=1000, num_probes=64, rng=0)
    assert str(trace).startswith("64 samples in 8 micro-batches (few to tell a scatter by")
    assert "for all 1000" in str(trace)
    assert trace.num_products == 64
    hidden = trace_sampling_error(operator_of(np.full(64, 3)), num_probes=2, rng=0)
    if hidden.sampling_error == 0:
        assert "take more probes" in hidden.status
        assert "± unknown" in str(hidden)
        assert hidden.samples_needed().high == np.inf
    density = density_sampling_error(H, num_probes=4, num_steps=8, rng=0)
    assert "of the mean modulus" in str(density)
    needed = density.samples_needed(density.distance / density.mean_modulus)
    assert needed.number == pytest.approx(64, abs=1)


def sampling_error(**changes):
    values = {
        "value": 600.0, "sampling_error": 4.0, "computing_error": 15.0, "bias": 0.0,
        "freedom": 40.0, "scatter_freedom": 30.0,
    }  # fmt: skip
    return SamplingError(
        **{name: np.asarray(value) for name, value in {**values, **changes}.items()},
        num_samples=512, num_batches=32, population=50_000, confidence=0.95, num_products=8,
        status="a sentence",
    )  # fmt: skip


def test_the_error_that_is_printed_is_the_whole_one():
    error = sampling_error()
    (line,) = str(error).splitlines()[1:]
    assert line.startswith("600 ± 16 for all 50000 (95% interval [56")
    assert line.endswith("sampling 4, computing 15)")
    # The centre is that of the interval, as the bias is known.
    (line,) = str(sampling_error(bias=20.0)).splitlines()[1:]
    assert line.startswith("580 ± 16")
    assert line.endswith("bias 20 taken off)")
    two = sampling_error(
        value=[600.0, 300.0], sampling_error=[4.0, 0.0], computing_error=[15.0, 9.0],
        bias=[0.0, 0.0], freedom=[40.0, 9.0], scatter_freedom=[30.0, 0.0],
    )  # fmt: skip
    assert [line.split(" for")[0] for line in str(two).splitlines()[1:]] == [
        "600 ± 16", "300 ± unknown",
    ]  # fmt: skip


def test_samples_needed_print_as_numbers_or_as_unknown():
    assert str(SamplesNeeded(190.0, 115.0, 317.0)) == "190 (115 to 317)"
    assert str(SamplesNeeded(0.0, 0.0, 50_000.0)) == "unknown, at most 50000"
    assert str(SamplesNeeded(0.0, 0.0, np.inf)) == "unknown"
    assert str(SamplesNeeded(0.0, 0.0, 0.0)) == "0 (0 to 0)"  # the whole is at hand
    several = SamplesNeeded(*np.array([[2.0, 3.0], [1.0, 2.0], [4.0, 5.0]]))
    assert str(several) == "2 (1 to 4), 3 (2 to 5)"


def test_a_density_whose_scatter_is_hidden_says_so():
    A = operator_of(np.full(64, 3))
    hidden = density_sampling_error(A, num_probes=2, num_steps=4, rng=0)
    assert np.mean(hidden.cdf.scatter_freedom == 0) > 0.1
    assert str(hidden).endswith("of the points: take more probes")
    assert hidden.samples_needed()[1:] == (0, np.inf)
    seen = replace(hidden, cdf=replace(hidden.cdf, scatter_freedom=np.full(201, 63.0)))
    assert "take more probes" not in str(seen)


def test_eigenvalues_that_lie_together():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(32, 4, 4))
    matrices = np.diag([2.0, 1.0, 0.999, 0.0]) + 0.1 * (noise + noise.transpose(0, 2, 1))
    matrices -= 0.1 * (noise + noise.transpose(0, 2, 1)).mean(axis=0)
    A = FiniteSum([aslinearoperator(M / 32, self_adjoint=True) for M in matrices])
    error = eigenvalue_sampling_error(A, 2, rng=0)
    assert "eigenvalues 1 (from 0) lie nearer to a neighbour" in error.status


REFUSED = {
    "one micro-batch": ({"batch": 1000}, {}, "has 1 micro-batch with data.*pass micro_batch_size"),
    "too small a population": (
        {},
        {"population": 20},
        "population=20 is less than the 128 samples",
    ),
    "no population": ({}, {"population": float("nan")}, "population=nan is less than"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(
    "measure", [trace_sampling_error, eigenvalue_sampling_error, density_sampling_error]
)
def test_refusals(measure, name):
    make, options, sentence = REFUSED[name]
    A = operator_of(np.arange(SAMPLE), **make)
    with pytest.raises(ValueError, match=sentence):
        measure(A, **options)


def test_a_single_probe_is_refused():
    A = operator_of(np.arange(SAMPLE))
    for measure in (trace_sampling_error, density_sampling_error):
        with pytest.raises(ValueError, match="num_probes=1: their error takes two"):
            measure(A, num_probes=1)
    with pytest.raises(ValueError, match="width=-1 positive"):
        density_sampling_error(A, width=-1)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_number_of_eigenvalues_that_is_none_is_refused(k):
    with pytest.raises(ValueError, match=rf"k={k} must be a positive integer"):
        eigenvalue_sampling_error(operator_of(np.arange(SAMPLE)), k)


def test_more_eigenvalues_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"k=13 eigenvalues asked of .* dimension 12"):
        eigenvalue_sampling_error(operator_of(np.arange(SAMPLE)), 13)
    with pytest.raises(ValueError, match=r"num_neighbours=-1 must not be negative"):
        eigenvalue_sampling_error(operator_of(np.arange(SAMPLE)), num_neighbours=-1)

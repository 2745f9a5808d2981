"""Control variates: no bias, honest intervals, work split by what is seen, next to no harm."""

import numpy as np
import problems
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessops
from hessops import FiniteSum, aslinearoperator
from hessops.algorithms.trace.control_variate import Control, ControlState

N = 100
LIKE = problems.matrix_of(np.linspace(0.1, 4, N) ** 2, rng=1)
DIFFERENCE = 0.05 * problems.matrix_of(np.linspace(-2, 3, N), rng=2)
A, B = aslinearoperator(LIKE + DIFFERENCE), aslinearoperator(LIKE)
TRUTH, KNOWN = np.trace(LIKE + DIFFERENCE), np.trace(LIKE)
UNLIKE = aslinearoperator(problems.matrix_of(np.linspace(-3, 3, N), rng=3))


def runs(count, operator=A, **options):
    results = [hessops.trace(operator, rng=seed, **options) for seed in range(count)]
    return results, np.array([result.value for result in results])


def covered(results, truth=TRUTH):
    return np.mean([result.interval.low <= truth <= result.interval.high for result in results])


@given(st.integers(3, 9), st.integers(0, 2**20))
def test_coefficients_are_regressions_without_the_probe_itself(count, seed):
    pairs = np.random.default_rng(seed).standard_normal((2, count))
    state = ControlState(1, count, count, pairs, np.zeros(0), Control(B, 0.0))
    for j, found in enumerate(state.coefficients()):
        a, b = np.delete(pairs, j, axis=1)
        expected = np.sum((a - a.mean()) * (b - b.mean())) / np.sum((b - b.mean()) ** 2)
        assert found == pytest.approx(expected, rel=1e-6)


CASES = {
    "known": (B, KNOWN),
    "known and cheap": Control(B, KNOWN, cost=0.05),
    "probed": (B, None),
    "probed and cheap": Control(B, None, cost=0.02),
    "of no help": (UNLIKE, 0.0),
    "of no help and probed": Control(UNLIKE, None, cost=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_bias_and_coverage(name):
    """500 seeds: a bias of 4.5 standard errors is a false alarm of 7e-6."""
    results, values = runs(500, control=CASES[name], max_products=24)
    assert abs(values.mean() - TRUTH) < 4.5 * values.std() / np.sqrt(500)
    assert 0.92 <= covered(results) <= 0.98


@pytest.mark.slow
def test_it_pays_where_it_can_and_costs_little_where_it_cannot():
    """Standard deviations of 150 runs are known to 6 %."""
    plain = runs(150, num_probes=24)[1].std()
    spread = {name: runs(150, control=c, max_products=24)[1].std() for name, c in CASES.items()}
    assert spread["known and cheap"] < 0.15 * plain
    assert spread["known"] < 0.25 * plain
    assert spread["probed and cheap"] < 0.5 * plain
    assert spread["of no help"] < 1.25 * plain
    assert spread["of no help and probed"] < 1.15 * plain


@pytest.mark.parametrize("name", CASES)
def test_the_budget_is_kept(name):
    control = CASES[name]
    cost = control.cost if isinstance(control, Control) else 1.0
    result = hessops.trace(A, control=control, max_products=40, rng=0)
    assert result.method == "control"
    assert 0.9 * 40 <= result.num_products + cost * result.num_control_products <= 40
    assert hessops.trace(A, max_products=40, rng=0).num_control_products == 0


def test_an_estimated_trace_brings_its_error():
    known = hessops.trace(B, num_probes=400, rng=99)
    exact = hessops.trace(A, control=(B, KNOWN), max_products=40, rng=0)
    result = hessops.trace(A, control=(B, known), max_products=40, rng=0)
    assert result.standard_error >= 0.5 * known.standard_error
    assert result.standard_error > 3 * exact.standard_error
    assert result.interval.low <= TRUTH <= result.interval.high


def test_a_trace_that_is_hardly_known_is_of_no_help():
    plain = hessops.trace(A, num_probes=40, rng=0)
    result = hessops.trace(A, control=Control(B, KNOWN, standard_error=1e6), max_products=40, rng=0)
    assert result.standard_error < 1.5 * plain.standard_error
    assert "of no help" in result.status


@pytest.mark.parametrize("control", [(B, KNOWN), (B, None)], ids=["known", "probed"])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_small_blocks(control, block_size):
    whole = hessops.trace(A, control=control, max_products=24, rng=0)
    result = hessops.trace(A, control=control, max_products=24, block_size=block_size, rng=0)
    assert result.value == pytest.approx(whole.value, rel=1e-10)


def test_fresh_probes_for_every_term_of_both():
    """Probes of one term of A have to be those of the same term of B; 300 seeds."""
    parts = [problems.matrix_of(np.linspace(0, 3, 40) ** 2, rng=i) for i in range(4)]
    near = [part + 0.02 * problems.matrix_of(np.linspace(-1, 1, 40), rng=9) for part in parts]
    total, control = (FiniteSum([aslinearoperator(p) for p in terms]) for terms in (near, parts))
    truth, known = (sum(np.trace(p) for p in terms) for terms in (near, parts))
    results, values = runs(300, total, control=(control, known), max_products=24)
    plain = runs(300, total, num_probes=24)[1].std()
    assert values.std() < 0.2 * plain
    assert 0.91 <= covered(results, truth) <= 0.985
    with pytest.raises(ValueError, match="different numbers of terms"):
        hessops.trace(total, control=(FiniteSum([aslinearoperator(parts[0])] * 3), 0.0), rng=0)


def test_the_same_operator_leaves_no_error():
    result = hessops.trace(A, control=(A, TRUTH), max_products=24, rng=0)
    assert result.value == pytest.approx(TRUTH, rel=1e-12)
    assert result.standard_error < 1e-10 * TRUTH


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scales(scale):
    plain = hessops.trace(A, control=(B, KNOWN), max_products=20, rng=0)
    scaled = hessops.trace(scale * A, control=(B, KNOWN), max_products=20, rng=0)
    assert scaled.value == pytest.approx(scale * plain.value, rel=1e-10)
    assert scaled.standard_error == pytest.approx(scale * plain.standard_error, rel=1e-8)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"control": (np.eye(3), 3.0)}, "does not act on the vectors of"),
        ({"control": (B, np.inf)}, "trace of the control is inf; it must be finite"),
        ({"control": Control(B, cost=0.0)}, "cost of the control is 0.0; it must be positive"),
        ({"control": (B, KNOWN), "method": "xtrace"}, "do not fit: give control alone"),
        ({"method": "control"}, "do not fit: give control alone"),
        ({"control": (B, KNOWN), "rtol": 0.1}, "known beforehand: give no rtol"),
        ({"control": (B, KNOWN), "max_products": 5}, "max_products=8 or more"),
        (
            {"control": Control(B, cost=10.0), "max_products": 20},
            "max_products=20 does not pay for",
        ),
    ],
)
def test_bad_input(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        hessops.trace(A, **options)


def test_what_is_no_control():
    with pytest.raises(TypeError, match=r"must be \(B, trace_of_B\)"):
        hessops.trace(A, control=B)

"""What verbs make of their options: read them, or say that they do not."""

import numpy as np
import problems
import pytest

import hessops
from hessops import FiniteSum, aslinearoperator

INDEFINITE = problems.matrix_of(np.linspace(-1.0, 2.0, 40))
DEFINITE = aslinearoperator(
    problems.matrix_of(np.linspace(0.5, 2.0, 40)), positive_semidefinite=True
)
SUM = FiniteSum([DEFINITE, DEFINITE])


@pytest.mark.parametrize(
    "method", ["control", "hutchinson", "hutchpp", "na-hutchpp", "xnystrace", "xtrace"]
)
def test_the_probes_of_a_trace_are_those_asked_for(method):
    """So that the estimates of different distributions differ, and the default is as reported."""
    options = {"method": method, "max_products": 18, "rng": 0}
    if method == "control":
        options["control"] = (DEFINITE + aslinearoperator(INDEFINITE), None)
    kinds = ("normal", "rademacher", "sphere")
    values = {k: hessops.trace(DEFINITE, probe=k, **options).value for k in kinds}
    assert values["rademacher"] not in {values["normal"], values["sphere"]}
    if method in {"xnystrace", "xtrace"}:
        # Lengths of probes do not matter to them, and those on the sphere have normal directions.
        assert values["normal"] == pytest.approx(values["sphere"], rel=1e-10)
    else:
        assert values["normal"] != values["sphere"]
    usual = hessops.trace(DEFINITE, **options)
    assert usual.value == values[usual.probe]


@pytest.mark.parametrize("method", ["exact", "na-hutchpp", "xnystrace", "xtrace"])
def test_a_trace_refuses_strata_that_its_method_has_none_of(method):
    with pytest.raises(ValueError, match=f"probes of its own, which method='{method}' cannot"):
        hessops.trace(SUM, method=method, stratify=True)
    assert hessops.trace(SUM, method=method, max_products=40, stratify=False, rng=0).num_terms == 1


@pytest.mark.parametrize("method", ["exact", "xdiag"])
def test_a_diagonal_refuses_strata_that_its_method_has_none_of(method):
    with pytest.raises(ValueError, match=f"probes of its own, which method='{method}' cannot"):
        hessops.diagonal(SUM, method=method, stratify=True)
    assert hessops.diagonal(SUM, method=method, stratify=False, rng=0).method == method


@pytest.mark.parametrize("verb", [hessops.trace, hessops.diagonal])
def test_unit_vectors_are_of_no_other_distribution(verb):
    with pytest.raises(ValueError, match="no meaning for method='exact', which takes unit vectors"):
        verb(SUM, method="exact", probe="rademacher")
    assert verb(SUM, method="exact").probe == "unit"
    # Where it is chosen, nothing that was asked for is lost: it has no error to reduce.
    assert verb(DEFINITE, max_products=40, probe="rademacher").method == "exact"


def test_a_nuclear_norm_takes_the_steps_asked_for():
    """One step integrates x exactly, so that more change the cost and not the answer."""
    options = {"num_probes": 4, "rng": 0}
    one = hessops.nuclear_norm(DEFINITE, **options)
    three = hessops.nuclear_norm(DEFINITE, num_steps=3, **options)
    assert (one.num_steps, three.num_steps) == (1, 3)
    assert (one.num_products, three.num_products) == (4, 12)
    assert three.value == pytest.approx(one.value, rel=1e-12)
    assert hessops.nuclear_norm(DEFINITE, num_steps=None, **options).num_steps == 1


SHARING = {
    "effective_dimension": lambda **options: hessops.effective_dimension(DEFINITE, 1.0, **options),
    "estrada_index": lambda **options: hessops.estrada_index(DEFINITE, **options),
    "logdet": lambda **options: hessops.logdet(DEFINITE, **options),
    "nuclear_norm": lambda **options: hessops.nuclear_norm(DEFINITE, **options),
    "schatten_norm": lambda **options: hessops.schatten_norm(DEFINITE, 3, **options),
    "trace_inverse": lambda **options: hessops.trace_inverse(DEFINITE, **options),
}


@pytest.mark.parametrize("verb", SHARING)
def test_an_unknown_option_is_refused_by_the_name_of_the_verb(verb):
    with pytest.raises(
        TypeError, match=f"^{verb} has no option 'num_probe': did you mean num_probes"
    ):
        SHARING[verb](num_probe=3)
    with pytest.raises(
        TypeError, match=f"^{verb} has no option 'xyz': it has .*block_size, callback"
    ):
        SHARING[verb](xyz=3)


def test_verbs_without_randomness_have_no_seed(tmp_path):
    b = np.ones(40)
    for result in (
        hessops.cg(DEFINITE, b),
        hessops.minres(DEFINITE, b),
        hessops.matrix_function(DEFINITE, "sqrt", b),
    ):
        assert result.seed is None
        assert hessops.load(result.save(tmp_path / "result")).seed is None

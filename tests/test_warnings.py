"""Warnings point at the line that called the verb, whichever verbs that one calls."""

import inspect
import warnings

import numpy as np
import problems
import pytest

import hessops
from hessops import ConvergenceWarning, aslinearoperator

A = aslinearoperator(problems.matrix_of(np.linspace(1.0, 1e3, 60)), positive_semidefinite=True)
PLAIN = aslinearoperator(problems.matrix_of(np.linspace(1.0, 1e3, 60)))
ONES = np.ones(60)

SHORT = {"num_probes": 4, "rtol": 1e-6, "rng": 0}
FAILING = {
    "cg": lambda: hessops.cg(A, ONES, max_steps=2),
    "condition_number": lambda: hessops.condition_number(A, max_steps=2, rng=0),
    "diagonal": lambda: hessops.diagonal(A, num_probes=4, rtol=1e-6, rng=0),
    "effective_dimension": lambda: hessops.effective_dimension(A, 1.0, **SHORT),
    "eigenvalue_count": lambda: hessops.eigenvalue_count(A, (0.0, 500.0), num_steps=2, rng=0),
    "eigsh": lambda: hessops.eigsh(A, 2, max_steps=8, rng=0),
    "estrada_index": lambda: hessops.estrada_index(A * 1e-2, **SHORT),
    "frobenius_norm": lambda: hessops.frobenius_norm(A, num_probes=4, rtol=1e-6, rng=0),
    "lobpcg": lambda: hessops.lobpcg(A, 2, max_steps=2, rng=0),
    "logdet": lambda: hessops.logdet(A, **SHORT),
    "matrix_function": lambda: hessops.matrix_function(A, "sqrt", ONES, max_steps=2),
    "minres": lambda: hessops.minres(A, ONES, max_steps=2),
    "nuclear_norm": lambda: hessops.nuclear_norm(PLAIN, **SHORT),
    "numerical_rank": lambda: hessops.numerical_rank(A, 500.0, num_steps=2, rng=0),
    "nystrom": lambda: hessops.nystrom(A, tol=1e-6, max_rank=4, rng=0),
    "power_iteration": lambda: hessops.power_iteration(A, max_steps=2, rng=0),
    "randomized_eigh": lambda: hessops.randomized_eigh(A, tol=1e-6, max_rank=4, rng=0),
    "randomized_svd": lambda: hessops.randomized_svd(A, tol=1e-6, max_rank=4, rng=0),
    "schatten_norm": lambda: hessops.schatten_norm(A, 3, **SHORT),
    "spectral_norm": lambda: hessops.spectral_norm(A, max_steps=2, rng=0),
    "spectrum": lambda: hessops.spectrum(A, accuracy=1e-8, budget=20, rng=0),
    "svds": lambda: hessops.svds(A, 2, max_steps=8, rng=0),
    "trace": lambda: hessops.trace(A, num_probes=4, rtol=1e-6, rng=0),
    "trace_function": lambda: hessops.trace_function(A, "log", **SHORT),
    "trace_inverse": lambda: hessops.trace_inverse(A, **SHORT),
}


def test_every_verb_that_says_that_it_warns_is_here():
    said = {
        name
        for name in hessops.__all__
        if "Warns\n" in (doc := inspect.getdoc(getattr(hessops, name)) or "")
        and "ConvergenceWarning" in doc
    }
    assert said == set(FAILING)


@pytest.mark.parametrize("verb", FAILING)
def test_a_warning_points_at_the_caller(verb):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = FAILING[verb]()
    (warning,) = caught
    assert issubclass(warning.category, ConvergenceWarning)
    assert str(warning.message) == result.status
    assert not result.converged
    assert warning.filename == __file__

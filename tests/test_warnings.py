"""Warnings point at the line that called the verb, whichever verbs that one calls."""

import inspect
import warnings

import numpy as np
import problems
import pytest
from doubles import run_on_ranks

import hessops
from hessops import ConvergenceWarning, aslinearoperator, data_parallel

A = aslinearoperator(problems.matrix_of(np.linspace(1.0, 1e3, 60)), positive_semidefinite=True)
ONES = np.ones(60)

SHORT = {"num_probes": 4, "rtol": 1e-6, "rng": 0}
FAILING = {
    "cg": lambda A: hessops.cg(A, ONES, max_steps=2),
    "condition_number": lambda A: hessops.condition_number(A, max_steps=2, rng=0),
    "diagonal": lambda A: hessops.diagonal(A, num_probes=4, rtol=1e-6, rng=0),
    "effective_dimension": lambda A: hessops.effective_dimension(A, 1.0, **SHORT),
    "eigenvalue_count": lambda A: hessops.eigenvalue_count(A, (0.0, 500.0), num_steps=2, rng=0),
    "eigsh": lambda A: hessops.eigsh(A, 2, max_steps=8, rng=0),
    "estrada_index": lambda A: hessops.estrada_index(A * 1e-2, **SHORT),
    "frobenius_norm": lambda A: hessops.frobenius_norm(A, num_probes=4, rtol=1e-6, rng=0),
    "lobpcg": lambda A: hessops.lobpcg(A, 2, max_steps=2, rng=0),
    "logdet": lambda A: hessops.logdet(A, **SHORT),
    "matrix_function": lambda A: hessops.matrix_function(A, "sqrt", ONES, max_steps=2),
    "minres": lambda A: hessops.minres(A, ONES, max_steps=2),
    "nuclear_norm": lambda A: hessops.nuclear_norm(A - 0.5 * hessops.Identity(A.domain), **SHORT),
    "numerical_rank": lambda A: hessops.numerical_rank(A, 500.0, num_steps=2, rng=0),
    "nystrom": lambda A: hessops.nystrom(A, tol=1e-6, max_rank=4, rng=0),
    "power_iteration": lambda A: hessops.power_iteration(A, max_steps=2, rng=0),
    "randomized_eigh": lambda A: hessops.randomized_eigh(A, tol=1e-6, max_rank=4, rng=0),
    "randomized_svd": lambda A: hessops.randomized_svd(A, tol=1e-6, max_rank=4, rng=0),
    "schatten_norm": lambda A: hessops.schatten_norm(A, 3, **SHORT),
    "spectral_norm": lambda A: hessops.spectral_norm(A, max_steps=2, rng=0),
    "spectrum": lambda A: hessops.spectrum(A, accuracy=1e-8, budget=20, rng=0),
    "svds": lambda A: hessops.svds(A, 2, max_steps=8, rng=0),
    "trace": lambda A: hessops.trace(A, num_probes=4, rtol=1e-6, rng=0),
    "trace_function": lambda A: hessops.trace_function(A, "log", **SHORT),
    "trace_inverse": lambda A: hessops.trace_inverse(A, **SHORT),
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
        result = FAILING[verb](A)
    (warning,) = caught
    assert issubclass(warning.category, ConvergenceWarning)
    assert str(warning.message) == result.status
    assert not result.converged
    assert warning.filename == __file__


def on_ranks(verb, size):
    def work(comm):
        own = aslinearoperator(A.matrix / comm.size, positive_semidefinite=True)
        return FAILING[verb](data_parallel(own, comm))

    return run_on_ranks(work, size, timeout=10.0)


@pytest.mark.parametrize("verb", FAILING)
def test_ranks_warn_once(verb):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = on_ranks(verb, 3)
    (warning,) = caught
    assert issubclass(warning.category, ConvergenceWarning)
    assert [str(warning.message)] * 3 == [result.status for result in results]
    assert not any(result.converged for result in results)
    assert warning.filename == __file__


@pytest.mark.parametrize("message", ["", "not converged"])
def test_where_warnings_are_errors_all_ranks_raise(message):
    raised = []

    def work(comm):
        own = data_parallel(A, comm)
        with pytest.raises(ConvergenceWarning):
            hessops.cg(own, ONES, max_steps=2)
        raised.append(comm.rank)
        # And they go on together.
        return own @ ONES

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", f".*{message}", ConvergenceWarning)
        run_on_ranks(work, 2, timeout=10.0)
    assert sorted(raised) == [0, 1]


def test_what_one_rank_alone_has_seen_it_says_itself():
    class Warns(hessops.LinearOperator):
        def _apply(self, X):
            warnings.warn("only here", RuntimeWarning, stacklevel=1)
            return X

    def work(comm):
        own = (
            Warns(hessops.ArraySpace(4))
            if comm.rank == 1
            else aslinearoperator(np.eye(4), self_adjoint=False)
        )
        return data_parallel(own, comm) @ np.ones(4)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_on_ranks(work, 2, timeout=10.0)
    assert [str(warning.message) for warning in caught] == ["only here"]

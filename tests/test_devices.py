"""Every verb on every array library and device: NumPy's results, from vectors that stay there."""

import dataclasses
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from devices import copy_to_host, every_device, place_on, watch
from strategies import norm, normal, with_spectrum

import hessops
from hessops import ConvergenceWarning, LinearOperator
from hessops.arrays import device as device_of
from hessops.arrays import is_array, namespace
from hessops.record import History

# A prime, so that no small array has a side of this length.
DIM = 101
EIGENVALUES = np.concatenate([np.linspace(1.0, 3.0, DIM - 3), [5.0, 7.0, 9.0]])
NUM_TERMS = 5
# What is computed otherwise than on the host differs by roundings of numbers up to this size.
SIZE = 1e3
ROUNDING = 1e-10


@dataclass
class Problem:
    """Operators and vectors of one library on one device."""

    S: LinearOperator  # positive definite
    G: LinearOperator  # general
    F: LinearOperator  # a sum of NUM_TERMS positive definite ones
    b: Any
    products: int = 0

    @classmethod
    def on(cls, put, dtype):
        spd, general = with_spectrum(EIGENVALUES, 0, dtype), normal(1, (DIM, DIM), dtype)
        S = hessops.aslinearoperator(put(spd), positive_semidefinite=True)
        terms = [
            hessops.aslinearoperator(
                put(with_spectrum(EIGENVALUES, seed, dtype)), positive_semidefinite=True
            )
            for seed in range(NUM_TERMS)
        ]
        G, F = hessops.aslinearoperator(put(general)), hessops.FiniteSum(terms)
        problem = cls(S, G, F, put(normal(2, (DIM, 2), dtype)))
        for operator in (S, G, *terms):
            for hook in ("_apply", "_apply_adjoint"):
                setattr(operator, hook, problem.counted(getattr(operator, hook)))
        return problem

    def counted(self, product):
        def multiply(X):
            self.products += 1
            return product(X)

        return multiply


def run_trace(method, **options):
    return lambda p: hessops.trace(p.S, method=method, rng=0, **options)


def run_lanczos(reorthogonalize):
    options = {"num_steps": 30, "reorthogonalize": reorthogonalize}
    return lambda p: hessops.lanczos(p.S, rng=0, **options)


def run_diagonal_control(p):
    known = hessops.diagonal(p.S, method="exact").values
    return hessops.diagonal(p.S, control=(p.S, known), max_products=60, block_size=6, rng=0)


# Each verb, and how often at most it waits for the device in a product with a block: once where the
# recurrence is one of inner products, more often where whole blocks are made orthonormal; of a sum
# once for the products with all of its terms. Lanczos runs without reorthogonalisation end early,
# before roundings have grown to errors.
RUNS = {
    "check_operator": (lambda p: hessops.check_operator(p.G, rng=0), 1),
    "cg": (lambda p: hessops.cg(p.S, p.b), 1),
    "condition_number": (lambda p: hessops.condition_number(p.S, rng=0), 1),
    "diagonal": (lambda p: hessops.diagonal(p.S, num_probes=60, block_size=20, rng=0), 1),
    "diagonal by xdiag": (
        lambda p: hessops.diagonal(p.S, method="xdiag", max_products=60, rng=0),
        1,
    ),
    "diagonal of a sum": (
        lambda p: hessops.diagonal(p.F, num_probes=60, block_size=6, rng=0),
        1 / NUM_TERMS,
    ),
    "diagonal with a control": (run_diagonal_control, 1),
    "effective_dimension": (lambda p: hessops.effective_dimension(p.S, 0.1, rng=0), 1),
    "eigenvalue_count": (lambda p: hessops.eigenvalue_count(p.S, (4.0, 8.0), rng=0), 1),
    "eigsh": (lambda p: hessops.eigsh(p.S, 3, rng=0), 1),
    "eigsh restarted": (lambda p: hessops.eigsh(p.S, 3, max_basis=12, tol=1e-7, rng=0), 1),
    "eigsh in blocks": (lambda p: hessops.eigsh(p.S, 3, block_size=2, tol=1e-7, rng=0), 2),
    "estrada_index": (lambda p: hessops.estrada_index(p.S, num_steps=10, rng=0), 1),
    "frobenius_norm": (lambda p: hessops.frobenius_norm(p.G, rng=0), 1),
    "inverse": (lambda p: hessops.inverse(p.S), 1),
    "lanczos": (lambda p: hessops.lanczos(p.S, num_steps=20, rng=0), 1),
    "lanczos, partial": (run_lanczos("partial"), 1.2),
    "lanczos, periodic": (run_lanczos("periodic"), 1.2),
    "lanczos, selective": (run_lanczos("selective"), 1.6),
    "lobpcg": (lambda p: hessops.lobpcg(p.S, 2, tol=1e-6, rng=0), 4),
    # As many products are with the preconditioner.
    "lobpcg, preconditioned": (
        lambda p: hessops.lobpcg(p.S, 2, which="LA", preconditioner=p.S, tol=1e-6, rng=0),
        2.5,
    ),
    "logdet": (lambda p: hessops.logdet(p.S, num_steps=10, rng=0), 1),
    "matrix_function": (lambda p: hessops.matrix_function(p.S, np.exp, p.b), 1),
    "minres": (lambda p: hessops.minres(p.S, p.b), 1),
    "nuclear_norm": (lambda p: hessops.nuclear_norm(p.G, num_steps=10, rng=0), 1),
    "numerical_rank": (lambda p: hessops.numerical_rank(p.S, 0.5, rng=0), 1),
    "nystrom": (lambda p: hessops.nystrom(p.S, rank=5, rng=0), 3),
    "nystrom_preconditioner": (
        lambda p: hessops.nystrom_preconditioner(p.S, 5, shift=0.1, rng=0),
        3,
    ),
    "power_iteration": (lambda p: hessops.power_iteration(p.S, num_eigenpairs=3, rng=0), 2),
    "power_iteration deflated": (
        lambda p: hessops.power_iteration(p.S, num_eigenpairs=2, method="deflated", rng=0),
        2.1,  # and a little for each new vector
    ),
    "randomized_eigh": (lambda p: hessops.randomized_eigh(p.S, 3, rng=0), 4),
    "randomized_svd": (lambda p: hessops.randomized_svd(p.G, 3, rng=0), 4),
    "schatten_norm": (lambda p: hessops.schatten_norm(p.G, 4, num_steps=10, rng=0), 1),
    "spectral_density": (lambda p: hessops.spectral_density(p.S, num_steps=10, rng=0), 1),
    "spectral_norm": (lambda p: hessops.spectral_norm(p.G, rng=0), 1),
    "spectrum": (lambda p: hessops.spectrum(p.S, budget=24, num_probes=2, rng=0), 2),
    "svds": (lambda p: hessops.svds(p.G, 2, tol=1e-7, rng=0), 1),
    "trace": (lambda p: hessops.trace(p.S, num_probes=60, rng=0), 1),
    "trace of normal probes": (
        lambda p: hessops.trace(p.S, num_probes=60, probe="normal", rng=0),
        1,
    ),
    "trace by hutchpp": (run_trace("hutchpp", max_products=60), 1),
    "trace by xtrace": (run_trace("xtrace", max_products=60), 1),
    "trace by xnystrace": (run_trace("xnystrace", max_products=60), 2),
    "trace by na-hutchpp": (run_trace("na-hutchpp", max_products=60), 1),
    "trace of real normal probes": (run_trace("hutchinson", num_probes=60, probe="normal"), 1),
    "trace of a sum": (
        lambda p: hessops.trace(p.F, method="hutchinson", num_probes=60, block_size=6, rng=0),
        1 / NUM_TERMS,
    ),
    "trace of a sum, chosen": (
        lambda p: hessops.trace(p.F, max_products=60, block_size=6, rng=0),
        1 / NUM_TERMS,
    ),
    "trace of a sum with a control": (
        lambda p: hessops.trace(
            p.F, control=(p.F, 5.0), max_products=60, block_size=6, stratify=True, rng=0
        ),
        0.5 / NUM_TERMS,
    ),
    "trace with a control": (lambda p: hessops.trace(p.S, control=(p.S, 5.0), rng=0), 0.5),
    "trace, exact": (run_trace("exact"), 1),
    "trace_function": (lambda p: hessops.trace_function(p.S, np.sqrt, num_steps=10, rng=0), 1),
    "trace_inverse": (lambda p: hessops.trace_inverse(p.S, num_steps=10, rng=0), 1),
}
# These make operators, or look at results on the host.
NO_VERBS = {"aslinearoperator", "cdf_band", "haydock", "kernel_polynomial", "load", "to_scipy"}
# What is written to a file goes through the host.
NO_VERBS |= {"checkpointed", "wasserstein"}
# Operators, not numbers: by ranks, which have tests of their own.
NO_VERBS |= {"data_parallel", "gathered", "sharded"}
# By field, the axis along which everything may be turned by a common phase: along the coordinates of
# eigenvectors, and of what eigenvectors say of each probe.
UP_TO_PHASE = {
    **dict.fromkeys(("eigenvectors", "left_vectors", "right_vectors", "U", "V"), 0),
    "probes": 1,
}
# In whatever orthonormal basis the next Krylov block has.
IN_ANY_BASIS = {"couplings"}
REFERENCES: dict[tuple[str, str], Any] = {}


def result_of(run, problem):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return run(problem)


def reference(name, dtype):
    if (name, dtype) not in REFERENCES:
        problem = Problem.on(np.asarray, dtype)
        REFERENCES[name, dtype] = result_of(RUNS[name][0], problem), problem
    return REFERENCES[name, dtype]


def leaves(value, b, path="result"):
    """Yield the names of all arrays and numbers of a result and them; of operators, products with b."""
    value = value @ b if isinstance(value, LinearOperator) else value
    if dataclasses.is_dataclass(value):
        names = {field.name for field in dataclasses.fields(value)} - {"seconds"} - IN_ANY_BASIS
        parts = {name: getattr(value, name) for name in sorted(names)}
    elif isinstance(value, History):
        parts = {column: value[column] for column in ("step", "num_products", "estimate")}
    elif isinstance(value, tuple | list):
        parts = dict(enumerate(value))
    else:
        parts = value if isinstance(value, dict) else {}
        if is_array(value) or isinstance(value, int | float | complex):
            yield path, value
    for name, part in parts.items():
        yield from leaves(part, b, f"{path}.{name}")


def assert_same(path, found, expected, b):
    """Assert that two arrays or numbers are equal to rounding, the first on the device of b if long."""
    if DIM in np.shape(expected):
        assert namespace(found) is namespace(b), path
        assert device_of(found) == device_of(b), path
    found = copy_to_host(found) if is_array(found) else found
    for axis in {UP_TO_PHASE[name] for name in path.split(".") if name in UP_TO_PHASE}:
        inner = np.sum(found.conj() * expected, axis=axis, keepdims=True)
        found = found * (inner / np.abs(inner))
    if np.asarray(expected).dtype.kind in "fc":
        np.testing.assert_allclose(found, expected, ROUNDING, ROUNDING * SIZE, err_msg=path)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=path)


def test_every_verb_is_here():
    verbs = {name for name in hessops.__all__ if inspect.isfunction(getattr(hessops, name))}
    assert verbs - NO_VERBS <= {name.replace(",", " ").split()[0] for name in RUNS}


@every_device
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", RUNS)
def test_results_are_numpys_and_vectors_stay_on_the_device(monkeypatch, device, dtype, name):
    run, waits_a_product = RUNS[name]
    expected, on_host = reference(name, dtype)
    problem = Problem.on(place_on(device), dtype)
    crossings = watch(monkeypatch)
    found = result_of(run, problem)
    if device != "cpu":
        assert problem.products == on_host.products
    # What every run waits for but once: norms of what it starts with, the residuals that it ends with.
    assert crossings.waits <= waits_a_product * problem.products + 4
    # Coefficients, and which columns go on.
    assert len(crossings.to_device) <= 2 * crossings.waits + 2
    for shape in crossings.to_host + crossings.to_device:
        assert DIM not in shape, "a vector was copied between host and device"
    found, expected = dict(leaves(found, problem.b)), dict(leaves(expected, on_host.b))
    assert list(found) == list(expected)
    for path, leaf in expected.items():
        assert_same(path, found[path], leaf, problem.b)


@every_device
def test_results_on_a_device_print_and_are_saved(monkeypatch, tmp_path, device):
    problem = Problem.on(place_on(device), "float64")
    watch(monkeypatch)
    result = hessops.eigsh(problem.S, 3, rng=0)
    assert "residual" in str(result)
    result.save(tmp_path / "pairs.npz")
    again = hessops.load(tmp_path / "pairs.npz")
    np.testing.assert_array_equal(again.eigenvalues, result.eigenvalues)
    assert norm(again.eigenvectors - copy_to_host(result.eigenvectors)) == 0

"""How often a step waits for a device: copies to the host and back, and reductions over ranks."""

import sys
import warnings
from collections import Counter

import numpy as np
import pytest

import hessops
from hessops import ArraySpace, ConvergenceWarning, SerialComm
from hessops.algorithms.krylov.lanczos import lanczos_steps
from hessops.arrays import to_numpy
from hessops.structure import SELF_ADJOINT

A = hessops.Diagonal(np.linspace(1.0, 2.0, 200))


@pytest.fixture
def copies(monkeypatch):
    """Count copies to the host and to the device."""
    counts = Counter()

    def counting_to_numpy(array):
        counts["to host"] += 1
        return to_numpy(array)

    from_host = ArraySpace.from_host

    def counting_from_host(space, array):
        counts["to device"] += 1
        return from_host(space, array)

    for name, module in list(sys.modules.items()):
        if name.startswith("hessops") and getattr(module, "to_numpy", None) is to_numpy:
            monkeypatch.setattr(module, "to_numpy", counting_to_numpy)
    monkeypatch.setattr(ArraySpace, "from_host", counting_from_host)
    return counts


@pytest.mark.parametrize(
    ("verb", "options", "to_host", "to_device"),
    [
        ("lanczos", {}, 1, 1),
        ("lanczos", {"reorthogonalize": False}, 1, 1),
        ("spectral_density", {"num_probes": 4}, 1, 1),
        ("spectral_density", {"num_probes": 4, "reorthogonalize": True}, 1, 1),
        ("eigsh", {"k": 3, "tol": 1e-14}, 1, 1),
        # One each for the product with the operator and with its adjoint.
        ("svds", {"k": 3, "tol": 1e-14}, 2, 2),
        ("power_iteration", {"num_eigenpairs": 3, "tol": 1e-14}, 2, 2),
        ("power_iteration", {"method": "deflated", "tol": 1e-14}, 2, 2),
    ],
)
def test_copies_a_step(copies, verb, options, to_host, to_device):
    steps = "num_steps" if verb in {"lanczos", "spectral_density"} else "max_steps"
    totals = []
    for count in (3, 8):
        copies.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = getattr(hessops, verb)(A, rng=0, **{steps: count}, **options)
        assert len(result.history) == count
        totals.append((copies["to host"], copies["to device"]))
    (host, device), (more_host, more_device) = totals
    assert ((more_host - host) / 5, (more_device - device) / 5) == (to_host, to_device)


SUM = hessops.FiniteSum([hessops.Diagonal(np.linspace(1.0, 2.0 + b, 200)) for b in range(7)])


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("trace", {"method": "hutchinson"}),
        ("trace", {"control": (SUM, None)}),
        ("diagonal", {"method": "hutchinson"}),
    ],
)
def test_copies_a_block_of_probes_of_a_sum(copies, verb, options):
    """One, however many terms there are."""
    totals = []
    for products in (60, 120):
        copies.clear()
        result = getattr(hessops, verb)(
            SUM, max_products=products, block_size=4, stratify=True, rng=0, **options
        )
        totals.append((copies["to host"], len(result.history)))
    (few, short), (many, long) = totals
    assert many - few == long - short > 5


class Ramp(hessops.LinearOperator):
    """The diagonal matrix of 0 to 49 on vectors of a communicator."""

    def __init__(self, comm):
        super().__init__(ArraySpace(50, comm=comm, rows=(0, 50)), structure=SELF_ADJOINT)

    def _apply(self, X):
        return X * np.arange(50.0)[:, None]


class CountingComm(SerialComm):
    def __init__(self):
        self.calls = 0

    def all_reduce(self, array):
        self.calls += 1
        return array


@pytest.mark.parametrize(("reorthogonalize", "reductions"), [(False, 2), (True, 3)])
def test_reductions_a_step(reorthogonalize, reductions):
    """One for alpha and one for beta; one more for the second pass of reorthogonalisation."""
    comm = CountingComm()
    calls = []
    for state in lanczos_steps(Ramp(comm), np.ones((50, 1)), reorthogonalize=reorthogonalize):
        calls.append(comm.calls)
        if state.step == 40:
            break
    assert set(np.diff(calls)) == {reductions}

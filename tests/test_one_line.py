"""Every state of an engine prints as one line: numbers, and shapes instead of vectors."""

import importlib
import pkgutil
from dataclasses import is_dataclass
from itertools import islice

import numpy as np
import pytest

import hessops
import hessops.algorithms
from hessops.algorithms._one_line import one_line
from hessops.algorithms.eigen.eigsh import eigsh
from hessops.algorithms.krylov.lanczos import lanczos_steps


def states() -> list[type]:
    """Return the classes of states of all engines."""
    found = {}
    for module in pkgutil.walk_packages(hessops.algorithms.__path__, "hessops.algorithms."):
        for name, one in vars(importlib.import_module(module.name)).items():
            if name.endswith("State") and is_dataclass(one) and ".norms." not in one.__module__:
                found[name] = one
    return list(found.values())


@pytest.mark.parametrize("state", states(), ids=lambda state: state.__name__)
def test_every_state_is_one_line(state):
    assert state.__repr__ is one_line


def test_a_state_shows_numbers_and_shapes():
    A = hessops.Diagonal(np.arange(1.0, 6.0))
    state = list(islice(lanczos_steps(A, np.ones((5, 1))), 3))[-1]
    text = repr(state)
    assert text.startswith("LanczosState(step=3, num_products=3, alphas: (3, 1), betas: (3, 1)")
    assert "following: (5, 1)" in text
    assert "scale=" in text
    assert "array(" not in text
    assert "object at" not in text


@pytest.mark.parametrize(
    "verb", [lambda A, see: eigsh(A, 2, rng=0, callback=see), hessops.spectrum, hessops.logdet]
)
def test_states_seen_by_a_callback_are_short(verb):
    seen = []
    A = hessops.Diagonal(np.linspace(1.0, 2.0, 300))
    if verb in (hessops.spectrum, hessops.logdet):
        verb(A, rng=0, callback=lambda state: seen.append(repr(state)))
    else:
        verb(A, lambda state: seen.append(repr(state)))
    assert seen
    assert all(len(text) < 320 and "\n" not in text for text in seen)

"""Operators travel to other processes: a space names its array library and does not carry it."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from strategies import LIBRARIES, Place, normal

import hessops
from hessops import ArraySpace, Diagonal, FiniteSum, aslinearoperator
from hessops.arrays import to_numpy

VALUES = np.array([1.0, -2.0, 3.0])
MATRIX = normal(0, (3, 3)) + normal(0, (3, 3)).T

MAKE = {
    "diagonal": lambda place: Diagonal(place.put(VALUES)),
    "matrix": lambda place: aslinearoperator(place.put(MATRIX)),
    "sum": lambda place: Diagonal(place.put(VALUES)) + 2 * aslinearoperator(place.put(MATRIX)),
    "finite sum": lambda place: FiniteSum([Diagonal(place.put(VALUES))] * 2, [0.5, 2.0]),
    "shifted product": lambda place: (
        aslinearoperator(place.put(MATRIX)).H @ Diagonal(place.put(VALUES))
        - hessops.Identity(Diagonal(place.put(VALUES)).domain)
    ),
}
# Multiplies with the identity in a process that has imported no array library before.
READ = """
import pickle, sys
operator = pickle.load(sys.stdin.buffer)
from hessops.arrays import to_numpy
sys.stdout.buffer.write(to_numpy(operator.to_dense()).tobytes())
"""


@pytest.mark.parametrize("library", LIBRARIES)
def test_operators_are_unpickled_in_another_process(library):
    place = Place(library, "float64")
    # All in one process, which takes longer to start than to multiply.
    for name, make in MAKE.items():
        operator = make(place)
        if (library, name) in {("numpy", "sum"), ("torch", "sum")}:
            answer = subprocess.run(
                [sys.executable, "-c", READ],
                input=pickle.dumps(operator),
                capture_output=True,
                check=True,
            ).stdout
            found = np.frombuffer(answer).reshape(3, 3)
            np.testing.assert_array_equal(found, to_numpy(operator.to_dense()))
        again = pickle.loads(pickle.dumps(operator))
        assert again.xp is operator.xp
        assert repr(again) == repr(operator)
        np.testing.assert_array_equal(to_numpy(again.to_dense()), to_numpy(operator.to_dense()))


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("library", LIBRARIES)
def test_deep_copies_multiply_as_the_original_and_with_it(library, name):
    operator = MAKE[name](Place(library, "float64"))
    twice = operator + copy.deepcopy(operator)
    np.testing.assert_allclose(
        to_numpy(twice.to_dense()), 2 * to_numpy(operator.to_dense()), rtol=1e-14
    )


def test_a_space_keeps_its_sections():
    space = ArraySpace(3, "float32", sections={"head": (0, 1), "tail": (1, 3)})
    again = pickle.loads(pickle.dumps(space))
    assert dict(again.sections) == dict(space.sections)
    assert again.compatible_with(space)
    assert again.dtype == space.dtype

"""Which blocks a network's parameters fall into, as given or by its modules, and what is refused."""

import re

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import mlp, names_of, regression

import hessops
from hessops_torch import block_diagonal, hessian, layer_curvature
from hessops_torch.model.parameter_blocks import parameter_blocks

MODEL = nn.Sequential(mlp(), nn.Tanh(), nn.Linear(2, 2), nn.ParameterList([torch.zeros(2)]))
NAMES = names_of(MODEL)


def test_blocks_are_modules_or_tensors_where_none_are_given():
    assert parameter_blocks(MODEL, NAMES) == {
        "0.0": ("0.0.weight", "0.0.bias"),
        "0.2": ("0.2.weight", "0.2.bias"),
        "2": ("2.weight", "2.bias"),
        "3": ("3.0",),
    }
    assert parameter_blocks(MODEL, NAMES, each="tensor") == {name: (name,) for name in NAMES}
    assert parameter_blocks(nn.Linear(2, 2), ["weight", "bias"]) == {"(model)": ("weight", "bias")}


def test_blocks_are_chosen_by_all_that_chooses_parameters():
    blocks = ["*.bias", re.compile(r"^0.*weight"), MODEL[2].weight, MODEL[3]]
    assert parameter_blocks(MODEL, NAMES, blocks) == {
        "*.bias": ("0.0.bias", "0.2.bias", "2.bias"),
        "^0.*weight": ("0.0.weight", "0.2.weight"),
        "2.weight": ("2.weight",),
        "3": ("3.0",),
    }
    assert parameter_blocks(MODEL, NAMES, "0") == {"0": tuple(NAMES[:4])}
    # Of a module, what the operator acts on.
    weights = [name for name in NAMES if name.endswith("weight")]
    assert parameter_blocks(MODEL, weights, [MODEL[0]]) == {"0": ("0.0.weight", "0.2.weight")}


@pytest.mark.parametrize(
    ("blocks", "options", "error", "words"),
    [
        (["0", "*.bias"], {}, ValueError, r"'0' and '\*.bias' both hold 0.0.bias"),
        ({"a": "0.0", "b": ["2", MODEL[0]]}, {}, ValueError, "'a' and 'b' both hold 0.0.weight"),
        (["2", "2"], {}, ValueError, "two blocks are called '2'"),
        (["0.3"], {}, ValueError, "block '0.3': no parameter fits '0.3'"),
        ({"tanh": MODEL[1]}, {}, ValueError, "block 'tanh': the Tanh in params has no parameters"),
        ([nn.Linear(2, 2)], {}, ValueError, "block 'Linear': .*not of this model"),
        ({}, {}, ValueError, "blocks is empty"),
        (["2.bias"], {}, ValueError, "acts on no parameter of it"),
        ({"a": None}, {}, TypeError, "block 'a' is None"),
        (3, {}, TypeError, "blocks=3 names no blocks"),
        ([3], {}, TypeError, "block 'int': params=3 names no parameters"),
        (None, {"each": "layer"}, ValueError, "each='layer' is unknown"),
        (None, {"num_probes": 0}, ValueError, "num_probes=0 must be a positive integer"),
        (None, {"num_eigenvalues": -1}, ValueError, "num_eigenvalues=-1 must not be negative"),
        (None, {"num_density_steps": 1.5}, ValueError, "num_density_steps=1.5 must not be neg"),
        (None, {"confidence": 1.0}, ValueError, "confidence=1.0 must lie between 0 and 1"),
        (None, {"probe": "cauchy"}, ValueError, "probe='cauchy' is unknown"),
    ],
)
def test_bad_blocks_and_options_are_named(blocks, options, error, words):
    data = [(torch.randn(4, 3), torch.randn(4, 2))]
    model = nn.Sequential(*MODEL[:3])
    names = [name for name in NAMES[:6] if name != "2.bias"]
    operator = hessian(model, nn.MSELoss(), data, params=names)
    with pytest.raises(error, match=words):
        layer_curvature(operator, blocks, **options)


def test_operators_without_layers_are_refused():
    plain = hessops.aslinearoperator(np.eye(3), self_adjoint=True)
    with pytest.raises(TypeError, match="without sections"):
        layer_curvature(plain)
    with pytest.raises(ValueError, match="is complex"):
        layer_curvature(1j * np.eye(3))
    with pytest.raises(TypeError, match="needs an operator over a network's data"):
        block_diagonal(plain)
    operator = hessian(*regression("cpu").arguments)
    twice = 2 * operator
    found = layer_curvature(twice, num_probes=4, rng=0)
    assert list(found.blocks) == list(operator.domain.sections)
    with pytest.raises(TypeError, match="knows none"):
        layer_curvature(twice, ["0"])
    with pytest.raises(TypeError, match="cannot be divided"):
        layer_curvature(twice, num_eigenvalues=1)

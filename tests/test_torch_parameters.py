"""Parameters as one flat vector and back, the selections, and the space of such vectors."""

import re
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import (
    Attention,
    assert_same,
    build,
    convolutional,
    every_device,
    images,
    mlp,
    normal,
    regression,
)

import hessops
from hessops import ArraySpace
from hessops.random import Stream
from hessops_torch import ParameterSpace, hessian
from hessops_torch.model.selection import select_parameters

shapes = st.lists(
    st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=5
).filter(lambda drawn: any(0 not in shape for shape in drawn))


def space_of(shapes, device="cpu", dtype=torch.float64):
    return ParameterSpace(
        {f"p{i}": torch.zeros(shape, dtype=dtype, device=device) for i, shape in enumerate(shapes)}
    )


@every_device
@given(shapes)
def test_flatten_and_unflatten_are_inverse(device, shapes):
    space = space_of(shapes, device)
    vector = normal(0, space.dim, device=device)
    named = space.unflatten(vector)
    assert [tuple(tensor.shape) for tensor in named.values()] == shapes
    assert torch.equal(space.flatten(named), vector)
    again = space.unflatten(space.flatten(named))
    assert all(torch.equal(again[name], named[name]) for name in named)


@every_device
@given(shapes)
def test_sections_follow_each_other_and_cover_the_vector(device, shapes):
    space = space_of(shapes, device)
    slices = [space.section(name) for name in space.sections]
    stops = list(accumulate(int(np.prod(shape)) for shape in shapes))
    assert [part.stop for part in slices] == stops
    assert [part.start for part in slices] == [0, *stops[:-1]]
    assert stops[-1] == space.dim


@every_device
@given(shapes, st.integers(1, 3))
def test_unflattened_tensors_are_views(device, shapes, count):
    space = space_of(shapes, device)
    block = space.zeros(count)
    assert block.shape == (space.dim, count)
    for column in range(count):
        for name, view in space.unflatten(block[:, column]).items():
            view.fill_(column + 1)
            assert (block[space.section(name), column] == column + 1).all()
            if view.numel():
                assert view.untyped_storage().data_ptr() == block.untyped_storage().data_ptr()
    assert torch.equal(block[0], torch.arange(1, count + 1, device=device).to(block.dtype))


@every_device
def test_flattened_tensors_are_a_copy(device):
    model = build(mlp, 0, device)
    space = ParameterSpace(dict(model.named_parameters()))
    with torch.no_grad():
        flat = space.flatten(dict(model.named_parameters()))
        flat.zero_()
    assert all(parameter.count_nonzero() for parameter in model.parameters())


@every_device
def test_the_order_is_that_of_the_model(device):
    model = build(convolutional, 0, device)
    space = ParameterSpace(dict(model.named_parameters()))
    flat = torch.nn.utils.parameters_to_vector(model.parameters())
    assert torch.equal(space.flatten(dict(model.named_parameters())), flat)
    names = [name for name, _ in model.named_parameters()]
    assert list(space.shapes) == list(space.sections) == names
    for name, parameter in model.named_parameters():
        assert torch.equal(flat[space.section(name)], parameter.reshape(-1))


@every_device
def test_a_strided_vector_unflattens_to_the_same_numbers(device):
    space = space_of([(2, 2), (3,)], device)
    block = normal(0, space.dim, 2, device=device)
    assert not block[:, 1].is_contiguous()
    assert torch.equal(space.flatten(space.unflatten(block[:, 1])), block[:, 1])


def test_errors_name_what_is_wrong():
    space = space_of([(2, 2), (3,)])
    with pytest.raises(ValueError, match=r"vector of shape \(7,\), got \(8,\)"):
        space.unflatten(torch.zeros(8))
    with pytest.raises(ValueError, match=r"vector of shape \(7,\), got \(7, 1\)"):
        space.unflatten(torch.zeros(7, 1))
    with pytest.raises(KeyError, match="tensor for parameter 'p1' is missing"):
        space.flatten({"p0": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"p0 has shape \(2, 2\), got \(4,\)"):
        space.flatten({"p0": torch.zeros(4), "p1": torch.zeros(3)})
    with pytest.raises(KeyError, match="no parameter 'p2' here; there are p0, p1"):
        space.section("p2")


def test_other_tensors_are_not_looked_at():
    space = space_of([(2,)])
    assert space.flatten({"other": None, "p0": torch.ones(2)}).tolist() == [1.0, 1.0]


@every_device
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["rademacher", "normal", "sphere"])
def test_probes_are_those_of_numpy(device, dtype, kind):
    """Bit for bit; on the sphere but for the last bits of a norm."""
    space = space_of([(4, 5), (3,), (2, 1, 7)], device, getattr(torch, dtype))
    on_host = ArraySpace(space.dim, np.dtype(dtype))
    stream = Stream(3).for_purpose(1).for_term(2)
    found = space.probes(stream, range(2, 6), kind)
    expected = on_host.probes(stream, range(2, 6), kind)
    assert found.dtype == getattr(torch, dtype)
    assert found.device.type == device
    if kind == "sphere":
        np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=4 * np.finfo(dtype).eps)
    else:
        assert np.array_equal(found.cpu().numpy(), expected)


@every_device
def test_blocks_store_one_vector_after_the_other(device):
    space = space_of([(4, 5), (3,)], device)
    for block in (space.zeros(3), space.probes(Stream(0), range(3), "rademacher")):
        assert block.T.is_contiguous()


@every_device
def test_products_store_one_vector_after_the_other(device):
    operator = hessian(*regression(device).arguments)
    assert (operator @ operator.space.zeros(3)).T.is_contiguous()


@every_device
def test_another_dtype_keeps_the_rest(device):
    space = space_of([(4, 5), (3,)], device)
    wide = space.with_dtype(torch.complex128)
    assert wide.dtype == torch.complex128
    assert (wide.dim, wide.sections) == (space.dim, space.sections)
    assert wide.device == space.device
    assert wide.zeros(2).dtype == torch.complex128


@every_device
def test_a_complex_block_is_multiplied_part_by_part(device):
    operator = hessian(*regression(device).arguments)
    real, imaginary = (normal(i, operator.shape[0], 2, device=device) for i in (1, 2))
    product = operator @ (real + 1j * imaginary)
    assert_same(product.real, operator @ real, 1e-14)
    assert_same(product.imag, operator @ imaginary, 1e-14)


@every_device
def test_eigenvectors_go_back_into_named_tensors(device):
    """A step along an eigenvector, tensor by tensor, changes the gradient by the eigenvalue."""
    problem = images(device)
    operator = hessian(*problem.arguments)
    pairs = hessops.eigsh(operator, 2, rng=0)

    def gradient():
        with torch.enable_grad():
            loss = problem.total_loss(problem.model)
            gradients = torch.autograd.grad(loss, list(operator.objective.parameters.values()))
        return operator.space.flatten(
            dict(zip(operator.objective.parameters, gradients, strict=True))
        )

    before, step = gradient(), 1e-6
    for value, vector in zip(pairs.eigenvalues, pairs.eigenvectors.T, strict=True):
        named = operator.space.unflatten(vector)
        parameters = dict(problem.model.named_parameters())
        assert {n: t.shape for n, t in named.items()} == {n: p.shape for n, p in parameters.items()}
        with torch.no_grad():
            for name, tensor in named.items():
                parameters[name] += step * tensor
            change = gradient() - before
            for name, tensor in named.items():
                parameters[name] -= step * tensor
        # The error of a one-sided difference is of the order of the step.
        assert_same(change / step, value * vector, 1e-4)


def names(model, params):
    return list(select_parameters(model, params))


def test_selections():
    model = convolutional()
    everything = [name for name, _ in model.named_parameters()]
    assert names(model, None) == names(model, "*") == everything
    assert names(model, "0") == ["0.weight", "0.bias"]
    assert names(model, "3.inner.1") == ["3.inner.1.weight", "3.inner.1.bias"]
    assert names(model, "?.bias") == ["0.bias", "1.bias", "6.bias"]
    assert names(model, "[06].weight") == ["0.weight", "6.weight"]
    assert names(model, re.compile("inner")) == names(model, "3")
    # In the order of the model, each once.
    assert names(model, ["6.bias", "0", "0.weight"]) == ["0.weight", "0.bias", "6.bias"]
    assert names(model, iter(["1.bias"])) == ["1.bias"]


def test_a_name_is_no_beginning_of_another():
    model = nn.ModuleDict({"layer1": nn.Linear(1, 1), "layer10": nn.Linear(1, 1)})
    assert names(model, "layer1") == ["layer1.weight", "layer1.bias"]


def test_tied_parameters_appear_once():
    assert "head.weight" not in names(Attention(), None)
    assert "head.weight" in names(Attention(tied=False), None)


def test_tied_parameters_are_found_by_any_of_their_names():
    model = Attention()
    assert names(model, "head") == names(model, "head.weight") == ["embedding.weight"]
    assert names(model, re.compile(r"^head")) == ["embedding.weight"]
    assert names(model, ["norm", "head"]) == ["embedding.weight", "norm.weight", "norm.bias"]
    model.head.bias = nn.Parameter(torch.zeros(4))
    assert names(model, "head") == ["embedding.weight", "head.bias"]


def test_modules_and_parameters_select_themselves():
    model = convolutional()
    assert names(model, model[0]) == names(model, "0")
    assert names(model, model[3]) == names(model, "3")
    assert names(model, model) == names(model, None)
    assert names(model, [model[0].bias, model[6]]) == ["0.bias", "6.weight", "6.bias"]
    assert names(model, model[6].parameters()) == names(model, "6")


def test_frozen_parameters_are_taken_when_named():
    model = mlp()
    model[0].requires_grad_(False)
    assert names(model, None) == ["2.weight", "2.bias"]
    assert names(model, "0.bias") == ["0.bias"]


def test_representation_says_what_it_holds():
    assert repr(space_of([(2, 2), (3,)])) == "ParameterSpace(7, 2 tensors, torch.float64, cpu)"

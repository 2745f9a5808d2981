"""Slices of a loss: exact where they can be, the same by every way to compute, without a trace."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import (
    batch_sizes,
    build,
    convolutional,
    cut,
    every_device,
    every_problem,
    few_examples,
    images,
    integers,
    language,
    mlp,
    normal,
    regression,
    seeds,
)

import hessops
from hessops.errors import NonFiniteError
from hessops_torch import Objective, hessian, landscape
from hessops_torch.landscapes.directions import filter_normalized


def moved(problem, vector):
    """Return the loss of a copy of the model at parameters + vector."""
    model, start = copy.deepcopy(problem.model), 0
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.numel()
            parameter.add_(vector[start : start + size].view_as(parameter))
            start += size
        return float(problem.total_loss(model))


def dimension_of(problem):
    return sum(parameter.numel() for parameter in problem.model.parameters())


@every_device
@few_examples
@given(sizes=batch_sizes, seed=seeds, dimension=st.sampled_from([1, 2]))
def test_the_quadratic_is_the_loss_where_that_is_quadratic(device, sizes, seed, dimension):
    model = build(lambda: nn.Linear(3, 2), seed, device)
    x, y = (
        normal(seed + 1, sum(sizes), 3, device=device),
        normal(seed + 2, sum(sizes), 2, device=device),
    )
    directions = normal(seed + 3, 8, dimension, device=device)
    found = landscape(
        model, nn.MSELoss(), cut(sizes, x, y), directions=directions, num_points=5, extent=2.0
    )  # fmt: skip
    size = np.abs(found.losses).max()
    assert np.abs(found.losses - found.quadratic()).max() <= 1e-12 * size
    assert found.losses.shape == (5,) * dimension
    assert found.converged


@every_device
@every_problem
@pytest.mark.parametrize("points_per_pass", [1, 4])
def test_losses_are_those_of_a_model_moved_there(device, make_problem, points_per_pass):
    problem = make_problem(device)
    directions = 0.1 * normal(5, dimension_of(problem), 2, device=device)
    found = landscape(
        *problem.arguments, directions=directions, num_points=3, points_per_pass=points_per_pass
    )
    for (i, j), loss in np.ndenumerate(found.losses):
        s, t = found.coordinates[0][i], found.coordinates[1][j]
        expected = moved(problem, s * directions[:, 0] + t * directions[:, 1])
        assert loss == pytest.approx(expected, rel=1e-12)
    dense = problem.dense()
    expected = (directions.T @ dense @ directions).cpu().numpy()
    assert np.allclose(found.curvatures, expected, rtol=1e-9, atol=1e-12)
    gradients = torch.autograd.grad(
        problem.total_loss(problem.model), list(problem.model.parameters())
    )
    slopes = torch.cat([gradient.reshape(-1) for gradient in gradients]) @ directions
    assert np.allclose(found.slopes, slopes.cpu().numpy(), rtol=1e-9, atol=1e-12)


def test_the_ways_to_compute_are_chosen_as_they_should():
    problem = regression("cpu")
    many = landscape(*problem.arguments, num_points=9, points_per_pass=4, rng=0)
    assert many.method == "4 at once"
    single = landscape(*problem.arguments, num_points=9, points_per_pass=1, rng=0)
    assert np.allclose(many.losses, single.losses, rtol=1e-13)
    # Batch norm in train mode writes running statistics, which has no vectorised form.
    train = images("cpu", train=True)
    found = landscape(*train.arguments, num_points=3, points_per_pass=4, rng=0)
    assert found.method.startswith("one by one, as the model cannot be vectorised")
    free = landscape(*problem.arguments, num_points=9, rng=0)
    assert free.method in {"8 at once", "one by one, which is faster"}


@every_device
@given(sizes=batch_sizes, seed=seeds)
@few_examples
def test_the_mean_over_ragged_batches_is_exact(device, sizes, seed):
    """By counts, of class weights and of what is not ignored, too."""
    model = build(lambda: mlp(outputs=3), seed, device)
    x, y = (
        normal(seed + 1, sum(sizes), 3, device=device),
        integers(seed + 2, 3, sum(sizes), device=device),
    )
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64, device=device)
    loss = nn.CrossEntropyLoss(weight=weights, ignore_index=1 if (y != 1).any() else -100)
    found = landscape(model, loss, cut(sizes, x, y), num_points=3, rng=0)
    assert found.center == pytest.approx(float(loss(model(x), y).detach()), rel=1e-12)


@every_device
def test_a_slice_through_a_minimum(device):
    model = nn.Linear(3, 1, bias=False).to(device, torch.float64)
    x, y = normal(1, 30, 3, device=device), normal(2, 30, 1, device=device)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    data = [(x, y)]
    top = hessops.eigsh(hessian(model, nn.MSELoss(), data), 2, rng=0)
    found = landscape(model, nn.MSELoss(), data, directions=top, dimension=2, num_points=11)
    assert found.losses.argmin() == found.losses.size // 2
    assert np.abs(found.slopes).max() <= 1e-12
    assert np.allclose(found.curvatures, np.diag(top.eigenvalues), atol=1e-9)
    line = landscape(model, nn.MSELoss(), data, directions=top)
    assert line.losses.shape == (51,)
    assert line.labels == (f"eigenvector of {top.eigenvalues[0]:.4g}",)


@every_device
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mode", [None, "eval", "train"])
def test_the_model_is_left_as_it_was(device, train, mode):
    problem = images(device, train=train)
    model = problem.model
    F.cross_entropy(model(problem.batches[0][0]), problem.batches[0][1]).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    identities = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    random = torch.get_rng_state()
    landscape(*problem.arguments, dimension=2, num_points=3, mode=mode, rng=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == identities
    assert all(module.training is train for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_model_is_left_as_it_was_after_an_exception():
    problem = regression("cpu")
    calls = []

    def loss(model, batch):
        calls.append(None)
        if len(calls) > 12:
            raise ValueError("enough")
        return F.mse_loss(model(batch[0]), batch[1], reduction="sum"), 1.0

    before = copy.deepcopy(problem.model.state_dict())
    parameters = list(problem.model.parameters())
    with pytest.raises(ValueError, match=r"cannot be applied to .*enough"):
        landscape(problem.model, loss, problem.batches, num_points=101, rng=0, points_per_pass=1)
    assert all(a is b for a, b in zip(parameters, problem.model.parameters(), strict=True))
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, before[name])


@every_device
def test_random_directions_have_filters_as_long_as_the_parameters(device):
    model = build(convolutional, 0, device)
    data = (normal(1, 4, 1, 4, 4, device=device), integers(2, 3, 4, device=device))
    objective = Objective(model, nn.CrossEntropyLoss(), data)
    directions = filter_normalized(objective, 2, rng=0)
    for column in directions.T:
        for name, part in objective.domain.unflatten(column).items():
            weight = model.get_parameter(name)
            if weight.ndim < 2:
                assert not part.any()
                continue
            lengths = [torch.linalg.vector_norm(t.flatten(1), dim=1) for t in (part, weight)]
            assert torch.allclose(*lengths)
    cosine = torch.nn.functional.cosine_similarity(*directions.T, dim=0)
    assert 0 < abs(float(cosine)) < 0.9
    again = filter_normalized(objective, 2, rng=0)
    assert torch.equal(directions, again)


def test_scaling_layers_against_each_other_changes_no_filter_normalised_slice():
    """As Li et al. want it: the same network, written with other weights, has the same slice."""
    problem = regression("cpu")
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)
    ).double()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight *= 10
        scaled[2].weight /= 10
    slices = [
        landscape(m, problem.loss, problem.batches, num_points=7, rng=0) for m in (model, scaled)
    ]
    assert np.allclose(slices[0].losses, slices[1].losses, rtol=1e-10)


def test_parameters_may_be_a_part():
    problem = regression("cpu")
    direction = torch.ones(8, dtype=torch.float64)
    found = landscape(*problem.arguments, params="2.*", directions=direction, num_points=3)
    whole = torch.cat([torch.zeros(12, dtype=torch.float64), direction])
    assert found.losses[2] == pytest.approx(moved(problem, whole), rel=1e-12)


def test_losses_that_are_infinite_are_said_and_not_hidden():
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)

    def loss(model, batch):
        return torch.log(model(batch[0])).sum(), 1.0

    data = [(torch.ones(1, 1, dtype=torch.float64),)]
    direction = torch.tensor([2.0], dtype=torch.float64)
    found = landscape(model, loss, data, directions=direction, num_points=5)
    assert not found.converged
    assert "the loss of 2 of them is NaN or infinite" in found.status
    assert np.isfinite(found.losses).tolist() == [False, False, True, True, True]
    assert "at the centre" in str(found)
    bad = [(torch.ones(1, 1, dtype=torch.float64),), (-torch.ones(1, 1, dtype=torch.float64),)]
    with pytest.raises(NonFiniteError, match="micro-batch 1 is nan"):
        landscape(model, loss, bad, directions=direction)


@pytest.mark.parametrize("dimension", [1, 2])
def test_saved_and_loaded(dimension, tmp_path):
    found = landscape(*regression("cpu").arguments, dimension=dimension, num_points=5, rng=3)
    loaded = hessops.load(found.save(tmp_path / "slice"))
    assert np.array_equal(loaded.losses, found.losses)
    assert np.array_equal(loaded.quadratic(), found.quadratic())
    assert loaded.labels == found.labels
    assert loaded.seed == found.seed == 3
    assert str(loaded) == str(found)


def test_pictures():
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    problem = regression("cpu")
    line = landscape(*problem.arguments, num_points=5, rng=0)
    ax = line.plot()
    assert np.array_equal(ax.lines[0].get_ydata(), line.losses)
    plane = landscape(*problem.arguments, dimension=2, num_points=5, rng=0)
    contours = plane.plot()
    assert contours.get_xlabel().startswith("random direction 1 (norm ")
    surface = plane.plot(surface=True)
    assert surface.get_zlabel() == "loss"
    with pytest.raises(ValueError, match="a line has no surface"):
        line.plot(surface=True)
    with pytest.raises(ValueError, match="projection='3d'"):
        plane.plot(contours, surface=True)
    for drawn in (ax, contours, surface):
        plt.close(drawn.figure)


def test_bad_options_are_refused():
    arguments = regression("cpu").arguments
    nan = torch.full((20,), math.nan, dtype=torch.float64)
    for options, message in (
        ({"dimension": 3}, "dimension=3: a slice has dimension 1 or 2"),
        ({"extent": 0.0}, "extent=0.0 must be a positive number"),
        ({"extent": (1.0, 2.0)}, "must be a positive number, or one for each of 1"),
        ({"num_points": 2}, "num_points=2 must be an integer, at least 3"),
        ({"points_per_pass": 0}, "points_per_pass=0"),
        ({"directions": "hessian"}, "directions='hessian' is unknown"),
        ({"directions": torch.ones(5)}, r"directions have shape \(5, 1\)"),
        ({"directions": [torch.ones(5), torch.ones(20)]}, r"each must be \(20,\)"),
        ({"directions": torch.zeros(20)}, "norms"),
        ({"directions": nan}, "norms"),
    ):
        with pytest.raises(ValueError, match=message):
            landscape(*arguments, **options)
    with pytest.raises(TypeError, match="directions are a int"):
        landscape(*arguments, directions=3)
    with pytest.raises(ValueError, match="1 coordinates given for 2"):
        landscape(*arguments, dimension=2, num_points=3, rng=0).quadratic(1.0)
    with pytest.raises(ValueError, match="no parameter has filters"):
        landscape(
            nn.LayerNorm(3).double(),
            nn.MSELoss(),
            [(torch.ones(2, 3).double(), torch.ones(2, 3).double())],
        )


def test_language_models_can_be_sliced():
    """Dict batches, masks, tied weights, attention."""
    problem = language("cpu")
    found = landscape(*problem.arguments, num_points=5, points_per_pass=4, rng=0)
    assert found.center == pytest.approx(
        float(problem.total_loss(problem.model).detach()), rel=1e-12
    )


def test_the_legend_of_contours_shows_what_is_drawn():
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt
    from matplotlib.colors import to_rgba
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    problem = regression("cpu")
    ax = landscape(*problem.arguments, dimension=2, num_points=5, rng=0).plot()
    (label,) = (text.get_text() for text in ax.get_legend().get_texts())
    assert label == "quadratic at the centre, same levels"
    artists = ax.get_legend().findobj
    (line,) = artists(Line2D)
    (swatch,) = artists(lambda one: isinstance(one, Patch) and one.get_facecolor()[:3] != (1, 1, 1))
    drawn = ax.collections[-1]
    assert to_rgba(line.get_color()) == tuple(drawn.get_edgecolor()[0])
    assert line.get_linestyle() in ("--", "dashed")
    assert line.get_linewidth() == drawn.get_linewidth()[0]
    # On a colour of the losses, on which white is seen.
    filled = ax.collections[0]
    assert swatch.get_facecolor() in [filled.get_cmap()(share) for share in np.arange(256)]
    assert max(swatch.get_facecolor()[:3]) < 0.6
    plt.close(ax.figure)

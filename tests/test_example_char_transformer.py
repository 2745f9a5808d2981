"""The example of a character transformer: its data, its training and what it prints."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch_problems import assert_is_hessian, dense_hessian

import hessops
from hessops_torch import hessian

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "char_transformer"
DATA = Path(os.environ.get("HESSOPS_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture
def example(monkeypatch):
    """Import the example's modules as its programs do, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = [file.stem for file in FOLDER.glob("*.py")]

    def load(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        sys.modules.pop(name, None)


def test_windows_are_what_follows(example):
    text = "to be or not to be"
    batches, alphabet = example("text").batches_of(
        text, length=5, num_windows=7, batch_size=3, seed=0
    )
    assert alphabet == "".join(sorted(set(text)))
    assert [len(x) for x, _ in batches] == [3, 3, 1]
    for x, y in zip(*(torch.cat(part) for part in zip(*batches, strict=True)), strict=True):
        window = "".join(alphabet[i] for i in [*x.tolist(), int(y[-1])])
        assert window in text
        assert torch.equal(x[1:], y[:-1])


def test_a_text_that_is_too_short(example):
    with pytest.raises(ValueError, match="a text of 3 characters has no window of 5"):
        example("text").batches_of("abc", length=5, num_windows=1, batch_size=1, seed=0)


def test_the_default_text_is_the_examples_own(example):
    text = example("text").read_text()
    assert "character transformer" in text.lower()
    assert len(example("text").read_text(limit=100)) == 100


def test_a_place_sees_only_what_was_before(example):
    torch.manual_seed(0)
    model = example("transformer").CharTransformer(5, 6, width=8, heads=2, depth=1).eval()
    tokens = torch.randint(5, (1, 6))
    changed = tokens.clone()
    changed[0, 4:] = (changed[0, 4:] + 1) % 5
    with torch.no_grad():
        one, other = model(tokens), model(changed)
    assert torch.allclose(one[..., :4], other[..., :4], atol=1e-6)
    assert not torch.allclose(one[..., 4:], other[..., 4:], atol=1e-3)
    assert model.head.weight is model.characters.weight


def test_a_tiny_one_has_its_hessian(example):
    torch.manual_seed(0)
    model = example("transformer").CharTransformer(3, 3, width=2, heads=1, depth=1).double().eval()
    x, y = torch.randint(3, (4, 3)), torch.randint(3, (4, 3))
    expected = dense_hessian(model, lambda f: F.cross_entropy(f(x), y))
    assert_is_hessian(hessian(model, torch.nn.CrossEntropyLoss(), (x, y)), expected)


def test_the_problem_states_itself_again(example):
    options = {"steps": 3, "num_windows": 8, "batch_size": 4, "length": 8, "width": 8, "depth": 1}
    before = torch.get_rng_state()
    problem = example("problem").problem
    (one, _, batches), (other, _, _) = problem(**options), problem(**options)
    assert torch.equal(torch.get_rng_state(), before)
    assert not one.training
    assert [x.shape for x, _ in batches] == [(4, 8), (4, 8)]
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.slow
def test_the_program(example, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    picture = tmp_path / "density.png"
    arguments = ["--data", text, "--steps", "5", "--windows", "16", "--probes", "4"]
    monkeypatch.setattr(
        sys, "argv", ["curvature.py", *map(str, arguments), "--picture", str(picture)]
    )
    runpy.run_path(str(FOLDER / "curvature.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for part in ("parameters, 5 steps", "eigenpair", "trace = ", "spectral density", "whole text"):
        assert part in printed
    assert picture.stat().st_size > 1000


@pytest.mark.data
@pytest.mark.slow
def test_training_on_shakespeare(example):
    """It learns, and its largest eigenvalue is found before and after."""
    path = DATA / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    losses = []
    for steps in (0, 300):
        model, loss, batches = example("problem").problem(
            data=str(path), steps=steps, num_windows=64
        )
        with torch.no_grad():
            losses.append(float(sum(loss(model(x), y) for x, y in batches)) / len(batches))
        operator = hessian(model, loss, batches)
        top = hessops.eigsh(operator, 1, which="LA", tol=1e-2, rng=0)
        assert top.converged
        assert top.eigenvalues[0] > 0
    assert losses[0] > 4
    assert losses[1] < 2.8

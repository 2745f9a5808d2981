"""The CIFAR ResNet example: architecture, loaders, weights and the problem it states."""

import importlib.util
import os
import pickle
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
typer = pytest.importorskip("typer")
CliRunner = pytest.importorskip("typer.testing").CliRunner

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "resnet_cifar"
DATA = Path(os.environ.get("HESSOPS_DATA") or ROOT.parent / "shared" / "data")
SWITCHES = [(True, True), (True, False), (False, True), (False, False)]


def load_example(name: str) -> ModuleType:
    """Import a file of the example by its path, its folder on sys.path as the CLI has it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
        # Plain names such as `weights` would meet those of another example's siblings.
        for sibling in FOLDER.glob("*.py"):
            sys.modules.pop(sibling.stem, None)
    return module


resnet = load_example("resnet")
cifar = load_example("cifar")
weights = load_example("weights")
problem = load_example("problem").problem
evaluate = load_example("evaluate")


@pytest.fixture
def npz(tmp_path):
    """Eight training and five test images of random pixels, as CIFAR-10 in one file."""
    rng = np.random.default_rng(0)
    path = tmp_path / "cifar10.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8),
        y_train=np.arange(8) % 10,
        x_test=rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8),
        y_test=np.arange(5) % 10,
    )
    return path


def python2_batch(pixels, label_key, labels):
    """Pickle a batch opcode by opcode as Python 2 did, which Python 3 no longer writes."""
    rows, columns = pixels.shape
    return b"".join(
        [
            b"\x80\x02}(",
            python2_string(b"data"),
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01" + struct.pack("<cHcH", b"M", rows, b"M", columns) + b"\x86",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff",
            b"K\x00tb\x89" + python2_string(pixels.tobytes()) + b"tb",
            python2_string(label_key),
            b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            b"u.",
        ]
    )


def python2_string(text):
    return b"T" + struct.pack("<i", len(text)) + text


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (2, 3072), dtype=np.uint8)


@pytest.fixture
def cifar10_folder(tmp_path, pixels):
    for i in range(1, 6):
        batch = python2_batch((pixels + i).astype(np.uint8), b"labels", [i, i + 1])
        (tmp_path / f"data_batch_{i}").write_bytes(batch)
    (tmp_path / "test_batch").write_bytes(python2_batch(pixels, b"labels", [3, 9]))
    return tmp_path


def normalised(pixels):
    """Normalise (count, 3, 32, 32) pixels in float64, independently of the example."""
    mean = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    return (pixels / 255 - mean) / std


@pytest.mark.parametrize(
    ("depth", "count"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_parameter_count(depth, count):
    assert sum(p.numel() for p in resnet.ResNet(depth).parameters()) == count


@pytest.mark.parametrize("depth", [-4, 2, 7, 18, 21, 111])
def test_wrong_depth_names_itself_and_the_valid_ones(depth):
    with pytest.raises(ValueError, match=rf"depth {depth} .*8, 14, 20, 26, 32, 38, 44, 50, 56"):
        resnet.ResNet(depth)


@pytest.mark.parametrize(("batch_norm", "residual"), SWITCHES)
def test_logits_have_one_column_per_class(batch_norm, residual):
    model = resnet.ResNet(14, batch_norm=batch_norm, residual=residual, num_classes=100)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


def test_without_batch_norm_convolutions_have_a_bias():
    names = set(resnet.ResNet(8, batch_norm=False).state_dict())
    assert "layer1.0.conv1.bias" in names
    assert not any("bn" in name for name in names)


def test_shortcut_strides_and_pads_with_zeros():
    block = resnet.BasicBlock(4, 8, 2, batch_norm=True, residual=True).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    images = torch.rand(1, 4, 6, 6)
    padding = torch.zeros(1, 2, 3, 3)
    expected = torch.cat([padding, images[:, :, ::2, ::2], padding], dim=1)
    torch.testing.assert_close(block(images), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("batch_norm", "residual"), SWITCHES)
def test_double_backward_is_the_derivative_of_the_gradient(batch_norm, residual, training):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet.ResNet(8, batch_norm=batch_norm, residual=residual).double().train(training)
        images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        direction = [torch.randn_like(p) for p in model.parameters()]
    names, parameters = zip(*model.named_parameters(), strict=True)

    def gradient(step, *, create_graph=False):
        moved = [p + step * d for p, d in zip(parameters, direction, strict=True)]
        named = dict(zip(names, moved, strict=True))
        logits = torch.func.functional_call(model, named, images)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 7]))
        return torch.autograd.grad(loss, parameters, create_graph=create_graph)

    def flat(tensors):
        return torch.cat([tensor.flatten() for tensor in tensors])

    product = flat(torch.autograd.grad(gradient(0, create_graph=True), parameters, direction))
    # A step this short crosses no kink of a ReLU for this seed.
    step = 1e-8
    difference = (flat(gradient(step)) - flat(gradient(-step))) / (2 * step)
    assert torch.linalg.norm(difference - product) < 1e-5 * torch.linalg.norm(product)


def test_npz_is_normalised_in_order(npz):
    images, labels = cifar.load_cifar(npz, train=True, limit=6)
    stored = np.load(npz)["x_train"][:6].transpose(0, 3, 1, 2)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.is_contiguous()
    np.testing.assert_allclose(images.numpy(), normalised(stored), rtol=0, atol=1e-6)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(cifar.load_cifar(npz, train=False)[1]) == 5
    assert cifar.num_classes(npz) == 10


def test_cifar10_folder_joins_its_batches(cifar10_folder, pixels):
    images, labels = cifar.load_cifar(cifar10_folder, train=True)
    assert labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    first = (pixels + 1).astype(np.uint8).reshape(-1, 3, 32, 32)
    np.testing.assert_allclose(images[:2].numpy(), normalised(first), rtol=0, atol=1e-6)
    images, labels = cifar.load_cifar(cifar10_folder, train=False, limit=1)
    assert images.shape == (1, 3, 32, 32)
    assert labels.tolist() == [3]
    assert cifar.num_classes(cifar10_folder) == 10


def test_cifar100_folder_has_fine_labels(tmp_path, pixels):
    for name, labels in [("train", [99, 0]), ("test", [5, 6])]:
        (tmp_path / name).write_bytes(python2_batch(pixels, b"fine_labels", labels))
    assert cifar.load_cifar(tmp_path, train=True)[1].tolist() == [99, 0]
    assert cifar.load_cifar(tmp_path, train=False)[1].tolist() == [5, 6]
    assert cifar.num_classes(tmp_path) == 100


def test_repickled_batch_is_read_too(cifar10_folder, pixels):
    batch = {b"data": pixels, b"labels": [4, 2]}
    (cifar10_folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=4))
    assert cifar.load_cifar(cifar10_folder, train=False)[1].tolist() == [4, 2]


def test_pickle_that_names_a_function_is_refused(cifar10_folder):
    (cifar10_folder / "test_batch").write_bytes(pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match=r"asks for builtins\.print"):
        cifar.load_cifar(cifar10_folder, train=False)


@pytest.mark.parametrize("name", ["nowhere.npz", "nowhere"])
def test_missing_path_says_what_is_expected(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"{name} does not exist: expected an \.npz file"):
        cifar.load_cifar(tmp_path / name, train=True)


def test_folder_without_its_files_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_batch_1 does not exist"):
        cifar.load_cifar(tmp_path, train=True)


def test_archive_that_is_not_unpacked_is_refused(tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.touch()
    with pytest.raises(ValueError, match=r"is not CIFAR: expected .* the unpacked folder"):
        cifar.load_cifar(archive, train=True)


def test_wrong_arrays_are_refused(tmp_path, cifar10_folder, pixels):
    path = tmp_path / "bad.npz"
    np.savez(path, x_train=np.zeros((2, 3, 32, 32), np.float32))
    with pytest.raises(ValueError, match=r"float32 of shape \(2, 3, 32, 32\): store images"):
        cifar.load_cifar(path, train=True)
    with pytest.raises(ValueError, match="no array x_test, only x_train"):
        cifar.load_cifar(path, train=False)
    (cifar10_folder / "test_batch").write_bytes(python2_batch(pixels, b"fine_labels", [1, 2]))
    with pytest.raises(ValueError, match="no entry b'labels'"):
        cifar.load_cifar(cifar10_folder, train=False)


@pytest.mark.parametrize("limit", [0, 9])
def test_limit_out_of_range_says_what_there_is(npz, limit):
    with pytest.raises(ValueError, match=f"{limit} images asked for, .* 8 training images"):
        cifar.load_cifar(npz, train=True, limit=limit)


@pytest.mark.parametrize("wrap", [True, False], ids=["checkpoint", "bare"])
def test_weights_come_back_without_the_module_prefix(tmp_path, wrap):
    saved, model = resnet.ResNet(8), resnet.ResNet(8)
    state = {f"module.{name}": value for name, value in saved.state_dict().items()}
    torch.save({"state_dict": state} if wrap else state, tmp_path / "weights.th")
    weights.load_weights(model, tmp_path / "weights.th")
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


@pytest.mark.parametrize(
    "options", [{"depth": 14}, {"depth": 8, "batch_norm": False}, {"depth": 8, "num_classes": 100}]
)
def test_weights_of_another_architecture_are_refused(tmp_path, options):
    torch.save(resnet.ResNet(8).state_dict(), tmp_path / "weights.th")
    found = "holds a ResNet with depth=8, batch_norm=True and 10 classes, the model is"
    with pytest.raises(ValueError, match=found):
        weights.load_weights(resnet.ResNet(**options), tmp_path / "weights.th")


def test_weights_of_something_else_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.th")
    with pytest.raises(ValueError, match=r"no CIFAR ResNet: the entry 'linear\.weight'"):
        weights.load_weights(resnet.ResNet(8), tmp_path / "weights.th")


def test_problem_is_model_loss_and_batches(npz):
    state = torch.get_rng_state()
    model, loss, batches = problem(data=str(npz), depth=8, num_images=7, batch_size=4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert [len(labels) for _, labels in batches] == [4, 3]
    images, labels = batches[0]
    assert torch.isfinite(loss(model(images), labels))
    same, _, _ = problem(data=str(npz), depth=8, num_images=7, seed=3)
    other, _, _ = problem(data=str(npz), depth=8, num_images=7, seed=4)
    assert torch.equal(same.conv1.weight, model.conv1.weight)
    assert not torch.equal(other.conv1.weight, model.conv1.weight)


def test_problem_refuses_empty_batches(npz):
    with pytest.raises(ValueError, match="batch_size is 0"):
        problem(data=str(npz), num_images=8, batch_size=0)


def test_problem_loads_weights(npz, tmp_path):
    saved = resnet.ResNet(8, batch_norm=False)
    path = tmp_path / "weights.th"
    torch.save(saved.state_dict(), path)
    model, _, _ = problem(data=str(npz), weights=str(path), depth=8, batch_norm=False, num_images=8)
    torch.testing.assert_close(model.state_dict(), saved.state_dict())


def test_evaluate_prints_the_accuracy(npz, tmp_path):
    model = resnet.ResNet(8)
    with torch.no_grad():
        model.linear.bias[3] = 1e6
    path = tmp_path / "weights.th"
    torch.save(model.state_dict(), path)
    app = typer.Typer()
    app.command()(evaluate.main)
    arguments = ["--data", str(npz), "--weights", str(path), "--depth", "8"]
    result = CliRunner().invoke(app, arguments)
    assert result.output == "weights.th: 20.00 % of 5 test images\n"


@pytest.mark.data
def test_trained_resnet20_on_real_images():
    path, trained = DATA / "cifar10.npz", DATA / "resnet_cifar10" / "resnet20-12fca82f.th"
    if not (path.exists() and trained.exists()):
        pytest.skip(f"needs cifar10.npz and resnet_cifar10/ in {DATA}: set HESSOPS_DATA")
    images, labels = cifar.load_cifar(path, train=False, limit=500)
    model = resnet.ResNet(20)
    weights.load_weights(model, trained)
    hits = round(500 * evaluate.accuracy(model, images, labels))
    # 455 as measured, 91.00 %; one image of leeway, for another machine rounds otherwise.
    assert abs(hits - 455) <= 1

"""What a record of products refuses, each with a sentence that says what to do."""

import copy
import errno
import gc
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIBRARIES, Place, normal, with_spectrum

import hessops
from hessops import ArraySpace, CheckpointError, FiniteSum, LinearOperator, checkpointed
from hessops.arrays import to_numpy
from hessops.checkpoint import folder_lock
from hessops.checkpoint.entry import Entry
from hessops.checkpoint.sketch import Sketcher, deviations

N = 20
MATRIX = with_spectrum(np.linspace(-1, 3, N), 0)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """A record of five Lanczos steps."""
    hessops.lanczos(checkpointed(MATRIX, tmp_path), num_steps=5, rng=0)
    return tmp_path


def resumed(folder, matrix=MATRIX, verb=hessops.lanczos, **options):
    return verb(checkpointed(matrix, folder), **{"num_steps": 5, "rng": 0, **options})


# Another run.


def test_without_a_seed_there_is_nothing_to_resume(folder):
    with pytest.raises(CheckpointError, match=r"product 0 .* If rng was not given, every process"):
        resumed(folder, rng=None)


def test_another_seed(folder):
    with pytest.raises(CheckpointError, match=r"product 0 is asked for with other vectors"):
        resumed(folder, rng=1)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_probes_of_signs_are_told_apart_whatever_their_number(n, tmp_path):
    """Inner products of signs with signs are small integers: with such a sketch these would pass."""
    found = 0
    for seed in range(1, 31):
        folder = tmp_path / str(seed)
        A = hessops.Diagonal(np.arange(1.0, n + 1))
        first, other = (
            A.domain.probes(hessops.random.Stream(s), range(1), "rademacher") for s in (0, seed)
        )
        _ = checkpointed(A, folder) @ first
        if np.array_equal(first, other):
            _ = checkpointed(A, folder) @ other
            continue
        with pytest.raises(CheckpointError, match="other vectors"):
            checkpointed(A, folder) @ other
        found += 1
    assert found > 5


def test_unit_vectors_are_told_apart(tmp_path):
    _ = checkpointed(MATRIX, tmp_path) @ np.eye(N)[:, 0]
    for j in range(1, N):
        with pytest.raises(CheckpointError, match="other vectors"):
            checkpointed(MATRIX, tmp_path) @ np.eye(N)[:, j]


def test_another_block_size(tmp_path):
    hessops.trace(checkpointed(MATRIX, tmp_path), num_probes=6, block_size=3, rng=0)
    with pytest.raises(
        CheckpointError, match=r"with 2 vectors and was recorded with 3\. The seed, "
    ):
        hessops.trace(checkpointed(MATRIX, tmp_path), num_probes=6, block_size=2, rng=0)


def test_another_verb(folder):
    with pytest.raises(CheckpointError, match=r"recorded by another run: its product 0"):
        hessops.trace(checkpointed(MATRIX, folder), num_probes=1, rng=0)


def test_other_settings_are_refused_where_they_first_matter(tmp_path):
    A = checkpointed(MATRIX, tmp_path)
    hessops.lanczos(A, num_steps=4, rng=0)
    hessops.trace(A, num_probes=2, rng=0)
    B = checkpointed(MATRIX, tmp_path)
    hessops.lanczos(B, num_steps=3, rng=0)
    with pytest.raises(CheckpointError, match="its product 3 is asked for with"):
        hessops.trace(B, num_probes=2, rng=0)


def test_an_adjoint_is_not_a_product(tmp_path):
    matrix, x = normal(0, (N, N)), np.ones(N)
    _ = checkpointed(matrix, tmp_path) @ x
    with pytest.raises(
        CheckpointError, match="for the adjoint product and was recorded of the prod"
    ):
        checkpointed(matrix, tmp_path).apply_adjoint(x)


def test_terms_are_not_exchanged(tmp_path):
    parts = [hessops.aslinearoperator(with_spectrum(np.linspace(0, i + 1, N), i)) for i in range(3)]
    x = np.ones(N)
    for term in checkpointed(FiniteSum(parts), tmp_path).terms():
        _ = term @ x
    second = list(checkpointed(FiniteSum(parts), tmp_path).terms())[1]
    with pytest.raises(
        CheckpointError, match="for the product of term 1 and was recorded of the prod"
    ):
        _ = second @ x
    # The same sum, but its batches in another order.
    first, *_ = checkpointed(FiniteSum(parts[::-1]), tmp_path).terms()
    with pytest.raises(
        CheckpointError, match="another operator: the product of term 0 with a fixed"
    ):
        _ = first @ x


def test_what_is_known_to_have_changed_is_said(folder, monkeypatch):
    header = folder / "checkpoint.json"
    document = json.loads(header.read_text())
    document["made with"]["NumPy"] = "1.0"
    header.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"have changed \(NumPy 1\.0 is now 2"):
        resumed(folder, rng=3)


# Another operator.


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_another_matrix(folder, size):
    other = MATRIX + size * np.eye(N)
    with pytest.raises(
        CheckpointError, match=r"of another operator: the product with a fixed vector"
    ):
        resumed(folder, other)


def test_rounding_is_not_another_operator(folder):
    assert resumed(folder, MATRIX * (1 + 1e-15)).num_products == 5


def test_the_network_was_trained_in_between(tmp_path):
    torch = pytest.importorskip("torch")
    hessops_torch = pytest.importorskip("hessops_torch")
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    H = hessops_torch.hessian(model, torch.nn.CrossEntropyLoss(), data)
    hessops.lanczos(checkpointed(H, tmp_path), num_steps=3, rng=0)
    assert hessops.lanczos(checkpointed(H, tmp_path), num_steps=3, rng=0).num_products == 3
    with torch.no_grad():
        model.weight += 0.05 * torch.randn_like(model.weight)
    with pytest.raises(CheckpointError, match="its weights, data or code have changed"):
        hessops.lanczos(checkpointed(H, tmp_path), num_steps=3, rng=0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (MATRIX.astype("float32"), r'dtype "float64" and "float32" differ'),
        (MATRIX[:9, :9], r"shape \[20, 20\] and \[9, 9\] differ"),
        (normal(0, (N, N)), r'structure "self-adjoint" and "general" differ'),
    ],
)
def test_another_kind_of_operator(folder, other, words):
    with pytest.raises(CheckpointError, match=words):
        checkpointed(other, folder)


@pytest.mark.skipif("torch" not in LIBRARIES, reason="needs PyTorch")
def test_half_precision_cannot_be_recorded(tmp_path):
    place = Place("torch", "float32")

    class Half(LinearOperator):
        def _apply(self, X):
            return X.bfloat16()

    A = checkpointed(Half(ArraySpace(3, place.dtype_object, place.xp)), tmp_path)
    with pytest.raises(
        TypeError, match=r"is bfloat16, which is half precision .* to float32 in the"
    ):
        A @ place.put(np.ones(3))


# Damage.


def test_a_damaged_file_says_where_the_record_ends(folder):
    path = folder / "00000003.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        CheckpointError, match=r"00000003\.npz is damaged .* delete it and the files"
    ):
        resumed(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"00000003\.npz is missing, and so the record ends"):
        resumed(folder)
    (folder / "00000004.npz").unlink()
    again = checkpointed(MATRIX, folder)
    hessops.lanczos(again, num_steps=5, rng=0)
    assert (again.num_replayed, again.num_made) == (3, 2)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    x = np.ones(N)
    product = checkpointed(MATRIX, tmp_path) @ x
    path = tmp_path / "00000000.npz"
    content = path.read_bytes()
    noticed = 0
    for place in range(0, 8 * len(content), 37):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = Entry.read(path)
        except CheckpointError:
            noticed += 1
        else:
            # A bit that means nothing, such as those of the time in the archive.
            assert np.array_equal(found.product[:, 0], product)
    assert noticed > 100


def test_a_damaged_header(folder):
    (folder / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged .*restart=True"):
        checkpointed(MATRIX, folder)
    assert checkpointed(MATRIX, folder, restart=True).num_recorded == 0


def test_a_later_version(folder):
    header = folder / "checkpoint.json"
    header.write_text(header.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="later version of hessops; upgrade"):
        checkpointed(MATRIX, folder)


# The folder.


def test_a_folder_that_is_used_for_something_else(folder):
    (folder / "checkpoint.json").unlink()
    for restart in (False, True):
        with pytest.raises(
            CheckpointError, match=r"holds 00000000\.npz, .* new or an empty folder"
        ):
            checkpointed(MATRIX, folder, restart=restart)
    assert len(list(folder.glob("*.npz"))) == 5


def test_a_path_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"run is a file, and a record .* needs a folder"):
        checkpointed(MATRIX, tmp_path / "run")
    with pytest.raises(
        NotADirectoryError, match=r"cannot keep a record of products in .*run/deep: Not"
    ):
        checkpointed(MATRIX, tmp_path / "run" / "deep")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        PermissionError, match="Permission denied; name a folder that can be written"
    ):
        checkpointed(MATRIX, tmp_path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the root user may write anywhere"
)
def test_a_read_only_folder(tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(
        PermissionError, match="Permission denied; name a folder that can be written"
    ):
        checkpointed(MATRIX, tmp_path / "run")


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:  # two products, and their names in the folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    A = checkpointed(MATRIX, tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device\. Those recorded before are kept"):
        hessops.lanczos(A, num_steps=5, rng=0)
    monkeypatch.undo()
    assert_two_are_kept(tmp_path)


def test_a_file_that_grows_too_large(tmp_path):
    """A real refusal, in the middle of a file."""
    resource = pytest.importorskip("resource")
    A = checkpointed(MATRIX, tmp_path)
    hessops.lanczos(A, num_steps=2, rng=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            A @ np.ones(N)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_two_are_kept(tmp_path)


def assert_two_are_kept(folder):
    names = {"lock", "checkpoint.json", "00000000.npz", "00000001.npz"}
    assert {path.name for path in folder.iterdir()} == names
    A = checkpointed(MATRIX, folder)
    found = hessops.lanczos(A, num_steps=5, rng=0)
    assert A.num_replayed == 2
    assert np.array_equal(found.alphas, hessops.lanczos(MATRIX, num_steps=5, rng=0).alphas)


# Two at a time.

HOLD = """
import sys, time, numpy, hessops
A = hessops.checkpointed(numpy.eye(3), sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_another_process_is_refused_as_long_as_this_one_lives(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            CheckpointError, match=f"in use by process {holder.pid} on .* wait for it"
        ):
            checkpointed(np.eye(3), tmp_path)
    finally:
        holder.kill()
        holder.communicate(timeout=30)
    # It left its name behind, but it is dead.
    assert str(holder.pid) in (tmp_path / "lock").read_text()
    assert checkpointed(np.eye(3), tmp_path).num_recorded == 0


def test_a_file_system_without_locks_goes_by_the_process(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    lock, host = tmp_path / "lock", folder_lock.socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.communicate(timeout=30)
    for pid, where, refused in [
        (dead.pid, host, False),
        (os.getpid(), host, False),
        (os.getppid(), host, True),
        (dead.pid, "another", True),
    ]:
        lock.write_text(json.dumps({"pid": pid, "host": where}))
        if refused:
            with pytest.raises(CheckpointError, match=f"if that process is gone, delete {lock}"):
                checkpointed(np.eye(3), tmp_path)
        else:
            checkpointed(np.eye(3), tmp_path)
        gc.collect()
    lock.write_text("half a na")
    checkpointed(np.eye(3), tmp_path)


def test_to_open_it_again_in_this_process_is_to_begin_anew(folder):
    older = checkpointed(MATRIX, folder)
    newer = checkpointed(MATRIX, folder / ".." / folder.name)
    with pytest.raises(CheckpointError, match="opened again since, by a later checkpointed"):
        hessops.lanczos(older, num_steps=5, rng=0)
    assert hessops.lanczos(newer, num_steps=5, rng=0).num_products == 5


def test_the_folder_is_free_once_the_operator_is_gone(tmp_path):
    A = checkpointed(MATRIX, tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    del A
    gc.collect()
    assert (tmp_path / "lock").read_text() == ""


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_cannot_be_copied(folder, take):
    A = checkpointed(MATRIX, folder)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        take(A)
    assert np.array_equal(copy.deepcopy(A.operator).to_dense(), MATRIX)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_is_another_process(tmp_path):
    program = (
        "import os, sys, numpy, hessops\n"
        "A = hessops.checkpointed(numpy.eye(3), sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        A @ numpy.ones(3)\n"
        "    except hessops.CheckpointError as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "A @ numpy.ones(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "from which this one was forked: give this one a folder of its own" in done.stdout
    assert [path.name for path in Path(tmp_path).glob("0*")] == ["00000000.npz"]


# Sketches.


@given(st.sampled_from(["float32", "float64", "complex64", "complex128"]), st.integers(0, 10**6))
def test_sketches_tell_rounding_from_differences(dtype, seed):
    place = Place("numpy", dtype)
    n = 50
    sketcher = Sketcher(ArraySpace(n, place.dtype_object))
    X = normal(seed, (n, 2), dtype)
    sketch = sketcher.sketch(X)
    rounded = X * (1 + place.eps * normal(seed + 1, (n, 2)) / 2).astype(dtype)
    assert deviations(sketcher.sketch(rounded), sketch).max() <= sketcher.rounding()
    # Of three numbers that are normal, relative to the change, all would have to be small at once.
    changed = X + 1e4 * place.eps * normal(seed + 2, (n, 2), dtype)
    assert deviations(sketcher.sketch(changed), sketch).max() > sketcher.rounding()


@pytest.mark.parametrize("library", LIBRARIES)
def test_sketches_do_not_depend_on_the_library(library):
    place = Place(library, "float64")
    X = normal(0, (30, 3))
    found = Sketcher(ArraySpace(30, xp=place.xp)).sketch(place.put(X))
    assert deviations(found, Sketcher(ArraySpace(30)).sketch(X)).max() < 1e-14
    assert found.shape == to_numpy(found).shape == (3, 3)


def test_sketches_of_nothing_and_of_what_is_not_finite():
    sketcher = Sketcher(ArraySpace(4))
    other = sketcher.sketch(normal(0, (4, 1)))
    for special in (0.0, np.nan, np.inf, 1e200, 1e-200):
        X = np.full((4, 1), special)
        sketch = sketcher.sketch(X)
        assert deviations(sketcher.sketch(X), sketch).tolist() == [0.0]
        assert deviations(other, sketch)[0] > 0.1
        assert deviations(sketch, other)[0] > 0.1
    assert deviations(sketcher.sketch(np.ones((4, 0))), np.ones((3, 0))).shape == (0,)

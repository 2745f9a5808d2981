"""Results: frozen, readable, saved and loaded without pickle."""

import dataclasses
import json
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIBRARIES, Place, normal, with_spectrum

import hessops
from hessops import ArraySpace, ConvergenceError, ConvergenceWarning, Identity, aslinearoperator
from hessops.arrays import to_numpy
from hessops.operators.elementary import MatrixOperator
from hessops.record import History
from hessops.result import Estimate, Interval, Result, load
from hessops.structure import SELF_ADJOINT

N = 12
MATRIX = with_spectrum(np.linspace(-1.0, 5.0, N))
SECTIONS = {"layer.weight": (0, 8), "layer/bias": (8, N)}


def operator(library="numpy"):
    place = Place(library, "float64")
    space = ArraySpace(N, place.dtype_object, place.xp, sections=SECTIONS)
    return MatrixOperator(place.put(MATRIX), space, space, structure=SELF_ADJOINT)


def positive(A):
    """Return A + 2 as an operator that is declared positive semidefinite."""
    return aslinearoperator(A + 2.0 * Identity(A.domain), positive_semidefinite=True)


def vectors(A):
    return A.domain.unit_vectors(0, 2)


MAKE = {
    "ConditionNumberResult": lambda A: hessops.condition_number(positive(A), rng=0),
    "EigenvalueCountResult": lambda A: hessops.eigenvalue_count(A, (0.0, 2.0), rng=0),
    "FrobeniusNormResult": lambda A: hessops.frobenius_norm(A, num_probes=4, rng=0),
    "LinearSolveResult": lambda A: hessops.cg(positive(A), vectors(A)),
    "LowRankEigen": lambda A: hessops.randomized_eigh(A, 2, rng=0),
    "LowRankSVD": lambda A: hessops.randomized_svd(A, 2, rng=0),
    "MatrixFunctionResult": lambda A: hessops.matrix_function(A, "exp", vectors(A)),
    "NystromResult": lambda A: hessops.nystrom(positive(A), 3, rng=0),
    "SchattenNormResult": lambda A: hessops.schatten_norm(A, 2, num_steps=N, rng=0),
    "SpectralNormResult": lambda A: hessops.spectral_norm(A, rng=0),
    "TraceFunctionResult": lambda A: hessops.logdet(positive(A), num_steps=N, rng=0),
    "TraceResult": lambda A: hessops.trace(A, num_probes=4, rng=0),
    "DiagonalResult": lambda A: hessops.diagonal(A, num_probes=4, rng=0),
    "LanczosResult": lambda A: hessops.lanczos(A, num_steps=4, rng=0),
    "EigenResult": lambda A: hessops.eigsh(A, 2, rng=0),
    "SingularResult": lambda A: hessops.svds(A, 2, rng=0),
    "SpectralDensity": lambda A: hessops.spectral_density(A, num_probes=3, num_steps=4, rng=0),
    "Spectrum": lambda A: hessops.spectrum(A, budget=20, rng=0),
    "DeflatedDensity": lambda A: hessops.spectrum(A, budget=20, rng=0).density,
}
ENDINGS = {
    **MAKE,
    "trace of one probe": lambda A: hessops.trace(A, num_probes=1, rng=0),
    "trace of a sum": lambda A: hessops.trace(A + A, num_probes=2, rng=0),
    "trace with a control": lambda A: hessops.trace(A, control=(A, None), rng=0),
    "diagonal with a control": lambda A: hessops.diagonal(A, control=(A, None), rng=0),
    "preconditioned": lambda A: hessops.lobpcg(positive(A), 2, preconditioner=positive(A), rng=0),
    "diagonal of a sum": lambda A: hessops.diagonal(A + A, num_probes=3, rng=0),
    "diagonal of one probe": lambda A: hessops.diagonal(A, num_probes=1, rng=0),
    "lanczos without basis": lambda A: hessops.lanczos(
        A, num_steps=4, reorthogonalize=False, rng=0
    ),
    "power iteration": lambda A: hessops.power_iteration(A, rng=0),
    "density of one probe": lambda A: hessops.spectral_density(A, num_probes=1, num_steps=3, rng=0),
}
NOT_RANDOM = {"LinearSolveResult", "MatrixFunctionResult"}
every_ending = pytest.mark.parametrize("name", ENDINGS)


def failed_result():
    with pytest.warns(ConvergenceWarning, match="of 1 eigenpairs converged in 1 step:"):
        return hessops.power_iteration(operator(), max_steps=1, tol=1e-12, rng=0)


def assert_same(found, expected):
    """Equal in value and, but for the library of arrays, in type."""
    if dataclasses.is_dataclass(expected):
        assert type(found) is type(expected)
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif hasattr(expected, "shape"):
        assert isinstance(found, np.ndarray)
        assert found.dtype == to_numpy(expected).dtype
        assert np.array_equal(found, to_numpy(expected), equal_nan=found.dtype.kind in "fc")
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found)
    else:
        assert type(found) is type(expected)
        assert found == expected


def test_every_kind_of_result_has_an_example_here():
    core = {name for name, kind in Result.kinds.items() if kind.__module__.startswith("hessops.")}
    assert core == set(MAKE)


@every_ending
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_saved_is_loaded(name, library, tmp_path):
    result = ENDINGS[name](operator(library))
    assert_same(load(result.save(tmp_path / "result")), result)


@every_ending
def test_files_hold_no_pickle(name, tmp_path):
    path = ENDINGS[name](operator()).save(tmp_path / "result.npz")
    with np.load(path, allow_pickle=False) as archive:
        document = json.loads(str(archive["document"]))
        assert all(archive[entry].dtype != object for entry in archive.files)
    assert document["format"] == 1


def test_a_loaded_result_can_be_saved_again(tmp_path):
    once = load(MAKE["TraceResult"](operator()).save(tmp_path / "once"))
    assert_same(load(once.save(tmp_path / "twice")), once)


def test_the_suffix_is_appended_where_it_is_missing(tmp_path):
    result = MAKE["TraceResult"](operator())
    assert result.save(tmp_path / "run") == tmp_path / "run.npz"
    assert result.save(str(tmp_path / "run.v2")) == tmp_path / "run.v2.npz"
    assert result.save(tmp_path / "run.npz") == tmp_path / "run.npz"


@pytest.mark.parametrize("name", ["run", "run.npz", "run.v2"])
def test_load_finds_what_save_wrote_by_the_name_that_save_was_given(name, tmp_path):
    result = MAKE["TraceResult"](operator())
    result.save(tmp_path / name)
    assert_same(load(tmp_path / name), result)
    assert_same(load(str(tmp_path / name)), result)


def test_a_file_that_was_renamed_is_loaded_by_the_name_it_has(tmp_path):
    result = MAKE["TraceResult"](operator())
    result.save(tmp_path / "run").rename(tmp_path / "kept")
    assert_same(load(tmp_path / "kept"), result)


def test_saving_again_replaces_the_file_and_leaves_no_other(tmp_path):
    first, second = (hessops.trace(MATRIX, num_probes=4, rng=seed) for seed in (0, 1))
    first.save(tmp_path / "run")
    second.save(tmp_path / "run")
    assert_same(load(tmp_path / "run"), second)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_a_file_is_kept_where_saving_fails(tmp_path, monkeypatch):
    first, second = (hessops.trace(MATRIX, num_probes=4, rng=seed) for seed in (0, 1))
    first.save(tmp_path / "run")

    def fail(file, **arrays):
        file.write(b"half an archive")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space left"):
        second.save(tmp_path / "run")
    assert_same(load(tmp_path / "run"), first)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_complex_eigenvectors_are_saved(tmp_path):
    result = hessops.eigsh(with_spectrum(np.arange(8.0), dtype="complex128"), 2, rng=0)
    assert_same(load(result.save(tmp_path / "complex")), result)


def _write(path, **document):
    np.savez(path, document=np.array(json.dumps(document)))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.savez(path, x=np.ones(3)), "not written by hessops: .*'document'"),
        (lambda path: np.save(path.with_suffix(".npy"), 1.0) or path.with_suffix(".npy").rename(path),
         "not written by hessops"),
        (lambda path: path.write_bytes(b""), "not written by hessops"),
        (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "not written by hessops"),
        (lambda path: path.write_text("no archive"), "not written by hessops"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "not written by hessops"),
        (lambda path: np.savez(path, document=np.array("no json")), "not written by hessops"),
        (lambda path: _write(path, kind="TraceResult", fields={}), "not written by hessops"),
        (lambda path: _write(path, format=99, kind="TraceResult", fields={}), "by a later version"),
        (lambda path: _write(path, format=1, kind="Unheard", fields={}), "holds a 'Unheard'.*import"),
    ],
)  # fmt: skip
def test_files_that_are_no_results_are_refused(write, message, tmp_path):
    path = tmp_path / "file.npz"
    write(path)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    for name in ("nothing.npz", "nothing"):
        with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
            load(tmp_path / name)


@every_ending
def test_a_result_prints_as_readable_text(name):
    text = str(ENDINGS[name](operator()))
    first, *rest = text.splitlines()
    assert 20 < len(first) <= 250
    assert len(rest) <= (20 if name == "Spectrum" else 2)  # a table of all that it knows
    assert re.search(r" products?, ", first)
    assert "array(" not in text
    assert "object at" not in text


def test_the_texts_say_what_was_found():
    A = operator()
    assert str(MAKE["TraceResult"](A)).startswith("trace = ")
    assert "4 rademacher probes" in str(MAKE["TraceResult"](A))
    assert str(MAKE["DiagonalResult"](A)).startswith("diagonal of 12 entries, norm ")
    assert str(MAKE["LanczosResult"](A)).startswith("Lanczos: 4 steps, Ritz values in [")
    assert str(MAKE["EigenResult"](A)).startswith("2 eigenpairs (")
    assert "5   residual" in str(MAKE["EigenResult"](A))
    assert str(MAKE["SpectralDensity"](A)).startswith("spectral density of 12 eigenvalues: ")


@every_ending
def test_every_result_has_the_names_that_users_rely_on(name):
    result = ENDINGS[name](operator())
    assert isinstance(result.num_products, int)
    assert result.num_products > 0
    assert isinstance(result.status, str)
    assert len(result.status) > 10
    assert result.converged is True
    assert isinstance(result.history, History)
    assert result.seed == (None if name in NOT_RANDOM else 0)
    assert result.seconds >= 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.seed = 1


@every_ending
def test_the_report_dictionary_is_plain_and_small(name):
    result = ENDINGS[name](operator())
    document = json.loads(json.dumps(result.to_dict()))
    assert document["status"] == result.status
    assert "history" not in document
    assert not {"eigenvectors", "basis", "values", "standard_errors"} & set(document)


VERBS = {
    "trace": (hessops.trace, "value"),
    "diagonal": (hessops.diagonal, "values"),
    "lanczos": (lambda A, **options: hessops.lanczos(A, num_steps=5, **options), "alphas"),
    "eigsh": (lambda A, **options: hessops.eigsh(A, 2, **options), "eigenvalues"),
    "power_iteration": (hessops.power_iteration, "eigenvectors"),
    "spectral_density": (hessops.spectral_density, "nodes"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_seed_of_a_result_repeats_it(verb):
    run, value = VERBS[verb]
    # Unseeded, so that the seed in the result is the only way back.
    once = run(operator())
    again = run(operator(), rng=once.seed)
    assert again.seed == once.seed
    assert np.array_equal(getattr(once, value), getattr(again, value))
    generator = np.random.default_rng(3)
    assert run(operator(), rng=generator).seed != run(operator(), rng=generator).seed


def test_raise_if_failed_returns_or_raises_the_status():
    good = MAKE["EigenResult"](operator())
    assert good.raise_if_failed() is good
    bad = failed_result()
    assert not bad.converged
    with pytest.raises(ConvergenceError, match="raise max_steps, block_size or tol"):
        bad.raise_if_failed()


def test_a_failed_result_is_saved_as_failed(tmp_path):
    bad = failed_result()
    assert_same(load(bad.save(tmp_path / "bad")), bad)


def test_the_history_is_a_table():
    history = hessops.lanczos(operator(), num_steps=3, rng=0).history
    assert len(history) == 3
    assert history["step"].tolist() == [1, 2, 3]
    assert history["num_products"].tolist() == [1, 2, 3]
    assert [row["step"] for row in history] == [1, 2, 3]
    assert list(history.to_dict()) == list(History.columns)
    assert np.all(np.diff(history["seconds"]) >= 0)
    header, *rows = str(history).splitlines()
    names = ["step", "products", "estimate", "error", "seconds"]
    assert header.split() == [*names, "orthogonality"]
    assert len(rows) == 3
    assert all(len(row.split()) == 6 for row in rows)
    # Where there is no basis, there is no such column to read.
    other = hessops.trace(operator(), num_probes=2, rng=0).history
    assert np.all(np.isnan(other["orthogonality"]))
    assert str(other).splitlines()[0].split() == names
    assert repr(history) == "History(3 steps)"
    with pytest.raises(KeyError, match="no column 'time'; there are step, num_products, estimate"):
        history["time"]


def test_a_history_of_before_there_was_orthogonality_is_read():
    old = {name: np.array([1.0, 2.0]) for name in History.columns[:5]}
    history = History.from_dict(old)
    assert history["seconds"].tolist() == [1, 2]
    assert np.all(np.isnan(history["orthogonality"]))
    del old["error"]
    with pytest.raises(KeyError, match="a history needs the columns error"):
        History.from_dict(old)


numbers = st.floats(allow_infinity=True, allow_nan=True)
rows = st.tuples(st.integers(0, 9), st.integers(0, 9), numbers, numbers, numbers)


@given(st.lists(rows, max_size=4))
def test_a_history_survives_its_dictionary(records):
    history = History(records)
    again = History.from_dict(history.to_dict())
    assert again == history
    assert str(again) == str(history)
    assert (history == History([*records, (1, 1, 0.0, 0.0, 0.0)])) is False
    assert (history == "a history") is False


@given(numbers, numbers)
def test_an_estimate_is_its_value_as_a_number(value, error):
    estimate = Estimate(value=value, standard_error=error, freedom=7)
    assert np.array_equal(float(estimate), value, equal_nan=True)
    assert np.array_equal(np.asarray(estimate), np.asarray(value), equal_nan=True)
    shown = str(estimate)
    assert re.fullmatch(r"[^±]+ ± [^±]+|\([^±]+ ± [^±]+\)e[+-]\d+", shown)
    assert shown.endswith("unknown") == (not math.isfinite(error))


def test_an_estimate_of_many_is_its_values_as_an_array():
    values, errors = normal(0, (5,)), np.ones(5)
    estimate = Estimate(value=values, standard_error=errors, freedom=7)
    assert np.array_equal(np.asarray(estimate), values)
    assert np.asarray(estimate, dtype=np.float32).dtype == np.float32
    assert np.sum(estimate) == np.sum(values)
    copied = np.array(estimate)
    copied[0] = 7.0
    assert values[0] != 7.0


def test_an_interval_has_two_ends():
    low, high = Interval(1.0, 2.0)
    assert (low, high) == (1.0, 2.0)
    assert Interval(1.0, 2.0)._asdict() == {"low": 1.0, "high": 2.0}


def test_a_dictionary_for_strict_json():
    # One probe leaves the error unknown and the interval infinite: JSON knows neither.
    plain = hessops.trace(MATRIX, num_probes=1, rng=0).to_dict()
    json.dumps(plain, allow_nan=False)
    assert plain["standard_error"] is None
    assert plain["interval"] == {"low": None, "high": None}
    assert plain["value"] == pytest.approx(hessops.trace(MATRIX, num_probes=1, rng=0).value)


@pytest.mark.parametrize(
    ("name", "written"),
    [("a", "a.npz"), ("a.npz", "a.npz"), ("a.NPZ", "a.NPZ"), (".npz", ".npz"), ("a.b", "a.b.npz")],
)
def test_the_suffix_is_added_where_it_is_missing(tmp_path, name, written):
    result = hessops.trace(MATRIX, num_probes=2, rng=0)
    assert result.save(tmp_path / name).name == written
    assert load(tmp_path / name).value == result.value


@pytest.mark.parametrize("name", [".", "..", "/", ""])
def test_names_of_no_file(name):
    with pytest.raises(ValueError, match="names no file: give one in that folder"):
        hessops.trace(MATRIX, num_probes=2, rng=0).save(name)


def test_damaged_files_are_said_to_be_so(tmp_path):
    good = hessops.trace(MATRIX, num_probes=2, rng=0).save(tmp_path / "good").read_bytes()
    documents = ["[1]", '"a"', '{"format": "x", "kind": "TraceResult", "fields": {}}']
    documents += ['{"format": 1, "kind": "TraceResult", "fields": []}']
    documents += ['{"format": 1, "kind": [], "fields": {}}']
    for document in documents:
        np.savez(tmp_path / "odd.npz", document=np.array(document))
        with pytest.raises(ValueError, match=r"odd\.npz (was not written by|holds)"):
            load(tmp_path / "odd.npz")
    rng = np.random.default_rng(0)
    for trial in range(200):
        content = bytearray(good)
        for place in rng.integers(len(good), size=3):
            content[place] = rng.integers(256)
        if trial % 4 == 0:
            del content[rng.integers(len(good)) :]
        (tmp_path / "odd.npz").write_bytes(bytes(content))
        try:
            load(tmp_path / "odd.npz")  # not every byte counts
        except ValueError as error:
            assert "odd.npz" in str(error)  # noqa: PT017 - whether it raises is not the question

"""A run that is cut off and resumed is the run that was not: for every verb, bit for bit.

The cuts are exceptions here, as many as one likes; `test_checkpoint_kills` has real kills, and
`test_checkpoint_refusals` what is refused.
"""

import dataclasses
import inspect
import math
import os
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import pytest
import scipy.sparse.linalg
from doubles import ShardedMatrix, gathered, run_on_ranks, splits
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import LIBRARIES, PLACES, Place, norm, normal, with_spectrum

import hessops
from hessops import Checkpointed, CheckpointError, FiniteSum, LinearOperator, checkpointed
from hessops.algorithms.trace.xdiag import xdiag_steps
from hessops.array_space import ArraySpace
from hessops.arrays import is_array, to_numpy
from hessops.checkpoint.entry import Entry, as_stored
from hessops.random import Purpose, Stream
from hessops.record import History

N = 20
SPECTRUM = np.concatenate([[9.0, 5.0, 5.0], np.linspace(0.5, 2.0, N - 3)])
DEFINITE = with_spectrum(SPECTRUM, 0)
GENERAL = normal(1, (N, N - 4))
PARTS = [with_spectrum(SPECTRUM + i, i) for i in range(3)]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    # Thousands of products are written here, and no power fails.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class PowerCutError(Exception):
    """The power went."""


class Failing(LinearOperator):
    """An operator, its terms included, that multiplies as often as `allowed` and then is cut off."""

    def __init__(self, operator, allowed=math.inf, shared=None):
        super().__init__(operator.domain, operator.codomain, structure=operator.structure)
        self.operator = operator
        self.num_samples = operator.num_samples
        self.shared = {"left": allowed, "made": 0} if shared is None else shared

    @property
    def made(self):
        return self.shared["made"]

    def terms(self):
        for term in self.operator.terms():
            yield self if term is self.operator else Failing(term, shared=self.shared)

    def _apply(self, X):
        return self._counted(self.operator.apply, X)

    def _apply_adjoint(self, X):
        return self._counted(self.operator.apply_adjoint, X)

    def _counted(self, multiply, X):
        if self.shared["left"] == 0:
            raise PowerCutError
        self.shared["left"] -= 1
        self.shared["made"] += 1
        return multiply(X)


def assert_same(found, expected):
    """Assert that two results are the same to the last bit, but for their seconds."""
    assert type(found) is type(expected)
    if is_array(found):
        ours, theirs = to_numpy(found), to_numpy(expected)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()
    elif isinstance(found, float):
        assert_same(np.array(found), np.array(expected))
    elif (parts := parts_of(found)) is None:
        assert found == expected
    else:
        others = parts_of(expected)
        assert list(parts) == list(others)
        for name, part in parts.items():
            assert_same(part, others[name])


def parts_of(thing):
    """Return the named parts of what has parts, without its seconds."""
    if isinstance(thing, LinearOperator):
        return {"matrix": thing.to_dense()}
    if isinstance(thing, History):
        thing = thing.to_dict()
    elif dataclasses.is_dataclass(thing):
        thing = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    elif isinstance(thing, tuple | list):
        thing = dict(enumerate(thing))
    if not isinstance(thing, Mapping):
        return None
    return {name: part for name, part in thing.items() if name != "seconds"}


def run_in_pieces(verb, operator, folder, lives):
    """Run a verb that is cut off after each of so many products, and then to its end."""
    made = 0
    for allowed in lives:
        failing = Failing(operator, allowed)
        with suppress(PowerCutError):
            verb(checkpointed(failing, folder))
        made += failing.made
    last = Failing(operator)
    A = checkpointed(last, folder)
    return verb(A), A, made + last.made


def vector(like):
    return like.xp.asarray(normal(7, (like.shape[0],)), dtype=like.dtype)


def control(A):
    B = hessops.Diagonal(np.ascontiguousarray(np.diag(DEFINITE)))
    return hessops.trace(A, control=(B, float(np.trace(DEFINITE))), max_products=9, rng=1)


def solved_by_inverse(A):
    inverse = hessops.inverse(A, method="minres")
    return inverse @ vector(A), inverse.num_solver_products


def xdiag(A):
    stream = Stream(0, Purpose.DIAGONAL)
    return list(xdiag_steps(A, stream=stream, num_probes=8, block_size=3))


def twice(A):
    return hessops.eigsh(A, 2, rng=0), hessops.trace(A, num_probes=4, rng=1)


TRACES = {
    f"trace, {method}": (
        lambda A, method=method: hessops.trace(
            A, method=method, max_products=None if method == "exact" else 12, block_size=3, rng=1
        )
    )
    for method in ("auto", "exact", "hutchinson", "hutchpp", "na-hutchpp", "xtrace", "xnystrace")
}
VERBS = {
    **TRACES,
    "trace to a tolerance": lambda A: hessops.trace(A, method="hutchinson", rtol=0.05, rng=1),
    "trace with a control": control,
    "power_iteration": lambda A: hessops.power_iteration(A, num_eigenpairs=2, tol=1e-5, rng=0),
    "power_iteration, deflated": lambda A: hessops.power_iteration(
        A, num_eigenpairs=2, method="deflated", tol=1e-3, rng=0
    ),
    "eigsh": lambda A: hessops.eigsh(A, 3, check_completeness=True, rng=0),
    "eigsh, restarted": lambda A: hessops.eigsh(A, 2, max_basis=8, which="LA", tol=1e-4, rng=0),
    "lobpcg": lambda A: hessops.lobpcg(A, 2, tol=1e-3, rng=0),
    "spectrum": lambda A: hessops.spectrum(A, budget=12, num_probes=2, rng=0),
    "lanczos": lambda A: hessops.lanczos(A, num_steps=7, rng=0),
    "lanczos, partial": lambda A: hessops.lanczos(A, num_steps=7, reorthogonalize="partial", rng=0),
    "spectral_density": lambda A: hessops.spectral_density(A, num_probes=2, num_steps=6, rng=0),
    "diagonal": lambda A: hessops.diagonal(A, num_probes=5, rng=0),
    "xdiag": xdiag,
    "trace_function": lambda A: hessops.trace_function(
        A, "exp", num_probes=4, num_steps=6, block_size=2, rng=0
    ),
    "logdet to a tolerance": lambda A: hessops.logdet(A, rtol=0.3, num_probes=30, rng=0),
    "trace_inverse": lambda A: hessops.trace_inverse(A, num_probes=3, num_steps=6, rng=0),
    "estrada_index": lambda A: hessops.estrada_index(A, num_probes=3, num_steps=6, rng=0),
    "effective_dimension": lambda A: hessops.effective_dimension(
        A, 0.5, num_probes=3, num_steps=6, rng=0
    ),
    "frobenius_norm": lambda A: hessops.frobenius_norm(A, num_probes=6, rng=0),
    "spectral_norm": lambda A: hessops.spectral_norm(A, rng=0),
    "schatten_norm": lambda A: hessops.schatten_norm(A, 3, num_probes=3, num_steps=5, rng=0),
    "nuclear_norm": lambda A: hessops.nuclear_norm(A, num_probes=3, num_steps=5, rng=0),
    "eigenvalue_count": lambda A: hessops.eigenvalue_count(
        A, (1.0, 6.0), num_probes=3, num_steps=8, rng=0
    ),
    "numerical_rank": lambda A: hessops.numerical_rank(A, 1.0, num_probes=3, num_steps=8, rng=0),
    "condition_number": lambda A: hessops.condition_number(A, rng=0),
    "matrix_function": lambda A: hessops.matrix_function(A, "sqrt", vector(A)),
    "cg": lambda A: hessops.cg(A, vector(A)),
    "minres": lambda A: hessops.minres(A, vector(A)),
    "inverse": solved_by_inverse,
    "randomized_eigh": lambda A: hessops.randomized_eigh(A, 3, rng=0),
    "nystrom": lambda A: hessops.nystrom(A, 4, rng=0),
    "nystrom_preconditioner": lambda A: hessops.nystrom_preconditioner(A, 4, 0.1, rng=0),
    "check_operator": lambda A: hessops.check_operator(A, rng=0).checks,
    "two verbs": twice,
}
RECTANGULAR = {
    "svds": lambda A: hessops.svds(A, 2, tol=1e-3, rng=0),
    "randomized_svd": lambda A: hessops.randomized_svd(A, 3, rng=0),
    "randomized_svd to a tolerance": lambda A: hessops.randomized_svd(A, tol=2.0, rng=0),
    "spectral_norm": lambda A: hessops.spectral_norm(A, rng=0),
    "frobenius_norm": lambda A: hessops.frobenius_norm(A, num_probes=6, rng=0),
    "nuclear_norm": lambda A: hessops.nuclear_norm(A, num_probes=3, num_steps=5, rng=0),
    "numerical_rank": lambda A: hessops.numerical_rank(A, 1.0, num_probes=3, num_steps=8, rng=0),
    "algebra": lambda A: hessops.eigsh(A.H @ A - hessops.Identity(A.shape[1]), 2, rng=0),
}
OF_SUMS = {
    "trace of a sum": lambda A: hessops.trace(A, num_probes=4, rng=0),
    "trace of a sum as a whole": lambda A: hessops.trace(
        A, method="hutchinson", num_probes=4, stratify=False, rng=0
    ),
    "diagonal of a sum": lambda A: hessops.diagonal(A, num_probes=3, rng=0),
    "trace of a shifted sum": lambda A: hessops.trace(
        3 * A - hessops.Identity(A.shape[0]), num_probes=4, rng=0
    ),
    "eigsh and trace of a sum": twice,
}
# The first tried is the first of these.
lives = st.lists(st.sampled_from([7, 3, *range(31)]), min_size=1, max_size=3)
few = settings(max_examples=max(settings.default.max_examples // 10, 1))

pytestmark = pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")


def definite():
    return hessops.aslinearoperator(DEFINITE, positive_semidefinite=True)


def assert_resumes(verb, operator, folder, cuts):
    """Cut off, resumed and run again: the same as without, and every product made once."""
    counting = Failing(operator)
    plain = verb(counting)
    found, A, made = run_in_pieces(verb, operator, folder, cuts)
    assert_same(found, plain)
    assert A.num_recorded == A.num_replayed + A.num_made == counting.made
    again, B, kinds = run_in_pieces(verb, operator, folder, [])
    assert_same(again, plain)
    assert (B.num_made, B.num_replayed) == (0, counting.made)
    # In every process one product more of each kind: the whole, its adjoint, the terms.
    assert counting.made + min(kinds, 1) <= made <= counting.made + (len(cuts) + 1) * kinds


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_resumes(name, tmp_path_factory):
    @few
    @given(lives)
    def resumes(cuts):
        assert_resumes(VERBS[name], definite(), tmp_path_factory.mktemp("run"), cuts)

    resumes()


def test_every_verb_there_is_is_tested():
    """Whatever is new in hessops belongs into the lists above, unless it multiplies with nothing."""
    without = {
        "aslinearoperator",
        "to_scipy",
        "checkpointed",
        "data_parallel",
        "gathered",
        "load",
        "sharded",
    }
    views = {"kernel_polynomial", "haydock", "cdf_band", "wasserstein"}
    functions = {name for name in hessops.__all__ if inspect.isfunction(getattr(hessops, name))}
    tested = {name.partition(",")[0].partition(" ")[0] for name in [*VERBS, *RECTANGULAR]}
    assert functions - without - views <= tested


@pytest.mark.parametrize("name", RECTANGULAR)
def test_every_verb_with_an_adjoint_resumes(name, tmp_path_factory):
    @few
    @given(lives)
    def resumes(cuts):
        operator = hessops.aslinearoperator(GENERAL)
        assert_resumes(RECTANGULAR[name], operator, tmp_path_factory.mktemp("run"), cuts)

    resumes()


@pytest.mark.parametrize("name", OF_SUMS)
def test_the_terms_of_a_sum_share_the_record(name, tmp_path_factory):
    @few
    @given(lives)
    def resumes(cuts):
        operator = FiniteSum([hessops.aslinearoperator(part) for part in PARTS], [0.5, 1.0, 2.0])
        assert_resumes(OF_SUMS[name], operator, tmp_path_factory.mktemp("run"), cuts)

    resumes()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.library}-{place.dtype}")
def test_every_library_and_dtype_resumes(place, tmp_path):
    matrix = with_spectrum(SPECTRUM, 0, place.dtype)
    operator = hessops.aslinearoperator(place.put(matrix), self_adjoint=True)
    for name in ("eigsh", "trace, xtrace", "spectral_density"):
        assert_resumes(VERBS[name], operator, tmp_path / name, [5, 4])


def test_a_run_that_only_takes_more_steps_goes_on(tmp_path):
    operator = Failing(definite())
    hessops.lanczos(checkpointed(operator, tmp_path), num_steps=5, rng=0)
    A = checkpointed(operator, tmp_path)
    longer = hessops.lanczos(A, num_steps=9, rng=0)
    assert (A.num_replayed, A.num_made) == (5, 4)
    assert_same(longer, hessops.lanczos(definite(), num_steps=9, rng=0))
    B = checkpointed(operator, tmp_path)
    shorter = hessops.lanczos(B, num_steps=3, rng=0)
    assert (B.num_recorded, B.num_replayed) == (9, 3)
    assert_same(shorter, hessops.lanczos(definite(), num_steps=3, rng=0))


def test_scipy_solvers_resume(tmp_path):
    start = normal(3, (N,))

    def verb(A):
        return scipy.sparse.linalg.eigsh(hessops.to_scipy(A), k=2, v0=start, ncv=8)

    assert_resumes(verb, definite(), tmp_path, [3, 6])


def test_complex_blocks_of_a_real_operator_resume(tmp_path):
    block = normal(0, (N, 2), "complex128")
    assert_resumes(lambda A: A @ (A @ block), definite(), tmp_path, [2])


def test_functions_of_the_user_resume(tmp_path):
    """The engine that docs/extending.md writes, in short: nothing has to be done for it."""

    def estimate(A):
        stream = Stream(3)
        forms = [A.domain.probes(stream, range(j, j + 1), "normal") for j in range(4)]
        return [to_numpy(A.domain.column_inner(Z, A.apply(Z))) for Z in forms]

    assert_resumes(estimate, definite(), tmp_path, [2, 1])


def test_a_network_resumes(tmp_path):
    torch = pytest.importorskip("torch")
    hessops_torch = pytest.importorskip("hessops_torch")

    def hessian():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
        ).double()
        batches = [(torch.randn(n, 4).double(), torch.randint(3, (n,))) for n in (8, 8, 5)]
        return hessops_torch.hessian(model, torch.nn.CrossEntropyLoss(), batches, weight_decay=0.1)

    for name, verb in {**OF_SUMS, "xnystrace": TRACES["trace, xtrace"]}.items():
        uncut = verb(hessian())
        found, A, _ = run_in_pieces(verb, hessian(), tmp_path / name, [2, 4, 7])
        assert_same(found, uncut)
        assert A.num_replayed > 0


# What is read back lies in memory as what was made, so that sums round alike.


@given(st.data(), st.sampled_from(PLACES), st.integers(1, 5), st.integers(0, 4), st.booleans())
def test_a_product_is_restored_as_it_lay_in_memory(data, place, rows, columns, by_columns):
    host = normal(data.draw(st.integers(0, 99)), (rows, columns), place.dtype)
    block = place.put(host)
    if by_columns:
        block = place.xp.matrix_transpose(place.put(host.T))
    stored, order = as_stored(block)
    assert (order is not None) or columns == 0
    entry = Entry(call="product", sketch=host, product=stored, order=order, fingerprint=None)
    restored = entry.restored(ArraySpace(rows, place.dtype_object, place.xp))
    assert_same(restored, block)
    assert strides_of(restored) == strides_of(block) or columns == 0


def strides_of(array):
    return array.stride() if hasattr(array, "stride") else np.asarray(array).strides


@pytest.mark.parametrize("library", LIBRARIES)
def test_products_with_gaps_in_memory_resume(library, tmp_path):
    place = Place(library, "float64")
    matrix = place.put(DEFINITE)

    class Gaps(LinearOperator):
        def _apply(self, X):
            return self.xp.concat([matrix @ X, X], axis=1)[:, : X.shape[1]]

    operator = Gaps(ArraySpace(N, xp=place.xp), structure=hessops.Structure(self_adjoint=True))
    verb = VERBS["spectral_density"]
    uncut = verb(checkpointed(operator, tmp_path / "uncut"))
    with pytest.raises(PowerCutError):
        verb(checkpointed(Failing(operator, 4), tmp_path / "cut"))
    assert_same(verb(checkpointed(operator, tmp_path / "cut")), uncut)


# The operator.


def test_it_is_the_operator_that_it_records(tmp_path):
    operator = FiniteSum([hessops.aslinearoperator(part) for part in PARTS])
    A = checkpointed(operator, tmp_path / "deep" / "run")
    assert isinstance(A, Checkpointed)
    assert (A.shape, A.dtype, A.structure) == (operator.shape, operator.dtype, operator.structure)
    assert A.domain is operator.domain
    assert [term.num_samples for term in A.terms()] == [1.0] * 3
    assert hessops.check_operator(A, rng=0).passed
    single = checkpointed(PARTS[0], tmp_path / "single")
    assert list(single.terms()) == [single]


def test_it_says_what_it_holds(tmp_path):
    hessops.lanczos(checkpointed(DEFINITE, tmp_path), num_steps=3, rng=0)
    A = checkpointed(DEFINITE, tmp_path)
    hessops.lanczos(A, num_steps=4, rng=0)
    assert f"in {tmp_path}: 4 products recorded, 3 read back, 1 new" in repr(A)
    files = sum(path.stat().st_size for path in tmp_path.glob("0*.npz"))
    assert A.nbytes == files > 4 * N * 8


def test_an_operator_without_an_adjoint_stays_without(tmp_path):
    operator = hessops.aslinearoperator(lambda X: 2 * X, shape=3)
    with pytest.raises(NotImplementedError, match="has no adjoint"):
        checkpointed(operator, tmp_path).apply_adjoint(np.ones(3))


def test_restart_throws_the_record_away(tmp_path):
    hessops.lanczos(checkpointed(DEFINITE, tmp_path), num_steps=5, rng=0)
    other = checkpointed(2 * DEFINITE, tmp_path, restart=True)
    assert (other.num_recorded, other.nbytes) == (0, 0)
    hessops.lanczos(other, num_steps=3, rng=1)
    assert sorted(path.name for path in tmp_path.glob("0*")) == [f"{i:08d}.npz" for i in range(3)]


def test_what_a_kill_leaves_half_written_is_removed(tmp_path):
    hessops.lanczos(checkpointed(DEFINITE, tmp_path), num_steps=2, rng=0)
    for name in ("00000002.npz.0123abcd.partial", "checkpoint.json.0123abcd.partial"):
        (tmp_path / name).write_bytes(b"half of it")
    (tmp_path / "notes.txt").write_text("the user's own")
    A = checkpointed(DEFINITE, tmp_path)
    hessops.lanczos(A, num_steps=3, rng=0)
    assert A.num_replayed == 2
    assert not list(tmp_path.glob("*.partial"))
    assert (tmp_path / "notes.txt").exists()


# Ranks.


class Replicated:
    """A communicator of ranks that all have whole vectors: sums over rows are local."""

    def __init__(self, comm):
        self.rank, self.size = comm.rank, comm.size
        self.broadcast = comm.broadcast

    def all_reduce(self, array):
        return array


def test_split_vectors_resume(tmp_path):
    verb = VERBS["eigsh"]
    for number, split in enumerate([splits(N)[i] for i in (0, 1, 4)]):
        folder = tmp_path / str(number)

        def on_rank(comm, allowed=math.inf, folder=folder, split=split):
            A = ShardedMatrix(
                DEFINITE, comm, split[comm.rank], hessops.Structure(self_adjoint=True)
            )
            operator = A if folder is None else checkpointed(Failing(A, allowed), folder)
            return verb(operator), operator

        plain = run_on_ranks(lambda comm, run=on_rank: run(comm, folder=None), len(split))
        for allowed in (4, 7):
            with pytest.raises(PowerCutError):
                run_on_ranks(lambda comm, run=on_rank, most=allowed: run(comm, most), len(split))
        resumed = run_on_ranks(on_rank, len(split))
        for (found, A), (expected, _) in zip(resumed, plain, strict=True):
            assert_same(found, expected)
            assert A.num_replayed == 3 + 6
        ends = {path.name.split(".", 1)[1] for path in folder.glob("00000000*")}
        alone = {"npz"} if len(split) == 1 else {f"rank-{r}.npz" for r in range(len(split))}
        assert ends == alone


def test_ranks_that_were_killed_at_different_products_go_on_together(tmp_path):
    split = splits(N)[2]

    def on_rank(comm):
        A = ShardedMatrix(DEFINITE, comm, split[comm.rank], hessops.Structure(self_adjoint=True))
        checkpointed_A = checkpointed(A, tmp_path)
        return hessops.lanczos(checkpointed_A, num_steps=6, rng=0), checkpointed_A.num_replayed

    uncut = run_on_ranks(on_rank, 3)
    for name in ("00000005.rank-0", "00000004.rank-2", "00000005.rank-2"):
        (tmp_path / f"{name}.npz").unlink()
    resumed = run_on_ranks(on_rank, 3)
    for (found, replayed), (expected, _) in zip(resumed, uncut, strict=True):
        assert_same(found, expected)
        assert replayed == 4


def test_what_one_rank_cannot_read_is_an_error_on_all(tmp_path):
    raised = []

    def on_rank(comm):
        rows = splits(N)[2][comm.rank]
        A = ShardedMatrix(DEFINITE, comm, rows, hessops.Structure(self_adjoint=True))
        try:
            return hessops.lanczos(checkpointed(A, tmp_path), num_steps=4, rng=0)
        except CheckpointError as error:
            raised.append(str(error))

    run_on_ranks(on_rank, 3)
    (tmp_path / "00000002.rank-1.npz").write_bytes(b"not an archive")
    run_on_ranks(on_rank, 3)
    assert sum("00000002.rank-1.npz is damaged" in sentence for sentence in raised) == 1
    assert sum("rank 1 could not go on" in sentence for sentence in raised) == 2


def test_another_split_is_refused(tmp_path):
    def on_rank(comm, split):
        A = ShardedMatrix(DEFINITE, comm, split[comm.rank])
        return checkpointed(A, tmp_path) @ np.ones(np.ptp(split[comm.rank]))

    whole = run_on_ranks(lambda comm: on_rank(comm, splits(N)[1]), 2)
    assert norm(gathered(whole) - DEFINITE @ np.ones(N)) < 1e-12
    with pytest.raises(CheckpointError, match=r"rows \[\[6, 6\], \[14, 14\]\] and \[\[.*differ"):
        run_on_ranks(lambda comm: on_rank(comm, splits(N)[2]), 3)
    with pytest.raises(CheckpointError, match=r"rows \[\[6, 6\], \[14, 14\]\] and null differ"):
        checkpointed(DEFINITE + 1j * 0, tmp_path)


def test_rank_0_keeps_vectors_that_every_rank_has_whole(tmp_path):
    def on_rank(comm, allowed=math.inf):
        space = ArraySpace(N, comm=Replicated(comm))
        operator = hessops.operators.elementary.MatrixOperator(
            DEFINITE, space, space, structure=hessops.Structure(self_adjoint=True)
        )
        A = checkpointed(Failing(operator, allowed), tmp_path)
        return VERBS["eigsh"](A), (A.num_recorded, A.num_replayed, A.nbytes)

    with pytest.raises(PowerCutError):
        run_on_ranks(lambda comm: on_rank(comm, 6), 3)
    assert sorted(path.name for path in tmp_path.glob("0*")) == [f"{i:08d}.npz" for i in range(5)]
    (first, counts), *others = run_on_ranks(on_rank, 3)
    assert_same(first, VERBS["eigsh"](definite()))
    for found, its_counts in others:
        assert_same(found, first)
        assert its_counts == counts
    assert counts[1] == 5

"""Callbacks of ranks: on all, on some, with another word on each, and with errors."""

import math
from functools import partial

import numpy as np
import pytest
from doubles import ShardedMatrix, run_on_ranks, splits
from strategies import with_spectrum

import hessops
from hessops import record
from hessops.structure import POSITIVE_SEMIDEFINITE
from hessops.together import require_same

N = 24
SPLIT = splits(N)[2]
SIZE = len(SPLIT)
MATRIX = with_spectrum(0.9 ** np.arange(N), 1)

VERBS = {
    "eigsh": partial(hessops.eigsh, k=3),
    "lanczos": partial(hessops.lanczos, num_steps=8),
    "trace": partial(hessops.trace, method="hutchinson", num_probes=8, block_size=1),
    "spectral_density": partial(hessops.spectral_density, num_probes=2, num_steps=8),
    "trace_function": partial(hessops.trace_function, f="exp", num_probes=2, num_steps=8),
    "randomized_eigh": partial(hessops.randomized_eigh, k=3),
}
every_verb = pytest.mark.parametrize("verb", VERBS)
# Rank 0 hears of the others after every step, or at the end of the run alone.
whenever_heard = pytest.mark.parametrize("seconds", [-1.0, math.inf])


def operator(comm):
    return ShardedMatrix(MATRIX, comm, SPLIT[comm.rank], POSITIVE_SEMIDEFINITE)


def on_ranks(verb, callback_of_rank):
    def work(comm):
        return VERBS[verb](operator(comm), rng=0, callback=callback_of_rank(comm.rank))

    return run_on_ranks(work, SIZE, timeout=5.0)


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@every_verb
@pytest.mark.parametrize("on", range(SIZE))
def test_one_rank_may_have_a_callback(verb, on):
    seen = []
    results = on_ranks(verb, lambda rank: seen.append if rank == on else None)
    without = on_ranks(verb, lambda _: None)
    assert seen
    assert {result.num_products for result in results + without} == {without[0].num_products}


@pytest.mark.filterwarnings("ignore::hessops.ConvergenceWarning")
@every_verb
def test_an_error_on_one_rank_is_raised_on_all_and_the_next_call_works(verb, monkeypatch):
    def failing(_state):
        raise KeyError("no such colour")

    caught = []

    def work(comm, on):
        A = operator(comm)
        with pytest.raises(KeyError, match="no such colour") as raised:
            VERBS[verb](A, rng=0, callback=failing if comm.rank == on else None)
        caught.append(raised.value)
        return hessops.trace(A, num_probes=4, rng=0).value

    for seconds in (-1.0, math.inf):
        monkeypatch.setattr(record, "_HEARD_EVERY", seconds)
        for on in range(SIZE):
            assert len(set(run_on_ranks(partial(work, on=on), SIZE, timeout=5.0))) == 1
    assert len(caught) == 2 * SIZE**2
    # Those that have not failed say who has.
    assert any("rank 1 of 3" in str(error) for error in caught)


@whenever_heard
def test_a_rank_that_has_failed_is_not_called_again(seconds, monkeypatch):
    monkeypatch.setattr(record, "_HEARD_EVERY", seconds)
    calls = []

    def failing(state):
        calls.append(state.step)
        raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        on_ranks("lanczos", lambda rank: failing if rank == 1 else None)
    assert calls == [1]


@pytest.mark.parametrize("on", range(SIZE))
def test_any_rank_may_end_the_run(on, monkeypatch):
    monkeypatch.setattr(record, "_HEARD_EVERY", -1.0)
    results = on_ranks("lanczos", lambda rank: lambda state: rank == on and state.step == 3)
    assert [len(result.alphas) for result in results] == [3] * SIZE
    assert {result.status for result in results} == {"stopped by the callback"}


def test_the_word_of_rank_0_counts_at_once(monkeypatch):
    monkeypatch.setattr(record, "_HEARD_EVERY", math.inf)
    results = on_ranks("lanczos", lambda rank: lambda state: state.step == (3 if rank == 0 else 2))
    assert [len(result.alphas) for result in results] == [3] * SIZE


@pytest.mark.parametrize("on", range(SIZE))
def test_what_is_no_callback_on_one_rank_is_refused_on_all(on):
    caught = []

    def work(comm):
        with pytest.raises(TypeError, match="callback=3 must be callable") as raised:
            VERBS["lanczos"](operator(comm), rng=0, callback=3 if comm.rank == on else None)
        caught.append(raised.value)

    run_on_ranks(work, SIZE, timeout=5.0)
    assert len(caught) == SIZE


def test_ranks_that_are_in_different_places_are_told_so():
    def work(comm):
        if comm.rank == 0:
            comm.broadcast("go on")
            return
        with pytest.raises(RuntimeError, match="begins a call while rank 0 is inside another one"):
            require_same(comm, {"the call": "eigsh"}, "make the same calls")

    run_on_ranks(work, 2, timeout=5.0)

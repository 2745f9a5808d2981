"""Probes drawn on a device: the bits of the host's, in every library's integer arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from strategies import COMPLEX, DTYPES, LIBRARIES, PLACES

from hessops import ArraySpace, device_probes, probes
from hessops.arrays import to_numpy
from hessops.device_probes import fill_on_device
from hessops.philox import words
from hessops.probes import fill_probes
from hessops.random import Stream

seeds = st.integers(0, 2**64 - 1)
streams = st.builds(Stream, seeds, st.integers(0, 20), st.integers(0, 2**64 - 1))
starts = st.integers(0, 2**40)
KINDS = ("rademacher", "normal", "steinhaus")


def inverse_normal(uniform):
    """SciPy's function, through the host, for libraries that have none."""
    xp = LIBRARIES[type(uniform).__module__.partition(".")[0].removeprefix("array_api_")]
    return xp.asarray(np.asarray(ndtri(to_numpy(uniform))))


@pytest.mark.parametrize("library", LIBRARIES)
@given(stream=streams, first=st.integers(0, 2**62), count=st.integers(1, 4), start=starts,
       length=st.integers(1, 30), part=st.integers(0, 1))  # fmt: skip
def test_words_are_those_of_numpys_generator(library, stream, first, count, start, length, part):
    like = LIBRARIES[library].zeros(1)
    probes = range(first, first + count)
    found = to_numpy(words(like, stream, probes, start, start + length, part))
    assert found.shape == (length, count)
    for column, probe in enumerate(probes):
        expected = stream.words(probe, start, start + length, part)
        assert np.array_equal(found[:, column].astype(np.uint64), expected)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@given(stream=streams, first_row=starts, n=st.integers(1, 200), count=st.integers(1, 3))
def test_probes_are_those_of_the_host(place, kind, stream, first_row, n, count):
    if kind == "steinhaus" and not place.is_complex:
        return
    indices = range(2, 2 + count)
    host = np.zeros((n, count), dtype=place.dtype)
    fill_probes(host, stream, indices, kind, first_row=first_row)
    block = place.put(np.zeros((n, count)))
    fill_on_device(block, stream, indices, kind, first_row=first_row, inverse_normal=inverse_normal)
    if kind == "rademacher":
        assert np.array_equal(to_numpy(block), host)
    else:
        np.testing.assert_allclose(to_numpy(block), host, rtol=4 * place.eps, atol=4 * place.eps)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_fit_together(monkeypatch, kind):
    monkeypatch.setattr(device_probes, "_CHUNK", 100)
    whole, pieces = np.zeros((777, 3), dtype=complex), np.zeros((777, 3), dtype=complex)
    fill_probes(whole, Stream(5), range(3), kind, first_row=11)
    fill_on_device(pieces, Stream(5), range(3), kind, first_row=11, inverse_normal=ndtri)
    np.testing.assert_array_equal(pieces, whole)


def test_what_the_host_refuses_is_refused():
    block = np.zeros((3, 1))
    with pytest.raises(ValueError, match="probe='signs' is unknown; choose one of rademacher"):
        fill_on_device(block, Stream(0), range(1), "signs", first_row=0, inverse_normal=ndtri)
    with pytest.raises(ValueError, match="this operator is real; use 'rademacher'"):
        fill_on_device(block, Stream(0), range(1), "steinhaus", first_row=0, inverse_normal=ndtri)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_torch_draws_the_hosts_probes_with_its_own_functions(device, dtype, kind):
    torch = pytest.importorskip("torch")
    from hessops_torch import fill_probes as fill_by_torch

    if kind == "steinhaus" and dtype not in COMPLEX:
        pytest.skip("of complex operators alone")
    stream, indices = Stream(2**63 + 5, 3, 2**63 + 7), range(2, 9, 3)
    host = np.zeros((5000, 3), dtype=dtype)
    fill_probes(host, stream, indices, kind, first_row=900)
    for layout in ("by rows", "by columns"):
        block = torch.zeros((5000, 3), dtype=getattr(torch, dtype), device=device)
        block = block.T.contiguous().T if layout == "by columns" else block
        fill_by_torch(block, stream, indices, kind, first_row=900)
        if kind == "rademacher":
            assert np.array_equal(to_numpy(block), host)
        else:
            # torch's inverse of the normal distribution is off by up to 5 units in the last place.
            rounding = 16 * np.finfo(dtype).eps
            np.testing.assert_allclose(to_numpy(block), host, rtol=rounding, atol=rounding)


@pytest.mark.gpu
def test_a_space_of_cuda_vectors_draws_there(monkeypatch):
    import torch

    space = ArraySpace(1000, torch.float32, LIBRARIES["torch"], "cuda")
    for kind in ("rademacher", "normal", "sphere"):
        host = ArraySpace(1000, "float32").probes(Stream(3), range(4), kind)
        with monkeypatch.context() as patch:
            patch.setattr(probes, "draw", None)  # the host's
            found = space.probes(Stream(3), range(4), kind)
        assert found.device == space.device
        np.testing.assert_allclose(to_numpy(found), host, rtol=1e-6, atol=1e-6)

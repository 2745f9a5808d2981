"""The CUDA source of the CuPy backend, compiled for the host and compared bit by bit with NumPy's.

No device is needed, and no CuPy: the functions of philox.cuh are plain C++ but for three intrinsics of
CUDA, which stand-ins replace. Only the accuracy of CUDA's own functions is left to tests with a GPU.
"""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessops.random import Stream, draw

STAND_INS = """
#include <cmath>
#define __device__
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)(((unsigned __int128)x * y) >> 64);
}
static inline double normcdfinv(double share) { return share; }
static inline void sincospi(double x, double* sine, double* cosine)
{
    *sine = std::sin(x * 3.14159265358979323846);
    *cosine = std::cos(x * 3.14159265358979323846);
}
"""
LOOPS = """
extern "C" void fill(
    unsigned long long seed, unsigned long long purpose, unsigned long long term,
    unsigned long long probe, unsigned long long part, unsigned long long first, long count,
    unsigned long long* words, int* signs, double* shares, double* cosines, double* sines)
{
    const Sequence sequence{seed, purpose, term, probe};
    for (long i = 0; i < count; ++i) {
        words[i] = random_word(sequence, part, first + i);
        signs[i] = random_sign(sequence, first + i);
        shares[i] = random_normal(sequence, part, first + i);
        random_phase(sequence, first + i, cosines[i], sines[i]);
    }
}
"""
KERNELS = """
__global__ void fill(Sequence sequence, long count, float* signs, double* normal, double* points)
{
    const long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < count) {
        signs[i] = random_sign(sequence, i);
        normal[i] = random_normal(sequence, 0, i);
        random_phase(sequence, i, points[2 * i], points[2 * i + 1]);
    }
}
"""


def cuda_source():
    # Found without an import, which would need CuPy.
    package = importlib.util.find_spec("hessops_cupy")
    return (Path(package.origin).parent / "philox.cuh").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fill(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler, g++ or clang++")
    folder = tmp_path_factory.mktemp("philox")
    source, library = folder / "philox.cpp", folder / "philox.so"
    source.write_text(STAND_INS + cuda_source() + LOOPS, encoding="utf-8")
    options = ["-std=c++14", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library)).fill


@given(
    seed=st.integers(0, 2**64 - 1), purpose=st.integers(0, 20), term=st.integers(0, 2**64 - 1),
    probe=st.integers(0, 2**63), part=st.integers(0, 1), first=st.integers(0, 2**40),
)  # fmt: skip
def test_the_kernel_draws_what_the_host_draws(fill, seed, purpose, term, probe, part, first):
    count, stream = 150, Stream(seed, purpose, term)
    words, signs = np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=np.intc)
    shares, cosines, sines = (np.zeros(count) for _ in range(3))
    numbers = [ctypes.c_uint64(x) for x in (seed, purpose, term, probe, part, first)]
    arrays = [ctypes.c_void_p(a.ctypes.data) for a in (words, signs, shares, cosines, sines)]
    fill(*numbers, ctypes.c_long(count), *arrays)
    rows = probe, first, first + count
    expected = stream.words(*rows, part)
    np.testing.assert_array_equal(words, expected)
    np.testing.assert_array_equal(signs, draw(stream, *rows, "rademacher", complex_valued=False))
    # normcdfinv's stand-in returns what it is given: the share of a normal number.
    np.testing.assert_array_equal(shares, ((expected >> 12).astype(float) + 0.5) * 2.0**-52)
    points = draw(stream, *rows, "steinhaus", complex_valued=True)
    np.testing.assert_allclose(cosines + 1j * sines, points, rtol=0, atol=2e-15)


def test_the_kernel_compiles_for_a_device(tmp_path):
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("needs CUDA's compiler, nvcc")
    source = tmp_path / "philox.cu"
    source.write_text(cuda_source() + KERNELS, encoding="utf-8")
    options = ["-std=c++17", "-ptx", "-Werror", "all-warnings", "-o", str(tmp_path / "philox.ptx")]
    subprocess.run([compiler, *options, str(source)], check=True)
    assert "mul.hi.u64" in (tmp_path / "philox.ptx").read_text()

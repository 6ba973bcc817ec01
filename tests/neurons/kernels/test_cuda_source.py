"""The CUDA source, compiled as C++ behind a small shim and run on the CPU, against the reference scan."""

import ctypes
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from neurons.kernels import cuda
from tests.neurons.kernels.comparison import (
    POINTWISE,
    compare,
    random_case,
)

HERE = Path(__file__).parent
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
C_TYPES = {"q": ctypes.c_longlong, "d": ctypes.c_double}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The kernels as a shared library."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler (g++, c++, clang++, or one named by CXX)")
    target = tmp_path_factory.mktemp("shim") / "scan.so"
    # Contraction to fused multiply-adds is off, as it is for the GPU.
    flags = ["-O2", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
    command = [compiler, *flags, f"-DSTEPS={cuda.STEPS}", f"-I{HERE}", f"-I{cuda.SOURCE.parent}"]
    subprocess.run([*command, str(HERE / "shim.cpp"), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="module")
def shimmed(library):
    """The provider with its kernels launched on the CPU instead of a GPU: all else of it runs as it is."""

    def launch(like, neuron, kernel, layout, blocks, threads, values) -> None:
        name = f"{kernel}_{cuda._KERNELS[neuron].name}_{cuda._SCALARS[like.dtype]}"
        layout.pack(*values)  # what the GPU's launch does with them
        kinds = [C_TYPES[kind] for kind in expanded(layout)]
        kernel = getattr(library, name)
        kernel(*map(ctypes.c_longlong, (blocks, threads)), *(kind(value) for kind, value in zip(kinds, values)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_launch", launch)
        patch.setattr(cuda, "WARP", 1)
        yield cuda


def expanded(layout: struct.Struct) -> str:
    """``=2q1d`` as ``qqd``."""
    letters, count = "", ""
    for character in layout.format[1:]:
        if character.isdigit():
            count += character
        else:
            letters, count = letters + character * int(count or 1), ""
    return letters


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("neuron", POINTWISE)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
def test_the_kernels_equal_the_reference_scan(shimmed, neuron, dtype, per_channel):
    compare(shimmed, random_case(neuron, dtype=dtype, per_channel=per_channel))

"""The CUDA kernels on the CPU: their source is compiled as C++ behind a small shim (``shim.cpp``, ``shim.h``)."""

import contextlib
import ctypes
import functools
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from neurons.kernels import OPERATORS, cuda, cuda_launch, cuda_recurrent

HERE = Path(__file__).parent
DEVICE = cuda_launch.Limits(multiprocessors=6, shared_bytes=100_000, tensor_cores=True)
C_TYPES = {"q": ctypes.c_longlong, "d": ctypes.c_double}


def compiler_into(folder: Path) -> Callable[..., ctypes.CDLL]:
    """A function that compiles the source with some definitions to a shared library in ``folder``, once each."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler (g++, c++, clang++, or one named by CXX)")

    @functools.cache
    def library(*definitions: str) -> ctypes.CDLL:
        target = folder / f"scan{len(list(folder.iterdir()))}.so"
        # Contraction to fused multiply-adds is off, as it is for the GPU.
        flags = ["-O2", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
        flags += ["-U_FORTIFY_SOURCE", f"-DSTEPS={cuda.STEPS}"]  # fibers jump, which fortified code takes for an error
        folders = [f"-I{HERE}", f"-I{cuda_launch.SOURCES[0].parent}"]
        command = [compiler, *flags, *(f"-D{one}" for one in definitions), *folders]
        subprocess.run([*command, str(HERE / "shim.cpp"), "-o", str(target)], check=True)
        return ctypes.CDLL(str(target))

    return library


def pointwise() -> list[str]:
    """The classes of all neurons whose kernels are those of ``scan.cu``."""
    return [operator.declared_by.__name__ for operator in OPERATORS.values() if not operator.kernel.recurrent]


@contextlib.contextmanager
def on_the_cpu(library: Callable[..., ctypes.CDLL], classes: Sequence[str]) -> Iterator[ModuleType]:
    """The provider with its kernels launched on the CPU instead of a GPU. All else of it runs as it is.

    ``classes`` are those of the pointwise neurons that are compiled, into one library.
    """
    of_pointwise = f"NEURONS={' '.join(f'POINTWISE_TYPES({name})' for name in classes)}"

    def launch(device, definitions, kernel, layout, values, grid, threads, shared_bytes=0, together=False) -> None:
        layout.pack(*values)  # what the GPU's launch does with them
        chosen = dict(definition.split("=") for definition in definitions)
        if "NEURON" in chosen:
            compiled, kind = library(of_pointwise), chosen["NEURON"]
        else:
            compiled = library(f"ROW_TILES={chosen['ROW_TILES']}")
            tensor_cores, whole = (chosen[name] == "true" for name in ("TENSOR_CORES", "WHOLE_LEVELS"))
            kind = ("levels" if whole else "full") if tensor_cores else "plain"
        kinds = [C_TYPES[letter] for letter in expanded(layout)]
        run = getattr(compiled, f"{kernel}_{kind}_{chosen['SCALAR']}")
        size = map(ctypes.c_longlong, (*grid, threads, shared_bytes))
        run(*size, *(kind(value) for kind, value in zip(kinds, values, strict=True)))

    with pytest.MonkeyPatch.context() as patch:
        for module in (cuda, cuda_recurrent, cuda_launch):
            patch.setattr(module, "launch", launch)
        patch.setattr(cuda_recurrent, "limits", lambda device: DEVICE)
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

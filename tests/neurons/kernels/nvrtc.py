"""NVIDIA's own compiler, which needs no GPU."""

import ctypes
import importlib.util
from pathlib import Path

import pytest

from neurons.kernels import cuda_launch


def compiler() -> ctypes.CDLL:
    """NVIDIA's compiler for use at run time, the one that CuPy calls."""
    try:
        (folder,) = importlib.util.find_spec("nvidia.cuda_nvrtc").submodule_search_locations
        return ctypes.CDLL(str(next(Path(folder, "lib").glob("libnvrtc.so.*"))))
    except (ModuleNotFoundError, AttributeError, StopIteration, OSError):
        pytest.skip("NVIDIA's compiler is not there: pip install nvidia-cuda-nvrtc-cu12 (Linux)")


def compile_for(nvrtc: ctypes.CDLL, architecture: str, definitions: tuple[str, ...]) -> int:
    """Bytes of the machine code; AssertionError with the compiler's messages if it refuses the source."""
    source = "\n".join(path.read_text() for path in cuda_launch.SOURCES).encode()
    options = [f"--gpu-architecture={architecture}", *cuda_launch.options(definitions)]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"scan.cu", 0, None, None) == 0
    try:
        failed = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options))
        )
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        assert not failed, log.value.decode()
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        return size.value
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))

"""NVIDIA's own compiler, which needs no GPU, compiles the CUDA source: every variant that a device may ask for."""

import ctypes
import importlib.util
from pathlib import Path

import pytest

from neurons.kernels import OPERATORS, cuda_launch

QUICK = "float", 1
RECURRENT_VARIANTS = [
    pytest.param(
        *(architecture, scalar, row_tiles, whole, tensor_cores),
        marks=() if (scalar, row_tiles) == QUICK else pytest.mark.slow,
    )
    for architecture, tensor_cores in (("sm_75", "false"), ("sm_90", "true"))
    for scalar in cuda_launch.SCALARS.values()
    for row_tiles in (1, 2)
    for whole in ("true", "false")
    if (tensor_cores == "true" and scalar != "double") or tensor_cores == whole == "false"
]
SCALARS = [pytest.param(s, marks=() if s in QUICK else pytest.mark.slow) for s in cuda_launch.SCALARS.values()]


@pytest.fixture(scope="module")
def nvrtc():
    """NVIDIA's library for compiling at run time, the one that CuPy calls."""
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


@pytest.mark.parametrize(
    "scalar", ["float", *(pytest.param(s, marks=pytest.mark.slow) for s in ("Half", "BFloat16", "double"))]
)
@pytest.mark.parametrize("neuron", [o.declared_by.__name__ for o in OPERATORS.values() if not o.kernel.recurrent])
def test_the_scan_of_a_neuron_compiles(nvrtc, neuron, scalar):
    assert compile_for(nvrtc, "sm_80", (f"NEURON={neuron}", f"SCALAR={scalar}")) > 1000


@pytest.mark.parametrize("architecture, scalar, row_tiles, whole, tensor_cores", RECURRENT_VARIANTS)
def test_the_scan_of_the_recurrent_gated_neuron_compiles(nvrtc, architecture, scalar, row_tiles, whole, tensor_cores):
    definitions = f"SCALAR={scalar}", f"ROW_TILES={row_tiles}", f"WHOLE_LEVELS={whole}", f"TENSOR_CORES={tensor_cores}"
    assert compile_for(nvrtc, architecture, definitions) > 1000


def test_source_that_does_not_compile_is_refused(nvrtc):
    with pytest.raises(AssertionError, match="NoSuchNeuron"):
        compile_for(nvrtc, "sm_80", ("NEURON=NoSuchNeuron", "SCALAR=float"))

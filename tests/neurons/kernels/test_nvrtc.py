"""NVIDIA's own compiler, which needs no GPU, compiles the CUDA source: every variant that a device may ask for."""

import pytest

from neurons.kernels import OPERATORS, cuda_launch
from tests.neurons.kernels import nvrtc

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
def compiler():
    return nvrtc.compiler()


@pytest.mark.parametrize(
    "scalar", ["float", *(pytest.param(s, marks=pytest.mark.slow) for s in ("Half", "BFloat16", "double"))]
)
@pytest.mark.parametrize("neuron", [o.declared_by.__name__ for o in OPERATORS.values() if not o.kernel.recurrent])
def test_the_scan_of_a_neuron_compiles(compiler, neuron, scalar):
    assert nvrtc.compile_for(compiler, "sm_80", (f"NEURON={neuron}", f"SCALAR={scalar}")) > 1000


@pytest.mark.parametrize("architecture, scalar, row_tiles, whole, tensor_cores", RECURRENT_VARIANTS)
def test_the_scan_of_the_recurrent_gated_neuron_compiles(
    compiler, architecture, scalar, row_tiles, whole, tensor_cores
):
    definitions = f"SCALAR={scalar}", f"ROW_TILES={row_tiles}", f"WHOLE_LEVELS={whole}", f"TENSOR_CORES={tensor_cores}"
    assert nvrtc.compile_for(compiler, architecture, definitions) > 1000


def test_source_that_does_not_compile_is_refused(compiler):
    with pytest.raises(AssertionError, match="NoSuchNeuron"):
        nvrtc.compile_for(compiler, "sm_80", ("NEURON=NoSuchNeuron", "SCALAR=float"))

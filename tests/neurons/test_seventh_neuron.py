"""A neuron with a kernel needs only its own file and its kernel functions: one is added at run time and tested."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import library, nn

import neurons
import zoo
from neurons import kernels, registry
from neurons.kernels import cpu, cpu_kernels, cuda, cuda_launch, operators
from neurons.kernels.cpu_kernels import STEPS, WIDTH, _block, _give, _kernel, _of_block, narrow, widen
from tests.neurons.kernels import nvrtc, shim

NAME = "leaky-readout"


class LeakyReadout(neurons.Neuron):
    """A leaky membrane, which is the output: V = leak * V + x."""

    State = neurons.MembraneState
    kernel = kernels.Kernel(learned=("leak",))

    def __init__(self, leak: float | torch.Tensor = 0.8):
        super().__init__()
        self.leak = nn.Parameter(torch.as_tensor(leak))

    @staticmethod
    def step(x, state, parameters):
        (leak,) = parameters
        membrane = leak * state.membrane + x
        return membrane, neurons.MembraneState(membrane)

    def step_parameters(self):
        return (self.leak,)


@_kernel
def leaky_readout_forward(x, membranes, leaks, y, final, checkpoints, extremes, settings, start, stop):
    for block in range(start, stop):
        row, a, b = _block(block, y.shape[2])
        membrane, leak = final[row, a:b], _of_block(leaks, row, a, b)
        membrane[:] = membranes[row, a:b]
        for t in range(len(x)):
            if len(checkpoints) and t % STEPS == 0:
                checkpoints[t // STEPS, 0, row, a:b] = membrane
            for i in range(len(membrane)):
                membrane[i] = leak[i] * membrane[i] + widen(x[t, row, a + i])
                y[t, row, a + i] = narrow(membrane[i], y)


@_kernel
def leaky_readout_backward(x, leaks, checkpoints, grad_y, grad_x, grads, to_leaks, settings, start, stop):
    saved = np.empty((STEPS + 2, WIDTH), checkpoints.dtype)
    for block in range(start, stop):
        row, a, b = _block(block, grad_y.shape[2])
        leak, grad = _of_block(leaks, row, a, b), grads[row, a:b]
        membrane, to_leak = saved[STEPS, : b - a], saved[STEPS + 1, : b - a]
        to_leak[:] = 0
        for part in range(len(checkpoints) - 1, -1, -1):
            membrane[:] = checkpoints[part, 0, row, a:b]
            first, last = part * STEPS, min(part * STEPS + STEPS, len(x))
            for t in range(first, last):
                for i in range(b - a):
                    saved[t - first, i] = membrane[i]
                    membrane[i] = leak[i] * membrane[i] + widen(x[t, row, a + i])
            for t in range(last - 1, first - 1, -1):
                for i in range(b - a):
                    grad[i] += widen(grad_y[t, row, a + i])
                    to_leak[i] += grad[i] * saved[t - first, i]
                    grad_x[t, row, a + i] = narrow(grad[i], grad_x)
                    grad[i] *= leak[i]
        _give(to_leak, to_leaks, row, a, block)


CUDA = """
template <class Real>
struct LeakyReadout {
    enum { INPUTS = 1, STATES = 1, PARAMETERS = 1 };
    Real leak;
    bool always = true;

    struct Trace {
        Real before;
    };

    __device__ __forceinline__ LeakyReadout(const Settings& s) { leak = ((const Real*)s.parameter0)[s.channel0]; }

    __device__ __forceinline__ bool& ordinary() { return always; }

    __device__ __forceinline__ Real step(const Real* x, Real* state, Trace& trace) const {
        trace.before = state[0];
        return state[0] = leak * state[0] + x[0];
    }

    __device__ __forceinline__ void backward(const Trace& trace, Real gradient_y, Real* gradient_x,
                                             Real* gradient_state, Real* gradient_parameters) const {
        gradient_x[0] = gradient_state[0] + gradient_y;
        gradient_parameters[0] += gradient_x[0] * trace.before;
        gradient_state[0] = gradient_x[0] * leak;
    }

    __device__ __forceinline__ Real membrane(const Trace&) const { return Real(0); }  // no spike takes it
};
"""
ENTRY_POINTS = "// ---- The kernels' entry points ----"

KNOWN: dict[str, operators.Operator] = {}
"""The earlier registration, if any: torch cannot remove an operator."""


@pytest.fixture
def seventh(monkeypatch):
    """The neuron, registered for one test."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(cpu_kernels, "leaky_readout_forward", leaky_readout_forward, raising=False)
    monkeypatch.setattr(cpu_kernels, "leaky_readout_backward", leaky_readout_backward, raising=False)
    operators.OPERATORS.update(KNOWN)
    neurons.register(NAME)(LeakyReadout)
    yield LeakyReadout
    KNOWN[NAME] = operators.OPERATORS.pop(NAME)
    cpu._kernels.cache_clear()


@pytest.fixture(scope="module")
def cuda_sources(tmp_path_factory):
    """The CUDA source with its struct, in the place where those of the other neurons are."""
    scan, recurrent = (path.read_text() for path in cuda_launch.SOURCES)
    assert scan.count(ENTRY_POINTS) == 1
    folder = tmp_path_factory.mktemp("sources")
    (folder / "scan.cu").write_text(scan.replace(ENTRY_POINTS, CUDA + ENTRY_POINTS))
    (folder / "recurrent.cu").write_text(recurrent)
    return folder / "scan.cu", folder / "recurrent.cu"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return shim.compiler_into(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def with_cuda(seventh, cuda_sources, monkeypatch):
    """The neuron, its struct being part of the CUDA source."""
    monkeypatch.setattr(cuda_launch, "SOURCES", cuda_sources)


def weights_of(y):
    """The gradient of a loss with respect to each output."""
    return torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)


def results(neuron, x, state):
    """Outputs, final state and all gradients of a scan."""
    x, membrane = x.clone().requires_grad_(), state.clone().requires_grad_()
    y, (final,) = neuron(x, neurons.MembraneState(membrane))
    found = torch.autograd.grad((y * weights_of(y)).sum() + final.sin().sum(), (x, membrane, neuron.leak))
    return [y.detach(), final.detach(), *found]


def test_its_kernel_is_found_by_its_name_and_equals_its_step(seventh):
    x, state = torch.randn(STEPS + 5, 3, 70, dtype=torch.double), torch.randn(3, 70, dtype=torch.double)
    fused, plain = LeakyReadout().double(), LeakyReadout().double()
    plain.backend = "torch"
    torch.testing.assert_close(results(fused, x, state), results(plain, x, state))
    assert (fused.last_backend, plain.last_backend) == ("cpu", "torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("leak", [torch.tensor(0.8), torch.linspace(0.1, 0.9, 7)], ids=["per layer", "per channel"])
def test_its_struct_in_the_cuda_source_equals_its_step(with_cuda, compiled, dtype, leak):
    x, plain = torch.randn(2 * cuda.STEPS + 5, 3, 7).to(dtype), LeakyReadout(leak)
    numbers = torch.promote_types(dtype, torch.float32)
    plain, state = plain.to(numbers), torch.randn(3, 7).to(numbers)
    plain.backend = "torch"
    expected = results(plain, x, state)
    with shim.on_the_cpu(compiled, ["LeakyReadout"]) as provider:
        arguments = NAME, x, [state], [plain.leak.detach().view(-1)], []
        y, (final,), checkpoints, _ = provider.scan_forward(*arguments, True, False)
        grad_x, (grad_state,), (grad_leak,) = provider.scan_backward(
            *arguments, checkpoints, weights_of(y), [final.cos()]
        )
    assert torch.equal(y, expected[0]) and torch.equal(final, expected[1])
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close([grad_x, grad_state, grad_leak.view_as(leak)], expected[2:], **tolerance)


def test_nvidia_s_compiler_takes_its_struct(with_cuda):
    assert nvrtc.compile_for(nvrtc.compiler(), "sm_80", ("NEURON=LeakyReadout", "SCALAR=float")) > 1000


def test_torch_knows_its_operators(seventh):
    operator = kernels.OPERATORS[NAME]
    assert operator.name == "snn_zoo::leaky_readout_scan"
    assert operator.schemas[0].startswith("(Tensor x, Tensor membrane, Tensor leak, bool keep, bool track)")
    x, membrane, leak = (torch.rand(*size).requires_grad_() for size in ((5, 2, 3), (2, 3), (1,)))
    library.opcheck(operator.function, (x, membrane, leak, True, False))


@pytest.mark.parametrize("library", ["spikingjelly", "snntorch"])
def test_both_plug_ins_have_it(seventh, library):
    pytest.importorskip(library)
    options = {"step_mode": "m"} if library == "spikingjelly" else {}
    layer = neurons.create(NAME, library=library, **options)
    x = torch.randn(6, 2, 4)
    found = layer(x) if library == "spikingjelly" else layer.multi_step(x)[0]
    torch.testing.assert_close(found, LeakyReadout()(x)[0])


def test_the_profiler_counts_it(seventh):
    profile = zoo.profile(LeakyReadout(), torch.randn(6, 2, 4))
    (row,) = [row for row in profile.rows if row.kind == "LeakyReadout"]
    assert (row.counts.multiplications, row.counts.additions) == (5 * 2 * 4, 5 * 2 * 4)  # the first membrane is zero


def test_the_same_kernel_may_be_declared_again_and_another_may_not(seventh):
    again = kernels.OPERATORS[NAME]
    operators.define(again)
    with pytest.raises(ValueError, match=f"'{NAME}' has another kernel already, .* start Python anew"):
        operators.define(replace(again, kernel=kernels.Kernel(learned=("leak", "threshold"))))
    assert kernels.OPERATORS[NAME] == again


def test_kernel_functions_that_are_missing_are_named(seventh, monkeypatch):
    monkeypatch.delattr(cpu_kernels, "leaky_readout_backward")
    with pytest.raises(
        NotImplementedError, match=r"LeakyReadout declares a kernel, but there is no leaky_readout_back"
    ):
        LeakyReadout()(torch.randn(3, 2, 4))


def test_a_subclass_does_not_inherit_the_declaration(seventh):
    @neurons.register("faster-readout")
    class FasterReadout(LeakyReadout):
        @staticmethod
        def step(x, state, parameters):
            return 2 * x, state

    assert "faster-readout" not in kernels.OPERATORS
    assert FasterReadout().reference_only() == "FasterReadout has no fused kernel for its step"

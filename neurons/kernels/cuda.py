"""The scans on CUDA devices: the kernels of ``scan.cu``, compiled by CuPy when first used.

Tensors go in and out by address, on torch's current stream; nothing here waits for the device. CuPy keeps the
compiled kernels on disk, so that a neuron and type compiles once a machine.
"""

import ctypes
import functools
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("scan.cu")
STEPS = 8
"""Time steps from one checkpoint to the next."""
WARP = 32
MOST_BLOCKS = 8192
"""Larger tensors are walked through in turns. It bounds the partial extremes, one pair a warp."""


class _Kernels(NamedTuple):
    """What the kernels of one neuron are called in ``scan.cu``, and what they take."""

    name: str
    states: int = 1
    inputs: int = 1
    """Input channels for one output channel."""
    learned: int = 0
    """Parameters that get a gradient."""


_KERNELS = {
    "learnable-lif": _Kernels("LearnableLIF", learned=2),
    "integrator": _Kernels("Integrator"),
    "multibit-lif": _Kernels("MultiBitLIF", learned=1),
    "multibit-synaptic-lif": _Kernels("MultiBitSynapticLIF", states=2, learned=1),
    "input-gated-lif": _Kernels("InputGatedLIF", states=2, inputs=2),
}
_SCALARS = {torch.float32: "float", torch.float16: "Half", torch.bfloat16: "BFloat16", torch.float64: "double"}

_FORWARD = struct.Struct("=11q6q2d")
_BACKWARD = struct.Struct("=12q6q2d")
_EXTREMES = struct.Struct("=3q")


class _Arguments(threading.local):
    """For each layout, a buffer for a kernel's arguments and the addresses in it, one set a thread."""

    def __init__(self):
        self.ready = {}
        self.devices = set()

    def pack(self, layout: struct.Struct, values: Sequence) -> int:
        """Write the arguments down; return the address of the list of their addresses."""
        if layout not in self.ready:
            buffer = ctypes.create_string_buffer(layout.size)
            start = ctypes.addressof(buffer)
            addresses = (ctypes.c_void_p * (layout.size // 8))(*range(start, start + layout.size, 8))
            self.ready[layout] = buffer, addresses, ctypes.addressof(addresses)
        buffer, _, address = self.ready[layout]
        layout.pack_into(buffer, 0, *values)
        return address


_arguments = _Arguments()


@functools.cache
def _function(device: int, neuron: str, dtype: torch.dtype, kernel: str):
    """A compiled kernel on the current device, as CuPy's Function."""
    return _module(device, neuron, dtype).get_function(kernel)


@functools.cache
def _module(device: int, neuron: str, dtype: torch.dtype):
    import cupy

    definitions = (f"-DNEURON={_KERNELS[neuron].name}", f"-DSCALAR={_SCALARS[dtype]}", f"-DSTEPS={STEPS}")
    # Without contraction to fused multiply-adds the spikes equal the reference's bit for bit.
    return cupy.RawModule(code=SOURCE.read_text(), options=("--fmad=false", *definitions)).module


def _launch(
    like: Tensor, neuron: str, kernel: str, layout: struct.Struct, blocks: int, threads: int, values: Sequence
) -> None:
    """Launch a kernel on the current stream of the device and for the type of ``like``.

    This goes to the driver with a ready list of addresses: CuPy's own call builds an object for every argument.
    """
    from cupy.cuda import driver, runtime

    device = like.device
    if torch.cuda.current_device() != device.index:
        with torch.cuda.device(device):
            return _launch(like, neuron, kernel, layout, blocks, threads, values)
    if device.index not in _arguments.devices:  # a new thread may have no context yet
        runtime.setDevice(device.index)
        runtime.free(0)
        _arguments.devices.add(device.index)
    function = _function(device.index, neuron, like.dtype, kernel)
    stream = torch.cuda.current_stream(device).cuda_stream
    driver.launchKernel(function.ptr, blocks, 1, 1, threads, 1, 1, 0, stream, _arguments.pack(layout, values), 0)


def _blocks_and_threads(elements: int) -> tuple[int, int]:
    """Small blocks where few elements have to spread over the whole device."""
    threads = WARP * (4 if elements >= 1 << 16 else 2 if elements >= 1 << 15 else 1)
    return min(-(-elements // threads), MOST_BLOCKS), threads


def _pointers(tensors: Sequence[Tensor | None], count: int) -> list[int]:
    """Addresses, zero for None and for what is missing up to ``count``."""
    found = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    return found + [0] * (count - len(found))


def _parameters(parameters: Sequence[Tensor], learned: int, settings: Sequence[float]):
    """The kernels' arguments for the parameters: addresses (the range last), one a channel or not, settings."""
    spike_range = parameters[learned].data_ptr() if len(parameters) > learned else 0
    per_channel = [int(parameter.numel() > 1) for parameter in parameters[:learned]]
    return (
        (*_pointers(parameters[:learned], 2), spike_range),
        (*per_channel, *[0] * (2 - learned)),
        (*settings, *[0.0] * (2 - len(settings))),
    )


def checkpoint_shape(neuron: str, steps: int, state: Sequence[int]) -> tuple[int, ...]:
    """The shape of what a forward keeps for the backward: the state ``[B, C, S]`` before every STEPS-th step."""
    return -(-steps // STEPS), _KERNELS[neuron].states, *state


def scan_forward(
    neuron: str,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settings: Sequence[float],
    keep: bool,
    track: bool,
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Scan ``x [T, B, inputs * C, S]`` from ``state`` (tensors ``[B, C, S]``).

    Returns ``y [T, B, C, S]``, the final state, the checkpoints that the backward needs (none unless ``keep``) and
    the extremes of the membrane before the spike ``[minimum, maximum]`` (none unless ``track``).
    """
    kernels = _KERNELS[neuron]
    steps, batch, channels, inner = x.shape
    channels //= kernels.inputs
    elements = batch * channels * inner
    y = x.new_empty((steps, batch, channels, inner))
    final_state = [torch.empty_like(part) for part in state]
    checkpoints = state[0].new_empty(checkpoint_shape(neuron, steps, state[0].shape) if keep else (0,))
    extremes = state[0].new_empty((2,) if track else (0,))
    blocks, threads = _blocks_and_threads(elements)
    pairs = blocks * threads // WARP
    partial_extremes = state[0].new_empty((pairs, 2)) if track else None
    addresses, per_channel, settings = _parameters(parameters, kernels.learned, settings)
    values = (
        x.data_ptr(),
        *_pointers(state, 2),
        *addresses,
        y.data_ptr(),
        *_pointers(final_state, 2),
        checkpoints.data_ptr() if keep else 0,
        partial_extremes.data_ptr() if track else 0,
        *(steps, elements, channels, inner),
        *per_channel,
        *settings,
    )
    kernel = "scan_forward_tracking" if track else "scan_forward"
    _launch(x, neuron, kernel, _FORWARD, blocks, threads, values)
    if track:
        values = partial_extremes.data_ptr(), extremes.data_ptr(), pairs
        _launch(x, neuron, "extremes", _EXTREMES, 1, 32 * WARP, values)
    return y, final_state, checkpoints, extremes


def scan_backward(
    neuron: str,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settings: Sequence[float],
    checkpoints: Tensor,
    grad_y: Tensor,
    grad_final_state: Sequence[Tensor | None],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients with respect to ``x``, the state and the parameters (the range, last, gets none).

    None in ``grad_final_state`` stands for zeros. The parameters' sums run in a fixed order.
    """
    kernels = _KERNELS[neuron]
    steps, batch, channels, inner = x.shape
    channels //= kernels.inputs
    elements = batch * channels * inner
    grad_x = torch.empty_like(x)
    grad_state = [torch.empty_like(part) for part in state]
    shares = state[0].new_empty((kernels.learned, batch, channels, inner))
    blocks, threads = _blocks_and_threads(elements)
    addresses, per_channel, settings = _parameters(parameters, kernels.learned, settings)
    values = (
        x.data_ptr(),
        checkpoints.data_ptr(),
        *addresses,
        grad_y.data_ptr(),
        *_pointers(grad_final_state, 2),
        grad_x.data_ptr(),
        *_pointers(grad_state, 2),
        shares.data_ptr(),
        *(steps, elements, channels, inner),
        *per_channel,
        *settings,
    )
    _launch(x, neuron, "scan_backward", _BACKWARD, blocks, threads, values)
    grad_parameters = [
        share.sum((0, 2)) if parameter.numel() > 1 else share.sum().view(1)
        for share, parameter in zip(shares, parameters)
    ]
    return grad_x, grad_state, grad_parameters

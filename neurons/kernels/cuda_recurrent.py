"""The scan of the recurrent-gated LIF on CUDA devices: one launch of ``recurrent.cu`` for the whole sequence.

Before the launch, the initial spikes are multiplied with U, and U is split into three bfloat16 pieces for the tensor
cores. After the backward, the gradient of U is one product over all steps. The arguments of the sigmoid and of the relu
are kept for the backward.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neurons.kernels.cuda_launch import SCALARS, WARP, gather_extremes, launch, limits, pointers
from neurons.spike import FULL_PRECISION

NEURONS = 16
"""Neurons per column tile. This and the next three are as in ``recurrent.cu``."""
WARPS = 8
DEPTH = 32
PIECES = 3
_FORWARD = struct.Struct("=20q2d")
_REPLAY = struct.Struct("=11q2d")
_BACKWARD = struct.Struct("=22q2d")
_SPLIT = struct.Struct("=4q")
_PACK = 16  # bytes


class _Plan(NamedTuple):
    """How the blocks divide one direction of the scan."""

    definitions: tuple[str, ...]
    grid: tuple[int, int]
    rows: int
    """The batch, rounded up to whole row tiles."""
    slices: int
    """Number of slices, of DEPTH each, that a product sums over."""
    pieces: int
    """Bytes of U in pieces; zero if the product is a plain sum."""
    resident: bool
    """Whether each block holds its part of U in shared memory."""
    shared_bytes: int
    exchange: int
    """Bytes of the exchange buffer."""


def _plan(x: Tensor, batch: int, neurons: int, bits: int, backward: bool) -> _Plan:
    device = limits(x.device)
    tensor_cores = device.tensor_cores and x.dtype != torch.float64
    whole = tensor_cores and bits != FULL_PRECISION
    column_tiles, sixteens = -(-neurons // NEURONS), -(-batch // 16)
    # Row tiles of 32 read less of U; row tiles of 16 spread a small layer over more of the device.
    row_tiles = 1 if sixteens * column_tiles <= device.multiprocessors or sixteens == 1 else 2
    rows = -(-sixteens // row_tiles) * row_tiles * 16
    across = min(column_tiles, device.multiprocessors)
    down = min(rows // (16 * row_tiles), max(1, device.multiprocessors // across))
    columns, depth = (NEURONS, 2 * neurons) if backward else (2 * NEURONS, neurons)
    slices = -(-depth // DEPTH)
    partial = WARPS * 16 * row_tiles * columns * 4
    tile = columns // 8 * slices * PIECES * 32 * _PACK
    resident = tensor_cores and across == column_tiles and partial + tile <= device.shared_bytes
    number = 2 if whole and not backward else 8 if x.dtype == torch.float64 else 4
    return _Plan(
        (
            f"SCALAR={SCALARS[x.dtype]}",
            f"ROW_TILES={row_tiles}",
            f"WHOLE_LEVELS={str(whole).lower()}",
            f"TENSOR_CORES={str(tensor_cores).lower()}",
        ),
        (across, down),
        rows,
        slices,
        column_tiles * tile if tensor_cores else 0,
        resident,
        (partial + tile * resident) if tensor_cores else 0,
        2 * rows * slices * DEPTH * number,
    )


def _split(plan: _Plan, kernel: str, weight: Tensor) -> Tensor:
    """U as the product takes it: in pieces, or unchanged."""
    if not plan.pieces:
        return weight
    pieces = torch.empty(plan.pieces, dtype=torch.uint8, device=weight.device)
    values = *pointers((weight, pieces)), len(weight), plan.slices
    blocks = min(-(-plan.pieces // (_PACK * PIECES * 256)), 4096)
    launch(weight.device, plan.definitions, kernel, _SPLIT, values, (blocks, 1), 256)
    return pieces


def _launch(plan: _Plan, kernel: str, layout: struct.Struct, x: Tensor, addresses: list[int], sizes, settings) -> None:
    """Launch one direction of the scan with a new exchange buffer, the blocks' counters behind it."""
    exchange = torch.zeros(plan.exchange + 4 * plan.grid[1], dtype=torch.uint8, device=x.device)
    start = exchange.data_ptr()
    values = *addresses, start, start + plan.exchange, *sizes, plan.rows, plan.slices, int(plan.resident), *settings
    size = plan.grid, WARPS * WARP, plan.shared_bytes
    launch(x.device, plan.definitions, kernel, layout, values, *size, together=True)


def checkpoint_shape(steps: int, state: Sequence[int]) -> tuple[int, ...]:
    """The shape of what the forward keeps for the backward."""
    batch, neurons, *inner = state
    return steps, batch, 2 * neurons, *inner


def scan_forward(x: Tensor, state: Sequence[Tensor], parameters: Sequence[Tensor], settings, keep: bool, track: bool):
    """As :func:`neurons.kernels.cuda.scan_forward`."""
    weight, spike_range = parameters
    steps, (batch, neurons, *_) = len(x), state[0].shape
    plan = _plan(x, batch, neurons, settings[0], backward=False)
    y = x.new_empty((steps, *state[0].shape))
    final_state = [torch.empty_like(part) for part in state]
    kept = state[0].new_empty(checkpoint_shape(steps, state[0].shape)) if keep else None
    partial_extremes = state[0].new_empty((plan.grid[0] * plan.grid[1] * WARPS, 2)) if track else None
    first_product = state[2].view(batch, neurons) @ weight
    factor = _split(plan, "split_forward", weight)
    tensors = (
        *(x, *state[:2], first_product, factor, spike_range, y, *final_state),
        *(kept, partial_extremes),
    )
    sizes = steps, batch, neurons
    _launch(plan, "recurrent_forward", _FORWARD, x, pointers(tensors), sizes, settings)
    extremes = None if partial_extremes is None else gather_extremes(partial_extremes, plan.definitions)
    return y, final_state, kept, extremes


def scan_backward(x: Tensor, state, parameters, settings, kept: Tensor, grad_y: Tensor, grad_final_state):
    """As :func:`neurons.kernels.cuda.scan_backward`."""
    weight, spike_range = parameters
    steps, (batch, neurons, *_) = len(x), state[0].shape
    plan = _plan(x, batch, neurons, settings[0], backward=True)
    currents, membranes, spikes = state[0].new_empty((3, steps, batch, neurons))
    tensors = kept, *state, spike_range, currents, membranes, spikes
    values = *pointers(tensors), steps, batch * neurons, neurons, *settings
    blocks = min(-(-batch * neurons // 64), 8192)
    launch(x.device, plan.definitions, "recurrent_replay", _REPLAY, values, (blocks, 1), 64)

    grad_x = torch.empty_like(x)
    grad_state = [torch.empty_like(part) for part in state]
    sums = grad_x if x.dtype == kept.dtype else torch.empty_like(kept)
    factor = _split(plan, "split_backward", weight)
    tensors = (
        *(kept, currents, membranes, grad_y, *grad_final_state, factor, spike_range),
        *(grad_x, None if sums is grad_x else sums, *grad_state),
    )
    sizes = steps, batch, neurons
    _launch(plan, "recurrent_backward", _BACKWARD, x, pointers(tensors), sizes, settings)
    grad_weight = spikes.view(-1, neurons).T @ sums.view(-1, 2 * neurons)
    return grad_x, grad_state, [grad_weight]

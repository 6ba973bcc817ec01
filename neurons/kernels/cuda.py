"""The scans on CUDA devices: the kernels of ``scan.cu`` and, for the recurrent-gated LIF, ``recurrent.cu``."""

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from neurons.kernels import cuda_recurrent
from neurons.kernels.cuda_launch import SCALARS, STEPS, WARP, gather_extremes, launch, pointers
from neurons.kernels.operators import OPERATORS, Operator
from neurons.surrogate import flags

MOST_BLOCKS = 8192
"""Larger tensors are processed in turns. This bounds the number of partial extremes, one pair per warp."""


_FORWARD = struct.Struct("=17q2d")
_BACKWARD = struct.Struct("=18q2d")


def _blocks_and_threads(elements: int) -> tuple[int, int]:
    """Threads per block: small blocks if there are few elements, to spread them over the whole device."""
    threads = WARP * (4 if elements >= 1 << 16 else 2 if elements >= 1 << 15 else 1)
    return min(-(-elements // threads), MOST_BLOCKS), threads


def _channels_and_inner(state: Tensor) -> tuple[int, int]:
    """The number of channels of a step ``[B, C, ...]``, and of elements per channel and sample."""
    channels = state.shape[1]
    return channels, state.numel() // (len(state) * channels)


def _definitions(operator: Operator, x: Tensor) -> tuple[str, ...]:
    return f"NEURON={operator.declared_by.__name__}", f"SCALAR={SCALARS[x.dtype]}"


def _constants(parameters: Sequence[Tensor], learned: int, settings: Sequence):
    """The kernels' arguments for the parameters: addresses (the range last), whether each is per channel, settings.

    A kernel takes only numbers: names become the bits of one.
    """
    names = [setting for setting in settings if isinstance(setting, str)]
    numbers = [setting for setting in settings if not isinstance(setting, str)] + ([flags(*names)] if names else [])
    spike_range = parameters[learned].data_ptr() if len(parameters) > learned else 0
    per_channel = [int(parameter.numel() > 1) for parameter in parameters[:learned]]
    return (
        (*pointers(parameters[:learned], 2), spike_range),
        (*per_channel, *[0] * (2 - learned)),
        (*numbers, *[0.0] * (2 - len(numbers))),
    )


def checkpoint_shape(neuron: str, steps: int, state: Sequence[int]) -> tuple[int, ...]:
    """The shape of a forward's checkpoints for the backward: the state ``[B, C, ...]`` before every STEPS-th step."""
    if OPERATORS[neuron].kernel.recurrent:
        return cuda_recurrent.checkpoint_shape(steps, state)
    return -(-steps // STEPS), len(OPERATORS[neuron].state), *state


def scan_forward(
    neuron: str,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settings: Sequence,
    keep: bool,
    track: bool,
) -> tuple[Tensor, list[Tensor], Tensor | None, Tensor | None]:
    """Scan ``x [T, B, inputs * C, ...]`` from ``state`` (tensors ``[B, C, ...]``); there is at least one element.

    Returns ``y [T, B, C, ...]``, the final state, the checkpoints that the backward needs (None unless ``keep``) and
    the extremes of the membrane before the spike ``[minimum, maximum]`` (None unless ``track``).
    """
    operator = OPERATORS[neuron]
    if operator.kernel.recurrent:
        return cuda_recurrent.scan_forward(x, state, parameters, settings, keep, track)
    steps, elements = len(x), state[0].numel()
    y = x.new_empty((steps, *state[0].shape))
    final_state = [torch.empty_like(part) for part in state]
    checkpoints = state[0].new_empty(checkpoint_shape(neuron, steps, state[0].shape)) if keep else None
    blocks, threads = _blocks_and_threads(elements)
    partial_extremes = state[0].new_empty((blocks * threads // WARP, 2)) if track else None
    addresses, per_channel, settings = _constants(parameters, len(operator.learned), settings)
    values = (
        x.data_ptr(),
        *pointers(state, 2),
        *addresses,
        y.data_ptr(),
        *pointers(final_state, 2),
        *pointers((checkpoints, partial_extremes)),
        *(steps, elements, *_channels_and_inner(state[0])),
        *per_channel,
        *settings,
    )
    definitions = _definitions(operator, x)
    kernel = "scan_forward_tracking" if track else "scan_forward"
    launch(x.device, definitions, kernel, _FORWARD, values, (blocks, 1), threads)
    extremes = None if partial_extremes is None else gather_extremes(partial_extremes, definitions)
    return y, final_state, checkpoints, extremes


def scan_backward(
    neuron: str,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settings: Sequence,
    checkpoints: Tensor,
    grad_y: Tensor,
    grad_final_state: Sequence[Tensor | None],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients with respect to ``x``, the state and the parameters (the range, last, gets none).

    None in ``grad_final_state`` stands for zeros. The parameters' gradients are summed in a fixed order.
    """
    operator = OPERATORS[neuron]
    if operator.kernel.recurrent:
        return cuda_recurrent.scan_backward(x, state, parameters, settings, checkpoints, grad_y, grad_final_state)
    steps, elements = len(x), state[0].numel()
    grad_x = torch.empty_like(x)
    grad_state = [torch.empty_like(part) for part in state]
    shares = state[0].new_empty((len(operator.learned), *state[0].shape))
    blocks, threads = _blocks_and_threads(elements)
    addresses, per_channel, settings = _constants(parameters, len(operator.learned), settings)
    values = (
        *pointers((x, checkpoints)),
        *addresses,
        grad_y.data_ptr(),
        *pointers(grad_final_state, 2),
        grad_x.data_ptr(),
        *pointers(grad_state, 2),
        shares.data_ptr(),
        *(steps, elements, *_channels_and_inner(state[0])),
        *per_channel,
        *settings,
    )
    launch(x.device, _definitions(operator, x), "scan_backward", _BACKWARD, values, (blocks, 1), threads)
    grad_parameters = [
        share.view(len(share), len(parameter), -1).sum((0, 2)) if parameter.numel() > 1 else share.sum().view(1)
        for share, parameter in zip(shares, parameters)
    ]
    return grad_x, grad_state, grad_parameters

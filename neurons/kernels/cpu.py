"""The scans on the CPU, by the kernels of :mod:`neurons.kernels.cpu_kernels`.

A kernel walks through the sequence for one block of neighbouring elements at a time, so that their state stays in
the processor's nearest cache and the loop over the block becomes vector instructions. Blocks are shared out among
torch's own threads; a running kernel does not hold the interpreter's lock. Calls from several threads at once are safe.
In a forked process torch's threads do not live on, so it starts Python threads.

For the backward, the state of every :data:`STEPS`-th step is kept; the states in between are computed again.

Numba compiles a kernel when it is first used and keeps it on disk, in this package's folder or, where that cannot be
written, in the user's cache folder (``NUMBA_CACHE_DIR`` names another).
"""

import contextlib
import ctypes
import functools
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neurons.kernels import cpu_kernels
from neurons.kernels.cpu_kernels import STEPS, WIDTH, Firing, LibraryFiring, Spike
from neurons.kernels.cpu_memory import empty
from neurons.kernels.operators import OPERATORS
from neurons.spike import FULL_PRECISION, MultiBitSpike
from neurons.surrogate import SHAPES, SURROGATES, Known, check_reset, flags

GRAIN = 1 << 18
"""Elements times steps that are worth a thread of their own; waking a thread takes a tenth of a millisecond."""

# ---- From tensors to kernels ----

_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pool: ThreadPoolExecutor | None = None


def _find_openmp() -> Callable | None:
    """``GOMP_parallel`` of torch's own OpenMP runtime: it runs a function in the runtime's threads.

    A thread pool of our own would compete for the processors with torch's threads, which spin for milliseconds after
    every operation while they wait for the next. None if torch's runtime has no such function.
    """
    try:
        parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    parallel.argtypes, parallel.restype = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


_openmp = _find_openmp()


def _after_fork() -> None:
    """In a forked process neither torch's threads nor the pool's live on, and torch's cannot be started again."""
    global _openmp, _pool
    _openmp = _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_INTERRUPTS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name))
"""Signals whose handlers may raise an exception."""


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Context in which Python's signal handlers wait: an exception of theirs would be lost inside another runtime.

    They run at the end of the context, each once. Python runs them in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _INTERRUPTS}
    arrived: dict[int, Any] = {}
    try:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, arrived.__setitem__)
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
    for number, frame in arrived.items():
        handlers[number](number, frame)  # type: ignore[operator, misc]


def _in_threads(work: Callable[[], None], threads: int) -> None:
    """Call ``work`` in this many threads at once, this one included, and return when all calls have returned."""
    global _pool
    if _openmp is not None:
        return _openmp(_Work(lambda _: work()), None, threads, 0)
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="neurons")
    others = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        if not other.cancel():
            other.result()


def in_shares(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Call ``work(start, stop)`` for parts of ``range(count)``, in up to ``threads`` of the threads that torch uses."""
    threads = max(1, min(torch.get_num_threads(), count, threads))
    if threads == 1:
        return work(0, count)
    # More shares than threads, so that no thread waits long for a slower one.
    share = -(-count // (4 * threads))
    starts, errors = iter(range(0, count, share)), []

    def share_by_share() -> None:
        try:
            for start in starts:
                work(start, min(start + share, count))
        except BaseException as error:  # exceptions cannot pass through the OpenMP runtime
            errors.append(error)

    with _interrupts_wait():
        _in_threads(share_by_share, threads)
    if errors:
        raise errors[0]


def _run(kernel, arguments: Sequence, blocks: int, steps: int) -> None:
    """Run ``kernel`` over all blocks of ``steps`` steps, divided among as many threads as torch uses."""
    in_shares(functools.partial(kernel, *arguments), blocks, blocks * WIDTH * steps // GRAIN)


_BITS = {torch.float16: torch.uint16, torch.bfloat16: torch.int16}


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as an array; half-precision types as raw bits."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    bits = _BITS.get(tensor.dtype)
    return (tensor if bits is None else tensor.view(bits)).numpy()


class _Kernels(NamedTuple):
    """The kernels of one neuron.

    ``forward`` takes ``(x, *state, *learned, y, *final_state, checkpoints, extremes, settings, start, stop)``,
    ``backward`` ``(x, *learned, checkpoints, grad_y, grad_x, *grad_state, *grad_learned, settings, start, stop)``.
    ``settings`` are those of the spike function, or None. The call computes the blocks ``start`` to ``stop - 1``.
    """

    forward: Callable
    backward: Callable


@functools.cache
def _kernels(neuron: str) -> _Kernels:
    """The kernels of a neuron, by its name."""
    names = [f"{neuron.replace('-', '_')}_{direction}" for direction in ("forward", "backward")]
    missing = [name for name in names if not hasattr(cpu_kernels, name)]
    if missing:
        who = OPERATORS[neuron].declared_by.__name__
        raise NotImplementedError(
            f"{who} declares a kernel, but there is no {' and no '.join(missing)} in {cpu_kernels.__name__}; write it, "
            'or set backend = "torch" on the neuron'
        )
    return _Kernels(*[getattr(cpu_kernels, name) for name in names])


def checkpoint_shape(neuron: str, steps: int, state_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the checkpoints that the forward leaves for the backward."""
    kernel = OPERATORS[neuron].kernel
    if kernel.recurrent:  # gate and candidate currents of every step
        return (steps, state_shape[0], 2 * state_shape[1], *state_shape[2:])
    parts = len(OPERATORS[neuron].state) if kernel.keeps_state else 0
    return ((steps + STEPS - 1) // STEPS, parts, *state_shape)


_NUMBERS: dict[torch.dtype, type[np.floating]] = {torch.float32: np.float32, torch.float64: np.float64}


class _Layout:
    """How a kernel sees the elements ``[B, C, ...]`` of a step: as rows, cut into blocks."""

    def __init__(self, neuron: str, state: Sequence[Tensor]):
        # The two halves of an input lie apart in every sample of the batch, so each sample is a row.
        self.shape = state[0].shape
        self.rows = self.shape[0] if OPERATORS[neuron].inputs_per_neuron > 1 else 1
        self.blocks = self.rows * -(-state[0].numel() // (self.rows * WIDTH))

    def array(self, tensor: Tensor, leading: int = 0) -> np.ndarray:
        """The memory of a tensor ``[..., B, C, ...]`` as ``[..., rows, elements per row]``.

        ``leading`` is the number of dimensions before the batch.
        """
        array = _array(tensor)
        return array.reshape(*array.shape[:leading], self.rows, -1)

    def arrays(self, tensors: Sequence[Tensor], leading: int = 0) -> list[np.ndarray]:
        return [self.array(tensor, leading) for tensor in tensors]

    def checkpoints(self, tensor: Tensor) -> np.ndarray:
        """Checkpoints as a kernel takes them; those of the integrator are empty."""
        return self.array(tensor, 2) if tensor.numel() else _no_checkpoints(tensor.dtype)

    def spread(self, parameters: Sequence[Tensor]) -> list[np.ndarray]:
        """Each parameter as a row: one value per element of a step, or of one block if all elements share a value."""
        return [self._of_elements(_array(p)).reshape(self.rows, -1) for p in parameters]

    def _of_elements(self, parameter: np.ndarray) -> np.ndarray:
        if len(parameter) == 1:
            return parameter.repeat(self.rows * WIDTH)
        batch, channels, *inner = self.shape
        of_sample = math.prod(inner) * channels
        if self.rows == 1 and WIDTH % of_sample == 0:  # every block begins at the first channel
            batch = WIDTH // of_sample
        if inner:
            parameter = parameter.repeat(of_sample // channels)
        return np.concatenate((parameter,) * batch)

    def shares(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Memory for the parameters' gradients: one per element ``[B, C, ...]``, or one per block ``[blocks, 1]``."""
        return [p.new_empty((self.blocks, 1) if len(p) == 1 else self.shape) for p in parameters]


@functools.cache
def _no_checkpoints(dtype: torch.dtype) -> np.ndarray:
    return torch.empty(0, 1, 1, 1, dtype=dtype, device="cpu").numpy()


@functools.lru_cache
def _firing(gamma: float, surrogate: str, reset_mechanism: str, dtype: torch.dtype) -> Firing | LibraryFiring:
    if surrogate.partition(" ")[0] in SHAPES and surrogate not in SURROGATES:
        return _library_firing(Known.from_name(gamma, surrogate), reset_mechanism, dtype)
    number, names = _NUMBERS[dtype], flags(surrogate, reset_mechanism)
    tail, to_zero, no_reset = bool(names & 1), bool(names & 2), bool(names & 4)
    return Firing(number(gamma), number(0), number(1), tail, to_zero, no_reset)


_SHAPES: dict[str, type[LibraryFiring]] = {
    "triangular": cpu_kernels.TriangularFiring,
    "arctan": cpu_kernels.ArctanFiring,
    "fast_sigmoid": cpu_kernels.FastSigmoidFiring,
    "sigmoid": cpu_kernels.SigmoidFiring,
}


def _library_firing(surrogate: Known, reset_mechanism: str, dtype: torch.dtype) -> LibraryFiring:
    number, reset = _NUMBERS[dtype], check_reset(reset_mechanism)
    numbers = number(surrogate.height), number(surrogate.slope), number(0), number(1)
    return _SHAPES[surrogate.shape](*numbers, surrogate.fires_at_threshold, reset == "zero", reset == "none")


@functools.lru_cache
def _spike(r: float, dtype: torch.dtype, bits: int, threshold_levels: int) -> Spike:
    number = _NUMBERS[dtype]
    return Spike(
        range=number(r),
        lowest=number(0 if bits == 1 else -r),
        scale=number(MultiBitSpike(torch.tensor(r, dtype=dtype), bits, threshold_levels).scale.item()),
        threshold=number(threshold_levels),
        zero=number(0),
        one=number(1),
        full_precision=bits == FULL_PRECISION,
        centre=number(r / 2 if bits == 1 else 0),
        reach=number(r / 4 if bits == 1 else r),
    )


def _settings(neuron: str, parameters: Sequence[Tensor], settings: Sequence) -> Spike | Firing | LibraryFiring | None:
    if OPERATORS[neuron].multi_bit:
        return _spike(parameters[-1].item(), parameters[-1].dtype, *settings)
    return _firing(*settings, parameters[0].dtype) if settings else None


class Scan:
    """A prepared scan of any neuron but the recurrent one: only the input and the state are missing.

    It serves all states of the shape and type of the ``state`` it was made with, and inputs that fit them.
    """

    def __init__(self, neuron: str, state: Sequence[Tensor], parameters: Sequence[Tensor], settings: Sequence):
        self.layout, self.kernels, learned = _Layout(neuron, state), _kernels(neuron), OPERATORS[neuron].learned
        self.neuron, self.no_checkpoints = neuron, _no_checkpoints(state[0].dtype)
        self.learned = self.layout.spread(parameters[: len(learned)])
        self.settings = _settings(neuron, parameters, settings)

    def forward(
        self, x: Tensor, state: Sequence[Tensor], keep: bool, track: bool
    ) -> tuple[Tensor, list[Tensor], Tensor | None, Tensor | None]:
        """Run the scan; returns what :func:`scan_forward` returns."""
        layout, steps = self.layout, x.shape[0]  # len(x) takes longer
        y = empty(x, (steps, *layout.shape))
        final_state = [torch.empty_like(part) for part in state]
        checkpoints = empty(state[0], checkpoint_shape(self.neuron, steps, layout.shape)) if keep else None
        extremes = state[0].new_empty((2, layout.blocks)) if track else None
        arguments = (
            layout.array(x, 1),
            *layout.arrays(state),
            *self.learned,
            layout.array(y, 1),
            *layout.arrays(final_state),
            self.no_checkpoints if checkpoints is None else layout.checkpoints(checkpoints),
            None if extremes is None else extremes.numpy(),
            self.settings,
        )
        _run(self.kernels.forward, arguments, layout.blocks, steps)
        if extremes is not None:
            extremes = torch.stack((extremes[0].amin(), extremes[1].amax()))
        return y, final_state, checkpoints, extremes


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
    if OPERATORS[neuron].kernel.recurrent:
        return _recurrent_forward(neuron, x, state, parameters, settings, keep, track)
    return Scan(neuron, state, parameters, settings).forward(x, state, keep, track)


def scan_backward(
    neuron: str,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settings: Sequence,
    checkpoints: Tensor,
    grad_y: Tensor,
    grad_final_state: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients with respect to ``x``, the state and the learned parameters."""
    if OPERATORS[neuron].kernel.recurrent:
        gradients = checkpoints, grad_y, grad_final_state
        return _recurrent_backward(neuron, x, state, parameters, settings, *gradients)
    layout, kernels = _Layout(neuron, state), _kernels(neuron)
    learned = parameters[: len(OPERATORS[neuron].learned)]
    grad_x, grad_state = empty(x, x.shape), [grad.clone() for grad in grad_final_state]
    shares = layout.shares(learned)
    arguments = (
        layout.array(x, 1),
        *layout.spread(learned),
        layout.checkpoints(checkpoints),
        layout.array(grad_y, 1),
        layout.array(grad_x, 1),
        *layout.arrays(grad_state),
        *(_array(share) if len(p) == 1 else layout.array(share) for share, p in zip(shares, learned)),
        _settings(neuron, parameters, settings),
    )
    _run(kernels.backward, arguments, layout.blocks, len(x))
    sums = [share.view(len(share), len(p), -1).sum((0, 2)) for share, p in zip(shares, learned)]
    return grad_x, grad_state, sums


def _recurrent_forward(
    neuron: str,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settings: Sequence,
    keep: bool,
    track: bool,
) -> tuple[Tensor, list[Tensor], Tensor | None, Tensor | None]:
    """The scan of the recurrent-gated LIF: one matrix product and one kernel call per step."""
    layout, steps, weight = _Layout(neuron, state), len(x), parameters[0]
    y = empty(x, (steps, *layout.shape))
    final_state = [part.clone() for part in state]
    currents, membranes, spikes = layout.arrays(final_state)
    checkpoints = empty(state[0], checkpoint_shape(neuron, steps, layout.shape)) if keep else None
    sums = torch.empty_like(x[:1], dtype=weight.dtype).expand(*x.shape) if checkpoints is None else checkpoints
    extremes = [torch.full_like(state[0], value) for value in (float("inf"), float("-inf"))] if track else []
    lowest, highest = layout.arrays(extremes) if track else (None, None)
    spike, last_spikes = _settings(neuron, parameters, settings), final_state[2].flatten(1)
    in_, sums_, out = layout.arrays((x, sums, y), 1)
    # How a product rounds depends on where its result lies in memory, so it lies in one place at every step.
    product = weight.new_empty(x.shape[1:])
    product_ = layout.array(product)
    for t in range(steps):
        torch.mm(last_spikes, weight, out=product.flatten(1))
        arguments = in_[t], product_, sums_[t], currents, membranes, spikes, out[t], lowest, highest, spike
        _run(cpu_kernels.recurrent_forward, arguments, layout.blocks, 1)
    found = torch.stack((extremes[0].amin(), extremes[1].amax())) if track else None
    return y, final_state, checkpoints, found


def _recurrent_backward(
    neuron: str,
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    settings: Sequence,
    checkpoints: Tensor,
    grad_y: Tensor,
    grad_final_state: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Back through the steps, one matrix product per step; the weight's gradient is one product over all steps."""
    layout, steps, weight = _Layout(neuron, state), len(x), parameters[0]
    spike, sums = _settings(neuron, parameters, settings), layout.array(checkpoints, 1)
    *saved, spikes = empty(state[0], (5, steps, *layout.shape))
    spikes[0] = state[2]
    again = layout.arrays((*saved, spikes), 1)
    currents, membranes = layout.arrays([part.clone() for part in state[:2]])
    _run(cpu_kernels.recurrent_again, (sums, currents, membranes, *again, spike), layout.blocks, steps)

    grad_state = [grad.clone() for grad in grad_final_state]
    grad_currents, grad_membranes, grad_spikes = layout.arrays(grad_state)
    grad_sums, grad_last = empty(checkpoints, checkpoints.shape), grad_state[2].flatten(1)
    grads_in, grads_out = layout.arrays((grad_y, grad_sums), 1)
    for t in reversed(range(steps)):
        before = [array[t] for array in again[:-1]]
        arguments = *before, grads_in[t], grad_spikes, grad_currents, grad_membranes, grads_out[t], spike
        _run(cpu_kernels.recurrent_backward, arguments, layout.blocks, 1)
        torch.mm(grad_sums[t].flatten(1), weight.T, out=grad_last)
    grad_weight = spikes.view(-1, weight.shape[0]).T @ grad_sums.view(-1, weight.shape[1])
    return grad_sums.to(x.dtype), grad_state, [grad_weight]

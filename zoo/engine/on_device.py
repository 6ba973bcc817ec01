"""Programs on a GPU: a second executor of the same instructions, in operations of torch.

:class:`OnDevice` takes and gives what :class:`zoo.engine.program.Program` does. Each instruction is one function here,
on whole tensors ``[T, B, width]``; :mod:`zoo.engine.program` writes the instructions and defines their arguments.

Sums of spikes times weights are integers, so they have the same bits as on the CPU. All else is float32 by the formulas
of :mod:`zoo.engine.kernels`, but torch adds in an order of its own, which may depend on the batch: last bits differ,
and now and then a spike by a level.

The tests run it on tensors in the CPU's memory. It has not run on a GPU, and no time was measured.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.engine import instructions
from zoo.engine.instructions import EPSILON, KERNEL, NONE
from zoo.engine.integers import LARGEST, has_integer_units
from zoo.engine.program import NO_CONTEXT, Buffer, Context, NotInIntegers, Program, Result, State

MULTIPLE = 16
"""The inputs and outputs of a product are padded to multiples of so many.

On CUDA ``torch._int_mm`` takes multiples of 8 (``_int_mm_out_cuda`` in torch's Blas.cpp). With 16, each row of integers
of eight bits also starts at a multiple of 16 bytes, for which cuBLAS has its fastest kernels.
"""
FEWEST_ROWS = 32
"""A product has at least so many rows, because on CUDA ``torch._int_mm`` takes no fewer than 17."""

# ---- Products of spikes ----


@functools.cache
def why_not(device: torch.device) -> str | None:
    """Why products of integers cannot be computed on ``device``; None if they can."""
    levels, weights = torch.full((1, 64), LARGEST, dtype=torch.int8), torch.full((64, 1), LARGEST, dtype=torch.int8)
    try:
        found = integer_product(levels.to(device), held(weights, device), 1)
    except torch.OutOfMemoryError:  # says nothing of the device, and the next call may find room
        raise
    except RuntimeError as error:
        return f"torch does not multiply integers on {device}: {str(error).splitlines()[0]}"
    return None if bool((found == 64 * LARGEST**2).all()) else f"torch's product of integers is wrong on {device}"


def held(weights: Tensor, device: torch.device) -> Tensor:
    """Integer ``weights [K, N]`` on ``device``, with zeros up to whole multiples, for :func:`integer_product`.

    Where the CPU's product of integers is not exact they are floats that hold all sums exactly.
    """
    k, n = weights.shape
    padded = F.pad(weights, (0, -n % MULTIPLE, 0, -k % MULTIPLE)).to(device)
    return padded.double() if device.type == "cpu" and not has_integer_units() else padded


def integer_product(levels: Tensor, weights: Tensor, outputs: int) -> Tensor:
    """The exact sums ``[M, outputs]`` (int32) of ``levels [M, K]`` (int8) times weights from :func:`held`."""
    rows, inputs = levels.shape
    missing_rows, missing_inputs = max(0, FEWEST_ROWS - rows), len(weights) - inputs
    if missing_rows or missing_inputs:
        levels = F.pad(levels, (0, missing_inputs, 0, missing_rows))
    exact = weights.dtype == torch.int8
    sums = torch._int_mm(levels, weights) if exact else (levels.to(weights.dtype) @ weights).int()
    return sums[:rows, :outputs]


# ---- Running ----


class OnDevice:
    """A program that runs on ``device``. Raises NotInIntegers if it has an instruction that is not there."""

    def __init__(self, program: Program, device: torch.device):
        unknown = {code[0] for code in program.code} - _INSTRUCTIONS.keys()
        if unknown:
            raise NotInIntegers(f"on {device} there are no instructions number {sorted(unknown)} of the engine")
        self.program, self.device = program, device
        self.constants = torch.from_numpy(program._constants).to(device)
        self._matrices: dict[tuple[int, int, int], Tensor] = {}
        """The weights that were moved to the device, by their place, inputs and outputs."""
        self._done = _last_uses(program.code)

    def matrix(self, place: int, inputs: int, outputs: int) -> Tensor:
        """The weights ``[inputs, outputs]`` at this place, as :func:`held` on the device, where they stay."""
        key = place, inputs, outputs
        if key not in self._matrices:
            found = self.program._joined[place : place + inputs * outputs].reshape(inputs, outputs)
            self._matrices[key] = held(torch.from_numpy(found), self.device)
        return self._matrices[key]

    def moved(self, values: np.ndarray | Tensor) -> Tensor:
        """``values`` on the device."""
        return torch.as_tensor(values).to(self.device)

    def run(
        self,
        inputs: np.ndarray,
        lengths: np.ndarray,
        state: tuple[Any, Any] | None = None,
        context: Context | None = None,
        count: int = 0,
    ) -> Result:
        """See :meth:`zoo.engine.program.Program.run`. The state stays on the device; all else comes back as NumPy's."""
        run = self.started(inputs, lengths, state, context, count)
        with torch.autocast(self.device.type, enabled=False):
            for (operation, *arguments), done in zip(self.program.code, self._done):
                _INSTRUCTIONS[operation](run, *arguments)
                for buffer in done:
                    if buffer not in self.program._results:
                        del run.values[buffer]
        if run.strange.item():
            raise ValueError("a membrane is NaN: the input or the weights are not finite")
        values, places = (found.flatten(0, 1).cpu().numpy() for found in run.best)
        return Result(*self._results(run), State(*run.after), values, places)

    def started(
        self, inputs: np.ndarray, lengths: np.ndarray, state: Any, context: Context | None, count: int
    ) -> "Run":
        """A run before its first instruction, of what :meth:`run` is given."""
        steps, batch = inputs.shape[:2]
        if state is None:
            widths = self.program.state_width, self.program.past_width
            state = np.zeros((batch, widths[0]), np.float32), np.zeros((batch, widths[1]), np.int8)
        before = Remembered(*map(self.moved, state))
        run = Run(
            on=self,
            given=self.moved(inputs),
            steps=steps,
            batch=batch,
            real=self.moved(np.arange(steps)[:, None] < lengths).unsqueeze(-1),
            values={},
            before=before,
            after=Remembered(*map(torch.empty_like, before)),
            context=self._attended(context or NO_CONTEXT),
            count=count,
            best=(torch.empty(steps, batch, count), torch.empty(steps, batch, count, dtype=torch.int64)),
            strange=torch.zeros((), dtype=torch.bool, device=self.device),
        )
        if self.program._given is not None:
            run.values[self.program._given] = run.given.float()
        return run

    def _attended(self, context: Context) -> "Attended":
        memory, keys, sources, lengths = context
        there = np.arange(keys) < lengths[sources][:, None]
        return Attended(self.moved(memory), keys, self.moved(sources), self.moved(there))

    def _results(self, run: "Run") -> tuple[dict[str, np.ndarray], dict[Buffer, Buffer]]:
        """The buffers that hold results, side by side in memory, and the place of each."""
        found: dict[str, list[np.ndarray]] = {"numbers": [], "levels": []}
        placed: dict[Buffer, Buffer] = {}
        for buffer in self.program._results:
            place = sum(values.shape[-1] for values in found[buffer.kind])
            placed[buffer] = buffer._replace(place=place)
            found[buffer.kind].append(run.values[buffer].cpu().numpy())
        arrays = {kind: np.concatenate([values.ravel() for values in parts]) for kind, parts in found.items() if parts}
        return arrays, placed


def on_device(programs: Any, device: torch.device) -> Any:
    """A network's ``programs``, a program or a named tuple with some, to be run on ``device``."""
    if isinstance(programs, Program):
        return OnDevice(programs, device)
    return type(programs)(*(OnDevice(part, device) if isinstance(part, Program) else part for part in programs))


def _last_uses(code: list[list[Any]]) -> list[list[Buffer]]:
    """For each instruction, the buffers that no later one takes."""
    last = {buffer: i for i, instruction in enumerate(code) for buffer in instruction if isinstance(buffer, Buffer)}
    return [[buffer for buffer, at in last.items() if at == i] for i in range(len(code))]


class Remembered(NamedTuple):
    """A :class:`zoo.engine.program.State` on the device."""

    numbers: Tensor
    levels: Tensor


class Attended(NamedTuple):
    """A :class:`zoo.engine.program.Context` on the device; ``there [B, keys]`` is True at the keys of each row."""

    memory: Tensor
    keys: int
    sources: Tensor
    there: Tensor


@dataclass
class Run:
    """What the instructions of one run read and write."""

    on: OnDevice
    given: Tensor
    steps: int
    batch: int
    real: Tensor
    """``[T, B, 1]``, True within the lengths of the sequences; of another size if no instruction asks for it."""
    values: dict[Buffer, Tensor]
    """``[T, B, width]`` of each buffer that was written."""
    before: Remembered
    after: Remembered
    context: Attended
    count: int
    best: tuple[Tensor, Tensor]
    strange: Tensor
    """True if a membrane is NaN."""

    def constants(self, place: int, count: int) -> Tensor:
        return self.on.constants[place : place + count]

    def product(self, levels: Tensor, weights: int, inputs: int, outputs: int) -> Tensor:
        """The sums ``[..., outputs]`` of ``levels [..., inputs]`` times the weights at this place."""
        rows = levels.reshape(-1, inputs)
        sums = integer_product(rows, self.on.matrix(weights, inputs, outputs), outputs)
        return sums.reshape(*levels.shape[:-1], outputs)


def _columns(values: Tensor, first: int, width: int) -> Tensor:
    """``width`` columns of a state ``[B, ...]``, zeros if there is no ``first``."""
    return values.new_zeros(len(values), width) if first == NONE else values[:, first : first + width]


def _keep(values: Tensor, first: int, found: Tensor) -> None:
    """Write columns of a state, if it has them."""
    if first != NONE:
        values[:, first : first + found.shape[1]] = found


# ---- Instructions ----


def _embed(run: Run, out: Buffer, width: int, weights: int, scale: int, tokens: int) -> None:
    rows = run.on.matrix(weights, width, tokens)[:width].index_select(1, run.given.flatten()).float().T
    scales = run.constants(scale, tokens)[run.given].unsqueeze(-1)
    run.values[out] = rows.reshape(run.steps, run.batch, width) * scales


def _norm(run: Run, x: Buffer, out: Buffer, width: int, parts: int, weight: int, bias: int, masked: int) -> None:
    normal = F.layer_norm(run.values[x].unflatten(-1, (parts, -1)), (width // parts,), eps=EPSILON).flatten(-2)
    y = normal * run.constants(weight, width) + run.constants(bias, width)
    run.values[out] = y.masked_fill(~run.real, 0) if masked else y


def _windows(run: Run, x: Buffer, out: Buffer, width: int, kernel: int, left: int, column: int) -> None:
    margin = kernel - 1
    past = _columns(run.before.levels, column, margin * width).reshape(run.batch, margin, width).transpose(0, 1)
    ahead = past.new_zeros(margin - left, run.batch, width)
    padded = torch.cat([past[margin - left :], run.values[x], ahead])
    run.values[out] = torch.cat([padded[tap : tap + run.steps] for tap in range(kernel)], dim=-1)
    _keep(run.after.levels, column, run.values[out][-1, :, width:])


def _product(
    run: Run, x: Buffer, inputs: int, weights: int, outputs: int, out: Buffer, most: int, largest: int, places: int
) -> None:
    levels = run.values[x].unflatten(-1, (places, inputs))
    run.values[out] = run.product(levels, weights, inputs, outputs).flatten(-2)


def _rescale(
    run: Run, out: Buffer, width: int, parts: int, scale: int, bias: int, residual: Any, places: int, *sums: Any
) -> None:
    first, *others = (run.values[part].float() * run.constants(unit, 1) for part, unit in zip(sums[::2], sums[1::2]))
    y = sum(others, start=first).unflatten(-1, (places, width)) * run.constants(scale, width)
    if bias != NONE:
        y = y + run.constants(bias, width)
    y = y.flatten(-2)
    run.values[out] = y if residual == NONE else y + run.values[residual]


def _attention(run: Run, query: Buffer, out: Buffer, width: int, heads: int, layer: int) -> None:
    part, (memory, keys, sources, there) = width // heads, run.context
    own = memory[layer].index_select(0, sources)
    key = own[:, 0].reshape(run.batch, heads, part, keys)
    value = own[:, 1].reshape(run.batch, keys, heads, part).transpose(1, 2)
    q = run.values[query].unflatten(-1, (heads, part)).permute(1, 2, 0, 3) / math.sqrt(part)
    scores = (q @ key).masked_fill(~there[:, None, None], -math.inf)
    run.values[out] = (scores.softmax(-1) @ value).permute(2, 0, 1, 3).flatten(-2)


def _best(run: Run, sums: Buffer, outputs: int, unit: int, scale: int, bias: int) -> None:
    logits = run.values[sums].float() * run.constants(unit, 1) * run.constants(scale, outputs)
    logits = logits + run.constants(bias, outputs)
    values, places = logits.sort(dim=-1, descending=True, stable=True)  # of equal logits, the earlier comes first
    values = values[..., : run.count] - logits.logsumexp(-1, keepdim=True)
    # What cannot come, and what there is not of so many, has the place 0.
    places = places[..., : run.count].masked_fill(values == -math.inf, 0)
    more = (0, run.count - values.shape[-1])
    run.best = F.pad(values, more, value=-math.inf), F.pad(places, more)


def _around(x: Tensor, height: int, width: int, inputs: int, stride: int) -> Tensor:
    """What is around each place of pictures ``[T, B, height * width * inputs]``: ``[T, B, places, taps * inputs]``."""
    padded = F.pad(x.unflatten(-1, (height, width, inputs)), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(2, KERNEL, stride).unfold(3, KERNEL, stride)  # [T, B, high, wide, inputs, down, right]
    return windows.permute(0, 1, 2, 3, 5, 6, 4).flatten(4).flatten(2, 3)


def _patches(run: Run, x: Buffer, out: Buffer, height: int, width: int, inputs: int, stride: int) -> None:
    run.values[out] = _around(run.values[x], height, width, inputs, stride).flatten(2)


def _sparse_convolution(
    run: Run, x: Buffer, out: Buffer, height: int, width: int, inputs: int, outputs: int, stride: int, weights: int,
    bias: int,
) -> None:  # fmt: skip
    """(Not by cuDNN, whose convolutions round floats to TF32.)"""
    taps = KERNEL * KERNEL * inputs
    matrix = run.constants(weights, taps * outputs).view(taps, outputs)
    y = _around(run.values[x], height, width, inputs, stride) @ matrix + run.constants(bias, outputs)
    run.values[out] = y.flatten(2)


def _integrator(run: Run, x: Buffer, out: Buffer, width: int, column: int) -> None:
    membrane, found = _columns(run.before.numbers, column, width), []
    for current in run.values[x]:
        membrane = membrane + current
        found.append(membrane)
    run.values[out] = torch.stack(found)
    _keep(run.after.numbers, column, membrane)
    run.strange = run.strange | membrane.isnan().any()


# ---- Neurons: each makes a step (current, state, levels before) -> (levels, state), whose state ends with the membrane

Step = Callable[[Tensor, tuple[Tensor, ...], Tensor], tuple[Tensor, tuple[Tensor, ...]]]


def _spike(run: Run, place: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The multi-bit spike: of a membrane, its levels and what is left of it.

    (Its constants are tensors, because CUDA divides by a number of Python as a product with the reciprocal.)
    """
    reach, lowest, scale, threshold = run.constants(place, 4)

    def fire(membrane: Tensor) -> tuple[Tensor, Tensor]:
        levels = torch.trunc(scale * torch.clamp(membrane, lowest, reach))
        levels = levels.masked_fill(levels.abs() <= threshold, 0)
        return levels, membrane - levels / scale

    return fire


def _learnable_lif(run: Run, spike: int, size: int, leak: int, threshold: int) -> Step:
    leaks, thresholds = run.constants(leak, size), run.constants(threshold, size)

    def step(x: Tensor, state: tuple[Tensor, ...], before: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        membrane = leaks * state[0] + x
        levels = (membrane / thresholds - 1 > 0).float()
        return levels, (membrane - thresholds * levels,)

    return step


def _multibit_lif(run: Run, spike: int, size: int, leak: int) -> Step:
    fire, leaks = _spike(run, spike), run.constants(leak, size)

    def step(x: Tensor, state: tuple[Tensor, ...], before: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        levels, membrane = fire(leaks * state[0] + x)
        return levels, (membrane,)

    return step


def _multibit_synaptic_lif(run: Run, spike: int, size: int, tau: int) -> Step:
    fire, taus = _spike(run, spike), run.constants(tau, size)

    def step(x: Tensor, state: tuple[Tensor, ...], before: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        current = taus * state[0] + x
        levels, membrane = fire(state[1] + current)
        return levels, (current, membrane)

    return step


def _input_gated_lif(run: Run, spike: int, size: int, channels: int) -> Step:
    """Each place of a picture has the gate currents of its channels, then their candidates."""
    fire = _spike(run, spike)

    def step(x: Tensor, state: tuple[Tensor, ...], before: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        f, c = (half.flatten(1) for half in x.unflatten(-1, (-1, 2, channels)).unbind(2))
        gate = torch.sigmoid(f)
        current = gate * state[0] + (1 - gate) * torch.relu(c)
        levels, membrane = fire(state[1] + current)
        return levels, (current, membrane)

    return step


def _recurrent_gated_lif(run: Run, spike: int, size: int, scale: int, weights: int, most: int, past: int) -> Step:
    gated = _input_gated_lif(run, spike, size, size)
    unit, scales = run.constants(spike + 4, 1), run.constants(scale, 2 * size)

    def step(x: Tensor, state: tuple[Tensor, ...], before: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        sums = run.product(before, weights, size, 2 * size)
        return gated(sums.float() * unit * scales + x, state, before)

    return step


class _Kind(NamedTuple):
    """A kind of neurons: what makes its step, and the inputs and the parts of the state of each neuron."""

    step: Callable[..., Step]
    inputs: int
    parts: int


def _neurons(
    kind: _Kind, run: Run, x: Buffer, out: Buffer, size: int, spike: int, column: int, backwards: int, masked: int,
    width: int, first: int, *parameters: int,
) -> None:  # fmt: skip
    step = kind.step(run, spike, size, *parameters)
    currents = run.values[x][..., first : first + kind.inputs * size]
    past = parameters[-1] if kind.step is _recurrent_gated_lif else NONE
    state = _columns(run.before.numbers, column, kind.parts * size).split(size, dim=1)
    levels = _columns(run.before.levels, past, size)
    found = [levels] * run.steps
    for t in reversed(range(run.steps)) if backwards else range(run.steps):
        fired, state = step(currents[t], state, levels)
        found[t] = levels = (fired.masked_fill(~run.real[t], 0) if masked else fired).to(torch.int8)
    run.values[out] = torch.stack(found)
    _keep(run.after.numbers, column, torch.cat(state, dim=1))
    _keep(run.after.levels, past, levels)
    run.strange = run.strange | state[-1].isnan().any()  # (once it is NaN, a membrane stays so)


_NEURONS = {
    instructions.LEARNABLE_LIF: _Kind(_learnable_lif, 1, 1),
    instructions.MULTIBIT_LIF: _Kind(_multibit_lif, 1, 1),
    instructions.MULTIBIT_SYNAPTIC_LIF: _Kind(_multibit_synaptic_lif, 1, 2),
    instructions.INPUT_GATED_LIF: _Kind(_input_gated_lif, 2, 2),
    instructions.RECURRENT_GATED_LIF: _Kind(_recurrent_gated_lif, 2, 2),
}
_INSTRUCTIONS: dict[int, Callable[..., None]] = {
    instructions.EMBED: _embed,
    instructions.NORM: _norm,
    instructions.WINDOWS: _windows,
    instructions.PRODUCT: _product,
    instructions.RESCALE: _rescale,
    instructions.ATTENTION: _attention,
    instructions.BEST: _best,
    instructions.SPARSE_CONVOLUTION: _sparse_convolution,
    instructions.PATCHES: _patches,
    instructions.INTEGRATOR: _integrator,
    **{number: functools.partial(_neurons, kind) for number, kind in _NEURONS.items()},
}

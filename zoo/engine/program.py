"""A network as a program: a list of instructions on plain memory, which a compiled kernel runs.

Each module writes its own part, with its method ``lower``: so there is one definition of a network, and its program
follows from it. Anything that a program cannot express raises :class:`NotInIntegers`.
"""

import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

import neurons
from neurons.neuron import MultiBitNeuron
from neurons.spike import FULL_PRECISION, level_count
from zoo.engine import instructions
from zoo.engine.integers import LARGEST, by_events, held_for_products, matrix_product, quantised

if TYPE_CHECKING:
    from zoo.engine.kernels import Memory

FEW_ROWS = 5
"""Up to this many rows, a program runs in one call, with its products spike by spike."""
ROWS_AT_ONCE = 64
"""Rows of the best outputs that are computed at once, per thread."""
ROWS_PER_THREAD = 64
"""Rows that are worth a thread of their own."""
SHORT, LARGEST_SUM = 2**15 - 1, 2**31 - 1
"""The largest sums in 16 and 32 bits."""


class NotInIntegers(ValueError):
    """The reason why a network, as it is now, is not computed in integers."""


class Buffer(NamedTuple):
    """``width`` values per row, in the memory called ``kind``."""

    kind: str
    place: int
    """Its start, in values per row."""
    width: int


class Spikes(NamedTuple):
    """Spikes as ``levels`` between ``-largest`` and ``largest``; the constant at ``unit`` is the size of one level."""

    levels: Buffer
    unit: int
    largest: int
    places: int = 1
    """The products that a row takes: ``levels`` holds this many equal parts."""


class Weight(NamedTuple):
    """The places of the constants of an integer weight ``[inputs, outputs]``, and its scales."""

    levels: int
    scale: int
    scales: np.ndarray
    inputs: int
    outputs: int


class Context(NamedTuple):
    """The memory of attention: keys ``[N, S]`` and values ``[S, N]`` of several sequences, in each layer.

    ``memory [layers, sequences, 2, N * S]`` holds them. Row b of a program's batch attends to the first
    ``lengths[sources[b]]`` keys of the sequence ``sources[b]``.
    """

    memory: np.ndarray | Tensor
    steps: int
    sources: np.ndarray
    lengths: np.ndarray


_NO_TOKENS = np.zeros((0, 0), np.int64)
NO_CONTEXT = Context(np.zeros((0, 0, 2, 0), np.float32), 0, np.zeros(0, np.int64), np.zeros(0, np.int64))


class State(NamedTuple):
    """What a program remembers: ``numbers [B, ...]`` (float32) of its neurons, and ``levels [B, ...]`` (int8).

    They are where the program ran: arrays of NumPy, or tensors on a device.
    """

    numbers: np.ndarray | Tensor
    levels: np.ndarray | Tensor


class Result(NamedTuple):
    """The result of a run: the memory, the place in it of each buffer that holds a result, the state, and the
    log-probabilities and places of the best outputs."""

    arrays: dict[str, np.ndarray]
    placed: dict[Buffer, Buffer]
    state: State
    values: np.ndarray
    places: np.ndarray


class Executor(Protocol):
    """What runs the instructions of a program: :class:`Program` itself, or :class:`zoo.engine.on_device.OnDevice`."""

    def run(
        self,
        inputs: np.ndarray,
        lengths: np.ndarray,
        state: State | None = None,
        context: Context | None = None,
        count: int = 0,
    ) -> Result:
        """See :meth:`Program.run`."""
        ...

    def moved(self, values: np.ndarray) -> np.ndarray | Tensor:
        """``values`` where its instructions read them."""
        ...


class _Memory(threading.local):
    """The working memory of a program, one per thread; it grows as needed and is reused."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}

    def of(self, kind: str, size: int, dtype: type) -> np.ndarray:
        found = self.arrays.get(kind)
        if found is None or len(found) < size:
            found = self.arrays[kind] = np.empty(size, dtype)
        return found


_INSTRUCTIONS: dict[type, int] = {
    neurons.LearnableLIF: instructions.LEARNABLE_LIF,
    neurons.MultiBitLIF: instructions.MULTIBIT_LIF,
    neurons.MultiBitSynapticLIF: instructions.MULTIBIT_SYNAPTIC_LIF,
    neurons.InputGatedLIF: instructions.INPUT_GATED_LIF,
    neurons.RecurrentGatedLIF: instructions.RECURRENT_GATED_LIF,
}
_TYPES = {"numbers": np.float32, "levels": np.int8, "sums": np.int32}


class Program:
    """Instructions, their constants, and the memory they need per row.

    The names of the network's weights are kept for errors.
    """

    def __init__(self, network: nn.Module):
        self.code: list[list[Any]] = []
        self.widths = dict.fromkeys(_TYPES, 0)
        self.state_width = self.past_width = 0
        self.room = self.inputs = 1
        """``room`` is the most temporary values of an instruction per row, ``inputs`` the most inputs of a product."""
        self._names = {parameter.data_ptr(): name for name, parameter in network.named_parameters()}
        self._floats: list[np.ndarray] = []
        self._integers: list[np.ndarray] = []
        self._weights: dict[int, tuple[Tensor, Weight]] = {}
        self._held: dict[tuple[int, int, int], Tensor] = {}
        """Weights for products of matrices, by their place, their number of inputs and the largest level."""
        self._memory = _Memory()
        self._given: Buffer | None = None
        self._placed: dict[Buffer, Buffer] = {}
        """For each buffer, the one with the place that it has in memory."""

    # ---- Writing ----

    def lower(self, module: nn.Module, *arguments: Any, **named: Any) -> Any:
        """Call ``module.lower(self, ...)``, if the same class defines it and the module's ``forward``."""
        kind = type(module)
        if "forward" in vars(module) or _defined_in(kind, "forward") is not _defined_in(kind, "lower"):
            raise NotInIntegers(f"{kind.__name__} does not say how it runs in integers")
        return cast(Any, module).lower(self, *arguments, **named)

    def buffer(self, kind: str, width: int) -> Buffer:
        place = self.widths[kind]
        self.widths[kind] += width
        return Buffer(kind, place, width)

    def given(self, width: int) -> Buffer:
        """The buffer of the numbers that a run is given, ``width`` in every row. To be called first."""
        if self.widths["numbers"]:
            raise ValueError("a program is given numbers in its first buffer, and it has others already")
        self._given = self.buffer("numbers", width)
        return self._given

    def constant(self, values: Tensor | np.ndarray) -> int:
        """Add constants; returns their place."""
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        return _append(self._floats, np.asarray(values, np.float32).reshape(-1))

    def weight(self, weight: Tensor, arranged: Tensor | None = None) -> Weight:
        """Add the integers of ``weight [outputs, inputs]``, only once however often it is used.

        ``arranged`` is the weight in this shape, if its own is another, or if the inputs come in another order.
        """
        if id(weight) not in self._weights:
            found = quantised(weight if arranged is None else arranged, self._names.get(weight.data_ptr(), "a weight"))
            place, scale = _append(self._integers, found.levels.reshape(-1)), self.constant(found.scale)
            self._weights[id(weight)] = weight, Weight(place, scale, found.scale, *found.levels.shape)
        return self._weights[id(weight)][1]

    def integer_weights(self) -> list[Tensor]:
        """The weights of all products."""
        return [weight for weight, _ in self._weights.values()]

    def write(self, operation: int, *arguments: Any) -> None:
        self.code.append([operation, *arguments])

    def product(
        self, spikes: tuple[Spikes, ...], weight: Tensor, arranged: Tensor | None = None
    ) -> tuple[list[Any], Weight]:
        """Spikes, side by side, times ``weight [N, K]``: per part of the spikes, a buffer of sums and its unit.

        The instruction after it uses up the sums: the next product's take their place, which stays in the cache.
        """
        whole, start, used, sums = self.weight(weight, arranged), 0, 0, list[Any]()
        for part in spikes:
            out, k = Buffer("sums", used, part.places * whole.outputs), part.levels.width // part.places
            used += out.width
            self.widths["sums"] = max(self.widths["sums"], used)
            most = _most(whole.inputs, part.largest)
            place = whole.levels + start * whole.outputs
            self.write(instructions.PRODUCT, part.levels, k, place, whole.outputs, out, most, part.largest, part.places)
            start += k
            self.inputs, self.room = max(self.inputs, k), max(self.room, whole.outputs)
            sums += [out, part.unit]
        if start != whole.inputs:
            raise ValueError(f"a weight takes {whole.inputs} inputs, and here are {start} spikes")
        return sums, whole

    def linear(
        self,
        spikes: tuple[Spikes, ...],
        layer: nn.Linear,
        residual: Buffer | None = None,
        arranged: Tensor | None = None,
        norm: tuple[Tensor, Tensor] | None = None,
    ) -> Buffer:
        """Spikes times the layer's weight, plus its bias or the ``residual``.

        ``norm`` is a factor of each output and a number to add to it, for a layer without a bias.
        """
        sums, whole = self.product(spikes, layer.weight, arranged)
        out, scale, bias = self.buffer("numbers", whole.outputs), whole.scale, layer.bias
        if norm is not None:
            if bias is not None:
                raise NotInIntegers(f"{layer} has a bias before its norm")
            scale, bias = self.constant(whole.scales * norm[0].cpu().numpy()), norm[1]
        bias_place = instructions.NONE if bias is None else self.constant(bias)
        added = instructions.NONE if residual is None else residual
        self.write(instructions.RESCALE, out, whole.outputs, len(spikes), scale, bias_place, added, 1, *sums)
        return out

    def convolution(
        self, x: Buffer | Spikes, layer: nn.Conv2d, scale: Tensor, bias: Tensor, height: int, width: int
    ) -> Buffer:
        """The layer's convolution of the picture ``x [height, width, C]``, times ``scale [N]``, plus ``bias [N]``."""
        plain(layer, nn.Conv2d)
        around = layer.kernel_size, layer.padding, layer.dilation, layer.groups, layer.padding_mode
        size, stride = (instructions.KERNEL,) * 2, layer.stride[0]
        if around != (size, (1, 1), (1, 1), 1, "zeros") or layer.stride != (stride, stride) or layer.bias is not None:
            raise NotInIntegers(f"{layer} has no instruction of the engine")
        outputs, inputs = layer.weight.shape[:2]
        arranged = layer.weight.detach().permute(0, 2, 3, 1).flatten(1)
        places, where = -(-height // stride) * -(-width // stride), (height, width, inputs)
        if isinstance(x, Buffer):
            out = self.buffer("numbers", places * outputs)
            weights = self.constant((arranged * scale.unsqueeze(1)).T.contiguous())
            self.write(instructions.SPARSE_CONVOLUTION, x, out, *where, outputs, stride, weights, self.constant(bias))
            return out
        patches = self.buffer("levels", places * arranged.shape[1])
        self.write(instructions.PATCHES, x.levels, patches, *where, stride)
        sums, whole = self.product((x._replace(levels=patches, places=places),), layer.weight, arranged)
        out, scales = self.buffer("numbers", places * outputs), self.constant(whole.scales * scale.cpu().numpy())
        rest = 1, scales, self.constant(bias), instructions.NONE, places
        self.write(instructions.RESCALE, out, outputs, *rest, *sums)
        return out

    def layer_norm(self, x: Buffer, layer: nn.LayerNorm, masked: bool) -> Buffer:
        plain(layer, nn.LayerNorm)
        if layer.eps != instructions.EPSILON or layer.bias is None:
            raise NotInIntegers(f"{layer} has no instruction of the engine")
        return self.norm(x, layer.weight, layer.bias, 1, masked)

    def norm(self, x: Buffer, weight: Tensor, bias: Tensor, parts: int, masked: bool) -> Buffer:
        """Layer norm of ``parts`` equal parts of ``x``; with ``masked``, 0 beyond the length of a sequence."""
        out = self.buffer("numbers", x.width)
        self.write(instructions.NORM, x, out, x.width, parts, self.constant(weight), self.constant(bias), int(masked))
        return out

    def state(self, width: int, keeps_state: bool) -> int:
        """Reserve a column of the state, for neurons that keep state."""
        if not keeps_state:
            self.room = max(self.room, width)
            return instructions.NONE
        self.state_width += width
        return self.state_width - width

    def past(self, width: int) -> int:
        """A column of the state that holds levels."""
        self.past_width += width
        return self.past_width - width

    def neuron(
        self,
        neuron: nn.Module,
        x: Buffer,
        keeps_state: bool,
        masked: bool = False,
        backwards: bool = False,
        first: int = 0,
        inputs: int | None = None,
        places: int = 1,
    ) -> Spikes:
        """The neurons of a layer, on the columns ``inputs`` of ``x`` from ``first`` on; on all of them if not given.

        On a picture these are ``places`` one after another, each with the layer's channels. Spikes are 0 beyond the
        length of a sequence where ``masked``; without state, every sequence starts at rest.
        """
        layer = self._checked(neuron)
        size = ((x.width - first) if inputs is None else inputs) // layer.inputs_per_neuron
        spike, unit, largest = self._spike(layer)
        out = self.buffer("levels", size)
        column = self.state(
            size * (len(layer.State._fields) - isinstance(layer, neurons.RecurrentGatedLIF)), keeps_state
        )
        where = x, out, size, spike, column, int(backwards), int(masked), x.width, first
        self.write(_INSTRUCTIONS[type(layer)], *where, *self._parameters(layer, size, places, largest, keeps_state))
        return Spikes(out, unit, largest)

    def integrator(self, neuron: nn.Module, x: Buffer) -> Buffer:
        """The membranes of integrators on all columns of ``x``, after each step."""
        plain(neuron, neurons.Integrator)
        out, column = self.buffer("numbers", x.width), self.state(x.width, keeps_state=True)
        self.write(instructions.INTEGRATOR, x, out, x.width, column)
        return out

    def _checked(self, neuron: nn.Module) -> neurons.Neuron:
        """``neuron``, if it is one that has an instruction."""
        plain(neuron, *_INSTRUCTIONS)
        if isinstance(neuron, neurons.LearnableLIF) and neuron.reset_mechanism != "subtract":
            raise NotInIntegers("of the resets, only reset_mechanism='subtract' has an instruction")
        if isinstance(neuron, MultiBitNeuron) and neuron.bits == FULL_PRECISION:
            raise NotInIntegers("a neuron in full precision fires no levels; give it bits from 1 to 8")
        return cast(neurons.Neuron, neuron)

    def _parameters(self, neuron: neurons.Neuron, size: int, places: int, largest: int, keeps_state: bool) -> list[int]:
        """What the instruction of a neuron takes besides: places of its parameters, one per neuron."""

        def each(parameter: Tensor) -> int:
            return self.constant(parameter.detach().expand(size // places).repeat(places))

        found = neuron.step_parameters()
        if isinstance(neuron, neurons.InputGatedLIF):
            return [size // places]
        if isinstance(neuron, neurons.LearnableLIF):
            return [each(found.leak), each(found.threshold)]
        if isinstance(neuron, neurons.MultiBitLIF):
            return [each(found.leak)]
        if isinstance(neuron, neurons.MultiBitSynapticLIF):
            return [each(found.tau)]
        recurrent = cast(neurons.RecurrentGatedLIF, neuron).recurrent_weight
        whole = self.weight(recurrent.T)
        self.room, self.inputs = max(self.room, 2 * whole.outputs), max(self.inputs, size)
        column = self.past(size) if keeps_state else instructions.NONE
        return [whole.scale, whole.levels, _most(whole.inputs, largest), column]

    def _spike(self, neuron: neurons.Neuron) -> tuple[int, int, int]:
        """Places of the spike function's constants and of the unit of its levels, and the largest level.

        The unit is the last of the constants.
        """
        if not isinstance(neuron, MultiBitNeuron):
            place = self.constant(np.array([0, 0, 0, 0, 1]))  # the constants of a multi-bit spike are not used
            return place, place + 4, 1
        function = neuron.spike()
        reach, scale = function.spike_range.item(), function.scale.item()
        if not 0 < reach < math.inf:
            who = type(neuron).__name__
            raise ValueError(f"the range of a {who} is {reach}, so the network cannot compute with it")
        lowest = 0.0 if neuron.bits == 1 else -reach
        unit = np.float32(1) / np.float32(scale)
        place = self.constant(np.array([reach, lowest, scale, neuron.threshold_levels, unit], np.float32))
        return place, place + 4, level_count(neuron.bits) - 1

    def windows(self, spikes: Spikes, kernel: int, left: int, keeps_state: bool) -> Spikes:
        """Each step joined with its neighbours: ``left`` steps before it, the others after it."""
        width, column = spikes.levels.width, instructions.NONE
        out = self.buffer("levels", kernel * width)
        if keeps_state:
            column = self.past((kernel - 1) * width)
        self.write(instructions.WINDOWS, spikes.levels, out, width, kernel, left, column)
        return spikes._replace(levels=out)

    def embedding(self, weight: Tensor, by: float) -> Buffer:
        """The tokens' rows of ``weight [V, N]``, times ``by``."""
        whole = self.weight(weight)
        out, scale = self.buffer("numbers", whole.inputs), self.constant(whole.scales * np.float32(by))
        self.write(instructions.EMBED, out, whole.inputs, whole.levels, scale, whole.outputs)
        return out

    def attention(self, query: Buffer, heads: int, layer: int) -> Buffer:
        """The result of attention of ``query`` to the memory of the ``layer``-th layer."""
        out = self.buffer("numbers", query.width)
        self.write(instructions.ATTENTION, query, out, query.width, heads, layer)
        return out

    def best(self, spikes: Spikes, weight: Tensor, bias: Tensor) -> None:
        """The most probable of the outputs ``spikes @ weight.T + bias``."""
        (sums, unit), whole = self.product((spikes,), weight)
        self.room = max(self.room, 2 * whole.outputs)
        self.write(instructions.BEST, sums, whole.outputs, unit, whole.scale, self.constant(bias))

    # ---- Running ----

    def finish(self) -> "Program":
        """Complete the program; call it when everything is written."""
        if not self._placed:
            self._placed = _placed(self.code, self._given)
        shape = len(self.code), instructions.ARGUMENTS + 1
        self._fixed, self._per_row = np.full(shape, instructions.NONE, np.int64), np.zeros(shape, np.int64)
        for i, instruction in enumerate(self.code):
            for j, argument in enumerate(instruction):
                if isinstance(argument, Buffer):
                    self._fixed[i, j], self._per_row[i, j] = 0, self._placed.get(argument, argument).place
                else:
                    self._fixed[i, j] = argument
        for kind in ("numbers", "levels"):
            self.widths[kind] = max([b.place + b.width for b in self._placed.values() if b.kind == kind], default=0)
        self._results = {buffer: self._placed[buffer] for buffer in _results(self.code)}
        self._constants, self._joined = _joined(self._floats, np.float32), _joined(self._integers, np.int8)
        self._products = [(i, code[8]) for i, code in enumerate(self.code) if code[0] == instructions.PRODUCT]
        self._last = shape[0]
        if [code[0] for code in self.code[-2:]] == [instructions.PRODUCT, instructions.BEST]:  # see _find_best
            self._last = self._products.pop()[0]
        return self

    def run(
        self,
        inputs: np.ndarray,
        lengths: np.ndarray,
        state: State | tuple[np.ndarray, np.ndarray] | None = None,
        context: Context | None = None,
        count: int = 0,
    ) -> Result:
        """Run it on ``inputs``, of which column b holds ``lengths[b]``, from ``state`` (None: at rest).

        They are tokens ``[T, B]``, or numbers ``[T, B, N]`` for the buffer :meth:`given`.

        ``count`` is the number of best outputs wanted.
        """
        from zoo.engine import kernels  # which imports Numba

        steps, batch = inputs.shape[:2]
        rows = steps * batch
        arrays = {kind: self._memory.of(kind, rows * self.widths[kind], dtype) for kind, dtype in _TYPES.items()}
        # In another layout everything would be compiled once more for it.
        tokens = np.ascontiguousarray(inputs) if inputs.ndim == 2 else _NO_TOKENS
        if inputs.ndim == 3:
            arrays["numbers"][: inputs.size].reshape(inputs.shape)[:] = inputs
        if state is None:
            state = np.zeros((batch, self.state_width), np.float32), np.zeros((batch, self.past_width), np.int8)
        before = self.moved(state[0]), self.moved(state[1])
        after = np.empty_like(before[0]), np.empty_like(before[1])
        values, places = np.empty((rows, count), np.float32), np.empty((rows, count), np.int64)
        attended = context or NO_CONTEXT
        memory = kernels.Memory(
            steps, batch, self._constants, self._joined, arrays["numbers"], arrays["levels"], arrays["sums"],
            tokens, lengths, before[0], after[0], before[1], after[1], self.moved(attended.memory).reshape(-1),
            attended.memory.shape[1], attended.steps, attended.sources, attended.lengths, values, places,
        )  # fmt: skip
        code = self._fixed + self._per_row * rows
        start, last = 0, self._last if rows > FEW_ROWS else len(code)
        for product, parts in self._products:
            if rows * parts > FEW_ROWS:
                self._run(code[start:product], memory, 0, batch)
                self._product(code[product : product + 1], memory, 0, batch)
                start = product + 1
        self._run(code[start:last], memory, 0, batch)
        if last < len(code):
            self._find_best(code, memory)
        return Result(arrays, self._results, State(*after), values, places)

    def moved(self, values: np.ndarray | Tensor) -> np.ndarray:
        """``values`` in the CPU's memory, also those of a run on a device."""
        return values.cpu().numpy() if isinstance(values, Tensor) else values

    def _find_best(self, code: np.ndarray, memory: "Memory") -> None:
        """The best outputs: a group of rows at a time, whose sums stay in the processor's cache."""
        group = ROWS_AT_ONCE * torch.get_num_threads() if memory.steps == 1 else memory.batch
        for first in range(0, memory.batch, group):
            last = min(first + group, memory.batch)
            self._product(code[-2:-1], memory, first, last)
            self._run(code[-1:], memory, first, last)

    def _run(self, code: np.ndarray, memory: "Memory", first: int, last: int) -> None:
        """Run these instructions on part of the batch, shared among torch's threads if it is large."""
        from neurons.kernels.cpu import in_shares
        from zoo.engine import kernels

        strange: list[int] = []

        def work(start: int, stop: int) -> None:
            room = kernels.Room(
                np.empty(max(self.room, memory.keys), np.float32), np.empty(self.room, np.int32),
                np.empty(self.room, np.int16), np.empty(self.inputs + 1, np.int64),
                np.empty(instructions.LANES, np.float32),
            )  # fmt: skip
            if kernels.run(code, memory, room, first + start, first + stop):
                strange.append(start)

        in_shares(work, last - first, (last - first) * memory.steps // ROWS_PER_THREAD)
        if strange:
            raise ValueError("a membrane is NaN: the input or the weights are not finite")

    def _product(self, code: np.ndarray, memory: "Memory", first: int, last: int) -> None:
        """Compute a product in the way that takes less time: for the whole batch, or, of one step, for part of it."""
        _, at, k, weight, n, out, _, largest, places, *_ = code[0].tolist()
        start, stop = first * memory.steps * places, last * memory.steps * places
        levels = memory.levels[at + start * k : at + stop * k].reshape(-1, k)
        if by_events(levels):
            return self._run(code, memory, first, last)
        key = weight, k, largest
        if key not in self._held:
            self._held[key] = held_for_products(memory.weights[weight : weight + k * n].reshape(k, n), largest)
        matrix_product(levels, self._held[key], memory.sums[out + start * n : out + stop * n].reshape(-1, n))


def plain(module: nn.Module, *kinds: type) -> None:
    """Raise NotInIntegers unless ``module`` is of one of these kinds, and computes as they do."""
    if type(module) not in kinds or {"forward", "scan", "step"} & vars(module).keys():
        raise NotInIntegers(f"{type(module).__name__} has no instruction of the engine here")


def _most(inputs: int, largest: int) -> int:
    """How many products of a level and a weight fit into 16 bits. Raises NotInIntegers if ``inputs`` exceed 32 bits."""
    if inputs * largest * LARGEST > LARGEST_SUM:
        raise NotInIntegers(f"the sum of {inputs} products may not fit into 32 bits")
    return SHORT // (LARGEST * largest)


def _uses(code: list[list[Any]]) -> dict[Buffer, list[int]]:
    """For each buffer, the instructions that take it. (Sums share a place already.)"""
    found: dict[Buffer, list[int]] = {}
    for i, instruction in enumerate(code):
        for argument in instruction:
            if isinstance(argument, Buffer) and argument.kind != "sums":
                found.setdefault(argument, []).append(i)
    return found


def _results(code: list[list[Any]]) -> list[Buffer]:
    """The buffers that hold results: those that only one instruction takes, the one that writes them."""
    return [buffer for buffer, uses in _uses(code).items() if len(set(uses)) == 1]


def _placed(code: list[list[Any]], given: Buffer | None) -> dict[Buffer, Buffer]:
    """A place for each buffer, the lowest that is free from the buffer's first use to its last.

    So few rows' buffers stay in the processor's cache. Results have their places to the end, the ``given`` buffer has
    the first from the beginning.
    """
    results, lives = set(_results(code)), []
    for buffer, uses in _uses(code).items():
        lives.append((-1 if buffer == given else uses[0], len(code) if buffer in results else uses[-1], buffer))
    lives.sort(key=lambda life: (life[0], life[2].place))
    found: dict[Buffer, Buffer] = {}
    ends: dict[Buffer, int] = {}
    for start, end, buffer in lives:
        place = 0
        taken = [found[b] for b in found if b.kind == buffer.kind and ends[b] >= start]
        for other in sorted(taken, key=lambda other: other.place):
            if other.place - place >= buffer.width:
                break
            place = max(place, other.place + other.width)
        found[buffer], ends[buffer] = buffer._replace(place=place), end
    return found


def part(buffer: Buffer, result: Result, steps: int, batch: int) -> np.ndarray:
    """The values ``[T, B, width]`` of a buffer that holds a result; ValueError for one that was written over."""
    if buffer not in result.placed:
        raise ValueError("this buffer is read by a later instruction, and its memory is used again")
    buffer = result.placed[buffer]
    first = buffer.place * steps * batch
    return result.arrays[buffer.kind][first : first + steps * batch * buffer.width].reshape(steps, batch, buffer.width)


def _append(values: list[np.ndarray], more: np.ndarray) -> int:
    """Append ``more`` to the values; returns its place among all of them."""
    values.append(more)
    return sum(map(len, values)) - len(more)


def _joined(values: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([*values, np.zeros(0, dtype)], dtype=dtype)


def _defined_in(kind: type, method: str) -> type | None:
    return next((owner for owner in kind.__mro__ if method in vars(owner)), None)

"""Where the time of ``benchmarks.inference`` goes: a step of the translator part by part, and products of spikes.

In integers, a part is an instruction of the decoder's program. A program is timed that has this instruction alone, many
times, on the memory of the last step of a real translation, less the time of a program without instructions. In floats,
a part is a kind of module, timed by hooks during a real translation, without the modules inside it; a hook takes a
few microseconds of its own.
"""

import collections
import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import nn

from benchmarks.measure import no_garbage_collection, quartiles, seconds
from benchmarks.users import OURS_FLOAT, OURS_INT8, Job, Size, build_translator
from zoo.engine import instructions, integers
from zoo.engine import program as engine
from zoo.engine.integers import LARGEST
from zoo.engine.program import Buffer, Program, Spikes

CPU = torch.device("cpu")
NAMES = {
    instructions.EMBED: "embedding",
    instructions.NORM: "norm",
    instructions.WINDOWS: "windows",
    instructions.PRODUCT: "product",
    instructions.RESCALE: "rescale",
    instructions.ATTENTION: "attention",
    instructions.BEST: "best",
    instructions.LEARNABLE_LIF: "learnable LIF",
    instructions.MULTIBIT_LIF: "multi-bit LIF",
    instructions.INPUT_GATED_LIF: "input-gated LIF",
}
"""The instructions of a translator."""
WHOLE, PROGRAM, CALL, ENCODER = "a whole step", "the decoder's program", "the call of a program", "the encoder"


@dataclass
class Part:
    """A part of a step, with so many rows (hypotheses); times in seconds per step."""

    precision: str
    rows: int
    part: str
    median: float
    first_quartile: float
    third_quartile: float


class Parts:
    """The parts of a step of our translator."""

    def __init__(self, size: Size, sentences: list[str], samples: int):
        torch.set_num_threads(1)
        self.size, self.samples = size, samples
        self.users = {name: build_translator(name, size, sentences) for name in (OURS_INT8, OURS_FLOAT)}

    def measure(self, job: Job) -> list[Part]:
        """The parts of a step of a job of one batch, in integers and in floats."""
        rows = job.items * job.beam_size
        with no_garbage_collection():
            return [Part("int8", rows, *found) for found in self._instructions(job, rows)] + [
                Part("float32", rows, *found) for found in self._modules(job)
            ]

    def _sampled(self, call: Callable, steps: int) -> tuple[float, float, float]:
        """The median and the quartiles of the seconds per step."""
        call()
        first, median, third = quartiles([seconds(call, 1, CPU) / steps for _ in range(self.samples)])
        return median, first, third

    def _instructions(self, job: Job, rows: int) -> Iterator[tuple]:
        user = self.users[OURS_INT8]
        programs = user.model.programs()
        yield WHOLE, *self._sampled(lambda: user.work(job), self.size.tokens)
        encoding = last_arguments(programs.encoder, lambda: user.work(job))
        yield ENCODER, *self._sampled(lambda: programs.encoder.run(*encoding), self.size.tokens)
        arguments = last_arguments(programs.decoder, lambda: user.work(job))
        programs.decoder.run(*arguments)  # leaves the memory that the instructions find
        yield PROGRAM, *self._sampled(lambda: programs.decoder.run(*arguments), 1)
        nothing = with_code(programs.decoder, [])
        empty = self._sampled(lambda: nothing.run(*arguments), 1)
        yield CALL, *empty
        repeats = max(2, 200 // rows)
        for place, instruction in enumerate(programs.decoder.code):
            one = with_code(programs.decoder, [instruction] * repeats)
            taken = self._sampled(lambda one=one: one.run(*arguments), repeats)
            yield described(place, instruction), *(max(0.0, t - empty[0] / repeats) for t in taken)

    def _modules(self, job: Job) -> Iterator[tuple]:
        user = self.users[OURS_FLOAT]
        whole = self._sampled(lambda: user.work(job), self.size.tokens)
        yield WHOLE, *whole
        found: dict[str, list[float]] = {}
        for _ in range(self.samples):
            for kind, taken in module_times(user.model, lambda: user.work(job)).items():
                found.setdefault(kind, []).append(taken / self.size.tokens)
        for kind, samples in sorted(found.items(), key=lambda kind_samples: -statistics.median(kind_samples[1])):
            first, median, third = quartiles(samples)
            yield kind, median, first, third


def last_arguments(program: Program, action: Callable) -> tuple:
    """The arguments of the last run of ``program`` during ``action()``."""
    seen: list[tuple] = []

    def run(*arguments: Any) -> Any:
        seen.append(arguments)
        return Program.run(program, *arguments)

    with mock.patch.object(program, "run", run):
        action()
    return seen[-1]


def with_code(program: Program, code: list) -> Program:
    """The same program with other instructions, on the same memory."""
    other = copy.copy(program)
    other.code = code
    return other.finish()


def described(place: int, instruction: list) -> str:
    """An instruction in words, with the number of its outputs."""
    operation, *arguments = instruction
    name = f"{place + 1}. {NAMES[operation]}"
    if operation == instructions.PRODUCT:
        return f"{name}, {arguments[1]} x {arguments[3]}"
    outputs = [argument.width for argument in arguments if isinstance(argument, Buffer)]
    return f"{name}, {outputs[min(1, len(outputs) - 1)]}"


def module_times(network: nn.Module, action: Callable) -> dict[str, float]:
    """Seconds that ``action()`` spends in each kind of module, without the modules inside."""
    spent: dict[str, float] = collections.Counter()
    open_calls: list[float] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        open_calls.append(0.0)
        module._began = time.perf_counter()

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        taken, inside = time.perf_counter() - module._began, open_calls.pop()
        spent[type(module).__name__] += taken - inside
        if open_calls:
            open_calls[-1] += taken

    hooks = []
    for module in network.modules():
        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    started = time.perf_counter()
    try:
        action()
    finally:
        for hook in hooks:
            hook.remove()
    spent["outside of modules"] = time.perf_counter() - started - sum(spent.values())
    return dict(spent)


# ---- Products of spikes: events or matrices ----


class Grid(NamedTuple):
    """The products ``[rows, K] x [K, N]`` to measure, at these rates of spikes."""

    shapes: tuple[tuple[int, int], ...] = ((768, 512), (512, 256), (256, 6000))
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 320)
    rates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
    samples: int = 7
    seconds: float = 5e-3
    """The length of a sample, at least."""


QUICK_GRID = Grid(((48, 32), (16, 64)), (1, 16), (0.1, 0.7), 2, 1e-4)


@dataclass
class Product:
    """One product; median times in seconds."""

    inputs: int
    outputs: int
    rows: int
    rate: float
    """The share of spikes that are not zero, as drawn."""
    events: float
    matrices: float
    by_events: bool
    """What the engine chooses."""


@dataclass
class Fit:
    """The constants of :mod:`zoo.engine.integers`, fitted to measurements, in nanoseconds per weight."""

    integer_units: bool
    events: tuple[float, float]
    matrices: tuple[float, float]


class Products:
    """Times of products of spikes, by events and by matrices."""

    def __init__(self, grid: Grid):
        torch.set_num_threads(1)
        self.grid = grid

    def measure(self) -> tuple[list[Product], Fit]:
        """Every product of the grid, and the constants that fit them best."""
        cases = [(*shape, m, r) for shape in self.grid.shapes for m in self.grid.rows for r in self.grid.rates]
        with no_garbage_collection():
            found = [self._product(*case) for case in random.Random(0).sample(cases, len(cases))]
        found.sort(key=lambda p: (-p.inputs, p.rows, p.rate))
        return found, fit(found)

    def _product(self, inputs: int, outputs: int, rows: int, rate: float) -> Product:
        draw = np.random.default_rng(0)
        levels = draw.integers(-7, 8, (rows, inputs), np.int8)
        levels[levels == 0] = 1
        levels[draw.random((rows, inputs)) >= rate] = 0
        weights = draw.integers(-LARGEST, LARGEST + 1, (inputs, outputs)).astype(np.int8)
        weights[0] = LARGEST
        held, out = integers.held_for_products(weights, 7), np.empty((rows, outputs), np.int32)
        by_events = EventProduct(levels, weights)
        integers.matrix_product(levels, held, out)
        if not np.array_equal(by_events(1), out):
            raise RuntimeError(f"the products of {rows} rows differ")
        matrices = self._median(lambda times: [integers.matrix_product(levels, held, out) for _ in range(times)])
        chosen = integers.by_events(levels)
        measured = float((levels != 0).mean())
        return Product(inputs, outputs, rows, measured, self._median(by_events), matrices, chosen)

    def _median(self, call: Callable[[int], Any]) -> float:
        """The median time of a product that a call computes ``times`` times."""
        call(1)
        times = 1 + int(self.grid.seconds / seconds(lambda: call(1), 1, CPU))
        call(times)
        return statistics.median(seconds(lambda: call(times), 1, CPU) / times for _ in range(self.grid.samples))


class EventProduct:
    """The engine's product of ``levels [M, K]`` and ``weights [K, N]``, spike by spike, whatever M and the rate.

    One of the weights of each column must be the largest integer, for the scales to be 1.
    """

    def __init__(self, levels: np.ndarray, weights: np.ndarray):
        self.rows, inputs = levels.shape
        self.program = Program(nn.Module())
        spikes = Spikes(self.program.buffer("levels", inputs), self.program.constant(np.ones(1)), 7)
        self.program.product((spikes,), torch.from_numpy(weights.T.astype(np.float32)))
        self.programs: dict[int, Program] = {}
        arrays = self._run(1)
        arrays["levels"][: levels.size] = levels.reshape(-1)

    def __call__(self, times: int) -> np.ndarray:
        """Compute it ``times`` times; returns the sums ``[M, N]``."""
        return self._run(times)["sums"][: self.rows * self.program.widths["sums"]].reshape(self.rows, -1)

    def _run(self, times: int) -> dict[str, np.ndarray]:
        if times not in self.programs:
            self.programs[times] = with_code(self.program, self.program.code * times)
        tokens, lengths = np.zeros((1, self.rows), np.int64), np.ones(self.rows, np.int64)
        with mock.patch.object(engine, "FEW_ROWS", self.rows):  # then it never computes by matrices
            return self.programs[times].run(tokens, lengths).arrays


def fit(products: list[Product]) -> Fit:
    """The constants with the least relative error."""

    def solved(columns: Callable[[Product], tuple[float, float]], times: Callable[[Product], float]) -> tuple:
        per_weight = [1e9 * times(p) / (p.inputs * p.outputs) for p in products]
        system = np.array([columns(p) for p in products]) / np.array(per_weight)[:, None]
        a, b = np.linalg.lstsq(system, np.ones(len(products)), rcond=None)[0]
        return float(a), float(b)

    events = solved(lambda p: (p.rows, p.rows * p.rate), lambda p: p.events)
    return Fit(integers.has_integer_units(), events, solved(lambda p: (1, p.rows), lambda p: p.matrices))


def crossing(products: list[Product]) -> float | None:
    """The rate up to which events take less time, of the same product at increasing rates; None: at every rate."""
    previous = None
    for product in products:
        excess = product.events / product.matrices - 1
        if excess > 0:
            if previous is None:
                return 0.0
            rate, before = previous
            return rate + (product.rate - rate) * before / (before - excess)
        previous = product.rate, excess
    return None


def chosen_crossing(rows: int, integer_units: bool) -> float | None:
    """The rate up to which the engine chooses events; None: at every rate."""
    a, b = integers.EVENTS
    fixed, each = integers.INTEGERS if integer_units else integers.FLOATS
    rate = ((fixed + each * rows) / rows - a) / b
    return None if rate >= 1 else max(0.0, rate)

"""Time, memory and agreement of contenders on one shape, all of them in turn so that their ratios are fair.

Each contender is called once for warm-up, memory and agreement. Then rounds follow in which every contender is timed,
in a new random order per round. A sample is as many calls as fit into :attr:`Effort.sample_seconds`. A slow contender
drops out of the rounds early. One whose first call takes very long is measured by that call alone. One that would take
too long is skipped, with the reason in its row; so is one that should compute the same as ours but does not, and one of
another library that raises an error.
"""

import contextlib
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.contenders import BYTES_ALONE, OURS, Family, Unavailable
from neurons.kernels import cpu_memory

Call = Callable[[], tuple[Tensor, ...]]
MODES = ("forward", "forward with backward")
_STATUS = Path("/proc/self/status")
AGREEMENT = 1e-3
"""The largest allowed difference of an element, relative to the largest element, and the share that may exceed it."""
MOST_ELEMENTS = 1 << 25
"""The most elements of a sequence on the CPU; the batch is reduced to stay below."""


class Effort(NamedTuple):
    """How much is measured."""

    samples: int = 11
    fewest: int = 3
    sample_seconds: float = 2e-2
    seconds: float = 0.6
    """A contender that has been timed for this long, and at least ``fewest`` times, drops out."""
    one_call: float = 2.0
    """On the CPU, a contender whose first call takes longer is called only once."""
    patience: float = 30.0
    """A call that would take longer is not made."""


class Shape(NamedTuple):
    """``[T, B, N]`` of the output."""

    steps: int
    batch: int
    width: int

    @property
    def elements(self) -> int:
        return self.steps * self.batch * self.width

    def __str__(self) -> str:
        return f"[{self.steps}, {self.batch}, {self.width}]"


@dataclass
class Row:
    """What was measured for one contender on one shape in one mode; times in seconds per call, memory in bytes."""

    neuron: str
    contender: str
    mode: str
    shape: Shape
    median: float | None = None
    first_quartile: float | None = None
    third_quartile: float | None = None
    samples: int = 0
    calls_a_sample: int = 1
    ratio: float | None = None
    """Median divided by that of the family's first contender that can run, which is ours."""
    peak_memory: int | None = None
    """Memory above that in use before the call; it includes outputs and, with backward, gradients."""
    disagreement: float | None = None
    """Share of outputs (and gradients) that differ from the first contender's; None if it computes another function."""
    skipped: str | None = None
    """The reason why there are no times."""

    def as_dict(self) -> dict:
        return asdict(self) | {"shape": list(self.shape)}


def shape_of(steps: int, batch: int, width: int, device: torch.device) -> Shape:
    """``batch``, or less on the CPU if the sequence would have more than :data:`MOST_ELEMENTS` elements."""
    if device.type == "cpu":
        while batch > 1 and steps * batch * width > MOST_ELEMENTS:
            batch //= 2
    return Shape(steps, batch, width)


# ---- One call ----


class BytesAlone(nn.Module):
    """Copies the minimum of bytes that a scan must read and write: half are read, half written.

    Forward: the input and the output. Backward: the input again, the output's gradient and the input's.
    """

    def __init__(self, inputs: int, shape: Shape, device: torch.device):
        super().__init__()
        self.forward_size = (inputs + 1) * shape.elements
        self.training_size = (3 * inputs + 2) * shape.elements
        self.source = torch.ones(-(-self.training_size // 2), device=device)
        self.target = torch.empty_like(self.source)

    def call(self, mode: str) -> tuple[Tensor, ...]:
        size = -(-(self.forward_size if mode == MODES[0] else self.training_size) // 2)
        self.target[:size].copy_(self.source[:size])
        return ()


def prepared(module: nn.Module, x: Tensor, grad_y: Tensor, mode: str) -> Call:
    """A call without arguments: the forward without a graph, or with the gradients of input and parameters."""
    module.train(mode != MODES[0])
    if isinstance(module, BytesAlone):
        return lambda: module.call(mode)
    if mode == MODES[0]:
        return lambda: _forward(module, x)
    wanted = [x, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    return lambda: _forward_and_backward(module, x, wanted, grad_y)


@torch.no_grad()
def _forward(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return (module(x),)


def _forward_and_backward(module: nn.Module, x: Tensor, wanted: list[Tensor], grad_y: Tensor) -> tuple[Tensor, ...]:
    y = module(x)
    return (y.detach(), *torch.autograd.grad(y, wanted, grad_y))


def seconds(call: Call, number: int, device: torch.device) -> float:
    """Seconds per call, over ``number`` calls one after another."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / number
    started = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - started) / number


@contextlib.contextmanager
def no_garbage_collection():
    """Context without garbage collection: Python collects before, not during the measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(call: Call, device: torch.device) -> tuple[float, tuple[Tensor, ...]]:
    """The seconds of one call, and its result."""
    started = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


def with_peak_memory(call: Callable, device: torch.device) -> tuple:
    """The result of ``call``, and the peak of memory during it above that in use before.

    On a GPU it is the memory of torch's allocator. On the CPU it is the process's resident memory, which only Linux
    reports (None elsewhere); it counts whole pages, so it means little below a few MiB.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        return result, torch.cuda.max_memory_allocated(device) - before
    reset = Path("/proc/self/clear_refs")
    before = resident_memory()
    if before is None or not reset.exists():
        return call(), None
    reset.write_text("5")  # resets the peak
    result = call()
    return result, max(0, _status("VmHWM") - before)


def resident_memory() -> int | None:
    """The process's resident memory, without freed memory that is kept; None where the system does not report it."""
    if not _STATUS.exists():
        return None
    cpu_memory.give_back()  # kept freed memory would hide a part of a later call's need
    return _status("VmRSS")


def _status(which: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


def in_turn(
    calls: dict[str, Call], effort: Effort, device: torch.device, number: dict[str, int] | None = None
) -> dict[str, list[float]]:
    """Seconds per call, in rounds of one sample each, in a new random order per round; ``number`` is the calls per
    sample.

    A sample begins with a call that is not timed, so that memory and caches are as this contender's own calls leave
    them, as in a training loop, and not as another contender left them.
    """
    order, shuffle = list(calls), random.Random(0)
    samples = {name: [] for name in order}
    for _ in range(effort.samples):
        shuffle.shuffle(order)
        for name in order:
            taken, calls_a_sample = samples[name], number[name] if number else 1
            if len(taken) < effort.fewest or sum(taken) * calls_a_sample < effort.seconds:
                calls[name]()
                taken.append(seconds(calls[name], calls_a_sample, device))
    return samples


def quartiles(samples: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    first, median, third = statistics.quantiles(samples, n=4, method="inclusive") if samples[1:] else samples * 3
    return first, median, third


def disagreement(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest share, over the tensors, of elements that differ by more than :data:`AGREEMENT` of the largest."""
    shares = []
    for a, b in zip(got, expected, strict=True):
        largest = b.abs().max().clamp(min=torch.finfo(b.dtype).tiny)
        shares.append((~((a - b).abs() <= AGREEMENT * largest)).float().mean().item())
    return max(shares)


# ---- One family on one shape ----


class Results:
    """The rows measured so far, and the time to expect for the next."""

    def __init__(self, device: torch.device, effort: Effort):
        self.device, self.effort = device, effort
        self.rows: list[Row] = []

    def measure(self, family: Family, shape: Shape) -> list[Row]:
        """Measure every contender of the family in both modes; returns the new rows."""
        torch.manual_seed(0)
        x = torch.randn(shape.steps, shape.batch, shape.width * family.inputs, device=self.device).requires_grad_()
        grad_y = torch.rand(tuple(shape), device=self.device)  # positive: sums of many elements must not cancel
        modules, reasons = built(family, shape, self.device)
        new = []
        for mode in MODES:
            rows = {name: Row(family.neuron, name, mode, shape, skipped=reasons.get(name)) for name in family.names}
            calls = {name: prepared(module, x, grad_y, mode) for name, module in modules.items()}
            with no_garbage_collection():
                left = self._first_calls(family, calls, rows)
                number = {name: self._calls_a_sample(calls[name], first) for name, first in left.items()}
                left = {name: calls[name] for name in left}
                for name, samples in in_turn(left, self.effort, self.device, number).items():
                    rows[name].calls_a_sample = number[name]
                    summarise(rows[name], samples)
            ours = rows[next(iter(modules))].median
            for row in rows.values():
                row.ratio = None if None in (row.median, ours) else row.median / ours
            new += rows.values()
        self.rows += new
        return new

    def warm_up(self, families: Iterable[Family]) -> None:
        """Call everything once that is compiled at first use."""
        for family in families:
            Results(self.device, Effort(samples=1, seconds=0, sample_seconds=0)).measure(family, Shape(2, 2, 16))

    def expected_seconds(self, row: Row) -> float:
        """The expected time, from the longest shorter sequence, as if quadratic in T; 0 if there is none."""
        known = [
            (r.shape.steps, r.median * (row.shape.steps / r.shape.steps) ** 2 * row.shape.batch / r.shape.batch)
            for r in self.rows
            if (r.neuron, r.contender, r.mode, r.shape.width) == (row.neuron, row.contender, row.mode, row.shape.width)
            and r.median is not None
            and r.shape.steps < row.shape.steps
        ]
        return max(known)[1] if known else 0.0

    def _calls_a_sample(self, call: Call, first: float) -> int:
        if first > 50 * self.effort.sample_seconds and self.device.type == "cpu":
            return 1  # a second call would only cost time
        return max(1, round(self.effort.sample_seconds / seconds(call, 1, self.device)))

    def _first_calls(self, family: Family, calls: dict[str, Call], rows: dict[str, Row]) -> dict[str, float]:
        """Call each contender once, for its memory and outputs; returns the seconds of those to be measured further."""
        expected, left = None, {}
        for name, call in calls.items():
            row = rows[name]
            if (expected_seconds := self.expected_seconds(row)) > self.effort.patience:
                row.skipped = f"a call would take about {expected_seconds:.0f} s, going by a shorter sequence"
                continue
            try:
                (first, got), row.peak_memory = with_peak_memory(
                    lambda call=call: timed(call, self.device), self.device
                )
            except Exception as error:
                if name.startswith(OURS):
                    raise
                row.skipped = f"it raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                continue
            compared = family.compared(name, got)
            expected = expected or got
            if compared:
                row.disagreement = disagreement(compared, family.compared(name, expected))
                if row.disagreement > AGREEMENT:
                    row.skipped = (
                        f"wrong: {row.disagreement:.1%} of its elements are not as those of {next(iter(calls))}"
                    )
                    continue
            if first > self.effort.one_call and self.device.type == "cpu":
                summarise(row, [first])
            else:
                left[name] = first
        return left


def summarise(row: Row, samples: list[float]) -> None:
    """Store the samples in a row."""
    row.samples = len(samples)
    row.first_quartile, row.median, row.third_quartile = quartiles(samples)


def built(family: Family, shape: Shape, device: torch.device) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The modules of the contenders that can run, all from the same seed, and the reasons why the others cannot."""
    modules, reasons = {}, {}
    for contender in family.contenders:
        torch.manual_seed(1)
        try:
            modules[contender.name] = contender.build(shape.width).to(device)
        except Unavailable as error:
            reasons[contender.name] = str(error)
    if family.bytes_alone:
        modules[BYTES_ALONE] = BytesAlone(family.inputs, shape, device)
    return modules, reasons

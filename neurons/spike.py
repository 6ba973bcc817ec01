"""The multi-bit spike: a signed integer of a few bits, scaled by a tracked range.

With ``b`` bits, a range ``r`` and a threshold of ``k`` levels (PR22)::

    s = 2^(b-1) * (1 - 1e-4) / r                levels per unit of membrane
    q = trunc(s * clip(V, -r, r))               the spike: an integer, |q| <= 2^(b-1) - 1
    q = 0 where |q| <= k
    y = q / s

Backward, the gradient passes straight through: dy/dV = 1 inside ``[-r, r]``, 0 outside. That is the mean slope of the
spike there. The range itself gets no gradient; it is tracked (:class:`TrackedRange`).

Two settings are not in the published formula. *One bit* is a binary spike: y is ``r/2`` where V exceeds ``r/2`` (both
to within 0.01 %, because of the margin in s) and zero elsewhere. (The published formula never fires at one bit.) Its
only step has a mean slope of 1 over ``[r/4, 3r/4]``, so there the gradient passes. *Full precision*, ``bits=32``, is
``y = clip(V, -r, r)``.

Source: Ponghiran and Roy, "Spiking Neural Networks with Improved Inherent Recurrence Dynamics for
Sequential Learning", AAAI 2022, arXiv 2109.01905 (PR22).
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from neurons.checks import Setting, is_real, is_whole
from neurons.kernels.operators import nothing_watches
from neurons.repeats import Notes, start_in_graph, start_of

FULL_PRECISION = 32
MARGIN = 1 - 1e-4
"""Keeps the largest membrane slightly below a full level, so that trunc never reaches 2^(b-1)."""
SMALLEST_RANGE = 1e-12
"""Replaces a tracked range of zero (of a layer whose membrane has only been zero)."""
TRACKING = ("sequence", "step", "fixed")


def check_bits(bits: int, threshold_levels: int = 0) -> None:
    """Raise ValueError unless ``bits`` is 1 to 8 or 32 and the threshold leaves a level that fires."""
    if not is_whole(bits) or not (1 <= bits <= 8 or bits == FULL_PRECISION):
        raise ValueError(
            f"bits must be a whole number from 1 to 8, or {FULL_PRECISION} for full precision; got {bits!r}"
        )
    top = 0 if bits == FULL_PRECISION else level_count(bits) - 1
    if not is_whole(threshold_levels) or not 0 <= threshold_levels <= max(top - 1, 0):
        raise ValueError(
            f"threshold_levels must be a whole number from 0 to {max(top - 1, 0)} at {bits} bits, "
            f"or the neuron never fires; got {threshold_levels!r}"
        )


def level_count(bits: int) -> int:
    """2^(b-1), the number of levels from zero to the range; one bit has the positive level of two bits."""
    return 2 ** (max(bits, 2) - 1)


def _passes(membrane: Tensor, spike_range: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The distance of the membrane from where the gradient passes best, and the largest at which it passes."""
    if bits == 1:
        return (membrane - spike_range / 2).abs(), spike_range / 4
    return membrane.abs(), spike_range


class _StraightThrough(torch.autograd.Function):
    """Forward, ``spike``; backward, the gradient passes near the middle of the range or, of one bit, the threshold."""

    generate_vmap_rule = True

    @staticmethod
    def forward(membrane: Tensor, spike: Tensor, spike_range: Tensor, bits: int) -> Tensor:
        return spike.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        membrane, _, spike_range, ctx.bits = inputs
        ctx.save_for_backward(membrane, spike_range)
        ctx.save_for_forward(membrane, spike_range)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        membrane, spike_range = ctx.saved_tensors
        distance, largest = _passes(membrane, spike_range, ctx.bits)
        return gradient * (distance <= largest), None, None, None


class _StraightThroughInForwardMode(_StraightThrough):
    """With the forward-mode derivative, which torch.compile does not support."""

    @staticmethod
    def jvp(ctx, tangent: Tensor, *others) -> Tensor:
        membrane, spike_range = ctx.saved_tensors
        distance, largest = _passes(membrane, spike_range, ctx.bits)
        return tangent * (distance <= largest)


class _Quantise(torch.autograd.Function):
    """The spike and its straight-through gradient, in fewer operations, for when nothing needs to see them."""

    @staticmethod
    def forward(ctx, membrane: Tensor, spike: "MultiBitSpike") -> Tensor:
        ctx.save_for_backward(membrane, spike.spike_range)
        ctx.bits = spike.bits
        return spike.value(membrane)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        membrane, spike_range = ctx.saved_tensors
        distance, largest = _passes(membrane.detach(), spike_range, ctx.bits)
        return gradient * torch.le(distance, largest, out=torch.empty_like(distance)), None


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply(*arguments)``, without what torch does in every call for a default argument.

    Torch reads the signature of ``forward`` each time, which takes several times as long as the function.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]


def in_forward_mode() -> bool:
    """Whether forward-mode derivatives are being computed (``torch.func.jvp``)."""
    return not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0


class MultiBitSpike(NamedTuple):
    """The spike function Q as a value: call it on a membrane of any shape.

    ``spike_range`` is r, a tensor of one element in membrane units; ``bits`` b; ``threshold_levels`` k.
    """

    spike_range: Tensor
    bits: int
    threshold_levels: int = 0

    @property
    def scale(self) -> Tensor:
        """s, levels per unit of membrane; ``y * scale`` is the integer spike."""
        return level_count(self.bits) * MARGIN / self.spike_range

    def levels(self, membrane: Tensor) -> Tensor:
        """The integer spikes q, as floating-point numbers. NaN stays NaN."""
        return self._levels(membrane, self.scale)

    def value(self, membrane: Tensor) -> Tensor:
        """The spikes y, without a gradient of their own. The range has the type of the membrane."""
        scale = self.scale
        return self._levels(membrane, scale) / scale

    def _levels(self, membrane: Tensor, scale: Tensor) -> Tensor:
        r = self.spike_range
        # trunc, written as a division because the export to ONNX supports that
        q = torch.div(scale * torch.clamp(membrane, -r, r), 1, rounding_mode="trunc")
        if self.bits == 1:
            q = q.clamp(min=0)
        return nn.functional.hardshrink(q, self.threshold_levels)

    def __call__(self, membrane: Tensor) -> Tensor:
        # In the type of the state, as in a kernel.
        r = self.spike_range.detach().to(torch.promote_types(membrane.dtype, torch.float32))
        if self.bits == FULL_PRECISION:
            return torch.clamp(membrane, -r, r)
        same_type = self._replace(spike_range=r)
        if type(membrane) is Tensor and nothing_watches():
            return _Quantise.apply(membrane, same_type)
        with torch.no_grad():
            spike = same_type.value(membrane)
        function = _StraightThroughInForwardMode if in_forward_mode() else _StraightThrough
        return function.apply(membrane, spike, r, self.bits)


class Statistics(NamedTuple):
    """The values behind a tracked range, each a float32 tensor of one element."""

    current: Tensor
    """The current range, in membrane units."""
    minimum: Tensor
    """Moving averages of the membrane's extremes, corrected for their initial bias."""
    maximum: Tensor
    updates: Tensor
    """The number of sequences (or steps) in the averages."""

    def moved(self, minimum: Tensor, maximum: Tensor, momentum: float) -> "Statistics":
        """The statistics after one more sequence (or step) with these extremes; unchanged if one is not finite."""
        updates = self.updates + 1
        can_be_read = type(updates) is Tensor and updates.device.type == "cpu" and nothing_watches()
        rate = _known_rate(updates.item(), momentum) if can_be_read else _rate(updates, momentum)
        lowest = torch.lerp(self.minimum, minimum.to(self.minimum.dtype), rate)
        highest = torch.lerp(self.maximum, maximum.to(self.maximum.dtype), rate)
        largest = torch.maximum(lowest.abs(), highest.abs())  # NaN if either is NaN
        after = largest.clamp(min=SMALLEST_RANGE), lowest, highest, updates
        if can_be_read and math.isfinite(largest.item()):  # no need to choose
            return Statistics(*after)
        finite = torch.isfinite(largest)
        return Statistics(*[torch.where(finite, new, old) for new, old in zip(after, self)])


def _rate(updates: Tensor, momentum: float) -> Tensor:
    """How far the n-th of the updates moves the averages."""
    return torch.where(updates > 1, momentum / (1 - (1 - momentum) ** updates), 1.0)


@functools.lru_cache
def _known_rate(updates: float, momentum: float) -> Tensor:
    with torch.inference_mode(False):
        return _rate(torch.tensor(updates, dtype=torch.float32), momentum)


def joined(start: Statistics, parts: Statistics) -> Statistics:
    """The statistics after one sequence whose batch was computed in parts, each of which began with ``start``.

    ``parts`` are those after each part, ``[parts, ...]``. An average moves by the same rate in all parts, so the
    smallest of the averages of the minimum is the one that moved to the minimum of the whole batch. The statistics are
    unchanged if those of one part are, because its membrane was not finite; as for a whole batch.
    """
    minimum, maximum = parts.minimum.amin(0), parts.maximum.amax(0)
    updates = parts.updates.amin(0)
    largest = torch.maximum(minimum.abs(), maximum.abs()).clamp(min=SMALLEST_RANGE)
    after = Statistics(largest, minimum, maximum, updates)
    return Statistics(*[torch.where(updates > start.updates, new, old) for new, old in zip(after, start)])


class _Running(NamedTuple):
    """A sequence that is fed step by step: the statistics at its start, and its extremes so far."""

    start: Statistics
    minimum: Tensor
    maximum: Tensor


def _earlier(initial: Tensor, minimum: Tensor, maximum: Tensor, updates: Tensor, momentum: float) -> Statistics:
    """Statistics as earlier releases saved them: averages that started from zero and are corrected when read."""
    correction = (1 - (1 - momentum) ** updates).clamp(min=momentum / 2)
    largest = (torch.maximum(minimum.abs(), maximum.abs()) / correction).clamp(min=SMALLEST_RANGE)
    after = largest, minimum / correction, maximum / correction
    before = initial, -initial, initial
    current, lowest, highest = (torch.where(updates > 0, new, old) for new, old in zip(after, before))
    return Statistics(current, lowest, highest, updates)


def _tracking(_: Any, tracking: str) -> str:
    if not isinstance(tracking, str) or tracking not in TRACKING:
        raise ValueError(f"range tracking must be one of {', '.join(TRACKING)}; got {tracking!r}")
    return tracking


def _momentum(_: Any, momentum: float) -> float:
    if not is_real(momentum) or not 0 < momentum <= 1:
        raise ValueError(f"range momentum must lie in (0, 1]; got {momentum!r}")
    return float(momentum)


class TrackedRange(nn.Module):
    """The range r of a layer's spikes: an exponential moving average of the membrane's extremes.

    The n-th update, with momentum m, moves the averages of the minimum and the maximum towards the extremes::

        rate = m / (1 - (1 - m)^n)
        average = average + rate * (extreme - average)
        r = max(|average of minimum|, |average of maximum|)

    Before the first update r is ``initial_range``; the first update replaces it by the extremes. Updates happen in
    training mode only. ``tracking`` says when: ``"sequence"``, once per sequence, after the sequence was quantised with
    the range so far (a fused scan can do this); ``"step"``, at every step, before that step is quantised, as in PR22's
    code (reference scan only); ``"fixed"``, never. A sequence with a membrane that is not finite leaves the range
    unchanged.

    The range, the averages and the count are buffers, saved with the model, and float32 whatever type the model is
    turned to. A sequence that is fed step by step is quantised with the range at its start. After every step the
    buffers have the values that they would have if the sequence ended there. So nothing is left to do at its end, and
    the values that :meth:`load_state_dict` loads are in use at once.

    A forward that a backward repeats (activation checkpointing) uses the same range as the first time, and changes
    nothing.
    """

    current: Tensor
    minimum: Tensor
    maximum: Tensor
    updates: Tensor
    tracking = Setting(_tracking)
    momentum = Setting(_momentum)
    _notes: Notes
    _running: _Running | None
    _still: bool

    def __init__(self, initial_range: float = 1.0, tracking: str = "sequence", momentum: float = 0.1):
        super().__init__()
        largest = torch.finfo(torch.float32).max
        if not is_real(initial_range) or not SMALLEST_RANGE <= initial_range <= largest:
            raise ValueError(
                f"initial_range must be a finite number of membrane units, at least {SMALLEST_RANGE}; "
                f"got {initial_range!r}"
            )
        self.tracking = tracking
        self.momentum = momentum
        initial = float(initial_range)
        for name, value in zip(Statistics._fields, (initial, -initial, initial, 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        self._notes = Notes()
        self._running = None
        self._still = False

    def value(self) -> Tensor:
        """The range r for a sequence that begins now: a float32 tensor of one element."""
        return self.current.clone()

    def begin(self, inputs: Sequence[Tensor], goes_on: bool = False) -> tuple[Statistics, bool | Tensor]:
        """The statistics that a forward of these inputs (x and the state) starts from, and whether to observe it.

        ``goes_on`` says that it is a further step of the running sequence, if there is one.
        """
        running = self._running if goes_on else None
        start = Statistics(*[part.clone() for part in (running.start if running else self.statistics())])
        if torch.compiler.is_compiling():
            detached = [x.detach() for x in inputs]
            *noted, first = start_in_graph(self._notes.number, detached, list(start))
            return Statistics(*noted), False if self._still else first
        if not all(map(_is_real, inputs)):
            return start, not self._still
        start, first = start_of(self._notes, inputs, start)
        return start, first and not self._still

    @torch.no_grad()
    def observe(self, start: Statistics, minimum: Tensor, maximum: Tensor, observed: bool | Tensor = True) -> None:
        """Count a sequence that began with the statistics ``start`` and had these extremes."""
        self.write(start.moved(minimum, maximum, self.momentum), observed)
        self.finish_sequence(observed)

    @torch.no_grad()
    def observe_step(
        self, start: Statistics, minimum: Tensor, maximum: Tensor, goes_on: bool, observed: bool | Tensor = True
    ) -> None:
        """Count one step of a sequence that began with ``start``; ``goes_on`` as given to :meth:`begin`."""
        if observed is False:
            return
        before, lowest, highest = self._running, minimum.float(), maximum.float()
        if goes_on and before is not None:
            lowest, highest = torch.minimum(before.minimum, lowest), torch.maximum(before.maximum, highest)
        now = _Running(start, lowest, highest)
        if isinstance(observed, Tensor):  # in a compiled graph
            now = _chosen(observed, now, before or _Running(self.statistics(), *_no_extremes(lowest)))
        self._running = now
        self.write(start.moved(lowest, highest, self.momentum), observed)

    @torch.no_grad()
    def write(self, statistics: Statistics, observed: bool | Tensor = True) -> None:
        """Set the buffers to these values if ``observed``."""
        if observed is False:
            return
        try:
            for own, new in zip(self.statistics(), statistics):
                own.copy_(new if observed is True else torch.where(observed, new, own))
        except RuntimeError as error:
            if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
                raise
            raise RuntimeError(
                "in training a forward moves the range of its spikes, which a transform of torch.func cannot do to "
                'buffers from outside: call .eval() on the network, or fix the range (range_tracking="fixed")'
            ) from error

    def update(self, minimum: Tensor, maximum: Tensor) -> None:
        """Move the averages towards the extremes of one sequence (or step)."""
        self.observe(self.statistics(), minimum, maximum)

    def finish_sequence(self, observed: bool | Tensor = True) -> None:
        """The next step begins a new sequence."""
        if observed is True:
            self._running = None
        elif observed is not False and self._running is not None:  # in a compiled graph
            self._running = _chosen(observed, _Running(self.statistics(), *_no_extremes(observed)), self._running)

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Context in which forwards use the range as usual but do not change it."""
        before, self._still = self._still, True
        try:
            yield
        finally:
            self._still = before

    def statistics(self) -> Statistics:
        """The values behind the range, as they are now."""
        return Statistics(self.current, self.minimum, self.maximum, self.updates)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        def moved(tensor: Tensor) -> Tensor:
            other = fn(tensor)
            return other if other.dtype == tensor.dtype else tensor.to(other.device)

        if self._running is not None:
            start, *extremes = self._running
            self._running = _Running(Statistics(*map(moved, start)), *map(moved, extremes))
        return super()._apply(moved, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments, **named):
        self.finish_sequence()
        names = [f"{prefix}{name}" for name in EARLIER_NAMES]
        if f"{prefix}current" not in state_dict and all(isinstance(state_dict.get(name), Tensor) for name in names):
            initial, minimum, maximum, updates = (state_dict[name].float() for name in names)
            found = _earlier(initial, minimum, maximum, updates, self.momentum)
            del state_dict[f"{prefix}initial"]
            state_dict.update({f"{prefix}{name}": value for name, value in found._asdict().items()})
        for name in Statistics._fields:
            if isinstance(value := state_dict.get(prefix + name), Tensor):
                state_dict[prefix + name] = value.to(torch.float32)
        super()._load_from_state_dict(state_dict, prefix, *arguments, **named)

    def extra_repr(self) -> str:
        return f"tracking={self.tracking!r}, momentum={self.momentum}"


EARLIER_NAMES = ("initial", "minimum", "maximum", "updates")
"""The buffers of a :class:`TrackedRange` in state dicts of earlier releases, which are still loaded."""


def earlier_names(net: nn.Module) -> dict[str, str]:
    """The names in the state dict of ``net`` that have changed, each with its name in earlier releases."""
    ranges = [name for name, m in net.named_modules(remove_duplicate=False) if isinstance(m, TrackedRange)]
    prefixes = [f"{name}." if name else "" for name in ranges]
    return {f"{prefix}current": f"{prefix}initial" for prefix in prefixes}


def _is_real(tensor: Tensor) -> bool:
    """Whether the tensor's values can be read: it is no fake tensor and no tensor of a torch.func transform."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not (wrapped or tensor.is_meta or isinstance(tensor, (FakeTensor, FunctionalTensor)))


def _no_extremes(like: Tensor) -> tuple[Tensor, Tensor]:
    """The extremes of an empty set."""
    infinity = torch.full((), math.inf, device=like.device)
    return infinity, -infinity


def _chosen(condition: Tensor, one: _Running, other: _Running) -> _Running:
    """``one`` where the condition holds, else ``other``."""
    start = Statistics(*[torch.where(condition, a, b) for a, b in zip(one.start, other.start)])
    return _Running(start, *[torch.where(condition, a, b) for a, b in zip(one[1:], other[1:])])


class ObservedSpike:
    """A :class:`MultiBitSpike` that records the extremes of the membranes it is called on."""

    def __init__(self, spike: MultiBitSpike):
        self.spike = spike
        self.extremes: tuple[Tensor, Tensor] | None = None

    @property
    def minimum(self) -> Tensor:
        """The smallest membrane; infinite before the first."""
        return _no_extremes(self.spike.spike_range)[0] if self.extremes is None else self.extremes[0]

    @property
    def maximum(self) -> Tensor:
        return _no_extremes(self.spike.spike_range)[1] if self.extremes is None else self.extremes[1]

    def __call__(self, membrane: Tensor) -> Tensor:
        if membrane.numel():  # an empty batch has no extremes
            low, high = torch.aminmax(membrane.detach())
            before = self.extremes
            if before is not None:
                low, high = torch.minimum(before[0], low), torch.maximum(before[1], high)
            self.extremes = low, high
        return self.spike(membrane)


class StepTrackedSpike:
    """A spike function that updates its range with every membrane, before it quantises that membrane.

    ``statistics`` are those it started from and, after a call, the updated ones.
    """

    def __init__(self, spike: MultiBitSpike, statistics: Statistics, momentum: float):
        self.spike, self.statistics, self.momentum = spike, statistics, momentum

    def __call__(self, membrane: Tensor) -> Tensor:
        if membrane.numel():
            with torch.no_grad():
                self.statistics = self.statistics.moved(*torch.aminmax(membrane.detach()), self.momentum)
        return self.spike._replace(spike_range=self.statistics.current)(membrane)

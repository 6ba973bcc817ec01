"""The multi-bit spike: a signed integer of a few bits, scaled by a tracked range.

With ``b`` bits, a range ``r`` and a threshold of ``k`` levels (PR22)::

    s = 2^(b-1) * (1 - 1e-4) / r                levels per unit of membrane
    q = trunc(s * clip(V, -r, r))               the spike: an integer, |q| <= 2^(b-1) - 1
    q = 0 where |q| <= k
    y = q / s

and backward straight through: dy/dV = 1 inside ``[-r, r]``, 0 outside. The range itself gets no
gradient; it is tracked (:class:`TrackedRange`).

Two settings lie outside the published formula. *One bit* is a binary spike: with one level of size
``r/2``, y is ``r/2`` where V exceeds ``r/2`` (both to 0.01 %, by the margin in s) and zero elsewhere (the published
formula never fires at one bit). *Full precision*, ``bits=32``, is ``y = clip(V, -r, r)``.

Source: Ponghiran and Roy, "Spiking Neural Networks with Improved Inherent Recurrence Dynamics for
Sequential Learning", AAAI 2022, arXiv 2109.01905 (PR22).
"""

import functools
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor, nn

FULL_PRECISION = 32
MARGIN = 1 - 1e-4
"""Keeps the largest membrane a hair under a full level, so that trunc never reaches 2^(b-1)."""
SMALLEST_RANGE = 1e-12
"""Stands in for a tracked range of zero (a layer that has only seen silence)."""
TRACKING = ("sequence", "step", "fixed")
_AVERAGES = ("initial", "minimum", "maximum", "updates")


def check_bits(bits: int, threshold_levels: int = 0) -> None:
    """Raise ValueError unless ``bits`` is 1 to 8 or 32 and the threshold leaves a level that fires."""
    whole = isinstance(bits, int) and not isinstance(bits, bool)
    if not whole or not (1 <= bits <= 8 or bits == FULL_PRECISION):
        raise ValueError(
            f"bits must be a whole number from 1 to 8, or {FULL_PRECISION} for full precision; got {bits!r}"
        )
    top = 0 if bits == FULL_PRECISION else level_count(bits) - 1
    whole = isinstance(threshold_levels, int) and not isinstance(threshold_levels, bool)
    if not whole or not 0 <= threshold_levels <= max(top - 1, 0):
        raise ValueError(
            f"threshold_levels must be a whole number from 0 to {max(top - 1, 0)} at {bits} bits, "
            f"or the neuron never fires; got {threshold_levels!r}"
        )


def level_count(bits: int) -> int:
    """2^(b-1), the levels from zero up to the range; one bit has the positive level of two bits."""
    return 2 ** (max(bits, 2) - 1)


class _StraightThrough(torch.autograd.Function):
    """``spike`` forward; backward the gradient passes where ``|membrane| <= range``."""

    @staticmethod
    def forward(membrane: Tensor, spike: Tensor, spike_range: Tensor) -> Tensor:
        return spike.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        membrane, _, spike_range = inputs
        ctx.save_for_backward(membrane, spike_range)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        membrane, spike_range = ctx.saved_tensors
        return gradient * (membrane.abs() <= spike_range), None, None


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
        """The integer spikes q, as floating point. NaN stays NaN."""
        r = self.spike_range
        q = torch.trunc(self.scale * torch.clamp(membrane, -r, r))
        if self.bits == 1:
            q = q.clamp(min=0)
        return torch.where(q.abs() <= self.threshold_levels, torch.zeros_like(q), q)

    def __call__(self, membrane: Tensor) -> Tensor:
        r = self.spike_range.detach()
        if self.bits == FULL_PRECISION:
            return torch.clamp(membrane, -r, r)
        with torch.no_grad():
            spike = self.levels(membrane) / self.scale
        return _StraightThrough.apply(membrane, spike, r)


def _range(initial: Tensor, minimum: Tensor, maximum: Tensor, updates: Tensor, momentum: float) -> Tensor:
    dtype = torch.promote_types(minimum.dtype, torch.float32)
    extreme = torch.maximum(minimum.abs(), maximum.abs()).to(dtype)
    correction = 1 - (1 - momentum) ** updates.to(dtype)
    tracked = (extreme / correction.clamp(min=momentum / 2)).clamp(min=SMALLEST_RANGE)
    return torch.where(updates > 0, tracked, initial.to(dtype))


@functools.lru_cache(maxsize=1024)
def _known_range(
    initial: float, minimum: float, maximum: float, updates: float, momentum: float, dtype: torch.dtype
) -> Tensor:
    """The range for buffers of these values: computing it takes longer than the scan of one time step."""
    with torch.inference_mode(False):  # what is kept must serve a later call that trains
        buffers = (torch.tensor(value, dtype=dtype, device="cpu") for value in (initial, minimum, maximum, updates))
        return _range(*buffers, momentum)


def _is_eager(tensors: Sequence[Tensor]) -> bool:
    """Whether these are plain tensors of known values: no compiler, transform or fake tensor."""
    return (
        not torch.compiler.is_compiling()
        and all([type(tensor) is Tensor for tensor in tensors])
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )


class TrackedRange(nn.Module):
    """The range r of a layer's spikes: an exponential moving average of the membrane's extremes.

    After n updates with momentum m, the averages of the minimum and the maximum start from zero and are
    corrected for it::

        average = (1 - m) * average + m * extreme
        r = max(|average of minimum|, |average of maximum|) / (1 - (1 - m)^n)

    Before the first update r is ``initial_range``. ``tracking`` says when an update happens, in training
    mode only: ``"sequence"``, once a sequence, after it was quantised with the range so far (a fused scan
    can do this); ``"step"``, at every step before that step is quantised, as PR22's code does (reference
    scan only); ``"fixed"``, never. A sequence with a membrane that is not finite leaves the range as it was.

    The averages and the count are buffers, saved with the model.
    """

    def __init__(self, initial_range: float = 1.0, tracking: str = "sequence", momentum: float = 0.1):
        super().__init__()
        if tracking not in TRACKING:
            raise ValueError(f"range tracking must be one of {', '.join(TRACKING)}; got {tracking!r}")
        largest = torch.finfo(torch.float32).max
        if not isinstance(initial_range, Real) or not SMALLEST_RANGE <= initial_range <= largest:
            raise ValueError(
                f"initial_range must be a finite number of membrane units, at least {SMALLEST_RANGE}; "
                f"got {initial_range!r}"
            )
        if not isinstance(momentum, Real) or not 0 < momentum <= 1:
            raise ValueError(f"range momentum must lie in (0, 1]; got {momentum!r}")
        self.tracking = tracking
        self.momentum = momentum
        self.register_buffer("initial", torch.tensor(float(initial_range)))
        self.register_buffer("minimum", torch.tensor(0.0))
        self.register_buffer("maximum", torch.tensor(0.0))
        self.register_buffer("updates", torch.tensor(0.0))
        # Extremes of a sequence that is fed step by step and not finished yet; infinite where there is none.
        self.register_buffer("pending_minimum", torch.tensor(float("inf")), persistent=False)
        self.register_buffer("pending_maximum", torch.tensor(float("-inf")), persistent=False)

    def value(self) -> Tensor:
        """The range r now, a tensor of one element, bias-corrected, in float32 at least, as the membrane is."""
        buffers = [self._buffers[name] for name in _AVERAGES]  # as attributes they take longer
        if self.training or buffers[0].device.type != "cpu" or not _is_eager(buffers):
            return _range(*buffers, self.momentum)
        if not buffers[3].item():
            return buffers[0].to(torch.promote_types(buffers[1].dtype, torch.float32))
        return _known_range(*[buffer.item() for buffer in buffers], self.momentum, buffers[1].dtype)

    @torch.no_grad()
    def update(self, minimum: Tensor, maximum: Tensor) -> None:
        """Move the averages towards the extremes of one sequence (or one step)."""
        minimum, maximum = minimum.to(self.minimum.dtype), maximum.to(self.maximum.dtype)
        finite = torch.isfinite(minimum) & torch.isfinite(maximum)
        for average, extreme in ((self.minimum, minimum), (self.maximum, maximum)):
            moved = average + self.momentum * (extreme - average)
            average.copy_(torch.where(finite, moved, average))
        self.updates += finite

    @torch.no_grad()
    def observe(self, minimum: Tensor, maximum: Tensor) -> None:
        """Note the extremes of one step of a sequence that :meth:`commit` will close."""
        self.pending_minimum.copy_(torch.minimum(self.pending_minimum, minimum.to(self.minimum.dtype)))
        self.pending_maximum.copy_(torch.maximum(self.pending_maximum, maximum.to(self.maximum.dtype)))

    @torch.no_grad()
    def commit(self) -> None:
        """Update with the extremes observed since the last commit; without any, do nothing."""
        self.update(self.pending_minimum, self.pending_maximum)
        self.pending_minimum.fill_(float("inf"))
        self.pending_maximum.fill_(float("-inf"))

    def extra_repr(self) -> str:
        return f"tracking={self.tracking!r}, momentum={self.momentum}"


class ObservedSpike:
    """A :class:`MultiBitSpike` that notes the extremes of the membranes it is called on."""

    def __init__(self, spike: MultiBitSpike):
        self.spike = spike
        self.minimum = torch.full_like(spike.spike_range, float("inf"))
        self.maximum = torch.full_like(spike.spike_range, float("-inf"))

    def __call__(self, membrane: Tensor) -> Tensor:
        if membrane.numel():  # an empty batch has no extremes
            extremes = torch.aminmax(membrane.detach())
            self.minimum = torch.minimum(self.minimum, extremes.min)
            self.maximum = torch.maximum(self.maximum, extremes.max)
        return self.spike(membrane)


class StepTrackedSpike:
    """A spike function that moves the range with every membrane it is called on, before it quantises it."""

    def __init__(self, tracked: TrackedRange, bits: int, threshold_levels: int):
        self.tracked, self.bits, self.threshold_levels = tracked, bits, threshold_levels

    def __call__(self, membrane: Tensor) -> Tensor:
        if membrane.numel():
            self.tracked.update(*torch.aminmax(membrane.detach()))
        return MultiBitSpike(self.tracked.value(), self.bits, self.threshold_levels)(membrane)

"""A step of the learnable LIF as one node of autograd's graph, for programs that call it step by step.

A step has little arithmetic. Most of its time goes into the dozen nodes that torch makes for it, and into masks, which
take several times as long as a product. So here one :class:`torch.autograd.Function` does it all, without masks where
it can. Its numbers are those of :func:`neurons.learnable_lif.learnable_lif_step`, the definition, which runs wherever
a compiler, a transform or a mode has to see the operations, and in second derivatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neurons.surrogate import SHAPES, SURROGATES, Known


class Ours(NamedTuple):
    """A surrogate by name, of ``u = U / theta - 1``."""

    shape: str
    height: float

    def kept(self, membrane: Tensor, threshold: Tensor) -> Tensor:
        """What the backward keeps: U / theta."""
        return membrane / threshold

    def spikes(self, kept: Tensor) -> Tensor:
        """1 where u > 0, NaN where it is NaN, else 0. Above zero, u is at least the type's eps."""
        below = torch.finfo(kept.dtype).eps / 4
        return (kept - 1).clamp_(0.0, below).mul_(1 / below)

    def charge(self, to_spike: Tensor, kept: Tensor, threshold: Tensor) -> Tensor:
        """The gradient that passes through the spike to the membrane."""
        return to_spike * self.height * SURROGATES[self.shape](kept - 1) / threshold

    def share(self, charge: Tensor, kept: Tensor) -> Tensor:
        """What the charge takes from the gradient of the threshold."""
        return charge * kept


class Library(NamedTuple):
    """A library's surrogate, of ``U - theta``."""

    known: Known

    def kept(self, membrane: Tensor, threshold: Tensor) -> Tensor:
        """What the backward keeps: U - theta."""
        return membrane - threshold

    def spikes(self, kept: Tensor) -> Tensor:
        """1 above the threshold, or also at it."""
        compare = torch.ge if self.known.fires_at_threshold else torch.gt
        return compare(kept, 0, out=torch.empty_like(kept))

    def charge(self, to_spike: Tensor, kept: Tensor, threshold: Tensor) -> Tensor:
        """As in :class:`Ours`."""
        shape, height, slope, _ = self.known
        return to_spike * height * SHAPES[shape](slope * kept)

    def share(self, charge: Tensor, kept: Tensor) -> Tensor:
        """As in :class:`Ours`."""
        return charge


class Rule(NamedTuple):
    """How a neuron fires and resets."""

    surrogate: Ours | Library
    reset: str
    definition: Callable[..., tuple[Tensor, Tensor]]
    """The step in operations that torch differentiates: ``(x, before, leak, threshold) -> (spike, membrane)``."""


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, before: Tensor, leak: Tensor, threshold: Tensor, rule: Rule):
        spike, membrane, kept = _forward(x, before, leak, threshold, rule)
        ctx.save_for_backward(x, before, leak, threshold, kept, spike)
        ctx.rule = rule
        ctx.set_materialize_grads(False)
        return spike, membrane

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        *inputs, kept, spike = ctx.saved_tensors
        needed = ctx.needs_input_grad[: len(inputs)]
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return *_by_definition(inputs, ctx.rule, grads, needed), None
        return *_backward(inputs, kept, spike, ctx.rule, grads, needed), None


def _forward(x: Tensor, before: Tensor, leak: Tensor, threshold: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """The spikes, the new membrane, and what the backward keeps."""
    membrane = (leak * before).add_(x)
    kept = rule.surrogate.kept(membrane, threshold)
    spike = rule.surrogate.spikes(kept)
    if rule.reset == "subtract":
        membrane = membrane - threshold * spike
    elif rule.reset == "zero":
        membrane = membrane.masked_fill(spike > 0, 0.0)
    return spike, membrane, kept


def _backward(inputs: list, kept: Tensor, spike: Tensor, rule: Rule, grads: tuple, needed: tuple) -> list:
    """The gradients of x, of the membrane before, of the leak and of the threshold."""
    (_, before, leak, threshold), (to_spike, to_new), surrogate = inputs, grads, rule.surrogate
    charge = None if to_spike is None else surrogate.charge(to_spike, kept, threshold)
    past_reset, by_reset = to_new, None
    if to_new is not None and rule.reset == "zero":
        past_reset = to_new.masked_fill(spike > 0, 0.0)
    if to_new is not None and rule.reset == "subtract" and needed[3]:
        by_reset = to_new * spike
    to_membrane = _sum(charge, past_reset)
    if to_membrane is None:
        return [None] * len(inputs)
    from_threshold = _sum(surrogate.share(charge, kept), by_reset) if charge is not None and needed[3] else by_reset
    return [
        to_membrane,
        to_membrane * leak if needed[1] else None,
        (to_membrane * before).sum_to_size(leak.shape) if needed[2] else None,
        None if from_threshold is None else -from_threshold.sum_to_size(threshold.shape),
    ]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two gradients; None stands for zero."""
    return other if one is None else one if other is None else one + other


def _by_definition(inputs: list, rule: Rule, grads: tuple, needed: tuple) -> list:
    """The same gradients with a graph of their own."""
    # Views, at which the gradients end: the membrane before may itself depend on another input.
    inputs = [value.view_as(value) for value in inputs]
    wanted = [value for value, asked in zip(inputs, needed) if asked]
    given = [(y, g) for y, g in zip(rule.definition(*inputs), grads) if g is not None and y.requires_grad]
    if not given:
        return [None] * len(inputs)
    ys, to_ys = zip(*given)
    found = iter(torch.autograd.grad(ys, wanted, to_ys, create_graph=True, allow_unused=True))
    return [next(found) if asked else None for asked in needed]


def lif_step(x: Tensor, before: Tensor, leak: Tensor, threshold: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Spikes and the new membrane after a step on ``x``. Leak and threshold broadcast over the membrane."""
    if torch.is_grad_enabled() and any([value.requires_grad for value in (x, before, leak, threshold)]):
        return _Step.apply(x, before, leak, threshold, rule)
    spike, membrane, _ = _forward(x, before, leak, threshold, rule)
    return spike, membrane

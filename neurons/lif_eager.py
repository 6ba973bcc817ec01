"""A step of the learnable LIF as one node of autograd's graph, for programs that call it step by step.

A step has little arithmetic: most of its time goes into the nodes that torch makes for it, a dozen of them, and into
masks, which take several times as long as a product. So here one :class:`torch.autograd.Function` does it all, without
masks where it can. Its numbers are those of :func:`neurons.learnable_lif.learnable_lif_step`, the definition, which
runs wherever a compiler, a transform or a mode has to see the operations, and in second derivatives.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from neurons.surrogate import SURROGATES

Step = Callable[..., tuple[Tensor, Tensor]]


def _spikes(u: Tensor) -> Tensor:
    """1 where ``u > 0``, NaN where it is NaN, else 0, for ``u = U / theta - 1``: above zero, u is at least eps."""
    below = torch.finfo(u.dtype).eps / 4
    return u.clamp(0.0, below).mul_(1 / below)


def _reset(membrane: Tensor, threshold: Tensor, spike: Tensor, reset: str) -> Tensor:
    if reset == "subtract":
        return membrane - threshold * spike
    return membrane.masked_fill(spike > 0, 0.0) if reset == "zero" else membrane


class _LIFStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, before, leak, threshold, gamma: float, surrogate: str, reset: str, definition: Step):
        spike, membrane, ratio = _forward(x, before, leak, threshold, reset)
        ctx.save_for_backward(x, before, leak, threshold, ratio, spike)
        ctx.settings, ctx.definition = (gamma, surrogate, reset), definition
        ctx.set_materialize_grads(False)
        return spike, membrane

    @staticmethod
    def backward(ctx, to_spike: Tensor | None, to_membrane: Tensor | None):
        *inputs, ratio, spike = ctx.saved_tensors
        grads, needed = (to_spike, to_membrane), ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            found = _by_definition(ctx.definition, inputs, ctx.settings, grads, needed)
        else:
            found = _backward(inputs, ratio, spike, ctx.settings, grads, needed)
        return *found, None, None, None, None


def _forward(x: Tensor, before: Tensor, leak: Tensor, threshold: Tensor, reset: str) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes, the new membrane, and the membrane over the threshold."""
    membrane = (leak * before).add_(x)
    ratio = membrane / threshold
    spike = _spikes(ratio - 1)
    return spike, _reset(membrane, threshold, spike, reset), ratio


def _backward(inputs: list, ratio: Tensor, spike: Tensor, settings: tuple, grads: tuple, needed: tuple) -> list:
    """The gradients of x, the membrane before, the leak and the threshold."""
    (_, before, leak, threshold), (gamma, surrogate, reset), (to_spike, to_new) = inputs, settings, grads
    past_reset = to_new
    if to_new is not None and reset == "zero":
        past_reset = to_new.masked_fill(spike > 0, 0.0)
    to_u = None if to_spike is None else to_spike * gamma * SURROGATES[surrogate](ratio - 1)
    if to_u is None:
        to_membrane = past_reset
    else:
        to_membrane = to_u / threshold if past_reset is None else past_reset + to_u / threshold
    found: list[Tensor | None] = [to_membrane, None, None, None]
    if to_membrane is None:
        return found
    if needed[1]:
        found[1] = to_membrane * leak
    if needed[2]:
        found[2] = (to_membrane * before).sum_to_size(leak.shape)
    if needed[3]:
        parts = [] if to_u is None else [to_u * (ratio / threshold)]
        parts += [to_new * spike] if to_new is not None and reset == "subtract" else []
        found[3] = -sum(part.sum_to_size(threshold.shape) for part in parts) if parts else None
    return found


def _by_definition(definition: Step, inputs: list, settings: tuple, grads: tuple, needed: tuple) -> list:
    """The same gradients with a graph of their own."""
    # Views, at which the gradients end: the membrane before may itself depend on another input.
    inputs = [value.view_as(value) for value in inputs]
    outputs = definition(*inputs, *settings)
    wanted = [value for value, asked in zip(inputs, needed) if asked]
    given = [(y, grad) for y, grad in zip(outputs, grads) if grad is not None and y.requires_grad]
    if not given:
        return [None] * len(inputs)
    ys, to_ys = zip(*given)
    found = iter(torch.autograd.grad(ys, wanted, to_ys, create_graph=True, allow_unused=True))
    return [next(found) if asked else None for asked in needed[: len(inputs)]]


def lif_step(
    x: Tensor,
    before: Tensor,
    leak: Tensor,
    threshold: Tensor,
    gamma: float,
    surrogate: str,
    reset: str,
    definition: Step,
) -> tuple[Tensor, Tensor]:
    """Spikes and the new membrane after a step on ``x``; leak and threshold are shaped to broadcast over the membrane.

    ``definition`` computes the same from the same arguments but the last, in operations that torch differentiates.
    """
    if torch.is_grad_enabled() and any([value.requires_grad for value in (x, before, leak, threshold)]):
        return _LIFStep.apply(x, before, leak, threshold, gamma, surrogate, reset, definition)
    spike, membrane, _ = _forward(x, before, leak, threshold, reset)
    return spike, membrane

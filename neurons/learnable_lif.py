"""Learnable LIF: a leaky integrate-and-fire neuron whose leak and threshold are trained (RR24).

::

    U = lambda * U + x
    u = U / theta - 1
    s = 1 where u > 0
    U = U - theta * s

Backward, the surrogate gradient of s with respect to u is ``gamma * max(0, 1 - |u|)``. The reset passes
gradient to theta and not through s.

Source: Rathi and Roy, "LITE-SNN: Leveraging Inherent Dynamics to Train Energy-Efficient Spiking Neural
Networks for Sequential Learning", IEEE TCDS 2024, 10.1109/TCDS.2024.3396431 (RR24).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neurons.checks import Setting, flag, leak_start, one_or_per_channel, positive, within
from neurons.kernels import Kernel
from neurons.neuron import MembraneState, Neuron, clip, over_channels
from neurons.registry import register
from neurons.spike import in_forward_mode

SMALLEST_THRESHOLD = 1e-3
"""Training may not take a threshold to zero, or below it, where the sign of u would turn round."""


class LearnableLIFParameters(NamedTuple):
    """``leak`` lambda (per step) and ``threshold`` theta (membrane units), one number or ``[N]``; ``gamma`` a float."""

    leak: Tensor
    threshold: Tensor
    gamma: float = 0.3


class _TriangularSpike(torch.autograd.Function):
    """1 where u > 0; backward ``gamma * max(0, 1 - |u|)``. NaN stays NaN."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, gamma: float) -> Tensor:
        return torch.where(u.isnan(), u, (u > 0).to(u.dtype))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        u, ctx.gamma = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (u,) = ctx.saved_tensors
        return gradient * ctx.gamma * (1 - u.abs()).clamp(min=0), None


class _TriangularSpikeInForwardMode(_TriangularSpike):
    """With its forward-mode derivative, which torch.compile has no way through."""

    @staticmethod
    def jvp(ctx, tangent: Tensor, _) -> Tensor:
        (u,) = ctx.saved_tensors
        return tangent * ctx.gamma * (1 - u.abs()).clamp(min=0)


def learnable_lif_step(
    x: Tensor, state: MembraneState, parameters: LearnableLIFParameters
) -> tuple[Tensor, MembraneState]:
    """One step on ``x [B, N]``: the spikes (0 or 1) and the new state."""
    leak = over_channels(parameters.leak, state.membrane)
    threshold = over_channels(parameters.threshold, state.membrane)
    membrane = leak * state.membrane + x
    function = _TriangularSpikeInForwardMode if in_forward_mode() else _TriangularSpike
    spike = function.apply(membrane / threshold - 1, parameters.gamma)
    return spike, MembraneState(membrane - threshold * spike.detach())


@register("learnable-lif")
class LearnableLIF(Neuron):
    """Learnable LIF over a sequence ``[T, B, N]`` of input currents; fires 0 or 1.

    ``leak``, in [0, 1], and ``threshold``, 0.001 or more, start as given, one per layer or, given as a tensor ``[N]``,
    one per channel; where training takes them out of these intervals they are clipped to them. ``learn_leak`` and
    ``learn_threshold`` say whether they are trained. ``gamma``, a finite number above 0, is the height of the surrogate
    gradient.
    """

    State = MembraneState
    step = staticmethod(learnable_lif_step)
    kernel = Kernel(learned=("leak", "threshold"), numbers=("float gamma",))
    gamma = Setting(lambda _, gamma: positive(gamma, "gamma"))

    def __init__(
        self,
        leak: float | Tensor = 0.95,
        threshold: float | Tensor = 1.0,
        gamma: float = 0.3,
        learn_leak: bool = True,
        learn_threshold: bool = True,
    ):
        super().__init__()
        self.leak = nn.Parameter(leak_start(leak), requires_grad=flag(learn_leak, "learn_leak"))
        says = f"threshold must be positive, {SMALLEST_THRESHOLD} at least, in membrane units"
        start = within(one_or_per_channel(threshold, "threshold"), SMALLEST_THRESHOLD, math.inf, says)
        self.threshold = nn.Parameter(start, requires_grad=flag(learn_threshold, "learn_threshold"))
        self.gamma = gamma
        lengths = {len(p) for p in (self.leak, self.threshold) if p.dim()}
        if len(lengths) > 1:
            raise ValueError(
                "leak and threshold, where given one per channel, must be of one length; "
                f"got {len(self.leak)} and {len(self.threshold)}"
            )

    @property
    def channels(self) -> int | None:
        return next((len(p) for p in (self.leak, self.threshold) if p.dim()), None)

    def constants(self) -> LearnableLIFParameters:
        threshold = clip(self.threshold, SMALLEST_THRESHOLD, math.inf)
        return LearnableLIFParameters(clip(self.leak, 0.0, 1.0), threshold, self.gamma)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"

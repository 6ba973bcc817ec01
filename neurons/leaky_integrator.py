"""Leaky integrator: a membrane with a learned leak that never fires and never resets, the readout for regression.

::

    V = lambda * V + x
    y = V

It is what snnTorch's ``Leaky`` computes with ``reset_mechanism="none"``, and SpikingJelly's ``LIFNode`` with an endless
threshold, with the membrane as its output. With a leak of 1 it is the integrator of RR24.
"""

from typing import NamedTuple

from torch import Tensor, nn

from neurons.checks import flag, leak_start
from neurons.kernels import Kernel
from neurons.neuron import MembraneState, Neuron, clip, over_channels
from neurons.registry import register


class LeakyIntegratorParameters(NamedTuple):
    """``leak`` lambda per step, one number or ``[N]``."""

    leak: Tensor


def leaky_integrator_step(
    x: Tensor, state: MembraneState, parameters: LeakyIntegratorParameters
) -> tuple[Tensor, MembraneState]:
    """One step on ``x [B, N]``: the output is the membrane itself."""
    membrane = over_channels(parameters.leak, state.membrane) * state.membrane + x
    return membrane, MembraneState(membrane)


@register("leaky-integrator")
class LeakyIntegrator(Neuron):
    """Leaky integrator over a sequence ``[T, B, N]``: the output is the membrane at every step.

    ``leak`` starts in [0, 1] and is clipped to it when used. A number is shared by the layer, a tensor ``[N]`` has one
    value per channel. ``learn_leak`` says whether it is trained.
    """

    State = MembraneState
    resets = "none"
    step = staticmethod(leaky_integrator_step)
    kernel = Kernel(learned=("leak",))

    def __init__(self, leak: float | Tensor = 0.95, learn_leak: bool = True):
        super().__init__()
        self.leak = nn.Parameter(leak_start(leak), requires_grad=flag(learn_leak, "learn_leak"))

    @property
    def channels(self) -> int | None:
        leak = self.leak
        return len(leak) if leak.dim() else None

    def step_parameters(self) -> LeakyIntegratorParameters:
        return LeakyIntegratorParameters(clip(self.leak, 0.0, 1.0))

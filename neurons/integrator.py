"""Integrator readout: a membrane that sums its input and never fires (RR24).

::

    V = V + x
    y = V
"""

from typing import NamedTuple

from torch import Tensor

from neurons.kernels import Kernel
from neurons.neuron import MembraneState, Neuron
from neurons.registry import register


class IntegratorParameters(NamedTuple):
    """The integrator has no parameters."""


def integrator_step(x: Tensor, state: MembraneState, parameters: IntegratorParameters) -> tuple[Tensor, MembraneState]:
    """One step on ``x [B, N]``: the output is the membrane itself."""
    membrane = state.membrane + x
    return membrane, MembraneState(membrane)


@register("integrator")
class Integrator(Neuron):
    """Sum of the input so far, at every step of ``[T, B, N]``: the readout of a classifier. Learns nothing."""

    State = MembraneState
    resets = "none"
    step = staticmethod(integrator_step)
    kernel = Kernel(keeps_state=False)

    def step_parameters(self) -> IntegratorParameters:
        return IntegratorParameters()

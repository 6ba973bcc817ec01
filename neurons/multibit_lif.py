"""Multi-bit LIF: the learnable LIF with a multi-bit spike in place of the binary one.

::

    U = lambda * U + x
    y = Q(U)
    U = U - y

Q is the multi-bit spike of :mod:`neurons.spike`; its range takes the place of the threshold. The reset passes gradient
through y, as in PR22 but unlike in the binary neuron. With a leak of 1 it is PR22's input encoder:
``acc += x; out = Q(acc); acc -= out``.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from neurons.checks import flag, leak_start
from neurons.kernels import Kernel
from neurons.neuron import MembraneState, MultiBitNeuron, clip, over_channels
from neurons.registry import register


class MultiBitLIFParameters(NamedTuple):
    """``leak`` lambda per step, one number or ``[N]``; ``spike``, the spike function Q."""

    leak: Tensor
    spike: Callable[[Tensor], Tensor]


def multibit_lif_step(
    x: Tensor, state: MembraneState, parameters: MultiBitLIFParameters
) -> tuple[Tensor, MembraneState]:
    """One step on ``x [B, N]``: the spikes in membrane units and the new state."""
    membrane = over_channels(parameters.leak, state.membrane) * state.membrane + x
    y = parameters.spike(membrane)
    return y, MembraneState(membrane - y)


@register("multibit-lif")
class MultiBitLIF(MultiBitNeuron):
    """Multi-bit LIF over a sequence ``[T, B, N]``.

    ``leak`` starts in [0, 1] and is clipped to it when used. A number is shared by the layer, a tensor ``[N]`` has one
    value per channel. ``bits``, ``threshold_levels`` and the range are those of the spike
    (:class:`neurons.spike.TrackedRange`).
    """

    State = MembraneState
    step = staticmethod(multibit_lif_step)
    kernel = Kernel(learned=("leak",))

    def __init__(self, leak: float | Tensor = 0.95, learn_leak: bool = True, **spike):
        super().__init__(**spike)
        self.leak = nn.Parameter(leak_start(leak), requires_grad=flag(learn_leak, "learn_leak"))

    @property
    def channels(self) -> int | None:
        leak = self.leak
        return len(leak) if leak.dim() else None

    def step_parameters_with(self, spike: Callable[[Tensor], Tensor]) -> MultiBitLIFParameters:
        return MultiBitLIFParameters(clip(self.leak, 0.0, 1.0), spike)

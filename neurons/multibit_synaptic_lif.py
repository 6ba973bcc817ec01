"""Multi-bit synaptic LIF: a synaptic current that decays by itself, and multi-bit spikes ("traditional" in PR22).

::

    I = tau * I + x
    V = V + I
    y = Q(V)
    V = V - y

Q is the multi-bit spike of :mod:`neurons.spike`; the reset passes gradient through y.

Source: PR22, the traditional recurrence that "v1" and "v2" improve on.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from neurons.checks import flag, one_or_per_channel, within
from neurons.kernels import Kernel
from neurons.neuron import MultiBitNeuron, SynapticState, check_channels, over_channels
from neurons.registry import register


class MultiBitSynapticLIFParameters(NamedTuple):
    """``tau``, the synaptic decay per step, ``[N]``; ``spike``, the spike function Q."""

    tau: Tensor
    spike: Callable[[Tensor], Tensor]


def multibit_synaptic_lif_step(
    x: Tensor, state: SynapticState, parameters: MultiBitSynapticLIFParameters
) -> tuple[Tensor, SynapticState]:
    """One step on ``x [B, N]``: the spikes in membrane units and the new state."""
    current = over_channels(parameters.tau, state.membrane) * state.synaptic_current + x
    membrane = state.membrane + current
    y = parameters.spike(membrane)
    return y, SynapticState(current, membrane - y)


def _tau_start(tau: float | Tensor, channels: int) -> Tensor:
    says = "tau must lie in [0, 1]: it is the share of the synaptic current that is left after a time step"
    start = within(one_or_per_channel(tau, "tau"), 0.0, 1.0, says)
    if start.dim() and len(start) != channels:
        raise ValueError(f"tau is one number, or one per channel: {channels} here; got {len(start)}")
    return start.expand(channels).clone()


@register("multibit-synaptic-lif")
class MultiBitSynapticLIF(MultiBitNeuron):
    """Multi-bit synaptic LIF over a sequence ``[T, B, N]`` of ``channels`` N.

    ``tau`` is one learned decay per neuron, the share of the current that is left after a step. It starts at 1, as in
    PR22, or at another number (or tensor ``[N]``) in [0, 1]: above 1 the current would grow without bound, and below 0
    it would change its sign at every step. Training may move it anywhere. ``bits``, ``threshold_levels`` and the range
    are those of the spike (:class:`neurons.spike.TrackedRange`).
    """

    State = SynapticState
    step = staticmethod(multibit_synaptic_lif_step)
    kernel = Kernel(learned=("tau",))

    def __init__(self, channels: int, tau: float | Tensor = 1.0, learn_tau: bool = True, **spike):
        super().__init__(**spike)
        self.tau = nn.Parameter(_tau_start(tau, check_channels(channels)), requires_grad=flag(learn_tau, "learn_tau"))

    @property
    def channels(self) -> int:
        return len(self.tau)

    def step_parameters_with(self, spike: Callable[[Tensor], Tensor]) -> MultiBitSynapticLIFParameters:
        return MultiBitSynapticLIFParameters(self.tau, spike)

"""Learnable LIF: a leaky integrate-and-fire neuron whose leak and threshold are trained (RR24).

::

    U = lambda * U + x
    u = U / theta - 1
    s = 1 where u > 0
    U = U - theta * s               by reset_mechanism: "subtract", "zero" (U = 0 where s = 1) or "none"

Backward, the surrogate gradient of s with respect to u is ``gamma * max(0, 1 - |u|)`` in RR24, or another of
:mod:`neurons.surrogate`. The reset passes gradient to theta and not through s. RR24
subtracts. A reset to zero loses the rest of the charge at every spike; it is for networks that were made with it in
snnTorch or SpikingJelly. Without a reset the membrane is a readout for regression, as that of the leaky integrator.

Source: Rathi and Roy, "LITE-SNN: Leveraging Inherent Dynamics to Train Energy-Efficient Spiking Neural
Networks for Sequential Learning", IEEE TCDS 2024, 10.1109/TCDS.2024.3396431 (RR24).
"""

import functools
import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from neurons.checks import Setting, flag, leak_start, one_or_per_channel, positive, within
from neurons.kernels import Kernel
from neurons.kernels.operators import nothing_watches
from neurons.lif_eager import Library, Ours, Rule, lif_step
from neurons.neuron import MembraneState, Neuron, clip, over_channels
from neurons.registry import register
from neurons.surrogate import Known, Surrogate, binary_spike, check_reset, checked_surrogate, known

SMALLEST_THRESHOLD = 1e-3
"""The smallest threshold, in training too. At zero u is not defined, and below zero its sign would be reversed."""


class LearnableLIFParameters(NamedTuple):
    """``leak`` lambda (per step) and ``threshold`` theta (membrane units), one number or ``[N]``.

    ``gamma`` and ``surrogate`` are the height and the name of the surrogate gradient, or ``surrogate`` is a function.
    """

    leak: Tensor
    threshold: Tensor
    gamma: float = 0.3
    surrogate: Surrogate = "triangular"
    reset_mechanism: str = "subtract"


def learnable_lif_step(
    x: Tensor, state: MembraneState, parameters: LearnableLIFParameters
) -> tuple[Tensor, MembraneState]:
    """One step on ``x [B, N]``: the spikes (0 or 1) and the new state."""
    leak = over_channels(parameters.leak, state.membrane)
    threshold = over_channels(parameters.threshold, state.membrane)
    membrane = leak * state.membrane + x
    spike = binary_spike(membrane, threshold, parameters.gamma, parameters.surrogate)
    reset = check_reset(parameters.reset_mechanism)
    if reset == "zero":
        return spike, MembraneState(membrane.masked_fill(spike.detach() > 0, 0.0))
    return spike, MembraneState(membrane if reset == "none" else membrane - threshold * spike.detach())


def _definition(
    x: Tensor, before: Tensor, leak: Tensor, threshold: Tensor, parameters: LearnableLIFParameters
) -> tuple[Tensor, Tensor]:
    learned = parameters._replace(leak=leak, threshold=threshold)
    spike, state = learnable_lif_step(x, MembraneState(before), learned)
    return spike, state.membrane


@register("learnable-lif")
class LearnableLIF(Neuron):
    """Learnable LIF over a sequence ``[T, B, N]`` of input currents; fires 0 or 1.

    ``leak``, in [0, 1], and ``threshold``, at least 0.001, are initial values: a number is shared by the layer, a
    tensor ``[N]`` has one value per channel. If training takes them out of these intervals, they are clipped.
    ``learn_leak`` and ``learn_threshold`` say whether they are trained. ``gamma``, a finite number above 0, is the
    height of the surrogate gradient, and ``surrogate`` its shape: "triangular" is that of RR24; "arctan" has a tail,
    with which neurons that have fallen silent learn to fire again (:mod:`neurons.surrogate`). A surrogate of snnTorch
    or SpikingJelly can be given instead: a function from ``U - theta`` to spikes, with its own gradient, to which
    ``gamma`` does not apply. The kernel of the CPU knows most of them; with another function the scan runs step by step
    in torch. ``reset_mechanism`` is "subtract", "zero" for a membrane that loses all its charge at a spike, or "none".
    """

    State = MembraneState
    resets, detaches_reset = "subtract", True
    step = staticmethod(learnable_lif_step)
    kernel = Kernel(learned=("leak", "threshold"), settings=("float gamma", "str surrogate", "str reset_mechanism"))
    gamma = Setting(lambda _, gamma: positive(gamma, "gamma"))
    surrogate = Setting(lambda _, surrogate: checked_surrogate(surrogate))
    reset_mechanism = Setting(lambda _, mechanism: check_reset(mechanism))

    def __init__(
        self,
        leak: float | Tensor = 0.95,
        threshold: float | Tensor = 1.0,
        gamma: float = 0.3,
        learn_leak: bool = True,
        learn_threshold: bool = True,
        surrogate: Surrogate = "triangular",
        reset_mechanism: str = "subtract",
    ):
        super().__init__()
        self.leak = nn.Parameter(leak_start(leak), requires_grad=flag(learn_leak, "learn_leak"))
        says = f"threshold must be positive, {SMALLEST_THRESHOLD} at least, in membrane units"
        start = within(one_or_per_channel(threshold, "threshold"), SMALLEST_THRESHOLD, math.inf, says)
        self.threshold = nn.Parameter(start, requires_grad=flag(learn_threshold, "learn_threshold"))
        self.gamma = gamma
        self.surrogate = surrogate
        self.reset_mechanism = reset_mechanism
        lengths = {len(p) for p in (self.leak, self.threshold) if p.dim()}
        if len(lengths) > 1:
            raise ValueError(
                "leak and threshold, where given one per channel, must be of one length; "
                f"got {len(self.leak)} and {len(self.threshold)}"
            )

    @property
    def channels(self) -> int | None:
        for parameter in (self.leak, self.threshold):
            if parameter.dim():
                return len(parameter)
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        # A surrogate of SpikingJelly is a module, which nn.Module would keep as a layer.
        if name == "surrogate":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def reference_only(self) -> str | None:
        if callable(self.surrogate) and (self.leak.device.type != "cpu" or self._known() is None):
            return f"{type(self).__name__} has a function for its surrogate, which no kernel can call"
        return super().reference_only()

    def _known(self) -> Known | None:
        """What is known of a surrogate that is a library's function, unless a tool has to see it called."""
        return known(self.surrogate) if nothing_watches() else None

    def kernel_parameters(self) -> LearnableLIFParameters:
        parameters = self.step_parameters()
        found = self._known() if callable(parameters.surrogate) else None
        return parameters if found is None else parameters._replace(gamma=found.height, surrogate=found.name)

    def step_parameters(self) -> LearnableLIFParameters:
        threshold = clip(self.threshold, SMALLEST_THRESHOLD, math.inf)
        settings = self.gamma, self.surrogate, self.reset_mechanism
        return LearnableLIFParameters(clip(self.leak, 0.0, 1.0), threshold, *settings)

    def advance(self, x: Tensor, state: MembraneState) -> tuple[Tensor, MembraneState]:
        parameters = self.step_parameters()
        plain = type(x) is Tensor and self.step is learnable_lif_step  # a subclass of Tensor may lack operations
        if not plain or (rule := self._eager_rule(parameters)) is None:
            return self.step(x, state, parameters)
        leak = over_channels(parameters.leak, state.membrane)
        threshold = over_channels(parameters.threshold, state.membrane)
        spike, membrane = lif_step(x, state.membrane, leak, threshold, rule)
        return spike, MembraneState(membrane)

    def _eager_rule(self, parameters: LearnableLIFParameters) -> Rule | None:
        """How it fires, if a step may be one node of autograd's graph."""
        if not nothing_watches():
            return None
        surrogate, definition = parameters.surrogate, functools.partial(_definition, parameters=parameters)
        if isinstance(surrogate, str):
            return Rule(Ours(surrogate, parameters.gamma), parameters.reset_mechanism, definition)
        found = known(surrogate)
        return None if found is None else Rule(Library(found), parameters.reset_mechanism, definition)

    def extra_repr(self) -> str:
        reset = "" if self.reset_mechanism == "subtract" else f", reset_mechanism={self.reset_mechanism!r}"
        return f"gamma={self.gamma}, surrogate={self.surrogate!r}{reset}"

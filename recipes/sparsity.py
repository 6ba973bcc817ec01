"""Training towards few spikes, each weighed by what it costs: the synaptic operations that it causes.

A spike costs as many products as there are weights that it meets. What a neuron's spikes cost in use is counted by
:func:`zoo.profile` on real inputs, before the training. The loss is then::

    loss + weight * operations
    operations = sum over neurons of share_n * rate_n

with ``rate_n`` the share of the neuron's outputs that are not zero in a batch, and ``share_n`` its share of all
synaptic operations if every output fired. Backward, a spike of level q has the gradient ``sign(q) / |q|``: it counts
events and not charge, so small spikes are given up before large ones. The weight is not chosen: a controller raises it
while there are more operations than the goal allows, and lowers it while there are fewer. The goal falls from what the
network begins with to the target, together with the rise of the thresholds.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import neurons
import zoo
from recipes import processes
from recipes.spikes import SpikeMeter, with_thresholds

SMOOTHING = 0.95
"""Of the running mean of the operations, per batch."""
AT_ONCE, PER_BATCH = 10.0, 0.03
"""What operations above the goal add to the logarithm of the weight: while they are there, and for good per batch.

A network follows the weight only after some hundred batches. Without the first, the weight would swing between its
bounds."""
LEAST, MOST = 0.02, 10.0
"""Bounds of the weight."""


class NoOperationsError(ValueError):
    """A network whose spikes meet no weights."""


class _Fired(torch.autograd.Function):
    """The share of the levels that are not zero; backward, sign / size of each."""

    @staticmethod
    def forward(ctx, levels: Tensor) -> Tensor:
        ctx.save_for_backward(levels)
        return (levels != 0).float().mean()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (levels,) = ctx.saved_tensors
        return gradient * levels.sign() / levels.abs().clamp(min=1) / levels.numel()


def shares_of(network: nn.Module, inputs: list[Any]) -> dict[str, float]:
    """The share of each multi-bit neuron, by its name, in the synaptic operations of ``inputs`` if all outputs fired.

    ``inputs`` are those of the network's task. Raises NoOperationsError, a ValueError, for a network whose
    spikes meet no weights.
    """
    with with_thresholds(network, 0.0), torch.no_grad():
        rows = zoo.profile(network, inputs).rows
    whole = {row.name: row.synaptic_operations / row.spike_rate for row in rows if row.spike_rate}
    whole = {name: operations for name, operations in whole.items() if operations}
    if not whole:
        raise NoOperationsError(
            "no multi-bit spikes of this network meet weights: it has no synaptic operations to make fewer"
        )
    return {name: operations / sum(whole.values()) for name, operations in whole.items()}


class Controller:
    """Holds the synaptic operations of a network at a goal, as a share of those if all outputs fired."""

    def __init__(self, network: nn.Module, inputs: list[Any], target: float):
        modules = dict(network.named_modules())
        self.shares = {modules[name]: share for name, share in shares_of(network, inputs).items()}
        self.target, self.weight, self.lasting = target, 1.0, 0.0
        self.first: float | None = None
        """The operations of the first batch, from which the goal falls."""
        self.mean = 0.0
        """Their running mean."""
        self._batch = torch.zeros(())

    def loss(self, meter: SpikeMeter, share: float) -> Tensor:
        """What a part with this ``share`` of a batch's rows adds to the loss."""
        operations = torch.stack(list(self._operations(meter))).sum()
        self._batch = self._batch.to(operations.device) + share * operations.detach()
        return share * self.weight * operations

    def _operations(self, meter: SpikeMeter) -> Iterable[Tensor]:
        for module, largest, y in meter.outputs:
            if module in self.shares and isinstance(module, neurons.MultiBitNeuron):
                level = largest / neurons.spike.level_count(module.bits)
                yield self.shares[module] * _Fired.apply(y / level)

    def follow(self, fall: float) -> None:
        """After a batch, move the weight; ``fall`` (0 to 1) says how far the goal has fallen."""
        operations = float(processes.gathered(self._batch.view(1)).sum())
        self._batch = torch.zeros(())
        if self.first is None:
            self.first = self.mean = operations
        self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * operations
        goal = self.first + fall * (self.target - self.first)
        excess = self.mean - goal
        self.lasting = min(math.log(MOST), max(math.log(LEAST), self.lasting + PER_BATCH * excess))
        self.weight = min(MOST, max(LEAST, math.exp(self.lasting + AT_ONCE * excess)))

    def state_dict(self) -> dict[str, float | None]:
        return {"weight": self.weight, "lasting": self.lasting, "first": self.first, "mean": self.mean}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        vars(self).update(state)

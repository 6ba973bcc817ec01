"""Scans made ready once for many calls, as in decoding token by token.

To look at a neuron's parameters, check its input and find its kernel takes many times as long as the scan of one time
step. Where the parameters stay as they are from call to call, that needs doing once.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from neurons.kernels.operators import RECURRENT, flat, nothing_watches, parameter

if TYPE_CHECKING:
    from neurons.kernels.cpu import Scan
    from neurons.neuron import Neuron


class _Ready(NamedTuple):
    """A scan, and the kinds of input and state that it is ready for."""

    scan: "Scan"
    x_seq: tuple
    state: list[tuple]


class ReadyScan:
    """The scan of ``neuron`` on the CPU, without gradients, over inputs like the one that it was last called with."""

    def __init__(self, neuron: "Neuron"):
        self.neuron, self.ready = neuron, None

    def run(self, x_seq: Any, state: Any) -> tuple[Tensor, Any] | None:
        """``y_seq`` and the final state; None unless it is ready for just this, and the neuron has to look at it."""
        ready = self.ready  # another thread may replace it
        if (
            ready is None
            or type(state) is not self.neuron.State
            or _kind(x_seq) != ready.x_seq
            or [_kind(part) for part in state] != ready.state
            or not self._may_run()
        ):
            return None
        y_seq, final_state, _, _ = ready.scan.forward(x_seq, state, keep=False, track=False)
        return y_seq, self.neuron.State(*final_state)

    def prepare(self, x_seq: Tensor, state: tuple[Tensor, ...]) -> None:
        """Be ready for inputs and states like these, which the neuron has just scanned."""
        neuron, self.ready = self.neuron, None
        if neuron.last_backend != "cpu" or neuron.name == RECURRENT or not x_seq.numel() or not self._may_run():
            return
        if not (x_seq.is_contiguous() and all(part.is_contiguous() for part in state)):
            return
        from neurons.kernels.cpu import Scan  # which imports Numba

        leaves = flat(neuron.constants())
        parameters = [parameter(leaf, state[0].dtype) for leaf in leaves if isinstance(leaf, Tensor)]
        scan = Scan(neuron.name, state, parameters, leaves[len(parameters) :])
        self.ready = _Ready(scan, _kind(x_seq), [_kind(part) for part in state])

    def _may_run(self) -> bool:
        """Whether nothing but the outputs is asked for: no gradient, no range to track, no other backend."""
        neuron = self.neuron
        return not (neuron.training or neuron.backend == "torch" or torch.is_grad_enabled()) and nothing_watches()


def _kind(tensor: Any) -> tuple:
    """What decides how a kernel goes through a tensor; nothing for what is no tensor of torch's own type."""
    if type(tensor) is not Tensor:
        return ()
    return tensor.shape, tensor.dtype, tensor.device, tensor.is_contiguous()

"""Scans that are prepared once for many calls, as in decoding token by token.

Reading a neuron's parameters, checking its input and finding its kernel takes many times as long as the scan of one
time step. If the parameters stay the same from call to call, doing this once is enough.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from neurons.kernels import choose
from neurons.kernels.operators import nothing_watches, parameters_and_settings

if TYPE_CHECKING:
    from neurons.kernels.cpu import Scan


class _Ready(NamedTuple):
    """A scan, and the kinds of input and state that it is prepared for."""

    scan: "Scan"
    x_seq: tuple
    state: list[tuple]


class ReadyScan:
    """The scan of ``neuron`` on the CPU, without gradients, for inputs like the last one it was prepared for."""

    def __init__(self, neuron: Any):
        self.neuron = neuron
        self.ready: _Ready | None = None
        self.parameters: dict[torch.dtype, tuple[list[Tensor], list]] = {}
        """Parameters (in the type of the state) and settings."""

    def __reduce__(self):
        return type(None), ()  # not for copies of the neuron: they may change

    def run(self, x_seq: Any, state: Any) -> tuple[Tensor, Any] | None:
        """``y_seq`` and the final state; None if it is not prepared for exactly this kind of input and state."""
        ready = self.ready  # another thread may replace it
        if (
            ready is None
            or not isinstance(state, tuple)
            or _kind(x_seq) != ready.x_seq
            or [_kind(part) for part in state] != ready.state
            or not self._may_run()
        ):
            return None
        self.neuron._ran("cpu")
        y_seq, final_state, _, _ = ready.scan.forward(x_seq, state, keep=False, track=False)
        return y_seq, self.neuron.State(*final_state)

    def prepare(self, x_seq: Tensor, state: tuple[Tensor, ...]) -> None:
        """Prepare for inputs and states like these, which the neuron has checked, if a kernel can run them."""
        neuron, kinds = self.neuron, [_kind(tensor) for tensor in (x_seq, *state)]
        if neuron.training:  # its range may move
            self.ready, self.parameters = None, {}
        if self.ready is not None and kinds == [self.ready.x_seq, *self.ready.state]:
            return
        plain = x_seq.numel() and all(kind and kind[-1] for kind in kinds)
        if not plain or not self._may_run() or choose(neuron, x_seq) != "cpu":
            return
        from neurons.kernels.cpu import Scan  # which imports Numba

        dtype = state[0].dtype
        if dtype not in self.parameters:
            self.parameters[dtype] = parameters_and_settings(neuron.kernel_parameters(), dtype)
        self.ready = _Ready(Scan(neuron.name, state, *self.parameters[dtype]), kinds[0], kinds[1:])

    def _may_run(self) -> bool:
        """Whether only the outputs are asked for: no gradient, no range to track, no other backend."""
        neuron = self.neuron
        off = neuron.training or torch.is_grad_enabled() or neuron.backend not in ("auto", "cpu")
        return not off and nothing_watches()


def _kind(tensor: Any) -> tuple:
    """The properties that decide how a kernel reads a tensor. Empty for a subclass of Tensor."""
    if type(tensor) is not Tensor:
        return ()
    return tensor.shape, tensor.dtype, tensor.device, tensor.is_contiguous()

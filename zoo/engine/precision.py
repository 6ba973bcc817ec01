"""The numbers that a network uses for its products of spikes: floats, or integers, as spikes are integers.

A network that can run in integers derives from :class:`Precise` and writes its programs in ``lower``. They are written
when first needed, and again after its weights have changed, so a model that was trained further uses its new weights.
Training is always in floats.
"""

from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import neurons
from neurons import kernels
from neurons.checks import Setting
from neurons.kernels.operators import nothing_watches
from zoo.engine.integers import BITS, round_to_integers
from zoo.engine.program import NotInIntegers, Program
from zoo.errors import unknown
from zoo.options import whole_number

PRECISIONS = ("auto", "float32", "int8")
LOOKED_AT = 64
"""The number of values of a tensor that are compared, see :func:`_fingerprint`."""

Programs = TypeVar("Programs")


def check_precision(precision: Any) -> str:
    """``precision``; ``zoo.errors.UnknownNameError`` unless it is "auto", "float32" or "int8"."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return precision


class _Look(NamedTuple):
    """Where a tensor's values are, and ``some`` of them, in the tensor's own memory."""

    tensor: Tensor
    place: tuple
    some: np.ndarray


class _Written(Generic[Programs]):
    """The programs of a network, or why it has none, with the fingerprint that they belong to. Never copied."""

    def __init__(self) -> None:
        self.found: tuple[Any, Programs | NotInIntegers] | None = None
        self.looks: dict[int, _Look] = {}
        """The tensors that were looked at last, by their identity, because to find some values anew takes longer."""
        self.ran: str | None = None

    def __reduce__(self):
        return _Written, ()


class Precise(nn.Module, Generic[Programs]):
    """Base of the networks that can compute products of spikes in integers."""

    precision = Setting(lambda _, precision: check_precision(precision))
    """"auto": in integers if the network can and nothing prevents it, else in floats; "float32": in floats;
    "int8": in integers, or :class:`zoo.engine.program.NotInIntegers` (a ValueError) says why not."""

    def __init__(self) -> None:
        super().__init__()
        self.precision = "auto"
        self._written: _Written[Programs] = _Written()

    @property
    def last_precision(self) -> str | None:
        """The precision of the last call: "int8" or "float32"; None before the first."""
        return self._written.ran

    def lower(self) -> Programs:
        """Write the programs of this network. Raises NotInIntegers."""
        raise NotInIntegers(f"{type(self).__name__} does not say how it runs in integers")

    def round_weights(self, bits: int = BITS) -> None:
        """Round the weights of all products of spikes, in place, to integers of 2 to 8 bits, with a scale per output.

        With the 8 bits that :meth:`lower` uses, the network computes the same in integers as before, and is saved in
        about half the bytes. Training it further goes on from the rounded weights. Raises NotInIntegers for a network
        that cannot run in integers.
        """
        whole_number("bits", bits, 2, BITS)
        found = self.lower()
        for program in found if isinstance(found, tuple) else (found,):
            if isinstance(program, Program):
                for weight in program.integer_weights():
                    round_to_integers(weight, bits)

    def programs(self) -> Programs | None:
        """The programs of the network as it is now; None if it runs in floats."""
        written = self._written
        found = NotInIntegers('precision is "float32"') if self.precision == "float32" else self._find()
        written.ran = "float32" if isinstance(found, NotInIntegers) else "int8"
        if not isinstance(found, NotInIntegers):
            return found
        if self.precision == "int8":
            raise found
        return None

    def _find(self) -> Programs | NotInIntegers:
        try:
            now, self._written.looks = _fingerprint(self, self._written.looks)
        except NotInIntegers as reason:
            return reason
        found = self._written.found
        if found is None or found[0] != now:
            try:
                programs: Programs | NotInIntegers = self.lower()
            except NotInIntegers as reason:
                programs = reason
            self._written.found = found = now, programs
        return found[1]


def set_precision(network: nn.Module, precision: str) -> None:
    """Set the precision of any network. Raises NotInIntegers if it is "int8" and the network cannot.

    A network that always computes in floats says why in its attribute ``only_floats``.
    """
    if isinstance(network, Precise):
        network.precision = precision
        if precision == "int8":
            network.programs()
    elif precision == "int8":
        unknown_how = f"{type(network).__name__} does not say how it runs in integers"
        raise NotInIntegers(getattr(network, "only_floats", unknown_how))


def _fingerprint(network: nn.Module, before: dict[int, _Look]) -> tuple[tuple, dict[int, _Look]]:
    """Everything that determines a network's programs. Raises NotInIntegers if its modules must be called one by one.

    Tensors are recognised by their memory, their version, which torch increases with every change, and a few of their
    values, because changes through ``.data`` do not increase the version. ``before`` are the looks of the last call;
    those of this one are returned as well.
    """
    if network.training:
        raise NotInIntegers("it is in training mode; call .eval()")
    if (needed := kernels.missing("cpu")) is not None:
        raise NotInIntegers(f"integers are computed by {needed}")
    if not nothing_watches():
        raise NotInIntegers("a mode, transform or profiler of torch looks at its operations")
    modules: list[Any] = []
    tensors: list[Any] = []
    looks: dict[int, _Look] = {}
    for module in network.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise NotInIntegers(f"a hook looks at its {type(module).__name__}; remove the hook")
        if isinstance(module, neurons.Neuron):
            modules.append((id(module.step), getattr(module, "bits", 0), getattr(module, "threshold_levels", 0)))
            if module.backend not in ("auto", "cpu"):
                raise NotInIntegers(f'its neurons are to scan with backend="{module.backend}"')
        modules.append(type(module))
        for tensor in chain(module._parameters.values(), module._buffers.values()):
            if tensor is not None:
                look = looks[id(tensor)] = _look(tensor, before.get(id(tensor)))
                version = -1 if tensor.is_inference() else tensor._version
                tensors.append((look.place, version, look.some.tobytes()))
    return (tuple(modules), tuple(tensors)), looks


def _look(tensor: Tensor, before: _Look | None) -> _Look:
    """A look at ``tensor``: the one ``before``, if it is at the same memory."""
    place = tensor.data_ptr(), tensor.shape, tensor.stride()
    if before is not None and before.tensor is tensor and before.place == place and tensor.is_contiguous():
        return before
    if tensor.device.type != "cpu":
        raise NotInIntegers(f"it is on {tensor.device}; integers are computed on the CPU")
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        raise NotInIntegers(f"its weights are {tensor.dtype}; integers are computed for a network in float32")
    values = tensor.detach().reshape(-1)  # a copy, unless the tensor is contiguous
    return _Look(tensor, place, values.numpy()[:: max(1, len(values) // LOOKED_AT)])

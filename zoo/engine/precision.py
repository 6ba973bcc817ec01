"""The numbers that a network uses for its products of spikes: floats, or integers, as spikes are integers.

A network that can run in integers derives from :class:`Precise` and writes its programs in ``lower``. They are written
when first needed, and again after its weights have changed, so a model that was trained further uses its new weights.
Training is always in floats.

On a CPU compiled kernels run the programs. On a CUDA device operations of torch do (:mod:`zoo.engine.on_device`), if
integers are asked for: "auto" computes in floats there, because nothing was measured.
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
from zoo.engine.on_device import on_device, why_not
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
    """Where a tensor's values are, and ``some`` of them, in the tensor's own memory: an array if that is the CPU's."""

    tensor: Tensor
    place: tuple
    some: np.ndarray | Tensor


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
    """"auto": in integers if the network is on the CPU, can, and nothing prevents it, else in floats; "float32": in
    floats; "int8": in integers, or :class:`zoo.engine.program.NotInIntegers` (a ValueError) says why not. Nothing was
    measured on a GPU, so "auto" stays with floats there."""

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
            device = _device(self)
            if not compiled(device) and self.precision == "auto":
                raise NotInIntegers(f'on {device}, only precision "int8" computes in integers')
            now, self._written.looks = _fingerprint(self, device, self._written.looks)
        except NotInIntegers as reason:
            return reason
        found = self._written.found
        if found is None or found[0] != now:
            try:
                programs: Programs | NotInIntegers = self.lower()
                programs = programs if compiled(device) else on_device(programs, device)
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


def compiled(device: torch.device) -> bool:
    """Whether compiled kernels run the programs of a network on ``device``; if not, operations of torch do."""
    return device.type == "cpu"


def _device(network: nn.Module) -> torch.device:
    """The device of the network's first tensor. Raises NotInIntegers for one that does not compute in integers."""
    device = next(chain(network.parameters(), network.buffers())).device
    if device.type not in ("cpu", "cuda"):
        raise NotInIntegers(f"it is on {device}; integers are computed on the CPU and on CUDA devices")
    return device


def _check_device(device: torch.device) -> str:
    """The backend of the scans that a program replaces there. Raises NotInIntegers if integers cannot be computed."""
    if not compiled(device):
        if (why := why_not(device)) is not None:
            raise NotInIntegers(why)
        return "auto"
    if (needed := kernels.missing("cpu")) is not None:
        raise NotInIntegers(f"integers are computed by {needed}")
    return "cpu"


def _fingerprint(network: nn.Module, device: torch.device, before: dict[int, _Look]) -> tuple[tuple, dict[int, _Look]]:
    """Everything that determines a network's programs. Raises NotInIntegers if its modules must be called one by one.

    Tensors are recognised by their memory, their version, which torch increases with every change, and a few of their
    values, because changes through ``.data`` do not increase the version. ``before`` are the looks of the last call;
    those of this one are returned as well.
    """
    if network.training:
        raise NotInIntegers("it is in training mode; call .eval()")
    backends = "auto", _check_device(device)
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
            if module.backend not in backends:
                raise NotInIntegers(f'its neurons are to scan with backend="{module.backend}"')
        modules.append(type(module))
        for tensor in chain(module._parameters.values(), module._buffers.values()):
            if tensor is not None:
                look = looks[id(tensor)] = _look(tensor, device, before.get(id(tensor)))
                version = -1 if tensor.is_inference() else tensor._version
                tensors.append((look.place, version, look.some.tobytes() if isinstance(look.some, np.ndarray) else b""))
    return (device, tuple(modules), tuple(tensors), _far_values(looks)), looks


def _far_values(looks: dict[int, _Look]) -> bytes:
    """The values that were looked at on a device, fetched all at once: each fetch waits for the device."""
    far = [look.some for look in looks.values() if isinstance(look.some, Tensor)]
    return torch.cat(far).cpu().numpy().tobytes() if far else b""


def _look(tensor: Tensor, device: torch.device, before: _Look | None) -> _Look:
    """A look at ``tensor``: the one ``before``, if it is at the same memory."""
    place = tensor.data_ptr(), tensor.shape, tensor.stride()
    if before is not None and before.tensor is tensor and before.place == place and tensor.is_contiguous():
        return before
    if tensor.device != device:
        raise NotInIntegers(f"it is on {device} and on {tensor.device}; integers are computed on one device")
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        raise NotInIntegers(f"its weights are {tensor.dtype}; integers are computed for a network in float32")
    values = tensor.detach().reshape(-1)  # a copy, unless the tensor is contiguous
    some = values[:: max(1, len(values) // LOOKED_AT)]
    return _Look(tensor, place, some.numpy() if compiled(device) else some)

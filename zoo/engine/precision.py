"""Which numbers a network computes its products of spikes with: floats, or the integers that the spikes are.

A network that can run in integers derives from :class:`Precise` and writes its programs in ``lower``. They are written
when they are first needed and again after its weights changed, so a model that was trained further runs on its new
weights. Training is always in floats.
"""

from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import neurons
from neurons.checks import Setting
from neurons.kernels.operators import nothing_watches
from zoo.engine.program import NotInIntegers
from zoo.errors import unknown

PRECISIONS = ("auto", "float32", "int8")
LOOKED_AT = 64
"""Values of a tensor that are compared, see :func:`_fingerprint`."""

Programs = TypeVar("Programs")


def check_precision(precision: Any) -> str:
    """``precision``; ``zoo.errors.UnknownNameError`` for another than "auto", "float32" and "int8"."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return precision


class _Written(Generic[Programs]):
    """The programs of a network as it was when they were written, or why it has none. Not copied with a network."""

    def __init__(self) -> None:
        self.found: tuple[Any, Programs | NotInIntegers] | None = None
        self.ran: str | None = None

    def __reduce__(self):
        return _Written, ()


class Precise(nn.Module, Generic[Programs]):
    """Base of the networks that can compute products of spikes in integers."""

    precision = Setting(lambda _, precision: check_precision(precision))
    """"auto": in integers where the network can and nothing speaks against it, else in floats; "float32": in floats;
    "int8": in integers, or :class:`zoo.engine.program.NotInIntegers` (a ValueError) says why not."""

    def __init__(self) -> None:
        super().__init__()
        self.precision = "auto"
        self._written: _Written[Programs] = _Written()

    @property
    def last_precision(self) -> str | None:
        """What the last call computed with: "int8" or "float32"; None before the first."""
        return self._written.ran

    def lower(self) -> Programs:
        """Write the programs of this network. Raises NotInIntegers."""
        raise NotInIntegers(f"{type(self).__name__} does not say how it runs in integers")

    def programs(self) -> Programs | None:
        """The programs to run, of the network as it is now; None where it runs in floats."""
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
            now = _fingerprint(self)
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


def _fingerprint(network: nn.Module) -> tuple:
    """All that the programs of a network follow from. Raises NotInIntegers where modules must be called one by one.

    Tensors are known by their memory, their version, which torch counts up with every change, and a few of their
    values: changes by ``.data`` are not counted.
    """
    if network.training:
        raise NotInIntegers("it is in training mode; call .eval()")
    if not nothing_watches():
        raise NotInIntegers("a mode, transform or profiler of torch looks at its operations")
    modules: list[Any] = []
    tensors: list[Any] = []
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
                tensors.append(_known_by(tensor))
    return tuple(modules), tuple(tensors)


def _known_by(tensor: Tensor) -> tuple:
    if tensor.device.type != "cpu":
        raise NotInIntegers(f"it is on {tensor.device}; integers are computed on the CPU")
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        raise NotInIntegers(f"its weights are {tensor.dtype}; integers are computed for a network in float32")
    values = tensor.detach().view(-1) if tensor.is_contiguous() else tensor.detach().reshape(-1)
    some = values.numpy()[:: max(1, len(values) // LOOKED_AT)]
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version, np.ascontiguousarray(some).tobytes()

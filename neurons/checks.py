"""Checks of a neuron's numbers: each takes a value and its name, and returns the value or raises with what is right."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

T = TypeVar("T")


def flag(value: Any, what: str) -> bool:
    """``value``, or a ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be True or False; got {value!r}")
    return value


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of Python or NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether it is a number of Python or NumPy. A tensor does not count: its gradient would be lost."""
    return isinstance(value, Real) and not isinstance(value, bool)


def positive(value: Any, what: str) -> float:
    """``value``, or a ValueError unless it is a number above 0 that float32 can hold."""
    limits = torch.finfo(torch.float32)
    if not is_real(value) or not limits.tiny <= value <= limits.max:
        raise ValueError(f"{what} must be a finite number above 0; got {value!r}")
    return float(value)


def one_or_per_channel(value: float | Tensor, what: str) -> Tensor:
    """The initial value of a parameter, as a tensor of one element or with one element per channel ``[N]``."""
    says = f"{what} is one number, or one per channel [N]"
    try:
        given = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{says}; got {value!r}") from error
    if given.dtype == torch.bool or given.is_complex():
        raise TypeError(f"{says}; got {value!r}")
    if given.dim() > 1 or not given.numel():
        raise ValueError(f"{says}; got shape {list(given.shape)}")
    return torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone()


def within(start: Tensor, low: float, high: float, says: str) -> Tensor:
    """``start``, or a ValueError that begins with ``says`` unless it is finite and lies in ``[low, high]``."""
    if start.is_meta:
        return start
    wrong = start[~(start.isfinite() & (start >= low) & (start <= high))]
    if wrong.numel():
        raise ValueError(f"{says}; got {wrong[0].item():g}")
    return start


def leak_start(leak: float | Tensor) -> Tensor:
    """The initial value of a leak, in [0, 1]. Above 1 it meant as a time constant, like SpikingJelly's ``tau``."""
    start = one_or_per_channel(leak, "leak")
    largest = math.nan if start.is_meta else start.max().item()
    says = "leak must lie in [0, 1]: it is the share of the membrane that is left after a time step"
    if 1 < largest < math.inf:
        as_leak = f"leak = 1 - 1/tau = {1 - 1 / largest:g}"
        says += f". SpikingJelly's tau is no leak but a time constant in steps: {as_leak}, or tau={largest:g} of a node"
    return within(start, 0.0, 1.0, says)


def check_values(net: nn.Module) -> None:
    """Raise ValueError if ``net`` is on the meta device, where tensors have a shape and no values."""
    first = next(net.parameters(), None)  # one says it: streams check this at every frame
    if first is not None and first.is_meta:
        raise ValueError(
            f"{type(net).__name__} is on the meta device, which holds shapes and no values, so it can neither answer "
            "nor be saved; load it again, or fill it with to_empty(device=...) and load_state_dict"
        )


class Setting(Generic[T]):
    """A setting of a neuron, checked whenever it is set: ``check(neuron, value)`` returns the value to keep.

    The value is kept among the ordinary attributes, so reading it costs no extra time.
    """

    def __init__(self, check: Callable[[Any, Any], T]):
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = self.check(instance, value)

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> "Setting[T]": ...
        @overload
        def __get__(self, instance: Any, owner: type | None = None) -> T: ...
        def __get__(self, instance: Any, owner: type | None = None) -> Any: ...

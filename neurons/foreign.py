"""What both plug-ins share: the library's own names for options, and where the channels of an input lie.

An option that means exactly the same in the library and in the neuron is taken by either name. An option that asks for
what the neuron does anyway is taken with that value alone. Every other name of the library is refused, with what to
write instead, and never ignored.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from neurons.checks import Setting, is_whole
from neurons.neuron import Neuron

if TYPE_CHECKING:
    _Base: Any = Neuron
else:
    _Base = object


class Same(NamedTuple):
    """An option of the neuron that one of the library's means, and how the library's value becomes the neuron's."""

    option: str
    convert: Callable[[Any], Any] = lambda value: value


def _channel_dim(_: Any, value: int) -> int:
    if not is_whole(value):
        raise ValueError(
            f"channel_dim must be a whole number, the dimension of the channels in one step; got {value!r}"
        )
    return int(value)


class Foreign(_Base):
    """Base of both plug-ins: takes or refuses the library's options, and finds the channels of an input.

    A name that the neuron itself has is the neuron's. ``channel_dim`` is the dimension of the channels in one step, not
    counting the time: 1 in ``[B, C, ...]``, the default, and -1 where they come last.
    """

    peer: ClassVar[str]
    foreign: ClassVar[dict[str, str]]
    """The library's names, and what to use instead of each."""
    same: ClassVar[dict[str, Same]]
    """The library's names that mean exactly what an option of the neuron does, if it has that option."""
    added: ClassVar[tuple[str, ...]]
    """The options that the plug-in adds to the neuron's own."""
    channel_dim = Setting(_channel_dim)

    def __init__(self, *args, channel_dim: int = 1, **options):
        super().__init__(*args, **self._translated(options))
        self.channel_dim = channel_dim
        self._built = True

    @classmethod
    def does_anyway(cls) -> dict[str, Any]:
        """Options of the library that are taken with one value alone: what the neuron does anyway."""
        return {}

    @classmethod
    def _translated(cls, options: dict[str, Any]) -> dict[str, Any]:
        """``options`` by the neuron's names. Raises TypeError for those that the neuron does not have."""
        own, anyway = own_options(cls), cls.does_anyway()
        same = {name: one for name, one in cls.same.items() if one.option in own and name not in own}
        taken = {name: options[name] for name in options if name not in cls.foreign or name in own}
        refused = [name for name in options if name not in taken and name not in same and name not in anyway]
        if refused:
            raise TypeError(cls._explain(*sorted(refused), takes=[*sorted({*own, *same}), *cls.added]))
        for name in options.keys() - taken.keys():
            if name not in same:
                if not _is(options[name], anyway[name]):
                    only = f"{name} only as {anyway[name]!r}"
                    raise TypeError(f"{cls.__name__} takes {only}; got {options[name]!r}: {cls.foreign[name]}")
                continue
            option, convert = same[name]
            if option in taken:
                raise TypeError(f"{name} and {option} mean the same to {cls.__name__}; give one of them")
            taken[option] = convert(options[name])
        return taken

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.foreign and "_built" in self.__dict__ and not self._has_own(name):
            raise AttributeError(self._explain(name))
        super().__setattr__(name, value)

    def _has_own(self, name: str) -> bool:
        held = (self.__dict__, self._parameters, self._buffers, self._modules)
        classes = [vars(base) for base in type(self).__mro__ if issubclass(base, Neuron)]
        return any(name in names for names in (*held, *classes))

    @classmethod
    def _explain(cls, *names: str, takes: list[str] | None = None) -> str:
        instead = "; ".join(dict.fromkeys(cls.foreign[name] for name in names))
        says = f"{cls.__name__} has no {', '.join(names)}, which only {cls.peer}'s own neurons have"
        return f"{says}. It takes {', '.join(takes)} ({instead})" if takes else f"{says}: {instead}"

    def run(self, x: Tensor, state: Any, sequence: bool) -> tuple[Tensor, Any]:
        """The neuron's own step or scan, on an input and a state whose channels lie where the caller has them."""
        if state is not None:
            state = self.State(*[self.inward(part, False) for part in state])
        inner = self.inward(x, sequence)
        y, state = super().forward(inner, state) if sequence else super().single_step(inner, state)
        return self.outward(y, x, sequence), self.State(*[self.outward(part, x, sequence, False) for part in state])

    def inward(self, x: Tensor, sequence: bool) -> Tensor:
        """``x`` with its channels in dimension 1 of a step, where the neuron has them."""
        if not isinstance(x, Tensor) or self.channel_dim == 1 or x.dim() < 2 + sequence:
            return x
        steps = x.dim() - sequence
        if not -steps <= self.channel_dim < steps:
            raise ValueError(
                f"{type(self).__name__} has channel_dim={self.channel_dim}, and there is no such dimension in one step "
                f"of shape {list(x.shape[sequence:])}"
            )
        return x.movedim(self.channel_dim % steps + sequence, 1 + sequence)

    def outward(self, y: Tensor, x: Tensor, sequence: bool, y_sequence: bool | None = None) -> Tensor:
        """``y``, an output (or a part of the state) with its channels where the input ``x`` has them."""
        if self.channel_dim == 1 or x.dim() < 2 + sequence:
            return y
        along_time = sequence if y_sequence is None else y_sequence
        return y.movedim(1 + along_time, self.channel_dim % (x.dim() - sequence) + along_time)

    def state_shape(self, x: Tensor, sequence: bool) -> torch.Size:
        """The shape of a part of the state for this input, with the channels where the input has them."""
        shape = self.output_shape(self.inward(x, sequence), sequence)
        return self.outward(torch.empty(shape, device="meta"), x, sequence, False).shape


def _is(value: Any, wanted: Any) -> bool:
    return type(value) in (type(wanted), int, float) and value == wanted


def own_options(plugged: type) -> set[str]:
    """The names of the constructor's options, for the neuron behind a plug-in's class."""
    own: set[str] = set()
    for base in plugged.__mro__:
        if not issubclass(base, Neuron) or issubclass(base, Foreign) or "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        own.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return own

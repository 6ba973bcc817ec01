"""Options and attributes that only a library's own neurons have: refused by name instead of being ignored."""

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from neurons.neuron import Neuron

if TYPE_CHECKING:
    from torch import nn

    _Base = nn.Module
else:
    _Base = object


class Foreign(_Base):
    """Base of both plug-ins: refuses options and attributes that only the library's own neurons have.

    A name that the neuron itself has is accepted.
    """

    peer: ClassVar[str]
    foreign: ClassVar[dict[str, str]]
    """The library's names, and what to use instead of each."""
    added: ClassVar[tuple[str, ...]]
    """The options that the plug-in adds to the neuron's own."""

    def __init__(self, *args, **options):
        own = own_options(type(self))
        if refused := sorted(self.foreign.keys() & options.keys() - own):
            raise TypeError(self._explain(*refused, takes=[*sorted(own), *self.added]))
        super().__init__(*args, **options)
        self._built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.foreign and "_built" in self.__dict__ and not self._has_own(name):
            raise AttributeError(self._explain(name))
        super().__setattr__(name, value)

    def _has_own(self, name: str) -> bool:
        held = (self.__dict__, self._parameters, self._buffers, self._modules)
        classes = [vars(base) for base in type(self).__mro__ if issubclass(base, Neuron)]
        return any(name in names for names in (*held, *classes))

    def _explain(self, *names: str, takes: list[str] | None = None) -> str:
        instead = "; ".join(dict.fromkeys(self.foreign[name] for name in names))
        says = f"{type(self).__name__} has no {', '.join(names)}, which only {self.peer}'s own neurons have"
        return f"{says}. It takes {', '.join(takes)} ({instead})" if takes else f"{says}: {instead}"


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

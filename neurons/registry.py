"""The registry: every neuron by name, for plain torch, SpikingJelly and snnTorch.

::

    @neurons.register("my-neuron")
    class MyNeuron(neurons.Neuron):
        ...

    neurons.create("my-neuron", library="spikingjelly")
"""

import difflib
import importlib

from torch import nn

from neurons.kernels.operators import Operator, define
from neurons.neuron import Neuron

LIBRARIES = ("torch", "spikingjelly", "snntorch")
_registered: dict[str, type[Neuron]] = {}


def register(name: str):
    """Class decorator: register a :class:`neurons.Neuron` under ``name``, for every library.

    A class that is defined again, as when a notebook cell is run again, replaces the earlier one.
    If the class declares a ``kernel`` of its own, the operators of its fused scan are defined. Raises ValueError if
    another class has the name or the class already has a name, TypeError if the class is no Neuron with a ``State``.
    """
    if not isinstance(name, str):
        raise TypeError(f'register takes a name, as in @neurons.register("my-neuron"); got {name!r}')

    def decorate(neuron: type[Neuron]) -> type[Neuron]:
        if not (isinstance(neuron, type) and issubclass(neuron, Neuron) and hasattr(neuron, "State")):
            raise TypeError(f"{name!r} can only name a subclass of neurons.Neuron that has a State; got {neuron!r}")
        before = _registered.get(name)
        if neuron in _registered.values():
            raise ValueError(f"{neuron.__qualname__} is registered already, as {neuron.name!r}")
        if before is not None and not is_defined_again(before, neuron):
            raise ValueError(f"the neuron name {name!r} is taken by {before.__qualname__}")
        if "kernel" in vars(neuron):  # not an inherited one: the class may have changed the step
            takes = neuron.multi_bit, neuron.inputs_per_neuron
            define(Operator(name, neuron, neuron.State._fields, vars(neuron)["kernel"], *takes))
        neuron.name = name
        _registered[name] = neuron
        return neuron

    return decorate


def is_defined_again(before: type, now: type) -> bool:
    """Whether ``now`` is the class ``before``, defined again by the same code."""
    return (before.__module__, before.__qualname__) == (now.__module__, now.__qualname__)


def list_neurons() -> list[str]:
    """The names of all registered neurons, in alphabetical order."""
    return sorted(_registered)


def neuron_class(name: str) -> type[Neuron]:
    """The plain class registered under ``name``; ValueError with a suggestion for an unknown one."""
    if name not in _registered:
        close = difflib.get_close_matches(str(name), _registered, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(list_neurons())}"
        raise ValueError(f"no neuron is called {name!r}; {hint}")
    return _registered[name]


def create(name: str, *args, library: str = "torch", **options) -> nn.Module:
    """Build the neuron ``name`` for ``library``: "torch" (explicit state), "spikingjelly" or "snntorch".

    Arguments and options are those of the neuron's class; the plug-ins add those of the library's own neurons. Raises
    ValueError for an unknown name or library, ImportError with the install command for a missing library.
    """
    neuron = neuron_class(name)
    if library not in LIBRARIES:
        raise ValueError(f"library must be one of {', '.join(LIBRARIES)}; got {library!r}")
    if library != "torch":
        neuron = importlib.import_module(f"neurons.{library}").plugged(neuron)
    return neuron(*args, **options)

"""The neurons as classes of snnTorch, called as the library's own are.

::

    lif = neurons.create("learnable-lif", library="snntorch")  # the same as neurons.snntorch.LearnableLIF()
    mem = lif.reset_mem()
    spk, mem = lif(cur, mem)                       # a membrane alone, called as snn.Leaky is
    spk, syn, mem = gated(cur, syn, mem)           # with a synaptic current, as snn.Synaptic
    spk, syn, mem = recurrent(cur, spk, syn, mem)  # with the last spikes fed back, as snn.RSynaptic
    spk_seq, mem = lif.multi_step(cur_seq, mem)    # a whole sequence [T, B, N] in one fast scan

    net = nn.Sequential(nn.Linear(784, 10), neurons.snntorch.LearnableLIF(init_hidden=True, output=True))

``snntorch.utils.reset(net)`` treats them as it treats the library's own: it resets only direct children of ``net``, and
every other network too. :func:`reset` here reaches any depth and touches only ``net``.
"""

import copyreg
import functools
import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import neurons
from neurons import repeats
from neurons.checks import Setting, flag
from neurons.foreign import Foreign, Same
from neurons.neuron import Neuron, state_dtype
from neurons.repeats import Notes

try:
    import snntorch as snn
except ModuleNotFoundError as error:
    if error.name != "snntorch":
        raise
    raise ImportError("neurons.snntorch needs snnTorch; install it with: pip install snntorch") from error

LIBRARY_NAMES = {"spikes": "spk", "synaptic_current": "syn", "membrane": "mem"}
"""The library's name for a field of a neuron's state; any other field keeps its own name."""


def reset(net: nn.Module) -> None:
    """Start a new sequence in ``net``: reset and detach every neuron in it, ours and snnTorch's own, at any depth.

    No other network is touched, unlike ``snntorch.utils.reset``.
    """
    for module in net.modules():
        if isinstance(module, snn.SpikingNeuron) and hasattr(module, "reset_mem"):
            module.reset_mem()


def detach(net: nn.Module) -> None:
    """Cut the graph behind the state of every neuron in ``net``, ours and snnTorch's own, and keep the state.

    For truncated backpropagation through time.
    """
    for module in net.modules():
        if isinstance(module, PluggedNeuron):
            module.detach_mem()
        elif isinstance(module, snn.SpikingNeuron):
            for name, value in [*module.named_buffers(recurse=False), *vars(module).items()]:
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    setattr(module, name, value.detach())


class _Leaky(snn.Leaky):
    __init__ = nn.Module.__init__  # The library's would register parameters that mean nothing here.


class _Synaptic(snn.Synaptic):
    __init__ = nn.Module.__init__


class _RSynaptic(snn.RSynaptic):
    __init__ = nn.Module.__init__


class _Alpha(snn.Alpha):
    __init__ = nn.Module.__init__


_EQUATIONS = "what it computes is in the neuron's own equations, with parameters of its own"
_LEAK = (
    "a leak per time step, of learnable-lif, multibit-lif and leaky-integrator, is given as beta=0.9 or leak=0.9, with "
    "learn_beta or learn_leak, and is then lif.leak"
)
_CURRENT = "of the neurons, only multibit-synaptic-lif has a constant decay of the synaptic current"
_RECURRENCE = (
    "only the recurrent-gated LIF is recurrent, through its recurrent_weight; for any other, add what the last spikes "
    "bring to its input, with a layer of your own: spk, mem = lif(cur + recurrent(spk), mem)"
)
_RESET = (
    "a neuron that fires subtracts what it fired, in the same step; for a membrane that is never reset, as a readout "
    "for regression, take leaky-integrator; only learnable-lif can reset to zero or not at all"
)
_SPIKES = "its spikes are those of its equations: 0 or 1, or levels of a tracked range"
_SURROGATE = "of the neurons, only learnable-lif has a surrogate gradient that could be chosen"
_THRESHOLD = "the learnable LIF has a threshold, multi-bit spikes have threshold_levels and a tracked range"
INSTEAD = {
    **dict.fromkeys(("beta", "learn_beta"), _LEAK),
    **dict.fromkeys(("alpha", "learn_alpha"), _CURRENT),
    **dict.fromkeys(("threshold", "learn_threshold"), _THRESHOLD),
    **dict.fromkeys(("spike_grad", "surrogate_disable"), _SURROGATE),
    **dict.fromkeys(("reset", "reset_mechanism", "reset_mechanism_val", "reset_delay", "mem_reset"), _RESET),
    **dict.fromkeys(("inhibition", "fire", "fire_inhibition"), _SPIKES),
    **dict.fromkeys(("graded_spikes_factor", "learn_graded_spikes_factor"), _SPIKES),
    "state_quant": "its state is kept as it is, in float32 at least",
    "state_function": _EQUATIONS,
    **dict.fromkeys(("V", "learn_recurrent", "recurrent", "all_to_all", "linear_features"), _RECURRENCE),
    **dict.fromkeys(("conv2d_channels", "kernel_size"), _RECURRENCE),
}
"""What only the library's own neurons have, and what to use instead."""
SAME = {
    "beta": Same("leak"),
    "learn_beta": Same("learn_leak"),
    "alpha": Same("tau"),
    "learn_alpha": Same("learn_tau"),
    "spike_grad": Same("surrogate"),
}
"""What a neuron with this option takes by the library's name too. (``threshold`` is called so in both.)"""
UNUSED = {
    "surrogate_disable": False,
    "inhibition": False,
    "state_quant": False,
    "graded_spikes_factor": 1.0,
    "learn_graded_spikes_factor": False,
}
"""What every neuron takes with the value that asks for nothing."""


def _flag(name: str) -> Setting[bool]:
    return Setting(lambda _, value: flag(value, name))


class PluggedNeuron(Foreign):
    """Turns a :class:`neurons.Neuron` into a neuron of snnTorch; options and parameters are those of the neuron.

    It is called on one time step ``[B, C, ...]``, with the state in the library's order and by the library's names:
    the last spikes ``spk`` if the neuron feeds them back, the synaptic current ``syn``, the membrane ``mem``. A part
    that is not given, or is still as ``reset_mem()`` returned it, continues from the previous call, or starts at zero.
    Returns the spikes and the new state.

    With ``init_hidden=True`` it returns only the spikes and keeps the state inside; ``output=True`` returns the state
    too. The state is never part of the state dict, whose keys are those of the plain neuron.

    In training, a tracked range counts the steps from one reset (``reset_mem()``, :func:`reset` or
    ``snntorch.utils.reset``) to the next as one sequence. So begin every sequence with a reset.

    The membrane of multi-bit spikes is V - Q(V), the rest that the reset leaves. A loss of the returned membrane
    (``SF.ce_max_membrane_loss``, ``SF.mse_membrane_loss``) has the gradient of V, as if the reset were detached, as in
    snnTorch's own neurons. The returned tensor itself can be passed to the next call, which uses the neuron's own
    gradient; a copy of it (``mem.clone()``) carries the gradient of the loss instead. Such a loss trains nothing in two
    cases: with the attribute ``lif.mem``, and with a neuron that is given its state while it is compiled or in a
    reentrant checkpoint.

    In activation checkpointing, a repeated call starts from the same state as the first time and does not change the
    state that the neuron carries.

    For half-precision input the state is float32. Spikes are returned in the input's type, so a neuron that is given
    its last spikes sees them rounded; with ``init_hidden`` and in ``multi_step`` they are not rounded.

    Options that mean the same are taken by the library's names too: ``beta`` and ``learn_beta`` for a leak per step and
    whether it is learned (as it is unless ``learn_beta=False``), ``alpha`` and ``learn_alpha`` for ``tau``,
    ``spike_grad`` for ``surrogate``, ``reset_mechanism`` for the reset of the learnable LIF; and
    ``reset_mechanism="subtract"`` where a neuron always resets so, ``"none"`` where it never does. The reset is that of
    ``reset_delay=False``: it comes in the step of the spike, and not, as by default in the library, in the next. They
    differ where a membrane exceeds twice its threshold: the rest that the reset leaves can fire in the next step here,
    while the library first subtracts the threshold once more.

    A step may lack the batch, ``[C]``, or even the channels, as in the library. ``channel_dim`` says where the channels
    are, if not in dimension 1 of a step: without it, a gated neuron splits whatever dimension 1 is into its two halves,
    and a value per channel goes along dimension 1.

    Raises TypeError for an option of snnTorch that means nothing to this neuron, and AttributeError where such an
    attribute is set. ``beta`` and its like cannot be read either, so that nothing takes the neuron for a ``Leaky``.
    """

    State: ClassVar[type[Any]]
    peer, foreign, same = "snnTorch", INSTEAD, SAME
    added = ("init_hidden", "output", "channel_dim")
    _field_of: ClassVar[dict[str, str]]
    init_hidden = _flag("init_hidden")
    output = _flag("output")

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        fields = sorted(cls.State._fields, key=lambda field: (field != "spikes", field == "membrane"))
        cls._field_of = {LIBRARY_NAMES.get(field, field): field for field in fields}

    def __init__(self, *args, init_hidden: bool = False, output: bool = False, **options):
        super().__init__(*args, **options)
        self.init_hidden = init_hidden
        self.output = output
        self._starts = Notes()
        self._state = self._no_state()
        _list(self)

    @classmethod
    def does_anyway(cls) -> dict[str, Any]:
        if cls.resets is None:
            return UNUSED
        return {**UNUSED, "reset_mechanism": cls.resets, "reset_delay": False}

    def forward(self, input_: Tensor, *states: Tensor | None, **named: Tensor | None):
        """Take one step on ``input_ [B, C, ...]``."""
        return self._run(input_, False, states, named)

    def multi_step(self, input_seq: Tensor, *states: Tensor | None, **named: Tensor | None):
        """Scan ``input_seq [T, B, C, ...]`` at once. Arguments and results are as in a call; the spikes are a sequence.

        It equals calling the neuron T times and then resetting it, in a fraction of the time. For a tracked range it
        counts as one whole sequence. ``backend`` says what runs it, and ``last_backend`` what ran.
        """
        return self._run(input_seq, True, states, named)

    def inward(self, x: Tensor, sequence: bool) -> Tensor:
        if isinstance(x, Tensor) and sequence <= x.dim() < 2 + sequence:  # without a batch
            return x.reshape((*x.shape[:sequence], 1, -1))
        return super().inward(x, sequence)

    def outward(self, y: Tensor, x: Tensor, sequence: bool, y_sequence: bool | None = None) -> Tensor:
        if missing := max(2 + sequence - x.dim(), 0):
            kept = sequence if y_sequence is None else y_sequence
            return y.reshape((*y.shape[:kept], *y.shape[kept + missing :]))
        return super().outward(y, x, sequence, y_sequence)

    def checked_state(self, state: Any, x: Tensor, sequence: bool) -> Any:
        try:
            return super().checked_state(state, x, sequence)
        except ValueError as error:
            raise ValueError(f"{error}; a batch of another size starts anew, from what reset_mem() returns") from None

    def _run(self, input_: Tensor, sequence: bool, states: tuple, named: dict[str, Any]):
        given, carried, first = self._given(states, named), self._state, True
        if len(given) < len(carried) and isinstance(input_, Tensor):
            noted, first = repeats.carried(self._starts, input_, tuple(carried), self.training)
            carried = self.State(*noted)
        elif not torch.compiler.is_compiling():
            first = not repeats.is_repeated()
        y, state = self.run(input_, self._start(input_, sequence, carried, given), sequence)
        if first:
            self._state = state
        else:
            self._starts.pass_on(state)
        if self.init_hidden and not self.output:
            return y
        # Copies, so that a change of the returned tensors does not change the state carried to the next call.
        handed_out = {name: getattr(state, field).clone() for name, field in self._field_of.items() if name != "spk"}
        if "mem" in handed_out and input_.numel() and (self.init_hidden or (first and _is_eager())):
            handed_out["mem"] = self._shown(y[-1] if sequence else y, state)
        return y, *handed_out.values()

    def _shown(self, y: Tensor, state: Any) -> Tensor:
        """The membrane for the caller; if it is passed to the next call, that call continues from ``state``."""
        mem = self.shown_membrane(y, state)
        if mem is state.membrane:
            return mem.clone()
        if not self.init_hidden and mem.requires_grad:
            mem.grad_fn.carried = state.membrane
        return mem

    def _start(self, input_: Tensor, sequence: bool, carried: Any, given: dict[str, Any]) -> Any:
        """The state to start from; None for zeros."""
        start = carried._replace(**given)
        absent = [_is_absent(value) for value in start]
        if all(absent):
            return None
        inner = self.inward(input_, sequence)
        if any(absent):
            self.check(inner, sequence)
            zeros = [self.outward(part, input_, sequence, False) for part in self.initial_state(inner, sequence)]
            return self.State(*[z if a else value for a, value, z in zip(absent, start, zeros)])
        if not given and isinstance(input_, Tensor):
            held = self.inward(start[0], False)
            if inner.shape[sequence : sequence + 1] != held.shape[:1]:
                raise ValueError(
                    f"{type(self).__name__} still holds the state of a batch of {len(held)} and was given an input of "
                    f"shape {list(input_.shape)}; start a new sequence with neurons.snntorch.reset(net) or reset_mem()"
                )
        return start

    def _given(self, states: tuple, named: dict[str, Any]) -> dict[str, Any]:
        """The parts of the state that the caller gave, by field."""
        who, names = type(self).__name__, list(self._field_of)
        if len(states) > len(names) or not named.keys() <= set(names[len(states) :]):
            raise TypeError(
                f"{who} takes an input and its state ({', '.join(names)}), each once; got {len(states)} by position"
                + (f" and {', '.join(named)} by name" if named else "")
            )
        passed = dict(zip(names, states)) | named
        given = {self._field_of[name]: value for name, value in passed.items() if value is not None}
        if given and self.init_hidden:
            raise TypeError(f"{who} keeps its state inside (init_hidden=True); call it on the input alone")
        if isinstance(mem := given.get("membrane"), Tensor) and _is_eager():
            given["membrane"] = getattr(mem.grad_fn, "carried", mem)
        if isinstance(given.get("spikes"), Tensor):
            given["spikes"] = given["spikes"].to(state_dtype(given["spikes"].dtype))
        return given

    def reset_mem(self) -> Tensor | tuple[Tensor, ...]:
        """Start a new sequence; return placeholders of shape (0,), which stand for a state of zeros."""
        self.finish_sequence()
        self._state = self._no_state()
        ordered = tuple(getattr(self._state, field) for field in self._field_of.values())
        return ordered if len(ordered) > 1 else ordered[0]

    def detach_mem(self) -> None:
        """Cut the graph behind the state and keep the state, for truncated backpropagation through time."""
        self._state = self.State(*[value.detach() for value in self._state])

    def _no_state(self) -> Any:
        return self.State(*[torch.zeros(0) for _ in self.State._fields])

    # The state is not a buffer: DistributedDataParallel would copy it from one process to all. Nor is it a plain
    # attribute: the library's AttributeMonitor, which calls __getattr__, would not find it.
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in type(self)._field_of and "_state" in self.__dict__:
                return getattr(self._state, self._field_of[name])
            if name in INSTEAD:
                raise AttributeError(
                    f"{type(self).__name__} has no {name}: it is called like snnTorch's own neurons but computes "
                    "something else, and cannot stand for one of them (in an export to NIR, for example)"
                ) from None
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        if name in LIBRARY_NAMES.values() and name in type(self)._field_of:
            self._state = self._state._replace(**{self._field_of[name]: value})
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle holds the state without its graph, which cannot be copied or pickled."""
        return super().__getstate__() | {"_state": self.State(*[value.detach() for value in self._state])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _list(self)


def _is_eager() -> bool:
    """Whether a tensor's graph can be inspected: no compiler and no transform of torch.func is active."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def _is_absent(value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == (0,)


class _Listed:
    """Stands for one of our neurons in the library's global list, which holds strong references and is never emptied.

    Only ``reset_hidden`` and ``detach_hidden`` of the library's classes go through that list. They check the class,
    read the state to detach it, and write zeros to reset it. On a reset, one of our neurons must also end its sequence
    and reset its last spikes, which the library does not.
    """

    def __init__(self, neuron: PluggedNeuron):
        self.neuron = weakref.ref(neuron)
        self.listed_class = type(neuron)

    @property
    def __class__(self):
        return self.listed_class

    def _read(self) -> Tensor:
        if (neuron := self.neuron()) is not None:
            neuron.detach_mem()
        return torch.zeros(0)

    def _write(self, zeros: Tensor) -> None:
        if (neuron := self.neuron()) is not None:
            neuron.reset_mem()

    mem = syn = syn_exc = syn_inh = property(_read, _write)


def _list(neuron: PluggedNeuron) -> None:
    """Enter ``neuron`` in the library's list, and remove entries of neurons that no longer exist.

    They are not removed when they cease to exist: the library may be looping over the list at that moment.
    """
    instances = snn.SpikingNeuron.instances
    instances[:] = [entry for entry in instances if type(entry) is not _Listed or entry.neuron() is not None]
    instances.append(_Listed(neuron))


class LearnableLIF(PluggedNeuron, neurons.LearnableLIF, _Leaky):
    """:class:`neurons.LearnableLIF` for snnTorch: ``spk, mem = lif(cur, mem)`` on ``[B, N]``."""


class Integrator(PluggedNeuron, neurons.Integrator, _Leaky):
    """:class:`neurons.Integrator` for snnTorch: ``spk, mem = lif(cur, mem)`` on ``[B, N]``; spk is the membrane."""


class LeakyIntegrator(PluggedNeuron, neurons.LeakyIntegrator, _Leaky):
    """:class:`neurons.LeakyIntegrator` for snnTorch: ``spk, mem = lif(cur, mem)`` on ``[B, N]``; spk is the membrane.

    It is ``snn.Leaky(beta, reset_mechanism="none")``, called in the same way, for a loss of ``mem``.
    """


class MultiBitLIF(PluggedNeuron, neurons.MultiBitLIF, _Leaky):
    """:class:`neurons.MultiBitLIF` for snnTorch: ``spk, mem = lif(cur, mem)`` on ``[B, N]``."""


class MultiBitSynapticLIF(PluggedNeuron, neurons.MultiBitSynapticLIF, _Synaptic):
    """:class:`neurons.MultiBitSynapticLIF` for snnTorch: ``spk, syn, mem = lif(cur, syn, mem)`` on ``[B, N]``."""


class InputGatedLIF(PluggedNeuron, neurons.InputGatedLIF, _Synaptic):
    """:class:`neurons.InputGatedLIF` for snnTorch: ``spk, syn, mem = lif(cur, syn, mem)``, cur of ``[B, 2N]``."""


class RecurrentGatedLIF(PluggedNeuron, neurons.RecurrentGatedLIF, _RSynaptic):
    """:class:`neurons.RecurrentGatedLIF` for snnTorch: ``spk, syn, mem = lif(cur, spk, syn, mem)``, cur ``[B, 2N]``."""


_NAMED = (
    LearnableLIF,
    Integrator,
    LeakyIntegrator,
    MultiBitLIF,
    MultiBitSynapticLIF,
    InputGatedLIF,
    RecurrentGatedLIF,
)


@functools.cache
def plugged(neuron: type[Neuron]) -> type:
    """The snnTorch class of a neuron, also of one registered elsewhere; the same class each time.

    Its parent in the library is the class that returns the same number of tensors: Leaky, Synaptic (RSynaptic if the
    last spikes are part of the state) or Alpha. snnTorch's export to NIR treats a class like its parent, and fails on
    ours because they lack the parent's parameters; a neuron with parameters called ``beta`` and ``threshold`` would be
    exported as a Leaky. Raises TypeError if ``neuron`` is not a neuron class.
    """
    if not (isinstance(neuron, type) and issubclass(neuron, Neuron) and hasattr(neuron, "State")):
        raise TypeError(f"plugged takes a subclass of neurons.Neuron that has a State; got {neuron!r}")
    if issubclass(neuron, PluggedNeuron):
        return neuron
    for named in _NAMED:
        if neuron in named.__bases__:
            return named
    recurrent = "spikes" in neuron.State._fields
    others = len(neuron.State._fields) - recurrent
    parent = _Leaky if others < 2 else _Alpha if others > 2 else _RSynaptic if recurrent else _Synaptic
    made = type(neuron.__name__, (PluggedNeuron, neuron, parent), {"__doc__": neuron.__doc__, "__module__": __name__})
    # A class made here is in no module, so copies and pickles find it through the neuron's class.
    copyreg.pickle(made, lambda module: (_unfilled, (neuron,), module.__getstate__()))
    return made


def _unfilled(neuron: type[Neuron]) -> PluggedNeuron:
    made: Any = plugged(neuron)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    return made.__new__(made)

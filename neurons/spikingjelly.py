"""The neurons as nodes of SpikingJelly, for its releases 2.0.0 and 0.0.0.0.14.

::

    from spikingjelly.activation_based import functional, layer
    from neurons.spikingjelly import LearnableLIFNode

    net = nn.Sequential(layer.Conv2d(2, 16, 3), LearnableLIFNode())
    functional.set_step_mode(net, "m")
    spikes = net(x_seq)              # [T, B, 16, H, W]
    functional.reset_net(net)

A node is both the plain neuron and a SpikingJelly ``BaseNode`` (:class:`Node`). Because it inherits from both, its
parameters, its buffers and their names in ``state_dict`` are those of the plain neuron. So a state dict can be moved
unchanged between the plain neuron, SpikingJelly and snnTorch.

Code that looks for the library's ``BaseNode`` (monitors, profilers, exporters) finds these nodes. It does not find what
only the library's equations have: ``v_threshold``, ``v_reset``, ``tau`` and ``neuronal_charge`` raise an AttributeError
or NotImplementedError, so that nothing computes with them as if the node were the library's own.

Two notes on SpikingJelly's operation counters (``op_counter``). While one counts, the scans run in torch step by step,
so that their operations are visible like those of the library's own nodes. An operation without a rule (clamping a
learned leak, rounding to a level) is left out and listed in ``get_unsupported``, or refused if the counter is
``strict``. And a counter treats a layer's input as spikes only if every value is 0 or 1, so it counts the additions
after a multi-bit spike as multiplications.

``memopt.optimize_memory(compress=True)`` chooses its one-bit compression from one example input. Give it
``compress=False`` if it checkpoints a layer whose input is multi-bit spikes.
"""

import copyreg
import types
import warnings
from typing import Any

import torch
from torch import Tensor

from neurons import repeats
from neurons.checks import flag, is_real, one_or_per_channel
from neurons.foreign import Foreign, Same, own_options
from neurons.input_gated_lif import InputGatedLIF
from neurons.integrator import Integrator
from neurons.kernels import BACKENDS
from neurons.leaky_integrator import LeakyIntegrator
from neurons.learnable_lif import LearnableLIF
from neurons.multibit_lif import MultiBitLIF
from neurons.multibit_synaptic_lif import MultiBitSynapticLIF
from neurons.neuron import Neuron, clip, state_dtype
from neurons.recurrent_gated_lif import RecurrentGatedLIF
from neurons.repeats import Notes

try:
    from spikingjelly.activation_based.base import MemoryModule
    from spikingjelly.activation_based.neuron import BaseNode
except ImportError as error:
    raise ImportError(
        f"the SpikingJelly nodes need SpikingJelly ({error}); install it with: pip install spikingjelly"
    ) from error

MEMORIES = {"membrane": "v", "synaptic_current": "i"}
"""The library's names for parts of a neuron's state; any other part keeps its own name."""


_RESET = (
    "a neuron that fires subtracts what it fired, as v_reset=None does in the library; for a membrane that is never "
    "reset, as a readout for regression, take leaky-integrator; only learnable-lif can reset to zero, with v_reset=0.0"
)
_LEAK = (
    "of the neurons, learnable-lif, multibit-lif and leaky-integrator have a leak, given as leak or by tau: 1 - 1/tau"
)
INSTEAD = {
    "v_threshold": "the learnable LIF has a threshold, multi-bit spikes have threshold_levels and a tracked range",
    "v_reset": _RESET,
    **dict.fromkeys(("tau", "init_tau", "w", "decay_input"), _LEAK),
    "detach_reset": (
        "whether its reset passes a gradient on is part of its equations: not in the learnable LIF "
        "(detach_reset=True), but with multi-bit spikes (detach_reset=False)"
    ),
    "surrogate_function": "of the neurons, only learnable-lif has a surrogate gradient that could be chosen",
    "lava_s_cale": "there is no exchange with Lava",
    **dict.fromkeys(("cupy_fp32_inference", "forward_kernel", "backward_kernel"), "backend says what runs it"),
}
"""What only the library's own nodes have, and what to use instead."""


def _leak_of(tau: float | Tensor) -> Tensor:
    """The leak of a membrane with the time constant ``tau``, in time steps."""
    start = one_or_per_channel(tau, "tau")
    if not start.is_meta and not bool((start.isfinite() & (start >= 1)).all()):
        raise ValueError(f"tau is a time constant in time steps, at least 1 (the leak is 1 - 1/tau); got {tau!r}")
    return 1 - 1 / start


def _reset_of(v_reset: float | None) -> str:
    """The reset of the learnable LIF."""
    if v_reset is None:
        return "subtract"
    if is_real(v_reset) and v_reset == 0:
        return "zero"
    raise ValueError(f"v_reset is None, for a reset by subtraction, or 0.0; got {v_reset!r}")


SAME = {
    "tau": Same("leak", _leak_of),
    "v_threshold": Same("threshold"),
    "v_reset": Same("reset_mechanism", _reset_of),
    "surrogate_function": Same("surrogate"),
}
"""What a neuron with this option takes by the library's name too."""


class _Memory(BaseNode):
    """The library's base without its constructor and its text, which are about attributes that mean nothing here."""

    __init__ = MemoryModule.__init__
    extra_repr = MemoryModule.extra_repr


class Node(Foreign):
    """Turns a :class:`neurons.Neuron` into a node: SpikingJelly's calling conventions over explicit state.

    A node takes the plain neuron's arguments and, by keyword, ``step_mode``, "s" or "m", ``store_v_seq`` and
    ``backend``. With ``step_mode="s"`` it is called on one step ``[B, C, ...]``, with "m" on a sequence
    ``[T, B, C, ...]``; both give the same outputs. The state is carried from call to call until :meth:`reset`. Its
    parts are the node's memories. They have the shape of one output step, are 0.0 before the first call, float32 for
    half-precision input, and never saved: ``v``, the membrane after the reset of the last step; ``i``, the synaptic
    current, where there is one; any other part under its own name (``spikes`` of the recurrent-gated LIF).

    With ``store_v_seq=True``, ``v_seq`` holds the membrane after every step, ``[T, B, N, ...]``: in mode "m" of the
    last call, in mode "s" since the last reset. A fused kernel does not return it, so mode "m" then runs step by step
    in plain torch: the same outputs, slower, and with a warning if ``backend`` asks for a kernel.

    For a loss of the membrane of multi-bit spikes, V - Q(V), use ``v_seq``: its gradient is that of V, as if the reset
    were detached. ``v`` is the state itself, which has no gradient where Q passes it straight through.

    ``backend`` says what runs the scan of mode "m" (:mod:`neurons.kernels`): "auto", the kernel for the device of the
    input; "cpu" or "cupy", that kernel or an error; "torch", the steps in a loop. ``last_backend`` says what ran. In
    0.0.0.0.14, ``functional.set_backend(net, "cupy")`` sets it, after ``set_step_mode(net, "m")`` as for the
    library's own nodes.

    In training, the range of multi-bit spikes is updated once per call in mode "m"; in mode "s" all steps from one
    :meth:`reset` to the next count as one sequence. So both modes learn the same range if the network is reset after
    every sequence. ``functional_forward`` is pure: it returns what the next call would and changes no range.

    In activation checkpointing, a repeated call starts from the same memories as the first time and does not change
    those that the node carries.

    Options that mean the same are taken by the library's names too: ``tau`` for a leak of 1 - 1/tau, ``v_threshold``
    for the threshold, ``surrogate_function`` for the surrogate, ``v_reset`` (None or 0.0) for the reset of the
    learnable LIF; and ``v_reset=None`` and ``detach_reset`` with the value that the neuron has anyway. Two defaults are
    not the library's: leak and threshold are learned, and the reset is by subtraction (the library's is to 0.0).

    A neuron with a leak takes ``decay_input``: with True, its input is multiplied by 1 - leak, as in the library's LIF.
    As there, that is the default where ``tau`` is given. (Where ``leak`` is given, the input is taken as it is.)

    ``channel_dim`` says where the channels are, if not in dimension 1 of a step: without it, a gated neuron splits
    whatever dimension 1 is into its two halves, and a value per channel goes along dimension 1.

    Raises TypeError for an option of the library that means nothing to this neuron, and AttributeError where such an
    attribute is set.
    """

    peer, foreign, same = "SpikingJelly", INSTEAD, SAME
    added = ("step_mode", "store_v_seq", "backend", "channel_dim")
    constants = ("step_parameters", "input_share")
    _decay_input: bool | None = None
    """None without a leak."""

    def __init__(self, *args, step_mode: str = "s", store_v_seq: bool = False, backend: str = "auto", **options):
        own = own_options(type(self))
        decay_input = None
        if "leak" in own and "decay_input" not in own:
            decay_input = flag(options.pop("decay_input", "tau" in options), "decay_input")
        super().__init__(*args, **options)
        self._decay_input = decay_input
        for field in self.State._fields:
            self.register_memory(MEMORIES.get(field, field), 0.0)
        self._starts = Notes()
        self.step_mode = step_mode
        self.store_v_seq = store_v_seq
        self.backend = backend

    @classmethod
    def does_anyway(cls) -> dict[str, Any]:
        anyway: dict[str, Any] = {"v_reset": None} if cls.resets == "subtract" else {}
        if cls.detaches_reset is not None:
            anyway["detach_reset"] = cls.detaches_reset
        return anyway

    @property
    def decay_input(self) -> bool:
        """Whether the input is multiplied by 1 - leak."""
        if self._decay_input is None:
            raise AttributeError(self._explain("decay_input"))
        return self._decay_input

    @decay_input.setter
    def decay_input(self, value: bool) -> None:
        self._decay_input = flag(value, "decay_input")

    def _has_own(self, name: str) -> bool:
        return (name == "decay_input" and self._decay_input is not None) or super()._has_own(name)

    def run(self, x: Tensor, state: Any, sequence: bool) -> tuple[Tensor, Any]:
        return super().run(self._decayed(x, sequence) if self._decay_input else x, state, sequence)

    def _decayed(self, x: Tensor, sequence: bool) -> Tensor:
        """The input times 1 - leak, along the dimension of the channels."""
        share = self.input_share().to(x.dtype)
        steps = x.dim() - sequence
        return x * (share.view(-1, *[1] * (steps - 1 - self.channel_dim % steps)) if share.dim() else share)

    def input_share(self) -> Tensor:
        """What the input is multiplied by with ``decay_input``: 1 - leak, one value or one per channel."""
        return 1 - clip(self.leak, 0.0, 1.0)

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """The backends that ``functional.set_backend`` of 0.0.0.0.14 may set now: kernels only if the scan has one."""
        has_kernel = self.step_mode == "m" and self.reference_only() is None
        return BACKENDS if has_kernel else ("auto", "torch")

    @property
    def store_v_seq(self) -> bool:
        return self._store_v_seq

    @store_v_seq.setter
    def store_v_seq(self, value: bool) -> None:
        if flag(value, "store_v_seq") and "membrane" not in self.State._fields:
            raise ValueError(f"{type(self).__name__} has no membrane, so store_v_seq has nothing to store")
        self._store_v_seq = value
        self.v_seq: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise TypeError(
                f"{type(self).__name__} cannot be traced by torch.fx, and so not exported to NIR, which has no "
                "primitive for this neuron"
            )
        return self.single_step_forward(x) if self.step_mode == "s" else self.multi_step_forward(x)

    def single_step_forward(self, x: Tensor) -> Tensor:
        """Take one step on ``x [B, C, ...]`` from the node's memories."""
        carried, first = repeats.carried(self._starts, x, tuple(self._memories.values()), self.training)
        state = self.State(*self.materialize_states((x,), carried, "s"))
        y, state = self.run(x, state, False)
        if first:
            self._memories.update(zip(self._memories, state))
            if self.store_v_seq:
                v = self.shown_membrane(y, state).unsqueeze(0)
                self.v_seq = v.clone() if self.v_seq is None else torch.cat((self.v_seq, v))
        else:
            self._starts.pass_on(state)
        return y

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Scan ``x_seq [T, B, C, ...]`` from the node's memories."""
        carried, first = repeats.carried(self._starts, x_seq, tuple(self._memories.values()), self.training)
        state = self.State(*self.materialize_states((x_seq,), carried, "m"))
        membranes: Tensor | None = None
        if self.store_v_seq and len(x_seq):
            if first:  # steps fed one by one before this call are a sequence of their own
                self.finish_sequence()
            y_seq, state, membranes = self._scan_keeping_membranes(x_seq, state)
        else:
            y_seq, state = self.run(x_seq, state, True)
        if first:
            self._memories.update(zip(self._memories, state))
            if membranes is not None:
                self.v_seq = membranes
                self.finish_sequence()
        else:
            self._starts.pass_on(state)
        return y_seq

    def _scan_keeping_membranes(self, x_seq: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        if self.backend in ("cpu", "cupy"):
            warnings.warn(
                f'{type(self).__name__} with store_v_seq=True runs in torch, not with backend "{self.backend}"',
                stacklevel=3,
            )
        outputs, membranes = [], []
        for x in x_seq.unbind(0):
            y, state = self.run(x, state, False)
            outputs.append(y)
            membranes.append(self.shown_membrane(y, state))
        return torch.stack(outputs), state, torch.stack(membranes)

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple[Tensor, ...]:
        """``states`` as tensors that fit the input: a number fills a tensor, a tensor is moved to device and type.

        Raises ValueError for another shape, as after a batch of another size.
        """
        (x,) = inputs
        sequence = step_mode == "m"
        self.check(self.inward(x, sequence), sequence)
        shape, dtype = self.state_shape(x, sequence), state_dtype(x.dtype)
        tensors = []
        for name, value in zip(self._memories, states):
            if not isinstance(value, Tensor):
                value = x.new_full(shape, value, dtype=dtype)
            elif value.shape != shape:
                raise ValueError(
                    f"{type(self).__name__} carries {name} of shape {list(value.shape)} from its last input, and this "
                    f"input needs {list(shape)}; call functional.reset_net(net) before a new batch"
                )
            tensors.append(value.to(x.device, dtype))
        return tuple(tensors)

    def single_step_functional_forward(self, inputs: tuple, states: tuple) -> tuple[tuple[Tensor], tuple[Tensor, ...]]:
        """One step with explicit state, in the order of the memories; changes no memory and no range."""
        (x,) = inputs
        with self.still():
            y, state = self.run(x, self.State(*states), False)
        return (y,), tuple(state)

    def multi_step_functional_forward(self, inputs: tuple, states: tuple) -> tuple[tuple[Tensor], tuple[Tensor, ...]]:
        """A scan with explicit state, in the order of the memories; changes no memory and no range."""
        (x_seq,) = inputs
        with self.still():
            y_seq, state = self.run(x_seq, self.State(*states), True)
        return (y_seq,), tuple(state)

    def reset(self) -> None:
        """Clear state and ``v_seq``; for the range statistics, the next step begins a new sequence."""
        super().reset()
        self.finish_sequence()
        self.v_seq = None

    def detach(self) -> None:
        """Cut state and ``v_seq`` from the graph so far, for truncated backpropagation through time.

        Not in place, unlike the library's own: outputs returned earlier keep their gradient.
        """
        for name, value in self._memories.items():
            self._memories[name] = _detached(value)
        self.v_seq = _detached(self.v_seq)

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle holds the state without its graph, which cannot be copied or pickled."""
        state: Any = super().__getstate__()
        memories = {name: _detached(value) for name, value in self._memories.items()}
        return state | {"_memories": memories, "v_seq": _detached(self.v_seq)}

    def __getattr__(self, name: str):
        # The AttributeMonitor of 0.0.0.0.14 calls this for v_seq too, which is no memory here.
        if name in self.__dict__:
            return self.__dict__[name]
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in INSTEAD:
                raise AttributeError(self._explain(name)) from None
            raise

    def extra_repr(self) -> str:
        own, librarys = super().extra_repr(), MemoryModule.extra_repr(self)
        decays = "" if self._decay_input is None else f"decay_input={self._decay_input}"
        parts = ("" if own == librarys else own, decays, f"step_mode={self.step_mode}", f"backend={self.backend}")
        return ", ".join(filter(None, parts))


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class LearnableLIFNode(Node, LearnableLIF, _Memory):
    """:class:`neurons.LearnableLIF` as a SpikingJelly node (:class:`Node`). Memory: ``v``."""


class IntegratorNode(Node, Integrator, _Memory):
    """:class:`neurons.Integrator` as a SpikingJelly node (:class:`Node`). Memory: ``v``, which is the output too."""


class LeakyIntegratorNode(Node, LeakyIntegrator, _Memory):
    """:class:`neurons.LeakyIntegrator` as a SpikingJelly node (:class:`Node`). Memory: ``v``, the output too."""


class MultiBitSynapticLIFNode(Node, MultiBitSynapticLIF, _Memory):
    """:class:`neurons.MultiBitSynapticLIF` as a SpikingJelly node (:class:`Node`). Memories: ``i``, ``v``."""


class InputGatedLIFNode(Node, InputGatedLIF, _Memory):
    """:class:`neurons.InputGatedLIF` as a SpikingJelly node (:class:`Node`). Memories: ``i``, ``v``."""


class RecurrentGatedLIFNode(Node, RecurrentGatedLIF, _Memory):
    """:class:`neurons.RecurrentGatedLIF` as a SpikingJelly node (:class:`Node`). Memories: ``i``, ``v``, ``spikes``."""


class MultiBitLIFNode(Node, MultiBitLIF, _Memory):
    """:class:`neurons.MultiBitLIF` as a SpikingJelly node (:class:`Node`). Memory: ``v``."""


_nodes: dict[type[Neuron], type[Node]] = {
    LearnableLIF: LearnableLIFNode,
    Integrator: IntegratorNode,
    LeakyIntegrator: LeakyIntegratorNode,
    MultiBitSynapticLIF: MultiBitSynapticLIFNode,
    InputGatedLIF: InputGatedLIFNode,
    RecurrentGatedLIF: RecurrentGatedLIFNode,
    MultiBitLIF: MultiBitLIFNode,
}


def plugged(neuron: type[Neuron]) -> type[Node]:
    """The SpikingJelly node of a neuron class: one class each, whose instances can be pickled and copied.

    Raises TypeError unless ``neuron`` is a subclass of :class:`neurons.Neuron` with a ``State``.
    """
    if not (isinstance(neuron, type) and issubclass(neuron, Neuron) and hasattr(neuron, "State")):
        raise TypeError(f"a node is made from a subclass of neurons.Neuron that has a State; got {neuron!r}")
    if neuron not in _nodes:
        doc = f":class:`{neuron.__qualname__}` as a SpikingJelly node (:class:`Node`)."
        # new_class and not type(): the neuron may have a metaclass of its own.
        node = types.new_class(
            f"{neuron.__name__}Node",
            (Node, neuron, _Memory),
            exec_body=lambda body: body.update(__module__=__name__, __doc__=doc),
        )
        # The class cannot be found by name, so its instances are pickled with the neuron class it came from.
        copyreg.pickle(node, lambda self: (_blank, (neuron,), self.__getstate__()))
        _nodes[neuron] = node
    return _nodes[neuron]


def _blank(neuron: type[Neuron]) -> Node:
    """A node with nothing in it, for pickle to fill."""
    node = plugged(neuron)
    return node.__new__(node)

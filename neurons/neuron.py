"""What all neurons share: explicit state, checks of the input, and the reference scan.

A neuron is a pure **step** ``(x, state, parameters) -> (y, state)`` and a :class:`Neuron` that holds the
parameters. The step is the definition of the neuron; :func:`reference_scan` runs it along a sequence.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from neurons import kernels
from neurons.checks import Setting, is_whole
from neurons.kernels.operators import nothing_watches
from neurons.kernels.ready import ReadyScan
from neurons.spike import (
    FULL_PRECISION,
    MultiBitSpike,
    ObservedSpike,
    Statistics,
    StepTrackedSpike,
    TrackedRange,
    apply,
    check_bits,
)

Step = Callable[[Tensor, Any, Any], tuple[Tensor, Any]]


def reference_scan(step: Step, x_seq: Tensor, state: Any, parameters: Any) -> tuple[Tensor, Any]:
    """Run ``step`` over dimension 0 of ``x_seq``; return the outputs ``[T, B, ...]`` and the final state.

    ``unbind`` and not ``x_seq[t]``: indexing in a loop makes the backward quadratic in T.
    """
    outputs = []
    for x in x_seq.unbind(0):
        y, state = step(x, state, parameters)
        outputs.append(y)
    if not outputs:
        return x_seq.new_empty((0, *state[0].shape)), type(state)(*[part.clone() for part in state])
    return torch.stack(outputs).to(x_seq.dtype), state


def _apart(y: Tensor, state: Any, dtype: torch.dtype) -> tuple[Tensor, Any]:
    """A step's output in this type, and its state. They share no memory, so either may be changed in place."""
    y = y.to(dtype)
    return (y.clone() if any([y is part for part in state]) else y), state


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split the channels (dimension 1 of a step ``[B, 2N, ...]``) into the two halves f and c."""
    f, c = x.chunk(2, dim=1)
    return f, c


def over_channels(parameter: Tensor, like: Tensor) -> Tensor:
    """A parameter of one element, or of one per channel ``[N]``, shaped to broadcast over ``like [B, N, ...]``.

    It gets the type of ``like``, a state: the type of a parameter never decides the type of a state.
    """
    parameter = parameter.to(like.dtype)
    if parameter.dim() == 0:
        return parameter
    return parameter.view(-1, *[1] * (like.dim() - 2))


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the state: float32 for half-precision input, else the input's own type."""
    return dtype if dtype == torch.float64 else torch.float32


class Neuron(nn.Module):
    """Base of every neuron: calling it on ``x_seq [T, B, ...]`` scans the sequence from an explicit state.

    A sequence in chunks, each started from the final state of the previous one, gives the same as the whole sequence.
    There is one exception: in training, a tracked range counts every chunk as a sequence. Single steps count as one
    sequence, which begins when no state is given.

    A new neuron subclasses this, names its ``State`` (a NamedTuple of tensors, each of the shape of one
    output step), says in ``inputs_per_neuron`` how many input channels it takes for one output channel,
    and defines ``step`` and ``step_parameters``. Both plug-ins then come from the registration alone
    (:func:`neurons.register`), and so does a fused scan where the class declares its ``kernel``
    (:class:`neurons.kernels.Kernel`).
    """

    State: ClassVar[Any]
    inputs_per_neuron: ClassVar[int] = 1
    multi_bit: ClassVar[bool] = False
    """Whether it fires multi-bit spikes (:mod:`neurons.spike`)."""
    resets: ClassVar[str | None] = None
    """What its reset does to the membrane: "subtract" the spike, or "none". None if unsaid."""
    detaches_reset: ClassVar[bool | None] = None
    """Whether the reset keeps the gradient from passing through the spike. None without a reset, or if unsaid."""
    constants: ClassVar[tuple[str, ...]] = ("step_parameters",)
    """The methods whose values depend on parameters alone. A profile does not count what they compute."""
    name: ClassVar[str] = ""
    """The registered name, set by :func:`neurons.register`."""
    last_backend: str | None = None
    """What ran the last call: "torch", "cpu" or "cupy"."""
    _asked_backend: str = "auto"
    _ready: ReadyScan | None = None
    """Within :func:`unchanging`."""

    def __init__(self) -> None:
        super().__init__()
        self._ran(None)  # torch.export of torch 2.8 refuses attributes that a forward is the first to set

    @staticmethod
    def step(x: Tensor, state: Any, parameters: Any) -> tuple[Tensor, Any]:
        """One time step: the definition of the neuron, pure and in plain torch."""
        raise NotImplementedError

    def step_parameters(self) -> Any:
        """The parameters of ``step`` as it takes them, from this module's parameters and buffers."""
        raise NotImplementedError

    def kernel_parameters(self) -> Any:
        """The parameters of ``step`` as a kernel takes them, which knows no functions."""
        return self.step_parameters()

    @property
    def backend(self) -> str:
        """What runs a scan: "auto", "torch", "cpu" or "cupy" (:mod:`neurons.kernels`). A single step runs in torch.

        Setting it raises ValueError for another name, ImportError if the kernel's library is missing.
        """
        return self._asked_backend

    @backend.setter
    def backend(self, backend: str) -> None:
        self._asked_backend = kernels.check_backend(backend)

    def reference_only(self) -> str | None:
        """Why no kernel can run this neuron's scan, or None if one can."""
        operator = kernels.OPERATORS.get(self.name)
        if operator is not None and self.step is operator.declared_by.step:
            return None
        return f"{type(self).__name__} has no fused kernel for its step"

    @property
    def channels(self) -> int | None:
        """Output channels N if a parameter fixes them, else None (any number)."""
        return None

    def forward(self, x_seq: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Scan ``x_seq [T, B, C, ...]`` from ``state`` (None: all zero); return ``y_seq`` and the final state."""
        ready = self._ready
        if ready is not None and (result := ready.run(x_seq, state)) is not None:
            return result
        self.check(x_seq, sequence=True)
        state = self.initial_state(x_seq, sequence=True) if state is None else self.checked_state(state, x_seq, True)
        if ready is not None:
            ready.prepare(x_seq, state)
            if (result := ready.run(x_seq, state)) is not None:
                return result
        return self.scan(x_seq, state)

    def scan(self, x_seq: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The scan behind ``forward``, on checked input."""
        self._ran(kernels.choose(self, x_seq))
        if self.last_backend == "torch":
            return reference_scan(self.step, x_seq, state, self.step_parameters())
        y_seq, state, _ = kernels.scan(self.name, x_seq, state, self.kernel_parameters())
        return y_seq, self.State(*state)

    def single_step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Take one step on ``x [B, C, ...]`` from ``state`` (None: all zero); return ``y`` and the new state."""
        self.check(x, sequence=False)
        state = self.initial_state(x, sequence=False) if state is None else self.checked_state(state, x, False)
        self._ran("torch")
        return _apart(*self.advance(x, state), x.dtype)

    def advance(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The ``step`` with this module's parameters, on checked input. A neuron may compute it in fewer operations."""
        return self.step(x, state, self.step_parameters())

    def shown_membrane(self, y: Tensor, state: Any) -> Tensor:
        """The membrane of ``state`` for a caller who may compute a loss of it; ``y`` is the output of the same step."""
        return state.membrane

    def finish_sequence(self) -> None:
        """End a sequence that was fed step by step: for a tracked range, the next step begins a new one."""

    def still(self) -> contextlib.AbstractContextManager[None]:
        """Context in which forwards run as usual but leave a tracked range unchanged."""
        return contextlib.nullcontext()

    def train(self, mode: bool = True):
        if not mode:
            self.finish_sequence()
        return super().train(mode)

    def output_shape(self, x: Tensor, sequence: bool) -> torch.Size:
        """The shape of one output step for this input."""
        shape = list(x.shape[1:] if sequence else x.shape)
        shape[1] //= self.inputs_per_neuron
        return torch.Size(shape)

    def initial_state(self, x: Tensor, sequence: bool = True) -> Any:
        """A state of zeros for input ``x``, at least float32."""
        shape, dtype = self.output_shape(x, sequence), state_dtype(x.dtype)
        return self.State(*[x.new_zeros(shape, dtype=dtype) for _ in self.State._fields])

    def check(self, x: Tensor, sequence: bool) -> None:
        """Raise TypeError or ValueError unless ``x`` is an input this neuron can take."""
        who = type(self).__name__
        layout = "[T, B, C, ...]" if sequence else "[B, C, ...]"
        if not isinstance(x, Tensor):
            raise TypeError(f"{who} takes a tensor {layout}; got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{who} takes floating-point input; got {x.dtype}. Convert it with .float()")
        if x.layout is not torch.strided:
            raise TypeError(f"{who} takes a dense tensor; got one of layout {x.layout}. Convert it with .to_dense()")
        if x.dim() < 2 + sequence:
            raise ValueError(f"{who} takes input of shape {layout}; got {list(x.shape)}")
        device = self._device()
        if device is not None and device != x.device:
            raise ValueError(f"{who} is on {device} and its input on {x.device}; move one with .to(device)")
        channels = x.shape[1 + sequence]
        per = self.inputs_per_neuron
        if channels % per:
            raise ValueError(
                f"{who} takes {per} input channels per neuron, so their number must be a multiple of {per}; "
                f"got {channels}"
            )
        own = self.channels
        if own is not None and channels != per * own:
            raise ValueError(f"{who} has {own} neurons and takes {per * own} channels; got {channels}")

    def _device(self) -> torch.device | None:
        """The device of the first parameter or buffer; ``parameters()`` can take longer than a step."""
        for module in (self, *self._modules.values()):
            if module is None:
                continue
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    return tensor.device
        return None

    def _ran(self, backend: str | None) -> None:
        object.__setattr__(self, "last_backend", backend)  # nn.Module's own can take longer than a step

    def checked_state(self, state: Any, x: Tensor, sequence: bool) -> Any:
        """``state`` as this neuron's State, or an error that says which part does not fit the input."""
        who, fields = type(self).__name__, self.State._fields
        if not isinstance(state, (tuple, list)) or len(state) != len(fields):
            got = f"{len(state)} parts" if isinstance(state, (tuple, list)) else type(state).__name__
            raise ValueError(f"{who} takes a state of {len(fields)} tensors ({', '.join(fields)}); got {got}")
        shape, dtype = self.output_shape(x, sequence), state_dtype(x.dtype)
        for field, value in zip(fields, state):
            if not isinstance(value, Tensor):
                raise TypeError(f"{who}: the state's {field} must be a tensor; got {type(value).__name__}")
            if value.shape != shape:
                raise ValueError(
                    f"{who}: the state's {field} has shape {list(value.shape)}; this input needs {list(shape)}"
                )
            if value.device != x.device:
                raise ValueError(f"{who}: the state's {field} is on {value.device} and the input on {x.device}")
            if value.dtype != dtype:
                raise TypeError(
                    f"{who}: the state's {field} is {value.dtype}; {x.dtype} input keeps its state in {dtype}"
                )
        return self.State(*state)


@contextlib.contextmanager
def unchanging(net: nn.Module) -> Iterator[None]:
    """Context in which the parameters, ranges and settings of the neurons of ``net`` must not change.

    They are then read once instead of in every call, where it takes many times as long as one time step. So a network
    that is called step by step on the CPU, without gradients, runs faster. The results are the same::

        with torch.inference_mode(), neurons.unchanging(net):
            for x in steps:
                y, state = net(x, state)

    The recurrent-gated neuron and the layers of the two plug-ins gain nothing by it.
    """
    found = [m for m in net.modules() if isinstance(m, Neuron) and m._ready is None and _scans_as_registered(m)]
    try:
        for neuron in found:
            object.__setattr__(neuron, "_ready", ReadyScan(neuron))
        yield
    finally:
        for neuron in found:
            object.__setattr__(neuron, "_ready", None)


def _scans_as_registered(neuron: Neuron) -> bool:
    """Whether the kernel computes all of the neuron's scan: neither its class nor anybody else has changed it."""
    operator = kernels.OPERATORS.get(neuron.name)
    known = operator is not None and type(neuron) is operator.declared_by and not operator.kernel.recurrent
    return known and not {"scan", "step"} & neuron.__dict__.keys()


def _bits(neuron: "MultiBitNeuron", bits: int) -> int:
    """``bits``, checked against the threshold. At full precision any threshold may wait for fewer bits."""
    waits = is_whole(bits) and bits == FULL_PRECISION
    check_bits(bits, 0 if waits else neuron.__dict__.get("threshold_levels", 0))
    return int(bits)


def _threshold_levels(neuron: "MultiBitNeuron", threshold_levels: int) -> int:
    check_bits(neuron.bits, threshold_levels)
    return int(threshold_levels)


class MultiBitNeuron(Neuron):
    """Base of the neurons that fire the multi-bit spike: holds its bits, threshold and tracked range.

    ``bits`` and ``threshold_levels`` may also be set later. With fewer bits the threshold must still leave a level that
    fires, so lower the threshold first.
    """

    multi_bit = True
    resets, detaches_reset = "subtract", False
    bits = Setting(_bits)
    threshold_levels = Setting(_threshold_levels)

    def __init__(
        self,
        bits: int = 4,
        threshold_levels: int = 0,
        initial_range: float = 1.0,
        range_tracking: str = "sequence",
        range_momentum: float = 0.1,
    ):
        super().__init__()
        self.bits = bits
        self.threshold_levels = threshold_levels
        self.spike_range = TrackedRange(initial_range, range_tracking, range_momentum)

    def spike(self) -> MultiBitSpike:
        """The spike function with the range as it is now."""
        return MultiBitSpike(self.spike_range.value(), self.bits, self.threshold_levels)

    def step_parameters_with(self, spike: Callable[[Tensor], Tensor]) -> Any:
        """The parameters of ``step``, with this spike function."""
        raise NotImplementedError

    def step_parameters(self) -> Any:
        return self.step_parameters_with(self.spike())  # type: ignore[arg-type]  # a tuple that can be called

    def reference_only(self) -> str | None:
        if self.tracks and self.spike_range.tracking == "step":
            return f'{type(self).__name__} with range_tracking="step" moves its range at every step of training'
        return super().reference_only()

    @property
    def tracks(self) -> bool:
        return self.training and self.spike_range.tracking != "fixed"

    def scan(self, x_seq: Tensor, state: Any) -> tuple[Tensor, Any]:
        if not self.tracks or not x_seq.shape[0]:
            return super().scan(x_seq, state)
        self._ran(kernels.choose(self, x_seq))
        start, observed = self.spike_range.begin((x_seq, *state))
        if self.last_backend == "torch":
            spike = self._tracking_spike(start)
            y_seq, state = reference_scan(self.step, x_seq, state, self.step_parameters_with(spike))
            self._track(spike, start, observed)
            return y_seq, state
        step_parameters = self.step_parameters_with(self._spike_of(start))  # type: ignore[arg-type]
        y_seq, state, extremes = kernels.scan(self.name, x_seq, state, step_parameters, track=True)
        assert extremes is not None
        self.spike_range.observe(start, extremes[0], extremes[1], observed)
        return y_seq, self.State(*state)

    def single_step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if not self.tracks:
            return super().single_step(x, state)
        self.check(x, sequence=False)
        goes_on = state is not None
        state = self.checked_state(state, x, False) if goes_on else self.initial_state(x, sequence=False)
        self._ran("torch")
        start, observed = self.spike_range.begin((x, *state), goes_on)
        spike = self._tracking_spike(start)
        y, state = self.step(x, state, self.step_parameters_with(spike))
        if isinstance(spike, StepTrackedSpike):
            self._track(spike, start, observed)
        else:
            self.spike_range.observe_step(start, spike.minimum, spike.maximum, goes_on, observed)
        return _apart(y, state, x.dtype)

    def _spike_of(self, start: Statistics) -> MultiBitSpike:
        return MultiBitSpike(start.current, self.bits, self.threshold_levels)

    def _tracking_spike(self, start: Statistics) -> ObservedSpike | StepTrackedSpike:
        spike = self._spike_of(start)
        if self.spike_range.tracking == "step":
            return StepTrackedSpike(spike, start, self.spike_range.momentum)
        return ObservedSpike(spike)

    def _track(self, spike: ObservedSpike | StepTrackedSpike, start: Statistics, observed: bool | Tensor) -> None:
        if isinstance(spike, StepTrackedSpike):
            self.spike_range.write(spike.statistics, observed)
        else:
            self.spike_range.observe(start, spike.minimum, spike.maximum, observed)

    def shown_membrane(self, y: Tensor, state: Any) -> Tensor:
        """The membrane after the reset, with the gradient of the membrane before it.

        V - Q(V) itself has no gradient where Q passes it straight through, so a loss of it would train nothing.
        """
        return apply(_ShownMembrane, state.membrane, y)

    def finish_sequence(self) -> None:
        self.spike_range.finish_sequence()

    def still(self) -> contextlib.AbstractContextManager[None]:
        return self.spike_range.still()

    def extra_repr(self) -> str:
        return f"bits={self.bits}, threshold_levels={self.threshold_levels}"


class _ShownMembrane(torch.autograd.Function):
    """Forward, the membrane after the reset; backward, the gradient of the membrane before it, ``membrane + y``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(membrane: Tensor, y: Tensor) -> Tensor:
        return membrane.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.dtype = inputs[1].dtype

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, gradient.to(ctx.dtype)


class _Clip(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, low: float, high: float) -> Tensor:
        return value.clamp(low, high)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        value, ctx.low, ctx.high = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (value,) = ctx.saved_tensors
        leads_out = ((value < ctx.low) & (gradient > 0)) | ((value > ctx.high) & (gradient < 0))
        return torch.where(leads_out, 0.0, gradient), None, None


def clip(value: Tensor, low: float, high: float) -> Tensor:
    """``value`` clipped to ``[low, high]``, with a gradient that leads back into the interval.

    Outside, the gradient passes if descent on it moves the value towards the interval, and is zero otherwise. With
    ``clamp``, a parameter that one training step took outside would stay there forever.
    """
    if not (torch.is_grad_enabled() and value.requires_grad):
        return value.clamp(low, high)
    return value if _lies_within(value, low, high) else apply(_Clip, value, low, high)


def _lies_within(value: Tensor, low: float, high: float) -> bool:
    """Whether nothing is to be clipped, where asking for it takes less time than clipping."""
    if type(value) not in (Tensor, nn.Parameter) or value.device.type != "cpu" or not nothing_watches():
        return False
    if value.dim():
        return torch.equal(value.detach().clamp(low, high), value)
    return low <= value.item() <= high


def check_channels(channels: int) -> int:
    """``channels``, or a ValueError unless it is a whole number of at least 1."""
    if not is_whole(channels) or channels < 1:
        raise ValueError(f"channels is the number of neurons, a whole number of at least 1; got {channels!r}")
    return int(channels)


class MembraneState(NamedTuple):
    """State of a neuron with only a membrane: ``[B, N]``, after the reset."""

    membrane: Tensor


class SynapticState(NamedTuple):
    """State of a neuron with a synaptic current and a membrane (after the reset), each ``[B, N]``."""

    synaptic_current: Tensor
    membrane: Tensor

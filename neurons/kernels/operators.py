"""The scans as torch operators, so that autograd, ``torch.compile`` and autocast know them.

Every neuron that declares a :class:`Kernel` has two operators, defined when it is registered::

    snn_zoo::<neuron>_scan(x, *state, *parameters, *settings, keep, track)
        -> (y, *final_state, checkpoints, extremes)
    snn_zoo::<neuron>_scan_backward(x, *state, *parameters, *settings, checkpoints, grad_y, *grad_final_state)
        -> (grad_x, *grad_state, *grad_learned_parameters)

Parameters and settings are the fields of the value of the neuron's ``step_parameters()``, in order. Shapes: x
``[T, B, C, ...]``, y ``[T, B, N, ...]``, every part of the state ``[B, N, ...]``, all contiguous. Parameters have one
element or one per channel. They and the state are at least float32.

With ``keep`` the forward returns checkpoints for a later backward. With ``track`` it returns the minimum and maximum of
the membrane, which the range of a multi-bit spike follows. An output that is not asked for is an empty tensor.

The device decides the provider: :mod:`neurons.kernels.cpu` or :mod:`neurons.kernels.cuda`.
"""

import contextlib
import functools
import importlib
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, library
from torch._functorch import pyfunctorch
from torch.utils import flop_counter

from neurons.repeats import NAMESPACE

_NOTHING = contextlib.nullcontext()
_MODULES = {"cpu": "neurons.kernels.cpu", "cuda": "neurons.kernels.cuda"}


class Kernel(NamedTuple):
    """A neuron's declaration of its fused scan, as ``kernel = Kernel(...)`` in its class.

    The kernels are found by name: in ``cpu_kernels.py`` by the registered name (``input_gated_lif_forward`` and
    ``_backward`` for "input-gated-lif"), in ``scan.cu`` by the class name (``InputGatedLIF``).
    :mod:`neurons.kernels.cpu` and ``scan.cu`` say what they take.
    """

    learned: tuple[str, ...] = ()
    """The learned parameters, named as in ``step_parameters()``: tensors of one element or one per channel."""
    settings: tuple[str, ...] = ()
    """The settings that follow them, as in a torch schema: ``"float gamma"``. A multi-bit spike's are implied."""
    keeps_state: bool = True
    """Whether the backward needs the state of earlier steps."""
    recurrent: bool = False
    """Whether every step has a product with the last spikes; the providers have a separate scan for that."""


@dataclass(frozen=True)
class Operator:
    """The scan of one neuron: its registered name, the class that declares its kernel, and its arguments."""

    neuron: str
    declared_by: Any
    state: tuple[str, ...]
    kernel: Kernel
    multi_bit: bool
    """Whether it takes the range of a multi-bit spike, its bits and its threshold in levels."""
    inputs_per_neuron: int

    @property
    def learned(self) -> tuple[str, ...]:
        return self.kernel.learned

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.learned, "spike_range") if self.multi_bit else self.learned

    @property
    def name(self) -> str:
        return f"{NAMESPACE}::{self.neuron.replace('-', '_')}_scan"

    @property
    def function(self):
        """The forward operator, as torch calls it."""
        return getattr(getattr(torch.ops, NAMESPACE), self.name.split("::")[1]).default

    @property
    def backward_function(self):
        """The backward operator, as torch calls it."""
        return getattr(getattr(torch.ops, NAMESPACE), f"{self.name.split('::')[1]}_backward").default

    @property
    def schemas(self) -> tuple[str, str]:
        """The schemas of forward and backward."""
        settings = ("int bits", "int threshold_levels") if self.multi_bit else self.kernel.settings
        common = [*_tensors("x", *self.state, *self.parameters), *settings]
        final = [f"final_{part}" for part in self.state]
        forward = [*common, "bool keep", "bool track"], _tensors("y", *final, "checkpoints", "extremes")
        gradients = [f"grad_{part}" for part in ("y", *final)]
        found = [f"grad_{part}" for part in ("x", *self.state, *self.learned)]
        backward = [*common, *_tensors("checkpoints", *gradients)], _tensors(*found)
        schema = "({}) -> ({})".format
        return schema(*map(", ".join, forward)), schema(*map(", ".join, backward))

    def split(self, arguments: tuple) -> tuple[Tensor, list[Tensor], list[Tensor], list, tuple]:
        """An operator's arguments, split into x, state, parameters, settings and the rest."""
        first, second = 1 + len(self.state), 1 + len(self.state) + len(self.parameters)
        third = second + (2 if self.multi_bit else len(self.kernel.settings))
        state, parameters = list(arguments[1:first]), list(arguments[first:second])
        return arguments[0], state, parameters, list(arguments[second:third]), arguments[third:]


def _tensors(*names: str) -> list[str]:
    return [f"Tensor {name}" for name in names]


OPERATORS: dict[str, Operator] = {}
"""Every neuron with a kernel, by its registered name."""


def define(operator: Operator) -> None:
    """Make the operators of a neuron known to torch.

    A class that is defined again, as in a notebook, may declare the same kernel again. Raises ValueError for a
    different one, because torch cannot remove an operator.
    """
    before = OPERATORS.get(operator.neuron)
    if before is None:
        _define(operator)
    elif before.schemas != operator.schemas or before.kernel != operator.kernel:
        raise ValueError(f"{operator.neuron!r} has another kernel already, and torch forgets none: start Python anew")
    OPERATORS[operator.neuron] = operator


def scan(
    neuron: str, x_seq: Tensor, state: tuple[Tensor, ...], step_parameters: tuple, track: bool = False
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Scan ``x_seq [T, B, C, ...]`` with the fused operator of ``neuron``, from ``state``.

    ``step_parameters`` is what the neuron's method returns. Returns ``y_seq``, the final state and, with ``track``, the
    extremes ``[minimum, maximum]`` of the membrane before the spike.
    """
    x, parts = x_seq.contiguous(), [part.contiguous() for part in state]
    parameters, settings = parameters_and_settings(step_parameters, parts[0].dtype)
    # Inside an operator gradients are always off, so this is found out here.
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parts, *parameters))
    operator = OPERATORS[neuron]
    if not nothing_watches():
        inputs = x, *parts, *parameters
        _refuse_transforms(neuron, inputs)
        y, *final_state, _, extremes = operator.function(*inputs, *settings, keep, track)
    # Call the kernel directly: for a few time steps, torch's dispatcher takes longer than all the rest.
    elif keep:
        y, *final_state, extremes = _EagerScan.apply(operator, settings, track, x, *parts, *parameters)
    else:
        y, *final_state, _, extremes = _forward(operator, x, parts, parameters, settings, False, track)
    return y, final_state, extremes


def parameters_and_settings(step_parameters: tuple, dtype: torch.dtype) -> tuple[list[Tensor], list]:
    """An operator's arguments from a neuron's ``step_parameters()``, for a state of type ``dtype``."""
    leaves = _flat(step_parameters)
    parameters = [_parameter(leaf, dtype) for leaf in leaves if isinstance(leaf, Tensor)]
    return parameters, leaves[len(parameters) :]


def _flat(step_parameters: tuple) -> list:
    """The fields of ``step_parameters``; a spike function in it is replaced by its own fields."""
    return [leaf for value in step_parameters for leaf in (_flat(value) if isinstance(value, tuple) else (value,))]


def _parameter(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.dtype != dtype:
        value = value.to(dtype)
    return value.contiguous() if value.dim() else value.view(1)


def nothing_watches() -> bool:
    """Whether the operator can be skipped: no compiler, transform, mode or profiler is active that must see it."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
        or torch.autograd.profiler._is_profiler_enabled
    )


def _refuse_transforms(neuron: str, inputs: tuple[Tensor, ...]) -> None:
    """Raise for a kind of derivative that the operators lack: torch would ignore it or raise an unclear error."""
    if torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active() and any(
        interpreter.key() == torch._C._functorch.TransformType.Grad
        for interpreter in pyfunctorch.retrieve_all_functorch_interpreters()
    ):
        raise NotImplementedError(_without("derivative for torch.func", neuron))
    unpack = torch.autograd.forward_ad.unpack_dual
    if torch.autograd.forward_ad._current_level >= 0 and any(unpack(t).tangent is not None for t in inputs):
        raise NotImplementedError(_without("forward-mode derivative", neuron))


def _without(what: str, neuron: str) -> str:
    return f'the fused scan of {neuron} has no {what}; set backend = "torch" on the neuron for it'


def _provider(tensor: Tensor):
    return _module(tensor.device.type)


@functools.cache
def _module(device: str):
    return importlib.import_module(_MODULES[device])


def _checkpoint_shape(operator: Operator, x: Tensor, state: list[Tensor]) -> tuple:
    return _provider(x).checkpoint_shape(operator.neuron, x.shape[0], state[0].shape)


def _empty_checkpoints(operator: Operator, x: Tensor, state: list[Tensor]) -> Tensor:
    # Flat: with a dimension for the number of checkpoints, torch.compile would compile one and several separately.
    return state[0].new_empty(math.prod(_checkpoint_shape(operator, x, state)))


def full_precision(x: Tensor):
    """Context without autocast: the state keeps its own type, and so do the products that lead to it."""
    device = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(device):  # autocast does not know the meta device
        return _NOTHING
    return torch.autocast(device, enabled=False)


def _forward(
    operator: Operator,
    x: Tensor,
    state: list[Tensor],
    parameters: list[Tensor],
    settings: list,
    keep: bool,
    track: bool,
) -> tuple[Tensor | None, ...]:
    """y, the parts of the final state, checkpoints and extremes; the last two are None if not asked for."""
    if x.numel():
        with full_precision(x):
            provider, inputs = _provider(x), (x, state, parameters, settings, keep, track)
            y, final_state, checkpoints, extremes = provider.scan_forward(operator.neuron, *inputs)
        return y, *final_state, checkpoints.view(-1) if keep else None, extremes
    y = x.new_empty((x.shape[0], *state[0].shape))
    checkpoints = _empty_checkpoints(operator, x, state) if keep else None
    extremes = state[0].new_tensor([float("inf"), float("-inf")]) if track else None
    return y, *(part.clone() for part in state), checkpoints, extremes


def _backward(
    operator: Operator, x: Tensor, state: list[Tensor], parameters: list[Tensor], settings: list, rest: tuple
) -> tuple[Tensor, ...]:
    checkpoints, grad_y, *grad_state = rest
    if x.numel():
        with full_precision(x):
            checkpoints = checkpoints.view(_checkpoint_shape(operator, x, state))
            inputs = x, state, parameters, settings, checkpoints, grad_y, grad_state
            grad_x, grad_state, grad_parameters = _provider(x).scan_backward(operator.neuron, *inputs)
        return grad_x, *grad_state, *grad_parameters
    grad_parameters = [torch.zeros_like(p) for p in parameters[: len(operator.learned)]]
    return torch.empty_like(x), *(grad.clone() for grad in grad_state), *grad_parameters


def _differentiate(operator: Operator, saved: tuple, settings: list, grads: tuple) -> tuple[Tensor, ...]:
    """Gradients of the input, the state and the learned parameters, from those of the outputs."""
    *inputs, checkpoints = saved
    gradients = [grad.contiguous() for grad in grads[: 1 + len(operator.state)]]
    arguments = *inputs, *settings, checkpoints, *gradients
    if torch.is_grad_enabled() or not nothing_watches() or any(map(_is_batched, gradients)):
        return operator.backward_function(*arguments)
    return _backward(operator, *operator.split(arguments))


def _is_batched(gradient: Tensor) -> bool:
    """Whether the tensor is a batch of gradients (``is_grads_batched``), which torch splits up for an operator."""
    return "Batched" in repr(torch._C._dispatch_keys(gradient))  # the key has no name in torch._C.DispatchKey


class _EagerScan(torch.autograd.Function):
    """The same scan and derivative as the operator, for when nothing needs to see an operator."""

    @staticmethod
    def forward(ctx, operator: Operator, settings: list, track: bool, *inputs: Tensor):
        parts = operator.split((*inputs, *settings))
        *outputs, checkpoints, extremes = _forward(operator, *parts[:4], True, track)
        ctx.operator, ctx.settings = operator, settings
        ctx.save_for_backward(*inputs, checkpoints)
        if track:
            ctx.mark_non_differentiable(extremes)
        return *outputs, extremes

    @staticmethod
    def backward(ctx, *grads: Tensor):
        operator = ctx.operator
        found = _differentiate(operator, ctx.saved_tensors, ctx.settings, grads)
        return None, None, None, *found, *[None] * (len(operator.parameters) - len(operator.learned))


def _define(operator: Operator) -> None:
    """Register the operators of one neuron: schemas, kernels, shapes and derivatives."""
    forward_name, backward_name = operator.name, f"{operator.name}_backward"

    def forward(*arguments):
        x, state, parameters, settings, (keep, track) = operator.split(arguments)
        outputs = _forward(operator, x, state, parameters, settings, keep, track)
        return tuple(state[0].new_empty(0) if output is None else output for output in outputs)

    def forward_shapes(*arguments):
        x, state, _, _, (keep, track) = operator.split(arguments)
        y = x.new_empty((x.shape[0], *state[0].shape))
        final_state = [torch.empty_like(part) for part in state]
        checkpoints = _empty_checkpoints(operator, x, state) if keep else state[0].new_empty(0)
        return y, *final_state, checkpoints, state[0].new_empty(2 if track else 0)

    def backward(*arguments):
        return _backward(operator, *operator.split(arguments))

    def backward_shapes(*arguments):
        x, state, parameters, _, _ = operator.split(arguments)
        return tuple(torch.empty_like(t) for t in (x, *state, *parameters[: len(operator.learned)]))

    def keep_for_backward(ctx, inputs, output) -> None:
        x, state, parameters, ctx.settings, _ = operator.split(inputs)
        *_, checkpoints, extremes = output
        ctx.mark_non_differentiable(checkpoints, extremes)
        ctx.save_for_backward(x, *state, *parameters, checkpoints)

    def differentiate(ctx, *grads):
        found = _differentiate(operator, ctx.saved_tensors, ctx.settings, grads)
        return (*found, *[None] * (len(operator.parameters) - len(operator.learned) + len(ctx.settings) + 2))

    def refuse_twice(ctx, *grads):
        raise NotImplementedError(_without("second derivative", operator.neuron))

    forward_schema, backward_schema = operator.schemas
    for name, schema, kernel, shapes in (
        (forward_name, forward_schema, forward, forward_shapes),
        (backward_name, backward_schema, backward, backward_shapes),
    ):
        library.define(name, schema)
        library.impl(name, tuple(_MODULES), kernel)
        library.register_fake(name, shapes)
    library.register_autograd(forward_name, differentiate, setup_context=keep_for_backward)
    library.register_autograd(backward_name, refuse_twice)
    if operator.kernel.recurrent:
        _count_products(operator)


def _count_products(operator: Operator) -> None:
    """torch.utils.flop_counter counts matrix products, which only a recurrent scan has."""

    @flop_counter.register_flop_formula(operator.function.overloadpacket)
    def forward(x_shape, *shapes, **known) -> int:
        """Per step, one product of the last spikes ``[B, N]`` with ``[N, 2N]``."""
        steps, batch, channels = x_shape
        return 2 * steps * batch * (channels // 2) * channels

    @flop_counter.register_flop_formula(operator.backward_function.overloadpacket)
    def backward(x_shape, *shapes, **known) -> int:
        """Per step, one product for the gradient of the last spikes, and one for that of the weight."""
        return 2 * forward(x_shape)

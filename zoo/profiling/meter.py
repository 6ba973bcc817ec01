"""The meter: sees every operation of a running network and counts it for the layer that ran it."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import neurons
from neurons.monitors import around_steps
from zoo.networks.layers import without_row_groups
from zoo.profiling import operations
from zoo.profiling.counts import Counts
from zoo.profiling.layers import Call, counter_of
from zoo.profiling.ledger import Ledger, Row
from zoo.profiling.spikes import BINARY, REAL, ZERO


@functools.cache
def _classified(func: Any) -> tuple[str, str, bool]:
    """The name of an operation in the lists, its kind, and whether it works in place."""
    namespace, name = func._schema.name.split("::")
    in_place = name.endswith("_") and not name.endswith("__")
    name = name.removesuffix("_") if in_place else name
    if namespace not in ("aten", "prim"):
        return name, "unknown", in_place
    if name in operations.COUNTED or name in operations.FUNCTIONS:
        return name, "counted", in_place
    if in_place and name in operations.WRITTEN:
        return name, "written", in_place
    if any(name in kind for kind in operations.WITHOUT_ARITHMETIC):
        return name, "free", in_place
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return name, "composite" if composite else "unknown", in_place


class UncountableError(NotImplementedError):
    """A layer runs something whose cost is not known."""


class Meter(TorchDispatchMode):
    """Counts all operations while it is :meth:`attached`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.ledger = Ledger(model)
        self._suspended = 0
        self._noted_before: list[int] = []
        self._add_rows()

    def _add_rows(self) -> None:
        """Add one row per module; the modules inside a layer that is counted as a whole belong to that layer."""
        seen: set[int] = set()
        self._leaves: dict[nn.Module, str] = {}
        self._inside: list[nn.Module] = []
        for name, module in self.model.named_modules():
            if any(module is inner for inner in self._inside):
                continue
            name = name or type(module).__name__
            leaf = counter_of(module) is not None
            held = [*module.parameters(leaf), *module.buffers(leaf)]
            own = list({id(tensor): tensor for tensor in held if id(tensor) not in seen}.values())
            seen.update(map(id, own))
            trained = sum(t.numel() for t in own if isinstance(t, nn.Parameter))
            self.ledger.rows[name] = Row(
                name, type(module).__name__, trained, sum(t.numel() * t.element_size() for t in own)
            )
            self._leaves[module] = name
            if leaf:
                self._inside += [inner for inner in module.modules() if inner is not module]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Context in which everything that the model does is counted."""
        fast = torch.backends.mha.get_fastpath_enabled()
        with ExitStack() as stack:
            for module, name in self._leaves.items():
                stack.enter_context(self._hooked(name, module))
            # Fused attention would hide its products; the path made of plain operations computes the same.
            stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
            torch.backends.mha.set_fastpath_enabled(False)
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(without_row_groups(self.model))  # the added rows of zeros do not count
            stack.enter_context(around_steps(self.model, self._around_step))
            stack.enter_context(self)
            yield
        self.ledger.finished_inputs += 1

    @contextmanager
    def _hooked(self, name: str, module: nn.Module) -> Iterator[None]:
        count = None if isinstance(module, neurons.Neuron) else counter_of(module)

        def enter(module, args, kwargs):
            self.ledger.running.append(name)
            self._noted_before.append(self.ledger.noted)
            self._suspended += count is not None

        def leave(module, args, kwargs, output):
            self._suspended -= count is not None
            if not self._suspended:
                with self._paused():  # operations of the counting itself are not counted
                    self._finish(name, module, count, (*args, *kwargs.values()), output)
            self._noted_before.pop()
            self.ledger.running.pop()

        hooks = (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        )
        constants = module.constants if isinstance(module, neurons.Neuron) else ()
        vars(module).update({each: functools.partial(self._uncounted, getattr(module, each)) for each in constants})
        try:
            yield
        finally:
            for each in constants:
                vars(module).pop(each)
            for hook in hooks:
                hook.remove()

    def _finish(self, name: str, module: nn.Module, count: Callable | None, inputs: tuple, output: Any) -> None:
        if count is not None:
            self.ledger.book(name, count(Call(module, inputs, output, name, self.ledger)))
        elif self._noted_before[-1] == self.ledger.noted:
            self._note_new_spikes(name, inputs, output)

    def _uncounted(self, function: Callable) -> Any:
        """Not counted: a neuron's constants (range, clipped leak) are computed once per model, not per input."""
        with self._paused():
            return function()

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Context in which operations bypass the meter, which saves time."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def _around_step(self, name: str, neuron: neurons.Neuron, step: Callable, x: Tensor, state: Any, parameters: Any):
        count = counter_of(neuron)
        if count is None or self._suspended:
            return step(x, state, parameters)
        with self._paused():
            y, after = step(x, state, parameters)
            self.ledger.book(name, count(Call(neuron, (x, state, parameters), (y, after), name, self.ledger)))
        return y, after

    def _note_new_spikes(self, name: str, inputs: tuple, output: Any) -> None:
        """Recognise a neuron of another library: 0 and 1 come out, none go in, and no part of it made them."""
        made = [t for t in pytree.tree_leaves(output) if self._is_binary(t)]
        if made and not any(self.ledger.tags.of(t) is not None for t in pytree.tree_leaves(inputs)):
            self.ledger.note_spikes(name, made[0])

    def _is_binary(self, tensor: Any) -> bool:
        tag = self.ledger.tags.of(tensor)
        return tag is not None and isinstance(tag.sources, int) and tag.sources == BINARY

    def tag_inputs(self, inputs: Any) -> None:
        """Tag inputs that hold only 0 and 1 as spikes."""
        for tensor in pytree.tree_leaves(inputs):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and ((tensor == 0) | (tensor == 1)).all():
                self.ledger.tags.set(tensor, BINARY)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._suspended:
            return func(*args, **kwargs)
        name, kind, in_place = _classified(func)
        if kind == "counted":
            return self._count(name, func, args, kwargs, in_place)
        if kind == "written":
            self.ledger.tags.write(func, args, kwargs, operations.WRITTEN[name])
            return func(*args, **kwargs)
        if kind == "free":
            return self._move(name, func, args, kwargs, in_place)
        if kind == "composite":
            with self:
                return func.decompose(*args, **kwargs)
        self._refuse(func)

    def _move(self, name: str, func: Any, args: tuple, kwargs: dict, in_place: bool) -> Any:
        out = func(*args, **kwargs)
        if name in operations.MOVED:
            self.ledger.tags.move(func, args, kwargs, out, operations.MOVED[name])
        elif name in operations.ZEROS:
            self.ledger.tags.set(out, ZERO)
        elif name in operations.KEPT:
            self.ledger.tags.share(args[0], out)
        elif name in operations.CHOSEN:
            tag = self.ledger.tags.of(args[0])
            if tag is not None and isinstance(tag.sources, int):
                self.ledger.tags.set(out[0] if isinstance(out, tuple) else out, tag.sources)
        elif in_place:
            self._make_real(args[0])
        return out

    def _count(self, name: str, func: Any, args: tuple, kwargs: dict, in_place: bool) -> Any:
        # An operation in place is counted before it changes its operand.
        out = args[0] if in_place else func(*args, **kwargs)
        self.ledger.result_tag = None
        results = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
        if any(t.is_complex() for t in results):
            self._refuse(func, "complex numbers")
        if results and results[0].is_floating_point():
            try:
                if name in operations.COUNTED:
                    counts = operations.COUNTED[name](self.ledger, args, kwargs, out)
                else:
                    counts = Counts(functions=Counter({name: results[0].numel()}))
            except NotImplementedError as error:
                self._refuse(func, str(error))
            self.ledger.book(self.ledger.innermost, counts)
        if in_place:
            out = func(*args, **kwargs)
            self._make_real(out)
        if self.ledger.result_tag is not None:
            self.ledger.tags.set(out, self.ledger.result_tag)
        return out

    def _make_real(self, tensor: Tensor) -> None:
        tag = self.ledger.tags.of(tensor)
        if tag is not None:
            if isinstance(tag.sources, Tensor):
                tag.sources.fill_(REAL)
            else:
                tag.sources = REAL

    def _refuse(self, func: Any, why: str = "") -> None:
        name = self.ledger.innermost
        kind = self.ledger.rows[name].kind
        raise UncountableError(
            f"layer {name!r} ({kind}) runs {func}{' on ' + why if why else ''}, which cannot be counted; say what a "
            f"{kind} costs with @zoo.profiling.register_counter({kind})"
        )

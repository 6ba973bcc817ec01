"""Check a neuron of your own: shapes, state, chunks, batches, gradients, types, kernels, saving and both plug-ins.

::

    from neurons.testing import check_neuron

    def test_my_neuron():
        check_neuron(MyNeuron)                      # or check_neuron(MyNeuron, leak=0.9), with options of its own

Each check runs the neuron on a little random input. The first that fails raises :class:`NeuronError`, which says what
was expected, what was found, and what is the usual mistake. The neuron need not be registered.
"""

import contextlib
import copy
import importlib
import inspect
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from neurons.foreign import Foreign
from neurons.kernels import OPERATORS, missing
from neurons.neuron import Neuron, reference_scan, state_dtype

STEPS, BATCH, CHANNELS = 7, 3, 4
"""The shape of the input, three different numbers, so that mixed up dimensions are found."""


class NeuronError(AssertionError):
    """A neuron does not keep to what the scans, the plug-ins and the tools of this package expect of it."""


def check_neuron(neuron: type[Neuron], **options: Any) -> None:
    """Check the class of a neuron, built with ``options``; return nothing, or raise :class:`NeuronError`.

    If the constructor takes ``channels`` and they are not given, they are 4. The neuron is checked as it is built, in
    training and in evaluation, on the CPU; on a GPU too if it has a kernel and one is there. The state of torch's
    random numbers is left alone. Raises TypeError unless ``neuron`` is a class.
    """
    if not isinstance(neuron, type):
        raise TypeError(f"check_neuron takes a class, and the options of its constructor by name; got {neuron!r}")
    _check_class(neuron)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        case = _Case(neuron, options)
        for check in _CHECKS:
            means = (check.__doc__ or "").rstrip(".")
            with case.failing(f"this could not be checked: {means}", "leave forward, scan and single_step as they are"):
                check(case)


class _Case:
    """A neuron under test: how to build it, and input for it."""

    def __init__(self, kind: type[Neuron], options: dict[str, Any]):
        self.kind, self.options = kind, options
        if "channels" in inspect.signature(kind).parameters:
            self.options = {"channels": CHANNELS, **options}
        self.channels = self.build().channels or CHANNELS

    def build(self) -> Any:
        """The neuron, always with the same parameters."""
        torch.manual_seed(0)
        with self.failing("it cannot be built", "give every option a default, or name it: check_neuron(MyNeuron, ...)"):
            return self.kind(**self.options)

    def input(self, *leading: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        """Random currents ``[*leading, C]``, by default of a sequence ``[T, B, C]``."""
        shape = (*(leading or (STEPS, BATCH)), self.channels * self.kind.inputs_per_neuron)
        numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (1.5 * numbers).to(dtype)

    def fail(self, found: str, remedy: str) -> None:
        raise NeuronError(f"{self.kind.__name__}: {found}. {remedy[0].upper()}{remedy[1:]}.")

    @contextlib.contextmanager
    def failing(self, what: str, remedy: str) -> Iterator[None]:
        """Turn any error inside into one that says what was tried."""
        try:
            yield
        except NeuronError:
            raise
        except Exception as error:
            found = f"{type(error).__name__}: {error}".rstrip(".")
            raise NeuronError(f"{self.kind.__name__}: {what} ({found}). {remedy[0].upper()}{remedy[1:]}.") from error

    def same(self, got: Any, wanted: Any, found: str, remedy: str, close: bool = True) -> None:
        """Fail unless both, tensors or tuples of them, are equal, or with ``close`` nearly so."""
        for one, other in zip(_tensors(got), _tensors(wanted), strict=True):
            if one.shape != other.shape or one.dtype != other.dtype:
                self.fail(f"{found}: {_kind(one)} and {_kind(other)}", remedy)
            tolerance = 1e-4 if close else 0.0
            if not torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True):
                largest = (one.double() - other.double()).abs().max()
                self.fail(f"{found}: they differ by up to {largest:.3g}", remedy)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a tensor or in nested tuples."""
    if isinstance(value, Tensor):
        return [value.detach()]
    return [tensor for part in value for tensor in _tensors(part)]


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _check_class(kind: Any) -> None:
    """What a class must have before anything can be run."""

    def fail(says: str) -> None:
        raise NeuronError(f"{kind.__name__}: {says}.")

    if not issubclass(kind, Neuron):
        fail("it is no subclass of neurons.Neuron. Write `class MyNeuron(neurons.Neuron):`")
    if issubclass(kind, Foreign):
        fail(
            f"it is a neuron of {kind.peer}. Check the plain neuron that it is made from; that checks both plug-ins too"
        )
    fields = getattr(getattr(kind, "State", None), "_fields", None)
    if not fields:
        fail(
            "it has no State. Write `State = neurons.MembraneState`, or a NamedTuple of your own with one tensor for "
            "each thing that a neuron remembers from step to step"
        )
    if kind.step is Neuron.step:
        fail("it defines no step. Write `@staticmethod def step(x, state, parameters)`, which returns y and a State")
    if not isinstance(inspect.getattr_static(kind, "step"), staticmethod):
        fail("its step is a method. Make it a @staticmethod; what it needs of the module comes in by step_parameters()")
    if kind.step_parameters is Neuron.step_parameters and not hasattr(kind, "step_parameters_with"):
        fail("it defines no step_parameters. Write a method that returns what step takes as `parameters` (or None)")


def _check_shapes(case: _Case) -> None:
    """One output per neuron and step, and a State of tensors of the shape of one output step."""
    neuron, x = case.build().eval(), case.input()
    with case.failing("one step failed", "its step takes x [B, C], a State and step_parameters()"):
        y, state = neuron.step(x[0], neuron.initial_state(x), neuron.step_parameters())
    one = (BATCH, case.channels)
    remedy = "step returns y, one number per neuron [B, N], and a State; inputs_per_neuron says how many x has for each"
    if not isinstance(y, Tensor) or y.shape != one:
        found = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        case.fail(f"step returned y of {found} where {list(one)} was expected", remedy)
    if not isinstance(state, case.kind.State):
        case.fail(f"step returned a {type(state).__name__} for the state", f"return {case.kind.State.__name__}(...)")
    for field, part in zip(case.kind.State._fields, state):
        if not isinstance(part, Tensor) or part.shape != one:
            found = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
            remedy = "every part of a State has the shape of one output step, one number per neuron and sample"
            case.fail(f"the state's {field} is {found} after a step where {list(one)} was expected", remedy)
    y_seq, _ = neuron(x)
    if y_seq.shape != (STEPS, *one):
        case.fail(f"a sequence {list(x.shape)} gave {list(y_seq.shape)}", "a scan returns y_seq [T, B, N], time first")
    with case.failing("a sequence of no steps failed", "leave scan and forward as they are, or see reference_scan"):
        y_seq, state = neuron(x[:0])
    if y_seq.shape != (0, *one) or [part.shape for part in state] != [torch.Size(one)] * len(state):
        case.fail("a sequence of no steps did not give y_seq [0, B, N] and the state as it was", "see reference_scan")


def _check_steps(case: _Case) -> None:
    """Steps one by one, a scan, and the reference scan of the step are the same."""
    neuron, x = case.build().eval(), case.input()
    wanted = reference_scan(case.kind.step, x, neuron.initial_state(x), neuron.step_parameters())
    remedy = "leave scan and forward as they are, or let them do T times what step does, from the state they are given"
    case.same(neuron(x), wanted, "a scan and T times its step are not the same", remedy)
    outputs, state = [], None
    for step in x:
        y, state = neuron.single_step(step, state)
        outputs.append(y)
    case.same((torch.stack(outputs), state), wanted, "T single steps and T times its step are not the same", remedy)


def _check_repeats(case: _Case) -> None:
    """The same call gives the same."""
    neuron = case.build().eval()
    remedy = "keep nothing on self between calls: what a neuron remembers is in its State, which is given and returned"
    first = neuron(case.input())
    case.same(neuron(case.input()), first, "the same call gave something else the second time", remedy, close=False)


def _check_time(case: _Case) -> None:
    """No output depends on later input."""
    neuron, x = case.build().eval(), case.input()
    later = x.clone()
    later[STEPS // 2 :] = case.input(seed=2)[STEPS // 2 :]
    remedy = (
        "step t sees x[t] and the state alone; dimension 0 of a sequence is time, so do not mix, sort or average it"
    )
    found = "the first outputs changed when only later input did"
    case.same(neuron(later)[0][: STEPS // 2], neuron(x)[0][: STEPS // 2], found, remedy)


def _check_state(case: _Case) -> None:
    """All memory is in the state: it is explicit, starts at zero, and what comes in is left as it is."""
    neuron, x = case.build().eval(), case.input()
    state = neuron(case.input(seed=3))[1]
    kept, kept_x = [part.clone() for part in state], x.clone()
    whole = neuron(x, state)
    remedy = "do not change x or the state in place (+=, mul_, x[...] = ...): make new tensors, as in `v = v + x`"
    case.same(state, kept, "a call changed the state that it was given", remedy, close=False)
    case.same(x, kept_x, "a call changed the input that it was given", remedy, close=False)
    neuron.single_step(x[0], state)
    case.same((x, *state), (kept_x, *kept), "a single step changed its input or its state", remedy, close=False)
    first, zeros = neuron(x), neuron.initial_state(x)
    case.same(neuron(x, zeros), first, "a state of zeros is not the same as no state", "a sequence starts from zeros")
    remedy = "a scan starts from the state that it is given and returns the one that it ends with"
    for cut in (1, STEPS // 2):
        y, between = neuron(x[:cut], state)
        rest, last = neuron(x[cut:], between)
        found = f"a sequence in two chunks, cut after {cut}, is not the whole sequence"
        case.same((torch.cat((y, rest)), last), whole, found, remedy)


def _check_ownership(case: _Case) -> None:
    """What is handed out shares no memory with the state."""
    neuron, x = case.build().eval(), case.input()
    for y, state in (neuron(x), neuron.single_step(x[0])):
        kept = [part.clone() for part in state]
        y.add_(1)
        remedy = "return a clone() where y is the state itself; step may return the same tensor twice"
        case.same(state, kept, "changing the output changed the state", remedy, close=False)


def _check_batch(case: _Case) -> None:
    """A sample's output does not depend on the others in its batch."""
    neuron, x = case.build().eval(), case.input()
    whole = neuron(x)
    for sample in range(BATCH):
        alone = neuron(x[:, sample : sample + 1])
        wanted = whole[0][:, sample : sample + 1], tuple(part[sample : sample + 1] for part in whole[1])
        remedy = "do not sum, average or normalise over dimension 0 of a step, the batch, nor use its size"
        case.same(alone, wanted, f"sample {sample} alone is not what it is in a batch of {BATCH}", remedy)


def _check_places(case: _Case) -> None:
    """Inputs [T, B, C, H] are as many inputs [T, B, C], unless the neuron refuses them."""
    neuron = case.build().eval()
    x = case.input(2, STEPS, BATCH).movedim(0, -1)
    try:
        neuron.check(x, True)
    except ValueError:
        return
    remedy = "shape parameters with neurons.neuron.over_channels, or refuse more dimensions in check() by a ValueError"
    with case.failing("an input [T, B, C, H] failed", remedy):
        y = neuron(x)[0]
    wanted = torch.stack([neuron(x[..., place])[0] for place in range(2)], -1)
    case.same(y, wanted, "an input [T, B, C, H] is not the same as H inputs [T, B, C]", remedy)


def _check_gradients(case: _Case) -> None:
    """Input, state and learned parameters get a gradient, that of the steps."""
    for training in (True, False):
        neuron = case.build().train(training)
        state = [part.requires_grad_() for part in neuron(case.input(seed=3))[1]]
        x = case.input().requires_grad_()
        learned = {name: p for name, p in neuron.named_parameters() if p.requires_grad}
        weights = torch.randn(STEPS, BATCH, case.channels, generator=torch.Generator().manual_seed(4))
        with torch.enable_grad(), neuron.still():
            y, last = neuron(x, case.kind.State(*state))
            loss = (weights * y).sum() + sum((weights[0] * part).sum() for part in last)
            remedy = "compute y from x by operations with a gradient; a spike needs a surrogate (neurons.surrogate)"
            if not loss.requires_grad:
                case.fail("its output has no gradient at all", remedy)
            given = torch.autograd.grad(loss, [x, *state, *learned.values()], allow_unused=True)
        mode = "training" if training else "evaluation"
        _check_gradient(case, f"the input gets no gradient in {mode}", given[0], remedy)
        of_state, of_learned = given[1 : 1 + len(state)], given[1 + len(state) :]
        if not any(one is not None and one.any() for one in of_state):
            remedy = (
                "let the new state depend on the old one without detach() or .data, or nothing is learned over time"
            )
            case.fail(f"no gradient goes back in time in {mode}, from the outputs to the state before", remedy)
        remedy = (
            "do not take it by .item(), .data or detach(); hand it on in step_parameters(), or let it not require one"
        )
        for name, one in zip(learned, of_learned):
            _check_gradient(case, f"the parameter {name} gets no gradient in {mode}", one, remedy)


def _check_gradient(case: _Case, found: str, gradient: Tensor | None, remedy: str) -> None:
    if gradient is None or not gradient.any():
        case.fail(found, remedy)
    elif not gradient.isfinite().all():
        case.fail(f"{found} that is finite", "look for a division by zero, a root or a logarithm")


def _check_types(case: _Case) -> None:
    """Outputs have the type of the input; the state is float32 at least."""
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        neuron, x = case.build().to(dtype).eval(), case.input(dtype=dtype)
        remedy = "make new tensors like the state (torch.zeros_like, x.new_zeros), and give parameters the state's type"
        with case.failing(f"{dtype} input failed", remedy):
            y, state = neuron(x)
        for what, got, wanted in (("y", y, dtype), *[("the state", part, state_dtype(dtype)) for part in state]):
            if got.dtype != wanted:
                case.fail(f"{what} is {got.dtype} for {dtype} input where {wanted} was expected", remedy)


def _check_kernel(case: _Case) -> None:
    """A declared kernel computes what the step does, forward and backward."""
    operator = OPERATORS.get(case.kind.name)
    if operator is None or operator.declared_by is not case.kind:
        return
    backends = [("cpu", "cpu"), *([("cupy", "cuda")] if torch.cuda.is_available() else [])]
    for backend, device in backends:
        if missing(backend) is not None or case.build().reference_only() is not None:
            continue
        by_kernel, by_step = (_run_by(case, one, device) for one in (backend, "torch"))
        remedy = f"let the kernel for {backend} do what step does, in the same order, and its backward the derivative"
        case.same(by_kernel, by_step, f"the fused scan and the step are not the same on {device}", remedy)


def _run_by(case: _Case, backend: str, device: str) -> Sequence:
    """Outputs, final state and all gradients, as this backend computes them."""
    neuron = case.build().to(device).train()
    neuron.backend = backend
    x = case.input().to(device).requires_grad_()
    remedy = "write it, or leave `kernel = Kernel(...)` out of the class"
    with case.failing(f"the fused scan for {device} failed", remedy), torch.enable_grad():
        y, state = neuron(x)
        learned = [p for p in neuron.parameters() if p.requires_grad]
        return y, *state, *torch.autograd.grad(y.square().sum(), [x, *learned])


def _check_saving(case: _Case) -> None:
    """A state dict, a copy and a pickle hold all that decides the output."""
    neuron, x = case.build(), case.input()
    neuron.train()(x)
    for parameter in neuron.parameters():
        parameter.mul_(0.9)
    wanted = neuron.eval()(x)
    torch.manual_seed(1)
    fresh = case.kind(**case.options)
    remedy = (
        "keep numbers that are learned or drawn at random as nn.Parameter or by register_buffer, not as plain tensors"
    )
    with case.failing("its state dict does not load into a new one", remedy):
        fresh.load_state_dict(neuron.state_dict())
    case.same(fresh.eval()(x), wanted, "after load_state_dict it computes something else", remedy, close=False)
    with case.failing("it cannot be copied", "keep no open files, generators or tensors with a graph on self"):
        copied = copy.deepcopy(neuron)
    case.same(copied(x), wanted, "a copy computes something else", remedy, close=False)
    if "<locals>" not in case.kind.__qualname__:  # pickle finds a class by its name alone
        with case.failing("it cannot be pickled", "keep no lambda and no local function on self"):
            pickled = pickle.loads(pickle.dumps(neuron))
        case.same(pickled(x), wanted, "it computes something else after pickling", remedy, close=False)


def _plugged(case: _Case, library: str) -> Any:
    """The neuron as one of this library, or None if that is not installed."""
    try:
        module = importlib.import_module(f"neurons.{library}")
    except ImportError:
        return None
    remedy = "do not name an option, a parameter or a method as the library names its own"
    with case.failing(f"it cannot be made a neuron of {library}", remedy):
        node = module.plugged(case.kind)(**case.options)
        node.load_state_dict(case.build().state_dict())
    return node.eval()


def _check_snntorch(case: _Case) -> None:
    """In snnTorch, steps with the state handed over, and a reset, are what the plain neuron does."""
    if (lif := _plugged(case, "snntorch")) is None:
        return
    x, remedy = case.input(), "leave forward and single_step as they are, and keep the state in State alone"
    wanted = case.build().eval()(x)[0]
    with case.failing("it fails in snnTorch", remedy):
        for _ in range(2):
            lif.reset_mem()
            y = torch.stack([lif(step)[0] for step in x])
            case.same(y, wanted, "in snnTorch it computes something else", remedy)
        lif.reset_mem()
        case.same(lif.multi_step(x)[0], wanted, "multi_step in snnTorch computes something else", remedy)


def _check_spikingjelly(case: _Case) -> None:
    """In SpikingJelly, both step modes, and a reset, are what the plain neuron does."""
    if (node := _plugged(case, "spikingjelly")) is None:
        return
    x, remedy = case.input(), "leave forward and single_step as they are, and keep the state in State alone"
    wanted = case.build().eval()(x)[0]
    with case.failing("it fails in SpikingJelly", remedy):
        for mode in ("s", "m"):
            node.step_mode = mode
            node.reset()
            y = node(x) if mode == "m" else torch.stack([node(step) for step in x])
            case.same(y, wanted, f"in SpikingJelly it computes something else in step_mode {mode!r}", remedy)


_CHECKS = (
    _check_shapes,
    _check_repeats,
    _check_time,
    _check_state,
    _check_steps,
    _check_ownership,
    _check_batch,
    _check_places,
    _check_gradients,
    _check_types,
    _check_kernel,
    _check_saving,
    _check_snntorch,
    _check_spikingjelly,
)

"""Looking inside a running network: traces of its neurons' state, and how far back a loss reaches.

::

    traces = monitors.traces(net, x_seq)                  # membrane, synaptic current and spikes of every neuron
    traces.plot("traces.png")

    with monitors.record(net) as traces:                  # the same for a network that is called step by step
        for x in x_seq:
            net(x)

    norms = monitors.gradient_norms({"LIF": lif, "gated": gated}, x_seq)
    norms.plot("gradients.png")

They work on plain neurons and on those of both plug-ins, at any depth of a network. A neuron that is being watched runs
its reference step in plain torch, whatever its ``backend`` says.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from neurons.checks import check_values
from neurons.input_gated_lif import InputGatedLIF
from neurons.learnable_lif import LearnableLIF
from neurons.neuron import Neuron, Step
from neurons.recurrent_gated_lif import RecurrentGatedLIF

Around = Callable[[str, Neuron, Step, Tensor, Any, Any], tuple[Tensor, Any]]
Module = TypeVar("Module", bound=nn.Module)
PLOTTED_NEURONS = 4
PLOTTED_LAYERS = 6


@contextmanager
def around_steps(net: nn.Module, around: Around) -> Iterator[None]:
    """Context in which ``around(name, neuron, step, x, state, parameters)`` is called instead of every neuron's step.

    It returns what the step returns, usually ``step(x, state, parameters)`` itself. The name comes from
    ``net.named_modules()``; if ``net`` is itself the neuron, it is the class name.
    """
    watched = [(name, module) for name, module in net.named_modules() if isinstance(module, Neuron)]
    asked = [(neuron, neuron.backend, neuron.last_backend) for _, neuron in watched]
    try:
        for name, neuron in watched:
            neuron.backend = "torch"
            vars(neuron)["step"] = functools.partial(around, name or type(neuron).__name__, neuron, neuron.step)
        yield
    finally:
        for neuron, backend, last_backend in asked:
            vars(neuron).pop("step", None)
            neuron.backend, neuron.last_backend = backend, last_backend


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Context in which ``net`` is in evaluation mode; afterwards each module is back in its previous mode.

    Nothing else may use ``net`` meanwhile. For calls from several threads there is :func:`evaluation_view`.
    """
    training = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


@contextmanager
def evaluation_view(net: Module) -> Iterator[Module]:
    """``net`` in evaluation mode, as a module of its own over the same parameters, buffers and hooks.

    ``net`` itself stays in its mode. Meanwhile it may be trained, and other threads may make views of it. A change of
    its mode does not reach the view. A change of its weights in place does: the parts that run after it use the new
    weights. What ``net.compile()`` made of ``net`` itself is left out. Raises ValueError on the meta device.
    """
    check_values(net)
    views: dict[nn.Module, Any] = {}
    yield _view(net, views)
    for module, view in views.items():
        if isinstance(module, Neuron) and isinstance(view, Neuron) and view.last_backend != module.last_backend:
            module._ran(view.last_backend)


def _view(module: Module, views: dict[nn.Module, Any]) -> Module:
    if module not in views:
        views[module] = view = object.__new__(type(module))
        vars(view).update(vars(module), training=False, _modules={})
        vars(view).pop("_ready", None)  # what an ``unchanging`` made for the module
        vars(view).pop("_compiled_call_impl", None)  # module.compile() made it of the module itself, in its own mode
        for name, inner in module._modules.items():
            view._modules[name] = None if inner is None else _view(inner, views)
    return views[module]


def figure(rows: int, columns: int, size: tuple[float, float]):
    """A matplotlib figure and its axes ``[rows, columns]``; ImportError with the install command without it."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError("drawing needs matplotlib; install it with: pip install matplotlib") from error
    drawn = Figure(figsize=size, layout="constrained")
    return drawn, drawn.subplots(rows, columns, squeeze=False)


@dataclass
class Traces:
    """What every neuron of a network did: ``layers[name][part]`` is ``[T, B, N, ...]``.

    The parts are ``"spikes"``, the output, and those of the neuron's state, each after the reset of the step.
    """

    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def plot(self, path: str | Path, sample: int = 0) -> None:
        """Draw the first few neurons of up to six layers, for one sample of the batch."""
        if not self.layers:
            raise ValueError("there is nothing to draw: no neuron took a step")
        names = list(self.layers)[:PLOTTED_LAYERS]
        parts = list(dict.fromkeys(part for name in names for part in self.layers[name]))
        drawn, axes = figure(len(names), len(parts), (4.2 * len(parts), 1.2 + 1.8 * len(names)))
        for row, name in zip(axes, names):
            for axis, part in zip(row, parts):
                if part not in self.layers[name]:
                    axis.set_axis_off()
                    continue
                values = self.layers[name][part][:, sample].flatten(1)[:, :PLOTTED_NEURONS]
                axis.plot(values.float().cpu(), linewidth=1, drawstyle="steps-mid" if part == "spikes" else "default")
                axis.set_title(f"{name}: {part.replace('_', ' ')}", fontsize=9)
                axis.grid(alpha=0.3)
        for axis in axes[-1]:
            axis.set_xlabel("time step")
        drawn.savefig(path, dpi=120)


@contextmanager
def record(net: nn.Module) -> Iterator[Traces]:
    """Record the neurons of ``net`` within the context; the traces are complete when it ends.

    Raises ValueError at the end if a neuron ran on inputs of several shapes, which do not form one trace.
    """
    steps: dict[str, list[dict[str, Tensor]]] = {}

    def around(name, neuron, step, x, state, parameters):
        y, state = step(x, state, parameters)
        seen = {"spikes": y} | {part: value for part, value in state._asdict().items() if part != "spikes"}
        steps.setdefault(name, []).append({part: value.detach().clone() for part, value in seen.items()})
        return y, state

    result = Traces()
    with around_steps(net, around):
        yield result
    for name, seen in steps.items():
        shapes = {tuple(one["spikes"].shape) for one in seen}
        if len(shapes) > 1:
            raise ValueError(f"{name} ran on steps of several shapes, {sorted(shapes)}; record one input at a time")
        result.layers[name] = {part: torch.stack([one[part] for one in seen]) for part in seen[0]}


def traces(net: nn.Module, *inputs: Any) -> Traces:
    """Membranes, synaptic currents and spikes of all neurons in one call ``net(*inputs)``, in evaluation mode."""
    with evaluating(net), torch.no_grad(), record(net) as result:
        net(*inputs)
    return result


@dataclass
class GradientNorms:
    """``norms[network][of]`` is ``[T]``: the norm of a loss' gradient with respect to a quantity at each step.

    The quantities are ``"input"`` and, for every neuron, each part of its state after that step.
    """

    norms: dict[str, dict[str, Tensor]]

    def plot(self, path: str | Path) -> None:
        """Draw the gradient of the input, and the largest gradient of the states, over the time steps; logarithmic."""
        drawn, axes = figure(1, 2, (11, 4))
        for (title, chosen), axis in zip((("input", _of_input), ("state", _of_state)), axes[0]):
            for name, norms in self.norms.items():
                values = chosen(norms)
                # A logarithmic axis cannot show zero: the line ends where the gradient is zero.
                axis.plot(torch.where(values > 0, values, torch.nan), label=name, linewidth=1.5)
            axis.set_yscale("log")
            axis.set_xlabel("time step")
            axis.set_ylabel(f"norm of d loss(last step) / d {title}(step)")
            axis.grid(alpha=0.3)
            axis.legend()
        drawn.savefig(path, dpi=120)


def _of_input(norms: dict[str, Tensor]) -> Tensor:
    return norms["input"]


def _of_state(norms: dict[str, Tensor]) -> Tensor:
    return torch.stack([values for of, values in norms.items() if of != "input"]).amax(0)


def gradient_norms(
    nets: nn.Module | dict[str, nn.Module], x_seq: Tensor, loss: Callable[[Tensor], Tensor] = torch.sum
) -> GradientNorms:
    """How strongly the loss of the last step depends on every earlier one, in each of ``nets``.

    Each network takes ``x_seq [T, B, C]`` and returns ``[T, B, ...]``, alone or first of a tuple; ``loss`` turns
    its last step into one number, by default the sum. Networks run in evaluation mode and keep their own gradients
    as they were. A norm that falls to zero towards the start is the vanishing gradient.

    Raises ValueError for a network without neurons of this package.
    """
    nets = nets if isinstance(nets, dict) else {type(nets).__name__: nets}
    return GradientNorms({name: _norms_of(net, x_seq, loss) for name, net in nets.items()})


def _norms_of(net: nn.Module, x_seq: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    x_seq = x_seq.detach().requires_grad_()
    states: dict[str, list[Tensor]] = {}

    def around(name, neuron, step, x, state, parameters):
        y, state = step(x, state, parameters)
        for part, value in state._asdict().items():
            states.setdefault(f"{name}.{part}", []).append(value)
        return y, state

    with torch.enable_grad(), evaluating(net), around_steps(net, around):
        y = net(x_seq)
        y = y[0] if isinstance(y, tuple) else y
        if not states:
            raise ValueError(f"{type(net).__name__} holds no neuron of this package that took a step")
        sought = [x_seq, *(value for values in states.values() for value in values)]
        found = torch.autograd.grad(loss(y[-1]), sought, allow_unused=True)
    of_input, *of_states = [torch.zeros_like(x) if grad is None else grad for x, grad in zip(sought, found)]
    norms = {"input": of_input.flatten(1).norm(dim=1).cpu()}
    for of, values in states.items():
        norms[of] = torch.stack([grad.norm() for grad in of_states[: len(values)]]).cpu()
        del of_states[: len(values)]
    return norms


def vanishing_gradient(
    steps: int = 300, channels: int = 64, gate_bias: float = 5.0, seed: int = 0, path: str | Path | None = None
) -> GradientNorms:
    """The plot that motivates gated neurons: plain LIF, input-gated ("v1") and recurrent-gated ("v2"), untrained.

    A linear layer drives each on the same noise ``[steps, 1, 40]``. The plain LIF has its usual leak of 0.95. The gates
    start open, with ``gate_bias`` on f, as is usual for the forget gate of an LSTM: a gate at sigmoid(5) loses 0.7 % of
    the gradient per step, and unlike a leak it depends on the input. With ``path`` the norms are drawn too.

    Source of the argument: PR22 (:mod:`neurons.spike`), the section on vanishing gradients.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x_seq = torch.randn(steps, 1, 40)
        gated = [nn.Linear(40, 2 * channels) for _ in range(2)]
        nets: dict[str, nn.Module] = {
            "plain LIF": nn.Sequential(nn.Linear(40, channels), LearnableLIF()),
            "input-gated LIF (v1)": nn.Sequential(gated[0], InputGatedLIF(bits=6, initial_range=4.0)),
            "recurrent-gated LIF (v2)": nn.Sequential(gated[1], RecurrentGatedLIF(channels, bits=6, initial_range=4.0)),
        }
    with torch.no_grad():
        for linear in gated:
            linear.bias[:channels] = gate_bias
    norms = gradient_norms(nets, x_seq)
    if path is not None:
        norms.plot(path)
    return norms

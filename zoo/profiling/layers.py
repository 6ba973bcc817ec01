"""Layers that are counted as a whole: recurrent layers, neurons, and layers that a user registers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import neurons
from zoo.profiling.counts import Counts
from zoo.profiling.ledger import Ledger
from zoo.profiling.operations import add_products, fan_out_product
from zoo.profiling.spikes import BINARY, REAL


@dataclass
class Call:
    """One call of a layer, for its counter. A neuron's call is one time step: ``(x, state, parameters)`` in,
    ``(y, state)`` out."""

    module: Any  # the class that the counter is registered for
    inputs: tuple
    output: Any
    name: str
    ledger: Ledger = field(repr=False)

    def product(self, x: Tensor, fan_out: int) -> Counts:
        """Count each value of ``x [..., K]`` times ``fan_out`` weights, summed; by its spikes if it holds spikes."""
        return fan_out_product(self.ledger, x, fan_out)

    def spikes(self, y: Tensor, bits: int, levels: Tensor | None = None) -> None:
        """Declare that ``y`` holds spikes of ``bits`` bits: ``levels`` times a scale, or 0 and 1 if not given."""
        source = BINARY if levels is None else self.ledger.tags.source(self.name, bits)
        self.ledger.tags.set(y, source)
        self.ledger.note_spikes(self.name, y if levels is None else levels)

    def state(self, *parts: Tensor) -> None:
        """Note the memory of a state whose parts are ``[B, ...]``, in bytes per sample."""
        size = sum(part.numel() * part.element_size() // max(len(part), 1) for part in parts)
        row = self.ledger.rows[self.name]
        row.state_bytes = max(row.state_bytes or 0, size)


Count = Callable[[Call], Counts]
_counters: dict[type[nn.Module], Count] = {}


def register_counter(*types: type[nn.Module]):
    """Function decorator: count layers of these types with this function, instead of by what runs inside them.

    ::

        @zoo.profiling.register_counter(MyLayer)
        def my_layer(call):
            (x,) = call.inputs
            return call.product(x, fan_out=call.module.width)

    It also serves subclasses that do not have their own ``forward`` (a neuron: their own ``step``). Raises TypeError
    for anything that is not a module class.
    """
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"register_counter takes classes of nn.Module; got {kind!r}")

    def decorate(count: Count) -> Count:
        _counters.update(dict.fromkeys(types, count))
        return count

    return decorate


def counter_of(module: nn.Module) -> Count | None:
    """The counter registered for this layer, or None if what runs inside is to be counted."""
    for kind in type(module).__mro__:
        if kind in _counters:
            does = "step" if issubclass(kind, neurons.Neuron) else "forward"
            return _counters[kind] if getattr(type(module), does) is getattr(kind, does) else None
    return None


# Neurons. Multiplications follow the equations of each neuron's module, as in PR22: two per gated neuron and step, F *
# I and (1 - F) * C. The paper's text was not at hand when this was written, so the rest is derived here: a leak of
# exactly 0 or 1 multiplies nothing, a reset subtracts only where a spike fired, comparisons and rounding to levels cost
# no arithmetic, and membranes are kept in levels, so that the constant scale of a multi-bit spike is part of the
# weights before and after.


def _step(call: Call, multiplications: int, additions: int, **functions: int) -> Counts:
    """Count the given arithmetic per neuron, and the reset of those that fired; note spikes and state."""
    parameters, (y, state) = call.inputs[2], call.output
    call.state(*state)
    n = y.numel()
    counts = Counts(multiplications=multiplications, additions=additions * n + int(y.count_nonzero()))
    counts.functions = Counter({name: each * n for name, each in functions.items()})
    spike = getattr(parameters, "spike", None)
    if spike is None:
        call.spikes(y, 1)
    elif spike.bits < 32:
        call.spikes(y, spike.bits, torch.round(y * spike.scale))
    return counts


def _by(constant: Tensor, y: Tensor) -> int:
    """The multiplications of all neurons' state by a constant; 0 and 1 need none."""
    return int(((constant != 0) & (constant != 1)).expand(y.shape[1]).sum()) * (y.numel() // y.shape[1])


@register_counter(neurons.LearnableLIF)
def _learnable_lif(call: Call) -> Counts:
    """U = lambda U + x; U = U - theta where a spike fired. Other resets cost nothing."""
    counts = _step(call, _by(call.inputs[2].leak, call.output[0]), 1)
    if call.inputs[2].reset_mechanism != "subtract":
        counts.additions -= int(call.output[0].count_nonzero())
    return counts


@register_counter(neurons.Integrator)
def _integrator(call: Call) -> Counts:
    """V = V + x."""
    call.state(*call.output[1])
    return Counts(additions=call.output[0].numel())


@register_counter(neurons.LeakyIntegrator)
def _leaky_integrator(call: Call) -> Counts:
    """V = lambda V + x."""
    y, state = call.output
    call.state(*state)
    return Counts(multiplications=_by(call.inputs[2].leak, y), additions=y.numel())


@register_counter(neurons.MultiBitLIF)
def _multibit_lif(call: Call) -> Counts:
    """U = lambda U + x; U = U - y."""
    return _step(call, _by(call.inputs[2].leak, call.output[0]), 1)


@register_counter(neurons.MultiBitSynapticLIF)
def _multibit_synaptic_lif(call: Call) -> Counts:
    """I = tau I + x; V = V + I; V = V - y."""
    return _step(call, _by(call.inputs[2].tau, call.output[0]), 2)


@register_counter(neurons.InputGatedLIF)
def _input_gated_lif(call: Call) -> Counts:
    """I = F I + (1 - F) C; V = V + I; V = V - y."""
    return _step(call, 2 * call.output[0].numel(), 3, sigmoid=1)


@register_counter(neurons.RecurrentGatedLIF)
def _recurrent_gated_lif(call: Call) -> Counts:
    """The same, with y[t-1] U added to f and c: every spike is multiplied by a row of U."""
    counts = _input_gated_lif(call)
    _, before, parameters = call.inputs
    last, fan_out = before.spikes, parameters.recurrent_weight.shape[1]
    counts.dense_macs += last.numel() * fan_out
    bits = parameters.spike.bits
    fired = int(last.count_nonzero()) * fan_out
    call.ledger.rows[call.name].synaptic_operations += fired
    if bits < 32:
        add_products(counts, (bits, REAL), fired, fired)
    else:
        add_products(counts, (REAL, REAL), last.numel() * fan_out, fired)
    return counts


# Recurrent layers of torch, by the equations in its documentation. Both bias vectors are added.


def _gates(module: nn.RNNBase | nn.RNNCellBase) -> tuple[int, int, int, dict[str, int]]:
    """Gates, and multiplications, additions and functions per hidden unit."""
    if isinstance(module, nn.LSTM | nn.LSTMCell):  # c = f c + i g; h = o tanh(c)
        return 4, 3, 1, {"sigmoid": 3, "tanh": 2}
    if isinstance(module, nn.GRU | nn.GRUCell):  # n = tanh(W x + r (U h)); h = (1 - z) n + z h
        return 3, 3, 3, {"sigmoid": 2, "tanh": 1}
    return 1, 0, 0, {"tanh": 1} if getattr(module, "nonlinearity", None) == "tanh" else {}


def _recurrent(call: Call, x: Tensor | None, tokens: int, inputs: int, hidden: int, projected: int) -> Counts:
    """Count one layer in one direction; ``x`` is its input if that may hold spikes."""
    gates, multiplications, additions, functions = _gates(call.module)
    counts = Counts(dense_macs=tokens * gates * hidden * inputs) if x is None else call.product(x, gates * hidden)
    if x is None:
        add_products(counts, (REAL, REAL), counts.dense_macs, counts.dense_macs)
    recurrent = tokens * (gates * hidden * (projected or hidden) + hidden * projected)
    counts += Counts(dense_macs=recurrent, multiplications=recurrent, additions=recurrent)
    counts.multiplications += tokens * hidden * multiplications
    counts.additions += tokens * hidden * (additions + 2 * gates * call.module.bias)
    counts.functions = Counter({name: each * tokens * hidden for name, each in functions.items()})
    return counts


@register_counter(nn.LSTM, nn.GRU, nn.RNN)
def _recurrent_layers(call: Call) -> Counts:
    module, x = call.module, call.inputs[0]
    x = x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x
    directions, tokens = 1 + module.bidirectional, x.numel() // x.shape[-1]
    between = directions * (module.proj_size or module.hidden_size)
    counts = Counts()
    for layer in range(module.num_layers):
        for _ in range(directions):
            inputs = x.shape[-1] if layer == 0 else between
            first = x if layer == 0 else None
            counts += _recurrent(call, first, tokens, inputs, module.hidden_size, module.proj_size)
    last = call.output[1]
    parts = last if isinstance(last, tuple) else (last,)
    call.state(*(part.transpose(0, 1) if part.dim() > 2 else part.unsqueeze(0) for part in parts))
    return counts


@register_counter(nn.LSTMCell, nn.GRUCell, nn.RNNCell)
def _recurrent_cells(call: Call) -> Counts:
    x = call.inputs[0]
    parts = call.output if isinstance(call.output, tuple) else (call.output,)
    call.state(*(part if part.dim() > 1 else part.unsqueeze(0) for part in parts))
    return _recurrent(call, x, x.numel() // x.shape[-1], x.shape[-1], call.module.hidden_size, 0)

"""check_neuron: every registered neuron passes it, and each kind of broken neuron fails it with what to do."""

import dataclasses
import re

import pytest
import torch
from torch import nn

import neurons
from neurons.kernels import OPERATORS
from neurons.testing import NeuronError, check_neuron


class Sum(neurons.Neuron):
    """A sound neuron, from which the broken ones differ by one thing."""

    State = neurons.MembraneState

    def __init__(self, leak: float = 0.9):
        super().__init__()
        self.leak = nn.Parameter(torch.tensor(leak))

    @staticmethod
    def step(x, state, parameters):
        v = parameters * state.membrane + x
        return torch.tanh(v), neurons.MembraneState(v)

    def step_parameters(self):
        return self.leak


@pytest.mark.parametrize("name", neurons.list_neurons())
def test_every_registered_neuron_passes(name):
    check_neuron(neurons.neuron_class(name))


def test_a_neuron_of_one_s_own_passes_and_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    check_neuron(Sum)
    check_neuron(Sum, leak=0.5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_options_and_the_number_of_channels_are_the_constructor_s():
    check_neuron(neurons.LearnableLIF, surrogate="arctan", reset_mechanism="zero")
    check_neuron(neurons.LearnableLIF, leak=torch.tensor([0.5, 0.9]))
    check_neuron(neurons.RecurrentGatedLIF, channels=3, bits=6)


# The class


class NoNeuron(nn.Module):
    pass


class Stateless(neurons.Neuron):
    pass


class Stepless(neurons.Neuron):
    State = neurons.MembraneState


class StepIsAMethod(Sum):
    def step(self, x, state, parameters):
        return x, state


class NoParameters(neurons.Neuron):
    State = neurons.MembraneState
    step = staticmethod(Sum.step)


class NeedsAnOption(Sum):
    def __init__(self, leak):
        super().__init__(leak)


# The step


class TupleForState(Sum):
    @staticmethod
    def step(x, state, parameters):
        v = parameters * state.membrane + x
        return v, (v,)


class StateOfAnotherShape(Sum):
    @staticmethod
    def step(x, state, parameters):
        v = parameters * state.membrane + x
        return v, neurons.MembraneState(v.mean(1, keepdim=True))


class OutputOfAnotherShape(Sum):
    inputs_per_neuron = 2

    @staticmethod
    def step(x, state, parameters):
        gate, current = neurons.neuron.halves(x)
        v = parameters * state.membrane + current
        return torch.cat((v, gate), 1), neurons.MembraneState(v)


class RaisesInTheStep(Sum):
    @staticmethod
    def step(x, state, parameters):
        return parameters.nothing, state


# State


class ChangesItsState(Sum):
    @staticmethod
    def step(x, state, parameters):
        v = state.membrane
        v *= 0.9
        v += x
        return torch.tanh(v), neurons.MembraneState(v)


class ChangesItsInput(Sum):
    @staticmethod
    def step(x, state, parameters):
        x += parameters * state.membrane
        return torch.tanh(x), neurons.MembraneState(x.clone())


class RemembersOnItself(Sum):
    calls = 0

    def step_parameters(self):
        self.calls += 1
        return self.leak * 0.5**self.calls


class IgnoresItsState(Sum):
    def scan(self, x_seq, state):
        return super().scan(x_seq, self.initial_state(x_seq))


class HandsOutItsState(Sum):
    def scan(self, x_seq, state):
        y, state = neurons.reference_scan(self.step, x_seq, state, self.leak)
        return y, neurons.MembraneState(y[-1]) if len(y) else state

    @staticmethod
    def step(x, state, parameters):
        v = parameters * state.membrane + x
        return v, neurons.MembraneState(v)


# Time and batch


class LooksAhead(Sum):
    def scan(self, x_seq, state):
        centred = x_seq - x_seq.mean(0, keepdim=True) if len(x_seq) else x_seq
        return super().scan(centred, state)


class TakesTheBatchForTime(Sum):
    def scan(self, x_seq, state):
        if x_seq.dim() == 3 and x_seq.numel():
            x_seq = x_seq.cumsum(1)
        return super().scan(x_seq, state)


class ScanUnlikeItsStep(Sum):
    def scan(self, x_seq, state):
        y, state = super().scan(x_seq, state)
        return 1.01 * y, state


class CentresTheBatch(Sum):
    @staticmethod
    def step(x, state, parameters):
        return Sum.step(x - x.mean(0, keepdim=True), state, parameters)


class WrongChannelDimension(Sum):
    def __init__(self):
        super().__init__()
        self.leak = nn.Parameter(torch.tensor([0.1, 0.3, 0.5, 0.7]))

    def step_parameters(self):
        return self.leak


# Gradients


class NoGradientAtAll(Sum):
    @staticmethod
    def step(x, state, parameters):
        v = parameters.detach() * state.membrane.detach() + x.detach()
        return (v > 1).to(v.dtype), neurons.MembraneState(v)


class NoGradientOfTheInput(Sum):
    @staticmethod
    def step(x, state, parameters):
        return Sum.step(x.detach(), state, parameters)


class NoGradientInTime(Sum):
    @staticmethod
    def step(x, state, parameters):
        return Sum.step(x, neurons.MembraneState(state.membrane.detach()), parameters)


class NoGradientOfTheLeak(Sum):
    def step_parameters(self):
        return self.leak.item()


class SpikesWithoutASurrogate(Sum):
    @staticmethod
    def step(x, state, parameters):
        v = parameters * state.membrane + x
        spike = (v > 1).to(v.dtype)
        return spike, neurons.MembraneState((v - spike).detach())


# Types and saving


class AlwaysFloat32(Sum):
    @staticmethod
    def step(x, state, parameters):
        v = (parameters * state.membrane + x).float()
        return torch.tanh(v), neurons.MembraneState(v)


class UnsavedNumber(Sum):
    def __init__(self):
        super().__init__()
        self.scale = torch.rand(1)

    def step_parameters(self):
        return self.leak * self.scale


class HoldsALambda(Sum):
    def __init__(self):
        super().__init__()
        self.drive = lambda leak: leak

    def step_parameters(self):
        return self.drive(self.leak)


# Plug-ins


class TakesALibrarysName(Sum):
    def __init__(self, leak: float = 0.9):
        super().__init__()
        self.mem = nn.Parameter(torch.tensor(0.9))

    def step_parameters(self):
        return self.leak * self.mem


class OwnForward(Sum):
    def forward(self, x_seq, state=None):
        return super().forward(2 * x_seq, state)


BROKEN = {
    NoNeuron: "no subclass of neurons.Neuron. Write `class MyNeuron",
    Stateless: "has no State. Write `State = neurons.MembraneState`",
    Stepless: "defines no step. Write `@staticmethod def step",
    StepIsAMethod: "its step is a method. Make it a @staticmethod",
    NoParameters: "defines no step_parameters. Write a method",
    NeedsAnOption: "cannot be built (TypeError: ... leak ... Give every option a default, or name it: check_neuron(",
    TupleForState: "returned a tuple for the state. Return MembraneState(...)",
    StateOfAnotherShape: "state's membrane is [3, 1] after a step where [3, 4] was expected. Every part",
    OutputOfAnotherShape: "returned y of [3, 8] where [3, 4] was expected ... inputs_per_neuron",
    RaisesInTheStep: "one step failed (AttributeError:  ... nothing ... ). Its step takes x [B, C]",
    ChangesItsState: "a call changed the state that it was given ... Do not change x or the state in place",
    ChangesItsInput: "changed the input ... in place",
    RemembersOnItself: "the same call gave something else the second time ... Keep nothing on self between calls",
    IgnoresItsState: "two chunks, cut after 1, is not the whole sequence ... starts from the state that it is given",
    HandsOutItsState: "changing the output changed the state ... clone()",
    LooksAhead: "first outputs changed when only later input did ... dimension 0 of a sequence is time",
    TakesTheBatchForTime: "a scan and T times its step are not the same",
    ScanUnlikeItsStep: "a scan and T times its step are not the same ... Leave scan and forward",
    CentresTheBatch: "sample 0 alone is not what it is in a batch of 3 ... over dimension 0 of a step, the batch",
    WrongChannelDimension: "an input [T, B, C, H] ... over_channels",
    NoGradientAtAll: "output has no gradient at all. Compute y from x",
    NoGradientOfTheInput: "the input gets no gradient in training",
    NoGradientInTime: "no gradient goes back in time in training ... without detach()",
    NoGradientOfTheLeak: "the parameter leak gets no gradient in training ... .item()",
    SpikesWithoutASurrogate: "no gradient ... surrogate",
    AlwaysFloat32: "the state is torch.float32 for torch.float64 input where torch.float64 was expected",
    UnsavedNumber: "after load_state_dict it computes something else ... register_buffer",
    HoldsALambda: "cannot be pickled ... Keep no lambda",
    TakesALibrarysName: "neuron of snntorch ... as the library names its own",
    OwnForward: "a scan and T times its step are not the same",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_neuron_fails_with_what_to_do(broken):
    """A message has the parts that ``...`` separates, in this order."""
    with pytest.raises(NeuronError) as error:
        check_neuron(broken)
    says = ".*".join(map(re.escape, BROKEN[broken].split(" ... ")))
    assert re.search(f"^{broken.__name__}: .*{says}", str(error.value), re.DOTALL), str(error.value)


def test_a_kernel_that_is_not_its_step_fails(monkeypatch):
    """A neuron that declares the integrator's kernel and does something else in its step."""

    class Doubled(neurons.Integrator):
        @staticmethod
        def step(x, state, parameters):
            return neurons.integrator_step(2 * x, state, parameters)

    of_doubled = dataclasses.replace(OPERATORS["integrator"], declared_by=Doubled)
    monkeypatch.setitem(OPERATORS, "integrator", of_doubled)
    with pytest.raises(NeuronError, match="Doubled: a scan and T times its step are not the same"):
        check_neuron(Doubled)


def test_only_a_class_is_taken():
    with pytest.raises(TypeError, match="takes a class, and the options of its constructor by name"):
        check_neuron(Sum())


@pytest.mark.parametrize("library", ["snntorch", "spikingjelly"])
def test_a_neuron_of_a_plug_in_is_refused_with_what_to_check(library):
    module = pytest.importorskip(f"neurons.{library}")
    with pytest.raises(NeuronError, match="Check the plain neuron that it is made from"):
        check_neuron(module.plugged(neurons.InputGatedLIF))


class OnlyTheOutput(Sum):
    def forward(self, x, state=None):
        return super().forward(x, state)[0]


def test_any_error_in_a_check_says_what_was_checked():
    with pytest.raises(NeuronError, match=r"OnlyTheOutput: this could not be checked: .* Leave forward"):
        check_neuron(OnlyTheOutput)

"""Neurons within ``neurons.unchanging``: faster when called step by step, and never different."""

import copy
import pickle
from contextlib import ExitStack

import pytest
import torch
from registered import EVERY, MULTI_BIT, build, currents
from torch import nn

import neurons
from neurons import monitors
from neurons.kernels import cpu
from tests.neurons.kernels.comparison import POINTWISE

every_neuron = pytest.mark.parametrize("name", EVERY)


def steps_of(neuron: neurons.Neuron, x_seq: torch.Tensor) -> list[torch.Tensor]:
    """Outputs and states of a sequence taken one step at a time."""
    state, found = None, []
    for x in x_seq.split(1):
        y, state = neuron(x, state)
        found += [y, *state]
    return found


def equal(one: tuple, other: tuple) -> bool:
    """Whether two results, each an output and a state, are the same."""
    return all(torch.equal(a, b) for a, b in zip((one[0], *one[1]), (other[0], *other[1]), strict=True))


@pytest.fixture
def prepared(monkeypatch):
    """The neurons whose scans were prepared, in order."""
    names, prepare = [], cpu.Scan.__init__

    def note(self, neuron, *arguments):
        names.append(neuron)
        prepare(self, neuron, *arguments)

    monkeypatch.setattr(cpu.Scan, "__init__", note)
    return names


@every_neuron
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_steps_are_the_same_bit_for_bit(name, dtype):
    neuron = build(name, 5, "cpu").eval()
    x_seq = currents(neuron, 7, 3, 5, 0).to(dtype)
    with torch.no_grad():
        expected = steps_of(neuron, x_seq)
        with neurons.unchanging(neuron):
            found = steps_of(neuron, x_seq)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", POINTWISE)
def test_a_scan_is_made_ready_once_for_all_inputs_of_a_shape(name, prepared):
    neuron = build(name, 5, "auto").eval()
    with torch.no_grad():
        with neurons.unchanging(neuron):
            steps_of(neuron, currents(neuron, 6, 3, 5, 0))
            assert len(prepared) == 1
            steps_of(neuron, currents(neuron, 6, 4, 5, 0))
            assert len(prepared) == 2
        steps_of(neuron, currents(neuron, 6, 3, 5, 0))
        assert len(prepared) == 2 + 6


@every_neuron
def test_inputs_of_another_shape_layout_or_type_are_as_ever(name):
    neuron = build(name, 4, "cpu").eval()
    inputs = [currents(neuron, steps, batch, 4, 0) for steps, batch in ((1, 3), (1, 2), (3, 2), (1, 2))]
    inputs += [inputs[0].double(), inputs[0].transpose(1, 2).contiguous().transpose(1, 2)]
    with torch.no_grad():
        expected = [neuron(x) for x in inputs]
        with neurons.unchanging(neuron):
            assert all(equal(neuron(x), result) for x, result in zip(inputs, expected))
            _, state = neuron(inputs[0])
            apart = type(state)(*[part.T.contiguous().T for part in state])
            assert equal(neuron(inputs[0], apart), neuron(inputs[0], state))
            assert equal(neuron(inputs[0], tuple(state)), neuron(inputs[0], state))


@every_neuron
def test_bad_input_gets_the_same_error(name):
    neuron = build(name, 4, "cpu").eval()
    x = currents(neuron, 1, 3, 4, 0)
    with torch.no_grad(), neurons.unchanging(neuron):
        _, state = neuron(x)
        with pytest.raises(ValueError, match="this input needs"):
            neuron(x[:, :2], state)
        with pytest.raises(ValueError, match="takes a state of"):
            neuron(x, (*state, state[0]))
        with pytest.raises(TypeError, match="takes a tensor"):
            neuron(x.tolist(), state)
        with pytest.raises(TypeError, match="keeps its state in"):
            neuron(x, type(state)(*[part.double() for part in state]))


@every_neuron
def test_gradients_flow_as_ever(name):
    neuron = build(name, 4, "cpu").eval()
    x = currents(neuron, 1, 3, 4, 0).requires_grad_()
    with neurons.unchanging(neuron):
        with torch.no_grad():
            _, state = neuron(x)
            neuron(x, state)
        y, after = neuron(x, state)
        (y.sum() + sum(part.sum() for part in after)).backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", MULTI_BIT)
def test_a_range_that_is_tracked_moves_as_ever(name):
    original, ranges, outputs = build(name, 4, "cpu").eval(), [], []
    x = currents(original, 1, 3, 4, 0)
    for within in (False, True):
        neuron = copy.deepcopy(original)
        with torch.no_grad(), ExitStack() as stack:
            if within:
                stack.enter_context(neurons.unchanging(neuron))
            _, state = neuron(x)
            neuron.train()
            neuron(x, state)
            neuron.eval()
            outputs.append(neuron(x, state)[0])
        ranges.append(neuron.spike_range.value().item())
    assert ranges[0] == ranges[1] != original.spike_range.value().item()
    assert torch.equal(*outputs)


@every_neuron
def test_another_backend_and_monitors_are_heeded(name):
    neuron = build(name, 4, "auto").eval()
    x = currents(neuron, 1, 3, 4, 0)
    with torch.no_grad(), neurons.unchanging(neuron):
        _, state = neuron(x)
        expected = neuron(x, state)
        with monitors.record(neuron) as traces:
            neuron(x, state)
        # A prepared scan would bypass the recorder.
        (recorded,) = traces.layers.values()
        assert {part: len(values) for part, values in recorded.items()} == dict.fromkeys(recorded, 1)
        torch.testing.assert_close(recorded["spikes"], expected[0])
        torch.testing.assert_close(recorded["membrane"][0], expected[1].membrane)
        neuron.backend = "torch"
        neuron(x, state)
        assert neuron.last_backend == "torch"


@every_neuron
def test_afterwards_parameters_may_change(name):
    neuron = build(name, 4, "cpu").eval()
    x_seq = currents(neuron, 5, 3, 4, 0)
    with torch.no_grad():
        with neurons.unchanging(neuron):
            steps_of(neuron, x_seq)
            copies = copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))
        for changed in (neuron, *copies):
            for parameter in changed.parameters():
                parameter.mul_(0.5)
            reference = copy.deepcopy(changed)
            reference.backend = "torch"
            for got, expected in zip(steps_of(changed, x_seq), steps_of(reference, x_seq), strict=True):
                torch.testing.assert_close(got, expected)


def test_two_at_once_leave_nothing_behind():
    net = nn.Sequential(build("multibit-lif", 4, "cpu").eval())
    first, second = neurons.unchanging(net), neurons.unchanging(net)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert net[0]._ready is None


@pytest.mark.parametrize("name", POINTWISE)
def test_one_inside_another_ends_neither(name, prepared):
    neuron = build(name, 4, "cpu").eval()
    x_seq = currents(neuron, 5, 3, 4, 0)
    with torch.no_grad(), neurons.unchanging(neuron):
        with neurons.unchanging(neuron):
            steps_of(neuron, x_seq)
        steps_of(neuron, x_seq)
    assert len(prepared) == 1


@pytest.mark.parametrize("name", POINTWISE)
def test_a_profiler_sees_the_operator(name):
    neuron = build(name, 4, "cpu").eval()
    x = currents(neuron, 1, 3, 4, 0)
    with torch.no_grad(), neurons.unchanging(neuron):
        _, state = neuron(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            neuron(x, state)
    assert any(event.key.startswith("snn_zoo::") for event in profile.key_averages())


def test_a_tensor_of_another_class_goes_the_usual_way():
    class Noted(torch.Tensor):
        called = 0

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.called += 1
            return super().__torch_function__(function, types, args, kwargs or {})

    neuron = build("multibit-lif", 4, "cpu").eval()
    x = currents(neuron, 1, 3, 4, 0)
    with torch.no_grad(), neurons.unchanging(neuron):
        _, state = neuron(x)
        noted, before = x.as_subclass(Noted), Noted.called
        y, _ = neuron(noted, state)
        assert Noted.called > before + 5 and torch.equal(y.as_subclass(torch.Tensor), neuron(x, state)[0])


def test_what_ran_can_be_read_back():
    neuron = build("multibit-lif", 4, "auto").eval()
    x = currents(neuron, 1, 3, 4, 0)
    with torch.no_grad(), neurons.unchanging(neuron):
        _, state = neuron(x)
        neuron.single_step(x[0], state)
        assert neuron.last_backend == "torch"
        neuron(x, state)
        assert neuron.last_backend == "cpu"


@every_neuron
def test_a_compiled_neuron_can_be_copied(name):
    neuron = build(name, 4, "cpu").eval()
    neuron.compile(backend="eager")
    for copied in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert copied._compiled_call_impl is None


@pytest.mark.parametrize("attribute", ["scan", "step"])
def test_what_somebody_put_in_the_place_of_a_scan_or_step_is_called(attribute):
    neuron, called = build("multibit-lif", 4, "auto").eval(), []
    own = getattr(neuron, attribute)
    setattr(neuron, attribute, lambda *arguments: called.append(1) or own(*arguments))
    with torch.no_grad(), neurons.unchanging(neuron):
        steps_of(neuron, currents(neuron, 4, 3, 4, 0))
    assert len(called) == 4


def test_a_class_with_a_scan_of_its_own_keeps_it():
    class Doubled(neurons.LearnableLIF):
        def scan(self, x_seq, state):
            y_seq, state = super().scan(x_seq, state)
            return 2 * y_seq, state

    neuron = Doubled().eval()
    x_seq = 3 * torch.ones(4, 2, 3)
    with torch.no_grad(), neurons.unchanging(neuron):
        assert all((y == 2).all() for y in steps_of(neuron, x_seq)[::2])

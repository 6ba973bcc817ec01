"""The neurons of the engine: each computes what its module computes, to the last bit, and keeps the same state."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neurons
from zoo.engine.integers import round_to_integers
from zoo.engine.program import NotInIntegers, Program, Spikes, part

CHANNELS = 6
EXACT = {"initial_range": 0.9999, "range_tracking": "fixed"}
"""A level is then a power of two of a membrane, so that the recurrent products of floats are exact as well."""


def multi_bit(kind, *arguments, **options):
    return lambda bits: kind(*arguments, bits=bits, **EXACT, **options)


def recurrent(bits: int) -> nn.Module:
    """Its weights are whole numbers of 127ths: those of eight bits."""
    neuron = neurons.RecurrentGatedLIF(CHANNELS, bits=bits, **EXACT)
    levels = torch.randint(-127, 128, neuron.recurrent_weight.shape, generator=torch.Generator().manual_seed(1))
    levels[0] = 127
    neuron.recurrent_weight.data = levels / 128
    return neuron


NEURONS = {
    "learnable LIF": lambda bits: neurons.LearnableLIF(torch.linspace(0.0, 0.95, CHANNELS), 0.7),
    "learnable LIF, a threshold per channel": lambda bits: neurons.LearnableLIF(0.9, torch.linspace(0.5, 2, CHANNELS)),
    "multi-bit LIF": multi_bit(neurons.MultiBitLIF, torch.linspace(0.0, 0.95, CHANNELS)),
    "multi-bit LIF, one leak": multi_bit(neurons.MultiBitLIF, 0.9),
    "multi-bit synaptic LIF": multi_bit(neurons.MultiBitSynapticLIF, CHANNELS, torch.linspace(0.1, 1.0, CHANNELS)),
    "input-gated LIF": multi_bit(neurons.InputGatedLIF),
    "recurrent-gated LIF": recurrent,
}


def currents(neuron: nn.Module, steps: int, batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(steps, batch, neuron.inputs_per_neuron * CHANNELS, generator=generator)


def written(neuron: nn.Module, width: int, **options) -> tuple[Program, Spikes]:
    program = Program(neuron)
    spikes = program.neuron(neuron, program.given(width), **options)
    return program.finish(), spikes


def values(program: Program, spikes: Spikes, result, steps: int, batch: int) -> Tensor:
    """The spikes of a run as numbers, in the neurons' units."""
    levels = torch.from_numpy(part(spikes.levels, result, steps, batch).copy())
    return levels * torch.from_numpy(program._constants[[spikes.unit]])


def lengths(steps: int, batch: int) -> np.ndarray:
    return np.full(batch, steps)


def state_of(neuron: nn.Module, state: tuple[np.ndarray, np.ndarray], unit: float) -> Tensor:
    """The state of a run as the neuron's own, all parts side by side."""
    numbers, levels = state
    return torch.from_numpy(np.concatenate([numbers, levels * np.float32(unit)], axis=1))


@pytest.mark.parametrize("name", NEURONS)
@given(bits=st.sampled_from([1, 2, 4, 8]), cut=st.integers(0, 7), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_a_neuron_fires_and_keeps_what_its_module_does_to_the_last_bit(name, bits, cut, seed):
    neuron = NEURONS[name](bits).eval()
    x = currents(neuron, 7, 3, seed)
    program, spikes = written(neuron, x.shape[-1], keeps_state=True)
    unit, state, before, found = program._constants[spikes.unit], None, None, []
    with torch.no_grad():
        for piece in x.split([cut, 7 - cut]):
            if not len(piece):
                continue
            y, before = neuron(piece, before)
            result = program.run(piece.numpy(), lengths(len(piece), 3), state)
            state = result.state
            found.append(values(program, spikes, result, len(piece), 3))
            assert torch.equal(found[-1], y)
            assert torch.equal(state_of(neuron, state, unit), torch.cat(list(before), dim=1))
    assert len(torch.cat(found).unique()) > 1


@pytest.mark.parametrize("name", NEURONS)
def test_a_neuron_without_state_starts_at_rest_and_may_run_from_the_right(name):
    neuron = NEURONS[name](4).eval()
    x = currents(neuron, 6, 2)
    x[4:, 0] = 0  # the padding of a sequence of four
    program, spikes = written(neuron, x.shape[-1], keeps_state=False, masked=True, backwards=True)
    expected = neuron(x.flip(0))[0].flip(0)
    expected[4:, 0] = 0
    for _ in range(2):
        result = program.run(x.numpy(), np.array([4, 6]))
        assert torch.equal(values(program, spikes, result, 6, 2), expected)


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_on_some_of_the_columns_see_those_alone(name):
    neuron = NEURONS[name](4).eval()
    x = currents(neuron, 5, 2)
    around = torch.cat([torch.full((5, 2, 3), 9.0), x, torch.full((5, 2, 2), 9.0)], dim=2)
    program, spikes = written(neuron, around.shape[-1], keeps_state=False, first=3, inputs=x.shape[-1])
    result = program.run(around.numpy(), lengths(5, 2))
    assert torch.equal(values(program, spikes, result, 5, 2), neuron(x)[0])


@pytest.mark.parametrize("name", [name for name in NEURONS if not name.startswith("recurrent")])
def test_neurons_on_a_picture_are_those_of_its_channels(name):
    neuron = NEURONS[name](4).eval()
    picture = 2 * torch.randn(4, 2, neuron.inputs_per_neuron * CHANNELS, 3, 5)
    places = picture.permute(0, 1, 3, 4, 2).flatten(2)
    program, spikes = written(neuron, places.shape[-1], keeps_state=True, places=15)
    result = program.run(places.numpy(), lengths(4, 2))
    y, state = neuron(picture)
    assert torch.equal(values(program, spikes, result, 4, 2), y.permute(0, 1, 3, 4, 2).flatten(2))
    after = [part.permute(0, 2, 3, 1).flatten(1) for part in state]
    assert torch.equal(torch.from_numpy(result.state[0]), torch.cat(after, dim=1))


@pytest.mark.parametrize("name", NEURONS)
def test_a_membrane_that_is_no_number_raises(name):
    neuron = NEURONS[name](4).eval()
    x = currents(neuron, 5, 2)
    x[2, 1, -1] = float("nan")
    program, _ = written(neuron, x.shape[-1], keeps_state=True)
    with pytest.raises(ValueError, match="a membrane is NaN: the input or the weights are not finite"):
        program.run(x.numpy(), lengths(5, 2))


def test_a_neuron_without_an_instruction_says_so():
    class Other(neurons.MultiBitLIF):
        pass

    for neuron in (Other(), neurons.Integrator(), nn.ReLU()):
        with pytest.raises(NotInIntegers, match=f"{type(neuron).__name__} has no instruction"):
            written(neuron, 4, keeps_state=True)
    with pytest.raises(NotInIntegers, match="a neuron in full precision fires no levels"):
        written(neurons.MultiBitLIF(bits=32), 4, keeps_state=True)


def test_recurrent_products_are_those_of_weights_rounded_to_eight_bits():
    neuron = neurons.RecurrentGatedLIF(CHANNELS, bits=4, **EXACT).eval()
    x = currents(neuron, 20, 3)
    program, spikes = written(neuron, x.shape[-1], keeps_state=True)
    result = program.run(x.numpy(), lengths(20, 3))
    round_to_integers(neuron.recurrent_weight.data.T)
    torch.testing.assert_close(values(program, spikes, result, 20, 3), neuron(x)[0])

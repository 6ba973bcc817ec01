"""The layer before a gated neuron: where its gates start, and what such a neuron learns with it."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import neurons
from neurons.registry import LIBRARIES

GATED = [name for name in neurons.list_neurons() if neurons.neuron_class(name).inputs_per_neuron == 2]
STEPS, CUE, CLASSES, WIDTH = 55, 5, 4, 32


@settings(deadline=None)
@given(st.integers(1, 80), st.floats(1.01, 1e4), st.integers(0, 3))
def test_time_constants_are_spread_evenly_on_a_logarithmic_scale_up_to_the_horizon(channels, horizon, seed):
    torch.manual_seed(seed)
    layer = neurons.GatedCurrents(3, channels, horizon)
    time_constants = -1 / torch.log(torch.sigmoid(layer.bias[:channels].double()))
    assert time_constants[0] > 1 and time_constants[-1] < horizon
    expected = torch.arange(0.5, channels, dtype=torch.float64) / channels * torch.tensor(horizon).double().log()
    torch.testing.assert_close(time_constants.log(), expected, rtol=1e-3, atol=1e-4)


def test_the_start_changes_nothing_but_the_bias_of_the_gates_and_draws_no_random_numbers():
    torch.manual_seed(3)
    plain, after_plain = nn.Linear(5, 8), torch.rand(1)
    torch.manual_seed(3)
    gated, after_gated = neurons.GatedCurrents(5, 4), torch.rand(1)
    assert torch.equal(plain.weight, gated.weight) and torch.equal(plain.bias[4:], gated.bias[4:])
    assert torch.equal(after_plain, after_gated)
    assert (gated.bias[:4] > plain.bias[:4]).all() and gated.bias.requires_grad


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 6, 3), nn.BatchNorm1d(6), nn.LayerNorm(6)])
def test_any_layer_with_a_bias_can_have_the_start(layer):
    neurons.start_gates(layer.bias, horizon=20)
    assert torch.equal(layer.bias[:3], neurons.GatedCurrents(2, 3, horizon=20).bias[:3])


def test_the_layer_can_be_built_on_the_meta_device():
    layer = neurons.GatedCurrents(5, 4).to("meta")
    neurons.start_gates(layer.bias)
    with torch.device("meta"):
        assert neurons.GatedCurrents(5, 4).bias.is_meta


@pytest.mark.parametrize("horizon", [1, 0, -5, float("inf"), float("nan"), "100", None, True])
def test_a_horizon_that_is_no_number_above_one_is_refused(horizon):
    says = re.escape(f"horizon must be a finite number of time steps above 1; got {horizon!r}")
    with pytest.raises(ValueError, match=says):
        neurons.GatedCurrents(5, 4, horizon)


@pytest.mark.parametrize("bias", [None, torch.zeros(3), torch.zeros(0), torch.zeros(2, 4)])
def test_a_bias_without_two_halves_is_refused(bias):
    with pytest.raises(ValueError, match=r"start_gates takes a layer's bias, of shape \[2N\], gate half first; got"):
        neurons.start_gates(bias)


@pytest.mark.parametrize("channels", [0, -1, 2.0, True])
def test_a_number_of_neurons_that_is_none_is_refused(channels):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        neurons.GatedCurrents(5, channels)


def recall(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise ``[T, B, 8]`` with one of four channels on in its first steps, and which: to be recalled after the last."""
    labels = torch.randint(CLASSES, (batch,))
    x = 0.1 * torch.randn(STEPS, batch, 8)
    x[:CUE, torch.arange(batch), labels] += 1
    return x, labels


def scan(neuron: nn.Module, currents: torch.Tensor) -> torch.Tensor:
    """The spikes of a neuron of any library over a whole sequence, from a fresh state."""
    if hasattr(neuron, "reset_mem"):
        neuron.reset_mem()
        return neuron.multi_step(currents)[0]
    if hasattr(neuron, "step_mode"):
        neuron.reset()
        return neuron(currents)
    return neuron(currents)[0]


def recalled(name: str, library: str, layer: nn.Module, updates: int = 100) -> float:
    """The share of 512 sequences that are recalled after training with Adam on batches of 64, by the last step."""
    channels = {"channels": WIDTH} if name == "recurrent-gated-lif" else {}
    mode = {"step_mode": "m"} if library == "spikingjelly" else {}
    neuron = neurons.create(name, library=library, initial_range=2.0, range_tracking="fixed", **channels, **mode)
    readout = nn.Linear(WIDTH, CLASSES)
    parameters = [*layer.parameters(), *neuron.parameters(), *readout.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(updates):
        x, labels = recall(64)
        loss = nn.functional.cross_entropy(readout(scan(neuron, layer(x))[-1]), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        x, labels = recall(512)
        found = readout(scan(neuron.eval(), layer(x))[-1]).argmax(-1)
    return (found == labels).float().mean().item()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", GATED)
def test_a_gated_neuron_recalls_a_cue_of_fifty_steps_ago_after_a_hundred_updates(name, library):
    torch.manual_seed(0)
    assert recalled(name, library, neurons.GatedCurrents(8, WIDTH)) > 0.9

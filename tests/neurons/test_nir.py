"""Export to NIR: networks read back by snnTorch's and SpikingJelly's own importers compute the same."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from registered import EVERY, build
from torch import nn

import neurons

nir = pytest.importorskip("nir", reason="the export to NIR needs the nir package")
pytest.importorskip("nirtorch", reason="loading NIR back needs the nirtorch package")
from neurons import nir as exchange  # noqa: E402

STEPS, BATCH, CHANNELS = 40, 3, 5
EXACT = ["integrator", "leaky-integrator", "learnable-lif"]


def load(library, graph):
    """The graph as a network of ``library``, by that library's own importer."""
    if library == "snntorch":
        importer = pytest.importorskip("snntorch.import_nir")
    else:
        importer = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    with contextlib.redirect_stdout(io.StringIO()):  # snnTorch's importer prints
        return importer.import_from_nir(graph)


def run(network, x_seq):
    """Run a loaded network step by step from rest; the state that snnTorch's neurons return is ignored."""
    outputs, state = [], None
    with torch.no_grad():
        for x in x_seq:
            y, state = network(x, state)
            outputs.append(y)
    return torch.stack(outputs)


def through_a_file(graph, folder):
    nir.write(folder / "network.nir", graph)
    return nir.read(folder / "network.nir")


def currents(channels=CHANNELS, seed=0):
    return 1.5 * torch.randn(STEPS, BATCH, channels, generator=torch.Generator().manual_seed(seed))


def expected(network, x_seq):
    with torch.no_grad():
        return network(x_seq)[0]


@pytest.mark.parametrize("library", ["snntorch", "spikingjelly"])
@pytest.mark.parametrize("name", EXACT)
def test_a_neuron_loaded_back_gives_the_same_at_every_step(name, library, tmp_path):
    neuron, x_seq = build(name, CHANNELS), currents()
    loaded = load(library, through_a_file(exchange.export(neuron, CHANNELS), tmp_path))
    y = expected(neuron, x_seq)
    assert y.abs().sum() > STEPS
    torch.testing.assert_close(run(loaded, x_seq), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("library", ["snntorch", "spikingjelly"])
def test_a_network_of_both_neurons_with_a_leak_and_a_threshold_per_channel_loads_back(library, tmp_path):
    torch.manual_seed(1)
    leak, threshold = torch.tensor([0.0, 0.3, 0.9, 1.0]), torch.tensor([0.2, 0.5, 1.0, 1.7])
    layers = nn.Linear(CHANNELS, 4), neurons.LearnableLIF(leak, threshold), nn.Linear(4, 2, bias=False)
    loaded = load(library, through_a_file(exchange.export(nn.Sequential(*layers, neurons.Integrator())), tmp_path))
    x_seq = currents()
    spikes = expected(layers[1], layers[0](x_seq))
    y = expected(neurons.Integrator(), layers[2](spikes))
    assert 0.1 < spikes.mean() < 0.9
    torch.testing.assert_close(run(loaded, x_seq), y, rtol=1e-5, atol=1e-4)


@given(st.floats(0, 1), st.floats(0.05, 3), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_any_leak_and_threshold_fire_at_the_same_steps(leak, threshold, seed):
    neuron, x_seq = neurons.LearnableLIF(leak, threshold), currents(seed=seed)
    y = expected(neuron, x_seq)
    for library in ("snntorch", "spikingjelly"):
        again = run(load(library, exchange.export(neuron, CHANNELS)), x_seq)
        # A membrane that rounding puts on the other side of its threshold may change one neuron's later spikes.
        assert (again != y).any(0).float().mean() <= 1 / (BATCH * CHANNELS)


def test_the_fixed_reset_of_nir_s_own_lif_would_have_been_another_neuron():
    neuron, x_seq = neurons.LearnableLIF(0.9, 1.0), currents()
    one = np.ones(CHANNELS)
    tau = exchange.TIME_STEP / (1 - 0.9) * one
    plain = nir.LIF(tau=tau, r=tau / exchange.TIME_STEP, v_leak=0 * one, v_threshold=one, v_reset=0 * one)
    loaded = load("spikingjelly", nir.NIRGraph.from_list(plain))
    assert (run(loaded, x_seq) != expected(neuron, x_seq)).float().mean() > 0.05


@pytest.mark.parametrize("library", ["torch", "snntorch", "spikingjelly"])
@pytest.mark.parametrize("name", EXACT)
def test_both_plug_ins_export_what_the_plain_neuron_does(name, library):
    plain = exchange.export(build(name, CHANNELS), CHANNELS)
    graph = exchange.export(neurons.create(name, library=library), CHANNELS)
    assert graph.edges == plain.edges
    for node, other in zip(graph.nodes.values(), plain.nodes.values()):
        assert type(node) is type(other)
        if isinstance(node, nir.Linear):
            np.testing.assert_array_equal(node.weight, other.weight)


@pytest.mark.parametrize("library", ["torch", "snntorch", "spikingjelly"])
@pytest.mark.parametrize("name", [name for name in EVERY if name not in EXACT])
def test_every_other_neuron_is_refused_with_a_reason(name, library):
    size = {} if build(name, CHANNELS).channels is None else {"channels": CHANNELS}
    neuron = neurons.create(name, library=library, **size)
    assert exchange.refusal(neuron)
    with pytest.raises(NotImplementedError, match="cannot be exported to NIR: it"):
        exchange.export(nn.Sequential(nn.Linear(4, 2 * CHANNELS), neuron))


def test_a_neuron_with_a_step_of_its_own_is_not_taken_for_its_parent():
    class Other(neurons.LearnableLIF):
        @staticmethod
        def step(x, state, parameters):
            return neurons.learnable_lif_step(2 * x, state, parameters)

    with pytest.raises(NotImplementedError, match="its step is its own"):
        exchange.export(Other(), CHANNELS)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"LearnableLIF.*takes any number of channels; say how many"):
        exchange.export(neurons.LearnableLIF())
    with pytest.raises(ValueError, match="1 takes 4 channels and is given 5"):
        exchange.export(nn.Sequential(nn.Linear(3, 5), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="1 has 2 neurons and is given 5 channels"):
        exchange.export(nn.Sequential(nn.Linear(3, 5), neurons.LearnableLIF(torch.rand(2))))
    with pytest.raises(NotImplementedError, match=r"1\.0 is a Conv2d"):
        exchange.export(nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Conv2d(1, 1, 3))))
    with pytest.raises(ValueError, match="nothing to export"):
        exchange.export(nn.Sequential())


def test_without_nir_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(ImportError, match=r'pip install "snn-zoo\[nir\]"'):
        exchange.export(neurons.Integrator(), 3)

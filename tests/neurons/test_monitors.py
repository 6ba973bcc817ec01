"""Traces of state and norms of gradients, against the neurons' own steps and against arithmetic."""

import pytest
import torch
from registered import EVERY, build, currents
from torch import nn

import neurons
from neurons import monitors

STEPS, BATCH, CHANNELS = 12, 2, 3


def looped(neuron, x_seq):
    """Every state in a plain loop over single steps."""
    state, states = None, []
    for x in x_seq:
        y, state = neuron.single_step(x, state)
        states.append({"spikes": y} | state._asdict())
    return {part: torch.stack([one[part] for one in states]) for part in states[0]}


@pytest.mark.parametrize("name", EVERY)
def test_traces_are_the_states_of_every_step(name):
    neuron = build(name, CHANNELS).eval()
    x_seq = currents(neuron, STEPS, BATCH, CHANNELS, seed=0)
    (found,) = monitors.traces(neuron, x_seq).layers.values()
    with torch.no_grad():
        expected = looped(neuron, x_seq)
    assert found.keys() == expected.keys()
    for part, values in expected.items():
        torch.testing.assert_close(found[part], values)


@pytest.mark.parametrize("library", ["snntorch", "spikingjelly"])
def test_both_plug_ins_are_traced_step_by_step(library):
    pytest.importorskip(library)
    option = {"init_hidden": True} if library == "snntorch" else {}
    neuron = neurons.create("input-gated-lif", library=library, bits=4, **option)
    net = nn.Sequential(nn.Linear(4, 2 * CHANNELS), neuron).eval()
    x_seq = torch.randn(STEPS, BATCH, 4)
    with torch.no_grad(), monitors.record(net) as traces:
        y = torch.stack([net(x) for x in x_seq])
    plain = neurons.InputGatedLIF(bits=4).eval()
    (expected,) = monitors.traces(plain, net[0](x_seq).detach()).layers.values()
    assert list(traces.layers) == ["1"]
    torch.testing.assert_close(traces.layers["1"], expected)
    torch.testing.assert_close(traces.layers["1"]["spikes"], y)


def test_watching_leaves_a_network_as_it_was():
    neuron = neurons.InputGatedLIF(bits=4)
    x_seq = currents(neuron, STEPS, BATCH, CHANNELS, seed=0)
    neuron(x_seq)
    before = neuron.last_backend, neuron.backend, neuron.training, neuron.reference_only()
    state = {name: value.clone() for name, value in neuron.state_dict().items()}
    monitors.traces(neuron, x_seq)
    monitors.gradient_norms(neuron, x_seq)
    assert (neuron.last_backend, neuron.backend, neuron.training, neuron.reference_only()) == before
    assert "step" not in vars(neuron)
    torch.testing.assert_close(neuron.state_dict(), state, rtol=0, atol=0)


def test_an_error_inside_leaves_the_steps_as_they_were():
    net = nn.Sequential(neurons.LearnableLIF())
    with pytest.raises(RuntimeError, match="within"), monitors.record(net):
        raise RuntimeError("within")
    assert "step" not in vars(net[0])


def test_one_trace_is_of_one_input_shape():
    net = nn.Sequential(neurons.LearnableLIF())
    with pytest.raises(ValueError, match="0 ran on steps of several shapes"), monitors.record(net):
        net(torch.rand(3, 1, 2))
        net(torch.rand(3, 2, 2))


def test_an_integrator_s_gradient_is_the_same_at_every_step():
    norms = monitors.gradient_norms(neurons.Integrator(), torch.randn(STEPS, 1, CHANNELS)).norms["Integrator"]
    torch.testing.assert_close(norms["input"], torch.full((STEPS,), CHANNELS**0.5))
    torch.testing.assert_close(norms["Integrator.membrane"], norms["input"])


def test_a_leak_takes_its_power_of_the_gradient():
    neuron = neurons.LearnableLIF(leak=0.8)
    x_seq = 0.05 * torch.rand(STEPS, 1, CHANNELS)  # no spike, but inside the surrogate gradient's window
    norms = monitors.gradient_norms({"leaky": neuron}, x_seq).norms["leaky"]["input"]
    torch.testing.assert_close(norms[:-1] / norms[1:], torch.full((STEPS - 1,), 0.8))
    assert neuron.leak.grad is None


def test_the_gradient_of_a_whole_network_is_autograd_s():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 2 * CHANNELS), neurons.RecurrentGatedLIF(CHANNELS, bits=4)).eval()
    x_seq = torch.randn(STEPS, BATCH, 4, requires_grad=True)
    net(x_seq)[0][-1].square().sum().backward()
    found = monitors.gradient_norms(net, x_seq, loss=lambda last: last.square().sum()).norms["Sequential"]
    torch.testing.assert_close(found["input"], x_seq.grad.flatten(1).norm(dim=1))
    assert {"input", "1.synaptic_current", "1.membrane", "1.spikes"} == found.keys()


def test_a_plain_lif_forgets_where_open_gates_do_not():
    norms = monitors.vanishing_gradient(steps=200, channels=16).norms
    lost = {name: float(of["input"][:10].mean() / of["input"][-10:].mean()) for name, of in norms.items()}
    plain, v1, v2 = lost.values()
    assert plain < 1e-3
    assert v1 > 0.1
    assert v2 > 0.1


def test_a_network_without_neurons_has_no_states_to_look_at():
    with pytest.raises(ValueError, match="Linear holds no neuron of this package"):
        monitors.gradient_norms(nn.Linear(2, 2), torch.rand(3, 1, 2))


def test_drawings_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    net = nn.Sequential(neurons.RecurrentGatedLIF(CHANNELS, bits=4))
    x_seq = currents(net[0], STEPS, BATCH, CHANNELS, seed=0)
    monitors.traces(net, x_seq).plot(tmp_path / "traces.png")
    monitors.vanishing_gradient(steps=20, channels=4, path=tmp_path / "gradients.png")
    for name in ("traces.png", "gradients.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        monitors.Traces().plot(tmp_path / "nothing.png")

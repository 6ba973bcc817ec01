"""The libraries' own names: a neuron that is built with them computes what the library's own neuron does."""

import copy
import pickle

import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import functional, monitor, neuron, surrogate
from torch import Tensor, nn

import neurons
import neurons.snntorch as plug_in
from neurons import nir as exchange
from neurons.spikingjelly import (
    InputGatedLIFNode,
    LeakyIntegratorNode,
    LearnableLIFNode,
    MultiBitLIFNode,
    RecurrentGatedLIFNode,
    plugged,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def through_time(lif, x_seq: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and membranes of a neuron with explicit state, in the loop of snnTorch's tutorials."""
    spikes, membranes, mem = [], [], lif.reset_mem()
    for x in x_seq:
        spk, mem = lif(x, mem)
        spikes.append(spk)
        membranes.append(mem)
    return torch.stack(spikes), torch.stack(membranes)


def gradients(outputs, x: Tensor) -> Tensor:
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((weights * outputs).sum(), x)[0]


# snnTorch


@pytest.mark.parametrize("spike_grad", [snn.surrogate.atan(), snn.surrogate.fast_sigmoid(slope=5)])
def test_learnable_lif_with_snntorch_s_options_fires_as_leaky_does(spike_grad):
    options = {"beta": 0.8, "threshold": 0.9, "learn_beta": True, "learn_threshold": True, "spike_grad": spike_grad}
    ours = plug_in.LearnableLIF(**options, reset_mechanism="subtract", reset_delay=False)
    theirs = snn.Leaky(**options, reset_mechanism="subtract", reset_delay=False)
    x = (0.8 * torch.rand(20, 3, 4)).requires_grad_()
    (spikes, membranes), (wanted, their_membranes) = through_time(ours, x), through_time(theirs, x)
    assert torch.equal(spikes, wanted) and 0 < wanted.mean() < 1
    torch.testing.assert_close(membranes, their_membranes)
    assert gradients(spikes, x).any()
    assert ours.leak.requires_grad and ours.threshold.requires_grad


def test_the_gradient_of_a_spike_is_that_of_the_surrogate_handed_over():
    for spike_grad in (snn.surrogate.atan(), surrogate.Sigmoid(), surrogate.ATan(alpha=3.0)):
        x = torch.linspace(-1, 3, 41)[:, None].requires_grad_()
        spikes, _ = neurons.LearnableLIF(threshold=1.25, surrogate=spike_grad)(x[None])
        (wanted,) = torch.autograd.grad(spike_grad(x - 1.25).sum(), x)
        (got,) = torch.autograd.grad(spikes.sum(), x)
        torch.testing.assert_close(got, wanted)


def test_a_membrane_without_a_reset_is_leaky_s():
    ours = plug_in.LeakyIntegrator(beta=0.7, learn_beta=False, reset_mechanism="none")
    theirs = snn.Leaky(beta=0.7, reset_mechanism="none")
    x = torch.randn(12, 3, 4, requires_grad=True)
    (y, membranes), (_, wanted) = through_time(ours, x), through_time(theirs, x)
    torch.testing.assert_close(membranes, wanted)
    assert torch.equal(y, membranes)
    torch.testing.assert_close(gradients(membranes, x), gradients(wanted, x))
    assert not ours.leak.requires_grad


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_each_reset_is_leaky_s(reset):
    ours = plug_in.LearnableLIF(beta=0.9, reset_mechanism=reset)
    theirs = snn.Leaky(beta=0.9, reset_mechanism=reset, reset_delay=False)
    x = 0.9 * torch.rand(20, 3, 4)
    for got, wanted in zip(through_time(ours, x), through_time(theirs, x)):
        torch.testing.assert_close(got, wanted)


def test_the_decay_of_a_synaptic_current_is_alpha():
    lif = plug_in.MultiBitSynapticLIF(4, alpha=0.6, learn_alpha=False)
    assert lif.tau.tolist() == pytest.approx([0.6] * 4) and not lif.tau.requires_grad


def test_beta_per_neuron_is_a_leak_per_channel():
    assert plug_in.LearnableLIF(beta=torch.tensor([0.1, 0.9])).channels == 2
    assert plug_in.MultiBitLIF(beta=0.5).leak == 0.5


@pytest.mark.parametrize(
    ("build", "error", "says"),
    [
        (lambda: plug_in.LearnableLIF(beta=0.9, leak=0.8), TypeError, "beta and leak mean the same to LearnableLIF"),
        (lambda: plug_in.LearnableLIF(0.9, beta=0.8), TypeError, "leak"),
        (lambda: plug_in.LearnableLIF(reset_mechanism="nil"), ValueError, '"subtract", "zero" or "none"; got .nil.'),
        (lambda: plug_in.LearnableLIF(reset_delay=True), TypeError, "reset_delay only as False; got True: .*same step"),
        (lambda: plug_in.MultiBitLIF(reset_mechanism="zero"), TypeError, "only as 'subtract'; got 'zero'"),
        (lambda: plug_in.LeakyIntegrator(threshold=1.0), TypeError, "has no threshold"),
        (lambda: plug_in.InputGatedLIF(beta=0.9), TypeError, "has no beta.*leak per time step, of learnable-lif"),
        (lambda: plug_in.InputGatedLIF(spike_grad=snn.surrogate.atan()), TypeError, "only learnable-lif has a surr"),
        (lambda: plug_in.LearnableLIF(spike_grad=snn.surrogate.atan), ValueError, r"made by a call.*atan\(\)"),
        (lambda: plug_in.LearnableLIF(spike_grad=torch.sigmoid), ValueError, "returns 1 where it is above 0"),
        (lambda: plug_in.LearnableLIF(spike_grad=lambda u: (u > 0).float()), ValueError, "with a gradient"),
        (lambda: plug_in.LearnableLIF(inhibition=True), TypeError, "inhibition only as False; got True"),
        (lambda: LearnableLIFNode(v_reset=-0.1), ValueError, "v_reset is None.*or 0.0; got -0.1"),
        (lambda: LearnableLIFNode(tau=0.5), ValueError, "tau is a time constant in time steps, at least 1"),
        (lambda: LearnableLIFNode(tau=2.0, leak=0.5), TypeError, "tau and leak mean the same"),
        (lambda: LearnableLIFNode(v_threshold=1.0, threshold=1.0), TypeError, "v_threshold and threshold mean"),
        (lambda: LearnableLIFNode(detach_reset=False), TypeError, "detach_reset only as True; got False"),
        (lambda: LearnableLIFNode(init_tau=2.0), TypeError, "has no init_tau.*given as leak or by tau"),
        (lambda: LearnableLIFNode(surrogate_function=surrogate.ATan), ValueError, r"surrogate.ATan\(\) of SpikingJ"),
        (lambda: LearnableLIFNode(surrogate_function=surrogate.ATan(spiking=False)), ValueError, "returns 1 where"),
        (lambda: MultiBitLIFNode(detach_reset=True), TypeError, "detach_reset only as False; got True"),
        (lambda: MultiBitLIFNode(v_reset=0.0), TypeError, "v_reset only as None; got 0.0.*leaky-integrator"),
        (lambda: InputGatedLIFNode(decay_input=True), TypeError, "has no decay_input"),
        (lambda: LearnableLIFNode(tau=2.0, decay_input=1), ValueError, "decay_input must be True or False; got 1"),
    ],
)
def test_what_does_not_mean_the_same_is_refused_with_what_to_write(build, error, says):
    with pytest.raises(error, match=says):
        build()


# Shapes


def test_a_step_without_a_batch_or_without_channels_is_taken_as_in_the_library():
    for shape in ((), (4,)):
        x = 0.8 * torch.rand(15, *shape)
        ours = plug_in.LearnableLIF(beta=0.8)
        for got, wanted in zip(through_time(ours, x), through_time(snn.Leaky(beta=0.8, reset_delay=False), x)):
            assert got.shape == x.shape
            torch.testing.assert_close(got, wanted)
        assert torch.equal(ours.multi_step(x, ours.reset_mem())[0], through_time(ours, x)[0])


@pytest.mark.parametrize("name", neurons.list_neurons())
def test_a_step_without_a_batch_is_one_of_a_batch_of_one(name):
    size = {"channels": 4} if name in ("multibit-synaptic-lif", "recurrent-gated-lif") else {}
    lif = neurons.create(name, library="snntorch", **size).eval()
    x = torch.randn(7, 4 * lif.inputs_per_neuron)
    alone, batch = lif.multi_step(x), None
    lif.reset_mem()
    batch = lif.multi_step(x[:, None])
    assert torch.equal(alone[0], batch[0].squeeze(1)) and alone[0].shape == (7, 4)
    assert all(torch.equal(one, part.squeeze(0)) for one, part in zip(alone[1:], batch[1:]))
    lif.reset_mem()
    given = () if name != "recurrent-gated-lif" else (torch.zeros(4),)
    out = lif(x[0], *given)
    again = lif(x[1], *(out if given else out[1:]))
    assert again[0].shape == (4,)
    torch.testing.assert_close(again[0], alone[0][1])


@pytest.mark.parametrize("name", [n for n in neurons.list_neurons() if n != "recurrent-gated-lif"])
@pytest.mark.parametrize("channel_dim", [-1, 2, 0])
def test_channels_may_lie_in_any_dimension_that_is_named(name, channel_dim):
    size = {"channels": 4} if name == "multibit-synaptic-lif" else {}
    for library in ("snntorch", "spikingjelly"):
        usual = neurons.create(name, library=library, **size).eval()
        named = neurons.create(name, library=library, channel_dim=channel_dim, **size).eval()
        x = torch.randn(6, 2, 4 * usual.inputs_per_neuron, 3)
        moved = x.movedim(2, channel_dim % 3 + 1).contiguous()
        if library == "snntorch":
            wanted, got = usual.multi_step(x), named.multi_step(moved)
            wanted, got = [*wanted, *usual(x[0])], [*got, *named(moved[0])]
        else:
            for node in (usual, named):
                functional.set_step_mode(node, "m")
            wanted, got = [usual(x)], [named(moved)]
            wanted, got = [*wanted, *usual._memories.values()], [*got, *named._memories.values()]
        for one, other in zip(got, wanted):
            sequence = other.dim() == 4
            assert torch.equal(one, other.movedim(1 + sequence, channel_dim % 3 + sequence))


def test_a_value_per_channel_goes_along_the_dimension_that_is_named():
    leak = torch.tensor([0.1, 0.5, 0.9])
    x = torch.rand(5, 2, 6, 3)
    node = LearnableLIFNode(leak=leak, channel_dim=-1, decay_input=True, step_mode="m")
    usual = LearnableLIFNode(leak=leak, decay_input=True, step_mode="m")
    assert torch.equal(node(x), usual(x.movedim(-1, 2)).movedim(2, -1))
    with pytest.raises(ValueError, match="has 3 neurons and takes 3 channels; got 6"):
        LearnableLIFNode(leak=leak, step_mode="m")(x)


def test_channel_dim_can_be_set_later_and_is_checked():
    lif = plug_in.InputGatedLIF()
    lif.channel_dim = -1
    assert lif(torch.randn(2, 5, 8))[0].shape == (2, 5, 4)
    with pytest.raises(ValueError, match=r"channel_dim must be a whole number.*got 'last'"):
        lif.channel_dim = "last"


# SpikingJelly


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("v_reset", [None, 0.0])
@pytest.mark.parametrize("decay_input", [True, False])
def test_learnable_lif_with_spikingjelly_s_options_fires_as_its_lif_node_does(decay_input, v_reset, step_mode):
    options = {
        "tau": 2.0,
        "decay_input": decay_input,
        "v_threshold": 0.75,
        "v_reset": v_reset,
        "detach_reset": True,
        "surrogate_function": surrogate.ATan(),
    }
    ours, theirs = LearnableLIFNode(**options, step_mode=step_mode), neuron.LIFNode(**options, step_mode=step_mode)
    x = (3 * torch.rand(16, 3, 4)).requires_grad_()

    def run(node):
        return node(x) if step_mode == "m" else torch.stack([node(step) for step in x])

    spikes, wanted = run(ours), run(theirs)
    assert torch.equal(spikes, wanted) and 0 < wanted.mean() < 1
    torch.testing.assert_close(gradients(spikes, x), gradients(wanted, x))
    torch.testing.assert_close(ours.v, theirs.v)


def test_an_input_that_decays_is_the_default_with_tau_as_in_the_library_and_not_with_leak():
    assert LearnableLIFNode(tau=2.0).decay_input and not LearnableLIFNode(leak=0.5).decay_input
    assert not LearnableLIFNode().decay_input and MultiBitLIFNode(tau=4.0).leak == 0.75
    node = LeakyIntegratorNode(tau=4.0)
    node.decay_input = False
    with pytest.raises(ValueError, match="decay_input must be"):
        node.decay_input = "no"
    with pytest.raises(AttributeError, match="InputGatedLIFNode has no decay_input"):
        _ = InputGatedLIFNode().decay_input


def test_an_input_that_decays_passes_its_gradient_to_the_leak():
    node = LeakyIntegratorNode(tau=4.0, step_mode="m").double()
    x = torch.rand(3, 1, 1, dtype=torch.float64)
    node(x)[-1].sum().backward()
    leak = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
    ((1 - leak) * (leak**2 * x[0] + leak * x[1] + x[2])).sum().backward()
    torch.testing.assert_close(node.leak.grad.reshape(()), leak.grad)


def test_functional_forward_decays_the_input_too():
    node = LeakyIntegratorNode(tau=4.0)
    if not hasattr(node, "functional_forward"):
        pytest.skip("this release of SpikingJelly has no functional forward")
    x = torch.rand(2, 3)
    (y,), _ = node.single_step_functional_forward((x,), node.materialize_states((x,), (0.0,), "s"))
    torch.testing.assert_close(y, 0.25 * x)


def test_an_export_to_nir_does_not_lose_a_decay_or_a_reset_to_zero():
    assert "decay_input" in exchange.refusal(LearnableLIFNode(tau=2.0))
    assert "reset is not by subtraction" in exchange.refusal(LearnableLIFNode(v_reset=0.0))


def test_code_that_looks_for_the_library_s_base_node_finds_ours():
    net = nn.Sequential(nn.Linear(3, 8), InputGatedLIFNode(), nn.Linear(4, 8), RecurrentGatedLIFNode(4))
    functional.set_step_mode(net, "m")
    spikes = monitor.OutputMonitor(net, neuron.BaseNode)
    membranes = monitor.AttributeMonitor("v", False, net, neuron.BaseNode)
    net(torch.randn(5, 2, 3))
    assert spikes.monitored_layers == membranes.monitored_layers == ["1", "3"]
    assert [one.shape for one in spikes.records] == [(5, 2, 4)] * 2
    functional.reset_net(net)
    assert net[1].v == 0.0
    for node in map(neurons.neuron_class, neurons.list_neurons()):
        assert issubclass(plugged(node), neuron.BaseNode)


# Surrogates that are functions


def test_a_surrogate_that_no_kernel_knows_runs_in_torch_and_a_kernel_that_is_asked_for_says_so():
    lif = neurons.LearnableLIF(surrogate=surrogate.Erf())
    lif(torch.rand(3, 2, 4))
    assert lif.last_backend == "torch"
    lif.backend = "cpu"
    with pytest.raises(ValueError, match="a function for its surrogate, which no kernel can call"):
        lif(torch.rand(3, 2, 4))
    lif.surrogate = "arctan"
    lif(torch.rand(3, 2, 4))
    assert lif.last_backend == "cpu"


def test_a_surrogate_of_spikingjelly_is_no_part_of_the_network_and_is_copied():
    node = LearnableLIFNode(surrogate_function=surrogate.ATan(alpha=3.0))
    assert [*node.children()] == [] and node.state_dict().keys() == neurons.LearnableLIF().state_dict().keys()
    for one in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert one.surrogate.alpha == 3.0
    node.surrogate = surrogate.Sigmoid()
    assert [*node.children()] == [] and "Sigmoid" in repr(node)

"""The neurons in real snnTorch code: its tutorials' loops, losses, resets, monitors and trainers."""

import copy
import gc
import inspect
import io
import pickle
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import PR22, PublishedNetwork, check_published_learnable_lif, check_published_network
from snntorch import functional as SF
from snntorch import utils
from snntorch.functional import probe
from torch import Tensor, nn

import neurons
import neurons.snntorch as plug_in
from neurons.foreign import own_options

BUILT_IN = [
    "input-gated-lif",
    "integrator",
    "leaky-integrator",
    "learnable-lif",
    "multibit-lif",
    "multibit-synaptic-lif",
    "recurrent-gated-lif",
]
THIRD_PARTY = "third-party-adaptive-lif"
ALL = [*BUILT_IN, THIRD_PARTY]
MULTI_BIT = [name for name in BUILT_IN if issubclass(neurons.neuron_class(name), neurons.MultiBitNeuron)]


class AdaptiveState(NamedTuple):
    membrane: Tensor
    adaptation: Tensor


class AdaptiveParameters(NamedTuple):
    decay: Tensor


class AdaptiveLIF(neurons.Neuron):
    """A neuron from outside the package, with a state that has no name in snnTorch. Its output is a smooth rate."""

    State = AdaptiveState

    def __init__(self, decay: float = 0.9):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(decay))

    @staticmethod
    def step(x: Tensor, state: AdaptiveState, parameters: AdaptiveParameters) -> tuple[Tensor, AdaptiveState]:
        membrane = parameters.decay * state.membrane + x - state.adaptation
        y = torch.sigmoid(4 * (membrane - 1))
        return y, AdaptiveState(membrane - y, parameters.decay * state.adaptation + 0.1 * y)

    def step_parameters(self) -> AdaptiveParameters:
        return AdaptiveParameters(self.decay)


@pytest.fixture(scope="module", autouse=True)
def third_party_neuron():
    neurons.register(THIRD_PARTY)(AdaptiveLIF)
    yield
    del neurons.registry._registered[THIRD_PARTY]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(name: str, size: int = 4, library: str = "snntorch", **options):
    """A neuron of ``size`` channels, whether or not its class takes their number."""
    if "channels" in inspect.signature(neurons.neuron_class(name)).parameters:
        options["channels"] = size
    return neurons.create(name, library=library, **options)


def input_for(neuron, *leading: int, size: int = 4, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*leading, size * neuron.inputs_per_neuron)


def network(name: str, hidden: int = 24, **options) -> nn.Sequential:
    """Two layers as in the library's tutorials: hidden state, all of it returned by the last layer."""
    lif1 = build(name, hidden, init_hidden=True, **options)
    lif2 = build(name, 3, init_hidden=True, output=True, **options)
    per = lif1.inputs_per_neuron
    return nn.Sequential(nn.Flatten(), nn.Linear(12, hidden * per), lif1, nn.Linear(hidden, 3 * per), lif2)


def forward_pass(net: nn.Module, num_steps: int, data: Tensor) -> tuple[Tensor, Tensor]:
    """The tutorials' forward pass: reset, then the same data at every step."""
    mem_rec, spk_rec = [], []
    utils.reset(net)
    for _ in range(num_steps):
        spk_out, *_, mem_out = net(data)
        spk_rec.append(spk_out)
        mem_rec.append(mem_out)
    return torch.stack(spk_rec), torch.stack(mem_rec)


def toy_batch(size: int = 32) -> tuple[Tensor, Tensor]:
    """Three classes, each a bump over four of twelve inputs."""
    targets = torch.randint(3, (size,))
    data = nn.functional.one_hot(targets, 3).repeat_interleave(4, 1) + 0.3 * torch.randn(size, 12)
    return data, targets


def train(run, parameters, loss_fn, updates: int = 25) -> list[float]:
    optimizer = torch.optim.Adam(parameters, lr=2e-2)
    losses = []
    for _ in range(updates):
        data, targets = toy_batch()
        loss = loss_fn(run(data)[0], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def step_loop(neuron, x_seq: Tensor) -> Tensor:
    """Spikes of a neuron with a hidden state, fed step by step after a reset."""
    neuron.reset_mem()
    return torch.stack([neuron(x) for x in x_seq])


def explicit_loop(neuron, x_seq: Tensor) -> tuple[Tensor, tuple]:
    """Spikes and the last state of a neuron whose state the caller passes on, as in the library."""
    state = neuron.reset_mem()
    state = state if isinstance(state, tuple) else (state,)
    spk_rec = []
    for x in x_seq:
        spk, *rest = neuron(x, *state)
        state = (spk, *rest) if len(state) > len(rest) else tuple(rest)
        spk_rec.append(spk)
    return torch.stack(spk_rec), state


# The tutorials' training loops


@pytest.mark.parametrize("name", ALL)
def test_a_sequential_network_with_hidden_state_learns_in_the_tutorial_loop(name):
    net = network(name)
    losses = train(partial(forward_pass, net, 6), net.parameters(), SF.ce_count_loss())
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    data, targets = toy_batch(100)
    with torch.no_grad():
        spk_rec, _ = forward_pass(net.eval(), 6, data)
    assert SF.accuracy_rate(spk_rec, targets) > 0.6


@pytest.mark.parametrize(
    "loss_fn", [SF.ce_rate_loss(), SF.ce_count_loss(), SF.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)]
)
def test_every_spike_loss_of_the_library_falls(loss_fn):
    net = network("learnable-lif")
    losses = train(partial(forward_pass, net, 8), net.parameters(), loss_fn)
    assert np.mean(losses[-5:]) < losses[0]


def test_a_membrane_loss_of_the_library_falls_with_an_integrator_as_readout():
    net = nn.Sequential(
        nn.Linear(12, 24),
        plug_in.LearnableLIF(init_hidden=True),
        nn.Linear(24, 3),
        plug_in.Integrator(init_hidden=True, output=True),
    )
    loss_fn = SF.ce_max_membrane_loss()
    losses = train(lambda data: forward_pass(net, 6, data)[::-1], net.parameters(), loss_fn)
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


class Net(nn.Module):
    """The tutorials' class with explicit state, with one neuron for each way of being called."""

    def __init__(self, num_steps: int = 6):
        super().__init__()
        self.num_steps = num_steps
        self.fc1 = nn.Linear(12, 16)
        self.lif1 = plug_in.LearnableLIF()
        self.fc2 = nn.Linear(16, 32)
        self.lif2 = plug_in.InputGatedLIF()
        self.fc3 = nn.Linear(16, 32)
        self.lif3 = plug_in.RecurrentGatedLIF(16)
        self.fc4 = nn.Linear(16, 3)
        self.lif4 = plug_in.Integrator()

    def forward(self, x):
        mem1 = self.lif1.reset_mem()
        syn2, mem2 = self.lif2.reset_mem()
        spk3, syn3, mem3 = self.lif3.reset_mem()
        mem4 = self.lif4.reset_mem()
        spk_rec, mem_rec = [], []
        for _ in range(self.num_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            spk3, syn3, mem3 = self.lif3(self.fc3(spk2), spk3, syn3, mem3)
            spk4, mem4 = self.lif4(self.fc4(spk3), mem4)
            spk_rec.append(spk4)
            mem_rec.append(mem4)
        return torch.stack(spk_rec, dim=0), torch.stack(mem_rec, dim=0)


def test_a_class_with_explicit_state_learns_with_batches_of_any_size():
    net = Net()
    losses = train(net, net.parameters(), SF.ce_rate_loss())
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    spk_rec, mem_rec = net(toy_batch(7)[0])
    assert spk_rec.shape == mem_rec.shape == (6, 7, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["library's own Leaky", *BUILT_IN])
@pytest.mark.parametrize("truncation", [1, 3])
def test_the_library_s_truncated_backpropagation_trains_our_neurons(name, truncation):
    from snntorch import backprop

    if name in ALL:
        net = network(name)
    else:
        lifs = [snn.Leaky(beta=0.9, init_hidden=True, output=last) for last in (False, True)]
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 24), lifs[0], nn.Linear(24, 3), lifs[1])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in net.parameters()]
    loader = [toy_batch() for _ in range(4)]
    losses = [
        backprop.TBPTT(net, loader, optimizer, SF.ce_rate_loss(), num_steps=6, time_var=False, K=truncation).item()
        for _ in range(4)
    ]
    assert losses[-1] < losses[0]
    assert any(not torch.equal(p, old) for p, old in zip(net.parameters(), before))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_library_s_backpropagation_through_time_reads_time_varying_data():
    from snntorch import backprop

    net = network("input-gated-lif")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    loader = [(data.repeat(6, 1, 1), targets) for data, targets in (toy_batch() for _ in range(4))]
    losses = [backprop.BPTT(net, loader, optimizer, SF.ce_rate_loss()).item() for _ in range(4)]
    assert losses[-1] < losses[0]


# How a neuron is called


@pytest.mark.parametrize(
    ("name", "parent", "returned"),
    [
        ("learnable-lif", snn.Leaky, ["mem"]),
        ("integrator", snn.Leaky, ["mem"]),
        ("leaky-integrator", snn.Leaky, ["mem"]),
        ("multibit-lif", snn.Leaky, ["mem"]),
        ("multibit-synaptic-lif", snn.Synaptic, ["syn", "mem"]),
        ("input-gated-lif", snn.Synaptic, ["syn", "mem"]),
        ("recurrent-gated-lif", snn.RSynaptic, ["syn", "mem"]),
        (THIRD_PARTY, snn.Synaptic, ["adaptation", "mem"]),
    ],
)
def test_a_neuron_is_one_of_the_library_s_and_returns_the_spikes_and_the_state_in_its_order(name, parent, returned):
    lif = build(name, init_hidden=True, output=True)
    assert isinstance(lif, parent) and isinstance(lif, snn.SpikingNeuron) and isinstance(lif, neurons.Neuron)
    spk, *states = lif(input_for(lif, 5))
    assert spk.shape == (5, 4)
    assert len(states) == len(returned)
    for state, attribute in zip(states, returned):
        assert torch.equal(state, getattr(lif, attribute))
    assert utils._final_layer_check(nn.Sequential(lif)) == 1 + len(returned)


@pytest.mark.parametrize("name", ALL)
def test_a_hidden_state_returns_the_spikes_alone_unless_all_is_asked_for(name):
    hidden, shown, explicit = build(name, init_hidden=True), build(name, init_hidden=True, output=True), build(name)
    for lif in (shown, explicit):
        lif.load_state_dict(hidden.state_dict())
    x = input_for(hidden, 3)
    spk = hidden(x)
    assert isinstance(spk, Tensor)
    torch.testing.assert_close(shown(x)[0], spk)
    torch.testing.assert_close(explicit(x)[0], spk)


@pytest.mark.parametrize("name", ALL)
def test_the_state_comes_by_position_or_by_name_and_none_means_the_state_of_the_call_before(name):
    lif = build(name).eval()
    x_seq = input_for(lif, 3, 5)
    expected, last = explicit_loop(lif, x_seq)

    lif.reset_mem()
    torch.testing.assert_close(torch.stack([lif(x)[0] for x in x_seq]), expected)
    nones = [None] * len(last)
    lif.reset_mem()
    torch.testing.assert_close(torch.stack([lif(x, *nones)[0] for x in x_seq]), expected)

    names = list(plug_in.plugged(neurons.neuron_class(name))._field_of)
    by_name = lif(x_seq[0], **dict(zip(names, last)))
    by_position = lif(x_seq[0], *last)
    for one, other in zip(by_name, by_position):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_reset_mem_returns_the_library_s_placeholders():
    assert plug_in.LearnableLIF().reset_mem().shape == snn.Leaky(0.9).reset_mem().shape == (0,)
    syn, mem = plug_in.InputGatedLIF().reset_mem()
    assert syn.shape == mem.shape == (0,)
    spk, syn, mem = plug_in.RecurrentGatedLIF(4).reset_mem()
    assert spk.shape == syn.shape == mem.shape == (0,)


def test_a_state_of_which_only_a_part_is_given_starts_the_rest_from_zero():
    lif = plug_in.InputGatedLIF()
    x, mem = torch.randn(2, 8), torch.rand(2, 4)
    _, syn, _ = lif(x, torch.zeros(0), mem)
    _, expected, _ = lif(x, torch.zeros(2, 4), mem)
    assert torch.equal(syn, expected)


def test_the_state_can_be_read_and_set_as_the_library_s_attributes():
    lif = plug_in.Integrator(init_hidden=True)
    assert lif(torch.ones(2, 3)).eq(1).all()
    lif.mem = torch.full((2, 3), 10.0)
    assert lif(torch.ones(2, 3)).eq(11).all()
    assert lif.mem.eq(11).all()
    assert not hasattr(lif, "syn")


@pytest.mark.parametrize("name", [name for name in ALL if name != "recurrent-gated-lif"])
def test_images_of_channels_height_and_width_are_taken(name):
    lif = build(name, init_hidden=True, output=True)
    conv = nn.Conv2d(2, 4 * lif.inputs_per_neuron, 3, padding=1)
    net = nn.Sequential(conv, lif)
    image = torch.randn(3, 2, 6, 5)
    for _ in range(2):
        spk, *_, mem = net(image)
    assert spk.shape == mem.shape == (3, 4, 6, 5)
    mem.sum().backward()
    assert conv.weight.grad.abs().sum() > 0

    # Each pixel gives the same as a neuron without spatial dimensions.
    lif.eval().reset_mem()
    pixel = build(name, init_hidden=True).eval()
    pixel.load_state_dict(lif.state_dict())
    current = conv(image).detach()
    for _ in range(2):
        spk, *_ = lif(current)
        torch.testing.assert_close(spk[:, :, 2, 3], pixel(current[:, :, 2, 3]))


def test_every_call_can_be_watched_by_the_library_s_monitors():
    net = network("learnable-lif")
    outputs = probe.OutputMonitor(net, instance=snn.Leaky)
    membranes = probe.AttributeMonitor("mem", False, net, instance=snn.Leaky)
    spk_rec, mem_rec = forward_pass(net, 4, toy_batch()[0])
    assert outputs.monitored_layers == ["2", "4"]
    assert torch.equal(torch.stack([spk for spk, _ in outputs["4"]]), spk_rec)
    assert torch.equal(torch.stack(membranes["4"]), mem_rec)


# Step by step, many steps at once, and the plain neuron


def outputs_gradients_and_ranges(neuron, run, x_seq: Tensor):
    """The results of three training sequences, the second in a smaller batch."""
    neuron.train()
    results = []
    for scale, batch in ((1.0, 5), (3.0, 2), (0.5, 5)):
        x = (scale * x_seq[:, :batch]).requires_grad_()
        y = run(neuron, x)
        neuron.zero_grad()
        y.pow(2).sum().backward()
        results += [y.detach(), x.grad, *[p.grad.clone() for p in neuron.parameters() if p.grad is not None]]
    neuron.eval()  # ends the last sequence
    return results + list(neuron.state_dict().values())


@pytest.mark.parametrize("name", ALL)
def test_step_loop_multi_step_and_plain_neuron_give_the_same_outputs_gradients_and_ranges(name):
    plain = build(name, library="torch")
    x_seq = input_for(plain, 7, 5)
    expected = outputs_gradients_and_ranges(copy.deepcopy(plain), lambda neuron, x: neuron(x)[0], x_seq)
    ways = {
        "hidden state, step by step": (True, step_loop),
        "explicit state, step by step": (False, lambda neuron, x: explicit_loop(neuron, x)[0]),
        "hidden state, at once": (True, lambda neuron, x: (neuron.reset_mem(), neuron.multi_step(x))[1]),
        "explicit state, at once": (False, lambda neuron, x: (neuron.reset_mem(), neuron.multi_step(x))[1][0]),
    }
    for way, (hidden, run) in ways.items():
        lif = build(name, init_hidden=hidden)
        lif.load_state_dict(plain.state_dict())
        for ours, theirs in zip(outputs_gradients_and_ranges(lif, run, x_seq), expected, strict=True):
            torch.testing.assert_close(ours, theirs, msg=lambda text, way=way: f"{way}: {text}")


@pytest.mark.parametrize("name", MULTI_BIT)
@pytest.mark.parametrize("close", ["reset_mem", "utils.reset", "reset", "eval"])
def test_every_way_of_resetting_ends_the_sequence_for_the_range(name, close):
    net = network(name)
    assert forward_pass(net, 3, toy_batch()[0])[0].shape == (3, 32, 3)
    close_sequence = {
        "reset_mem": lambda: [net[i].reset_mem() for i in (2, 4)],
        "utils.reset": lambda: utils.reset(net),
        "reset": lambda: plug_in.reset(net),
        "eval": net.eval,
    }[close]
    for _ in range(2):
        close_sequence()
        assert [net[i].spike_range.updates.item() for i in (2, 4)] == [1, 1]


@pytest.mark.parametrize("name", ALL)
@given(cuts=st.lists(st.integers(0, 9), max_size=4), by_step=st.lists(st.booleans(), min_size=5, max_size=5))
@settings(max_examples=8, deadline=None)
def test_any_mix_of_single_and_multiple_steps_equals_the_whole_sequence(name, cuts, by_step):
    torch.manual_seed(1)
    lif = build(name, init_hidden=True).eval()
    x_seq = input_for(lif, 9, 2)
    whole = lif.multi_step(x_seq)
    lif.reset_mem()
    pieces = []
    edges = [0, *sorted(cuts), 9]
    for start, end, single in zip(edges, edges[1:], by_step):
        pieces += [lif(x)[None] for x in x_seq[start:end]] if single else [lif.multi_step(x_seq[start:end])]
    torch.testing.assert_close(torch.cat(pieces), whole)


@pytest.mark.parametrize("name", ALL)
def test_the_backend_asked_for_runs_multi_step_and_can_be_read_back(name):
    lif = build(name)
    x_seq = input_for(lif, 5, 3)
    fused = "cpu" if lif.reference_only() is None else "torch"
    results = {}
    for backend, ran in (("torch", "torch"), ("auto", fused), (fused, fused)):
        other = copy.deepcopy(lif)
        other.backend = backend
        results[backend] = other.multi_step(x_seq)
        assert (other.backend, other.last_backend) == (backend, ran)
        other(x_seq[0])
        assert other.last_backend == "torch"
    for backend in ("auto", fused):
        for ours, expected in zip(results[backend], results["torch"]):
            torch.testing.assert_close(ours, expected)
    with pytest.raises(ValueError, match="backend must be one of"):
        lif.backend = "triton"


def test_multi_step_takes_and_returns_the_state_in_the_library_s_order():
    lif = plug_in.RecurrentGatedLIF(4).eval()
    x_seq = torch.randn(6, 3, 8)
    whole, last_syn, last_mem = lif.multi_step(x_seq, *lif.reset_mem())
    first, syn, mem = lif.multi_step(x_seq[:2], *lif.reset_mem())
    second, syn, mem = lif.multi_step(x_seq[2:], spk=first[-1], syn=syn, mem=mem)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close((syn, mem), (last_syn, last_mem))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parameters", ["half", "float32"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_half_precision_keeps_its_state_in_float32_and_agrees_with_the_scan(name, parameters, dtype):
    lif = build(name, init_hidden=True, output=True).eval()
    if parameters == "half":
        lif.to(dtype)
    x_seq = input_for(lif, 5, 3).to(dtype)
    spk, *states = lif.multi_step(x_seq)
    assert spk.dtype == dtype and all(state.dtype == torch.float32 for state in states)
    lif.reset_mem()
    for step, x in enumerate(x_seq):
        one, *_ = lif(x)
        assert one.dtype == dtype
        torch.testing.assert_close(one, spk[step])
    lif.init_hidden = False
    explicit, _ = explicit_loop(lif, x_seq)
    assert explicit.dtype == dtype and explicit.isfinite().all()


def test_autocast_trains_a_network():
    net = network("recurrent-gated-lif")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spk_rec, _ = forward_pass(net, 3, toy_batch()[0])
    assert spk_rec.dtype == torch.bfloat16
    spk_rec.float().sum().backward()
    assert net[1].weight.grad.isfinite().all() and net[1].weight.grad.abs().sum() > 0


# What is learned


@pytest.mark.parametrize(
    ("name", "learned"),
    [
        ("learnable-lif", ["leak", "threshold"]),
        ("multibit-lif", ["leak"]),
        ("multibit-synaptic-lif", ["tau"]),
        ("recurrent-gated-lif", ["recurrent_weight"]),
        (THIRD_PARTY, ["decay"]),
    ],
)
def test_the_learned_parameters_of_every_layer_receive_gradient_and_move(name, learned):
    net = network(name)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = copy.deepcopy(net.state_dict())
    data, targets = toy_batch()
    SF.mse_count_loss()(forward_pass(net, 5, data)[0], targets).backward()
    optimizer.step()
    for layer in ("2", "4"):
        for parameter in learned:
            assert net.get_parameter(f"{layer}.{parameter}").grad.abs().sum() > 0
            assert not torch.equal(net.state_dict()[f"{layer}.{parameter}"], before[f"{layer}.{parameter}"])


def test_a_threshold_is_learned_only_where_it_is_asked_for():
    for learn in (True, False):
        lif = plug_in.LearnableLIF(threshold=0.7, learn_threshold=learn)
        spk, _ = lif(torch.rand(4, 3, requires_grad=True))
        spk.sum().backward()
        assert (lif.threshold.grad is not None) == learn
        assert lif.threshold.item() == pytest.approx(0.7)


# Resets


def run_steps(net: nn.Module, data: Tensor, steps: int = 3) -> Tensor:
    return torch.stack([net(data)[0] for _ in range(steps)])


@pytest.mark.parametrize("clear", [utils.reset, plug_in.reset], ids=["utils.reset", "reset"])
@pytest.mark.parametrize("name", ALL)
def test_after_a_reset_a_network_starts_afresh_and_without_the_old_graph(name, clear):
    net = network(name).eval()
    data, _ = toy_batch(4)
    first = run_steps(net, data)
    assert not torch.equal(run_steps(net, data), first)
    clear(net)
    again = run_steps(net, data)
    assert torch.equal(again, first)
    first.sum().backward()
    again.sum().backward()


@pytest.mark.parametrize("clear", [utils.reset, plug_in.reset], ids=["utils.reset", "reset"])
def test_a_reset_reaches_our_neurons_and_the_library_s_in_one_network(clear):
    own = snn.Synaptic(alpha=0.8, beta=0.9, init_hidden=True)
    net = nn.Sequential(nn.Linear(12, 8), own, plug_in.RecurrentGatedLIF(4, init_hidden=True))
    for _ in range(3):
        net(toy_batch(4)[0])
    assert own.mem.abs().sum() > 0
    clear(net)
    assert own.mem.abs().sum() == own.syn.abs().sum() == 0
    assert net[2].spk.shape == net[2].syn.shape == net[2].mem.shape == (0,)


def deep_network() -> nn.Module:
    inner = nn.ModuleDict({"gate": plug_in.InputGatedLIF(init_hidden=True), "own": snn.RLeaky(0.9, linear_features=6)})
    block = nn.Sequential(nn.Linear(12, 12), inner["gate"])
    return nn.ModuleList([nn.Sequential(block, nn.Sequential(nn.Linear(6, 6), inner["own"]))])


def test_our_reset_reaches_any_depth_where_the_library_s_does_not():
    net = deep_network()
    gate, own = net[0][0][1], net[0][1][1]
    data, _ = toy_batch(4)
    net[0](data)
    utils.reset(net)
    assert gate.mem.shape == (4, 6)
    plug_in.reset(net)
    assert gate.mem.shape == (0,)
    assert own.mem.abs().sum() == own.spk.abs().sum() == 0 and own.mem.grad_fn is None


@pytest.mark.parametrize("name", ALL)
def test_our_reset_leaves_another_network_alone(name):
    one, other = network(name), network(name)
    data, _ = toy_batch(4)
    run_steps(one, data), run_steps(other, data)
    kept, pending = other[2].mem.clone(), copy.deepcopy(dict(other.named_buffers()))
    plug_in.reset(one)
    assert one[2].mem.shape == (0,)
    assert torch.equal(other[2].mem, kept)
    assert all(torch.equal(buffer, pending[key]) for key, buffer in other.named_buffers())


def test_the_library_s_reset_goes_past_networks_that_no_longer_exist():
    gone = network("learnable-lif")
    neuron = weakref.ref(gone[2])
    forward_pass(gone, 2, toy_batch(4)[0])
    del gone
    gc.collect()
    assert neuron() is None
    net = network("learnable-lif")
    length = len(snn.SpikingNeuron.instances)
    for _ in range(5):
        network("learnable-lif")
    gc.collect()
    forward_pass(net, 2, toy_batch(4)[0])
    utils.reset(net)
    plug_in.LearnableLIF()
    assert len(snn.SpikingNeuron.instances) <= length + 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_detaching_keeps_the_state_and_cuts_the_graph(name):
    net = nn.Sequential(network(name), nn.Identity())
    data, _ = toy_batch(4)
    net(data)
    lif = net[0][4]
    kept = lif.mem.clone()
    plug_in.detach(net)
    assert torch.equal(lif.mem, kept) and lif.mem.grad_fn is None
    net(data)[0].sum().backward()
    plug_in.detach(net)
    net(data)[0].sum().backward()


def test_detaching_reaches_the_library_s_own_neurons():
    net = deep_network()
    data, _ = toy_batch(4)
    net[0](data)
    plug_in.detach(net)
    own = net[0][1][1]
    assert own.mem.grad_fn is None and own.spk.grad_fn is None and own.mem.shape == (4, 6)


# Copies, pickles, state dicts


@pytest.mark.parametrize("name", ALL)
def test_weights_move_between_the_plain_neuron_and_snntorch_bit_for_bit(name):
    plain, lif = build(name, library="torch"), build(name, init_hidden=True)
    for _ in range(2):
        step_loop(lif, input_for(lif, 4, 3))
    lif.reset_mem()
    assert lif.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(lif.state_dict())
    back = build(name)
    back.load_state_dict(plain.state_dict())
    for key, value in lif.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)
    x_seq = input_for(lif, 4, 3)
    torch.testing.assert_close(back.eval().multi_step(x_seq)[0], plain.eval()(x_seq)[0])


def test_a_saved_state_dict_of_a_network_holds_weights_and_ranges_alone():
    net = network("multibit-synaptic-lif")
    forward_pass(net, 3, toy_batch()[0])
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    neuron = {"tau", *[f"spike_range.{part}" for part in ("current", "minimum", "maximum", "updates")]}
    linear = {"weight", "bias"}
    expected = {f"{i}.{key}" for i, keys in ((1, linear), (2, neuron), (3, linear), (4, neuron)) for key in keys}
    assert set(saved) == expected
    other = network("multibit-synaptic-lif")
    other.load_state_dict(saved)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ALL)
def test_a_copy_carries_on_alike_and_is_reached_by_the_library_s_reset(name, how):
    net = network(name)
    data, _ = toy_batch(4)
    forward_pass(net, 2, data)
    other = copy.deepcopy(net) if how == "deepcopy" else pickle.loads(pickle.dumps(net))
    assert type(other[2]) is type(net[2])
    ours, theirs = net(data), other(data)
    for one, two in zip(ours, theirs):
        assert torch.equal(one, two)
    del net
    utils.reset(other)
    assert other[2].mem.shape == (0,)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_class_of_ours_has_a_name_of_its_own_in_the_module(name):
    made = plug_in.plugged(neurons.neuron_class(name))
    assert getattr(plug_in, made.__name__) is made
    assert plug_in.plugged(neurons.neuron_class(name)) is made and plug_in.plugged(made) is made


def test_a_third_party_s_class_is_made_once():
    assert plug_in.plugged(AdaptiveLIF) is plug_in.plugged(AdaptiveLIF)
    assert plug_in.plugged(AdaptiveLIF).__name__ == "AdaptiveLIF"


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: plug_in.LearnableLIF()(torch.ones(3, 4).int()), TypeError, "floating-point"),
        (lambda: plug_in.LearnableLIF()([1.0]), TypeError, "takes a tensor"),
        (lambda: plug_in.LearnableLIF().multi_step(torch.tensor(1.0)), ValueError, r"\[T, B, C, ...\]; got \[\]"),
        (lambda: plug_in.InputGatedLIF()(torch.ones(5)), ValueError, "multiple of 2; got 5"),
        (lambda: plug_in.InputGatedLIF(channel_dim=2)(torch.ones(3, 4)), ValueError, r"no such dimension .* \[3, 4\]"),
        (lambda: plug_in.InputGatedLIF()(torch.ones(3, 5)), ValueError, "multiple of 2; got 5"),
        (lambda: plug_in.RecurrentGatedLIF(4)(torch.ones(3, 6)), ValueError, "takes 8 channels; got 6"),
        (
            lambda: plug_in.LearnableLIF()(torch.ones(3, 4), torch.ones(2, 4)),
            ValueError,
            r"membrane has shape \[2, 4\].*anew, from what reset_mem\(\) returns",
        ),
        (lambda: plug_in.LearnableLIF()(torch.ones(3, 4), 0.5), TypeError, "membrane must be a tensor"),
        (lambda: plug_in.LearnableLIF()(torch.ones(3, 4), torch.ones(3, 4).double()), TypeError, "keeps its state in"),
        (
            lambda: plug_in.InputGatedLIF()(torch.ones(3, 7), torch.zeros(0), torch.ones(3, 4)),
            ValueError,
            "multiple of 2; got 7",
        ),
        (lambda: plug_in.LearnableLIF()(torch.ones(3, 4), None, None), TypeError, r"its state \(mem\)"),
        (lambda: plug_in.LearnableLIF()(torch.ones(3, 4), syn=None), TypeError, "syn by name"),
        (lambda: plug_in.LearnableLIF()(torch.ones(3, 4), None, mem=None), TypeError, "each once"),
        (
            lambda: plug_in.LearnableLIF(init_hidden=True)(torch.ones(3, 4), torch.ones(3, 4)),
            TypeError,
            "init_hidden=True",
        ),
        (lambda: plug_in.MultiBitLIF(bits=9), ValueError, "bits must be"),
        (lambda: plug_in.plugged(nn.Linear), TypeError, "subclass of neurons.Neuron"),
        (lambda: plug_in.plugged("learnable-lif"), TypeError, "subclass of neurons.Neuron"),
    ],
)
def test_bad_input_is_one_clear_error(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_batch_of_another_size_without_a_reset_is_an_error_that_names_the_reset():
    net = network("learnable-lif")
    net(toy_batch(4)[0])
    with pytest.raises(ValueError, match=r"state of a batch of 4 .*neurons.snntorch.reset\(net\)"):
        net(toy_batch(3)[0])
    with pytest.raises(ValueError, match="state of a batch of 4"):
        net[2].multi_step(torch.randn(5, 3, 24))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("option", [*plug_in.INSTEAD])
def test_an_option_of_the_library_that_means_nothing_to_a_neuron_is_refused(name, option):
    kind = plug_in.plugged(neurons.neuron_class(name))
    own = own_options(kind)
    if option in own or (option in plug_in.SAME and plug_in.SAME[option].option in own):
        pytest.skip("the neuron has it")
    if option in kind.does_anyway():
        says = f"takes {option} only as .*; got 0.5: "
    else:
        says = f"has no {option}, which only snnTorch's own neurons have. It takes .*output"
    with pytest.raises(TypeError, match=f"{kind.__name__} {says}"):
        build(name, **{option: 0.5})


@pytest.mark.parametrize("name", ALL)
def test_what_a_neuron_does_anyway_may_be_asked_for_in_the_library_s_words(name):
    kind = plug_in.plugged(neurons.neuron_class(name))
    assert kind.does_anyway().keys() >= {"inhibition", "state_quant", "graded_spikes_factor"}
    asked, plain = build(name, **kind.does_anyway()), build(name)
    asked.load_state_dict(plain.state_dict())
    x_seq = input_for(plain, 6, 3)
    assert torch.equal(asked.multi_step(x_seq)[0], plain.multi_step(x_seq)[0])


def test_an_option_that_neuron_and_library_share_is_the_neuron_s():
    with pytest.raises(TypeError, match="MultiBitLIF has no learn_threshold, threshold"):
        plug_in.MultiBitLIF(threshold=2.0, learn_threshold=True)
    assert plug_in.LearnableLIF(threshold=2.0).threshold == 2
    with pytest.raises(TypeError, match="lekk"):
        plug_in.LearnableLIF(lekk=0.9)


@pytest.mark.parametrize("name", ALL)
def test_what_only_the_library_s_own_neurons_have_cannot_be_read_or_exported(name):
    lif = build(name)
    for attribute in ("beta", "alpha", "all_to_all", "state_quant", "graded_spikes_factor"):
        assert not hasattr(lif, attribute)
        with pytest.raises(AttributeError, match=f"{type(lif).__name__} has no {attribute}.*NIR"):
            getattr(lif, attribute)


# Losses of the membrane


def membrane_by(way, lif, x):
    """The membranes that a call returns after every step, or that of a scan after the last step."""
    if way == "multi_step":
        return lif.multi_step(x)[-1][None]
    membranes, state = [], lif.reset_mem() if way == "explicit" else ()
    state = state if isinstance(state, tuple) else (state,)
    for step in x:
        out = lif(step, *state)
        membranes.append(out[-1])
        if way == "explicit":
            state = out[len(out) - len(state) :]
    return torch.stack(membranes)


@pytest.mark.parametrize("way", ["hidden", "explicit", "multi_step"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_loss_of_the_membrane_trains_the_layer_before(name, way):
    hidden = {"init_hidden": True, "output": True} if way == "hidden" else {}
    lif = build(name, 3, **hidden)
    layer = nn.Linear(6, 3 * lif.inputs_per_neuron)
    membranes = membrane_by(way, lif, layer(torch.rand(12, 4, 6)))
    SF.ce_max_membrane_loss()(membranes, torch.tensor([0, 1, 2, 0])).backward()
    assert layer.weight.grad.norm() > 1e-3


@pytest.mark.parametrize("name", MULTI_BIT)
def test_the_membrane_that_is_handed_out_has_the_gradient_of_the_one_before_the_reset(name):
    lif = build(name, 4)
    x = torch.randn(2, 4 * lif.inputs_per_neuron, requires_grad=True)
    before_reset = []

    def spike(membrane):
        before_reset.append(membrane)
        return lif.spike()(membrane)

    lif.step(x, lif.initial_state(x, sequence=False), lif.step_parameters_with(spike))
    weights = torch.randn(2, 4)
    (wanted,) = torch.autograd.grad((weights * before_reset[0]).sum(), x)
    for mem in (lif(x)[-1], build(name, 4).multi_step(x[None])[-1]):
        (got,) = torch.autograd.grad((weights * mem).sum(), x)
        assert wanted.any() and torch.allclose(got, wanted)


@pytest.mark.parametrize("name", MULTI_BIT)
def test_a_membrane_that_is_handed_over_to_the_next_call_changes_no_gradient_of_the_spikes(name):
    hidden, explicit = build(name, 3, init_hidden=True), build(name, 3)
    explicit.load_state_dict(hidden.state_dict())
    x = torch.randn(10, 2, 3 * hidden.inputs_per_neuron, requires_grad=True)
    weights = torch.randn(10, 2, 3)
    (wanted,) = torch.autograd.grad((weights * torch.stack([hidden(step) for step in x])).sum(), x)
    spikes, state = [], ()
    for step in x:
        out = explicit(step, *state)
        spikes.append(out[0])
        state = out if name == "recurrent-gated-lif" else out[1:]
    (got,) = torch.autograd.grad((weights * torch.stack(spikes)).sum(), x)
    assert torch.equal(got, wanted)


OWN_NEURONS = (
    lambda: snn.Leaky(beta=0.9),
    lambda: snn.Synaptic(alpha=0.9, beta=0.9),
    lambda: snn.RSynaptic(alpha=0.9, beta=0.9, linear_features=3),
    lambda: snn.Alpha(alpha=0.9, beta=0.8),
)


SHARED = {"training", "init_hidden", "output", "spk", "syn", "syn_exc", "syn_inh", "mem"}
"""The names that ours have too, and the parts of a state."""


@pytest.mark.parametrize("name", ALL)
def test_whatever_a_neuron_of_the_library_holds_is_done_or_refused_when_it_is_set(name):
    lif = build(name)
    for make in OWN_NEURONS:
        own = make()
        held = {*vars(own), *own._parameters, *own._buffers, *own._modules, "reset_mechanism", "fire", "mem_reset"}
        for attribute in sorted(held - SHARED - {*lif._parameters, *vars(lif)}):
            if attribute.startswith("_"):
                continue
            with pytest.raises(AttributeError, match=f"{type(lif).__name__} has no {attribute}, which only snnTorch's"):
                setattr(lif, attribute, getattr(own, attribute))


def test_what_is_refused_says_what_there_is_instead():
    lif = plug_in.LearnableLIF()
    with pytest.raises(
        ValueError, match=r'reset_mechanism must be "subtract", "zero" or "none"; got .zeros.*mean .zero'
    ):
        lif.reset_mechanism = "zeros"
    with pytest.raises(AttributeError, match=r"has no reset_mechanism.*leaky-integrator; only learnable-lif"):
        plug_in.MultiBitLIF().reset_mechanism = "zero"
    with pytest.raises(AttributeError, match=r"has no beta.*leak=0.9.*lif.leak"):
        lif.beta = torch.full((8,), 0.9)
    for name in ("init_hidden", "output"):
        with pytest.raises(ValueError, match=f"{name} must be True or False; got 'yes'"):
            setattr(lif, name, "yes")


@pytest.mark.parametrize("name", ALL)
def test_what_was_refused_changes_nothing_and_copies_refuse_it_too(name):
    lif = build(name)
    for one in (lif, copy.deepcopy(lif), pickle.loads(pickle.dumps(lif))):
        before = one.state_dict().keys()
        with pytest.raises(AttributeError, match="has no state_quant"):
            one.state_quant = 3
        assert one.state_dict().keys() == before and not hasattr(one, "state_quant")


@pytest.mark.parametrize("name", ALL)
def test_an_export_to_nir_is_an_error_and_not_a_leaky_neuron(name):
    pytest.importorskip("nirtorch", reason="the export to NIR needs nirtorch")
    from snntorch.export_nir import export_to_nir

    with pytest.raises(AttributeError, match="computes something else"):
        export_to_nir(network(name), torch.randn(1, 12), ignore_dims=[0])


def test_a_missing_library_is_an_import_error_with_the_install_line_and_importing_neurons_needs_none():
    code = (
        "import sys; sys.modules['snntorch'] = None\n"
        "import neurons\n"
        "try: neurons.create('learnable-lif', library='snntorch')\n"
        "except ImportError as error: print(error)\n"
    )
    root = str(Path(neurons.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "pip install snntorch" in done.stdout


# The papers' numbers

RUNS = {
    "step by step": step_loop,
    "at once": lambda neuron, x: (neuron.reset_mem(), neuron.multi_step(x))[1],
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("bits", [6, 3])
@pytest.mark.parametrize("kind", PR22)
def test_the_published_network_is_reproduced(reference_folder, kind, bits, run):
    numbers = np.load(reference_folder / f"{kind}_{bits}bit.npz")
    hidden = partial(neurons.create, library="snntorch", init_hidden=True)
    check_published_network(PublishedNetwork(kind, bits, int(numbers["threshold"]), build=hidden), numbers, RUNS[run])


@pytest.mark.parametrize("at_once", [False, True], ids=["step by step", "at once"])
def test_the_published_learnable_lif_is_reproduced(reference_folder, at_once):
    def run(neuron, x):
        if at_once:
            spikes, membrane = neuron.multi_step(x, neuron.reset_mem())
        else:
            spikes, (membrane,) = explicit_loop(neuron, x)
        return spikes, neurons.MembraneState(membrane)

    numbers = np.load(reference_folder / "rr24_lif.npz")
    check_published_learnable_lif(numbers, partial(neurons.create, library="snntorch"), run)

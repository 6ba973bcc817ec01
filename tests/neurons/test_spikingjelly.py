"""Nodes in real code of SpikingJelly. The file runs under whichever release is importable; its last test installs
0.0.0.0.14 in a folder of its own and runs the file again under that."""

import copy
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import spikingjelly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import PR22, PublishedNetwork, check_published_learnable_lif, check_published_network
from spikingjelly.activation_based import base, functional, layer, monitor, neuron
from torch import Tensor, nn

import neurons
from neurons import registry
from neurons.foreign import own_options
from neurons.spikingjelly import (
    SAME,
    InputGatedLIFNode,
    IntegratorNode,
    LeakyIntegratorNode,
    LearnableLIFNode,
    MultiBitLIFNode,
    MultiBitSynapticLIFNode,
    Node,
    RecurrentGatedLIFNode,
    plugged,
)

OLD_RELEASE = "0.0.0.0.14"
NAMED = [
    InputGatedLIFNode,
    IntegratorNode,
    LeakyIntegratorNode,
    LearnableLIFNode,
    MultiBitLIFNode,
    MultiBitSynapticLIFNode,
    RecurrentGatedLIFNode,
]
T, B, N = 6, 3, 4

old = not hasattr(base, "to_functional_forward")
explicit_states = pytest.mark.skipif(old, reason=f"SpikingJelly {OLD_RELEASE} has no functional forward")


class AdaptiveState(NamedTuple):
    membrane: Tensor
    adaptation: Tensor


class AdaptiveParameters(NamedTuple):
    threshold: Tensor


class AdaptiveNeuron(neurons.Neuron):
    """A third party's neuron: graded spikes above a threshold that rises with them."""

    State = AdaptiveState

    def __init__(self, threshold: float = 0.5):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    @staticmethod
    def step(x, state, parameters):
        membrane = 0.9 * state.membrane + x
        y = torch.relu(membrane - parameters.threshold - state.adaptation)
        return y, AdaptiveState(membrane - y, 0.8 * state.adaptation + 0.2 * y)

    def step_parameters(self):
        return AdaptiveParameters(self.threshold)


class DelayState(NamedTuple):
    last_input: Tensor


class DelayNeuron(neurons.Neuron):
    """A third party's neuron without a membrane, whose state is the input itself."""

    State = DelayState

    @staticmethod
    def step(x, state, parameters):
        return x * state.last_input, DelayState(x.to(state.last_input.dtype))

    def step_parameters(self):
        return ()


THIRD_PARTY = {"third-party-adaptive": AdaptiveNeuron, "third-party-delay": DelayNeuron}
BUILT_IN = [name for name in neurons.list_neurons() if neurons.neuron_class(name).__module__.startswith("neurons.")]
ALL = [*BUILT_IN, *THIRD_PARTY]
every_neuron = pytest.mark.parametrize("name", ALL)
with_membrane = pytest.mark.parametrize("name", [n for n in ALL if n != "third-party-delay"])
both_modes = pytest.mark.parametrize("mode", ["s", "m"])


@pytest.fixture(scope="module", autouse=True)
def third_party_neurons():
    """Registered only for the tests of this module."""
    for name, cls in THIRD_PARTY.items():
        neurons.register(name)(cls)
    yield
    for name in THIRD_PARTY:
        del registry._registered[name]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(name: str, library: str = "spikingjelly", channels: int = N, **options) -> nn.Module:
    takes = inspect.signature(neurons.neuron_class(name)).parameters
    size = {"channels": channels} if "channels" in takes else {}
    return neurons.create(name, library=library, **size, **options)


def twins(name: str, **options) -> tuple[nn.Module, neurons.Neuron]:
    """A node and the plain neuron with the same weights."""
    node, plain = build(name, **options), build(name, "torch")
    plain.load_state_dict(node.state_dict())
    return node, plain


def current(neuron: neurons.Neuron, steps: int = T, batch: int = B, channels: int = N) -> Tensor:
    return torch.randn(steps, batch, channels * neuron.inputs_per_neuron)


def scan(node: nn.Module, x_seq: Tensor, mode: str) -> Tensor:
    """Run a network over a sequence in this step mode; the final state is kept."""
    functional.set_step_mode(node, mode)
    return node(x_seq) if mode == "m" else torch.stack([node(x) for x in x_seq.unbind(0)])


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Assert equality bit for bit, as of the same code on the same input."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def assert_alike(ours: Tensor, theirs: Tensor) -> None:
    """Assert equality up to rounding, as of a kernel and the steps in torch."""
    torch.testing.assert_close(ours, theirs)


def assert_same_state_dict(ours: nn.Module, theirs: nn.Module, check=assert_same) -> None:
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    for key in ours:
        check(ours[key], theirs[key])


# What a node is


def test_the_library_imported_is_the_release_asked_for():
    distribution = importlib.metadata.distribution("spikingjelly")
    assert Path(spikingjelly.__path__[0]).parent == Path(distribution.locate_file(""))
    assert distribution.version == os.environ.get("SPIKINGJELLY_RELEASE", distribution.version)


@every_neuron
def test_a_node_is_a_memory_module_and_the_plain_neuron(name):
    node = build(name)
    assert isinstance(node, base.MemoryModule)
    assert isinstance(node, Node)
    assert isinstance(node, neurons.neuron_class(name))
    assert type(node) is plugged(neurons.neuron_class(name))


def test_the_built_in_nodes_have_classes_of_their_own_names():
    assert {plugged(neurons.neuron_class(name)) for name in BUILT_IN} == set(NAMED)
    for node in NAMED:
        assert getattr(importlib.import_module("neurons.spikingjelly"), node.__name__) is node


def test_only_a_neuron_class_can_be_made_a_node():
    for wrong in (nn.Linear, "learnable-lif", build("integrator", "torch"), neurons.Neuron):
        with pytest.raises(TypeError, match="a node is made from a subclass"):
            plugged(wrong)


@every_neuron
def test_a_node_shows_its_neuron_and_its_step_mode(name):
    text = repr(build(name, step_mode="m"))
    assert text.startswith(type(build(name)).__name__)
    assert text.count("step_mode=m") == 1


def test_the_memories_have_the_names_that_the_docstrings_say():
    names = {n: [memory for memory, _ in build(n).named_memories()] for n in ALL}
    assert names["learnable-lif"] == names["integrator"] == names["multibit-lif"] == ["v"]
    assert names["multibit-synaptic-lif"] == names["input-gated-lif"] == ["i", "v"]
    assert names["recurrent-gated-lif"] == ["i", "v", "spikes"]
    assert names["third-party-adaptive"] == ["v", "adaptation"]


@every_neuron
@both_modes
def test_the_memories_are_the_plain_neurons_state(name, mode):
    node, plain = twins(name)
    x = current(node)
    assert all(value == 0.0 for value in node.memories())
    scan(node, x, mode)
    _, state = plain(x)
    for memory, expected in zip(node.memories(), state):
        assert_alike(memory, expected)


def test_an_unknown_step_mode_is_an_error():
    with pytest.raises(ValueError, match="step_mode"):
        LearnableLIFNode(step_mode="x")


# Step modes


@every_neuron
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_both_step_modes_and_the_plain_neuron_are_equal_over_several_sequences(name, training, backend):
    """Outputs, gradients and range statistics."""
    check = assert_same if backend == "torch" else assert_alike
    single, plain = twins(name)
    multi = copy.deepcopy(single)
    for module in (single, multi, plain):
        module.train(training)
        module.backend = backend
    for _ in range(3):
        x = current(plain).mul_(2)
        inputs = [x.clone().requires_grad_() for _ in range(3)]
        outputs = [scan(single, inputs[0], "s"), scan(multi, inputs[1], "m"), plain(inputs[2])[0]]
        weight = torch.randn_like(outputs[0])
        for y in outputs:
            (y * weight).sum().backward()
        functional.reset_net(single)
        functional.reset_net(multi)
        for node, x_in, y in zip((single, multi), inputs, outputs):
            check(y, outputs[2])
            assert_alike(x_in.grad, inputs[2].grad)
            for ours, theirs in zip(node.parameters(), plain.parameters()):
                assert_alike(ours.grad, theirs.grad)
            assert_same_state_dict(node, plain, check)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_step_modes_agree_for_any_length_batch_and_bits(data):
    name = data.draw(st.sampled_from([n for n in ALL if n.startswith(("multibit", "input", "recurrent"))]))
    options = {
        "bits": data.draw(st.sampled_from([1, 2, 4, 8, 32])),
        "range_tracking": data.draw(st.sampled_from(["sequence", "step", "fixed"])),
        "initial_range": data.draw(st.floats(0.1, 4.0)),
        "backend": "torch",
    }
    single = build(name, **options)
    multi = copy.deepcopy(single)
    for _ in range(2):
        x = current(single, steps=data.draw(st.integers(1, 5)), batch=data.draw(st.integers(1, 3)))
        assert torch.equal(scan(single, x, "s"), scan(multi, x, "m"))
        functional.reset_net(single)
        functional.reset_net(multi)
        assert_same_state_dict(single, multi)


@every_neuron
@both_modes
def test_the_state_is_carried_from_call_to_call(name, mode):
    node, plain = twins(name)
    node.eval()
    x = current(node)
    whole, _ = plain.eval()(x)
    parts = [scan(node, part, mode) for part in x.split([1, 3, 2])]
    assert_alike(torch.cat(parts), whole)


@every_neuron
@both_modes
def test_a_reset_forgets_the_state_and_lets_the_batch_size_change(name, mode):
    node = build(name).eval()
    x = current(node)
    first = scan(node, x, mode)
    functional.reset_net(node)
    assert all(value == 0.0 for value in node.memories())
    assert torch.equal(scan(node, x, mode), first)
    functional.reset_net(node)
    assert_alike(scan(node, x[:, :1], mode), first[:, :1])


@every_neuron
@both_modes
def test_another_batch_size_without_a_reset_is_an_error_that_says_what_to_call(name, mode):
    node = build(name)
    scan(node, current(node), mode)
    with pytest.raises(ValueError, match=r"reset_net"):
        scan(node, current(node, batch=B + 1), mode)


@every_neuron
def test_an_empty_sequence_leaves_the_state_as_it_is(name):
    node = build(name, step_mode="m", store_v_seq=name != "third-party-delay")
    x = current(node)
    node(x)
    before = [value.clone() for value in node.memories()]
    assert node(x[:0]).shape == (0, B, N)
    assert all(torch.equal(a, b) for a, b in zip(node.memories(), before))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@every_neuron
def test_other_floating_point_types_run_in_both_modes_and_keep_a_wide_state(name, dtype):
    node, plain = twins(name)
    node.eval()
    x = current(node).to(dtype)
    expected, _ = plain.eval()(x)
    for mode in ("s", "m"):
        y = scan(node, x, mode)
        assert y.dtype == dtype
        assert {value.dtype for value in node.memories()} == {torch.promote_types(dtype, torch.float32)}
        functional.reset_net(node)
        assert_alike(y, expected)


@every_neuron
def test_a_network_moved_to_another_type_in_mid_sequence_goes_on(name):
    node = build(name).eval()
    x = current(node, steps=2)
    whole = scan(copy.deepcopy(node), x, "s")
    functional.reset_net(node)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.5)):
        first = node.float()(x[0])
        second = node.to(dtype)(x[1].to(dtype))
        assert second.dtype == dtype
        assert all(value.dtype == torch.promote_types(dtype, torch.float32) for value in node.memories())
        torch.testing.assert_close(torch.stack([first, second.float()]), whole, rtol=tolerance, atol=tolerance)
        functional.reset_net(node)


@both_modes
def test_a_number_put_in_a_memory_fills_it(mode):
    node = IntegratorNode()
    node.v = 0.25
    assert torch.equal(scan(node, torch.ones(2, B, N), mode)[-1], torch.full((B, N), 2.25))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_wrong_input_is_one_clear_error(mode):
    node = InputGatedLIFNode(step_mode=mode)
    good = torch.randn(B, 2 * N) if mode == "s" else torch.randn(T, B, 2 * N)
    with pytest.raises(ValueError, match="multiple of 2"):
        node(good[..., 1:])
    with pytest.raises(TypeError, match=r"InputGatedLIFNode takes floating-point input"):
        node(good.long())
    with pytest.raises(TypeError, match=r"takes a tensor"):
        node(good.tolist())
    with pytest.raises(ValueError, match=r"takes input of shape"):
        node(good[0] if mode == "s" else good[0, 0])
    with pytest.raises(TypeError, match="learn_leek"):
        LearnableLIFNode(learn_leek=False)


@pytest.mark.parametrize("name", ["integrator", "recurrent-gated-lif", "learnable-lif"])
@both_modes
def test_an_output_changed_in_place_does_not_reach_the_state(name, mode):
    node = build(name).eval()
    x = current(node).mul_(3)
    expected = scan(node, x, mode)
    functional.reset_net(node)
    net = nn.Sequential(node, nn.ReLU(inplace=True))
    with torch.no_grad():
        y = scan(net, x, mode)
    assert torch.equal(y, expected.relu())


# Networks like the library's examples


def linear_network(name: str) -> nn.Sequential:
    per = neurons.neuron_class(name).inputs_per_neuron
    return nn.Sequential(
        layer.Linear(5, 8 * per), build(name, channels=8), layer.Dropout(0.1), layer.Linear(8, 2), IntegratorNode()
    )


def convolutional_network(name: str) -> nn.Sequential:
    per = neurons.neuron_class(name).inputs_per_neuron
    return nn.Sequential(
        layer.Conv2d(1, 4 * per, 3, padding=1, bias=False),
        layer.BatchNorm2d(4 * per),
        build(name),
        layer.MaxPool2d(2, 2),
        layer.SeqToANNContainer(nn.Conv2d(4, 4 * per, 3, padding=1), nn.BatchNorm2d(4 * per)),
        build(name),
        layer.Flatten(),
        layer.Linear(16, 2),
    )


def losses(net: nn.Module, x: Tensor, target: Tensor, steps: int = 8) -> list[float]:
    """The library's training loop: mean over time as the logits, and a reset after every batch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x).mean(0), target)
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
        values.append(loss.item())
    return values


@every_neuron
def test_training_a_linear_network_lowers_the_loss(name):
    net = linear_network(name)
    functional.set_step_mode(net, "m")
    x, target = torch.randn(T, 8, 5), torch.arange(8) % 2
    values = losses(net, x, target)
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", [n for n in ALL if n != "recurrent-gated-lif"])
def test_training_a_convolutional_network_lowers_the_loss(name):
    net = convolutional_network(name)
    functional.set_step_mode(net, "m")
    x, target = torch.randn(4, 8, 1, 4, 4), torch.arange(8) % 2
    values = losses(net, x, target)
    assert values[-1] < values[0]


def test_every_learnable_part_receives_gradient_and_moves():
    learned = {
        "learnable-lif": {"leak", "threshold"},
        "multibit-lif": {"leak"},
        "multibit-synaptic-lif": {"tau"},
        "recurrent-gated-lif": {"recurrent_weight"},
        "third-party-adaptive": {"threshold"},
    }
    for name, parts in learned.items():
        for mode in ("s", "m"):
            node = build(name)
            if name == "multibit-synaptic-lif":
                nn.init.constant_(node.tau, 0.9)
            assert {n for n, _ in node.named_parameters()} == parts
            before = {n: p.detach().clone() for n, p in node.named_parameters()}
            optimizer = torch.optim.SGD(node.parameters(), lr=0.1)
            scan(node, current(node).mul_(2), mode).square().sum().backward()
            optimizer.step()
            for part, value in node.named_parameters():
                assert value.grad.abs().max() > 0, (name, mode, part)
                assert not torch.equal(value, before[part]), (name, mode, part)


@both_modes
def test_dropout_before_a_node_keeps_one_mask_until_the_reset(mode):
    net = nn.Sequential(layer.Dropout(0.5), IntegratorNode())
    masks = []
    for _ in range(2):
        y = scan(net, torch.ones(T, B, 64), mode)
        mask = y[0]
        assert 0 < (mask == 0).sum() < mask.numel()
        assert torch.equal(y, mask * torch.arange(1, T + 1).view(T, 1, 1))
        functional.reset_net(net)
        masks.append(mask)
    assert not torch.equal(*masks)


@every_neuron
def test_a_node_in_single_steps_runs_inside_the_librarys_containers(name):
    node, plain = twins(name)
    x = current(node)
    expected, _ = plain(x)
    assert_alike(layer.MultiStepContainer(node)(x), expected)
    functional.reset_net(node)
    takes_step_mode = "step_mode" in inspect.signature(layer.StepModeContainer).parameters
    container = layer.StepModeContainer(True, *(["s", node] if takes_step_mode else [node]))
    functional.set_step_mode(container, "m")
    assert node.step_mode == "s"
    node.eval()
    assert_alike(container(x), plain.eval()(x)[0])


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_node_runs_inside_the_librarys_recurrent_containers(mode):
    x = torch.randn(T, B, N)
    linear = layer.LinearRecurrentContainer(MultiBitLIFNode(), in_features=N, out_features=N)
    element_wise = layer.ElementWiseRecurrentContainer(MultiBitLIFNode(), element_wise_function=lambda a, b: a + b)
    for container in (linear, element_wise):
        first = scan(container, x, mode)
        assert container.sub_module.step_mode == "s"
        first.sum().backward()
        functional.reset_net(container.eval())
        again = scan(container, x, mode)
        functional.reset_net(container)
        assert torch.equal(scan(container, x, mode), again)


@every_neuron
def test_truncated_backpropagation_cuts_the_graph_at_detach_net(name):
    node, plain = twins(name)
    net = nn.Sequential(node)
    functional.set_step_mode(net, "m")
    x = current(node).mul_(2)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    state = None
    for start in range(0, T, 2):
        net(ours[start : start + 2]).square().sum().backward()
        functional.detach_net(net)
        y, state = plain(theirs[start : start + 2], state)
        y.square().sum().backward()
        state = type(state)(*[part.detach() for part in state])
    torch.testing.assert_close(ours.grad, theirs.grad)
    for mine, reference in zip(node.parameters(), plain.parameters()):
        torch.testing.assert_close(mine.grad, reference.grad)


@pytest.mark.parametrize("name", ["integrator", "recurrent-gated-lif"])
def test_an_output_given_out_before_detach_net_keeps_its_gradient(name):
    node = build(name)
    x = current(node).requires_grad_()
    outputs = []
    for step in x.unbind(0):
        outputs.append(node(step))
        functional.detach_net(node)
    torch.stack(outputs).sum().backward()
    assert (x.grad.abs().sum(dim=(1, 2)) > 0).all()


@every_neuron
def test_a_network_compiles_without_a_graph_break(name):
    torch._dynamo.reset()
    net = nn.Sequential(layer.Linear(5, N * neurons.neuron_class(name).inputs_per_neuron), build(name))
    compiled = torch.compile(copy.deepcopy(net), backend="eager", fullgraph=True)
    for _ in range(2):
        x = torch.randn(T, B, 5)
        assert torch.equal(scan(compiled, x, "m"), scan(net, x, "m"))
        functional.reset_net(net)
        functional.reset_net(compiled)


# What runs the scan


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_scan_runs_in_the_kernel_of_its_device_and_a_step_in_torch(name):
    node = build(name)
    x = current(node)
    scan(node, x, "s")
    assert node.last_backend == "torch"
    functional.reset_net(node)
    scan(node, x, "m")
    assert node.last_backend == ("cpu" if node.reference_only() is None else "torch")
    assert build(name, backend="cpu").backend == "cpu"


@every_neuron
def test_backend_torch_gives_what_the_kernel_gives(name):
    node = build(name, step_mode="m")
    reference = copy.deepcopy(node)
    reference.backend = "torch"
    x = current(node)
    torch.testing.assert_close(node(x), reference(x))
    assert reference.last_backend == "torch"


def test_a_backend_that_does_not_exist_or_cannot_run_is_an_error():
    with pytest.raises(ValueError, match="backend must be one of auto, torch, cpu, cupy"):
        LearnableLIFNode(backend="lava")
    node = build("third-party-adaptive", step_mode="m", backend="cpu")
    with pytest.raises(ValueError, match="no fused kernel"):
        node(current(node))


def test_v_seq_in_place_of_a_kernel_that_was_asked_for_is_said():
    node = LearnableLIFNode(step_mode="m", store_v_seq=True, backend="cpu")
    with pytest.warns(UserWarning, match='runs in torch, not with backend "cpu"'):
        node(current(node))
    assert node.last_backend == "torch"


set_backend = pytest.mark.skipif(not old, reason="SpikingJelly 2.0.0 has no functional.set_backend")


@set_backend
def test_set_backend_selects_our_kernels_beside_the_librarys_own_nodes(caplog):
    net = nn.Sequential(LearnableLIFNode(), neuron.LIFNode(), build("third-party-adaptive"))
    functional.set_step_mode(net, "m")
    functional.set_backend(net, "cpu", instance=Node)
    assert [node.backend for node in net] == ["cpu", "torch", "auto"]
    assert "does not supports for backend=cpu" in caplog.text
    net(torch.randn(T, B, N))
    assert [node.last_backend for node in (net[0], net[2])] == ["cpu", "torch"]
    functional.set_backend(net, "torch")
    assert [node.backend for node in net] == ["torch", "torch", "torch"]


@set_backend
def test_set_backend_keeps_a_node_in_single_steps_as_it_is_and_says_so(caplog):
    node = LearnableLIFNode()
    functional.set_backend(node, "cupy")
    assert node.backend == "auto"
    assert "does not supports for backend=cupy" in caplog.text


@set_backend
@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_set_backend_cupy_without_cupy_is_an_error_with_the_line_that_installs_it():
    with pytest.raises(ImportError, match=r'pip install "snn-zoo\[cupy\]"'):
        functional.set_backend(LearnableLIFNode(step_mode="m"), "cupy")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", BUILT_IN)
def test_cupy_kernels_run_on_a_gpu_and_give_what_torch_gives(name):
    pytest.importorskip("cupy")
    node = build(name, step_mode="m").cuda()
    reference = copy.deepcopy(node)
    reference.backend = "torch"
    if old:
        functional.set_backend(node, "cupy")
        assert node.backend == "cupy"
    x = current(node).cuda()
    torch.testing.assert_close(node(x), reference(x))
    assert node.last_backend == "cupy"


# Monitors and the sequence of membranes


@with_membrane
def test_monitors_record_outputs_inputs_and_attributes(name):
    net = nn.Sequential(layer.Linear(5, N * neurons.neuron_class(name).inputs_per_neuron), build(name))
    node = net[1]
    node.store_v_seq = True
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        outputs = monitor.OutputMonitor(net, Node)
        inputs = monitor.InputMonitor(net, type(node))
        membranes = monitor.AttributeMonitor("v", False, net, Node)
        sequences = monitor.AttributeMonitor("v_seq", False, net, Node)
        x = torch.randn(T, B, 5)
        y = net(x)
        assert outputs.monitored_layers == ["1"]
        assert torch.equal(outputs["1"][0], y)
        assert torch.equal(inputs[0], net[0](x))
        assert torch.equal(membranes[0], node.v)
        assert torch.equal(sequences[0][-1], membranes[0])
        outputs.clear_recorded_data()
        functional.reset_net(net)
        functional.set_step_mode(net, "s")
        for step in x:
            net(step)
        assert len(outputs.records) == T
        assert torch.equal(torch.stack(membranes.records[1:]), node.v_seq)


@pytest.mark.skipif(old, reason=f"in {OLD_RELEASE} an AttributeMonitor before the forward fails for every module")
def test_a_monitor_before_the_forward_records_the_state_that_a_step_starts_from():
    node = IntegratorNode()
    membranes = monitor.AttributeMonitor("v", True, node)
    for _ in range(3):
        node(torch.ones(1, 1))
    assert [float(v) for v in membranes.records] == [0.0, 1.0, 2.0]


@every_neuron
def test_monitors_record_gradients(name):
    node = build(name, step_mode="m")
    net = nn.Sequential(layer.Linear(5, N * node.inputs_per_neuron, step_mode="m"), node)
    grad_outputs = monitor.GradOutputMonitor(net, Node)
    grad_inputs = monitor.GradInputMonitor(net, Node)
    x = torch.randn(T, B, 5).mul_(2)
    y = net(x)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    assert torch.equal(grad_outputs["1"][0], weight)
    assert grad_inputs["1"][0].shape == (T, B, N * node.inputs_per_neuron)
    assert grad_inputs["1"][0].abs().sum() > 0


@with_membrane
@pytest.mark.parametrize("training", [True, False])
def test_v_seq_is_the_membrane_after_every_step_and_changes_nothing_else(name, training):
    plain = build(name, step_mode="m").train(training)
    single, multi = copy.deepcopy(plain), copy.deepcopy(plain)
    multi.store_v_seq = single.store_v_seq = True
    for _ in range(2):
        x = current(plain).mul_(2)
        expected = plain(x)
        assert_alike(multi(x), expected)
        membranes = []
        for step, y in zip(x, expected):
            single.step_mode = "s"
            assert_alike(single(step), y)
            membranes.append(single.v)
        assert torch.equal(multi.v_seq, torch.stack(membranes))
        assert torch.equal(single.v_seq, multi.v_seq)
        for node in (plain, single, multi):
            functional.reset_net(node)
        assert single.v_seq is None and multi.v_seq is None
        assert_same_state_dict(multi, plain, assert_alike)
        assert_same_state_dict(single, multi)


def test_a_sequence_in_chunks_updates_the_range_alike_with_v_seq_and_without():
    plain = MultiBitLIFNode(step_mode="m")
    storing = copy.deepcopy(plain)
    storing.store_v_seq = True
    for part in current(plain).mul_(2).split(2):
        assert_alike(storing(part), plain(part))
        assert_same_state_dict(storing, plain, assert_alike)


@pytest.mark.parametrize("store_v_seq", [True, False])
def test_single_steps_and_then_a_scan_are_two_updates_of_the_range(store_v_seq):
    node = MultiBitLIFNode(store_v_seq=store_v_seq)
    x = current(node)
    scan(node, x[:2], "s")
    scan(node, x[2:], "m")
    functional.reset_net(node)
    assert node.spike_range.updates == 2


def test_v_seq_of_three_steps_computed_by_hand():
    node = LearnableLIFNode(leak=0.5, threshold=1.0, step_mode="m", store_v_seq=True)
    spikes = node(torch.tensor([1.5, 0.25, 1.0]).view(3, 1, 1))
    # 1.5 fires and leaves 0.5; 0.25 + 0.25 stays under; 0.25 + 1 fires and leaves 0.25.
    assert spikes.flatten().tolist() == [1.0, 0.0, 1.0]
    assert node.v_seq.flatten().tolist() == [0.5, 0.5, 0.25]


@both_modes
def test_v_seq_carries_gradient_until_it_is_detached(mode):
    node = MultiBitSynapticLIFNode(N, tau=0.5, store_v_seq=True)
    x = current(node).requires_grad_()
    scan(node, x, mode)
    node.v_seq.square().sum().backward()
    assert node.tau.grad.abs().min() > 0
    functional.detach_net(node)
    assert not node.v_seq.requires_grad


def test_v_seq_of_a_neuron_without_a_membrane_is_an_error():
    with pytest.raises(ValueError, match="no membrane"):
        build("third-party-delay", store_v_seq=True)


# Copies and files


@every_neuron
@both_modes
def test_state_dict_has_the_plain_neurons_names_and_no_memory(name, mode):
    node = build(name)
    scan(node, current(node), mode)
    assert list(node.state_dict()) == list(build(name, "torch").state_dict())


@every_neuron
def test_a_trained_network_comes_back_from_its_file_bit_for_bit(name):
    net = linear_network(name)
    functional.set_step_mode(net, "m")
    x = torch.randn(T, 8, 5)
    losses(net, x, torch.arange(8) % 2, steps=2)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    again = linear_network(name)
    functional.set_step_mode(again, "m")
    again.load_state_dict(torch.load(file, weights_only=True))
    assert_same_state_dict(again, net)
    assert torch.equal(again.eval()(x), net.eval()(x))


@every_neuron
@both_modes
def test_deepcopy_after_a_forward_and_a_reset_is_equal_and_independent(name, mode):
    node = build(name)
    x = current(node)
    scan(node, x, mode).sum()
    functional.reset_net(node)
    node.eval()
    twin = copy.deepcopy(node)
    assert type(twin) is type(node)
    expected = scan(node, x, mode)
    assert all(value == 0.0 for value in twin.memories())
    assert torch.equal(scan(twin, x, mode), expected)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in node.parameters()}


@every_neuron
def test_a_pickled_network_goes_on_where_it_was(name):
    net = nn.Sequential(build(name, step_mode="m")).eval()
    x = current(net[0])
    net(x)
    twin = pickle.loads(pickle.dumps(net))
    assert type(twin[0]) is type(net[0])
    assert torch.equal(twin(x), net(x))


def test_a_third_partys_node_is_unpickled_in_a_fresh_process(tmp_path, monkeypatch):
    (tmp_path / "third_party.py").write_text(
        "import neurons\n"
        "@neurons.register('third-party-file')\n"
        "class Sum(neurons.Neuron):\n"
        "    State = neurons.MembraneState\n"
        "    def step_parameters(self): return ()\n"
        "    @staticmethod\n"
        "    def step(x, state, parameters): return state[0] + x, neurons.MembraneState(state[0] + x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("third_party")
    try:
        node = neurons.create("third-party-file", library="spikingjelly")
        node(torch.full((1, 1), 0.5))
        (tmp_path / "node.pickle").write_bytes(pickle.dumps(node))
    finally:
        del registry._registered["third-party-file"]
    read = "import pickle, sys, torch; print(pickle.load(open(sys.argv[1], 'rb'))(torch.ones(1, 1)).item())"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", read, tmp_path / "node.pickle"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1.5", done.stderr


class TunedNode(LearnableLIFNode):
    """A user's subclass of a node."""


def test_a_users_subclass_of_a_node_is_copied_and_pickled_as_itself():
    node = TunedNode(leak=0.5, step_mode="m")
    for twin in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert type(twin) is TunedNode
        assert torch.equal(twin.leak, node.leak)


# Explicit states and memory optimisation (2.0.0)


@every_neuron
@both_modes
def test_the_functional_forwards_take_and_give_states_and_touch_no_memory(name, mode):
    node, plain = twins(name)
    x = current(node)
    x, forward, run = (
        (x[0], node.single_step_functional_forward, plain.single_step)
        if mode == "s"
        else (x, node.multi_step_functional_forward, plain)
    )
    states = node.materialize_states((x,), tuple(node.memories()), mode)
    (y,), states = forward((x,), states)
    expected, state = run(x)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(states, state))
    assert all(value == 0.0 for value in node.memories())


@explicit_states
@every_neuron
@both_modes
def test_to_functional_forward_makes_a_network_a_function_of_its_states(name, mode):
    net = linear_network(name)[:2].eval()
    functional.set_step_mode(net, mode)
    x = torch.randn(T, B, 5) if mode == "m" else torch.randn(B, 5)
    forward = base.to_functional_forward(net)
    states = tuple(base.extract_memories(net))
    (first,), states = forward((x,), states)
    (second,), _ = forward((x,), states)
    assert all(value == 0.0 for value in base.memories(net))
    assert torch.equal(net(x), first)
    assert torch.equal(net(x), second)


@explicit_states
@every_neuron
def test_a_checkpointed_node_gives_the_same_outputs_gradients_and_ranges(name):
    from spikingjelly.activation_based import memopt

    net = linear_network(name)
    net[2] = nn.Identity()
    functional.set_step_mode(net, "m")
    saving = copy.deepcopy(net)
    x = torch.randn(T, B, 5)
    saving = memopt.optimize_memory(saving, Node, lambda model: model(x), level=1)
    assert sum(hasattr(module, "_checkpoint_wrapped_module") for module in saving.modules()) == 2
    for _ in range(2):
        outputs = [net(x), saving(x)]
        assert torch.equal(*outputs)
        for module, y in zip((net, saving), outputs):
            module.zero_grad()
            y.square().sum().backward()
            functional.reset_net(module)
        for ours, theirs in zip(saving.parameters(), net.parameters()):
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad)
        for ours, theirs in zip(saving.buffers(), net.buffers()):
            assert torch.equal(ours, theirs)


@explicit_states
@every_neuron
def test_a_node_checkpointed_in_chunks_of_time_gives_the_same_outputs(name):
    from spikingjelly.activation_based import memopt

    node = build(name, step_mode="m").eval()
    x = current(node)
    expected = node(x)
    functional.reset_net(node)
    assert_alike(memopt.checkpoint_module(node, chunks=3)(x), expected)


@explicit_states
@every_neuron
def test_the_library_s_counters_see_the_operations_of_a_scan_and_say_what_they_leave_out(name):
    from spikingjelly.activation_based.op_counter import ACCounter
    from spikingjelly.activation_based.op_counter.base import DispatchCounterMode

    counted = []
    for mode in ("m", "s"):
        node, counter = build(name, step_mode=mode).eval(), ACCounter()
        x = current(node)
        with torch.no_grad(), DispatchCounterMode([counter]) as watching:
            scan(node, x, mode)
        counted.append(counter.get_total())
        assert not any("snn_zoo" in operator for operator in watching.get_unsupported(counter))
        assert node.last_backend == "torch"
    assert counted[0] == counted[1]


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("cls", NAMED)
def test_a_loss_of_the_membranes_trains_the_layer_before(cls, step_mode):
    size = {"channels": N} if cls in (MultiBitSynapticLIFNode, RecurrentGatedLIFNode) else {}
    node = cls(**size, step_mode=step_mode, store_v_seq=True)
    fc = nn.Linear(5, N * node.inputs_per_neuron)
    current = fc(torch.rand(T, B, 5))
    outputs = [node(x) for x in (current if step_mode == "s" else [current])]
    assert len(outputs) and node.v_seq.shape == (T, B, N)
    (node.v_seq * torch.randn(T, B, N)).sum().backward()
    assert fc.weight.grad.norm() > 1e-3


# What cannot be


@pytest.mark.parametrize("cls", NAMED)
def test_whatever_a_node_of_the_library_holds_is_done_or_refused_when_it_is_set(cls):
    size = {"channels": 3} if cls in (MultiBitSynapticLIFNode, RecurrentGatedLIFNode) else {}
    node = cls(**size)
    for own in (neuron.IFNode(), neuron.LIFNode(), neuron.ParametricLIFNode()):
        held = {*vars(own), *own._parameters, *own._buffers, *own._modules, "init_tau"}
        for attribute in sorted(held - {"training", "v_seq", "backend"} - {*node._parameters}):
            if attribute.startswith("_") or (attribute == "decay_input" and hasattr(node, attribute)):
                continue
            with pytest.raises(AttributeError, match=f"{cls.__name__} has no {attribute}, which only SpikingJelly's"):
                setattr(node, attribute, getattr(own, attribute, 2.0))
            with pytest.raises(AttributeError, match=f"{cls.__name__} has no {attribute}"):
                getattr(node, attribute)
            taken = attribute in SAME and SAME[attribute].option in own_options(cls)
            only = attribute in cls.does_anyway()
            says = f"takes {attribute} only as" if only else f"has no {attribute}.*It takes .*step_mode"
            if not taken:
                with pytest.raises(TypeError, match=f"{cls.__name__} {says}"):
                    cls(**size, **{attribute: 2.0})


def test_what_is_refused_says_what_there_is_instead_and_copies_refuse_it_too():
    node = MultiBitLIFNode()
    for one in (node, copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        with pytest.raises(AttributeError, match=r"has no tau.*by tau: 1 - 1/tau"):
            one.tau = 2.0
        with pytest.raises(ValueError, match="store_v_seq must be True or False; got 1"):
            one.store_v_seq = 1
    assert MultiBitSynapticLIFNode(3, tau=0.5).tau.tolist() == [0.5] * 3


def test_symbolic_tracing_is_refused_rather_than_wrong():
    with pytest.raises(TypeError, match="NIR"):
        torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), LearnableLIFNode()))


@explicit_states
def test_export_to_nir_is_refused_rather_than_written_as_another_neuron():
    pytest.importorskip("nirtorch", reason="nir and nirtorch are not installed")
    from spikingjelly.activation_based import nir_exchange

    for node in (LearnableLIFNode(), IntegratorNode(), MultiBitLIFNode()):
        with pytest.raises(TypeError, match="NIR"):
            nir_exchange.export_to_nir(nn.Sequential(layer.Linear(2, 2), node), torch.randn(1, 2))


def test_a_missing_library_is_an_error_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "neurons.spikingjelly")
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based.base", None)
    with pytest.raises(ImportError, match="pip install spikingjelly"):
        neurons.create("learnable-lif", library="spikingjelly")


def test_only_the_plug_in_imports_the_library_and_it_leaves_torchvision_alone():
    check = (
        "import sys, neurons\n"
        "assert not [m for m in sys.modules if m.startswith('spikingjelly')]\n"
        "import neurons.spikingjelly\n"
        "assert 'spikingjelly.activation_based.base' in sys.modules and 'torchvision' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", check], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The published numbers


def run_node(node: nn.Module, x: Tensor, mode: str) -> Tensor:
    functional.reset_net(node)
    return scan(node, x, mode)


@both_modes
@pytest.mark.parametrize("bits", [6, 3])
@pytest.mark.parametrize("kind", PR22)
def test_the_published_network_is_reproduced_by_nodes(reference_folder, kind, bits, mode):
    numbers = np.load(reference_folder / f"{kind}_{bits}bit.npz")

    def create(name, **options):
        return neurons.create(name, library="spikingjelly", **options)

    network = PublishedNetwork(kind, bits, int(numbers["threshold"]), create)
    check_published_network(network, numbers, lambda node, x: run_node(node, x, mode))


@both_modes
def test_the_published_learnable_lif_is_reproduced_by_its_node(reference_folder, mode):
    def run(node, x):
        return run_node(node, x, mode), SimpleNamespace(membrane=node.v)

    def create(name, **options):
        return neurons.create(name, library="spikingjelly", **options)

    check_published_learnable_lif(np.load(reference_folder / "rr24_lif.npz"), create, run)


# The other release


@pytest.fixture(scope="session")
def old_release(pytestconfig) -> Path:
    """A folder with only SpikingJelly 0.0.0.0.14, installed once and kept in pytest's cache."""
    folder = pytestconfig.cache.mkdir("spikingjelly") / OLD_RELEASE
    if not folder.is_dir():
        fresh = folder.with_name(f"{OLD_RELEASE}-{os.getpid()}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--target",
            fresh,
            f"spikingjelly=={OLD_RELEASE}",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if re.search(r"Retrying|Could not fetch URL|name resolution|Network is unreachable", done.stderr):
            pytest.skip(f"pip cannot reach an index to install spikingjelly {OLD_RELEASE} from")
        assert done.returncode == 0, done.stderr
        fresh.rename(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(old, reason="this run has the old release already")
def test_everything_above_holds_under_the_old_release_too(old_release, request):
    root = request.config.rootpath
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(old_release), os.environ.get("PYTHONPATH", "")]),
        "SPIKINGJELLY_RELEASE": OLD_RELEASE,
    }
    files = __file__, str(Path(__file__).with_name("test_library_names.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d{2,} passed", done.stdout), done.stdout

"""Tensors that neurons return belong to the caller, and a copy of a neuron answers like the original, independently."""

import copy
import inspect
import pickle

import pytest
import torch
from registered import EVERY, build, currents
from torch import nn

import neurons
from neurons import monitors

every_neuron = pytest.mark.parametrize("name", EVERY)
LIBRARIES = ("torch", "snntorch", "spikingjelly")
every_library = pytest.mark.parametrize("library", LIBRARIES)
N, B = 3, 2


def made(name: str, library: str, **options) -> nn.Module:
    wanted = inspect.signature(neurons.neuron_class(name)).parameters
    size = {"channels": N} if "channels" in wanted else {}
    pytest.importorskip(f"neurons.{library}" if library != "torch" else "torch")
    return neurons.create(name, library=library, **size, **options)


def tensors(result) -> list[torch.Tensor]:
    """All tensors in nested tuples."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result or () for tensor in tensors(part)]


def ruin(*handed_out) -> None:
    """Change all returned tensors in place."""
    for tensor in tensors(handed_out):
        tensor.mul_(-3).add_(7)


def calls(module: nn.Module, library: str, scan: bool):
    """A function of an input and a state that returns the output and, if the neuron returns it, the next state."""
    if library == "spikingjelly":
        module.step_mode = "m" if scan else "s"
        return lambda x, state: (module(x), ())
    if library == "torch":
        return lambda x, state: module(x, state) if scan else module.single_step(x, state)

    def of_snntorch(x, state):
        y, *after = (module.multi_step if scan else module)(x)
        return y, tuple(after)

    return of_snntorch


@every_neuron
@every_library
@pytest.mark.parametrize("scan", [False, True], ids=["steps", "scans"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backend", ["torch", "auto"])
@torch.no_grad()
def test_whatever_is_done_to_what_was_handed_out_the_sequence_goes_on_alike(name, library, scan, training, backend):
    module = made(name, library)
    module.backend = backend
    module.train(training)
    other = copy.deepcopy(module)
    sequence = currents(build(name, N), 6, B, N, seed=0)
    inputs = sequence.split(2) if scan else sequence.unbind(0)
    state, expected, found = None, [], []
    for x in inputs:
        y, state = calls(other, library, scan)(x.clone(), state)
        expected.append(y.clone())
    state = None
    for x in inputs:
        given = x.clone()
        y, after = calls(module, library, scan)(given, state)
        found.append(y.clone())
        ruin(y, given)
        if library == "torch":
            kept = copy.deepcopy(after)
            ruin(state)
            assert all(map(torch.equal, after, kept)), "a new state shares memory with the one that it came from"
            state = after
        else:
            ruin(after)
    assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, module.state_dict().values(), other.state_dict().values()))


@every_neuron
@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("steps", [0, 1, 2])
@torch.no_grad()
def test_outputs_and_states_of_a_scan_are_all_apart(name, backend, steps):
    neuron = build(name, N, backend)
    x = currents(neuron, steps, B, N, seed=0)
    state = neuron.initial_state(x)
    y, after = neuron(x, state)
    places = [tensor.untyped_storage().data_ptr() for tensor in (x, y, *state, *after) if tensor.numel()]
    assert len(set(places)) == len(places)


@every_neuron
@torch.no_grad()
def test_a_value_of_a_range_and_constants_are_the_callers(name):
    neuron = build(name, N, "auto").eval()
    x = currents(neuron, 3, B, N, seed=0)
    expected, _ = neuron(x)
    own = {parameter.data_ptr() for parameter in neuron.parameters()}
    if hasattr(neuron, "spike_range"):
        ruin(neuron.spike_range.value(), neuron.spike().spike_range)
    with neurons.unchanging(neuron):
        neuron(x)
        leaves = [
            leaf for value in neuron.step_parameters() for leaf in (value if isinstance(value, tuple) else (value,))
        ]
        ruin([leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.data_ptr() not in own])
        assert torch.equal(neuron(x)[0], expected)
    assert torch.equal(neuron(x)[0], expected)


@every_neuron
@torch.no_grad()
def test_traces_are_the_callers(name):
    neuron = build(name, N).eval()
    x_seq, state = currents(neuron, 4, B, N, seed=0), None
    expected, found = neuron(x_seq)[0], []
    for x in x_seq:
        with monitors.record(neuron) as traces:
            y, state = neuron.single_step(x, state)
        found.append(y.clone())
        ruin(*[list(layer.values()) for layer in traces.layers.values()])
    torch.testing.assert_close(torch.stack(found), expected)


@pytest.mark.parametrize("mode", ["s", "m"])
@torch.no_grad()
def test_the_membranes_that_a_node_stores_are_not_its_memory(mode):
    node = made("multibit-lif", "spikingjelly", store_v_seq=True, step_mode=mode)
    node(torch.randn(1, B, N) if mode == "m" else torch.randn(B, N))
    before = node.v.clone()
    node.v_seq.zero_()
    assert torch.equal(node.v, before) and before.any()


# Copies


MOMENTS = ("fresh", "in a sequence", "in a sequence with a graph", "after training", "in evaluation")


@every_neuron
@every_library
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("scan", [False, True], ids=["steps", "scans"])
def test_a_copy_made_at_any_moment_goes_on_as_the_original_and_apart_from_it(name, library, how, moment, scan):
    module = made(name, library)
    x = currents(build(name, N), 3, B, N, seed=0)
    x = x if scan else x[0]
    call, state = calls(module, library, scan), None
    with torch.set_grad_enabled(moment == "in a sequence with a graph"):
        if moment != "fresh":
            _, state = call(x.clone().requires_grad_(torch.is_grad_enabled()), state)
            _, state = call(2 * x, state)
        if moment == "after training":
            module.eval().train()
        elif moment == "in evaluation":
            module.eval()
    twin = copy.deepcopy(module) if how == "deepcopy" else pickle.loads(pickle.dumps(module))
    assert type(twin) is type(module) and twin.training == module.training
    state = None if state is None else type(state)(*[part.detach() for part in state]) if library == "torch" else ()
    results = []
    with torch.no_grad():
        for one in (module, twin):  # one after the other, so that anything they share becomes visible
            own = copy.deepcopy(state)
            for _ in range(2):
                y, own = calls(one, library, scan)(3 * x, own)
            results.append([y, *tensors(own), *one.state_dict().values()])
    assert all(map(torch.equal, *results))

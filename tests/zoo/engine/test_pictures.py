"""Pictures in the engine: convolutions of counts and of spikes, and the gesture network, state for state."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import neurons
from zoo.engine.integers import round_to_integers
from zoo.engine.program import NotInIntegers, Program, Spikes, State, part
from zoo.networks.gesture import GestureConfig, GestureNetwork

LABELS = ["up", "down", "still"]
SMALL = {"height": 18, "width": 14, "pool": 2, "bin_size": 1000, "channels": 4, "blocks": 3, "head": 4}
SPIKING = {"gated": {}, "binary": {"mixer": "lif"}, "one bit": {"bits": 1, "threshold_levels": 0}, "eight": {"bits": 8}}


def network(**options) -> GestureNetwork:
    """With random weights; those that take spikes are rounded to the integers that the engine computes with."""
    torch.manual_seed(0)
    model = GestureNetwork(GestureConfig(LABELS, **SMALL | {"initial_range": 1.0} | options))
    model(torch.randint(0, 4, (8, 4, 2, 9, 7)))  # gives batch norm some statistics
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and not name.startswith("blocks.0"):
                round_to_integers(weight)
    return model.eval()


def frames(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.integers(0, 9, (count, 2, 9, 7)) * (random.random((count, 2, 9, 7)) < 0.3)).astype(np.uint8)


def flat(state) -> list[Tensor]:
    """The parts of a network's state, pictures with the channels last, each ``[B, ...]``."""
    if isinstance(state, Tensor):
        return [state.permute(0, *range(2, state.dim()), 1).flatten(1) if state.dim() > 2 else state]
    return [part for inner in state for part in flat(inner)]


def picture(x: Tensor) -> np.ndarray:
    """``[B, C, H, W]`` as one step of a program."""
    return x.permute(0, 2, 3, 1).flatten(1).unsqueeze(0).contiguous().numpy()


@given(
    sides=st.tuples(st.integers(1, 7), st.integers(1, 7)), channels=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    stride=st.sampled_from([1, 2, 3]), bits=st.sampled_from([1, 4, 8]), rate=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_convolution_of_spikes_is_exact(sides, channels, stride, bits, rate, seed):
    torch.manual_seed(seed)
    layer = nn.Conv2d(*channels, 3, stride, padding=1, bias=False).eval()
    levels = torch.randint(-127, 128, layer.weight.shape)
    levels[:, 0, 0, 0] = 127
    layer.weight.data = levels / 128
    largest = 1 if bits == 1 else 2 ** (bits - 1) - 1
    spikes = torch.randint(-largest, largest + 1, (2, channels[0], *sides)) * (torch.rand(2, 1, *sides) < rate)
    program = Program(layer)
    source = Spikes(program.buffer("levels", spikes[0].numel()), program.constant(np.ones(1)), largest)
    out = program.convolution(source, layer, torch.ones(channels[1]), torch.zeros(channels[1]), *sides)
    program.finish()
    memory = program._memory.of("levels", 2 * program.widths["levels"], np.int8)
    memory[: spikes.numel()] = picture(spikes.to(torch.int8)).ravel()
    result = program.run(np.zeros((1, 2), np.int64), np.ones(2, np.int64))
    sums = F.conv2d(spikes.double(), levels.double(), stride=stride, padding=1)
    np.testing.assert_array_equal(part(out, result, 1, 2), picture(sums.float() / 128))


@given(stride=st.sampled_from([1, 2]), sides=st.tuples(st.integers(1, 6), st.integers(1, 6)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_convolution_of_numbers_is_that_of_torch(stride, sides, seed):
    torch.manual_seed(seed)
    layer = nn.Conv2d(2, 5, 3, stride, padding=1, bias=False).eval()
    x, scale, bias = torch.randn(3, 2, *sides) * (torch.rand(3, 2, *sides) < 0.4), torch.rand(5), torch.randn(5)
    program = Program(layer)
    out = program.convolution(program.given(x[0].numel()), layer, scale, bias, *sides)
    result = program.finish().run(picture(x), np.ones(3, np.int64))
    expected = layer(x) * scale.view(-1, 1, 1) + bias.view(-1, 1, 1)
    np.testing.assert_allclose(part(out, result, 1, 3), picture(expected.detach()), rtol=1e-5, atol=1e-5)


def test_an_integrator_adds_as_its_module_does():
    neuron, x = neurons.Integrator(), torch.randn(5, 2, 3)
    program = Program(neuron)
    out = program.integrator(neuron, program.given(3))
    program.finish()
    first = program.run(x[:2].numpy(), np.full(2, 2))
    second = program.run(x[2:].numpy(), np.full(2, 3), first.state)
    expected, state = neuron(x)
    np.testing.assert_array_equal(part(out, second, 3, 2), expected[2:])
    np.testing.assert_array_equal(second.state.numbers, state.membrane)


@pytest.mark.parametrize("options", SPIKING.values(), ids=SPIKING)
@torch.inference_mode()
def test_every_step_leaves_the_state_and_the_readout_of_the_modules(options):
    model = network(**options)
    step, state, before = model.step(), None, None
    for frame in frames(12):
        membrane, state = step(frame, state)
        expected, before = model.scan(torch.from_numpy(frame)[None, None], before)
        torch.testing.assert_close(membrane, expected[0, 0], rtol=1e-4, atol=1e-4)
        whole = torch.cat(flat(before), dim=1)
        torch.testing.assert_close(torch.from_numpy(state.numbers), whole, rtol=1e-3, atol=1e-4)
    assert model.last_precision == "int8"


def events(count: int = 400, last: int = 9500) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    t = np.sort(random.integers(0, last + 1, count))
    t[0], t[-1] = 0, last
    x, y, p = random.integers(0, [[14], [18], [2]], (3, count))
    return {"t": t, "x": x, "y": y, "p": p}


def test_a_step_leaves_the_state_that_it_was_given():
    model = network()
    step = model.step()
    first = step(frames(1)[0], None)[1]
    copied = State(*(part.copy() for part in first))
    once, twice = (step(frames(1, seed=1)[0], first) for _ in range(2))
    assert torch.equal(once[0], twice[0])
    np.testing.assert_array_equal(first.numbers, copied.numbers)


@pytest.mark.parametrize("mixer", ["relu", "convgru"])
def test_a_twin_without_spikes_runs_in_floats_and_says_why_it_must(mixer):
    model = network(mixer=mixer)
    model.predict(events())
    assert model.last_precision == "float32"
    model.precision = "int8"
    with pytest.raises(NotInIntegers, match="it has no spikes"):
        model.predict(events())


def test_a_model_that_a_hook_watches_runs_as_modules():
    model, seen = network(), []
    handle = model.head.register_forward_hook(lambda *_: seen.append(1))
    model.predict(events())
    assert model.last_precision == "float32" and len(seen) == 9
    handle.remove()
    model.predict(events())
    assert model.last_precision == "int8" and len(seen) == 9


def test_nothing_of_a_slice_is_taken_if_an_interrupt_ends_it(monkeypatch):
    model, whole, run, left = network(), events(), Program.run, 2
    stream = model.stream()
    stream.push({field: column[:200] for field, column in whole.items()})
    before = stream.answer()

    def interrupted(*given):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return run(*given)

    rest = {field: column[200:] for field, column in whole.items()}
    with monkeypatch.context() as patch:
        patch.setattr(Program, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stream.push(rest)
    assert stream.answer() == before
    stream.push(rest)
    assert stream.answer() == model.predict(whole)


def slices(model, change) -> object:
    """The answer of a stream in the middle of which the model changes."""
    stream, whole = model.stream(), events()
    for first, last in ((0, 200), (200, 400)):
        stream.push({field: column[first:last] for field, column in whole.items()})
        if not first:
            change(model)
    return stream.answer()


@pytest.mark.parametrize("start", ["int8", "float32"])
def test_another_precision_in_the_middle_of_a_stream_is_refused(start):
    model = network()
    model.precision = start
    other = {"int8": "float32", "float32": "int8"}[start]
    with pytest.raises(
        ValueError, match="the model now computes in another precision than at the start of this stream"
    ):
        slices(model, lambda model: setattr(model, "precision", other))


def test_weights_that_change_in_the_middle_of_a_stream_are_used_from_then_on():
    @torch.no_grad()
    def change(model):
        model.output.weight.mul_(-1)

    found = slices(network(), change)
    expected = network()
    expected.precision = "float32"
    assert found.probabilities == pytest.approx(slices(expected, change).probabilities, abs=1e-4)


def test_weights_that_are_not_finite_are_named():
    model = network()
    with torch.no_grad():
        model.blocks[1].currents[0].weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"blocks\.1\.currents\.0\.weight has values that are not finite"):
        model.predict(events())
    model = network()
    with torch.no_grad():
        model.blocks[0].currents[0].weight[0] = float("nan")
    with pytest.raises(ValueError, match="a membrane is NaN"):
        model.predict(events())

"""Properties of every registered neuron: the scan, its state, its range and its precision."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from registered import EVERY, MULTI_BIT, build, currents
from torch.func import functional_call

import neurons
from neurons.kernels import available
from neurons.spike import level_count

every_neuron = pytest.mark.parametrize("name", EVERY)
multi_bit_neuron = pytest.mark.parametrize("name", MULTI_BIT)
by_both = pytest.mark.parametrize("backend", ["torch", "auto"])
few = settings(max_examples=8, deadline=None)

BITS = st.sampled_from([1, 2, 3, 4, 6, 8, 32])
SEED = st.integers(0, 2**32 - 1)
SIZE = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 9))


def clones(state):
    return type(state)(*[part.clone() for part in state])


def random_state(neuron, x_seq, seed=0):
    generator = torch.Generator().manual_seed(seed)
    zeros = neuron.initial_state(x_seq)
    return type(zeros)(*[torch.randn(z.shape, generator=generator, dtype=z.dtype) for z in zeros])


def equal(ours, theirs) -> bool:
    """Assert equality bit for bit, of tensors or of states."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    return all(equal(a, b) for a, b in zip(ours, theirs, strict=True))


def statistics(neuron) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in neuron.named_buffers()}


def step_by_step(neuron, x_seq, state=None):
    """Feed the sequence one step at a time, and finish it."""
    outputs = []
    for x in x_seq.unbind(0):
        y, state = neuron.single_step(x, state)
        outputs.append(y)
    neuron.finish_sequence()
    return torch.stack(outputs), state


# Chunks, batches and steps


@every_neuron
@by_both
@few
@given(size=SIZE, cut=st.floats(0, 1), bits=BITS, seed=SEED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stream_in_chunks_equals_the_whole_sequence_bit_for_bit(name, backend, dtype, size, cut, bits, seed):
    neuron = build(name, size[2], backend, bits=bits).eval()
    x = currents(neuron, *size, seed=seed, dtype=dtype)
    whole, last = neuron(x)
    at = round(cut * len(x))
    first, state = neuron(x[:at])
    second, state = neuron(x[at:], state)
    assert equal(torch.cat([first, second]), whole)
    assert equal(state, last)


@every_neuron
@by_both
@few
@given(size=SIZE, bits=BITS, seed=SEED)
def test_a_batch_of_one_equals_a_batch_of_many(name, backend, size, bits, seed):
    neuron = build(name, size[2], backend, bits=bits).eval()
    # A matrix product may round differently for another batch size: without one, equal bit for bit; else in float64.
    exact = not hasattr(neuron, "recurrent_weight")
    x = currents(neuron, *size, seed=seed, dtype=torch.float32 if exact else torch.float64)
    many, last = neuron(x)
    ones = [neuron(x[:, i : i + 1]) for i in range(size[1])]
    y = torch.cat([y for y, _ in ones], dim=1)
    state = type(last)(*[torch.cat(parts) for parts in zip(*[state for _, state in ones])])
    if exact:
        assert equal(y, many)
        assert equal(state, last)
    else:
        torch.testing.assert_close((y, *state), (many, *last), rtol=1e-9, atol=1e-9)


@every_neuron
@few
@given(size=SIZE, bits=BITS, seed=SEED)
def test_the_order_of_the_batch_does_not_matter(name, size, bits, seed):
    neuron = build(name, size[2], bits=bits).eval().double()
    x = currents(neuron, *size, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(neuron(x.flip(1))[0].flip(1), neuron(x)[0], rtol=1e-9, atol=1e-9)


@every_neuron
@few
@given(size=SIZE, bits=BITS, seed=SEED)
def test_the_reference_scan_is_the_step_repeated(name, size, bits, seed):
    neuron = build(name, size[2], bits=bits).eval()
    x = currents(neuron, *size, seed=seed)
    by_scan = neurons.reference_scan(neuron.step, x, neuron.initial_state(x), neuron.step_parameters())
    assert equal(by_scan, step_by_step(neuron, x))


@every_neuron
@by_both
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracking", ["sequence", "step", "fixed"])
@few
@given(size=SIZE, bits=BITS, seed=SEED)
def test_step_by_step_equals_one_scan_in_outputs_gradients_and_range(
    name, backend, training, tracking, size, bits, seed
):
    options = {"bits": bits, "range_tracking": tracking}
    scanned = build(name, size[2], backend, **options).double().train(training)
    stepped = copy.deepcopy(scanned)
    state = random_state(scanned, currents(scanned, *size, seed=seed, dtype=torch.float64), seed)

    def run(neuron, way):
        torch.manual_seed(seed)
        for _ in range(2):  # the second sequence is quantised with the range after the first
            neuron.zero_grad()
            x = currents(neuron, *size, seed=seed, dtype=torch.float64).requires_grad_()
            start = type(state)(*[part.clone().requires_grad_() for part in state])
            y, last = way(neuron, x, start)
            sum((part * torch.randn_like(part)).sum() for part in (y, *last)).backward()
        gradients = {name: parameter.grad for name, parameter in neuron.named_parameters()}
        return {
            "outputs": y.detach(),
            "state": [part.detach() for part in last],
            "gradients": [x.grad, *[part.grad for part in start], gradients],
            "statistics": statistics(neuron),
        }

    expected = run(scanned, lambda neuron, x, start: neuron(x, start))
    torch.testing.assert_close(run(stepped, step_by_step), expected, rtol=1e-9, atol=1e-9)


@every_neuron
@few
@given(size=SIZE, bits=BITS, seed=SEED)
def test_a_scan_changes_neither_its_input_nor_the_state_it_starts_from(name, size, bits, seed):
    neuron = build(name, size[2], bits=bits)
    x = currents(neuron, *size, seed=seed)
    state = random_state(neuron, x, seed)
    x_before, state_before = x.clone(), clones(state)
    neuron(x, state)
    neuron.single_step(x[0], state)
    assert equal(x, x_before)
    assert equal(state, state_before)


@every_neuron
@by_both
def test_memory_layout_does_not_matter(name, backend):
    neuron = build(name, 4, backend).eval()
    x = currents(neuron, 5, 3, 4, seed=0)
    strange = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strange.is_contiguous()
    torch.testing.assert_close(neuron(strange)[0], neuron(x)[0])


@pytest.mark.parametrize("name", [n for n in EVERY if n != "recurrent-gated-lif"])
@by_both
def test_dimensions_beyond_the_channels_are_neurons_of_their_own(name, backend):
    neuron = build(name, 4, backend).eval()
    x = currents(neuron, 5, 3 * 2 * 2, 4, seed=0)
    pixels = x.view(5, 3, 2, 2, -1).permute(0, 1, 4, 2, 3)  # [T, B, C, H, W]
    y, state = neuron(pixels)
    expected, last = neuron(x)
    assert equal(y, expected.view(5, 3, 2, 2, 4).permute(0, 1, 4, 2, 3))
    assert equal(state[0], last[0].view(3, 2, 2, 4).permute(0, 3, 1, 2))


# Spikes


@multi_bit_neuron
@by_both
@pytest.mark.parametrize("training", [True, False])
@few
@given(size=SIZE, bits=st.integers(1, 8), data=st.data(), seed=SEED)
def test_every_output_is_a_level_of_the_scale_above_the_threshold(name, backend, training, size, bits, data, seed):
    threshold = data.draw(st.integers(0, max(level_count(bits) - 2, 0)), label="threshold_levels")
    neuron = build(name, size[2], backend, bits=bits, threshold_levels=threshold, initial_range=0.9).train(training)
    scale = neuron.spike().scale  # before the sequence: a range tracked once per sequence moves after it
    levels = neuron(currents(neuron, *size, seed=seed))[0] * scale
    whole = levels.round()
    torch.testing.assert_close(levels, whole, rtol=0, atol=1e-4)
    assert (whole.abs() <= level_count(bits) - 1).all()
    assert ((whole == 0) | (whole.abs() > threshold)).all()
    if bits == 1:
        assert ((whole == 0) | (whole == 1)).all()


@multi_bit_neuron
def test_one_bit_is_a_binary_spike_of_one_positive_size(name):
    neuron = build(name, 8, bits=1, initial_range=3.0).eval()
    y, _ = neuron(2 * currents(neuron, 20, 4, 8, seed=0))
    values = y.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1.5]), rtol=1e-3, atol=0)


@few
@given(size=SIZE, seed=SEED)
def test_the_learnable_lif_fires_zero_or_one(size, seed):
    neuron = build("learnable-lif", size[2])
    y, _ = neuron(currents(neuron, *size, seed=seed))
    assert ((y == 0) | (y == 1)).all()


# Precision


@every_neuron
@by_both
@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_output_has_the_type_of_the_input_and_the_state_is_float32_at_least(name, backend, own, given):
    neuron = build(name, 4, backend, bits=4).to(own)
    x = currents(neuron, 5, 2, 4, seed=0, dtype=given).requires_grad_()
    state_type = torch.float64 if given == torch.float64 else torch.float32
    for training in (True, False):
        neuron.train(training)
        y, state = neuron(x)
        assert y.dtype == given
        assert {part.dtype for part in state} == {state_type}
        y, state = neuron.single_step(x[0], state)
        assert y.dtype == given
        assert {part.dtype for part in state} == {state_type}
    y.sum().backward()
    assert x.grad.dtype == given
    assert all(p.grad is None or p.grad.dtype == own for p in neuron.parameters())


@every_neuron
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_as_float32(name, dtype):
    neuron = build(name, 4).eval()
    x = currents(neuron, 9, 2, 4, seed=0, dtype=dtype)
    y, state = neuron(x)
    y_float, state_float = neuron(x.float())
    assert equal(y, y_float.to(dtype))
    assert equal(state, state_float)


@multi_bit_neuron
def test_a_neuron_converted_to_half_precision_keeps_to_its_levels(name):
    neuron = build(name, 4, bits=4).half().eval()
    levels = (neuron(4 * currents(neuron, 9, 2, 4, seed=0))[0] * neuron.spike().scale).round()
    assert levels.max() == 7


@every_neuron
@few
@given(bits=BITS, seed=SEED, dtype=st.sampled_from([torch.float64, torch.float16, torch.bfloat16]))
def test_input_of_another_type_than_the_parameters_gives_the_same_spikes_in_all_backends(name, bits, seed, dtype):
    neuron = build(name, 4, bits=bits)
    neuron(currents(neuron, 9, 2, 4, seed=seed + 1))  # a range with many digits
    x = currents(neuron, 9, 2, 4, seed=seed, dtype=dtype)
    with torch.no_grad():
        reference, _ = neuron.eval()(x)
        assert equal(step_by_step(neuron, x)[0], reference)
        for backend in set(available()) - {"torch", "cupy"}:
            neuron.backend = backend
            assert equal(neuron(x)[0], reference)


@every_neuron
@by_both
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_steps_and_scans_give_the_same_bits_as_without_it(name, backend, training, dtype):
    neuron = build(name, 16, backend).train(training)
    x, start = currents(neuron, 9, 4, 16, seed=0), copy.deepcopy(neuron.state_dict())
    spikes = []
    with torch.no_grad():
        for run in (neuron, lambda x: step_by_step(neuron, x)):
            results = []
            for autocast in (False, True):
                neuron.load_state_dict(start)
                with torch.autocast("cpu", dtype, enabled=autocast):
                    y, state = run(x)
                results.append((y, *state, *statistics(neuron).values()))
            assert equal(*results)
            spikes.append(y)
    torch.testing.assert_close(*spikes, rtol=1e-5, atol=1e-5)


# Saving


@every_neuron
@few
@given(bits=BITS, seed=SEED)
def test_a_saved_neuron_is_restored_bit_for_bit(name, bits, seed):
    neuron = build(name, 3, bits=bits)
    x = currents(neuron, 6, 2, 3, seed=seed)
    neuron(x)
    with torch.no_grad():
        for parameter in neuron.parameters():
            parameter.add_(0.01)
    file = io.BytesIO()
    torch.save(neuron.state_dict(), file)
    file.seek(0)
    restored = build(name, 3, bits=bits, initial_range=7.0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert equal(tuple(restored.state_dict().values()), tuple(neuron.state_dict().values()))
    assert equal(restored.eval()(x), neuron.eval()(x))


@every_neuron
def test_the_range_is_saved_and_the_state_is_not(name):
    neuron = build(name, 3)
    neuron(currents(neuron, 6, 2, 3, seed=0))
    tracked = {f"spike_range.{part}" for part in ("current", "minimum", "maximum", "updates")}
    expected = {n for n, _ in neuron.named_parameters()} | (tracked if name in MULTI_BIT else set())
    assert set(neuron.state_dict()) == expected


@every_neuron
def test_a_neuron_can_be_copied_and_pickled_after_use(name):
    neuron = build(name, 3)
    x = currents(neuron, 6, 2, 3, seed=0)
    neuron(x)
    for twin in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert equal(twin.eval()(x), neuron.eval()(x))


# Values that are not finite, and empty input


@every_neuron
@by_both
@few
@given(size=SIZE, bits=BITS, data=st.data(), seed=SEED)
def test_nan_reaches_the_output_at_its_element_and_no_other_batch_element(name, backend, size, bits, data, seed):
    neuron = build(name, size[2], backend, bits=bits)
    clean = currents(neuron, *size, seed=seed)
    before = statistics(neuron)
    expected, _ = copy.deepcopy(neuron)(clean)
    t, b, c = (data.draw(st.integers(0, n - 1)) for n in clean.shape)
    x = clean.clone()
    x[t, b, c] = float("nan")
    y, _ = neuron(x)
    assert y[t, b, c % size[2]].isnan()
    assert equal(y[:t], expected[:t])
    others = [i for i in range(size[1]) if i != b]
    assert equal(y[:, others], expected[:, others])
    assert all(torch.equal(v, before[k]) for k, v in statistics(neuron).items())


@every_neuron
@by_both
@pytest.mark.parametrize("training", [True, False])
def test_a_sequence_of_no_steps_gives_no_output_and_the_state_it_was_given(name, backend, training):
    neuron = build(name, 3, backend).train(training)
    x = currents(neuron, 0, 2, 3, seed=0, dtype=torch.float16)
    before = statistics(neuron)
    state = random_state(neuron, x)
    y, last = neuron(x, state)
    assert y.shape == (0, 2, 3)
    assert y.dtype == torch.float16
    assert equal(last, state)
    assert equal(neuron(x)[1], neuron.initial_state(x))
    assert all(torch.equal(v, before[k]) for k, v in statistics(neuron).items())


@every_neuron
@by_both
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracking", ["sequence", "step"])
def test_an_empty_batch_gives_an_empty_output(name, backend, training, tracking):
    neuron = build(name, 3, backend, range_tracking=tracking).train(training)
    x = currents(neuron, 4, 0, 3, seed=0)
    before = statistics(neuron)
    y, state = neuron(x)
    assert y.shape == (4, 0, 3)
    assert {part.shape for part in state} == {(0, 3)}
    assert neuron.single_step(x[0])[0].shape == (0, 3)
    neuron.finish_sequence()
    assert all(torch.equal(v, before[k]) for k, v in statistics(neuron).items())


# The tracked range of a neuron


def single(*values) -> torch.Tensor:
    """``[T, 1, N]`` from one list of channels per step."""
    return torch.tensor(values)[:, None]


def test_training_moves_the_range_once_a_sequence_after_it_was_quantised():
    # leak 1/2, r = 4 * 0.9999 (unit levels). Channel 0: 2.5 fires 2 | 0.25 + 9 fires 3.
    # Channel 1: -1.5 fires -1 | -0.25 - 0.5 = -0.75. Extremes over all: -1.5 and 9.25.
    neuron = neurons.MultiBitLIF(leak=0.5, bits=3, initial_range=3.9996)
    x = single([2.5, -1.5], [9.0, -0.5])
    y, _ = neuron(x)
    torch.testing.assert_close(y, single([2.0, -1.0], [3.0, 0.0]), rtol=1e-4, atol=1e-4)
    assert neuron.spike_range.updates == 1
    assert neuron.spike_range.minimum.item() == -1.5
    assert neuron.spike_range.maximum.item() == 9.25
    assert neuron.spike().spike_range.item() == 9.25


def test_tracked_by_step_the_range_moves_at_every_step_before_it_is_quantised():
    # leak 1. Step 1: extremes -1, 2.5: r = 2.5, s = 1.59984: 3.9996 fires 3 / s, -1.59984 fires -1 / s.
    #   Left: 0.6248125, -0.3749375.
    # Step 2: extremes -0.3749375 + 0.5 = 0.1250625 and 0.6248125 + 4 = 4.6248125:
    #   averages -0.09 + 0.01250625, 0.225 + 0.46248125 = 0.68748125; r = 0.68748125 / 0.19 = 3.6183224
    #   s = 1.1053609: clipped at r, 3.9996 fires 3 / s = 2.7140457; 0.138 fires nothing.
    neuron = neurons.MultiBitLIF(leak=1.0, bits=3, range_tracking="step")
    y, _ = neuron(single([2.5, -1.0], [4.0, 0.5]))
    torch.testing.assert_close(y, single([1.8751875, -0.6250625], [2.7140132, 0.0]), rtol=1e-5, atol=1e-5)
    assert neuron.spike_range.updates == 2
    assert neuron.spike_range.minimum.item() == pytest.approx(-0.07749375 / 0.19)
    assert neuron.spike_range.maximum.item() == pytest.approx(0.68748125 / 0.19)


@multi_bit_neuron
@pytest.mark.parametrize(("tracking", "updates"), [("sequence", 1), ("step", 6), ("fixed", 0)])
def test_tracking_says_how_often_training_moves_the_range(name, tracking, updates):
    neuron = build(name, 3, range_tracking=tracking)
    x = currents(neuron, 6, 2, 3, seed=0)
    neuron(x)
    assert neuron.spike_range.updates == updates
    neuron(x)
    assert neuron.spike_range.updates == 2 * updates


@multi_bit_neuron
@pytest.mark.parametrize("tracking", ["sequence", "step", "fixed"])
def test_evaluation_leaves_the_range_as_it_was(name, tracking):
    neuron = build(name, 3, range_tracking=tracking)
    x = currents(neuron, 6, 2, 3, seed=0)
    neuron(x)
    neuron.eval()
    before = statistics(neuron)
    neuron(3 * x)
    step_by_step(neuron, 3 * x)
    assert all(torch.equal(v, before[k]) for k, v in statistics(neuron).items())


@multi_bit_neuron
def test_after_every_step_the_statistics_are_those_of_the_sequence_so_far(name):
    neuron, state = build(name, 3), None
    neuron(currents(neuron, 6, 2, 3, seed=1))
    whole = copy.deepcopy(neuron)
    x_seq, at_start = currents(neuron, 6, 2, 3, seed=0), neuron.spike_range.value()
    for t, x in enumerate(x_seq):
        y, state = neuron.single_step(x, state)
        so_far = copy.deepcopy(whole)
        expected, _ = so_far(x_seq[: t + 1])
        assert equal(expected[-1], y), f"step {t} was not quantised with the range of the start, {at_start}"
        assert equal(tuple(neuron.state_dict().values()), tuple(so_far.state_dict().values()))


@multi_bit_neuron
@pytest.mark.parametrize("next_one", ["no state", "finish_sequence", "eval", "a whole sequence", "load_state_dict"])
def test_a_sequence_that_is_fed_step_by_step_ends_where_the_next_one_begins(name, next_one):
    neuron = build(name, 3)
    x_seq = currents(neuron, 4, 2, 3, seed=0)
    _, state = neuron.single_step(50 * x_seq[0])
    saved = copy.deepcopy(neuron.state_dict())
    if next_one == "finish_sequence":
        neuron.finish_sequence()
    elif next_one == "eval":
        torch.nn.Sequential(neuron).eval().train()
    elif next_one == "load_state_dict":
        neuron.load_state_dict(saved)
    assert equal(tuple(neuron.state_dict().values()), tuple(saved.values()))
    if next_one == "a whole sequence":
        neuron(x_seq)
    reference = copy.deepcopy(neuron)
    if next_one == "no state":
        for x in x_seq:
            neuron.single_step(x)
            reference(x[None])
    else:
        reference(x_seq, state)
        for x in x_seq:
            _, state = neuron.single_step(x, state)
    assert equal(tuple(neuron.state_dict().values()), tuple(reference.state_dict().values()))


@multi_bit_neuron
@by_both
@pytest.mark.parametrize("tracking", ["sequence", "step"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_membranes_that_are_not_finite_leave_the_range_as_it_was(name, backend, tracking, value):
    neuron = build(name, 3, backend, range_tracking=tracking)
    x = currents(neuron, 1, 2, 3, seed=0)
    x[..., -1] = value
    before = statistics(neuron)
    neuron(x)
    assert all(torch.equal(v, before[k]) for k, v in statistics(neuron).items())
    neuron(currents(neuron, 6, 2, 3, seed=0))
    assert neuron.spike().spike_range.isfinite()


@multi_bit_neuron
@by_both
@pytest.mark.parametrize("tracking", ["sequence", "step"])
@pytest.mark.parametrize("bits", [1, 4, 32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_silence_is_answered_with_silence_and_the_range_recovers(name, backend, tracking, bits, dtype):
    neuron = build(name, 3, backend, range_tracking=tracking, bits=bits).to(dtype)
    x = currents(neuron, 6, 2, 3, seed=0, dtype=dtype)
    for _ in range(3):
        assert torch.equal(neuron(torch.zeros_like(x))[0], torch.zeros(6, 2, 3, dtype=dtype))
    heard = x.clone().requires_grad_()
    y, _ = neuron(heard)
    y.sum().backward()
    assert y.isfinite().all()
    assert heard.grad.isfinite().all()
    assert neuron.spike().spike_range > 0.1
    assert neuron(x)[0].abs().max() > 0.01


# Gradients where the function is smooth


def agrees_with_finite_differences(neuron, x, state) -> bool:
    names, parameters = zip(*neuron.named_parameters(), strict=True) if list(neuron.parameters()) else ((), ())

    def scan(x, *rest):
        learned, start = dict(zip(names, rest)), type(state)(*rest[len(names) :])
        y, last = functional_call(neuron, learned, (x, start))
        return y, *last

    inputs = [t.detach().clone().requires_grad_() for t in (x, *parameters, *state)]
    return torch.autograd.gradcheck(scan, inputs)


SMOOTH = ["integrator", *MULTI_BIT]


@pytest.mark.parametrize("name", SMOOTH)
@by_both
@pytest.mark.parametrize("spike_range", [1e3, 1.0], ids=["inside the range", "inside and outside"])
def test_full_precision_gradients_agree_with_finite_differences(name, backend, spike_range):
    torch.manual_seed(3)
    neuron = build(name, 2, backend, bits=32, initial_range=spike_range).double().eval()
    if name == "multibit-synaptic-lif":
        neuron.tau.data.fill_(0.8)
    x = currents(neuron, 4, 2, 2, seed=5, dtype=torch.float64)
    state = random_state(neuron, x, seed=7)
    y, _ = neuron(x, state)
    if name in MULTI_BIT:
        outside = y.abs() == spike_range
        assert outside.any() == (spike_range == 1.0), "this input should clip with the small range alone"
        assert not outside.all()
    assert agrees_with_finite_differences(neuron, x, state)


def test_the_membrane_of_a_learnable_lif_that_does_not_fire_agrees_with_finite_differences():
    # Far below the threshold the surrogate gradient is zero, like the true one.
    neuron = neurons.LearnableLIF(leak=0.8, threshold=1.0).double()
    x = -1.0 - currents(neuron, 4, 2, 2, seed=0, dtype=torch.float64).abs()
    state = neuron.initial_state(x)
    assert not neuron(x, state)[0].any()
    assert agrees_with_finite_differences(neuron, x, state)

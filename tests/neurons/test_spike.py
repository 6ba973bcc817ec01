"""The multi-bit spike function and its tracked range, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neurons import MultiBitLIF, MultiBitSpike, TrackedRange
from neurons.spike import MARGIN, SMALLEST_RANGE, Statistics, joined, level_count

NAN, INF = float("nan"), float("inf")


def spike_function(bits, threshold_levels=0, spike_range=1.0, dtype=torch.float32):
    return MultiBitSpike(torch.tensor(spike_range, dtype=dtype), bits, threshold_levels)


# At r = 1 there are s = 2^(b-1) * 0.9999 levels per unit. Each pair is a membrane and the integer spike it fires.
LEVEL_TABLES = {
    # s = 1.9998 as at two bits; only the positive level fires. 0.5 * s = 0.9999.
    (1, 0): [(-3, 0), (-0.6, 0), (0, 0), (0.5, 0), (0.51, 1), (1, 1), (3, 1)],
    # s = 1.9998
    (2, 0): [(-2, -1), (-0.51, -1), (-0.5, 0), (0, 0), (0.5, 0), (0.51, 1), (1, 1), (2, 1)],
    # s = 3.9996: 0.24 s = 0.96, 0.26 s = 1.04, 0.5 s = 1.9998, 0.75 s = 2.9997
    (3, 0): [
        (-9, -3),
        (-0.76, -3),
        (-0.3, -1),
        (0.24, 0),
        (0.26, 1),
        (0.5, 1),
        (0.51, 2),
        (0.75, 2),
        (0.76, 3),
        (1, 3),
    ],
    # as above, but a spike of one level is below the threshold
    (3, 1): [(-9, -3), (-0.51, -2), (-0.3, 0), (0.26, 0), (0.5, 0), (0.51, 2), (0.76, 3)],
    # s = 7.9992: 0.4 s = 3.2, 0.5 s = 3.9996, 0.51 s = 4.08, -0.63 s = -5.04, 0.9 s = 7.2
    (4, 3): [(-1, -7), (-0.63, -5), (-0.4, 0), (0.4, 0), (0.5, 0), (0.51, 4), (0.9, 7), (1, 7)],
    # s = 31.9968, the setting of PR22: 0.1 s = 3.2, 0.13 s = 4.16
    (6, 3): [(-5, -31), (-0.13, -4), (-0.1, 0), (0.1, 0), (0.13, 4), (0.5, 15), (1, 31)],
    # s = 127.9872: 0.0078 s = 0.998, 0.0079 s = 1.011
    (8, 0): [(-1, -127), (-0.0079, -1), (0.0078, 0), (0.0079, 1), (0.5, 63), (1, 127)],
}


@pytest.mark.parametrize(("bits", "threshold_levels"), LEVEL_TABLES)
def test_membranes_fire_the_integer_levels_of_the_formula(bits, threshold_levels):
    table = LEVEL_TABLES[bits, threshold_levels]
    membrane, levels = torch.tensor([v for v, _ in table]), torch.tensor([float(q) for _, q in table])
    spike = spike_function(bits, threshold_levels)
    assert torch.equal(spike.levels(membrane), levels)
    size = 1 / (level_count(bits) * MARGIN)
    torch.testing.assert_close(spike(membrane), levels * size)


def test_a_level_is_proportional_to_the_range():
    # s = 4 * 0.9999 / 2.5 = 1.59984: 1.3 s = 2.08, 2.5 s = 3.9996, -0.7 s = -1.12
    spike = spike_function(3, spike_range=2.5)
    membrane = torch.tensor([1.3, 2.5, -0.7, 0.6])
    assert torch.equal(spike.levels(membrane), torch.tensor([2.0, 3.0, -1.0, 0.0]))
    torch.testing.assert_close(spike(membrane), torch.tensor([1.2501250, 1.8751875, -0.6250625, 0.0]))


def test_one_bit_fires_half_the_range_or_nothing():
    y = spike_function(1, spike_range=3.0)(torch.tensor([-9.0, 1.49, 1.51, 9.0]))
    torch.testing.assert_close(y, torch.tensor([0.0, 0.0, 1.50015, 1.50015]))


def test_full_precision_clips_the_membrane_to_the_range():
    y = spike_function(32, spike_range=2.0)(torch.tensor([-5.0, -2.0, -0.3, 0.0, 1.7, INF, NAN]))
    torch.testing.assert_close(y, torch.tensor([-2.0, -2.0, -0.3, 0.0, 1.7, 2.0, NAN]), equal_nan=True)


@pytest.mark.parametrize("bits", [*range(1, 9), 32])
def test_nan_stays_nan_and_infinity_fires_the_top_level(bits):
    spike = spike_function(bits)
    y = spike(torch.tensor([NAN, 0.0, INF, -INF]))
    assert y[0].isnan()
    assert y[1] == 0
    assert y[2] == spike(torch.tensor(1.0))
    assert y[3] == spike(torch.tensor(-1.0))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("spike_range", [1e-12, 1e-3, 0.7, 3.3, 1e30])
def test_the_largest_membrane_stays_under_two_to_the_bits_minus_one(bits, spike_range):
    spike = spike_function(bits, spike_range=spike_range)
    top = spike.levels(torch.tensor([spike_range, INF]))
    assert (top == level_count(bits) - 1).all()


@pytest.mark.parametrize(("bits", "threshold_levels"), [(2, 0), (4, 0), (6, 3), (32, 0)])
def test_the_gradient_passes_straight_through_inside_the_range_and_is_zero_outside(bits, threshold_levels):
    membrane = torch.tensor([-9.0, -2.01, -2.0, -1.9, -0.1, 0.0, 0.1, 1.9, 2.0, 2.01, 9.0], requires_grad=True)
    upstream = torch.arange(1.0, 12.0)
    spike_function(bits, threshold_levels, spike_range=2.0)(membrane).backward(upstream)
    inside = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0])
    assert torch.equal(membrane.grad, upstream * inside)


def test_of_one_bit_the_gradient_passes_one_level_wide_around_the_threshold():
    membrane = torch.tensor([-9.0, -1.0, 0.0, 0.49, 0.5, 0.9, 1.0, 1.1, 1.5, 1.51, 2.0, 9.0], requires_grad=True)
    upstream = torch.arange(1.0, 13.0)
    spikes = spike_function(1, spike_range=2.0)(membrane)
    spikes.backward(upstream)
    assert torch.equal(spikes > 0, torch.tensor([False] * 7 + [True] * 5))
    assert torch.equal(membrane.grad, upstream * torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]))


@pytest.mark.parametrize(("bits", "spike_range"), [(1, 0.7), (1, 3.0), (3, 0.7), (6, 3.0)])
def test_the_gradient_is_the_mean_slope_of_the_spike(bits, spike_range):
    spike = spike_function(bits, spike_range=spike_range, dtype=torch.float64)
    membrane = torch.linspace(-1.5 * spike_range, 1.5 * spike_range, 30_001, dtype=torch.float64, requires_grad=True)
    y = spike(membrane)
    (gradient,) = torch.autograd.grad(y.sum(), membrane)
    rise, width = (y[-1] - y[0]).item(), (gradient.sum() * 3 * spike_range / 30_000).item()
    # All but the level at the very end of the range, on either side, which is cut off by the margin.
    assert width == pytest.approx(rise + (bits > 1) * 2 / spike.scale.item(), rel=2e-3)


@pytest.mark.parametrize("bits", [1, 4, 32])
def test_the_range_gets_no_gradient(bits):
    r = torch.tensor(1.0, requires_grad=True)
    membrane = torch.tensor([0.3, 2.0], requires_grad=True)
    MultiBitSpike(r, bits)(membrane).sum().backward()
    assert r.grad is None


def test_the_full_precision_gradient_agrees_with_finite_differences():
    membrane = torch.tensor([-3.0, -1.2, 0.4, 1.9, 2.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(spike_function(32, spike_range=2.0, dtype=torch.float64), membrane)


# The tracked range


def updated(tracked: TrackedRange, *extremes: tuple[float, float]) -> TrackedRange:
    for minimum, maximum in extremes:
        tracked.update(torch.tensor(minimum), torch.tensor(maximum))
    return tracked


def test_the_range_is_the_initial_one_before_the_first_update():
    assert TrackedRange(2.5).value() == 2.5


# Momentum 0.1: averages that start from zero, divided by 1 - 0.9^n after n updates.
#   1: min -0.2, max 0.3;                      r = 0.3 / 0.1
#   2: min -0.18 - 0.5,  max 0.27 + 0.1;       r = 0.68 / 0.19
#   3: min -0.612 - 0.1, max 0.333 + 1.0;      r = 1.333 / 0.271
@pytest.mark.parametrize(
    ("updates", "minimum", "maximum", "r"),
    [(1, -0.2, 0.3, 3.0), (2, -0.68, 0.37, 3.5789474), (3, -0.712, 1.333, 4.9188192)],
)
def test_the_range_is_the_bias_corrected_average_of_the_extremes(updates, minimum, maximum, r):
    tracked = updated(TrackedRange(), *[(-2.0, 3.0), (-5.0, 1.0), (-1.0, 10.0)][:updates])
    assert tracked.minimum.item() == pytest.approx(minimum / (1 - 0.9**updates))
    assert tracked.maximum.item() == pytest.approx(maximum / (1 - 0.9**updates))
    assert tracked.updates == updates
    assert tracked.value().item() == pytest.approx(r)


@pytest.mark.parametrize("initial", [SMALLEST_RANGE, 1.0, 3e38])
def test_the_first_update_leaves_nothing_of_the_initial_range(initial):
    tracked = updated(TrackedRange(initial), (-2.0, 3.0))
    assert (tracked.minimum, tracked.maximum, tracked.value()) == (-2.0, 3.0, 3.0)


def test_momentum_says_how_far_an_update_moves():
    # 0.5: 2, then 1 + 4 = 5, over 0.75. 1: the last extreme alone.
    assert updated(TrackedRange(momentum=0.5), (0.0, 4.0), (0.0, 8.0)).value().item() == pytest.approx(5 / 0.75)
    assert updated(TrackedRange(momentum=1.0), (0.0, 4.0), (-8.0, 1.0)).value() == 8


def test_constant_extremes_give_that_range_from_the_first_update_on():
    tracked = TrackedRange()
    for _ in range(30):
        updated(tracked, (-1.5, 0.7))
        assert tracked.value().item() == pytest.approx(1.5)


@pytest.mark.parametrize("extremes", [(NAN, NAN), (-INF, 1.0), (-1.0, INF), (NAN, 1.0)])
def test_extremes_that_are_not_finite_leave_the_range_as_it_was(extremes):
    tracked = updated(TrackedRange(), (-2.0, 3.0))
    before = {name: value.clone() for name, value in tracked.state_dict().items()}
    updated(tracked, extremes)
    assert all(torch.equal(value, before[name]) for name, value in tracked.state_dict().items())


def moved(start, *extremes):
    """The statistics after one sequence with each of some pairs of extremes, stacked."""
    after = [start.moved(*map(torch.tensor, pair), 0.1) for pair in extremes]
    return Statistics(*[torch.stack(values) for values in zip(*after)])


@pytest.mark.parametrize("updates", [0, 1, 7])
def test_a_batch_in_parts_moves_the_range_as_the_whole_batch_does(updates):
    range_ = TrackedRange()
    for _ in range(updates):
        range_.update(torch.tensor(-2.0), torch.tensor(3.0))
    start = range_.statistics()
    whole = start.moved(torch.tensor(-5.0), torch.tensor(4.0), 0.1)
    assert joined(start, moved(start, (-5.0, 1.0), (-1.0, 4.0), (0.0, 0.5))) == whole


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_batch_in_parts_leaves_the_range_if_one_part_is_not_finite(bad):
    start = TrackedRange(initial_range=2.0).statistics()
    assert joined(start, moved(start, (-5.0, 1.0), (-1.0, bad))) == start


def test_extremes_too_large_for_the_type_of_the_range_leave_it_as_it_was():
    tracked = updated(TrackedRange(), (-2.0, 3.0))
    tracked.update(torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1e300, dtype=torch.float64))
    assert tracked.updates == 1
    assert tracked.value() == 3


def observed(tracked: TrackedRange, *extremes: tuple[float, float]) -> TrackedRange:
    """The statistics after the steps of one sequence."""
    for i, (minimum, maximum) in enumerate(extremes):
        start, first = tracked.begin((torch.ones(1),), goes_on=i > 0)
        tracked.observe_step(start, torch.tensor(minimum), torch.tensor(maximum), i > 0, first)
    return tracked


def test_the_steps_of_a_sequence_are_one_update():
    steps = [(-1.0, 2.0), (-4.0, 1.0), (0.0, 3.0)]
    tracked = observed(updated(TrackedRange(), (-1.0, 1.0)), *steps)
    assert tracked.updates == 2
    assert tracked.value() == updated(TrackedRange(), (-1.0, 1.0), (-4.0, 3.0)).value()


def test_one_step_that_is_not_finite_voids_its_whole_sequence_and_not_the_next():
    tracked = observed(TrackedRange(5.0), (-1.0, 2.0), (NAN, NAN), (-1.0, 2.0))
    assert (tracked.updates, tracked.value()) == (0, 5)
    assert observed(tracked, (-1.0, 2.0)).value() == 2


def test_a_range_that_saw_only_silence_is_positive():
    tracked = updated(TrackedRange(), (0.0, 0.0))
    assert 0 < tracked.value().item() < 1e-6


def test_the_range_its_averages_and_the_count_are_saved():
    assert set(TrackedRange().state_dict()) == {"current", "minimum", "maximum", "updates"}


TURNS = {
    "half": nn.Module.half,
    "bfloat16": nn.Module.bfloat16,
    "double": nn.Module.double,
    "to": lambda module: module.to("cpu", torch.float16),
    "meta and back": lambda module: module.to("meta", torch.float16).to_empty(device="cpu"),
}


@pytest.mark.parametrize("turn", TURNS)
def test_statistics_are_float32_whatever_the_network_is_turned_to(turn):
    tracked = updated(TrackedRange(), (-1.2345678, 3.4567891))
    before = {name: value.clone() for name, value in tracked.state_dict().items()}
    turned = TURNS[turn](nn.Sequential(tracked))[0]
    assert {value.dtype for value in [*turned.buffers(), turned.value()]} == {torch.float32}
    if turn != "meta and back":
        assert all(torch.equal(value, before[name]) for name, value in turned.state_dict().items())


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64])
def test_statistics_are_float32_whatever_the_default_type(default):
    torch.set_default_dtype(default)
    try:
        tracked = TrackedRange(1.2345678)
        updated(tracked, (-1.2345678, 3.4567891))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in [*tracked.buffers(), tracked.value()]} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_count_goes_on_in_half_precision(dtype):
    tracked = TrackedRange().to(dtype)
    for _ in range(3000):
        updated(tracked, (-1.0, 2.0))
    assert tracked.updates == 3000


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_state_dict_in_another_type_is_loaded_as_float32(assign, dtype):
    state = {name: value.to(dtype) for name, value in updated(TrackedRange(), (-2.0, 3.0)).state_dict().items()}
    tracked = TrackedRange()
    tracked.load_state_dict(state, assign=assign)
    assert {value.dtype for value in tracked.buffers()} == {torch.float32}
    assert (tracked.minimum, tracked.maximum, tracked.value(), tracked.updates) == (-2, 3, 3, 1)


extreme = st.floats(-100, 100, width=32)
history = st.lists(st.tuples(extreme, extreme).map(lambda pair: (min(pair), max(pair))), max_size=4)


@given(one=history, other=history, initial=st.floats(0.125, 50, width=32), share=st.floats(0, 1, width=32))
def test_an_average_of_two_networks_has_its_range_between_theirs(one, other, initial, share):
    ours, theirs = updated(TrackedRange(initial), *one), updated(TrackedRange(initial), *other)
    averaged = TrackedRange(initial)
    pairs = zip(ours.state_dict().items(), theirs.state_dict().values())
    averaged.load_state_dict({name: torch.lerp(a, b, share) for (name, a), b in pairs})
    torch.testing.assert_close(averaged.value(), torch.lerp(ours.value(), theirs.value(), share))
    # Training it further continues from averages of averages.
    assert updated(averaged, (-1.0, 1.0)).value() <= max(ours.value(), theirs.value(), torch.tensor(1.0)) * 1.001


def test_a_moving_average_over_weights_and_buffers_has_ranges_between_those_that_it_saw():
    tracked = TrackedRange(1.0)
    net = nn.Sequential(nn.Linear(1, 1), tracked)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    seen = []
    for largest in (8.0, 2.0, 6.0, 4.0):
        updated(tracked, (-largest, largest / 2))
        average.update_parameters(net)
        seen.append(tracked.value().item())
        assert min(seen) <= average.module[1].value().item() <= max(seen)


@given(history=history, initial=st.floats(0.125, 50, width=32))
def test_a_state_dict_of_an_earlier_release_has_the_range_it_had(history, initial):
    minimum = maximum = torch.tensor(0.0)
    for lowest, highest in history:
        minimum, maximum = minimum + 0.1 * (lowest - minimum), maximum + 0.1 * (highest - maximum)
    updates = torch.tensor(float(len(history)))
    earlier = {"initial": torch.tensor(initial), "minimum": minimum, "maximum": maximum, "updates": updates}
    tracked = TrackedRange()
    assert not any(tracked.load_state_dict(earlier))
    largest = torch.maximum(minimum.abs(), maximum.abs()) / (1 - (1 - 0.1) ** updates)
    assert tracked.value() == (largest.clamp(min=SMALLEST_RANGE) if history else initial)
    assert set(earlier) == {"initial", "minimum", "maximum", "updates"}, "the caller's dictionary was changed"
    trained = updated(TrackedRange(initial), *history, (-7.0, 9.0))
    torch.testing.assert_close(updated(tracked, (-7.0, 9.0)).value(), trained.value())


def test_a_state_dict_that_lacks_a_statistic_is_refused_by_name():
    for names in (("current", "minimum", "updates"), ("initial", "minimum", "updates")):
        with pytest.raises(RuntimeError, match="maximum"):
            TrackedRange().load_state_dict({name: torch.tensor(1.0) for name in names})


@pytest.mark.parametrize("training", [False, True])
def test_the_value_handed_out_is_the_callers(training):
    tracked = updated(TrackedRange(), (-2.0, 3.0)).train(training)
    tracked.value().mul_(2)
    before = tracked.value()
    updated(tracked, (-9.0, 9.0))
    assert before == 3


def test_a_range_first_asked_for_with_another_default_device_serves_afterwards():
    neuron = MultiBitLIF(initial_range=1.3579, range_tracking="fixed").eval()
    with torch.device("meta"):
        neuron.spike_range.value()
    assert neuron.spike_range.value().item() == pytest.approx(1.3579)


def test_a_range_first_asked_for_in_inference_mode_serves_training_afterwards():
    neuron = MultiBitLIF(initial_range=1.2345, range_tracking="fixed").eval()
    with torch.inference_mode():
        neuron.spike_range.value()
    x = torch.rand(3, 2, 4, requires_grad=True)
    neuron.backend = "torch"
    neuron(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0

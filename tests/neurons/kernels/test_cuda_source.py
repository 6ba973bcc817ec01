"""The CUDA source, compiled as C++ behind a small shim and run on the CPU, against the reference scan."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurons.kernels import cuda, cuda_recurrent
from neurons.surrogate import RESETS, SURROGATES
from tests.neurons.kernels import shim
from tests.neurons.kernels.comparison import (
    MULTI_BIT,
    POINTWISE,
    compare,
    compare_step_by_step,
    output_gradients,
    random_case,
    run,
    same,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.fixture(scope="module")
def shimmed(tmp_path_factory):
    """The provider with its kernels launched on the CPU."""
    library = shim.compiler_into(tmp_path_factory.mktemp("shim"))
    with shim.on_the_cpu(library, shim.pointwise()) as provider:
        yield provider


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("neuron", POINTWISE)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
def test_the_kernels_equal_the_reference_scan(shimmed, neuron, dtype, per_channel):
    compare(shimmed, random_case(neuron, dtype=dtype, per_channel=per_channel))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", RESETS)
def test_every_surrogate_gradient_and_reset_equals_the_reference(shimmed, surrogate, reset, dtype):
    names = {"surrogate": surrogate, "reset_mechanism": reset}
    compare(shimmed, random_case("learnable-lif", dtype=dtype, per_channel=True, **names))


@pytest.mark.parametrize("bits, threshold_levels", [(1, 0), (2, 0), (3, 2), (4, 1), (5, 0), (6, 3), (7, 9), (8, 120)])
@pytest.mark.parametrize("neuron", [name for name in MULTI_BIT if name in POINTWISE])
def test_every_width_of_the_spike_equals_the_reference(shimmed, neuron, bits, threshold_levels):
    for spike_range in (1e-12, 0.37, 1.7, 3e5):
        compare(
            shimmed, random_case(neuron, (9, 2, 9, 1), torch.float32, bits, threshold_levels, False, bits, spike_range)
        )


@pytest.mark.parametrize("neuron", [name for name in MULTI_BIT if name in POINTWISE])
def test_full_precision_spikes_equal_the_reference(shimmed, neuron):
    compare(shimmed, random_case(neuron, bits=32))


@pytest.mark.parametrize("spike_range", [1e-38, 1e38, float("inf"), float("nan")])
def test_ranges_at_the_edge_of_the_type_equal_the_reference(shimmed, spike_range):
    for bits in (1, 4, 32):
        compare(shimmed, random_case("multibit-lif", bits=bits, spike_range=spike_range))


@pytest.mark.parametrize("neuron", POINTWISE)
@pytest.mark.parametrize("steps", [1, cuda.STEPS - 1, cuda.STEPS, cuda.STEPS + 1, 3 * cuda.STEPS, 50])
def test_any_number_of_steps_equals_the_reference(shimmed, neuron, steps):
    compare(shimmed, random_case(neuron, (steps, 2, 3, 1)))


@pytest.mark.parametrize("neuron", POINTWISE)
@pytest.mark.parametrize("shape", [(9, 2, 5), (9, 2, 5, 2, 3)], ids=str)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
def test_any_number_of_dimensions_equals_the_reference(shimmed, neuron, shape, per_channel):
    compare(shimmed, random_case(neuron, shape, per_channel=per_channel))


@pytest.mark.parametrize("threshold", [-0.5, 0.0, float("inf"), float("nan"), 1e-40, 3e38])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", RESETS)
def test_any_threshold_equals_the_reference(shimmed, reset, surrogate, threshold):
    case = random_case("learnable-lif", surrogate=surrogate, reset_mechanism=reset)
    case.parameters[1].fill_(threshold)
    compare(shimmed, case)


@pytest.mark.parametrize("neuron", POINTWISE)
def test_more_elements_than_the_blocks_hold_at_once_are_walked_through_in_turns(shimmed, neuron, monkeypatch):
    monkeypatch.setattr(cuda, "MOST_BLOCKS", 7)
    compare(shimmed, random_case(neuron, (10, 4, 5, 3), per_channel=True))


@pytest.mark.parametrize("neuron", POINTWISE)
def test_no_gradient_of_the_final_state_means_zeros(shimmed, neuron):
    case = random_case(neuron)
    grad_y, grad_final_state = output_gradients(case)
    zeros = run(shimmed, case, grad_y, [torch.zeros_like(grad) for grad in grad_final_state])
    none = run(shimmed, case, grad_y, [None] * len(grad_final_state))
    for one, other in zip((none.grad_x, *none.grad_state), (zeros.grad_x, *zeros.grad_state)):
        same(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_outputs_half_way_between_two_halves_round_to_even_as_in_the_reference(shimmed, dtype):
    case = random_case("integrator", (2, 1, 64, 1), dtype)
    step = torch.finfo(dtype).eps
    case.state[0].zero_()
    case.x[0] = 1 + step * torch.arange(64).view(1, 64, 1)
    case.x[1] = step / 2
    compare(shimmed, case)


RECURRENT = "recurrent-gated-lif"


@pytest.mark.parametrize("bits, threshold_levels", [(1, 0), (4, 0), (8, 3), (32, 0)])
@pytest.mark.parametrize("batch, channels", [(1, 1), (3, 17), (16, 32), (34, 40)])
def test_the_recurrent_kernels_equal_the_reference_scan(shimmed, batch, channels, bits, threshold_levels):
    compare(shimmed, random_case(RECURRENT, (4, batch, channels, 1), bits=bits, threshold_levels=threshold_levels))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch, channels", [(5, 40), (18, 130)])
def test_every_step_of_the_recurrent_kernels_is_right_given_the_steps_before(shimmed, dtype, batch, channels):
    compare_step_by_step(shimmed, random_case(RECURRENT, (3, batch, channels, 1), dtype, bits=6))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_recurrent_kernels_equal_the_reference_scan_in_every_type(shimmed, dtype):
    compare(shimmed, random_case(RECURRENT, (12, 4, 19, 1), dtype))


@pytest.mark.parametrize("batch, channels", [(100, 20), (3, 130)])
def test_more_tiles_than_blocks_are_worked_off_in_turns(shimmed, batch, channels):
    case = random_case(RECURRENT, (3, batch, channels, 1), bits=3)
    plan = cuda_recurrent._plan(case.x, batch, channels, 3, backward=False)
    rows_of_a_block = 16 * int(plan.definitions[1][-1])
    tiles = -(-channels // cuda_recurrent.NEURONS), plan.rows // rows_of_a_block
    assert plan.grid[0] < tiles[0] or plan.grid[1] < tiles[1]
    compare(shimmed, case)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 36), st.just(1)),
    dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from([1, 2, 3, 5, 8, 32]),
    seed=st.integers(0, 2**31),
    spike_range=st.floats(0.1, 5),
    nans=st.lists(st.integers(0, 10**6), max_size=2),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_and_values_of_the_recurrent_neuron_equal_the_reference(
    shimmed, shape, dtype, bits, seed, spike_range, nans
):
    case = random_case(RECURRENT, shape, dtype, bits, seed=seed, spike_range=spike_range)
    for place in nans:
        case.x.view(-1)[place % case.x.numel()] = float("nan")
    compare(shimmed, case)


SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e30, -1e30, 1e-40)


@given(
    neuron=st.sampled_from(POINTWISE),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3)),
    dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 32]),
    threshold_levels=st.integers(0, 3),
    per_channel=st.booleans(),
    seed=st.integers(0, 2**31),
    spike_range=st.floats(0.01, 20),
    specials=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(SPECIAL)), max_size=4),
    surrogate=st.sampled_from(list(SURROGATES)),
)
@settings(max_examples=200, deadline=None)
def test_any_shape_and_values_equal_the_reference(
    shimmed, neuron, shape, dtype, bits, threshold_levels, per_channel, seed, spike_range, specials, surrogate
):
    threshold_levels = min(threshold_levels, max(0, 2 ** (max(bits, 2) - 1) - 2))
    case = random_case(neuron, shape, dtype, bits, threshold_levels, per_channel, seed, spike_range, surrogate)
    for place, value in specials:
        case.x.view(-1)[place % case.x.numel()] = value
    compare(shimmed, case)

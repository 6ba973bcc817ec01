"""The CUDA kernels on a real GPU, against the reference scan on the same device."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neurons
from neurons.kernels import cuda
from tests.neurons.kernels.comparison import MULTI_BIT, POINTWISE, Case, compare, random_case, same

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
pytest.importorskip("cupy", reason="CuPy is not installed")


def forward(case: Case, keep: bool = False, track: bool = False):
    return cuda.scan_forward(case.neuron, case.x, case.state, case.parameters, case.settings, keep, track)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("neuron", POINTWISE)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
def test_the_kernels_equal_the_reference_scan(neuron, dtype, per_channel):
    compare(cuda, random_case(neuron, (21, 3, 50, 3), dtype, per_channel=per_channel).to("cuda"))


@pytest.mark.parametrize("bits, threshold_levels", [(1, 0), (2, 0), (3, 2), (6, 3), (8, 0), (8, 120), (32, 0)])
@pytest.mark.parametrize("neuron", [name for name in MULTI_BIT if name in POINTWISE])
def test_every_width_of_the_spike_equals_the_reference(neuron, bits, threshold_levels):
    for spike_range in (1e-12, 0.37, 1.7, 3e5):
        compare(
            cuda,
            random_case(
                neuron, (19, 2, 33, 1), bits=bits, threshold_levels=threshold_levels, spike_range=spike_range
            ).to("cuda"),
        )


@pytest.mark.parametrize("neuron", POINTWISE)
def test_many_elements_on_many_blocks_equal_the_reference(neuron):
    compare(cuda, random_case(neuron, (17, 65, 1030, 1), per_channel=True).to("cuda"))


def test_more_elements_than_the_blocks_hold_at_once_are_walked_through_in_turns():
    case = random_case("multibit-lif", (3, 9, 1024, 150), torch.bfloat16, per_channel=True).to("cuda")
    assert case.state[0].numel() > cuda.MOST_BLOCKS * 4 * cuda.WARP
    compare(cuda, case)


@given(
    neuron=st.sampled_from(POINTWISE),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 40), st.integers(1, 5)),
    dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 32]),
    per_channel=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_values_equal_the_reference(neuron, shape, dtype, bits, per_channel, seed):
    compare(cuda, random_case(neuron, shape, dtype, bits, 0, per_channel, seed).to("cuda"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("neuron", POINTWISE)
def test_values_that_are_not_finite_go_where_the_reference_sends_them(neuron, value):
    case = random_case(neuron, (20, 2, 64, 1))
    case.x.view(-1)[torch.arange(0, case.x.numel(), 97)] = value
    compare(cuda, case.to("cuda"))


@pytest.mark.parametrize("neuron", POINTWISE)
def test_the_kernels_run_on_the_current_stream(neuron):
    case = random_case(neuron, (30, 4, 64, 1)).to("cuda")
    expected = forward(case, keep=True)[0].clone()
    late = case._replace(x=torch.zeros_like(case.x))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.x.copy_(case.x)
        y = forward(late, keep=True)[0]
    assert not stream.query(), "the call waited for the device"
    stream.synchronize()
    same(y, expected)


@pytest.mark.parametrize("neuron", POINTWISE)
def test_no_call_waits_for_the_device(neuron):
    case = random_case(neuron, (30, 4, 64, 1)).to("cuda")
    track = neuron in MULTI_BIT
    arguments = (neuron, case.x, case.state, case.parameters, case.settings)

    def step() -> None:
        y, final_state, checkpoints, _ = cuda.scan_forward(*arguments, True, track)
        cuda.scan_backward(*arguments, checkpoints, y, final_state)

    step()  # compiles and loads
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_thread_of_its_own_can_launch():
    case = random_case("multibit-lif").to("cuda")
    expected, found = forward(case)[0], []
    thread = threading.Thread(target=lambda: found.append(forward(case)[0]))
    thread.start()
    thread.join()
    same(found[0], expected)


@pytest.mark.parametrize("neuron", POINTWISE)
def test_a_captured_graph_replays_on_new_input(neuron):
    case = random_case(neuron, (30, 4, 64, 1)).to("cuda")
    forward(case, True, neuron in MULTI_BIT)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _, _, extremes = forward(case, True, neuron in MULTI_BIT)
    case.x.copy_(random_case(neuron, (30, 4, 64, 1), seed=7).x)
    graph.replay()
    expected = forward(case, True, neuron in MULTI_BIT)
    same(y, expected[0])
    same(extremes, expected[3])


@pytest.mark.parametrize("neuron", POINTWISE)
def test_results_are_the_same_every_time(neuron):
    case = random_case(neuron, (25, 16, 300, 1), per_channel=False).to("cuda")
    arguments = (neuron, case.x, case.state, case.parameters, case.settings)
    y, final_state, checkpoints, _ = cuda.scan_forward(*arguments, True, False)
    first = cuda.scan_backward(*arguments, checkpoints, y, final_state)
    for _ in range(5):
        again = cuda.scan_backward(*arguments, checkpoints, y, final_state)
        for one, other in zip((again[0], *again[1], *again[2]), (first[0], *first[1], *first[2])):
            same(one, other)


def test_a_tensor_beyond_two_to_the_31_elements_is_right_at_its_ends():
    batch, channels = 2**21 + 3, 1024
    needed = 40 << 30
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"the device has less than {needed >> 30} GiB free")
    x = torch.empty((2, batch, channels, 1), dtype=torch.bfloat16, device="cuda").normal_()
    membrane = torch.empty((batch, channels, 1), device="cuda").uniform_(-1, 1)
    parameters = [torch.tensor([0.9], device="cuda"), torch.tensor([1.1], device="cuda")]
    y, (final,), _, _ = cuda.scan_forward("learnable-lif", x, [membrane], parameters, [0.3], False, False)
    constants = neurons.LearnableLIFParameters(parameters[0][0], parameters[1][0], 0.3)
    for part in (slice(0, 5), slice(2**20 - 2, 2**20 + 3), slice(batch - 5, batch)):
        state = neurons.MembraneState(membrane[part])
        expected, (last,) = neurons.reference_scan(neurons.learnable_lif_step, x[:, part], state, constants)
        same(y[:, part], expected)
        same(final[part], last)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_the_second_device_works_while_the_first_is_current():
    compare(cuda, random_case("multibit-lif").to("cuda:1"))

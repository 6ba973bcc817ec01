"""The CUDA kernels on a real GPU, against the reference scan on the same device."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import library

import neurons
from neurons.kernels import OPERATORS, cuda
from neurons.surrogate import SURROGATES
from tests.neurons.kernels.comparison import (
    MULTI_BIT,
    POINTWISE,
    Case,
    compare,
    compare_step_by_step,
    distance,
    random_case,
    same,
)

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
pytest.importorskip("cupy", reason="CuPy is not installed")


RECURRENT = "recurrent-gated-lif"
EVERY = (*POINTWISE, RECURRENT)
LAYERS = tuple(name for name in EVERY if name in OPERATORS)
"""Neurons that run a kernel when called as a layer."""


def forward(case: Case, keep: bool = False, track: bool = False):
    return cuda.scan_forward(case.neuron, case.x, case.state, case.parameters, case.settings, keep, track)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("neuron", POINTWISE)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
def test_the_kernels_equal_the_reference_scan(neuron, dtype, per_channel):
    compare(cuda, random_case(neuron, (21, 3, 50, 3), dtype, per_channel=per_channel).to("cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_every_surrogate_gradient_equals_the_reference(surrogate, dtype):
    compare(cuda, random_case("learnable-lif", (21, 3, 50, 3), dtype, surrogate=surrogate).to("cuda"))


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


@pytest.mark.parametrize("bits, threshold_levels", [(1, 0), (4, 0), (8, 3), (32, 0)])
@pytest.mark.parametrize("batch, channels", [(1, 1), (3, 17), (16, 32), (18, 40), (40, 70)])
def test_the_recurrent_kernels_equal_the_reference_scan(batch, channels, bits, threshold_levels):
    case = random_case(RECURRENT, (7, batch, channels, 1), bits=bits, threshold_levels=threshold_levels)
    compare(cuda, case.to("cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_recurrent_kernels_equal_the_reference_scan_in_every_type(dtype):
    compare(cuda, random_case(RECURRENT, (30, 4, 19, 1), dtype).to("cuda"))


@pytest.mark.parametrize("bits", [1, 6, 32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "batch, channels", [(1, 1024), (64, 1024), (64, 512), (300, 256), (33, 1000), (7, 2100), (130, 1100)]
)
def test_every_step_of_the_recurrent_kernels_is_right_given_the_steps_before(dtype, batch, channels, bits):
    compare_step_by_step(cuda, random_case(RECURRENT, (20, batch, channels, 1), dtype, bits=bits).to("cuda"))


def test_many_short_recurrent_scans_never_lose_a_step():
    case = random_case(RECURRENT, (50, 64, 1024, 1), bits=4).to("cuda")
    first = forward(case, keep=True)
    for _ in range(50):
        again = forward(case, keep=True)
        same(again[0], first[0])
        same(again[2], first[2])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("neuron", POINTWISE)
def test_values_that_are_not_finite_go_where_the_reference_sends_them(neuron, value):
    case = random_case(neuron, (20, 2, 64, 1))
    case.x.view(-1)[torch.arange(0, case.x.numel(), 97)] = value
    compare(cuda, case.to("cuda"))


@pytest.mark.parametrize("neuron", EVERY)
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


@pytest.mark.parametrize("neuron", EVERY)
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


@pytest.mark.parametrize("neuron", EVERY)
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


@pytest.mark.parametrize("neuron", EVERY)
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
    settings = [0.3, "triangular", "subtract"]
    y, (final,), _, _ = cuda.scan_forward("learnable-lif", x, [membrane], parameters, settings, False, False)
    constants = neurons.LearnableLIFParameters(parameters[0][0], parameters[1][0], *settings)
    for part in (slice(0, 5), slice(2**20 - 2, 2**20 + 3), slice(batch - 5, batch)):
        state = neurons.MembraneState(membrane[part])
        expected, (last,) = neurons.reference_scan(neurons.learnable_lif_step, x[:, part], state, constants)
        same(y[:, part], expected)
        same(final[part], last)


def layer(name: str) -> neurons.Neuron:
    size = {"channels": 24} if name in ("multibit-synaptic-lif", RECURRENT) else {}
    return neurons.create(name, **size).cuda()


def currents(neuron: neurons.Neuron, inner: tuple[int, ...] = ()) -> torch.Tensor:
    """Input ``[T, B, C, ...]`` whose memory is batch first and channels last."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((6, 13, *inner, 24 * neuron.inputs_per_neuron), generator=generator)
    return x.cuda().transpose(0, 1).movedim(-1, 2)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("inner", [(), (3, 5)])
def test_a_layer_runs_the_kernels_on_input_of_any_memory_layout(name, inner):
    if name == RECURRENT and inner:
        pytest.skip("a recurrent layer takes [T, B, C] only")
    ours, plain = layer(name), layer(name)
    plain.load_state_dict(ours.state_dict())
    plain.backend = "torch"
    x = currents(ours, inner)
    assert not x.is_contiguous()
    results = []
    for neuron in (ours, plain):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y, state = neuron(leaf)
        (y.square().sum() + sum(part.square().sum() for part in state)).backward()
        results.append((y, *state, leaf.grad, *(p.grad for p in neuron.parameters())))
    assert (ours.last_backend, plain.last_backend) == ("cupy", "torch")
    for one, other in zip(*results, strict=True):
        assert distance(one, other) < 1e-4 or not other.any()
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_runs_the_kernels_and_keeps_the_state_in_float32(name, dtype):
    neuron = layer(name)
    x = currents(neuron).to(dtype).requires_grad_()
    with torch.autocast("cuda", dtype):
        y, state = neuron(x)
        y.float().sum().backward()
    assert (neuron.last_backend, y.dtype, x.grad.dtype) == ("cupy", dtype, dtype)
    assert {part.dtype for part in state} == {torch.float32}


@pytest.mark.parametrize("name", LAYERS)
def test_the_operators_pass_torchs_own_checks(name):
    case = random_case(name, (13, 6, 24, 1)).to("cuda")
    for leaf in (case.x, *case.state, *(case.parameters[:-1] if name in MULTI_BIT else case.parameters)):
        leaf.requires_grad_()
    operator = getattr(torch.ops.snn_zoo, f"{name.replace('-', '_')}_scan")
    arguments = case.x, *case.state, *case.parameters, *case.settings, True, name in MULTI_BIT
    library.opcheck(operator, arguments)


@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_layer_runs_the_kernels_without_a_graph_break(name):
    neuron = layer(name)
    x = currents(neuron)
    expected, _ = neuron.eval()(x)
    y, _ = torch.compile(neuron, fullgraph=True)(x)
    same(y, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_the_second_device_works_while_the_first_is_current():
    compare(cuda, random_case("multibit-lif").to("cuda:1"))

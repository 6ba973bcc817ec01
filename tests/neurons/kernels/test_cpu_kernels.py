"""The CPU kernels against the reference scan: outputs, final state, extremes and every gradient."""

import multiprocessing
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neurons
from neurons.kernels import cpu
from neurons.surrogate import RESETS, SURROGATES
from tests.neurons.kernels.comparison import MULTI_BIT, POINTWISE, compare, random_case, same

RECURRENT = "recurrent-gated-lif"
EVERY = (*POINTWISE, RECURRENT)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
every_neuron = pytest.mark.parametrize("neuron", EVERY)


def gradients_of(case):
    y, final_state, checkpoints, _ = cpu.scan_forward(*case, True, False)
    grad_x, grad_state, grad_parameters = cpu.scan_backward(*case, checkpoints, y, final_state)
    return y, *final_state, grad_x, *grad_state, *grad_parameters


@pytest.fixture(params=["torch's threads", "Python's threads"])
def many_small_shares(request, monkeypatch):
    """Four threads, whatever the size: torch's, or the pool that replaces them where torch's cannot be used."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(cpu, "GRAIN", 1)
    if request.param == "Python's threads":
        monkeypatch.setattr(cpu, "_openmp", None)
    elif cpu._openmp is None:
        pytest.skip("torch's threads cannot be used here")
    yield
    torch.set_num_threads(threads)


# The reference's numbers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
@pytest.mark.parametrize("neuron", POINTWISE)
def test_the_kernels_equal_the_reference_scan(neuron, per_channel, dtype):
    compare(cpu, random_case(neuron, (cpu.STEPS + 5, 3, 7, 3), dtype, per_channel=per_channel))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", RESETS)
def test_every_surrogate_gradient_and_reset_equals_the_reference(surrogate, reset, per_channel, dtype):
    names = {"surrogate": surrogate, "reset_mechanism": reset}
    compare(cpu, random_case("learnable-lif", (9, 3, 7), dtype, per_channel=per_channel, **names))


@pytest.mark.parametrize("neuron", POINTWISE)
@pytest.mark.parametrize("shape", [(9, 2, 5), (9, 2, 5, 2, 3)], ids=str)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
def test_any_number_of_dimensions_equals_the_reference(neuron, shape, per_channel):
    compare(cpu, random_case(neuron, shape, per_channel=per_channel))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_recurrent_kernels_equal_the_reference_scan(dtype):
    compare(cpu, random_case(RECURRENT, (cpu.STEPS + 5, 3, 9, 1), dtype))


LEVELS = [(1, 0), (2, 0), (3, 0), (3, 2), (4, 0), (5, 1), (6, 3), (7, 0), (8, 0), (8, 120), (32, 0)]


@pytest.mark.parametrize(("bits", "threshold_levels"), LEVELS)
@pytest.mark.parametrize("neuron", MULTI_BIT)
def test_every_width_and_threshold_of_the_spike_equals_the_reference(neuron, bits, threshold_levels):
    # With a sigmoid, one rounding can change a level: those neurons are compared in float64, where none comes near one.
    dtype = torch.float64 if "gated" in neuron else torch.float32
    shape = (9, 2, 5, 1 if neuron == RECURRENT else 2)
    for spike_range in (1e-12, 0.37, 3e5):
        compare(cpu, random_case(neuron, shape, dtype, bits, threshold_levels, spike_range=spike_range))


@pytest.mark.parametrize("steps", [1, cpu.STEPS - 1, cpu.STEPS, cpu.STEPS + 1, 3 * cpu.STEPS])
@every_neuron
def test_any_number_of_steps_equals_the_reference(neuron, steps):
    compare(cpu, random_case(neuron, (steps, 2, 3, 1), torch.float64))


@pytest.mark.parametrize("shape", [(3, 9, 128), (3, 7, 16, 8), (2, 3, cpu.WIDTH)], ids=str)
@pytest.mark.parametrize("neuron", POINTWISE)
def test_channels_that_divide_a_block_equal_the_reference(neuron, shape):
    compare(cpu, random_case(neuron, shape, per_channel=True))


@pytest.mark.parametrize("elements", [1, cpu.WIDTH - 1, cpu.WIDTH, cpu.WIDTH + 1, 2 * cpu.WIDTH + 3])
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-layer", "per-channel"])
@pytest.mark.parametrize("neuron", POINTWISE)
def test_any_number_of_elements_equals_the_reference(neuron, per_channel, elements):
    compare(cpu, random_case(neuron, (3, 1, elements, 1), per_channel=per_channel))


@settings(max_examples=100, deadline=None)
@given(
    neuron=st.sampled_from(EVERY),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 40), st.integers(1, 5)),
    dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 32]),
    per_channel=st.booleans(),
    seed=st.integers(0, 2**31),
    surrogate=st.sampled_from(list(SURROGATES)),
    reset=st.sampled_from(RESETS),
)
def test_any_shape_and_values_equal_the_reference(neuron, shape, dtype, bits, per_channel, seed, surrogate, reset):
    if neuron == RECURRENT:
        shape = (*shape[:2], min(shape[2], 8), 1)
    names = {"surrogate": surrogate, "reset_mechanism": reset}
    compare(cpu, random_case(neuron, shape, dtype, bits, 0, per_channel, seed, **names))


@settings(max_examples=100, deadline=None)
@given(
    neuron=st.sampled_from(EVERY),
    dtype=st.sampled_from(DTYPES),
    bits=st.sampled_from([1, 4, 8, 32]),
    names=st.tuples(st.sampled_from(list(SURROGATES)), st.sampled_from(RESETS)),
    values=st.lists(
        st.tuples(
            st.integers(0, 2**31),
            # No finite value overflows in a sum of gradients, whose order is the kernel's own.
            st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-30, 6e4, -6e4, 1e30]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_nan_infinities_and_extreme_numbers_go_where_the_reference_sends_them(neuron, dtype, bits, names, values):
    case = random_case(neuron, (19, 2, 5, 1), dtype, bits, surrogate=names[0], reset_mechanism=names[1])
    for place, value in values:
        case.x.view(-1)[place % case.x.numel()] = value
    compare(cpu, case)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@every_neuron
def test_a_state_that_is_not_finite_goes_where_the_reference_sends_it(neuron, value):
    case = random_case(neuron, (5, 2, 5, 1), torch.float64)
    for part in case.state:
        part.view(-1)[3] = value
    compare(cpu, case)


# Numbers of half precision


def through_integrator(x: torch.Tensor, membrane: torch.Tensor):
    y, (final,), *_ = cpu.scan_forward("integrator", x, [membrane], [], [], False, False)
    return y, final


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_precision_number_is_read_and_written_as_torch_does(dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(1, 1, -1, 1)
    y, final = through_integrator(every, torch.zeros(every.shape[1:]))
    same(final, every[0].float() + 0.0)
    same(y, final.to(dtype)[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_numbers_round_to_half_precision_as_torch_rounds_them(dtype, values):
    ties = torch.arange(2**12) * 2.0**-11 + 1  # half of the values lie between two neighbours
    edges = torch.tensor([65504.0, 65519.9, 65520.0, 65536.0, 3.39e38, 2.0**-24, 2.0**-25, 3 * 2.0**-26])
    membrane = torch.cat([torch.tensor(values), ties, edges, -edges]).view(1, -1, 1)
    y, _ = through_integrator(torch.zeros((1, *membrane.shape), dtype=dtype), membrane)
    same(y, membrane.to(dtype)[None] + 0.0)


def test_the_sigmoid_is_right_to_three_units_in_the_last_place():
    f = torch.cat([torch.linspace(-86, 86, 200_001), torch.randn(10_000)])
    x = torch.cat([f, torch.zeros_like(f)]).view(1, 1, -1, 1)
    state = [torch.ones(1, len(f), 1), torch.zeros(1, len(f), 1)]
    # With no candidate and a current of one, the new current is the gate.
    _, (gate, _), *_ = cpu.scan_forward("input-gated-lif", x, state, [torch.tensor([1.0])], [4, 0], False, False)
    exact = torch.sigmoid(f.double())
    spacing = torch.nextafter(exact.float(), torch.tensor(2.0)).double() - exact.float().double()
    assert ((gate.view(-1).double() - exact).abs() / spacing).max() < 3


# Threads and processes


@every_neuron
def test_the_number_of_threads_changes_no_bit(neuron, many_small_shares):
    case = random_case(neuron, (6, 3, 5 * cpu.WIDTH // 2 if neuron != RECURRENT else 70, 1))
    many = gradients_of(case)
    torch.set_num_threads(1)
    for one, other in zip(many, gradients_of(case), strict=True):
        same(one, other)


@pytest.mark.parametrize("neuron", ["learnable-lif", "multibit-synaptic-lif", "input-gated-lif"])
def test_blocks_shared_out_among_threads_equal_the_reference(neuron, many_small_shares):
    compare(cpu, random_case(neuron, (cpu.STEPS + 2, 3, 2 * cpu.WIDTH + 7, 1), torch.float64, per_channel=True))


def test_calls_from_several_threads_at_once_do_not_disturb_each_other(many_small_shares):
    cases = [random_case(neuron, (20, 2, 3 * cpu.WIDTH, 1), seed=seed) for seed, neuron in enumerate(POINTWISE)]
    expected = [gradients_of(case) for case in cases]
    wrong = []

    def repeat(case, alone):
        for _ in range(20):
            if not all(torch.equal(a, b) for a, b in zip(gradients_of(case), alone, strict=True)):
                wrong.append(case.neuron)

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(cases, expected)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_blocks_run_in_several_threads_at_once(many_small_shares):
    barrier = threading.Barrier(2)

    def kernel(start: int, stop: int) -> None:
        barrier.wait(timeout=30)  # passes when two threads wait here

    cpu._run(kernel, (), 4, 1)


def test_an_error_in_a_thread_reaches_the_caller(many_small_shares):
    def kernel(start: int, stop: int) -> None:
        if start > 3:
            raise FloatingPointError("a block failed")

    with pytest.raises(FloatingPointError, match="a block failed"):
        cpu._run(kernel, (), 64, 1)


def scan_in_child(case, results) -> None:
    torch.set_num_threads(3)
    results.put([tensor.tolist() for tensor in gradients_of(case)])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_process_forked_after_threads_have_run_starts_its_own(many_small_shares):
    case = random_case("learnable-lif", (4, 1, 4 * cpu.WIDTH, 1))
    expected = [tensor.tolist() for tensor in gradients_of(case)]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=scan_in_child, args=(case, results))
    child.start()
    assert results.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


class Scanned(torch.utils.data.Dataset):
    """Items scanned by a neuron, as by a data set's transform in a loader's worker."""

    def __init__(self, items: torch.Tensor):
        self.items, self.neuron = items, neurons.MultiBitLIF().eval()

    def __len__(self) -> int:
        return len(self.items)

    @torch.no_grad()
    def __getitem__(self, index: int) -> torch.Tensor:
        return self.neuron(self.items[index][:, None])[0]


def test_a_data_loaders_workers_can_scan():
    data = Scanned(torch.randn(4, 10, 600))
    loaded = torch.cat(list(torch.utils.data.DataLoader(data, batch_size=2, num_workers=2)))
    same(loaded, torch.stack([data[index] for index in range(4)]))


# What is kept


def test_training_keeps_the_state_of_some_steps_and_inference_nothing():
    case = random_case("input-gated-lif", (100, 2, 8, 1))
    checkpoints, nothing = (cpu.scan_forward(*case, keep, False)[2] for keep in (True, False))
    assert checkpoints.numel() == -(-100 // cpu.STEPS) * 2 * case.state[0].numel()
    assert nothing is None


@every_neuron
def test_the_checkpoints_have_the_shape_that_was_foretold(neuron):
    case = random_case(neuron, (cpu.STEPS + 1, 2, 4, 1))
    checkpoints = cpu.scan_forward(*case, True, False)[2]
    assert checkpoints.shape == cpu.checkpoint_shape(neuron, cpu.STEPS + 1, case.state[0].shape)


@every_neuron
def test_the_backward_can_run_twice(neuron):
    case = random_case(neuron, (7, 2, 4, 1))
    y, final_state, checkpoints, _ = cpu.scan_forward(*case, True, False)
    first = cpu.scan_backward(*case, checkpoints, y, final_state)
    second = cpu.scan_backward(*case, checkpoints, y, final_state)
    for one, other in zip((first[0], *first[1], *first[2]), (second[0], *second[1], *second[2]), strict=True):
        same(one, other)


# Where compiled kernels are kept

COUNT = """
import torch, neurons
from neurons.kernels import cpu_kernels
y, _ = neurons.create("integrator")(torch.ones(3, 1, 2))
assert y.flatten().tolist() == [1, 1, 2, 2, 3, 3]
stats = cpu_kernels.integrator_forward.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def count_compiled(folder: Path, environment: dict[str, str]) -> tuple[list[int], str]:
    """Kernels taken from disk and kernels compiled, by a new process, and its warnings."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return [int(count) for count in done.stdout.split()], done.stderr


@pytest.fixture
def package_in_a_folder_that_cannot_be_written(tmp_path) -> Path:
    source = Path(neurons.__file__).parent
    shutil.copytree(source, tmp_path / "neurons", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "neurons" / "kernels" / "__pycache__").touch()  # a file where Numba needs a folder
    return tmp_path


@pytest.mark.slow
def test_a_second_process_takes_the_kernels_from_disk(tmp_path, environment_with_checkout):
    environment = environment_with_checkout | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, _ = count_compiled(tmp_path, environment)
    second, _ = count_compiled(tmp_path, environment)
    assert (first, second) == ([0, 1], [1, 0])


@pytest.mark.slow
def test_kernels_are_kept_in_the_users_cache_where_the_package_cannot_be_written(
    package_in_a_folder_that_cannot_be_written, environment_with_checkout
):
    folder = package_in_a_folder_that_cannot_be_written
    environment = environment_with_checkout | {"PYTHONPATH": str(folder), "HOME": str(folder), "XDG_CACHE_HOME": ""}
    counts = [count_compiled(folder, environment)[0] for _ in range(2)]
    assert counts == [[0, 1], [1, 0]]


def test_kernels_run_with_a_warning_where_no_folder_can_be_written(
    package_in_a_folder_that_cannot_be_written, environment_with_checkout
):
    folder = package_in_a_folder_that_cannot_be_written
    nowhere = {"PYTHONPATH": str(folder), "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    counts, warnings = count_compiled(folder, environment_with_checkout | nowhere)
    assert counts == [0, 1]
    assert "NUMBA_CACHE_DIR" in warnings


def test_products_and_sums_are_rounded_apart_as_torch_rounds_them():
    # leak * V + x is 0 in two instructions, but 3e-8 as one fused instruction, which changes spikes.
    leak, membrane = torch.tensor([1 / 3]), torch.full((1, 64, 1), 3.0)
    x = -leak * membrane[None]
    assert (leak.double() * membrane.double() + x.double()).all()
    constants = [leak, torch.ones(1)], [0.3, "triangular", "subtract"]
    _, (final,), *_ = cpu.scan_forward("learnable-lif", x, [membrane], *constants, False, False)
    assert not final.any()


INTERRUPTED = """
import os, signal, sys, threading, time
import torch, neurons
from neurons.kernels import cpu
from neurons.surrogate import SURROGATES

torch.set_num_threads(2)
if sys.argv[1] == "pool":
    cpu._openmp = None
neuron, x = neurons.LearnableLIF().eval(), torch.randn(100, 64, 512)
with torch.no_grad():
    neuron(x)
    lost = 0
    for trial in range(60):
        wait = 0.0005 * (trial % 7)
        sender = threading.Thread(target=lambda: (time.sleep(wait), os.kill(os.getpid(), signal.SIGINT)))
        try:
            sender.start()
            while sender.is_alive():
                neuron(x)
            neuron(x)
            lost += 1
        except KeyboardInterrupt:
            pass
        sender.join()
print(lost, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize("threads", ["openmp", "pool"])
def test_no_interrupt_is_lost_in_a_scan_on_several_threads(threads):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, threads], capture_output=True, text=True)
    assert done.stdout == "0 True\n", done.stdout + done.stderr

"""Memory of the CPU kernels: reused once nothing holds it, and never before."""

import mmap
import multiprocessing
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import neurons
from neurons.kernels import cpu_memory
from neurons.kernels.cpu_memory import LARGE, empty

LIKE = torch.zeros(1)
MANY = LARGE // LIKE.element_size()


@pytest.fixture(autouse=True)
def nothing_kept():
    cpu_memory.give_back()
    yield
    cpu_memory.give_back()


def kept() -> list[int]:
    """The bytes of the pieces that are free."""
    return [len(piece) for piece in cpu_memory._store.free()]


def test_memory_is_used_again_when_the_last_view_is_gone():
    tensor = empty(LIKE, (2, MANY))
    address, view = tensor.data_ptr(), tensor[1, 5:]
    del tensor
    assert not kept() and empty(LIKE, (2, MANY)).data_ptr() != address
    cpu_memory.give_back()
    del view
    assert kept() == [2 * LARGE]
    assert empty(LIKE.double(), (MANY, 1)).data_ptr() == address


def test_small_tensors_are_torch_s():
    empty(LIKE, (MANY - 1,))
    assert not kept()


def test_the_smallest_piece_that_fits_is_taken_and_none_that_is_much_too_large():
    tensors = [empty(LIKE, (size * MANY,)) for size in (6, 3, 4)]
    tensors.clear()
    assert sorted(kept()) == [3 * LARGE, 4 * LARGE, 6 * LARGE]
    one, three = empty(LIKE, (MANY,)), empty(LIKE, (3 * MANY - 1,))
    assert sorted(kept()) == [4 * LARGE, 6 * LARGE]
    assert three.untyped_storage().nbytes() == 3 * LARGE - 4  # torch.save writes whole storages
    del one, three


def test_what_was_lent_first_goes_first_when_too_much_is_kept(monkeypatch):
    monkeypatch.setattr(cpu_memory, "MOST_KEPT", 4 * LARGE)
    tensors = [empty(LIKE, (size * MANY,)) for size in (1, 2, 3)]
    assert all((tensor.fill_(3) == 3).all() for tensor in tensors)
    tensors.clear()
    assert kept() == [3 * LARGE]
    empty(LIKE, (5 * MANY,))
    assert kept() == [3 * LARGE]  # a piece that cannot be kept displaces no other


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tensor_has_the_type_and_shape_of_torch_s_own(dtype):
    tensor = empty(torch.zeros(1, dtype=dtype), (2, MANY, 3))
    assert tensor.dtype == dtype and tensor.shape == (2, MANY, 3) and tensor.is_contiguous()
    assert not tensor.requires_grad and not tensor.is_inference() and not tensor._is_view()
    with torch.inference_mode():
        assert empty(torch.zeros(1, dtype=dtype), (2, MANY)).is_inference()


def test_outputs_and_gradients_may_be_changed_in_place():
    """Autograd would refuse this if a custom function returned them as views."""
    weight = torch.ones((), requires_grad=True)
    neuron = neurons.create("learnable-lif")
    neuron.backend = "cpu"
    x = torch.rand(16, 64, 1024, requires_grad=True)
    y, _ = neuron(x)
    y.mul_(2).sum().backward()
    expected = 2 * neuron(x)[0]
    assert torch.equal(y, expected) and (x.grad != 0).any()
    with torch.no_grad():
        y, _ = neuron(x)
    assert y.mul_(weight).requires_grad
    x.grad.mul_(weight)
    neuron(x)[0].detach_()


def test_where_the_system_has_no_huge_pages_small_ones_serve(monkeypatch):
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)
    assert (empty(LIKE, (MANY,)).fill_(3) == 3).all()


def test_what_is_kept_goes_back_where_memory_is_short_and_then_torch_decides(monkeypatch):
    empty(LIKE, (MANY,))
    asked = []

    def none_left(*arguments, **options):
        asked.append(kept())
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(cpu_memory.mmap, "mmap", none_left)
    tensor = empty(LIKE, (3 * MANY,)).fill_(3)
    assert asked == [[LARGE], []] and (tensor == 3).all()


def test_memory_that_a_signal_s_handler_takes_first_is_not_taken_twice(monkeypatch):
    empty(LIKE, (4 * MANY,))
    taken = []

    def in_order(pieces, key):  # as if a signal arrived in here
        monkeypatch.undo()
        taken.append(empty(LIKE, (4 * MANY,)).fill_(5))
        return pieces

    monkeypatch.setattr(cpu_memory, "sorted", in_order, raising=False)
    tensor = empty(LIKE, (4 * MANY,)).fill_(3)
    assert (taken[0] == 5).all() and (tensor == 3).all()


def test_nothing_of_python_runs_when_a_tensor_dies():
    """An interrupt that arrived in it would be lost."""
    tensors, called = [empty(LIKE, (MANY,))], []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    tensors.clear()
    sys.setprofile(None)
    assert not called and kept() == [LARGE]


def test_a_tensor_can_be_shared_and_pickled():
    tensor = empty(LIKE, (MANY,)).fill_(3)
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), torch.full((MANY,), 3.0))
    assert tensor.share_memory_().is_shared() and (tensor == 3).all()


def test_threads_never_have_the_same_memory():
    def work(seed: int) -> bool:
        chance, alone = random.Random(seed), True
        for _ in range(20):
            size = chance.choice((MANY, MANY + 100, 2 * MANY))
            tensor = empty(LIKE, (size,)).fill_(seed)
            other = empty(LIKE, (size,)).fill_(-seed)
            alone &= bool((tensor == seed).all() and (other == -seed).all())
        return alone

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(1, 9)))


@pytest.mark.skipif(sys.platform != "linux", reason="processes fork on Linux")
def test_a_forked_process_does_not_write_into_its_parent_s_tensors():
    tensor = empty(LIKE, (MANY,)).fill_(3)
    process = multiprocessing.get_context("fork").Process(target=tensor[:1].fill_, args=(5,))
    process.start()
    process.join()
    assert process.exitcode == 0 and (tensor == 3).all()


def test_scans_of_a_training_loop_use_the_same_memory_again():
    neuron = neurons.create("learnable-lif")
    neuron.backend = "cpu"
    x = torch.randn(16, 64, 1024, requires_grad=True)
    for _ in range(3):
        y, _ = neuron(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert not kept()
        del y, gradient
        assert kept() == [LARGE, LARGE]


KEEPING = """
import torch
from neurons.kernels import cpu_memory

def resident():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024

def after_use():
    "How many MiB are still resident of 64 freed tensors of 1 MiB."
    before = resident()
    tensors = [torch.ones(1 << 18) for _ in range(64)]
    tensors.clear()
    return resident() - before

cpu_memory.keep_freed()
kept = after_use()
before = resident()
cpu_memory.give_back()
print(kept, before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory is looked at in /proc")
def test_a_process_that_keeps_freed_memory_has_it_until_it_is_given_back(environment_with_checkout):
    done = subprocess.run(
        [sys.executable, "-c", KEEPING], env=environment_with_checkout, capture_output=True, text=True, check=True
    )
    kept, given_back = map(int, done.stdout.split())
    assert kept > 50 and given_back > 50

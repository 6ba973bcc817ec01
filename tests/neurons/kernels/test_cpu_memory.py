"""Memory of the CPU's kernels: used again once nothing holds it, and never before."""

import multiprocessing
import pickle
import random
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
    return [len(piece) for piece in cpu_memory._store.pieces]


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


def test_the_smallest_piece_that_fits_is_taken_and_none_twice_as_large():
    tensors = [empty(LIKE, (size * MANY,)) for size in (6, 3, 4)]
    tensors.clear()
    assert sorted(kept()) == [3 * LARGE, 4 * LARGE, 6 * LARGE]
    one, three = empty(LIKE, (MANY,)), empty(LIKE, (3 * MANY - 1,))
    assert sorted(kept()) == [4 * LARGE, 6 * LARGE]
    del one, three


def test_what_was_given_back_first_goes_first_when_too_much_is_kept(monkeypatch):
    monkeypatch.setattr(cpu_memory, "MOST_KEPT", 4 * LARGE)
    tensors = [empty(LIKE, (size * MANY,)) for size in (1, 2, 3)]
    while tensors:
        del tensors[0]
    assert kept() == [3 * LARGE]
    empty(LIKE, (5 * MANY,))
    assert not kept()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tensor_has_the_type_and_shape_of_torch_s_own(dtype):
    tensor = empty(torch.zeros(1, dtype=dtype), (2, MANY, 3))
    assert tensor.dtype == dtype and tensor.shape == (2, MANY, 3) and tensor.is_contiguous()
    assert not tensor.requires_grad and not tensor.is_inference()
    with torch.inference_mode():
        assert empty(torch.zeros(1, dtype=dtype), (2, MANY)).is_inference()


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
    addresses = set()
    for _ in range(3):
        y, _ = neuron(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        addresses.add((y.data_ptr(), gradient.data_ptr()))
        del y, gradient
    assert len(addresses) == 1

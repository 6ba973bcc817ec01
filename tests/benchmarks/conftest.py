"""A benchmark sets the number of threads for the whole process; tests restore it."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)

"""The data of the programs: scikit-learn's handwritten digits, tones that rise, fall or stay, and N-MNIST's events."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recipes import n_mnist


class Split(NamedTuple):
    """Training and test examples with their labels."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits() -> Split:
    """1,797 images ``[1, 8, 8]`` of handwritten digits, grey from 0 to 1, the last 360 for the test.

    Needs scikit-learn.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(found.target)
    return Split(x[:-360], y[:-360], x[-360:], y[-360:])


def tones(seed: int, examples: int = 480, steps: int = 20, bands: int = 16) -> Split:
    """Pictures ``[1, steps, bands]`` of a noisy tone over time, which rises (0), falls (1) or stays (2)."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (examples,), generator=draw)
    slope = torch.tensor([1.0, -1.0, 0.0])[y] * (0.3 + 0.3 * torch.rand(examples, generator=draw))
    middle = bands / 2 + 2 * torch.randn(examples, generator=draw)
    time = torch.arange(steps) - steps / 2
    place = middle[:, None] + slope[:, None] * time
    x = torch.exp(-0.5 * (torch.arange(bands) - place[..., None]) ** 2) / math.sqrt(0.5)
    x = (x + 0.3 * torch.randn(x.shape, generator=draw))[:, None]
    held_out = examples // 4
    return Split(x[held_out:], y[held_out:], x[:held_out], y[:held_out])


FRAMES, AT_ONCE = 28, 4
"""The frames of 10 ms that every recording of N-MNIST has, and how many are added up to one time step."""


@functools.cache
def events(folder: Path) -> Split:
    """Recordings ``[T, 2, 34, 34]`` of digits before an event camera, as numbers of events in each step of 40 ms.

    Raises FileNotFoundError and ValueError as :func:`recipes.n_mnist.read_samples`.
    """
    parts = [n_mnist.read_samples(folder, split) for split in ("train", "val", "test")]
    x = [torch.from_numpy(np.stack([frames[:FRAMES] for frames in part.frames])).float() for part in parts]
    x = [one.unflatten(1, (-1, AT_ONCE)).sum(2) for one in x]
    y = [torch.tensor(part.labels) for part in parts]
    return Split(torch.cat(x[:2]), torch.cat(y[:2]), x[2], y[2])


def batches(split: Split, size: int, updates: int, seed: int):
    """``updates`` random batches of the training examples."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        chosen = torch.randint(len(split.x), (size,), generator=draw)
        yield split.x[chosen], split.y[chosen]

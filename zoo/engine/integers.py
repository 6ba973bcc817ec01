"""Weights as integers of eight bits, with one scale per output channel."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BITS, LARGEST = 8, 127


class IntegerWeight(NamedTuple):
    """``levels [K, N]`` (int8) and ``scale [N]`` (float32): the weight ``[N, K]`` is about ``(levels * scale).T``."""

    levels: np.ndarray
    scale: np.ndarray


def scales(weight: Tensor, bits: int = BITS) -> Tensor:
    """The scale ``[N]`` of each output channel of ``weight [N, ...]``, in float32; 1 for a channel of zeros.

    It is the largest weight over the largest integer (127 of eight bits), rounded up to 12 bits, so that float32 holds
    every integer times it exactly: a weight that was rounded to integers has the same integers again.
    """
    largest = weight.detach().flatten(1).abs().amax(1).float() / largest_of(bits)
    mantissa, exponent = torch.frexp(largest.clamp(min=2.0**-100))
    rounded = torch.ldexp(torch.ceil(mantissa * 2**12) / 2**12, exponent)
    return torch.where(largest > 0, rounded, torch.ones_like(rounded))


def largest_of(bits: int) -> int:
    """The largest integer of so many bits, sign included."""
    return 2 ** (bits - 1) - 1


def levels_of(weight: Tensor, scale: Tensor, bits: int = BITS) -> Tensor:
    """The nearest integers (int8) of ``weight [N, ...]`` with the ``scale [N]``."""
    most = largest_of(bits)
    return (weight / over_outputs(scale, weight)).round_().clamp_(-most, most).to(torch.int8)


def over_outputs(scale: Tensor, weight: Tensor) -> Tensor:
    """``scale [N]``, shaped to broadcast over ``weight [N, ...]``; a scale ``[1, N]`` of ``weight [K, N]`` does so."""
    return scale.view(-1, *[1] * (weight.dim() - 1)) if scale.dim() == 1 else scale


def quantised(weight: Tensor, name: str) -> IntegerWeight:
    """The nearest integers of ``weight [N, K]``. Raises ValueError, with the ``name``, if it is not finite."""
    weight = weight.detach().to("cpu", torch.float32)
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name} has values that are not finite, so the network cannot compute with it")
    scale = scales(weight)
    return IntegerWeight(levels_of(weight, scale).T.contiguous().numpy(), scale.numpy())


@torch.no_grad()
def round_to_integers(weight: Tensor, bits: int = BITS) -> None:
    """Round ``weight [N, ...]``, in place, to what integers of so many bits and a scale per output channel hold."""
    scale = scales(weight, bits)
    weight.copy_(levels_of(weight, scale, bits) * over_outputs(scale, weight))


def exact_integers(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Integers (int8) and scales of a weight, or None if they do not hold it exactly.

    The scales are ``[N]`` for ``weight [N, ...]``; ``[1, N]`` for ``weight [K, N]``, whose outputs come last.
    """
    if weight.dtype != torch.float32 or weight.dim() < 2 or not weight.numel():
        return None
    scale = scales(weight)
    levels = levels_of(weight, scale)
    if torch.equal(levels * over_outputs(scale, weight), weight):
        return levels, scale
    if weight.dim() > 2:
        return None
    scale = scales(weight.T)
    levels = levels_of(weight.T, scale).T.contiguous()
    return (levels, scale.unsqueeze(0)) if torch.equal(levels * scale, weight) else None


EVENTS, INTEGERS, FLOATS = (0.004, 0.034), (0.11, 0.0013), (0.04, 0.013)
"""The time of a product of M rows of spikes, in nanoseconds per weight, as measured on a Xeon with VNNI.

By events it is ``M * (a + b * rate)``, where ``rate`` is the share of spikes that are not zero. By a product of
matrices, with integer units or without, it is ``a + b * M``. Only their relation matters.
"""


def by_events(levels: np.ndarray) -> bool:
    """Whether a product of ``levels [M, K]`` takes less time spike by spike than as a matrix product.

    The result is the same either way.
    """
    rows, whole = len(levels), INTEGERS if has_integer_units() else FLOATS
    as_matrices = whole[0] + whole[1] * rows
    if rows * EVENTS[0] >= as_matrices:  # for many rows, not even silence would be faster
        return False
    rate = np.count_nonzero(levels) / max(1, levels.size)
    return bool(rows * (EVENTS[0] + EVENTS[1] * rate) < as_matrices)


def held_for_products(weights: np.ndarray, largest: int) -> Tensor:
    """Integer weights ``[K, N]`` as :func:`matrix_product` multiplies them with levels up to ``largest``.

    They are the integers themselves or, without integer units, floats, which hold whole numbers exactly if all sums fit
    into the mantissa's bits.
    """
    held = torch.from_numpy(weights)
    if has_integer_units():
        return held
    return held.to(torch.float32 if len(weights) * largest * LARGEST <= 2**24 else torch.float64)


def matrix_product(levels: np.ndarray, weights: Tensor, out: np.ndarray) -> None:
    """``out [M, N] = levels [M, K] @ weights [K, N]``, exact, for weights from :func:`held_for_products`."""
    a, sums = torch.from_numpy(levels), torch.from_numpy(out)
    if weights.dtype == torch.int8:
        torch._int_mm(a, weights, out=sums)
    else:
        sums.copy_(a.to(weights.dtype) @ weights)


@functools.cache
def has_integer_units() -> bool:
    """Whether torch's product of integers is exact here and not much slower than one of floats.

    It is, if the processor has instructions for such products (VNNI) and oneDNN uses them. Otherwise it may have
    intermediate sums in 16 bits, which overflow; or it is computed number by number, which takes many times as long.
    """
    extreme = torch.tensor([LARGEST, -LARGEST], dtype=torch.int8)
    weights = torch.full((64, 64), LARGEST, dtype=torch.int8)
    weights[32:] = -LARGEST
    for rows in (1, 32):
        levels = extreme.repeat_interleave(32).expand(rows, -1).contiguous()
        if not (torch._int_mm(levels, weights) == 64 * LARGEST**2).all():
            return False
    return _seconds(torch._int_mm, torch.int8) < 4 * _seconds(torch.mm, torch.float32)


def _seconds(product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> float:
    """The least time that a small product takes."""
    levels, weights = torch.ones(32, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        product(levels, weights)
        taken.append(time.perf_counter() - begun)
    return min(taken)

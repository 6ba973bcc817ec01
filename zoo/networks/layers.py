"""Layers that several networks share. Sequences are ``[T, B, N]``."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROW_GROUP = 16
"""A product without gradients has a multiple of so many rows, see :func:`whole_row_groups`."""
_adds_rows: ContextVar[bool] = ContextVar("adds_rows", default=True)


@contextmanager
def without_row_groups() -> Iterator[None]:
    """Within it no rows are added, so that whoever counts operations counts those of the input."""
    token = _adds_rows.set(False)
    try:
        yield
    finally:
        _adds_rows.reset(token)


def whole_row_groups(x: Tensor, group: int = ROW_GROUP) -> Tensor:
    """``x [..., rows, N]`` with rows of zeros added, up to a multiple of ``group``; with gradients, as it is.

    A CPU's matrix product adds up in another order for a few rows, and for those left over from groups of rows. In
    whole groups a row of the result is the same bits whatever the other rows are; so it was measured of MKL, with which
    PyTorch is built, in single precision, for up to 768 inputs. (Groups of 8 are enough on an AMD EPYC, 16 are needed
    where MKL uses AVX-512. From about 1,000 inputs on, MKL shares out the inputs among several threads, by the number
    of rows.)
    """
    missing = 0 if torch.is_grad_enabled() or not _adds_rows.get() else -x.shape[-2] % group
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def first_rows(y: Tensor, rows: int) -> Tensor:
    """``y [..., rows, N]`` without what :func:`whole_row_groups` has added."""
    return y if y.shape[-2] == rows else y.narrow(-2, 0, rows)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [..., K]`` times ``weight [N, K]``, plus ``bias [N]``, in whole groups of rows."""
    rows = x.reshape(-1, x.shape[-1])
    y = F.linear(whole_row_groups(rows), weight, bias)
    return first_rows(y, len(rows)).view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """``nn.Linear`` in whole groups of rows, see :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class SequenceDropout(nn.Module):
    """Dropout of ``[T, B, N]`` with one mask for the whole sequence."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        return x * F.dropout(x.new_ones(x.shape[1:]), self.probability)


def at_least_one(config: Any, *names: str) -> None:
    """Raise ValueError unless each of these fields of a network's config is a whole number of at least 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


class ParallelLayerNorm(nn.Module):
    """Layer norm of equal parts of the channels apart from one another (gate and candidate, left and right)."""

    def __init__(self, channels: int, parts: int):
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (self.parts, -1))
        return torch.addcmul(self.bias, F.layer_norm(parts, parts.shape[-1:]).flatten(-2), self.weight)


class TokenConvolution(nn.Module):
    """Convolution over the tokens of ``[T, B, N]`` without bias: centred, or causal with its past as state.

    The state is ``[B, kernel - 1, N]``, the last inputs.
    """

    def __init__(self, channels: int, outputs: int, kernel: int, causal: bool):
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.weight = Linear(kernel * channels, outputs, bias=False)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        steps, margin = len(x), self.kernel - 1
        if past is not None and steps == 1:
            window = torch.cat([past.flatten(1), x[0]], dim=-1)
            return self.weight(window).unsqueeze(0), window[:, x.shape[-1] :].view(len(window), margin, x.shape[-1])
        if not self.causal:
            left = margin // 2
            padded = F.pad(x, (0, 0, 0, 0, left, margin - left))
        elif past is None:
            padded = F.pad(x, (0, 0, 0, 0, margin, 0))
        else:
            padded = torch.cat([past.transpose(0, 1), x])
        windows = torch.cat([padded[i : i + steps] for i in range(self.kernel)], dim=-1)
        return self.weight(windows), padded[steps:].transpose(0, 1) if self.causal else None


def mirrored(x: Tensor, mask: Tensor) -> Tensor:
    """Each sequence of ``x [T, B, N]`` from its end to its start; its padding, where ``mask [T, B, 1]`` is 0, stays."""
    place = torch.arange(len(x), device=x.device).view(-1, 1, 1)
    source = torch.where(mask > 0, mask.sum(0).long() - 1 - place, place)
    return x.gather(0, source.expand_as(x))

"""Layers that several networks share. Sequences are ``[T, B, N]``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.engine.program import Buffer, Program, Spikes

ROW_GROUP = 16
"""Rows per group, see :class:`RowGroups`."""


def whole_row_groups(x: Tensor, group: int) -> Tensor:
    """``x [..., rows, N]``, padded with rows of zeros to a multiple of ``group``."""
    missing = -x.shape[-2] % group
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def first_rows(y: Tensor, rows: int) -> Tensor:
    """``y [..., rows, N]`` without the rows that :func:`whole_row_groups` has added."""
    return y if y.shape[-2] == rows else y.narrow(-2, 0, rows)


class RowGroups(nn.Module):
    """A module that in evaluation mode computes its products in whole groups of rows; in training, without padding.

    For a few rows, and for rows left over from groups, a CPU's matrix product sums in another order. In whole groups, a
    row of the result has the same bits whatever the other rows are. This was measured for MKL, with which PyTorch is
    built, in single precision, for up to 768 inputs. (Groups of 8 are enough on an AMD EPYC, groups of 16 are needed if
    MKL uses AVX-512. From about 1,000 inputs on, MKL divides the inputs among several threads, depending on the number
    of rows.)
    """

    adds_rows = True
    """False within :func:`without_row_groups`."""

    def in_groups(self, x: Tensor, group: int = ROW_GROUP) -> Tensor:
        """``x [..., rows, N]``, padded if the module's products need it."""
        return x if self.training or not self.adds_rows else whole_row_groups(x, group)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x [..., K]`` times ``weight [N, K]``, plus ``bias [N]``."""
        rows = x.reshape(-1, x.shape[-1])
        y = F.linear(self.in_groups(rows), weight, bias)
        return first_rows(y, len(rows)).view(*x.shape[:-1], len(weight))


@contextmanager
def without_row_groups(network: nn.Module) -> Iterator[None]:
    """Context in which ``network`` adds no rows, so that only operations on the input are counted."""
    parts = [module for module in network.modules() if isinstance(module, RowGroups)]
    before = [part.adds_rows for part in parts]
    for part in parts:
        part.adds_rows = False
    try:
        yield
    finally:
        for part, adds in zip(parts, before):
            part.adds_rows = adds


class Linear(nn.Linear, RowGroups):
    """``nn.Linear``, in evaluation mode in whole groups of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)

    def lower(
        self,
        program: Program,
        spikes: tuple[Spikes, ...],
        residual: Buffer | None = None,
        norm: tuple[Tensor, Tensor] | None = None,
    ) -> Buffer:
        return program.linear(spikes, self, residual, norm=norm)


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
    """Separate layer norms of equal parts of the channels (gate and candidate, left and right)."""

    def __init__(self, channels: int, parts: int):
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (self.parts, -1))
        return torch.addcmul(self.bias, F.layer_norm(parts, parts.shape[-1:]).flatten(-2), self.weight)

    def lower(self, program: Program, x: Buffer, masked: bool) -> Buffer:
        return program.norm(x, self.weight, self.bias, self.parts, masked)


class TokenConvolution(nn.Module):
    """Convolution over the tokens of ``[T, B, N]`` without bias: centred, or causal with past inputs as state.

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

    def lower(self, program: Program, spikes: Spikes) -> Buffer:
        margin = self.kernel - 1
        windows = program.windows(spikes, self.kernel, margin if self.causal else margin // 2, self.causal)
        return program.lower(self.weight, (windows,))


def mirrored(x: Tensor, mask: Tensor) -> Tensor:
    """Each sequence of ``x [T, B, N]`` reversed; its padding, where ``mask [T, B, 1]`` is 0, keeps its place."""
    place = torch.arange(len(x), device=x.device).view(-1, 1, 1)
    source = torch.where(mask > 0, mask.sum(0).long() - 1 - place, place)
    return x.gather(0, source.expand_as(x))

"""Layers that several networks share. Sequences are ``[T, B, N]``."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        self.weight = nn.Linear(kernel * channels, outputs, bias=False)

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

"""The binary spike: forward 1 where ``u > 0``; backward one of these surrogate gradients of height ``gamma``::

    "triangular"    gamma * max(0, 1 - |u|)
    "arctan"        gamma / (1 + u^2)

The triangle is that of RR24. It is zero where ``|u| > 1``: a neuron whose membrane stays below 0 cannot learn to fire,
and if a whole layer is silent in this way, training does not recover. The arctan's derivative has a tail, which is
nowhere zero.
"""

import difflib
from typing import Any

import torch
from torch import Tensor

from neurons.spike import in_forward_mode


def _triangle(u: Tensor) -> Tensor:
    return (1 - u.abs()).clamp(min=0)


def _arctan(u: Tensor) -> Tensor:
    return 1 / (1 + u * u)


SURROGATES = {"triangular": _triangle, "arctan": _arctan}
"""The derivative at u, of height 1, by name."""


def check_surrogate(surrogate: Any) -> str:
    """``surrogate``, or a ValueError unless it is the name of one."""
    if isinstance(surrogate, str) and surrogate in SURROGATES:
        return surrogate
    names = " or ".join(f'"{name}"' for name in SURROGATES)
    close = difflib.get_close_matches(str(surrogate), SURROGATES, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise ValueError(f"surrogate must be {names}; got {surrogate!r}{hint}")


def has_tail(surrogate: str) -> bool:
    """Whether it is the one with a tail; the kernels tell the two apart by this."""
    return check_surrogate(surrogate) == "arctan"


class _BinarySpike(torch.autograd.Function):
    """NaN stays NaN."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, gamma: float, surrogate: str) -> Tensor:
        return torch.where(u.isnan(), u, (u > 0).to(u.dtype))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        u, ctx.gamma, ctx.surrogate = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (u,) = ctx.saved_tensors
        return gradient * ctx.gamma * SURROGATES[ctx.surrogate](u), None, None


class _BinarySpikeInForwardMode(_BinarySpike):
    """With the forward-mode derivative, which torch.compile does not support."""

    @staticmethod
    def jvp(ctx, tangent: Tensor, *others) -> Tensor:
        (u,) = ctx.saved_tensors
        return tangent * ctx.gamma * SURROGATES[ctx.surrogate](u)


def binary_spike(u: Tensor, gamma: float, surrogate: str) -> Tensor:
    """1 where ``u > 0``, else 0, with the surrogate gradient of that name."""
    function = _BinarySpikeInForwardMode if in_forward_mode() else _BinarySpike
    return function.apply(u, gamma, check_surrogate(surrogate))

"""The binary spike of a membrane U and a threshold theta, with ``u = U / theta - 1``.

Forward it is 1 where ``u > 0``; backward it has one of these surrogate gradients of height ``gamma``::

    "triangular"    gamma * max(0, 1 - |u|)
    "arctan"        gamma / (1 + u^2)

The triangle is that of RR24. It is zero where ``|u| > 1``: a neuron whose membrane stays below 0 cannot learn to fire,
and if a whole layer is silent in this way, training does not recover. The arctan's derivative has a tail, which is
nowhere zero.

A function from ``U - theta`` to spikes is taken too, with the gradient that it has: the surrogates of snnTorch
(``surrogate.atan()``) and of SpikingJelly (``surrogate.ATan()``) are such functions. The kernels know only the names,
so with a function the scan runs step by step in torch.
"""

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neurons.spike import apply, in_forward_mode


def _triangle(u: Tensor) -> Tensor:
    return (1 - u.abs()).clamp(min=0)


def _arctan(u: Tensor) -> Tensor:
    return 1 / (1 + u * u)


SURROGATES = {"triangular": _triangle, "arctan": _arctan}
"""The derivative at u, of height 1, by name."""


Surrogate = str | Callable[[Tensor], Tensor]
"""The name of a surrogate gradient, or a function from membrane minus threshold to spikes."""


def check_surrogate(surrogate: Any) -> Surrogate:
    """``surrogate``, or a ValueError unless it is the name of one."""
    if isinstance(surrogate, str) and surrogate in SURROGATES:
        return surrogate
    names = " or ".join(f'"{name}"' for name in SURROGATES)
    close = difflib.get_close_matches(str(surrogate), SURROGATES, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise ValueError(f"surrogate must be {names}, or a function with a gradient; got {surrogate!r}{hint}")


def checked_surrogate(surrogate: Any) -> Surrogate:
    """``surrogate``, or a ValueError unless it is the name of one or a function that maps a tensor to spikes."""
    if isinstance(surrogate, str) or not callable(surrogate):
        return check_surrogate(surrogate)
    tried = torch.tensor([-0.5, 0.5], requires_grad=True)
    try:
        with torch.enable_grad():
            spikes = surrogate(tried)
        fires = isinstance(spikes, Tensor) and spikes.tolist() == [0, 1] and spikes.requires_grad
    except (TypeError, RuntimeError, AttributeError, NotImplementedError):
        fires = False
    if not fires:
        raise ValueError(
            "a surrogate that is a function takes a tensor, membrane minus threshold, and returns 1 where it is above "
            "0 and 0 where it is below, with a gradient. Those of the libraries are made by a call, as in "
            f"surrogate.atan() of snnTorch or surrogate.ATan() of SpikingJelly; got {surrogate!r}"
        )
    return surrogate


RESETS = ("subtract", "zero", "none")
"""What a spike does to the membrane: it subtracts the threshold, leaves zero, or does nothing."""


def check_reset(mechanism: Any) -> str:
    """``mechanism``, or a ValueError unless it is the name of a reset."""
    if isinstance(mechanism, str) and mechanism in RESETS:
        return mechanism
    close = difflib.get_close_matches(str(mechanism), RESETS, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise ValueError(f'reset_mechanism must be "subtract", "zero" or "none"; got {mechanism!r}{hint}')


def flags(surrogate: Surrogate, reset_mechanism: str) -> int:
    """The names as the kernels take them: bit 0, a surrogate with a tail; bit 1, a reset to zero; bit 2, no reset."""
    tail, reset = check_surrogate(surrogate) == "arctan", check_reset(reset_mechanism)
    return tail + 2 * (reset == "zero") + 4 * (reset == "none")


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


def binary_spike(membrane: Tensor, threshold: Tensor, gamma: float, surrogate: Surrogate) -> Tensor:
    """1 where the membrane exceeds the threshold, else 0, with this surrogate gradient."""
    if callable(surrogate):
        return surrogate(membrane - threshold)
    function = _BinarySpikeInForwardMode if in_forward_mode() else _BinarySpike
    return apply(function, membrane / threshold - 1, gamma, check_surrogate(surrogate))

"""The binary spike of a membrane U and a threshold theta, with ``u = U / theta - 1``.

Forward it is 1 where ``u > 0``; backward it has one of these surrogate gradients of height ``gamma``::

    "triangular"    gamma * max(0, 1 - |u|)
    "arctan"        gamma / (1 + u^2)

The triangle is that of RR24. It is zero where ``|u| > 1``: a neuron whose membrane stays below 0 cannot learn to fire,
and if a whole layer is silent in this way, training does not recover. The arctan's derivative has a tail, which is
nowhere zero.

A function from ``U - theta`` to spikes is taken too, with the gradient that it has: the surrogates of snnTorch
(``surrogate.atan()``) and of SpikingJelly (``surrogate.ATan()``) are such functions. The kernel of the CPU computes
those whose gradient is ``height * S(slope * (U - theta))`` with an S of :data:`SHAPES` (:func:`known`): ``atan``,
``fast_sigmoid`` and ``sigmoid`` of snnTorch; ``ATan``, ``Sigmoid``, ``PiecewiseQuadratic``, ``SoftSign`` and
``SuperSpike`` of SpikingJelly. With any other function the scan runs step by step in torch.
"""

import difflib
import functools
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from neurons.checks import is_real
from neurons.spike import apply, in_forward_mode


def _triangle(u: Tensor) -> Tensor:
    return (1 - u.abs()).clamp(min=0)


def _arctan(u: Tensor) -> Tensor:
    return 1 / (1 + u * u)


def _fast_sigmoid(u: Tensor) -> Tensor:
    return (1 + u.abs()) ** -2


def _sigmoid(u: Tensor) -> Tensor:
    value = torch.sigmoid(u)
    return value * (1 - value)


SURROGATES = {"triangular": _triangle, "arctan": _arctan}
"""The derivative at u, of height 1, by name."""

SHAPES = {**SURROGATES, "fast_sigmoid": _fast_sigmoid, "sigmoid": _sigmoid}
"""The derivatives that the libraries' surrogates have, S of :class:`Known`: also ``1 / (1 + |z|)^2`` and
``sigmoid(z) (1 - sigmoid(z))``."""


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


class Known(NamedTuple):
    """A library's surrogate: the gradient ``height * S(slope * (U - theta))``, with S a name of :data:`SHAPES`."""

    shape: str
    height: float
    slope: float
    fires_at_threshold: bool
    """Whether it fires where U equals theta."""

    @property
    def name(self) -> str:
        """All but the height, as the operators take it: a string."""
        return f"{self.shape} {self.slope!r} {'>=' if self.fires_at_threshold else '>'}"

    @classmethod
    def from_name(cls, height: float, name: str) -> "Known":
        shape, slope, fires = name.split()
        return cls(shape, height, float(slope), fires == ">=")


_SNNTORCH, _SPIKINGJELLY = "snntorch.surrogate", "spikingjelly.activation_based.surrogate"
_LIBRARIES: dict[str, dict[str, tuple[str, Callable[[float], tuple[float, float]]]]] = {
    _SNNTORCH: {
        "atan": ("arctan", lambda alpha: (alpha / 2, math.pi / 2 * alpha)),
        "fast_sigmoid": ("fast_sigmoid", lambda slope: (1.0, slope)),
        "sigmoid": ("sigmoid", lambda slope: (slope, slope)),
    },
    _SPIKINGJELLY: {
        "ATan": ("arctan", lambda alpha: (alpha / 2, math.pi / 2 * alpha)),
        "Sigmoid": ("sigmoid", lambda alpha: (alpha, alpha)),
        "PiecewiseQuadratic": ("triangular", lambda alpha: (alpha, alpha)),
        "SoftSign": ("fast_sigmoid", lambda alpha: (alpha / 2, alpha)),
        "SuperSpike": ("fast_sigmoid", lambda alpha: (alpha, 1.0)),
    },
}
"""By module and name: the shape, and its height and slope from the one parameter that the library's has."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_AT = (-3.0, -1.1, -0.6, -0.1, 0.0, 0.1, 0.7, 1.2, 4.0)
"""Where a library's surrogate is compared with what is known of it."""


def known(surrogate: Any) -> Known | None:
    """What is known of a surrogate that is a function; None if it is none of :data:`_LIBRARIES`, or was changed."""
    module, name, parameter = _origin(surrogate)
    if name not in _LIBRARIES.get(module, {}) or not is_real(parameter) or not 0 < parameter < math.inf:
        return None
    return _compared(module, name, float(parameter))


def _origin(surrogate: Any) -> tuple[str, str, Any]:
    """The library's module that made it, its name there, and its parameter; an empty module if a part was replaced."""
    kind = type(surrogate)
    if kind.__module__ == _SPIKINGJELLY:
        values = vars(surrogate)
        plain = values.get("spiking") is True and "forward" not in values and not any(map(values.get, _HOOKS))
        return (_SPIKINGJELLY if plain else ""), kind.__name__, values.get("alpha")
    code = getattr(surrogate, "__code__", None)
    if getattr(surrogate, "__module__", None) != _SNNTORCH or code is None or len(code.co_freevars) != 1:
        return "", "", None
    name = surrogate.__qualname__.split(".")[0]
    maker = getattr(sys.modules.get(_SNNTORCH), name, None)
    same = code in getattr(getattr(maker, "__code__", None), "co_consts", ())
    return (_SNNTORCH if same else ""), name, surrogate.__closure__[0].cell_contents


@functools.lru_cache
def _compared(module: str, name: str, parameter: float) -> Known | None:
    """What is known of a library's surrogate with this parameter, if the installed release computes that."""
    shape, of_parameter = _LIBRARIES[module][name]
    height, slope = of_parameter(parameter)
    function, at = getattr(sys.modules[module], name)(parameter), torch.tensor(_AT, dtype=torch.float64)
    # Hooks of its own: those of an activation checkpoint would count what is saved here.
    with torch.inference_mode(False), torch.enable_grad(), saved_tensors_hooks(lambda x: x, lambda x: x):
        over = (at / slope).requires_grad_()
        spikes = function(over)
        (gradient,) = torch.autograd.grad(spikes.sum(), over)
    fires = bool(spikes[_AT.index(0.0)])
    wanted = at >= 0 if fires else at > 0
    same = torch.equal(spikes.bool(), wanted) and torch.allclose(gradient, height * SHAPES[shape](at), rtol=1e-5)
    return Known(shape, height, slope, fires) if same else None


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

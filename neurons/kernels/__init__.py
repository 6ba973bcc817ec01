"""Fused kernels for the scans of the neurons, and the choice between them.

A neuron's ``backend`` says what runs its scan over a sequence:

- ``"cpu"``: kernels compiled by Numba, for tensors on the CPU;
- ``"cupy"``: CUDA kernels compiled by CuPy, for tensors on a GPU;
- ``"torch"``: the readable step in a loop, on any device; the reference;
- ``"auto"``, the default: the kernel for the device of the input. ``"torch"`` runs in its place where the neuron has
  no kernel (one registered elsewhere, or a range that moves at every step), and, with a warning, where what
  the kernel needs is not installed.

After a call, the neuron's ``last_backend`` says what ran.
"""

import functools
import importlib.util
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurons.kernels.operators import OPERATORS, scan

if TYPE_CHECKING:
    from neurons.neuron import Neuron

__all__ = ["BACKENDS", "OPERATORS", "available", "check_backend", "choose", "scan"]

BACKENDS = ("auto", "torch", "cpu", "cupy")
_BACKEND_OF_DEVICE = {"cpu": "cpu", "cuda": "cupy"}
_LIBRARIES = {"cpu": "numba", "cupy": "cupy"}
_INSTALL = {"cpu": "pip install numba", "cupy": 'pip install "snn-zoo[cupy]"'}
_INSTALLED = {backend: importlib.util.find_spec(library) is not None for backend, library in _LIBRARIES.items()}


def available() -> tuple[str, ...]:
    """The backends that can run here: "torch" always, "cpu" with Numba, "cupy" with CuPy and a CUDA device."""
    usable = {"torch": True, "cpu": _INSTALLED["cpu"], "cupy": _INSTALLED["cupy"] and torch.cuda.is_available()}
    return tuple(backend for backend, can_run in usable.items() if can_run)


def check_backend(backend: str) -> str:
    """``backend``, or ValueError for an unknown one, ImportError with the install line for one not installed."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    if not _INSTALLED.get(backend, True):
        raise ImportError(f'backend "{backend}" needs {_LIBRARIES[backend]}; install it with: {_INSTALL[backend]}')
    return backend


def choose(neuron: "Neuron", x: Tensor) -> str:
    """The backend that ``neuron`` runs a scan of ``x`` with: never "auto".

    Raises ValueError where the backend that the neuron asks for cannot run this neuron or this tensor.
    """
    asked, device = neuron.backend, x.device.type
    if asked == "torch":
        return asked
    why_not, backend = neuron.reference_only(), _BACKEND_OF_DEVICE.get(device)
    if asked == "auto":
        if why_not is not None:
            return "torch"
        if backend is None or not _INSTALLED[backend]:
            hint = "" if backend is None else f"; install it with: {_INSTALL[backend]}"
            _warn_once(f"no fused kernel for tensors on {device}, the slower torch loop runs the scan{hint}")
            return "torch"
        return backend
    if why_not is not None:
        raise ValueError(f'{why_not}: it runs with backend "torch" or "auto", not "{asked}"')
    if backend != asked:
        raise ValueError(f'backend "{asked}" cannot scan a tensor on {x.device}; "auto" takes any device')
    check_backend(asked)
    return asked


def _warn_once(message: str) -> None:
    if not torch.compiler.is_compiling():
        _warn(message)


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)

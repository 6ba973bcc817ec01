"""Fused kernels for the scans of the neurons, and the choice between them.

A neuron's ``backend`` says what runs its scan over a sequence:

- ``"cpu"``: kernels compiled by Numba, for tensors on the CPU;
- ``"cupy"``: CUDA kernels compiled by CuPy, for tensors on a GPU;
- ``"torch"``: the readable step in a loop, on any device; the reference;
- ``"auto"``, the default: the kernel for the device of the input. ``"torch"`` runs instead if the neuron has no kernel
  (one registered elsewhere, or one whose range moves at every step) and, with a warning, if a library that the kernel
  needs is missing. It also runs instead where only torch's own operators are known: in an export to ONNX, and while
  SpikingJelly's counters count.

After a call, the neuron's ``last_backend`` says what ran.
"""

import functools
import importlib.util
import os
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from neurons.kernels.operators import OPERATORS, Kernel, scan

__all__ = ["BACKENDS", "OPERATORS", "Kernel", "available", "check_backend", "choose", "missing", "scan"]

BACKENDS = ("auto", "torch", "cpu", "cupy")
_BACKEND_OF_DEVICE = {"cpu": "cpu", "cuda": "cupy"}
_LIBRARIES = {"cpu": "numba", "cupy": "cupy"}
_INSTALL = {"cpu": "pip install numba", "cupy": 'pip install "snn-zoo[cupy]"'}
_INSTALLED = {backend: importlib.util.find_spec(library) is not None for backend, library in _LIBRARIES.items()}


def available() -> tuple[str, ...]:
    """The backends that can run here: "torch" always, "cpu" with Numba, "cupy" with CuPy and a CUDA device."""
    usable = [backend for backend in ("torch", "cpu", "cupy") if missing(backend) is None]
    return tuple(backend for backend in usable if backend != "cupy" or torch.cuda.is_available())


def missing(backend: str) -> str | None:
    """What a backend needs and does not find here, with how to install it; None if it can run."""
    if not _INSTALLED.get(backend, True):
        return f"{_LIBRARIES[backend]}; install it with: {_INSTALL[backend]}"
    if backend == "cpu" and not _numba_compiles():
        return "a Numba that compiles, and NUMBA_DISABLE_JIT is set; start Python without it"
    return None


@functools.cache
def _numba_compiles() -> bool:
    """Whether Numba compiles. It reads this setting once, when it is imported."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def check_backend(backend: str) -> str:
    """``backend``; ValueError for an unknown one, ImportError with the remedy for one that cannot run here."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    if (needed := missing(backend)) is not None:
        raise ImportError(f'backend "{backend}" needs {needed}')
    return backend


def choose(neuron: Any, x: Tensor) -> str:
    """The backend that runs a scan of ``x`` by ``neuron``: never "auto".

    Raises ValueError if the backend that the neuron asks for cannot run this neuron or take this tensor.
    """
    asked, device = neuron.backend, x.device.type
    if asked == "torch":
        return asked
    why_not, backend = neuron.reference_only(), _BACKEND_OF_DEVICE.get(device)
    if asked == "auto":
        if why_not is not None or _only_torch_is_known():
            return "torch"
        needed = None if backend is None else missing(backend)
        if backend is not None and needed is None:
            return backend
        hint = "" if needed is None else f"; it needs {needed}"
        _warn_once(f"no fused kernel for tensors on {device}, the slower torch loop runs the scan{hint}")
        return "torch"
    if why_not is not None:
        raise ValueError(f'{why_not}: it runs with backend "torch" or "auto", not "{asked}"')
    if backend != asked:
        raise ValueError(f'backend "{asked}" cannot scan a tensor on {x.device}; "auto" takes any device')
    check_backend(asked)
    return asked


def _only_torch_is_known() -> bool:
    """Whether an observer is active that knows only torch's operators: the export to ONNX, SpikingJelly's counters."""
    if torch.onnx.is_in_onnx_export():
        return True
    if torch.compiler.is_compiling():
        return False
    watching = _get_current_dispatch_mode_stack() if torch._C._len_torch_dispatch_stack() else []
    return any(type(mode).__module__.startswith("spikingjelly.") for mode in watching)


def _warn_once(message: str) -> None:
    if not torch.compiler.is_compiling():
        _warn(message)


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)

"""Packages that recipes need: those of the extra ``train``, and others."""

import importlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def need(purpose: str, *packages: str) -> None:
    """Raise ImportError with the install command if a package of the extra ``train`` is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'{purpose} needs {package}; install it with: pip install "snn-zoo[train]"')


def need_package(purpose: str, package: str) -> None:
    """Raise ImportError with the install command if a ``package`` that no extra has is missing."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{purpose} needs {package}; install it with: pip install {package}")


def png(drawn: Any) -> bytes:
    """A matplotlib figure as a PNG file."""
    file = io.BytesIO()
    drawn.savefig(file, dpi=110, format="png")
    return file.getvalue()


@contextmanager
def nothing_broken() -> Iterator[None]:
    """Context in which torchvision and torchaudio look as if they were missing, where they cannot be imported.

    SpikingJelly brings them, in builds for CUDA that fail beside a CPU build of torch. ``transformers``, which peft
    imports, takes them for usable and fails too.
    """
    hidden = []
    for name in ("torchvision", "torchaudio"):
        try:
            importlib.import_module(name)
        except Exception:
            sys.modules[name] = None  # type: ignore[assignment]
            hidden.append(name)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]

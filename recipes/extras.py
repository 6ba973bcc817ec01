"""The packages of the extra ``train``."""

import importlib.util
import io
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

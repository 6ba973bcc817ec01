"""The packages of the extra ``train``."""

import importlib.util


def need(purpose: str, *packages: str) -> None:
    """Raise ImportError, with what installs it, for a package of the extra ``train`` that is not there."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'{purpose} needs {package}; install it with: pip install "snn-zoo[train]"')

"""A zoo of pretrained spiking networks for sequences.

::

    import zoo

    model = zoo.load("lite-snn-multi30k")
    model.translate(["Ein Hund rennt durch den Schnee."])

Importing this package is light: PyTorch is imported when a model is loaded or saved.
"""

from typing import TYPE_CHECKING

from zoo import registry
from zoo.registry import ModelInfo, info, list_models
from zoo.version import __version__

if TYPE_CHECKING:
    from zoo.adapting import freeze
    from zoo.explaining import explain
    from zoo.loading import load, pipeline
    from zoo.profiling import profile
    from zoo.publishing import publish
    from zoo.saving import save

__all__ = [
    "ModelInfo",
    "__version__",
    "explain",
    "freeze",
    "info",
    "list_models",
    "load",
    "pipeline",
    "profile",
    "publish",
    "registry",
    "save",
]

_NEED_TORCH = {
    "explain": "zoo.explaining",
    "freeze": "zoo.adapting",
    "load": "zoo.loading",
    "pipeline": "zoo.loading",
    "profile": "zoo.profiling",
    "publish": "zoo.publishing",
    "save": "zoo.saving",
}


def __getattr__(name: str):
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    import importlib

    function = getattr(importlib.import_module(_NEED_TORCH[name]), name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEED_TORCH})

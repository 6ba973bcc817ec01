"""What the zoo knows by name: architectures (the code of networks) and bundled models (their weights).

An architecture is an ``nn.Module`` that can be rebuilt from JSON and a few bytes::

    @zoo.registry.register_architecture("translator")
    class Translator(nn.Module):
        task = "translation"                          # one of zoo.tasks.TASKS
        config: dict                                  # all that rebuilds the network, as for JSON

        def assets(self): ...                         # {"tokenizer.json": bytes}; {} if there are none

        @classmethod
        def from_config(cls, config, assets): ...     # the reverse of the two; weights of any value

        def translate(self, sentences): ...           # the method of its task
        def check(self, text, where): ...             # if it takes texts: ValueError for a bad one

A bundled model is a folder in ``model_cards`` (:mod:`zoo.files` says what it holds). Nothing here imports torch.
"""

import fnmatch
import functools
import importlib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from zoo import errors, files, tasks
from zoo.metrics import check_metrics
from zoo.tasks import TASKS

MODEL_CARDS = Path(__file__).resolve().parent.parent / "model_cards"
"""The folder of bundled models; it is beside this package, both in a checkout and in an installation."""

SOURCES = ("package", "hub")
"""Where the weights of a bundled model come from."""


class Pin(NamedTuple):
    """Where a bundled model is on the Hub, with the commit that never changes."""

    repo: str
    commit: str


PUBLISHED: dict[str, Pin] = {}
"""The bundled models that are on the Hub, as ``snn-zoo publish --all ORG`` prints them; none is yet."""

_architectures: dict[str, type[Any]] = {}


def register_architecture(name: str):
    """Class decorator: register a network under ``name``, so that it can be saved and loaded.

    A class that is defined again, as when a notebook cell is run again, replaces the earlier one. Raises ValueError for
    a taken name or an unknown task, TypeError for a class that lacks ``from_config``, ``assets`` or what its task
    needs: the method, ``check`` if the task takes texts, ``stream`` if it streams.

    ``from_config`` is called twice when a model is loaded: on torch's meta device, to compare the network with the
    weights before memory is allocated, and on the CPU. The number of modules, parameters and buffers may be at most 256
    plus 16 per tensor of its weights: a config that asks for more is refused.
    """

    def decorate(network: type[Any]) -> type[Any]:
        needed = ["from_config", "assets", *tasks.named(getattr(network, "task", None)).needed]
        missing = [name for name in needed if not callable(getattr(network, name, None))]
        if missing:
            raise TypeError(
                f"{network!r} cannot be the architecture {name!r}: it has no {'() and no '.join(missing)}()"
            )
        before = _architectures.get(name)
        if before is network or (before is not None and not _is_defined_again(before, network)):
            raise ValueError(f"the architecture name {name!r} is taken by {before.__qualname__}")
        network.architecture = name
        if "forward" in vars(network):
            network.forward = _refusing_texts(network.forward, network.task)
        _architectures[name] = network
        return network

    return decorate


def _refusing_texts(forward: Callable[..., Any], task: str) -> Callable[..., Any]:
    """``forward``, which takes tensors, with an error that names the method of ``task`` for one who gives it texts."""

    @functools.wraps(forward)
    def checked(self: Any, *inputs: Any, **options: Any) -> Any:
        first = inputs[0] if inputs else None
        if isinstance(first, list | tuple) and first:
            first = first[0]
        if isinstance(first, str):
            raise errors.takes_tensors(self, tasks.named(task).call)
        return forward(self, *inputs, **options)

    return checked


def _is_defined_again(before: type, now: type) -> bool:
    """Whether ``now`` is the class ``before``, defined again by the same code."""
    return (before.__module__, before.__qualname__) == (now.__module__, now.__qualname__)


def architecture(name: str) -> type[Any]:
    """The class registered under ``name``; its module is imported if necessary. ValueError for an unknown name."""
    modules = {network: module for task in TASKS.values() for network, module in task.networks.items()}
    if name not in _architectures and name in modules:
        importlib.import_module(modules[name])
    if name not in _architectures:
        raise errors.unknown("architecture", name, {*_architectures, *modules})
    return _architectures[name]


def is_registered(network: type) -> bool:
    """Whether this class itself is registered; a subclass of an architecture is not, as it would load as its parent."""
    return network in _architectures.values()


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it, from its ``config.json`` and ``metrics.json``."""

    name: str
    architecture: str
    task: str
    parameters: int
    """Number of trained values; tied weights count once."""
    bytes: int
    """Size of the weights and the files the model needs, in bytes."""
    summary: str
    scores: dict[str, float]
    """The model's row of the results, without its name."""
    licence: str | None
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def main_score(self) -> str | None:
        """The column of the most important measured score; None without scores.

        Scores on test data come first, and among these the task's main score.
        """
        scores, main = self.metrics.get("scores", {}), tasks.named(self.task).score.type
        measured = [column for column in scores if self.scores.get(column) is not None]
        measured.sort(
            key=lambda column: (not scores[column]["split"].startswith("test"), scores[column]["type"] != main)
        )
        return measured[0] if measured else None


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Sorted names of the bundled models that match ``pattern``, as for file names (``*imdb*``).

    ``task`` keeps only the models of that task; ValueError for an unknown task.
    """
    if task is not None:
        tasks.named(task)
    names = fnmatch.filter(_bundled(), pattern)
    return [name for name in names if task is None or files.read_config(MODEL_CARDS / name)["task"] == task]


def best(task: str) -> str:
    """The name of the bundled model of ``task`` with the best main score; ValueError for a task without a model."""
    found = [info(name) for name in list_models(task=task)]
    if not found:
        raise errors.no_model_for(task, sorted({info(name).task for name in list_models()}))
    merit = tasks.named(task).score.merit
    return max(found, key=lambda model: merit(model.scores[model.main_score]) if model.main_score else -math.inf).name


def info(name_or_repo_or_folder: str | os.PathLike, *, revision: str | None = None) -> ModelInfo:
    """What is known of a model without loading it; the argument is as for :func:`zoo.load`."""
    folder = locate(name_or_repo_or_folder, revision, only=[files.CONFIG, files.METRICS])
    config = files.read_config(folder)
    metrics = _checked_metrics(folder, config["name"])
    own: dict[str, Any] = next((row for row in metrics.get("results", []) if row["name"] == config["name"]), {})
    return ModelInfo(
        name=config["name"],
        architecture=config["architecture"],
        task=config["task"],
        parameters=config["parameters"],
        bytes=sum(entry["bytes"] for entry in config["files"].values()),
        summary=metrics.get("summary", ""),
        scores={column: value for column, value in own.items() if column != "name"},
        licence=metrics.get("licence"),
        folder=folder,
        config=config,
        metrics=metrics,
    )


def _checked_metrics(folder: Path, name: str) -> dict[str, Any]:
    """What was measured of the model ``name``; DamagedModelError if the file does not have the layout of metrics."""
    metrics = files.read_metrics(folder)
    try:
        check_metrics(name, metrics)
    except ValueError as error:
        raise errors.bad_config(folder / files.METRICS, f"holds no metrics: {error}") from error
    return metrics


def locate(
    name: str | os.PathLike, revision: str | None = None, only: list[str] | None = None, source: str = "package"
) -> Path:
    """The folder of a model, found only by the form of its name.

    A ``Path``, or text that starts as a path does (``./``, ``../``, ``~``, an absolute one), is a local
    folder; ``org/name`` is a repository on the Hub (``only`` names the files wanted); a bare name is a bundled model,
    of this package or, with the ``source`` "hub", at its commit in :data:`PUBLISHED`, unless ``revision`` says another.
    Raises ValueError for an unknown name, and for ``org/name`` if there is also a model folder of that name, unless
    ``revision`` says that the Hub is meant; FileNotFoundError for a missing folder, and NotADirectoryError for a file.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a model is named by text or a path; got {type(name).__name__}")
    if source not in SOURCES:
        raise errors.unknown("source of models", source, SOURCES)
    if is_repository(name):
        if revision is None and (Path(name) / files.CONFIG).is_file():
            raise errors.repository_or_folder(name)
        from zoo import hub

        return hub.snapshot(name, revision, only)
    if source == "hub":
        from zoo import hub

        pin = _pin(name)
        return hub.snapshot(pin.repo, revision or pin.commit, only)
    if revision is not None:
        raise ValueError(f"revision={revision!r} chooses a commit on the Hub (org/name); {str(name)!r} is not there")
    if not isinstance(name, str) or is_path(name):
        try:
            folder = Path(name).expanduser()
        except RuntimeError:  # the home folder of an unknown user
            folder = Path(name)
        if folder.is_file():
            raise NotADirectoryError(f"{str(name)!r} is a file; a model is the folder that its {files.CONFIG} is in")
        if not folder.is_dir():
            raise errors.no_folder(str(name), files.previous_of(folder))
        if not os.path.lexists(folder / files.CONFIG):
            models = sorted(config.parent for config in folder.glob(f"*/{files.CONFIG}"))
            if models:
                raise errors.folder_of_models(folder, models)
        return folder
    if name not in _bundled():
        raise errors.unknown_model(name, _bundled())
    return MODEL_CARDS / name


def _pin(name: str | os.PathLike) -> Pin:
    """Where the bundled model ``name`` is on the Hub; ValueError for another name, or if it was not published."""
    if not isinstance(name, str) or is_path(name):
        raise ValueError(f"source='hub' is for the name of a bundled model; {str(name)!r} is a folder")
    if name not in PUBLISHED and name in _bundled():
        raise errors.not_on_the_hub(name)
    if name not in PUBLISHED:
        raise errors.unknown_model(name, {*PUBLISHED, *_bundled()})
    return PUBLISHED[name]


def is_repository(name: object) -> TypeGuard[str]:
    """Whether this has the form of a repository's name on the Hub, ``org/name``."""
    return (
        isinstance(name, str)
        and re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
        and not name.startswith(("./", "../"))
    )


def is_path(name: str | os.PathLike) -> bool:
    """Whether a name is that of a local folder, by its form."""
    return (
        not isinstance(name, str)
        or name in (".", "..", "~")
        or name.replace("\\", "/").startswith(("./", "../", "~/"))
        or os.path.isabs(name)
    )


def _bundled() -> list[str]:
    return sorted(config.parent.name for config in MODEL_CARDS.glob(f"*/{files.CONFIG}"))

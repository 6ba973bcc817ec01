"""Saving a model: its whole folder, or nothing."""

import glob
import os
import platform
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import card, errors, files, loading, registry, weights
from zoo.metrics import pictures_of
from zoo.version import __version__

PNG = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG file."""


def save(
    model: nn.Module,
    folder: str | os.PathLike,
    metrics: dict[str, Any] | None = None,
    pictures: dict[str, bytes] | None = None,
) -> Path:
    """Write ``model`` to ``folder``, from where :func:`zoo.load` can load it; return the folder.

    The folder is written whole or not at all. The new model is first written beside it and loaded from there; only then
    it replaces a model that was there. After an error the old model is still there. The folder's name becomes the
    model's name. ``metrics`` is what was measured (:mod:`zoo.metrics` says its layout); the model card is made from it,
    and ``pictures`` are the PNG files that the card shows. What a fine-tuning left in the model's ``provenance`` (the
    model it began with, its data, its command) is added to them. Weights are rounded to half precision, so measure a
    model after saving and loading it.

    Raises TypeError for a network that is not a registered architecture, ValueError for weights that are not finite,
    metrics that no card can be made of or pictures that the card does not show, FileExistsError for a folder that holds
    anything but a model, and OSError if the disk is full or not writable.
    """
    folder = Path(folder).expanduser().resolve()
    _put_back(folder)
    check_replaceable(folder)
    metrics = getattr(model, "provenance", {}) | (metrics or {})
    contents = _contents(model, folder.name, metrics, pictures or {})
    with _beside(folder) as new:
        for name, data in contents.items():
            (new / name).parent.mkdir(exist_ok=True)
            files.write_whole(new / name, data)
        _check_loads(new, model, contents)
        _replace(folder, new)
    for leftovers in (files.SAVING, files.PREVIOUS):
        files.remove_leftovers(folder.parent, leftovers.format(glob.escape(folder.name), "*"))
    return folder


def rewrite_config(
    folder: str | os.PathLike, metrics: dict[str, Any] | None = None, **architecture_config: Any
) -> None:
    """Rewrite the config of a model, in the current format, with some fields of its architecture's config changed.

    ``metrics``, if given, replace those that are there. The weights stay the same, byte for byte. Raises ValueError,
    and changes nothing, if the model would not load or no card can be made of the metrics.
    """
    folder = Path(folder).expanduser().resolve()
    config = files.read_config(folder)
    config["architecture_config"] = config["architecture_config"] | architecture_config
    metrics = files.read_metrics(folder) if metrics is None else metrics
    with _beside(folder) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        (new / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))
        (new / files.METRICS).write_bytes(files.to_json(metrics))
        (new / files.CARD).write_bytes(card.render_card(config, metrics).encode())
        shutil.rmtree(new / files.EVAL_RESULTS, ignore_errors=True)
        for name, data in card.eval_results(config, metrics).items():
            (new / name).parent.mkdir()
            (new / name).write_bytes(data)
        loading.load(new)
        _replace(folder, new)


def _contents(model: Any, name: str, metrics: dict[str, Any], pictures: dict[str, bytes]) -> dict[str, bytes]:
    """All files of the model's folder."""
    if not registry.is_registered(type(model)):
        raise errors.not_an_architecture(model)
    assets = model.assets()
    for asset in assets:
        if not files.is_asset_name(asset):
            raise ValueError(f"{type(model).__name__} has an asset {asset!r}; assets are JSON files in lower case")
    needed = {files.WEIGHTS: weights.pack(model), **assets}
    unsealed = {
        "name": name,
        "architecture": model.architecture,
        "architecture_config": model.config,
        "task": model.task,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "files": {file: files.describe(data) for file, data in needed.items()},
        "versions": _versions(),
    }
    config = files.sealed(unsealed)
    if metrics.get("results"):  # so that they are never published with other weights
        metrics = {"weights_sha256": config["files"][files.WEIGHTS]["sha256"]} | metrics
    return {
        **needed,
        files.CONFIG: files.to_json(config),
        files.METRICS: files.to_json(metrics),
        files.CARD: card.render_card(config, metrics).encode(),
        **card.eval_results(config, metrics),
        **_checked(pictures, pictures_of(metrics)),
    }


def _checked(pictures: dict[str, bytes], shown: list[str]) -> dict[str, bytes]:
    if set(pictures) != set(shown):
        raise ValueError(f"the card shows the pictures {sorted(shown)}; got {sorted(pictures)}")
    for name, data in pictures.items():
        if not data.startswith(PNG):
            raise ValueError(f"{name!r} is no PNG file")
    return pictures


def _versions() -> dict[str, str]:
    return {"snn-zoo": __version__, "torch": torch.__version__, "python": platform.python_version()}


def check_replaceable(folder: Path) -> None:
    """Raise FileExistsError unless ``folder`` is missing, empty or a model."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a model is saved to a folder")
    found = {entry.name for entry in folder.iterdir()}
    if not found:
        return
    try:
        own = {files.CARD, files.CONFIG, files.METRICS, files.EVAL_RESULTS, *files.read_config(folder)["files"]}
        own |= set(pictures_of(files.read_metrics(folder)))
    except ValueError as error:
        raise FileExistsError(f"{folder} is neither empty nor a model's folder, so nothing is saved to it") from error
    if found - own:
        raise FileExistsError(
            f"{folder} holds files besides a model's ({', '.join(sorted(found - own))}), which saving would remove"
        )


@contextmanager
def _beside(folder: Path):
    """A new folder beside ``folder``, removed at the end unless it was moved away."""
    new = folder.with_name(files.SAVING.format(folder.name, uuid.uuid4().hex))
    new.mkdir(parents=True)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_loads(new: Path, model: Any, contents: dict[str, bytes]) -> None:
    """Raise ValueError unless the model in ``new`` loads and would be saved as the same bytes."""
    try:
        loaded = loading.load(new)
    except ValueError as error:
        raise errors.does_not_load_back(model, str(error)) from error
    if weights.pack(loaded) != contents[files.WEIGHTS]:
        raise errors.does_not_load_back(model, "the weights differ")
    if files.to_json(loaded.config) != files.to_json(model.config):
        raise errors.does_not_load_back(model, "the configuration differs")
    changed = [name for name, data in loaded.assets().items() if data != contents.get(name)]
    if changed:
        raise errors.does_not_load_back(model, f"{changed[0]} differs")


def _replace(folder: Path, new: Path) -> None:
    """Move ``new`` to ``folder``. The previous model is put back if that fails, and removed if it succeeds.

    If the process is killed in between, the previous model stays beside it: see :func:`_put_back`.
    """
    if not folder.exists():
        os.rename(new, folder)
        return
    previous = folder.with_name(files.PREVIOUS.format(folder.name, uuid.uuid4().hex))
    os.rename(folder, previous)
    try:
        os.rename(new, folder)
    except BaseException:
        os.rename(previous, folder)
        raise
    shutil.rmtree(previous)


def _put_back(folder: Path) -> None:
    """Put back the model that was at ``folder`` when a process was killed while replacing it."""
    if not folder.exists() and (previous := files.previous_of(folder)):
        os.rename(previous, folder)

"""Loading a model: find it, check it, build it, fill it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

import neurons
from neurons import kernels
from zoo import errors, files, registry, weights

if TYPE_CHECKING:
    from zoo.gesture import GestureNetwork
    from zoo.sentiment import TextClassifier
    from zoo.translation import Translator

_default_type = threading.RLock()
"""Held where torch's default type may be set aside."""


# What a bundled name gives is known before it is loaded; a folder or a repository may hold any architecture.
@overload
def load(
    name_or_repo_or_folder: Literal["lite-snn-multi30k"],
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    backend: str = "auto",
) -> "Translator": ...
@overload
def load(
    name_or_repo_or_folder: Literal["lite-snn-imdb"],
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    backend: str = "auto",
) -> "TextClassifier": ...
@overload
def load(
    name_or_repo_or_folder: Literal["lite-snn-dvs-gesture"],
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    backend: str = "auto",
) -> "GestureNetwork": ...
@overload
def load(
    name_or_repo_or_folder: str | os.PathLike,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    backend: str = "auto",
) -> Any: ...
def load(
    name_or_repo_or_folder: str | os.PathLike,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    backend: str = "auto",
) -> Any:
    """Load a model, ready to use: in evaluation mode, in float32, with its preprocessing attached.

    The name is a bundled model's (``"lite-snn-multi30k"``), a repository's on the Hugging Face Hub (``"org/name"``,
    at the commit, tag or branch ``revision``), or a local folder's, given as a ``Path`` or as text that starts as a
    path does (``"./folder"``). Bundled models and folders need no network, nor does a commit that the Hub's cache
    already holds. ``device`` is where the model goes (the CPU unless given) and ``backend`` what its neurons scan
    with: ``"auto"``, ``"torch"``, ``"cpu"`` or ``"cupy"``.

    Raises ``zoo.errors.UnknownNameError`` (with a suggestion), ``DamagedModelError`` for a file that is missing,
    truncated or altered, ``NewerFormatError``, ``WeightsMismatchError`` (naming the tensors), ``HubError``,
    FileNotFoundError for a missing folder, ValueError for a device that cannot be used or an unknown backend, and
    ImportError for a backend whose library is not installed.
    """
    device = _usable_device(device)
    kernels.check_backend(backend)
    folder = registry.locate(name_or_repo_or_folder, revision)
    config = files.read_config(folder)
    contents = {name: files.read_checked(folder, name, record) for name, record in config["files"].items()}
    network = _build(config, {name: data for name, data in contents.items() if name != files.WEIGHTS}, folder)
    weights.unpack(contents[files.WEIGHTS], network, folder / files.WEIGHTS)
    for module in network.modules():
        if isinstance(module, neurons.Neuron):
            module.backend = backend
    return network.to(device).eval()


@contextmanager
def float32_on_cpu() -> Iterator[None]:
    """Within it networks are built in float32 on the CPU, whatever torch's default type and device are.

    Another default type is set aside for all threads, as torch has one for all; several may build at once.
    """
    with _default_type, torch.device("cpu"):
        usual = torch.get_default_dtype()
        if usual != torch.float32:
            torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            if usual != torch.float32:
                torch.set_default_dtype(usual)


def _build(config: dict, assets: dict[str, bytes], folder: Path) -> Any:
    architecture = registry.architecture(config["architecture"])
    if architecture.task != config["task"]:
        raise errors.bad_config(
            folder / files.CONFIG,
            f"says the task is {config['task']!r}, but {config['architecture']!r} is for {architecture.task!r}",
        )
    try:
        # The first values are overwritten, so drawing them leaves the caller's random numbers as they were.
        with torch.random.fork_rng(devices=[]), float32_on_cpu():
            return architecture.from_config(config["architecture_config"], assets)
    except (TypeError, ValueError, KeyError) as error:
        raise errors.does_not_build(folder / files.CONFIG, config["architecture"], error) from error


def _usable_device(device: str | torch.device | None) -> torch.device:
    try:
        usable = torch.device("cpu" if device is None else device)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise errors.unusable_device(device, error) from None
    if usable.type == "meta":
        raise errors.unusable_device(device, ValueError("it holds no values, so no weights can be loaded to it"))
    return usable

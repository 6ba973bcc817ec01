"""A model folder and the files in it, as they lie on a disk and on the Hub.

=================  ==========================================================================================
README.md          the model card, generated (:mod:`zoo.card`)
config.json        all that rebuilds the model, and the sizes and SHA-256 of the files that do
model.safetensors  the weights, in half precision
*.json             what the architecture needs besides (its assets): ``tokenizer.json``, ``labels.json``
metrics.json       what was measured (:mod:`zoo.card`)
=================  ==========================================================================================

``config.json`` has these keys::

    format_version       1
    name                 the model's name, which is its folder's
    architecture         a registered architecture
    architecture_config  the architecture's own configuration
    task                 one of zoo.registry.TASKS
    parameters           number of trained values
    files                {file name: {"sha256": ..., "bytes": ...}} of the weights and each asset
    versions             {"snn-zoo": ..., "torch": ...} at saving

Only JSON and safetensors are read. Nothing here imports torch.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from zoo import errors

FORMAT_VERSION = 1
CARD, CONFIG, WEIGHTS, METRICS = "README.md", "config.json", "model.safetensors", "metrics.json"
HUB_PATTERNS = [CARD, WEIGHTS, "*.json"]
"""What of a repository on the Hub is fetched: nothing that could hold code."""
_TYPES = {
    "name": str,
    "architecture": str,
    "architecture_config": dict,
    "task": str,
    "parameters": int,
    "files": dict,
    "versions": dict,
}


def is_asset_name(name: str) -> bool:
    """Whether an asset may have this file name: plain, in lower case, and not one of the other files'."""
    return re.fullmatch(r"[a-z0-9][a-z0-9_-]*\.json", name) is not None and name not in (CONFIG, METRICS)


def describe(data: bytes) -> dict[str, Any]:
    """The record of a file in ``config.json``."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def to_json(content: dict[str, Any]) -> bytes:
    """``content`` as the bytes of a JSON file; ValueError for NaN and infinity, which JSON does not have."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that it holds all of ``parts``, on the disk, or what it held before.

    A kill may leave a file ``<name>.<process>.new`` beside it. An OSError names ``path``.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def remove_leftovers(folder: Path, pattern: str, age: float = 3600.0) -> None:
    """Remove what killed processes left half-written in ``folder``: of what has such a name, all that is old enough.

    Nobody writes at one file for an hour, the usual ``age`` in seconds.
    """
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):
            status = leftover.stat()
            if time.time() - max(status.st_mtime, status.st_ctime) >= age:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def read_config(folder: Path) -> dict[str, Any]:
    """The checked ``config.json`` of a model folder.

    Raises NewerFormatError for a later format, DamagedModelError for anything that is not a config.
    """
    path = folder / CONFIG
    config = _read_json(path)
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        raise errors.bad_config(path, f"is no config of a model: its format_version is {version!r}")
    if version > FORMAT_VERSION:
        raise errors.newer_format(path, version, FORMAT_VERSION)
    for key, kind in _TYPES.items():
        if key not in config:
            raise errors.bad_config(path, f"has no {key!r}")
        if type(config[key]) is not kind:
            raise errors.bad_config(path, f"has {config[key]!r} for {key!r}, which must be of type {kind.__name__}")
    if WEIGHTS not in config["files"]:
        raise errors.bad_config(path, f"has no record of {WEIGHTS!r} in 'files'")
    for name, record in config["files"].items():
        if name != WEIGHTS and not is_asset_name(name):
            raise errors.bad_config(path, f"names the file {name!r}, which no model may have")
        if not _is_record(record):
            raise errors.bad_config(path, f"has no SHA-256 and size of {name!r}")
    return config


def read_metrics(folder: Path) -> dict[str, Any]:
    """The ``metrics.json`` of a model folder; DamagedModelError where it is missing or not JSON."""
    return _read_json(folder / METRICS)


def read_checked(folder: Path, name: str, record: dict[str, Any]) -> bytes:
    """The content of a file, once its size and SHA-256 are those of its record."""
    path = folder / name
    data = _read(path)
    if len(data) != record["bytes"]:
        raise errors.wrong_size(path, record["bytes"], len(data))
    found = describe(data)["sha256"]
    if found != record["sha256"]:
        raise errors.wrong_hash(path, record["sha256"], found)
    return data


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and type(record.get("bytes")) is int
        and re.fullmatch("[0-9a-f]{64}", str(record.get("sha256"))) is not None
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise errors.missing_file(path)
    return path.read_bytes()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        if isinstance(error, errors.DamagedModelError):
            raise
        raise errors.bad_config(path, f"is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise errors.bad_config(path, f"must hold a JSON object; it holds {type(content).__name__}")
    return content

"""A model folder and its files, on a disk and on the Hub.

=================  ==========================================================================================
README.md          the model card, generated (:mod:`zoo.card`)
config.json        all that is needed to rebuild the model; sizes and SHA-256 of the other files needed
model.safetensors  the weights, in half precision
*.json             what else the architecture needs (its assets): ``tokenizer.json``, ``labels.json``
metrics.json       what was measured (:mod:`zoo.metrics`)
.eval_results      its scores on benchmarks of the Hub, if the metrics name any
=================  ==========================================================================================

``config.json`` has these keys::

    format_version       2
    name                 the model's name, the same as its folder's
    architecture         a registered architecture
    architecture_config  the architecture's own configuration
    task                 one of zoo.tasks.TASKS
    parameters           number of trained values
    files                {file name: {"sha256": ..., "bytes": ...}} of the weights and each asset
    versions             {"snn-zoo": ..., "torch": ...} at saving
    digest               SHA-256 of all other keys, so that a flipped bit is noticed; format 1 has none

Of a file no more bytes are read than its record and the limits below allow. Only plain files of the folder itself are
read: a link may lead to another file of the folder or, in the Hub's cache, to where the cache stores the file.

Only JSON and safetensors are read. Nothing here imports torch.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from zoo import errors, strict_json

FORMAT_VERSION = 3
CARD, CONFIG, WEIGHTS, METRICS = "README.md", "config.json", "model.safetensors", "metrics.json"
EVAL_RESULTS = ".eval_results"
"""The folder, inside a model's, from which the Hub takes scores on its benchmarks."""
SAVING, PREVIOUS = ".{}.saving-{}", ".{}.previous-{}"
"""The suffixes of a folder that is being written, and of one that is being replaced; a unique number follows."""
LARGEST_JSON = 2**20
"""The most bytes that ``config.json`` and ``metrics.json`` may have; ours have some thousands."""
LARGEST_ASSET = 2**23
"""The most bytes of an asset: a tokenizer of 300,000 tokens."""
_TYPES = {
    "name": str,
    "architecture": str,
    "architecture_config": dict,
    "task": str,
    "parameters": int,
    "files": dict,
    "versions": dict,
}
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_asset_name(name: str) -> bool:
    """Whether an asset may have this file name: plain, in lower case, and not the name of another file."""
    return re.fullmatch(r"[a-z0-9][a-z0-9_-]*\.json", name) is not None and name not in (CONFIG, METRICS)


def describe(data: bytes) -> dict[str, Any]:
    """The record of a file in ``config.json``."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def git_hash(data: bytes) -> str:
    """The name that git, and so the Hub, gives to this content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def to_json(content: dict[str, Any]) -> bytes:
    """``content`` as the bytes of a JSON file; ValueError for NaN and infinity, which JSON does not have."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sealed(config: dict[str, Any]) -> dict[str, Any]:
    """A config in the present format, with the digest that it must have."""
    config = {"format_version": FORMAT_VERSION} | config | {"format_version": FORMAT_VERSION}
    return config | {"digest": _digest(config)}


def _digest(config: dict[str, Any]) -> str:
    """SHA-256 of a config's content; order and spaces do not matter."""
    rest = {key: value for key, value in config.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that afterwards the disk holds either all of ``parts`` or the previous content.

    A killed process may leave a file ``<name>.<process>.new`` beside it. An OSError names ``path``.
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


def previous_of(folder: Path) -> Path | None:
    """The last model at ``folder`` that was moved away to be replaced and was left there by a killed process."""
    found = folder.parent.glob(PREVIOUS.format(glob.escape(folder.name), "*"))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def remove_leftovers(folder: Path, pattern: str, age: float = 3600.0) -> None:
    """Remove what killed processes left half-written in ``folder``: everything with such a name that is old enough.

    ``age`` is in seconds: nobody writes a file for longer than an hour.
    """
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):
            status = leftover.stat()
            if time.time() - max(status.st_mtime, status.st_ctime) >= age:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def read_config(folder: Path) -> dict[str, Any]:
    """The checked ``config.json`` of a model folder.

    Raises NewerFormatError for a newer format, DamagedModelError for anything that is not a config.
    """
    path = folder / CONFIG
    config = read_json(folder, CONFIG)
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
    _check_files(path, config["files"])
    if config["parameters"] < 0:
        raise errors.bad_config(
            path, f"has {config['parameters']} for 'parameters', which no network has fewer of than 0"
        )
    for library, installed in config["versions"].items():
        if type(installed) is not str:
            raise errors.bad_config(path, f"has {installed!r} for the version of {library!r}, which must be text")
    if version > 1 and "digest" not in config:
        raise errors.bad_config(path, "has no 'digest'")
    if "digest" in config and config["digest"] != (found := _digest(config)):
        raise errors.wrong_digest(path, config["digest"], found)
    return config


def _check_files(path: Path, records: dict[str, Any]) -> None:
    if WEIGHTS not in records:
        raise errors.bad_config(path, f"has no record of {WEIGHTS!r} in 'files'")
    for name, record in records.items():
        if name != WEIGHTS and not is_asset_name(name):
            raise errors.bad_config(path, f"names the file {name!r}, which no model may have")
        if not _is_record(record):
            raise errors.bad_config(path, f"has no SHA-256 and size of {name!r}")
        if name != WEIGHTS and record["bytes"] > LARGEST_ASSET:
            raise errors.too_large(path.parent / name, record["bytes"], LARGEST_ASSET)


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and type(record.get("bytes")) is int
        and record["bytes"] >= 0
        and re.fullmatch("[0-9a-f]{64}", str(record.get("sha256"))) is not None
    )


def read_metrics(folder: Path) -> dict[str, Any]:
    """The ``metrics.json`` of a model folder; DamagedModelError where it is missing or not JSON."""
    return read_json(folder, METRICS)


@contextlib.contextmanager
def open_recorded(folder: Path, name: str, record: dict[str, Any]) -> Iterator[BinaryIO]:
    """A file, open for reading; DamagedModelError unless its size is that of its record."""
    with _opened(folder, name) as (file, size):
        if size != record["bytes"]:
            raise errors.wrong_size(folder / name, record["bytes"], size)
        yield file


def read_checked(folder: Path, name: str, record: dict[str, Any]) -> bytes:
    """The content of a file; DamagedModelError unless its size and SHA-256 are those of its record."""
    with open_recorded(folder, name, record) as file:
        data = file.read(record["bytes"])
    found = describe(data)["sha256"]
    if found != record["sha256"]:
        raise errors.wrong_hash(folder / name, record["sha256"], found)
    return data


def read_plain(folder: Path, name: str) -> bytes:
    """The content of a file that ``config.json`` has no record of: a card, a picture, another JSON file."""
    with _opened(folder, name) as (file, size):
        if size > LARGEST_ASSET:
            raise errors.too_large(folder / name, size, LARGEST_ASSET)
        return file.read(size)


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """A file and its size; DamagedModelError if it is not a plain file of this folder or reading it fails."""
    path = folder / name
    try:
        if not _is_inside(folder, path):
            raise errors.link_out(path)
        # Opened without waiting: a pipe that nobody writes to would block forever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise errors.no_plain_file(path)
            yield file, status.st_size
    except FileNotFoundError:
        raise errors.missing_file(path) from None
    except IsADirectoryError:
        raise errors.no_plain_file(path) from None
    except OSError as error:
        raise errors.unreadable_file(path, error) from error


def _is_inside(folder: Path, path: Path) -> bool:
    """Whether a file, with links followed, belongs to the folder; the Hub's cache stores all files beside it."""
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    beside = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    return real.parent in (root, beside)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a model folder; DamagedModelError where it is missing or none."""
    path = folder / name
    with _opened(folder, name) as (file, size):
        if size > LARGEST_JSON:
            raise errors.too_large(path, size, LARGEST_JSON)
        data = file.read(size)
    try:
        content = strict_json.parse(data)
    except ValueError as error:
        raise errors.bad_config(path, str(error)) from None
    if not isinstance(content, dict):
        raise errors.bad_config(path, f"must hold a JSON object; it holds {type(content).__name__}")
    if found := _CONTROL.search("".join(_texts(content))):
        raise errors.bad_config(path, f"holds the control character {found[0]!r}, which a terminal might obey")
    return content


def _texts(content: Any) -> Iterator[str]:
    """All text in a JSON value, keys too."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for part in content:
            yield from _texts(part)
            if isinstance(content, dict):
                yield from _texts(content[part])

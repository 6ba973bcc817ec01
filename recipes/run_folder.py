"""The folder of a training run: used by one process at a time, with a checkpoint that is always whole.

The checkpoint is ``state.pt``. It is replaced as a whole, after each epoch and before anything else is written. All
other files can be made again from it, whatever a killed process, a full disk or a user did to them.
"""

import hashlib
import io
import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from zoo.files import remove_leftovers, write_whole

CHECKPOINT, LOG, PLOT, BEST, RUN_CONFIG = "state.pt", "log.jsonl", "training.png", "best", "settings.json"
HEADING = b"snn-zoo training state 1, SHA-256 "
"""The first bytes of a checkpoint; the checksum of the rest and a line feed follow."""


class RunFolder:
    """The files of a run in ``path``, for the one process that holds the folder."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: FileLock | None = None

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    def hold(self) -> None:
        """Keep other trainings out of the folder, and remove files that a killed one left half-written.

        Raises BlockingIOError while another process trains in it. The operating system releases the lock when the
        process ends, however it ends.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        holder = self.path / ".lock.json"
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BlockingIOError(f"{self.path} is in use: {_described(holder)} is training in it") from None
        self._lock = lock
        write_whole(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        for pattern in ("*.new", f".{BEST}.*"):
            remove_leftovers(self.path, pattern, age=-math.inf)  # nobody else writes in this folder

    def let_go(self) -> None:
        """Let other trainings in."""
        if self._lock is not None:
            (self.path / ".lock.json").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint of :meth:`write_checkpoint`, its tensors on the CPU; None if there was no training yet.

        Raises ValueError for a damaged file, and if the folder is of a training whose checkpoint is missing.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            if found := [name for name in (LOG, BEST) if (self.path / name).exists()]:
                raise ValueError(
                    f"{self.path} holds {' and '.join(found)} of a training whose {CHECKPOINT} is gone, so it cannot "
                    "go on; train in another folder"
                )
            return None
        heading, _, content = path.read_bytes().partition(b"\n")
        if heading != HEADING + hashlib.sha256(content).hexdigest().encode():
            raise ValueError(
                f"{path} is damaged, or not the checkpoint of a training; put a copy of it back, or train anew in "
                "another folder"
            )
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def write_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace the checkpoint; after an error the previous one is still there."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        checksum = hashlib.sha256(content.getbuffer()).hexdigest().encode()
        write_whole(self.path / CHECKPOINT, HEADING + checksum + b"\n", content.getbuffer())

    def write(self, name: str, content: bytes) -> bool:
        """Make the file ``name`` hold ``content``; return whether it had to be changed."""
        path = self.path / name
        if path.is_file() and path.read_bytes() == content:
            return False
        write_whole(path, content)
        return True

    def clear(self, name: str, expected: set[str]) -> None:
        """Remove the ``expected`` files of a damaged folder; FileExistsError, with none removed, if it holds others."""
        folder = self.path / name
        if not folder.is_dir():
            return
        if others := {path.name for path in folder.iterdir()} - expected:
            raise FileExistsError(
                f"{folder} is damaged and will be made again, but it holds other files ({', '.join(sorted(others))}); "
                "move them away"
            )
        for path in folder.iterdir():
            path.unlink()


def _described(holder: Path) -> str:
    try:
        found = json.loads(holder.read_bytes())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def read_json(path: Path, remedy: str, missing: str) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises a ValueError that names the file and the ``remedy`` if it is damaged, and a FileNotFoundError that says what
    it means that it is ``missing``.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}: {missing}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; {remedy}")
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file of a run, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def read_run_config(run: Path) -> dict[str, Any]:
    """The config of a run: ``model`` config, ``training`` options, and ``initial`` if it had one."""
    remedy, missing = "give its training command again, which writes it anew", f"{run} is no folder of a training"
    return read_json(run / RUN_CONFIG, remedy, missing)

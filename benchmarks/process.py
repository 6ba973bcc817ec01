"""An object in a process of its own: its memory can be told from others', and so can the libraries that it loads."""

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks import measure

_object: Any = None
_before: int | None = None
"""The object of this process, and the process's memory before it was built."""


def _build(build: Callable, arguments: tuple) -> None:
    global _object, _before
    _before = measure.resident_memory()
    _object = build(*arguments)
    gc.collect()
    gc.disable()  # Python is not to collect during a measurement


def _call(method: str, arguments: tuple) -> Any:
    return getattr(_object, method)(*arguments)


def _peak(method: str, arguments: tuple) -> int | None:
    now = measure.resident_memory()
    _, peak = measure.with_peak_memory(lambda: _call(method, arguments), torch.device("cpu"))
    return None if peak is None else now - _before + peak


class Alone:
    """``build(*arguments)``, in a new process with these variables of the ``environment``.

    Errors of the process are raised here, when it is made and when it is called.
    """

    def __init__(self, build: Callable, *arguments: Any, environment: dict[str, str] | None = None):
        self._process = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            with _changed(environment or {}):
                self._process.submit(_build, build, arguments).result()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method of the object."""
        return self._process.submit(_call, method, arguments).result()

    def peak_memory(self, method: str, *arguments: Any) -> int | None:
        """The bytes that the object takes and that a call of the method needs at the most; None if not known here.

        They are those above what Python takes with torch and our modules imported. What was only needed to build the
        object does not count; what it keeps from earlier calls does.
        """
        return self._process.submit(_peak, method, arguments).result()

    def close(self) -> None:
        self._process.shutdown()


@contextlib.contextmanager
def _changed(environment: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

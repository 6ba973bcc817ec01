"""A process that makes and runs inputs, as :mod:`tests.fuzz.runner` asks for them line by line.

While the product runs on an input, its additional address space and its processor time are limited. The parent process
finds out what ended this one.
"""

import contextlib
import importlib
import json
import os
import random
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    name, seed, mebibytes, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the product may use standard input and output
    os.dup2(2, 1)
    module = importlib.import_module(name)
    module.prepare()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _answer(answers, "ready")
    for request in requests:
        number, folder = json.loads(request)
        drawn = random.Random(f"{name} {seed} {number}")
        _answer(answers, _problem(module, drawn, Path(folder), mebibytes * 2**20, seconds))


def _problem(module: Any, drawn: random.Random, folder: Path, space: int, seconds: int) -> str | None:
    """What is wrong with the answer to one input; None if nothing is wrong."""
    try:
        path = module.make(drawn, folder)
    except Exception:
        return f"no input could be made: {traceback.format_exc()}"
    try:
        with _limits(space, seconds):
            module.run(path)
    except module.ALLOWED:
        return None
    except BaseException:  # a panic in Rust is not an Exception
        return traceback.format_exc()
    return None


@contextlib.contextmanager
def _limits(space: int, seconds: int) -> Iterator[None]:
    """Context with at most ``space`` more bytes of address space and ``seconds`` of processor time."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    spent = resource.getrusage(resource.RUSAGE_SELF)
    processor = int(spent.ru_utime + spent.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + space, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (processor, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _answer(answers: TextIO, content: str | None) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

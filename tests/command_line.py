"""The command snn-zoo in separate processes, with the bundled models or with a zoo of one tiny network."""

import os
import subprocess
import sys
from pathlib import Path

import zoo

CHECKOUT = Path(zoo.__file__).parents[1]
WITH_TINY_ZOO = """
import pathlib, sys
sys.path.insert(0, "tests")
import zoo.registry
zoo.registry.MODEL_CARDS = pathlib.Path(sys.argv.pop(1))
zoo.tasks.TASKS["translation"].networks["tiny"] = "tiny_network"
from zoo.command import app
app(prog_name="snn-zoo")
"""


def command(*arguments, cards: Path | None = None) -> list:
    """The command line that starts ``snn-zoo`` with these arguments; ``cards`` can replace the bundled models."""
    start = ["-m", "zoo"] if cards is None else ["-c", WITH_TINY_ZOO, str(cards)]
    return [sys.executable, *start, *(part if isinstance(part, bytes) else str(part) for part in arguments)]


def start(*arguments, cards: Path | None = None, environment: dict | None = None, **options) -> subprocess.Popen:
    """The command as a running process, its standard streams pipes unless told otherwise."""
    streams = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    everything = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"} | (environment or {})
    return subprocess.Popen(command(*arguments, cards=cards), cwd=CHECKOUT, env=everything, **streams | options)


def finish(process: subprocess.Popen, given: bytes | None = None) -> tuple[int, bytes, str]:
    """Exit status, output and errors of a process, after ``given`` on its standard input."""
    written, told = process.communicate(given, timeout=300)
    return process.returncode, written, (told or b"").decode()


def assert_told_in_one_line(told: str, part: str = "") -> None:
    assert told.startswith("snn-zoo: ") and told.count("\n") == 1, told
    assert part in told

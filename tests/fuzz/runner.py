"""Runs many inputs in processes with limits, and reports inputs that killed a process or were answered wrongly."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
STARTING_SECONDS = 120


@dataclass(frozen=True)
class Limits:
    """The limits per input: address space beyond that of all imports, and seconds of processor and wall-clock time."""

    mebibytes: int = 300
    processor_seconds: int = 5
    seconds: float = 20


@dataclass(frozen=True)
class Finding:
    """An input that shows a fault: its ``number`` under the seed, what was wrong, and where it is kept."""

    module: str
    number: int
    problem: str
    folder: Path | None

    def __str__(self) -> str:
        kept = f", kept in {self.folder}" if self.folder else ""
        return f"{self.module} {self.number}{kept}: {self.problem.strip()}"


class _Child:
    """A process that runs inputs."""

    def __init__(self, module: str, seed: int, limits: Limits):
        self.limits = limits
        path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests"), os.environ.get("PYTHONPATH", "")])
        threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        arguments = map(str, (module, seed, limits.mebibytes, limits.processor_seconds))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=CHECKOUT,
            env=os.environ | threads | {"PYTHONPATH": path},
        )
        if (answer := self._answer(STARTING_SECONDS)) != "ready":
            self.end()
            raise RuntimeError(f"the fuzzer's process for {module} did not start: {answer}")

    def problem(self, number: int, folder: Path) -> str | None:
        """What is wrong with an input; the process may be dead afterwards."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([number, str(folder)]).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer(self.limits.seconds)

    def _answer(self, seconds: float) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            self.process.kill()
            self.process.wait()
            return f"no end after {seconds:g} seconds"
        if line := self.process.stdout.readline():
            return json.loads(line)
        return self._death()

    def _death(self) -> str:
        status = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read()[-4000:].decode(errors="replace")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the process ended with {how}: {said}"

    @property
    def dead(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def fuzz(
    module: str, count: int, seed: int, keep: Path | None = None, processes: int = 1, limits: Limits | None = None
) -> list[Finding]:
    """Run inputs 0 to ``count`` of a module; returns the findings, whose inputs are copied to ``keep``."""
    numbers, findings, failures = iter(range(count)), [], []
    lock = threading.Lock()

    def work() -> None:
        try:
            for finding in _findings(module, seed, numbers, lock, keep, limits or Limits()):
                with lock:
                    findings.append(finding)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sorted(findings, key=lambda finding: finding.number)


def _findings(
    module: str, seed: int, numbers: Iterator[int], lock: Any, keep: Path | None, limits: Limits
) -> Iterator[Finding]:
    child: _Child | None = None
    try:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
                child = child or _Child(module, seed, limits)
                problem = child.problem(number, Path(folder))
                if child.dead:
                    child.end()
                    child = None
                if problem is not None:
                    yield Finding(module, number, problem, _kept(Path(folder), keep, module, seed, number))
    finally:
        if child is not None:
            child.end()


def _kept(folder: Path, keep: Path | None, module: str, seed: int, number: int) -> Path | None:
    """Copy an input without pipes and files with holes: they would never end, or fill the disk."""
    if keep is None:
        return None
    target = keep / f"{module.rpartition('.')[2]}-{seed}-{number}"
    shutil.rmtree(target, ignore_errors=True)
    for path in [folder, *folder.rglob("*")]:
        copy = target / path.relative_to(folder)
        if path.is_symlink():
            copy.symlink_to(os.readlink(path))
        elif path.is_dir():
            copy.mkdir(parents=True)
        elif path.is_file() and path.stat().st_size < 2**26:
            shutil.copyfile(path, copy)
    return target

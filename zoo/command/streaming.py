"""One input per line, one answer per line: in order, as soon as they are ready, for input of any length.

A separate thread reads a limited number of lines ahead. All lines read so far are answered without waiting for more, so
that a person or a slow program gets each answer at once, and a file is answered in groups. Line n of the output answers
line n of the input. A line that cannot be answered gets an empty line (in JSON, its error) and a warning with its
number on standard error, and does not affect the others.
"""

import contextlib
import io
import json
import os
import queue
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import typer

from zoo.command.failing import in_words, say, tell
from zoo.inputs.lines import Line, read_lines
from zoo.tasks import Task

ARGUMENTS = "the arguments"
GROUP = 256
"""The most lines that are answered at once, so that a model can sort them by length."""
AHEAD = 1024
"""The most lines that are read ahead."""
BLOCK = 1 << 20
"""Bytes of a file that are read at once."""
FAILED = 3
"""The exit status if all lines were processed but some have no answer."""


class Source(NamedTuple):
    """Where inputs come from: its ``name``, its ``lines``, and how many there are, if that is known."""

    name: str
    lines: Iterator[Line]
    total: int | None = None

    def place(self, number: int) -> str:
        """The name of a line in errors."""
        return f"argument {number}" if self.name == ARGUMENTS else f"line {number} of {self.name}"


class Problem(NamedTuple):
    """The reason why an input has no answer."""

    message: str


def stream(source: Source, answerer: "Answerer", output: "Output", strict: bool) -> None:
    """Answer every line of ``source`` that ``output`` does not hold yet; typer.Exit(FAILED) if any has no answer.

    With ``strict``, the first line that cannot be answered is an error.
    """
    reader = Reader(source.lines, skip=output.lines)
    with output, _progress(source, output) as advance:
        try:
            for lines in reader.groups(answerer.group):
                answers = answerer(lines)
                problems = [found for found in answers if isinstance(found, Problem)]
                if strict and problems:
                    output.write(answers[: answers.index(problems[0])])
                    raise ValueError(problems[0].message)
                for problem in problems:
                    tell(problem.message)
                output.write(answers)
                advance()
        except KeyboardInterrupt:
            raise output.interrupted() from None
    output.check_complete(reader.count, source.name)
    if output.failed:
        raise typer.Exit(FAILED)


class Answerer:
    """Asks a model, and turns an error in one line into a :class:`Problem` of that line only."""

    def __init__(self, model: Any, method: str, task: Task, options: dict[str, Any], place: Callable[[int], str]):
        self.model, self.ask, self.files, self.options = model, getattr(model, method), task.files, options
        self.place = place
        self.group = 1 if task.files else max(GROUP, options.get("batch_size", 0))
        """The most lines to be asked at once."""
        if not self.files:
            self.ask([], **options)  # raises an error for wrong options before anything is read or written

    def __call__(self, lines: list[Line]) -> list[Any]:
        answers: list[Any] = [self._of_file(line) if self.files else self._checked(line) for line in lines]
        if not self.files:
            good = [place for place, found in enumerate(answers) if not isinstance(found, Problem)]
            for place, found in zip(good, self.ask([answers[place] for place in good], **self.options)):
                answers[place] = found
        return answers

    def _checked(self, line: Line) -> str | Problem:
        """The text of a line, if the model can answer it."""
        if line.text is None:
            return Problem(line.problem or "")
        try:
            self.model.check(line.text, self.place(line.number))
        except ValueError as error:
            return Problem(str(error))
        return line.text

    def _of_file(self, line: Line) -> Any:
        """The answer for the file named in a line."""
        if line.text is None:
            return Problem(line.problem or "")
        if not line.text.strip():
            return Problem(f"{self.place(line.number)} is empty")
        try:
            return self.ask(Path(line.text), **self.options)
        except (ValueError, OSError) as error:
            return Problem(f"{self.place(line.number)}: {in_words(error)}")


def as_text(answer: Any) -> str:
    """An answer as a line of text: a score or a probability follows after a tab. Empty for a problem."""
    if isinstance(answer, Problem):
        return ""
    if isinstance(answer, str):
        return _in_one_line(answer)
    first, second = answer[:2]
    return f"{_in_one_line(first)}\t{second[first] if isinstance(second, dict) else second:.4f}"


def _in_one_line(text: str) -> str:
    # Our models do not write such characters, but others may, and they would break lines and columns.
    return text.translate({ord(character): " " for character in "\r\n\t"})


def as_json(answer: Any) -> str:
    """An answer, or the problem, as a line of JSON."""
    if isinstance(answer, Problem):
        return json.dumps({"error": answer.message}, ensure_ascii=False)
    return json.dumps({"text": answer} if isinstance(answer, str) else _plain(answer), ensure_ascii=False)


def _plain(answer: Any) -> Any:
    """An answer with all its named tuples as dicts."""
    if hasattr(answer, "_asdict"):
        return {name: _plain(value) for name, value in answer._asdict().items()}
    return [_plain(part) for part in answer] if isinstance(answer, list) else answer


# Input


def open_source(inputs: list[str] | None, path: Path | None, kind: str) -> AbstractContextManager[Source]:
    """The arguments ``inputs``, else the lines of the file ``path``, else those of standard input.

    ``kind`` is what one input is called.
    """
    if inputs and path:
        raise ValueError(f"give each {kind} as an argument or all of them by --input, not both")
    if inputs:
        lines = (Line(number, text, None) for number, text in enumerate(inputs, 1))
        return contextlib.nullcontext(Source(ARGUMENTS, lines, len(inputs)))
    return _open_lines(path, kind)


def check_not_overwritten(output: Path | None, inputs: list[str] | None, path: Path | None, task: Task) -> None:
    """Raise ValueError if the answers would be written to the file that the inputs are read from."""
    written = _status(output if output is not None else sys.stdout)
    if written is None or not stat.S_ISREG(written.st_mode):
        return
    read: list[Any] = [path or sys.stdin] if not inputs else list(map(Path, inputs)) if task.files else []
    if any(os.path.samestat(written, status) for status in map(_status, read) if status is not None):
        raise ValueError(f"the output, {output or 'standard output'}, is what is to be read: name another by --output")


def _status(file: Any) -> os.stat_result | None:
    """The system's record of a path or of a stream; None if there is no file."""
    try:
        return os.stat(file if isinstance(file, Path) else file.fileno())
    except (OSError, ValueError, AttributeError):
        return None


@contextlib.contextmanager
def _open_lines(path: Path | None, kind: str) -> Iterator[Source]:
    if path is not None:
        with open(path, "rb") as file:
            count = _count_lines(path) if path.is_file() and sys.stderr.isatty() else None
            yield Source(str(path), read_lines(file, str(path)), count)
        return
    if sys.stdin is None:
        raise ValueError(f"standard input is closed: give each {kind} as an argument, or a file of them by --input")
    if sys.stdin.isatty():
        tell(f"reading one {kind} per line; Ctrl-D ends it")
    yield Source("standard input", read_lines(standard_input(), "standard input"))


def _count_lines(path: Path) -> int:
    """How many lines a file has, for the progress bar."""
    count, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def standard_input() -> BinaryIO:
    """Standard input as bytes; ValueError if it is closed."""
    if sys.stdin is None:
        raise ValueError("standard input is closed, so there is nothing to read")
    try:
        # A separate buffer: Python's cannot be closed while a thread waits in it for a line.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # a stream that is not a file of the system, as in notebooks
        return sys.stdin.buffer


class Reader:
    """Reads lines in a separate thread, so that lines can be answered while others are still to come."""

    def __init__(self, lines: Iterator[Line], skip: int):
        self.count = 0
        """The number of lines read so far, including skipped ones."""
        # Not queue.Queue: an interrupt at a bad moment of its get() becomes a RuntimeError.
        self._queue: queue.SimpleQueue[Line | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        threading.Thread(target=self._read, args=(lines, skip), daemon=True).start()

    def _read(self, lines: Iterator[Line], skip: int) -> None:
        try:
            for line in lines:
                self.count = line.number
                if line.number > skip:
                    self._room.acquire()
                    self._queue.put(line)
            self._queue.put(None)
        except BaseException as error:  # raised again where the lines are asked for
            self._queue.put(error)

    def groups(self, most: int) -> Iterator[list[Line]]:
        """The lines read so far, in groups of at least one and at most ``most``, until there are no more."""
        item: Line | BaseException | None
        while (item := self._queue.get()) is not None:
            group = []
            while isinstance(item, Line):
                self._room.release()
                group.append(item)
                if len(group) == most:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if group:
                yield group
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return


# Output


class Output:
    """Where answers go, line by line: standard output, or the file ``path``, which the first answer creates or empties.

    With ``resume`` the file is continued: ``lines`` is the number of whole lines it holds, and ``failed`` says whether
    one of them stands for a line without an answer. An incomplete last line is removed.
    """

    def __init__(self, path: Path | None, in_json: bool, resume: bool):
        self.path, self.lines, self.failed = path, 0, False
        self._encode = as_json if in_json else as_text
        self._end = 0
        self._file: io.FileIO | None = None
        if resume and path is None:
            raise ValueError("--resume continues a file: name it by --output")
        if resume and path is not None and path.exists():
            if not path.is_file():
                raise ValueError(f"--resume continues a file, and {path} is not a file")
            self._count()

    def _count(self) -> None:
        self.lines = self._end = 0
        with open(self.path or "", "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self.lines += 1
                    self._end += len(line)
                    self.failed |= line == b"\n" or line.startswith(b'{"error": ')

    def write(self, answers: list[Any]) -> None:
        """Hand the answers to the system, so that they are kept however this process ends."""
        text = "".join(f"{self._encode(answer)}\n" for answer in answers)
        if self.path is None:
            say(text)
        else:
            self._write_to_file(self.path, text.encode("utf-8", "backslashreplace"))
        self.lines += len(answers)
        self.failed |= any(isinstance(answer, Problem) for answer in answers)

    def _write_to_file(self, path: Path, data: bytes) -> None:
        if self._file is None:
            self._file = open(path, "r+b" if self._end else "wb", buffering=0)  # noqa: SIM115
            if self._end:
                self._file.truncate(self._end)
                self._file.seek(self._end)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def interrupted(self) -> KeyboardInterrupt:
        """An interrupt that says how many answers the file holds; it may come between writing and counting."""
        if self.path is not None and self._file is not None and self.path.is_file():
            self._count()
        kept = f"; {self.path} holds their answers, and --resume continues from there" if self.path else ""
        return KeyboardInterrupt(f" after {self.lines} {'line' if self.lines == 1 else 'lines'}{kept}")

    def check_complete(self, read: int, source: str) -> None:
        """Raise ValueError if no lines were read, or fewer (``read``) than the output has."""
        if read == 0:
            raise ValueError(f"{source} is empty")
        if read < self.lines:
            raise ValueError(f"{self.path} has {self.lines} lines and {source} {read}: they do not belong together")


@contextlib.contextmanager
def _progress(source: Source, output: Output) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, if that is a terminal and the answers do not go to a terminal too.

    It yields the function that advances it.
    """
    if not sys.stderr.isatty() or (output.path is None and sys.stdout.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), "lines,", TimeElapsedColumn(), "gone,", TimeRemainingColumn(), "to go"
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("", total=source.total, completed=output.lines)
        yield lambda: bar.update(task, completed=output.lines)

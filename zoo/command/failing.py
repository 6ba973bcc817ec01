"""How the command fails: with one line on standard error, whatever the input, the machine or the terminal does.

Exit status 0: all done. 1: an error ended it. 2: it was called wrongly. 3: some lines could not be answered
(:mod:`zoo.command.streaming`). 130: interrupted by Ctrl-C. Any exception that is not handled below is a bug in this
package and shows its traceback.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

_OF_THE_OUTSIDE = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
"""Errors of the input, the machine or the installation; the last is a training whose loss is not finite."""


class ClosedOutput(io.TextIOBase):
    """Replaces a standard output that is closed: writing to it is an error."""

    def write(self, text: str) -> int:
        raise OSError("standard output is closed, so there is nowhere to write to")


class Commands(TyperGroup):
    """The commands of ``snn-zoo``, with standard streams that take any text, and errors in one line."""

    def main(self, *args: Any, **options: Any) -> Any:
        _prepare_streams()
        with _errors_in_one_line():
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()  # flushed here: at exit, a full disk would show a traceback

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            tell(f"interrupted{interrupt}")
            raise typer.Exit(130) from None


def say(text: str) -> None:
    """Write ``text`` to standard output and flush it; OSError that names standard output if that fails."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") if error.errno else error from None


def tell(message: str) -> None:
    """Write a line to standard error; a failure to do so is ignored, as there is nowhere to report it."""
    with contextlib.suppress(OSError):
        typer.echo(f"snn-zoo: {' '.join(message.split())}", err=True)


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_of_the_outside(error):
            raise
        _give_up_output()
        if not isinstance(error, BrokenPipeError):  # the reader of the output has closed it
            tell(in_words(error))
        sys.exit(1)


def _is_of_the_outside(error: Exception) -> bool:
    """Whether the input, the machine or the installation is at fault, rather than this package."""
    of_torch = isinstance(error, RuntimeError) and type(error).__module__.partition(".")[0] == "torch"  # out of memory
    return of_torch or isinstance(error, _OF_THE_OUTSIDE)


def in_words(error: Exception) -> str:
    """What an error says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError) and not str(error):
        return "out of memory"
    return str(error)


def _prepare_streams() -> None:
    """Make the standard streams take any text.

    Files and pipes are read and written in UTF-8, whatever the locale says. On a terminal, characters that it cannot
    show are written as their codes.
    """
    for _ in range([sys.stdin, sys.stdout, sys.stderr].count(None)):
        os.open(os.devnull, os.O_RDWR)  # takes a closed stream's number, so that no later file gets it
    if sys.stdout is None:
        sys.stdout = ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


def _give_up_output() -> None:
    """Discard what cannot be written to standard output: Python would try again at exit and show a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

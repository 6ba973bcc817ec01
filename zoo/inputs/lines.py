"""Lines of text from files, standard input and archives, read as they come.

A line ends only at a line feed, or at a carriage return and a line feed. ``str.splitlines`` also splits at other
characters (form feed, U+0085, U+2028 and more), but corpora have these within lines, where a split would shift all
later lines. Text is UTF-8; a byte order mark, as editors on Windows write it, is not part of the first line.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line: its ``number``, from 1, and either its ``text`` or the ``problem`` with it."""

    number: int
    text: str | None
    problem: str | None


def decoded(data: bytes, where: str) -> str:
    """``data`` as text; ValueError, beginning with ``where``, for bytes that are not text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is not text in UTF-8: byte {error.start + 1} is 0x{data[error.start]:02x} ({error.reason})"
        ) from None
    if "\0" in text:
        raise ValueError(f"{where} is not text: it holds zero bytes")
    return text


def document(data: bytes, where: str) -> str:
    """All of a file's ``data`` as text, without a byte order mark; ValueError as for :func:`decoded`."""
    return decoded(data.removeprefix(BYTE_ORDER_MARK), where)


def read_lines(stream: BinaryIO, source: str) -> Iterator[Line]:
    """The lines of ``stream`` one by one: there may be any number of them, and they may still be coming in.

    ``source`` is the name of the stream in problems, as in "line 3 of reviews.txt is not text in UTF-8". After a line
    with a problem the other lines follow.
    """
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if not line:
                return  # a file with only a byte order mark is empty
        try:
            text = decoded(line.removesuffix(b"\n").removesuffix(b"\r"), f"line {number} of {source}")
        except ValueError as error:
            yield Line(number, None, str(error))
        else:
            yield Line(number, text, None)


def texts_of(stream: BinaryIO, source: str) -> list[str]:
    """The text of every line of ``stream``; ValueError for the first line with a problem."""
    texts = []
    for line in read_lines(stream, source):
        if line.text is None:
            raise ValueError(line.problem)
        texts.append(line.text)
    return texts


def texts_in(file: Path, remedy: str) -> list[str]:
    """The text of every line of a file, packed by gzip if its name ends in ``.gz``.

    ValueError, which names the file and the ``remedy``, for a packed file that is damaged.
    """
    if file.suffix != ".gz":
        with file.open("rb") as stream:
            return texts_of(stream, str(file))
    try:
        with gzip.open(file) as packed:
            return texts_of(io.BufferedReader(packed), str(file))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file} is damaged: {error}; {remedy}") from error

"""Lines of text from files, standard input and archives, read as they come.

A line ends at a line feed, or a carriage return and a line feed, and at nothing else: the other characters that
``str.splitlines`` cuts at (form feed, U+0085, U+2028 and more) stand within lines of corpora, where a cut would shift
all that follows. Text is UTF-8; a byte order mark, as editors on Windows write it, is no part of the first line.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line: its ``number``, from 1, and either its ``text`` or the ``problem`` why it has none."""

    number: int
    text: str | None
    problem: str | None


def decoded(data: bytes, where: str) -> str:
    """``data`` as text; ValueError, beginning with ``where``, for bytes that are no text."""
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
    """The lines of ``stream`` one by one, so that they may be of any number and still be coming in.

    ``source`` is what problems call the stream, as in "line 3 of reviews.txt is not text in UTF-8". A line with a
    problem does not end the others.
    """
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if not line:
                return  # a file of a byte order mark alone is an empty file
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

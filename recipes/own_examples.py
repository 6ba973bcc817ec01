"""Your own examples: pairs in Python, or a CSV, TSV or JSON lines with an input and an answer in each row."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.inputs.lines import document, read_lines
from zoo.inputs.text import normal


class Own(NamedTuple):
    """One example: an input, its right answer, and where it is from, for errors."""

    input: Any
    answer: str
    where: str


class OwnExamples(NamedTuple):
    """Examples, and a ``description`` of where they are from."""

    rows: list[Own]
    description: str


def read_own(data: Any, noun: str, usual: tuple[str, str], columns: Sequence[str] | None, files: bool) -> OwnExamples:
    """The examples in ``data``: the path of a file, or a list of pairs, each an input (a ``noun``) and its answer.

    ``columns`` are the names of a file's columns for the two. If not given they are the ``usual`` ones; if a file has
    two columns and one of these, the other is meant too. If inputs are ``files``, their places are relative to the
    folder of the data.

    Raises TypeError for what is neither, and ValueError, with the place, for an example without an input or an answer,
    for no examples, and for columns that a file does not have; FileNotFoundError for a file that does not exist.
    """
    if isinstance(data, str | os.PathLike):
        return _of_a_file(Path(data), usual, columns, files)
    if columns is not None:
        raise ValueError(f"columns={columns!r} are of a file, and the examples are a {type(data).__name__}")
    if not isinstance(data, list | tuple):
        raise TypeError(f"examples are a list of pairs or the path of a file; got {type(data).__name__}")
    rows = []
    for place, pair in enumerate(data):
        where = f"{noun} {place}"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise TypeError(f"{where} must be a pair of an input and its answer; got {str(pair)[:200]!r}")
        rows.append(Own(pair[0], checked(pair[1], f"the answer of {where}"), where))
        if not files:
            checked(pair[0], where)
    if not rows:
        raise ValueError(f"there are no {noun}s to fine-tune on")
    return OwnExamples(rows, f"{len(rows)} examples given in Python")


def checked(text: Any, where: str) -> str:
    """``text`` without space around it; TypeError for what is no text, ValueError for an empty or a missing one."""
    if isinstance(text, float) and math.isnan(text):
        raise ValueError(f"{where} is NaN, a missing value")
    if not isinstance(text, str):
        raise TypeError(f"{where} must be text; got {text!r}")
    if not text.strip():
        raise ValueError(f"{where} is empty")
    if text.strip().lower() == "nan":
        raise ValueError(f"{where} is {text.strip()}, a missing value")
    normal(text, where)
    return text.strip()


def checked_pairs(pairs: Any, noun: str, parts: str, purpose: str) -> list[tuple[str, str]]:
    """``pairs`` as a list; TypeError for anything but a list of two strings each, ValueError for an empty one.

    Errors call one pair ``noun`` and what it holds ``parts``.
    """
    if not isinstance(pairs, list | tuple):
        raise TypeError(f"{noun}s must be a list of {parts}; got {type(pairs).__name__}")
    for place, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or [isinstance(part, str) for part in pair] != [True, True]:
            raise TypeError(f"{noun} {place} must be two strings, {parts}; got {pair!r}")
    if not pairs:
        raise ValueError(f"there are no {noun}s to {purpose}")
    return [(first, second) for first, second in pairs]


def _of_a_file(path: Path, usual: tuple[str, str], columns: Sequence[str] | None, files: bool) -> OwnExamples:
    data = path.read_bytes()
    rows = []
    for where, (given, answer) in table(path, data, usual, columns):
        rows.append(Own(path.parent / given if files else given, answer, where))
    if not rows:
        raise ValueError(f"{path} holds no examples")
    digest = hashlib.sha256(data).hexdigest()
    return OwnExamples(rows, f"{len(rows)} examples in {path.name} (SHA-256 {digest[:16]})")


def table(
    path: Path, data: bytes, usual: tuple[str, str], columns: Sequence[str] | None
) -> Iterator[tuple[str, tuple[str, str]]]:
    """The place and the two texts of each row of a file that holds ``data``; see :func:`read_own`."""
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must be a .csv, .tsv or .jsonl file")
    if not data.strip():
        raise ValueError(f"{path} is empty")
    if columns is not None and (len(columns) != 2 or isinstance(columns, str)):
        raise ValueError(f"columns are two names, of the input and of the answer; got {columns!r}")
    chosen = None
    for number, row in readers[path.suffix.lower()](path, data):
        where = f"line {number} of {path}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} is no object with named fields")
        chosen = chosen or _chosen(path, list(row), usual, columns)
        texts = []
        for name in chosen:
            if row.get(name) is None:
                raise ValueError(f"{where} has no {name!r}")
            value = str(row[name]) if isinstance(row[name], int) else row[name]  # a label may be a number
            try:
                texts.append(checked(value, f"{name!r} in {where}"))
            except TypeError as error:
                raise ValueError(str(error)) from None
        yield where, (texts[0], texts[1])


def _chosen(path: Path, found: list[str], usual: tuple[str, str], columns: Sequence[str] | None) -> Sequence[str]:
    """The two columns that are meant, of those ``found``."""
    wanted = usual if columns is None else columns
    missing = [name for name in wanted if name not in found]
    if len(missing) == 1 and columns is None and len(found) == 2:
        (other,) = set(found) - set(wanted)
        return [other if name in missing else name for name in wanted]
    if missing:
        raise ValueError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; it has {', '.join(map(repr, found))}. "
            "Say by columns (--columns INPUT ANSWER) which two are meant"
        )
    return wanted


def _csv_rows(path: Path, data: bytes) -> Iterator[tuple[int, Any]]:
    text = document(data, str(path))
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a text may have any length
    tabs = path.suffix.lower() == ".tsv"
    delimiter, kind, marks = ("\t", "TSV", "tabs") if tabs else (",", "CSV", "commas")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        names = list(reader.fieldnames or [])
        if len(set(names)) < len(names):
            raise ValueError(f"{path} has two columns of the same name in its first line: {names}")
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} of {path} has too many fields: quote text with {marks}")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} is no {kind}: {error}") from None


def _json_rows(path: Path, data: bytes) -> Iterator[tuple[int, Any]]:
    for number, text, problem in read_lines(io.BytesIO(data), str(path)):
        if text is None:
            raise ValueError(problem)
        if text.strip():
            try:
                yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} of {path} is no JSON: {error}") from None

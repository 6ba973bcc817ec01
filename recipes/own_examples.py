"""Your own examples in a file: a CSV with named columns, or JSON lines with these fields."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from zoo.inputs.lines import document, read_lines
from zoo.inputs.text import normal


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


def read_table(path: Path, fields: tuple[str, ...]) -> list[list[str]]:
    """The texts of these fields in each row. Raises ValueError, naming the line, for a row without them."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must be a .csv or a .jsonl file")
    rows = []
    for number, row in readers[path.suffix.lower()](path, fields):
        for field in fields:
            where = f"line {number} of {path}"
            if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field].strip():
                raise ValueError(f"{where} has no text for {field!r}")
            normal(row[field], f"{field!r} in {where}")  # JSON can spell strings that are not text
        rows.append([row[field] for field in fields])
    if not rows:
        raise ValueError(f"{path} holds no examples")
    return rows


def _csv_rows(path: Path, fields: tuple[str, ...]):
    text = document(path.read_bytes(), str(path))
    if not text.strip():
        raise ValueError(f"{path} is empty")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a text may have any length
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if missing := [field for field in fields if field not in (reader.fieldnames or [])]:
            raise ValueError(f"{path} has no column {' and no column '.join(map(repr, missing))} in its first line")
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} of {path} has too many fields: quote text with commas")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} is no CSV: {error}") from None


def _json_rows(path: Path, fields: tuple[str, ...]):
    with path.open("rb") as stream:
        for number, text, problem in read_lines(stream, str(path)):
            if text is None:
                raise ValueError(problem)
            if text.strip():
                try:
                    yield number, json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"line {number} of {path} is no JSON: {error}") from None

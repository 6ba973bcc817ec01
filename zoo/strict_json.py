"""Untrusted JSON: only what the standard allows, and nothing that later code could not handle."""

import json
import math
import re
from typing import Any

DEEPEST = 32
"""How deep objects and lists may be nested; no file of a model comes near it."""
LARGEST_NUMBER = 2**63 - 1
_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")


def parse(data: bytes) -> Any:
    """The value in ``data``.

    Raises ValueError, whose message continues a sentence that begins with the file's name, for anything that is not
    JSON in UTF-8. A byte order mark, a repeated key, NaN, infinity, whole numbers beyond 64 bits, half of a surrogate
    pair and too deep nesting are refused too.
    """
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError(_too_deep()) from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    _check(content, 0)
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} comes twice")
    return content


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _check(content: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(_too_deep())
    kind = type(content)
    if kind is int:
        if not -LARGEST_NUMBER <= content <= LARGEST_NUMBER:
            raise ValueError(f"is no file of a model: the number {str(content)[:40]} is too large")
    elif kind is str:
        if not content.isascii() and _HALF_OF_A_PAIR.search(content):
            raise ValueError(f"is not JSON: the text {content[:40]!r} holds half of a surrogate pair")
    elif kind is list or kind is dict:
        for part in content:
            _check(part, depth + 1)
        for value in content.values() if kind is dict else ():
            _check(value, depth + 1)


def _too_deep() -> str:
    return f"is no file of a model: its content is nested more than {DEEPEST} deep"

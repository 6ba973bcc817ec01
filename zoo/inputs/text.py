"""What a text may hold, and the token ids of it.

A text is any string of Unicode characters but zero; half of a surrogate pair is no character. One text can be written
in several ways, which :func:`normal` makes one: full-width letters and ligatures become ordinary ones (Unicode's form
NFKC), and what is not seen is left out: byte order marks, zero-width characters, soft hyphens, marks of direction,
variation selectors and control characters. The control characters U+0080 to U+009F stay: corpora hold them where
Windows has quotation marks and dashes, and models know them as such.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

# The Unicode property Default_Ignorable_Code_Point, and the control characters of ASCII that are no white space.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\x01-\x08\x0e-\x1b\x7f]"
)
_SEPARATORS = re.compile("[\x1c-\x1f]")  # white space to Python, and not to Unicode
_SURROGATE = re.compile("[\ud800-\udfff]")
BLANK = "\u2581"
"""What a tokenizer writes for the blank before a word."""
SHOWN = 40
"""How much of a text is shown in an error."""


def normal(text: Any, where: str) -> str:
    """``text`` as every reader of it sees it.

    Raises TypeError for what is no string and ValueError for one that is no text, both beginning with ``where``, the
    place of the text among those that were given.
    """
    if not isinstance(text, str):
        raise TypeError(f"{where} must be a string; got {type(text).__name__}")
    if text.isascii() and text.isprintable():
        return str(text)
    if half := _SURROGATE.search(text):
        raise ValueError(
            f"{where} holds {half[0]!r} at character {half.start() + 1}: half of a surrogate pair is no character, and "
            "stands where a text was cut within one or was not in UTF-8"
        )
    if "\0" in text:
        raise ValueError(f"{where} holds a zero at character {text.index(chr(0)) + 1}, which no text does")
    return unicodedata.normalize("NFKC", _UNSEEN.sub("", _SEPARATORS.sub(" ", text)))


class TextReader:
    """Reads texts into the ids of a tokenizer, or says what is wrong with one.

    ``special_tokens`` are those that no text may spell, the one for what is unknown among them. ``kind`` is what one
    text is called in errors.
    """

    def __init__(self, tokenizer: Tokenizer, special_tokens: list[str], kind: str):
        if not tokenizer.encode_special_tokens:
            tokenizer.encode_special_tokens = True  # "</s>" in a text is text
        self.tokenizer, self.special_tokens, self.kind = tokenizer, special_tokens, kind
        known = {token: place for token, place in tokenizer.get_vocab().items() if token not in special_tokens}
        self.alphabet = frozenset("".join(known))
        self.known = frozenset(known.values())
        """The ids that stand for any text that the tokenizer knows."""
        self.visible = frozenset(place for token, place in known.items() if token != BLANK)
        """Those of them that stand for more than a blank."""

    def __reduce__(self):
        # A copied tokenizer has forgotten that special tokens are text: a copy is made as this was.
        return type(self), (self.tokenizer, self.special_tokens, self.kind)

    def ids(self, texts: Sequence[Any]) -> list[list[int]]:
        """The token ids of each text, be it empty or unknown; ValueError or TypeError for what is no text."""
        if isinstance(texts, str):
            raise TypeError(f"{self.kind}s must be a list of strings; put the one {self.kind} in a list")
        if not isinstance(texts, list | tuple):
            raise TypeError(f"{self.kind}s must be a list of strings; got {type(texts).__name__}")
        readable = [normal(text, f"{self.kind} {place}") for place, text in enumerate(texts)]
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(readable)]

    def check_known(self, text: str, ids: list[int], known: frozenset[int], where: str) -> None:
        """Raise ValueError for a text that is empty, or has none of the ids that are ``known``."""
        if known.isdisjoint(ids):
            problem = "has nothing that this model knows" if ids else "is empty"
            raise ValueError(f"{where} {problem}{f': {text[:SHOWN]!r}' if text.strip() else ''}")

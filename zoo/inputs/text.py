"""What a text may hold, and its token ids.

A text is any string of Unicode characters without the character zero; half of a surrogate pair is not a character. The
same text can be written in several ways. :func:`normal` makes them equal: full-width letters and ligatures become
ordinary ones (Unicode's form NFKC), and invisible characters are removed: byte order marks, zero-width characters, soft
hyphens, marks of direction, variation selectors and control characters. The control characters U+0080 to U+009F stay:
corpora hold them in place of Windows' quotation marks and dashes, and models know them as such.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

# The Unicode property Default_Ignorable_Code_Point, and the ASCII control characters except white space.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\x01-\x08\x0e-\x1b\x7f]"
)
_SEPARATORS = re.compile("[\x1c-\x1f]")  # white space in Python, but not in Unicode
_SURROGATE = re.compile("[\ud800-\udfff]")
BLANK = "\u2581"
"""What a tokenizer writes for the space before a word."""
SHOWN = 40
"""How many characters of a text an error shows."""


def normal(text: Any, where: str) -> str:
    """``text`` in the normal form that every reader uses.

    Raises TypeError for anything but a string and ValueError for a string that is not a text, both beginning with
    ``where``, the place of the text among those given.
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
    """Turns texts into the ids of a tokenizer, or says what is wrong with a text.

    ``special_tokens`` are those that no text may spell, including the one for unknown text. ``kind`` is the word for
    one text in errors.
    """

    def __init__(self, tokenizer: Tokenizer, special_tokens: list[str], kind: str):
        if not tokenizer.encode_special_tokens:
            tokenizer.encode_special_tokens = True  # "</s>" in a text is text
        self.tokenizer, self.special_tokens, self.kind = tokenizer, special_tokens, kind
        known = {token: place for token, place in tokenizer.get_vocab().items() if token not in special_tokens}
        self.alphabet = frozenset("".join(known))
        self.known = frozenset(known.values())
        """The ids that stand for text that the tokenizer knows."""
        self.visible = frozenset(place for token, place in known.items() if token != BLANK)
        """Those of them that stand for more than a space."""

    def __reduce__(self):
        # A copied tokenizer loses the setting that special tokens are text, so a copy is built like the original.
        return type(self), (self.tokenizer, self.special_tokens, self.kind)

    def ids(self, texts: Sequence[Any]) -> list[list[int]]:
        """The token ids of each text, also of an empty or unknown one; ValueError or TypeError for a non-text."""
        if isinstance(texts, str):
            raise TypeError(f"{self.kind}s must be a list of strings; put the one {self.kind} in a list")
        if not isinstance(texts, list | tuple):
            raise TypeError(f"{self.kind}s must be a list of strings; got {type(texts).__name__}")
        readable = [normal(text, f"{self.kind} {place}") for place, text in enumerate(texts)]
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(readable)]

    def names(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The tokens as the tokenizer spells them."""
        return tuple(str(self.tokenizer.id_to_token(place)) for place in ids)

    def check_known(self, text: str, ids: list[int], known: frozenset[int], where: str) -> None:
        """Raise ValueError for a text that is empty or has none of the ``known`` ids."""
        if known.isdisjoint(ids):
            problem = "has nothing that this model knows" if ids else "is empty"
            raise ValueError(f"{where} {problem}{f': {text[:SHOWN]!r}' if text.strip() else ''}")

"""Pronunciations of words: the CMU Pronouncing Dictionary, and a few safe rules for words that it lacks.

The rules read no letters aloud: they join a known word and a regular ending (``hearken`` and ``-ed``), or two known
words that are written as one. A word that they do not reach has no pronunciation.
"""

import re
from pathlib import Path

from zoo.inputs.data_files import plain_file
from zoo.inputs.lines import texts_of
from zoo.networks.speech import PHONES

NAME, SOURCE = "cmudict.dict", "https://github.com/cmusphinx/cmudict"
HISSING = {"S", "Z", "SH", "ZH", "CH", "JH"}
VOICELESS = {"P", "T", "K", "F", "TH", "S", "SH", "CH"}
SHORTEST_PART = 4
"""The fewest letters of each of two words that are written as one."""
ENDINGS = {"ing": "IH NG", "ly": "L IY", "ness": "N AH S", "less": "L AH S", "ful": "F AH L"}
Phones = tuple[str, ...]


class Dictionary:
    """Words, in lower case, and their pronunciations as phones without stress, the most usual first."""

    def __init__(self, words: dict[str, list[Phones]]):
        self.words = words

    def __contains__(self, word: str) -> bool:
        return bool(self.pronunciations(word))

    def pronunciations(self, word: str) -> list[Phones]:
        """Those of the dictionary, else by the rules; none if neither knows the word."""
        word = word.lower()
        return self.words.get(word) or self._with_ending(word) or self._of_two(word)

    def _with_ending(self, word: str) -> list[Phones]:
        """A known word with a regular ending, spoken as English speaks it after the word's last phone."""
        for ending in ("'s", "s'", "s", "es", "ed", *ENDINGS):
            for stem in _stems(word, ending):
                if found := self.words.get(stem):
                    return [phones + _spoken(ending, phones[-1]) for phones in found]
        return []

    def _of_two(self, word: str) -> list[Phones]:
        """Two known words written as one; of several cuts the one with the longer shorter part."""
        cuts = range(SHORTEST_PART, len(word) - SHORTEST_PART + 1)
        for cut in sorted(cuts, key=lambda cut: -min(cut, len(word) - cut)):
            left, right = self.words.get(word[:cut]), self.words.get(word[cut:])
            if left and right:
                return [left[0] + right[0]]
        return []


def _stems(word: str, ending: str) -> list[str]:
    """What the word may have been before the ending: with its last letter dropped, doubled or changed, too."""
    stem = word.removesuffix(ending)
    if stem == word or len(stem) < 3:
        return []
    stems = [stem]
    if ending in ("es", "ed", "ing") and stem[-1] == stem[-2]:
        stems.append(stem[:-1])
    if ending in ("ed", "ing"):
        stems.append(f"{stem}e")
    if stem[-1] == "i":
        stems.append(f"{stem[:-1]}y")
    return stems


def _spoken(ending: str, last: str) -> Phones:
    """The phones of an ending after the phone ``last``."""
    if ending in ENDINGS:
        phones = tuple(ENDINGS[ending].split())
        return phones[1:] if phones[0] == last else phones  # "coolly" has one L
    if ending == "ed":
        return ("IH", "D") if last in ("T", "D") else ("T",) if last in VOICELESS else ("D",)
    return ("IH", "Z") if last in HISSING else ("S",) if last in VOICELESS else ("Z",)


def find_dictionary(data: Path, given: Path | None = None) -> Path:
    """The file ``given``, else ``cmudict.dict`` in the folder ``data`` or beside it; FileNotFoundError if none."""
    if given is not None:
        return plain_file(given, "pronouncing dictionary")
    for folder in (data, data.resolve().parent):
        if (folder / NAME).is_file():
            return folder / NAME
    raise FileNotFoundError(
        f"neither {data} nor the folder above holds {NAME}; get it from {SOURCE}, or name a file by --dictionary"
    )


def read_dictionary(path: Path) -> Dictionary:
    """The words of a dictionary in the format of cmudict; ValueError, naming the line, for a damaged one."""
    words: dict[str, list[Phones]] = {}
    with plain_file(path, "pronouncing dictionary").open("rb") as stream:
        for number, line in enumerate(texts_of(stream, str(path)), 1):
            entry = line.partition("#")[0].strip()
            if not entry or entry.startswith(";;;"):
                continue
            word, *phones = entry.split()
            bare = tuple(phone.rstrip("012") for phone in phones)
            if not bare or not set(bare) <= set(PHONES):
                raise ValueError(f"line {number} of {path}: {entry[:80]!r} is no word and its phones")
            words.setdefault(re.sub(r"\(\d+\)$", "", word.lower()), []).append(bare)
    if not words:
        raise ValueError(f"{path} holds no words")
    return Dictionary(words)

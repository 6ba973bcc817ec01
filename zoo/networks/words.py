"""Words from the probabilities of phones: a lexicon and a word n-gram model in one beam search (flashlight-text).

The search goes through the steps of a recording and along a tree of the pronunciations of all words. A whole word is
scored by the language model (KenLM, from an ARPA file or its binary form)::

    log p(phones | audio) + lm_weight * log10 p(words) + word_score * number of words

A folder with the files ``lexicon.txt`` and ``words.arpa`` holds all that a search needs (:func:`search_in`).
"""

import contextlib
import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.inputs.data_files import plain_file
from zoo.inputs.lines import texts_of
from zoo.options import number, whole_number

BLANK = 0
"""The unit of CTC that stands for no phone; the labels follow it."""
UNKNOWN = "<unk>"
LEXICON, LANGUAGE_MODEL = "lexicon.txt", "words.arpa"
LM_WEIGHT, WORD_SCORE, BEAM_SIZE, BEAM_THRESHOLD = 1.5, -1.0, 100, 25.0
"""Chosen on val of the LibriSpeech parts, for the bundled model."""


class Word(NamedTuple):
    """A word that was heard: from when to when, in seconds, and the mean probability of its phones there."""

    name: str
    start: float
    end: float
    confidence: float


class Words(NamedTuple):
    """What was said, as words in lower case, the score of the search, and each of the words."""

    text: str
    score: float
    words: list[Word]


class WordSearch:
    """A search for the words of recordings.

    ``lexicon`` has the pronunciations of each word, in the phones ``labels`` of the network. Without a
    ``language_model`` all words are equally likely. Raises ImportError without flashlight-text, ValueError for a phone
    that the network does not know and for an option that is no such number.
    """

    def __init__(
        self,
        labels: Sequence[str],
        lexicon: Mapping[str, Iterable[Sequence[str]]],
        language_model: Path | None = None,
        lm_weight: float = LM_WEIGHT,
        word_score: float = WORD_SCORE,
        beam_size: int = BEAM_SIZE,
        beam_threshold: float = BEAM_THRESHOLD,
    ):
        number("lm_weight", lm_weight, 0), number("word_score", word_score, -math.inf)
        whole_number("beam_size", beam_size, 1), number("beam_threshold", beam_threshold, 0)
        self._made_of = labels, lexicon, beam_size, beam_threshold
        try:
            from flashlight.lib.text import decoder
            from flashlight.lib.text.dictionary import Dictionary
        except ImportError as error:
            raise ImportError('words need flashlight-text; install it with: pip install "snn-zoo[speech]"') from error
        words = Dictionary()
        for word in (*lexicon, UNKNOWN):
            words.add_entry(word)
        self._words: Any = words
        with _quiet():
            self._model = _language_model(language_model, words) if language_model else decoder.ZeroLM()
            trie = self._trie(labels, lexicon)
        options = decoder.LexiconDecoderOptions(
            beam_size=beam_size,
            beam_size_token=1 + len(labels),
            beam_threshold=beam_threshold,
            lm_weight=lm_weight,
            word_score=word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=decoder.CriterionType.CTC,
        )
        unknown = words.get_index(UNKNOWN)
        self._search = decoder.LexiconDecoder(options, trie, self._model, BLANK, BLANK, unknown, [], False)

    def _trie(self, labels: Sequence[str], lexicon: Mapping[str, Iterable[Sequence[str]]]) -> Any:
        """All pronunciations as a tree of phones; words that sound alike are kept up to the library's limit of six."""
        from flashlight.lib.text import decoder

        units = {label: 1 + i for i, label in enumerate(labels)}
        trie, start = decoder.Trie(1 + len(labels), BLANK), self._model.start(False)
        for word, pronunciations in lexicon.items():
            number = self._words.get_index(word)
            score = self._model.score(start, number)[1]
            for phones in pronunciations:
                if missing := [phone for phone in phones if phone not in units]:
                    raise ValueError(f"the word {word!r} has the phone {missing[0]}, which the network does not know")
                trie.insert([units[phone] for phone in phones], number, score)
        trie.smear(decoder.SmearingMode.MAX)
        return trie

    def without_language_model(self) -> "WordSearch":
        """The same search, to which all words are equally likely."""
        labels, lexicon, beam_size, beam_threshold = self._made_of
        return WordSearch(labels, lexicon, beam_size=beam_size, beam_threshold=beam_threshold)

    def best(self, log_probabilities: Tensor, step_seconds: float = 1.0) -> Words:
        """The best words for ``log_probabilities [steps, 1 + labels]``, each step of ``step_seconds``."""
        emissions = log_probabilities.detach().to("cpu", torch.float32).contiguous()
        steps, units = emissions.shape
        found = self._search.decode(emissions.data_ptr(), steps, units)
        if not found:
            return Words("", -math.inf, [])
        # The search has a step before the first and one after the last.
        numbers, tokens = found[0].words[1 : steps + 1], found[0].tokens[1 : steps + 1]
        words = []
        for index, (start, end) in zip([n for n in numbers if n >= 0], _spans(numbers, tokens)):
            sure = [math.exp(emissions[t, tokens[t]]) for t in range(start, end) if tokens[t] != BLANK]
            times = round(start * step_seconds, 3), round(end * step_seconds, 3)
            words.append(Word(self._words.get_entry(index), *times, round(sum(sure) / len(sure), 4)))
        return Words(" ".join(word.name for word in words), found[0].score, words)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context in which nothing is written to standard error: the libraries draw their own progress there."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _language_model(path: Path, words: Any) -> Any:
    """KenLM's model of the ``words``; ValueError, naming the file, for what it cannot read."""
    from flashlight.lib.text.decoder.kenlm import KenLM

    path = plain_file(path, "language model")
    try:
        return KenLM(os.fsencode(path) if os.name == "posix" else str(path), words)  # any name, UTF-8 or not
    except RuntimeError as error:
        raise ValueError(f"{path} is no language model that KenLM reads: {' '.join(str(error).split())}") from None


def _spans(numbers: list[int], tokens: list[int]) -> list[tuple[int, int]]:
    """The steps of each word: from its first phone to the end of its last, at whose beginning the word is found."""
    spans, start = [], 0
    for found in [t for t, word in enumerate(numbers) if word >= 0]:
        while tokens[start] == BLANK:
            start += 1
        end = found + 1
        while end < len(tokens) and tokens[end] == tokens[found]:
            end += 1
        spans.append((start, end))
        start = end
    return spans


def write_lexicon(lexicon: Mapping[str, Iterable[Sequence[str]]], path: Path) -> None:
    """Write one line for each pronunciation: the word, a tab and its phones."""
    lines = [f"{word}\t{' '.join(phones)}\n" for word, found in lexicon.items() for phones in found]
    path.write_text("".join(lines), encoding="utf-8")


def read_lexicon(path: Path) -> dict[str, list[list[str]]]:
    """What :func:`write_lexicon` wrote; ValueError, with the line, for a line that is no word, tab and phones."""
    lexicon: dict[str, list[list[str]]] = {}
    with plain_file(path, "lexicon").open("rb") as stream:
        for number, line in enumerate(texts_of(stream, str(path)), 1):
            word, tab, phones = line.strip().partition("\t")
            if not word or not tab or not phones.split():
                raise ValueError(f"line {number} of {path} is no word, tab and phones: {line[:80]!r}")
            lexicon.setdefault(word, []).append(phones.split())
    if not lexicon:
        raise ValueError(f"{path} holds no words")
    return lexicon


def search_in(folder: Path, labels: Sequence[str]) -> WordSearch:
    """The search of a folder with the files ``lexicon.txt`` and ``words.arpa``; the last one is kept in memory.

    Raises FileNotFoundError for a folder without them, and the errors of :func:`read_lexicon` and WordSearch.
    """
    lexicon = plain_file(folder / LEXICON, "lexicon")
    model = plain_file(folder / LANGUAGE_MODEL, "language model")
    return _search(lexicon, model, tuple(labels), lexicon.stat().st_mtime_ns, model.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _search(lexicon: Path, language_model: Path, labels: tuple[str, ...], *changed: int) -> WordSearch:
    return WordSearch(labels, read_lexicon(lexicon), language_model)

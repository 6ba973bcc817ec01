"""Words from the probabilities of phones: a lexicon and a word n-gram model in one beam search (flashlight-text).

The search goes through the steps of a recording and along a tree of the pronunciations of all words. A whole word is
scored by the language model (KenLM, from an ARPA file or its binary form)::

    log p(phones | audio) + lm_weight * log10 p(words) + word_score * number of words
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.networks.speech import BLANK

UNKNOWN = "<unk>"


class Words(NamedTuple):
    """What was said, as words in lower case, and the score of the search."""

    text: str
    score: float


class WordSearch:
    """A search for the words of recordings.

    ``lexicon`` has the pronunciations of each word, in the phones ``labels`` of the network. Without a
    ``language_model`` all words are equally likely. Raises ImportError without flashlight-text, ValueError for a phone
    that the network does not know.
    """

    def __init__(
        self,
        labels: Sequence[str],
        lexicon: Mapping[str, Iterable[Sequence[str]]],
        language_model: Path | None = None,
        lm_weight: float = 2.0,
        word_score: float = 0.0,
        beam_size: int = 100,
        beam_threshold: float = 25.0,
    ):
        self._made_of = labels, lexicon, beam_size, beam_threshold
        try:
            from flashlight.lib.text import decoder
            from flashlight.lib.text.dictionary import Dictionary
        except ImportError as error:
            raise ImportError('words need flashlight-text; install it with: pip install "snn-zoo[speech]"') from error
        units = {label: 1 + i for i, label in enumerate(labels)}
        words = Dictionary()
        for word in (*lexicon, UNKNOWN):
            words.add_entry(word)
        self._words: Any = words
        self._model = decoder.KenLM(str(language_model), words) if language_model else decoder.ZeroLM()
        trie, start = decoder.Trie(1 + len(labels), BLANK), self._model.start(False)
        for word, pronunciations in lexicon.items():
            number = words.get_index(word)
            score = self._model.score(start, number)[1]
            for phones in pronunciations:
                if missing := [phone for phone in phones if phone not in units]:
                    raise ValueError(f"the word {word!r} has the phone {missing[0]}, which the network does not know")
                trie.insert([units[phone] for phone in phones], number, score)
        trie.smear(decoder.SmearingMode.MAX)
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

    def without_language_model(self) -> "WordSearch":
        """The same search, to which all words are equally likely."""
        labels, lexicon, beam_size, beam_threshold = self._made_of
        return WordSearch(labels, lexicon, beam_size=beam_size, beam_threshold=beam_threshold)

    def best(self, log_probabilities: Tensor) -> Words:
        """The best words for ``log_probabilities [steps, 1 + labels]``."""
        emissions = log_probabilities.detach().to("cpu", torch.float32).contiguous()
        steps, units = emissions.shape
        found = self._search.decode(emissions.data_ptr(), steps, units)
        if not found:
            return Words("", -math.inf)
        return Words(" ".join(self._words.get_entry(i) for i in found[0].words if i >= 0), found[0].score)

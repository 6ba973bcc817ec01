"""An n-gram language model of words, from text, in the ARPA format that KenLM and others read.

It is interpolated Kneser-Ney (Chen and Goodman 1999) with one discount per order. For the words w after the history h::

    p(w | h) = max(c(h w) - D, 0) / c(h) + b(h) p(w | h without its first word)

c counts in the highest order; below it, c(h w) is the number of different words that come before h w. b(h) is what the
discounts leave over, so that the probabilities sum to 1. Under the single words lies an equal share for each.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from zoo.inputs.lines import texts_in

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
CLITICS = re.compile(r" ?(n ?' ?t|' ?(?:s|t|d|m|ll|re|ve))\b")
Ngram = tuple[str, ...]


def read_texts(folder: Path) -> list[str]:
    """The lines of all ``.txt`` and ``.txt.gz`` files of a folder. Raises FileNotFoundError if there are none."""
    files = sorted([*folder.glob("*.txt"), *folder.glob("*.txt.gz")])
    if not files:
        raise FileNotFoundError(f"{folder} holds no .txt or .txt.gz with text for a language model")
    return [line for file in files for line in texts_in(file, "get it again, or take it out of the folder")]


def words_of(line: str) -> list[str]:
    """The words of a line in lower case: letters and apostrophes, with split-off endings such as 's joined again."""
    joined = CLITICS.sub(lambda ending: ending[1].replace(" ", ""), line.lower().replace("\u2019", "'"))
    return [word for word in (found.strip("'") for found in re.findall(r"[a-z']+", joined)) if word]


def ngrams(sentences: Iterable[list[str]], vocabulary: set[str], order: int) -> list[Counter[Ngram]]:
    """How often each n-gram is there, for n from 1 to ``order``; a word outside the vocabulary is <unk>."""
    counts: list[Counter[Ngram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = [BEGIN, *[word if word in vocabulary else UNKNOWN for word in sentence], END]
        for n, counter in enumerate(counts, 1):
            counter.update(zip(*[words[i:] for i in range(n)]))
    return counts


def _kneser_ney(counts: list[Counter[Ngram]]) -> list[Counter[Ngram]]:
    """Below the highest order, counts of the different words before; at the start of a sentence nothing is before."""
    found = [Counter[Ngram]() for _ in counts[:-1]]
    for n, counter in enumerate(found, 1):
        for ngram in counts[n]:
            counter[ngram[1:]] += 1
        for ngram, count in counts[n - 1].items():
            if ngram[0] == BEGIN:
                counter[ngram] = count
    return [*found, counts[-1]]


def _discount(counter: Counter[Ngram]) -> float:
    ones, twos = (sum(1 for count in counter.values() if count == n) for n in (1, 2))
    return ones / (ones + 2 * twos) if ones else 0.5


class NgramModel:
    """The probabilities of n-grams and the weights of their histories, both as log10, by order."""

    def __init__(self, sentences: Iterable[list[str]], vocabulary: set[str], order: int = 3, least: int = 1):
        """``least``: n-grams of three words and more that are there less often are left out."""
        counts = ngrams(sentences, vocabulary, order)
        if not counts[0]:
            raise ValueError("there is no text to make a language model of")
        least_of = [1, 1, *[least] * (order - 2)][:order]
        self.words = sorted(vocabulary - {BEGIN, END, UNKNOWN})
        self.probabilities: list[dict[Ngram, float]] = []
        self.backoffs: list[dict[Ngram, float]] = []
        adjusted = _kneser_ney(counts)
        for n, counter in enumerate(adjusted, 1):
            kept = {ngram for ngram in counts[n - 1] if counts[n - 1][ngram] >= least_of[n - 1]}
            kept.discard((BEGIN,))
            self._add(n, counter, kept, _discount(counter))

    def _add(self, n: int, counter: Counter[Ngram], kept: set[Ngram], discount: float) -> None:
        """The n-grams of one order, over those of the order below."""
        totals: dict[Ngram, int] = defaultdict(int)
        taken: dict[Ngram, float] = defaultdict(float)
        for ngram, count in counter.items():
            if ngram != (BEGIN,):
                totals[ngram[:-1]] += count
        shares = {ngram: max(counter[ngram] - discount, 0.0) / totals[ngram[:-1]] for ngram in kept}
        for ngram, share in shares.items():
            taken[ngram[:-1]] += share
        if n == 1:
            known = [(word,) for word in (*self.words, END, UNKNOWN)]
            left = (1 - taken[()]) / len(known)
            self.probabilities.append({ngram: shares.get(ngram, 0.0) + left for ngram in known})
            return
        self.backoffs.append({history: max(1 - share, 1e-9) for history, share in taken.items()})
        lower = self.backoffs[-1]
        self.probabilities.append(
            {ngram: share + lower[ngram[:-1]] * self.probability(ngram[1:]) for ngram, share in shares.items()}
        )

    def probability(self, ngram: Ngram) -> float:
        """The probability of the last word after the others."""
        if len(ngram) <= len(self.probabilities) and ngram in self.probabilities[len(ngram) - 1]:
            return self.probabilities[len(ngram) - 1][ngram]
        if len(ngram) == 1:
            return self.probabilities[0][(UNKNOWN,)]
        backoff = self.backoffs[len(ngram) - 2] if len(ngram) - 2 < len(self.backoffs) else {}
        return backoff.get(ngram[:-1], 1.0) * self.probability(ngram[1:])

    def arpa(self) -> Iterator[str]:
        """The lines of an ARPA file."""
        yield "\\data\\\n"
        for n, table in enumerate(self.probabilities, 1):
            yield f"ngram {n}={len(table) + (n == 1)}\n"
        for n, table in enumerate(self.probabilities, 1):
            yield f"\n\\{n}-grams:\n"
            backoffs = self.backoffs[n - 1] if n <= len(self.backoffs) else {}
            if n == 1:
                yield f"-99\t{BEGIN}\t{math.log10(backoffs.get((BEGIN,), 1.0)):.6f}\n"
            for ngram, probability in table.items():
                tail = f"\t{math.log10(backoffs[ngram]):.6f}" if ngram in backoffs else ""
                yield f"{math.log10(probability):.6f}\t{' '.join(ngram)}{tail}\n"
        yield "\n\\end\\\n"

    def write(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(self.arpa())

"""Words: a language model whose probabilities sum to one, its file, and the search with lexicon and language model."""

import gzip
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.language_model import BEGIN, END, UNKNOWN, NgramModel, read_texts, words_of
from zoo.networks.words import WordSearch

WORDS = ("a", "b", "c", "d")
SENTENCES = st.lists(st.lists(st.sampled_from([*WORDS, "x"]), max_size=6), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(SENTENCES, st.integers(1, 3), st.integers(1, 2))
def test_the_probabilities_of_all_words_after_any_history_sum_to_one(sentences, order, least):
    model = NgramModel(sentences, set(WORDS), order, least)
    for history in ((), (BEGIN,), ("a",), ("a", "b"), (BEGIN, "c"), (UNKNOWN, "d")):
        total = sum(model.probability((*history[-order + 1 or 2 :], word)) for word in (*WORDS, END, UNKNOWN))
        assert total == pytest.approx(1, abs=1e-6)


def test_words_that_follow_often_are_more_probable_than_others():
    model = NgramModel([["a", "b"]] * 5 + [["a", "c"]], set(WORDS), 2)
    assert model.probability(("a", "b")) > model.probability(("a", "c")) > model.probability(("a", "d")) > 0


def test_a_language_model_needs_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.txt or \.txt\.gz"):
        read_texts(tmp_path)
    with pytest.raises(ValueError, match="there is no text"):
        NgramModel([], set(WORDS))


def test_the_lines_of_all_texts_are_read_plain_or_packed(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("three\n")
    assert read_texts(tmp_path) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Isabella 's marriage , on their", "isabella's marriage on their"),
        ("I' ve fallen ; it did n't . ' I WON ' T", "i've fallen it didn't i won't"),
        ("\u2018 Don\u2019t , -- ' 42 !", "don't"),
    ],
)
def test_words_are_lower_case_and_split_endings_are_joined(line, words):
    assert words_of(line) == words.split()


# ---- The search ----

ONE, TO = ("W", "AH", "N"), ("T", "UW")
LEXICON = {"to": [TO], "two": [TO], "one": [ONE], "won": [ONE], "tea": [("T", "IY")]}
LABELS = ("AH", "IY", "N", "T", "UW", "W")


def heard(phones, certain=0.9):
    """Log-probabilities in which each phone is heard for a step, with blanks between."""
    rows = []
    for phone in phones:
        for unit in (1 + LABELS.index(phone), 0):
            row = torch.full((1 + len(LABELS),), (1 - certain) / len(LABELS))
            row[unit] = certain
            rows.append(row)
    return torch.stack(rows).log()


def test_without_a_language_model_the_words_are_those_of_the_lexicon():
    found = WordSearch(LABELS, {word: LEXICON[word] for word in ("to", "one", "tea")}).best(heard(TO + ONE))
    assert found.text == "to one" and math.isfinite(found.score)


def test_a_language_model_chooses_between_words_that_sound_alike(tmp_path):
    for sentence in (["two", "won"], ["to", "one"]):
        NgramModel([sentence] * 9 + [["tea"]], set(LEXICON), 2).write(tmp_path / "words.arpa")
        search = WordSearch(LABELS, LEXICON, tmp_path / "words.arpa")
        assert search.best(heard(TO + ONE)).text.split() == sentence


def test_the_file_of_a_language_model_says_what_the_model_says(tmp_path):
    model = NgramModel([["to", "tea"], ["two", "tea"], ["one"]], set(LEXICON), 3)
    model.write(tmp_path / "words.arpa")
    lines = [line.split("\t") for line in (tmp_path / "words.arpa").read_text().splitlines()]
    table = {tuple(parts[1].split()): float(parts[0]) for parts in lines if len(parts) > 1}
    assert table["to", "tea"] == pytest.approx(math.log10(model.probability(("to", "tea"))), abs=1e-5)
    assert table[(UNKNOWN,)] < 0 and (BEGIN,) in table and "\\end\\" in (tmp_path / "words.arpa").read_text()


def test_a_phone_that_the_network_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="the word 'zoo' has the phone Z, which the network does not know"):
        WordSearch(LABELS, {"zoo": [("Z", "UW")]})

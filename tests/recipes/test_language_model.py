"""Words: a language model whose probabilities sum to one, its file, and the search with lexicon and language model."""

import gzip
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.language_model import BEGIN, END, UNKNOWN, NgramModel, read_texts, words_of
from zoo.networks.words import WordSearch, read_lexicon, search_in, write_lexicon

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


PACKED = gzip.compress(b"one two three\n" * 1000, mtime=0)


DAMAGED = {
    "cut in its head": PACKED[:20],
    "cut at its end": PACKED[:-20],
    "changed": PACKED[:15] + b"xx" + PACKED[17:],
    "not packed": b"no gzip",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_text_is_named(tmp_path, content):
    (tmp_path / "b.txt.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.txt\.gz is damaged: .*; get it again, or take it out of the folder"):
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


def test_a_word_lasts_from_its_first_phone_to_the_end_of_its_last():
    said = heard((*TO, "W", "AH", "N"))  # T _ UW _ W _ AH _ N _
    longer = torch.cat([said[:1], said[:1], said, said[9:], said[9:]])  # two steps more of T and of the last blank
    found = WordSearch(LABELS, {"to": [TO], "one": [ONE]}).best(longer, step_seconds=0.5)
    assert [(word.name, word.start, word.end) for word in found.words] == [("to", 0.0, 2.5), ("one", 3.0, 5.5)]
    assert found.text == "to one" and all(word.confidence == pytest.approx(0.9) for word in found.words)


def test_nothing_but_blanks_is_no_word():
    found = WordSearch(LABELS, LEXICON).best(heard(TO)[1:2].repeat(5, 1))
    assert (found.text, found.words) == ("", [])


def test_a_lexicon_is_read_as_it_was_written(tmp_path):
    write_lexicon(LEXICON, tmp_path / "lexicon.txt")
    assert read_lexicon(tmp_path / "lexicon.txt") == {word: [list(p) for p in found] for word, found in LEXICON.items()}


@pytest.mark.parametrize(
    ("lexicon", "model", "says"),
    [
        (b"one W AH N\n", b"", r"line 1 of .*lexicon.txt is no word, tab and phones: 'one W AH N'"),
        (b"one\tW AH N\ntwo\t\n", b"", r"line 2 of .*lexicon.txt is no word, tab and phones"),
        (b"\xff\n", b"", "lexicon.txt is not text in UTF-8"),
        (b"one\tW AH N\n", b"nothing of the kind\n", "words.arpa is no language model that KenLM reads"),
        (b"one\tW AH X\n", None, "the word 'one' has the phone X"),
        (b"", None, "lexicon.txt is empty"),
    ],
)
def test_a_damaged_folder_of_words_is_one_clear_error(tmp_path, lexicon, model, says):
    (tmp_path / "lexicon.txt").write_bytes(lexicon)
    if model is None:
        NgramModel([["one"]], {"one"}, 2).write(tmp_path / "words.arpa")
    else:
        (tmp_path / "words.arpa").write_bytes(model or b"x")
    with pytest.raises(ValueError, match=says):
        search_in(tmp_path, LABELS)


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux alone")
def test_a_folder_of_words_whose_name_is_not_utf8_is_read(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    write_lexicon({"to": [TO]}, folder / "lexicon.txt")
    NgramModel([["to"]], {"to"}, 2).write(folder / "words.arpa")
    assert search_in(folder, LABELS).best(heard(TO)).text == "to"


def test_a_folder_without_words_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no lexicon .*lexicon\.txt"):
        search_in(tmp_path, LABELS)


def test_a_phone_that_the_network_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="the word 'zoo' has the phone Z, which the network does not know"):
        WordSearch(LABELS, {"zoo": [("Z", "UW")]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("beam_size", value) for value in (0, -3, 2.5)),
        *(
            (name, value)
            for name in ("lm_weight", "word_score", "beam_threshold")
            for value in (math.nan, math.inf, "1")
        ),
        ("lm_weight", -1.0),
    ],
)
def test_an_option_of_the_search_that_is_no_such_number_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a (finite|whole) number.*; got"):
        WordSearch(LABELS, LEXICON, **{name: value})

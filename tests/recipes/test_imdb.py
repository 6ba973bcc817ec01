"""The IMDB recipe on a small corpus written here in the official layout, and on the real one if it is at hand."""

import itertools
import json
import random
import shutil
import tarfile
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import zoo
from recipes import imdb, ngrams, report
from recipes.imdb import Example, Review, Trainer, Training
from tests.recipes.resuming import ends_as_if_never_interrupted

NOUNS = ["plot", "cast", "music", "end", "camera", "script", "hero", "joke"]
GOOD, BAD = ["wonderful", "moving", "clever", "fresh"], ["dull", "weak", "silly", "stale"]
SMALL = replace(imdb.CONFIG, vocabulary=100, ngrams=200, width=8, channels=16, dropout=0.1)


def review(positive: bool, generator: random.Random) -> str:
    """Some sentences; "not" before a good word makes it bad, and the other way round."""
    sentences = []
    for _ in range(generator.randint(2, 6)):
        negated = generator.random() < 0.4
        word = generator.choice(GOOD if positive != negated else BAD)
        sentences.append(f"The {generator.choice(NOUNS)} is {'not ' if negated else ''}{word}.")
    return "<br /><br />".join(sentences)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder that holds ``aclImdb``: 150 training and 20 test reviews of each label."""
    folder, generator = tmp_path_factory.mktemp("data"), random.Random(0)
    for split, count in (("train", 150), ("test", 20)):
        for name in ("neg", "pos"):
            place = folder / "aclImdb" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                stars = generator.choice([7, 8, 9, 10] if name == "pos" else [1, 2, 3, 4])
                (place / f"{i}_{stars}.txt").write_text(review(name == "pos", generator), encoding="utf-8")
    (folder / "aclImdb" / "train" / "unsup").mkdir()
    (folder / "aclImdb" / "train" / "unsup" / "0_0.txt").write_text("A film without a label.")
    return folder


@pytest.fixture
def own_corpus(corpus, tmp_path):
    """A copy of the corpus that a test may damage."""
    return shutil.copytree(corpus, tmp_path / "data")


@pytest.fixture(scope="module")
def archive(corpus):
    with tarfile.open(corpus / "packed.tar.gz", "w:gz") as packed:
        packed.add(corpus / "aclImdb", "aclImdb")
    return corpus / "packed.tar.gz"


# Reading


def test_the_archive_and_the_folder_hold_the_same_reviews_in_the_order_of_their_numbers(corpus, archive):
    reviews = imdb.read_split(corpus, "train")
    assert imdb.read_split(corpus / "aclImdb", "train") == imdb.read_split(archive, "train") == reviews
    assert [r.label for r in reviews] == ["negative"] * 150 + ["positive"] * 150
    (tenth,) = (corpus / "aclImdb" / "train" / "neg").glob("10_*.txt")
    assert reviews[10].text == tenth.read_text()
    assert len(imdb.read_split(archive, "test")) == 40


def test_an_archive_under_its_official_name_is_found_in_its_folder(archive, tmp_path):
    shutil.copy(archive, tmp_path / imdb.ARCHIVE)
    assert imdb.read_split(tmp_path, "test") == imdb.read_split(archive, "test")


def test_a_folder_without_the_data_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither aclImdb_v1.tar.gz nor the folder aclImdb; get it from https"):
        imdb.read_split(tmp_path, "train")


def test_a_missing_folder_is_named(own_corpus):
    shutil.rmtree(own_corpus / "aclImdb" / "test" / "pos")
    with pytest.raises(FileNotFoundError, match=r"has no reviews in test/pos"):
        imdb.read_split(own_corpus, "test")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_damaged(archive, tmp_path, share):
    whole = archive.read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut.tar.gz is damaged, or no archive"):
        imdb.read_split(tmp_path / "cut.tar.gz", "train")


def test_an_archive_with_a_changed_byte_is_damaged(archive, tmp_path):
    changed = bytearray(archive.read_bytes())
    changed[len(changed) // 2] ^= 0xFF
    (tmp_path / "changed.tar.gz").write_bytes(changed)
    with pytest.raises(ValueError, match=r"changed.tar.gz is damaged"):
        imdb.read_split(tmp_path / "changed.tar.gz", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Sch\xf6n", "train/pos/7_9.txt in .* is not text in UTF-8"),
        (b"PK\x03\x04\x00\x00", "train/pos/7_9.txt in .* is not text: it holds zero bytes"),
        (b" \n", "train/pos/7_9.txt in .* is empty"),
    ],
)
def test_a_review_that_is_not_text_is_named(own_corpus, content, message):
    (own_corpus / "aclImdb" / "train" / "pos" / "7_9.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        imdb.read_split(own_corpus, "train")


def test_a_file_that_is_not_named_as_a_review_is_named(own_corpus):
    (own_corpus / "aclImdb" / "train" / "pos" / "best.txt").write_text("A film.")
    with pytest.raises(ValueError, match=r"train/pos/best.txt in .* is not named as a review is"):
        imdb.read_split(own_corpus, "train")


def test_a_tenth_is_held_out_in_chunks_of_neighbours_and_always_the_same():
    reviews = [Review(str(i), label) for label in imdb.LABELS for i in range(1000)]
    rest, held = imdb.hold_out(reviews)
    assert (rest, held) == imdb.hold_out(reviews)
    assert sorted([*rest, *held]) == sorted(reviews)
    for label in imdb.LABELS:
        numbers = sorted(int(r.text) for r in held if r.label == label)
        assert len(numbers) == 100
        assert all(numbers[i : i + 20] == list(range(numbers[i], numbers[i] + 20)) for i in range(0, 100, 20))
    assert {r.label for r in held[:20]} == set(imdb.LABELS)


def test_the_official_reviews_are_all_there(data_folder):
    reviews = imdb.read_split(data_folder / "imdb", "train")
    assert len(reviews) == 25_000
    rest, held = imdb.hold_out(reviews)
    assert (len(rest), len(held)) == (22_500, 2_500)
    assert sum(r.label == "positive" for r in held) == 1_250


# N-grams


def bags_of(texts: list[list[int]]) -> ngrams.Bags:
    places = [torch.tensor(text, dtype=torch.long) for text in texts]
    return ngrams.Bags(torch.cat(places), torch.tensor([0, *map(len, texts)]).cumsum(0))


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_bags_are_selected_as_lists_are(texts, data):
    chosen = data.draw(st.lists(st.sampled_from(range(len(texts)))))
    places, starts = bags_of(texts).select(torch.tensor(chosen, dtype=torch.long))
    found = [places[a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert found == [texts[i] for i in chosen]


def test_evidence_has_the_sign_of_the_texts_an_ngram_is_in():
    evidence = ngrams.fit(
        bags_of([[0, 1], [0, 1, 3], [1, 2], [2]] * 20), torch.tensor([True, True, False, False] * 20), 4
    )
    good, both, bad, rare = evidence.tolist()
    assert good > 0.05 and bad < -0.05 and rare > 0 and abs(both) < good


def test_the_evidence_for_training_tells_nothing_of_a_text_s_own_label():
    """N-grams drawn at random: a table fitted on all texts knows the labels, the cross-fitted evidence does not."""
    generator = random.Random(0)
    texts = [[generator.randint(2, 400) for _ in range(40)] for _ in range(400)]
    positive = [generator.random() < 0.5 for _ in texts]
    table = ngrams.NgramEvidence(len(known := ngrams.most_frequent(texts, 3000)))
    table.known.copy_(known)
    held_out = ngrams.cross_fit(table, texts, positive)
    own = [table(torch.tensor(text).unsqueeze(1)) for text in texts]
    right = lambda evidence: sum((e.sum() > 0) == p for e, p in zip(evidence, positive)) / len(texts)  # noqa: E731
    assert right(own) > 0.75
    assert abs(right(held_out) - 0.5) < 0.1
    assert torch.cat(held_out).std() == pytest.approx(1)


def test_the_most_frequent_ngrams_are_in_the_most_texts_and_in_two_at_least():
    texts = [[2, 3, 2, 2, 2], [2, 3, 4], [4, 5]]
    words, pairs, triples = ngrams.ngram_keys(torch.tensor([[2], [3]])).squeeze(1).T.tolist()
    (four,) = ngrams.ngram_keys(torch.tensor([[4]]))[0, 0, :1].tolist()
    first_and_second = {*words, *pairs, *triples}  # the keys of "2" and "2 3" at the beginning of a text
    assert set(ngrams.most_frequent(texts, 100).tolist()) == first_and_second | {four}
    assert ngrams.most_frequent([*texts, [4, 4]], 1).tolist() == [four]


# Training


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_batches_hold_every_example_once_within_the_token_limit(lengths):
    examples = [Example([5] * length, 0, None) for length in lengths]
    plan = imdb.batches(examples, 40, random.Random(0))
    assert sorted(len(e.tokens) for batch in plan for e in batch) == sorted(lengths)
    assert all(len(batch) * max(len(e.tokens) for e in batch) <= 40 for batch in plan)


def trainer(corpus, run, epochs=2, **options) -> Trainer:
    config = replace(SMALL, **{k: options.pop(k) for k in list(options) if k not in Training.__dataclass_fields__})
    return Trainer(corpus, run, config, Training(epochs=epochs, **({"tokens": 600, "average": 0.9} | options)))


@pytest.mark.parametrize("mixer", ["input-gated-lif", "bilstm"])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(corpus, tmp_path, mixer):
    ends_as_if_never_interrupted(lambda run: trainer(corpus, run, mixer=mixer), tmp_path)


def test_a_review_weighs_the_same_in_any_batch(corpus, tmp_path):
    run = trainer(corpus, tmp_path / "run", word_dropout=0.0, dropout=0.0, bfloat16=False)
    plan = run.plan(0)
    assert len({len(batch) for batch in plan}) > 1
    apart = sum(run.loss_of([example]) for example in plan[0])
    assert run.loss_of(plan[0]).item() == pytest.approx(apart.item(), rel=1e-4)


@pytest.fixture(scope="module")
def learned(corpus, tmp_path_factory):
    """Runs of two seeds and a twin, on negations that cannot be decided by single words."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {
        "one": {"seed": 1},
        "two": {"seed": 2},
        "bag": {"seed": 1, "mixer": "bag-of-words", "ngrams": 0},
    }.items():
        trainer(corpus, folder / name, epochs=8, learning_rate=1e-2, **options).train()
    return folder


def test_training_learns_what_negation_does(learned, corpus):
    test = imdb.read_split(corpus, "test")
    assert imdb.evaluate(zoo.load(learned / "one" / "best"), test)[1]["accuracy"] > 90
    assert imdb.evaluate(zoo.load(learned / "bag" / "best"), test)[1]["accuracy"] < 85


@pytest.mark.parametrize("mixer", ["learnable-lif", "relu", "lstm", "gru"])
def test_a_twin_learns(corpus, tmp_path, mixer):
    run = trainer(corpus, tmp_path / "run", epochs=4, mixer=mixer, learning_rate=1e-2)
    run.train()
    assert run.best > 75


def spike_rate(model, reviews) -> float | None:
    return report.spike_rate(model, imdb.calls(model, reviews))


def test_a_spike_rate_is_that_of_the_firing_neurons(learned, corpus):
    reviews = imdb.read_split(corpus, "test")[:5]
    assert 0 < spike_rate(zoo.load(learned / "one" / "best"), reviews) < 1
    assert spike_rate(zoo.load(learned / "bag" / "best"), reviews) is None


# Measuring and bundling


def run_command(*arguments):
    return CliRunner().invoke(imdb.command_line(), [str(argument) for argument in arguments])


def test_runs_are_measured_once_and_bundled_with_a_card(learned, corpus, own_corpus, tmp_path, monkeypatch):
    runs = [learned / name for name in ("one", "two", "bag")]
    result = run_command("measure", *runs, "--data", corpus)
    assert result.exit_code == 0, result.output
    scores = json.loads((runs[0] / "scores.json").read_text())
    assert scores["reviews"] == {"val": 30, "test": 40}
    with monkeypatch.context() as without:
        without.setattr(zoo, "load", None)
        assert run_command("measure", *runs, "--data", corpus).output == result.output

    arguments = ("--folder", tmp_path / "model", "--summary", "Small.", "--twin", runs[2])
    assert run_command("bundle", *runs[:2], *arguments).exit_code == 0
    info = zoo.info(tmp_path / "model")
    own, twin = info.metrics["results"]
    tests = [json.loads((run / "scores.json").read_text())["accuracy_test"] for run in runs[:2]]
    assert own["accuracy_test_mean"] == pytest.approx(sum(tests) / 2, abs=0.01)
    assert (own["seeds"], twin["seeds"], info.metrics["seeds"]) == (2, 1, [1, 2])
    assert twin["name"] == "bag of words (without ngrams)"
    assert own["accuracy_test"] in tests
    texts = info.metrics["example"]["input"]
    answers = [
        [found.label, {k: round(p, 2) for k, p in found.probabilities.items()}]
        for found in zoo.load(tmp_path / "model").classify(texts)
    ]
    assert info.metrics["example"]["output"] == answers
    assert info.metrics["calibration"]["temperature"] == zoo.load(tmp_path / "model").typed_config.temperature != 1
    for path in (own_corpus / "aclImdb" / "test").rglob("*.txt"):
        path.write_text("Other reviews, which are another test set.")
    assert run_command("measure", runs[2], "--data", own_corpus).exit_code == 0
    other, known = (json.loads((runs[i] / "scores.json").read_text()) for i in (2, 0))
    assert other["data"] != known["data"] and other["accuracy_test"] == 50.0
    first = imdb.hold_out(imdb.read_split(corpus, "train"))[1][:100]
    band = info.metrics["score_band"]
    assert band["low"] <= imdb.evaluate(zoo.load(tmp_path / "model"), first)[1]["accuracy"] <= band["high"]


def test_a_run_that_was_measured_before_there_was_a_calibration_is_bundled_without_and_calibrated_later(
    learned, corpus, tmp_path
):
    run, folder = shutil.copytree(learned / "one", tmp_path / "one"), tmp_path / "model"
    assert run_command("measure", run, "--data", corpus).exit_code == 0
    scores = json.loads((run / "scores.json").read_text())
    expected = scores.pop("calibration")
    (run / "scores.json").write_text(json.dumps(scores))
    assert run_command("bundle", run, "--folder", folder, "--summary", "Small.").exit_code == 0
    assert "were not calibrated" in (folder / "README.md").read_text()
    plain = zoo.info(folder)
    result = run_command("calibrate", folder, "--data", corpus)
    assert result.exit_code == 0 and json.loads(result.stdout) == expected
    info, model = zoo.info(folder), zoo.load(folder)
    assert info.metrics["calibration"] == expected | {"command": "python -m recipes.imdb calibrate ./model --data DATA"}
    assert info.metrics["example"] == imdb.example_of(model) != plain.metrics["example"]
    assert info.scores == plain.scores and info.config["files"] == plain.config["files"]
    with pytest.warns(UserWarning, match="new labels"):
        assert zoo.load(folder, labels=["good", "bad"]).typed_config.temperature == 1


def test_the_command_of_a_run_names_what_is_not_the_default(learned):
    command = report.command_of(imdb.RECIPE, learned / "bag")
    assert command.startswith("python -m recipes.imdb train --data DATA --run ")
    assert "--mixer bag-of-words" in command and "--ngrams 0" in command and "--seed 1" in command
    assert "--bits" not in command and "--labels" not in command


def test_runs_that_differ_in_more_than_their_seed_are_not_bundled_as_one(learned, tmp_path):
    with pytest.raises(ValueError, match=r"must differ in their seed alone; got .*one, .*bag"):
        report.bundle(imdb.RECIPE, [learned / "one", learned / "bag"], tmp_path / "model", "")


def test_a_model_is_evaluated_on_held_out_reviews_unless_the_test_is_asked_for(learned, corpus):
    results = {}
    for split in ("val", "test"):
        result = run_command("evaluate", learned / "one" / "best", "--data", corpus, "--split", split)
        results[split] = json.loads(result.stdout)
    assert (results["val"]["reviews"], results["test"]["reviews"]) == (30, 40)
    assert run_command("evaluate", learned / "one" / "best", "--data", corpus, "--split", "tset").exit_code == 1

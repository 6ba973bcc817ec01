"""The benchmark of fine-tuning measures both trainings on each size, and draws them."""

import csv
import io
import json
import tarfile

import pytest
import torch
from typer.testing import CliRunner

import zoo
from benchmarks import fine_tuning, remarks
from recipes import imdb
from zoo.networks.sentiment import TextClassifier, TextClassifierConfig

OWN = [(f"The {t} is {w}.", "good" if w == "fine" else "bad") for t in ("pen", "lid", "cup") for w in ("fine", "poor")]


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    tokenizer = imdb.train_tokenizer([text for text, _ in OWN], 60)
    config = TextClassifierConfig(("bad", "good"), tokenizer.get_vocab_size(), 0, width=8, channels=16, dropout=0.0)
    zoo.save(TextClassifier(config, tokenizer), tmp_path / "critic")
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in OWN * 4))
    return tmp_path


def test_both_trainings_are_measured_on_each_size_and_drawn(files):
    own = ["--data", files / "own.csv", "--test", files / "own.csv", "--output", files / "results", "--threads", 1]
    words = [files / "critic", *own, "--size", 12, "--size", 24, "--seeds", 1, "--epochs", 2, "--scratch-epochs", 30]
    result = CliRunner().invoke(fine_tuning.app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    found = json.loads((files / "results" / "fine-tuning-critic.json").read_text())["rows"]
    assert [(row["training"], row["examples"]) for row in found] == [
        ("as it is", 0), ("fine-tuned", 12), ("from scratch", 12), ("fine-tuned", 24), ("from scratch", 24)
    ]  # fmt: skip
    assert all(len(row["scores"]) == 1 and 0 <= row["scores"][0] <= 100 for row in found)
    assert (files / "results" / "fine-tuning-critic.png").stat().st_size > 5000
    assert "| from scratch | 24 |" in (files / "results" / "fine-tuning-critic.md").read_text()


def test_a_network_from_scratch_has_other_weights_and_the_seed_s(files):
    model = zoo.load(files / "critic")
    first, again, other = (fine_tuning.from_scratch(model, seed).embedding.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, model.embedding.weight)


def test_more_examples_than_there_are_is_an_error_before_any_training(files):
    own = files / "own.csv"
    with pytest.raises(ValueError, match=r"own.csv holds 24 examples, fewer than 100"):
        fine_tuning.measure(zoo.load(files / "critic"), own, own, None, [12, 100], 1, 2, 2)


def archive(path, files):
    with tarfile.open(path, "w:gz") as packed:
        for source, content in files.items():
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))


def test_remarks_are_parted_by_whole_reviews_and_labelled_by_the_sign_of_their_rating(tmp_path):
    lines = [
        f"{review}_{k}\t{-1.5 if k else 0.2}\treview {review}, sentence {k}" for review in range(7) for k in (0, 1)
    ]
    content = "\r\n".join([*lines, "7_0\t0\tneither good nor bad", "8_0\t2\ttoo short"]).encode()
    archive(tmp_path / "a.tar.gz", dict.fromkeys(remarks.SOURCES, content))
    result = CliRunner().invoke(remarks.app, [str(tmp_path / "a.tar.gz"), str(tmp_path / "remarks")])
    assert result.exit_code == 0, result.output
    rows = {name: list(csv.DictReader((tmp_path / "remarks" / f"{name}.csv").open())) for name in ("train", "test")}
    own = [("review 5, sentence 0", "positive"), ("review 5, sentence 1", "negative")]
    assert [(row["text"], row["label"]) for row in rows["test"]] == own * 3
    assert len(rows["train"]) == 3 * 12 and not any("review 5" in row["text"] for row in rows["train"])

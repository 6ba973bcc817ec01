"""The benchmark of fine-tuning measures both trainings on each size, and draws them."""

import json

import pytest
import torch
from typer.testing import CliRunner

import zoo
from benchmarks import fine_tuning
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

"""Bundled text classifiers reach the scores of their cards, on held-out training reviews."""

import pytest

import zoo
from recipes import imdb

TEXTS = [
    "A wonderful film, from the first minute to the last.",
    "Dull.",
    "I expected little and was moved to tears; the cast is superb.<br /><br />See it.",
    "Two hours of my life that I will not get back. 2/10",
    "Not bad at all. " * 200,
]


@pytest.fixture(scope="module", params=zoo.list_models(task="text-classification"))
def name(request) -> str:
    return request.param


def test_the_card_s_score_band_holds_on_a_hundred_held_out_reviews(name, data_folder):
    band = zoo.info(name).metrics["score_band"]
    held = imdb.hold_out(imdb.read_split(data_folder / "imdb", "train"))[1][: band["inputs"]]
    assert band["inputs"] == len(held) == 100
    assert band["low"] <= imdb.evaluate(zoo.load(name), held)[1]["accuracy"] <= band["high"]


def test_the_card_s_example_is_what_the_model_says(name):
    example = zoo.info(name).metrics["example"]
    found = zoo.load(name).classify(example["input"])
    for (label, probabilities), own in zip(example["output"], found, strict=True):
        assert own.label == label
        assert own.probabilities == pytest.approx(probabilities, abs=0.01)


def test_a_bundled_model_s_answer_does_not_depend_on_what_else_is_asked(name):
    model = zoo.load(name)
    assert model.classify(TEXTS) == [model.classify([text])[0] for text in TEXTS]


def test_a_bundled_model_stays_within_its_limits_of_size_and_bits(name):
    info = zoo.info(name)
    assert info.config["files"]["model.safetensors"]["bytes"] < 6 * 2**20
    assert info.config["architecture_config"]["bits"] <= 4

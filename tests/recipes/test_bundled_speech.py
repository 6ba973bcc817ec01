"""Bundled recognisers reach the scores of their cards, on real recordings of val."""

import warnings
import zipfile

import pytest

import zoo
from recipes import librispeech, timit


@pytest.fixture(scope="module", params=zoo.list_models(task="automatic-speech-recognition"))
def name(request) -> str:
    return request.param


@pytest.fixture
def first_of_val(name, data_folder, tmp_path):
    """The recipe, and the first utterances of its ``val``."""
    count, config = zoo.info(name).metrics["score_band"]["inputs"], zoo.load(name).typed_config
    if name.endswith("timit"):
        zipfile.ZipFile(data_folder / "timit_sample" / "timit.zip").extractall(tmp_path / "timit")
        return timit.RECIPE, timit.read(tmp_path / "timit", "val", config, tmp_path / "kept")[:count]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # words without a pronunciation
        data = data_folder / "librispeech_mini"
        return librispeech.RECIPE, librispeech.read(data, "val", config, cache=tmp_path / "kept")[:count]


def test_the_card_s_score_band_holds_on_the_first_utterances_of_val(name, first_of_val):
    recipe, examples = first_of_val
    band, model = zoo.info(name).metrics["score_band"], zoo.load(name)
    _, scores = recipe.evaluate(model, examples)
    assert len(examples) == band["inputs"] >= 16 and model.last_precision == "int8"
    assert band["low"] <= scores["per"] <= band["high"]


def test_the_card_s_example_is_what_the_model_says(name, data_folder):
    example = zoo.info(name).metrics["example"]
    (recording,) = data_folder.glob(f"librispeech_mini/dev-held-out/*/*/{example['input']}")
    found = zoo.load(name).transcribe(recording)
    assert found.text == example["output"][0]
    assert found.confidence == pytest.approx(example["output"][1], abs=0.01)


def test_a_bundled_recogniser_stays_within_its_limits_and_streams_what_it_hears(name):
    info = zoo.info(name)
    assert info.parameters < 1_200_000 and info.config["architecture_config"]["bits"] <= 6
    assert ("non-commercial" in " ".join(info.metrics["limits"])) == info.metrics["licence"].startswith("cc-by-nc")

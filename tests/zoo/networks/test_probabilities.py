"""A temperature: it changes probabilities, never a label, and a model without one is unchanged."""

import json
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo import files, saving
from zoo.networks.gesture import GestureConfig
from zoo.networks.probabilities import most_probable
from zoo.networks.sentiment import TextClassifierConfig
from zoo.registry import MODEL_CARDS

LABELS = ["a", "b", "c"]
CLASSIFIERS = [*zoo.list_models(task="text-classification"), *zoo.list_models(task="video-classification")]
logits = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3)
temperatures = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False, exclude_min=False)


@given(logits=logits, temperature=temperatures)
def test_no_temperature_changes_the_label(logits, temperature):
    label, probabilities = most_probable(torch.tensor(logits), LABELS, temperature)
    assert label == most_probable(torch.tensor(logits), LABELS, 1.0)[0]
    assert list(probabilities) == LABELS and sum(probabilities.values()) == pytest.approx(1)
    assert probabilities[label] == max(probabilities.values())


def test_a_temperature_divides_the_logits():
    _, probabilities = most_probable(torch.tensor([0.0, math.log(4.0), math.log(9.0)]), LABELS, 2.0)
    assert probabilities == pytest.approx({"a": 1 / 6, "b": 2 / 6, "c": 3 / 6})


def copied(name: str, folder) -> str:
    return shutil.copytree(MODEL_CARDS / name, folder / name)


def of_an_example(model) -> tuple:
    if hasattr(model, "classify"):
        return model.classify(["A film that I did not expect much of."])[0]
    random = torch.Generator().manual_seed(0)
    t = torch.arange(3000) * 100
    x, y, p = (torch.randint(0, high, (3000,), generator=random) for high in (128, 128, 2))
    return model.predict({"t": t.numpy(), "x": x.numpy(), "y": y.numpy(), "p": p.numpy()})


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_folder_from_before_there_were_temperatures_has_1_and_another_changes_the_probabilities_alone(name, tmp_path):
    folder = copied(name, tmp_path)
    config = files.read_config(folder)
    del config["architecture_config"]["temperature"]
    (folder / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))
    label, before = of_an_example(zoo.load(folder))
    assert zoo.load(folder).typed_config.temperature == 1.0
    weights = (folder / files.WEIGHTS).read_bytes()
    saving.rewrite_config(folder, temperature=2.5)
    model = zoo.load(folder)
    again, after = of_an_example(model)
    assert again == label and after[label] < before[label]
    root = {name: p ** (1 / 2.5) for name, p in before.items()}
    assert after == pytest.approx({name: p / sum(root.values()) for name, p in root.items()})
    assert (folder / files.WEIGHTS).read_bytes() == weights


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("bad", [0, -1.0, 0.0, True, "1", None, [1.0]])
def test_a_temperature_that_is_no_number_above_0_is_one_error(name, bad, tmp_path):
    folder = copied(name, tmp_path)
    config = json.loads((folder / files.CONFIG).read_text())
    with pytest.raises(ValueError, match="temperature must be a finite number above 0; got"):
        saving.rewrite_config(folder, temperature=bad)
    assert json.loads((folder / files.CONFIG).read_text()) == config


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_temperature_that_is_not_finite_is_one_error(bad):
    for architecture in (TextClassifierConfig, GestureConfig):
        options = {"vocabulary": 10, "ngrams": 0} if architecture is TextClassifierConfig else {}
        with pytest.raises(ValueError, match="temperature must be a finite number above 0; got"):
            architecture(["a", "b"], temperature=bad, **options)

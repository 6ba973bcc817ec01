"""Calibration: the error equals one worked out by hand, and the temperature is the most likely one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import zoo
from recipes import calibration
from recipes.calibration import Answers


def answers(*given: tuple[float, bool]) -> Answers:
    """Answers with two labels: the first is predicted, with the given probability, and is right or wrong."""
    logits = torch.tensor([[math.log(p / (1 - p)), 0.0] for p, _ in given], dtype=torch.double)
    return Answers(logits, torch.tensor([0 if right else 1 for _, right in given]))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([(0.9, True)], 0.1),
        ([(0.9, False)], 0.9),
        ([(0.9, True), (0.9, False)], 0.4),
        ([(0.9, True), (0.9, False), (0.6, True), (0.6, True)], 0.5 * 0.4 + 0.5 * 0.4),
        ([(0.82, True), (0.85, False), (0.55, True)], (1.67 - 1) / 3 + 0.45 / 3),  # the first two share a bin
        ([(0.79, True), (0.81, False)], 0.21 / 2 + 0.81 / 2),  # 0.8 is between two bins
        ([(0.75, True)] * 3 + [(0.75, False)], 0.0),
    ],
)
def test_the_calibration_error_is_that_worked_out_by_hand(given, error):
    assert calibration.calibration_error(answers(*given)) == pytest.approx(error)


def sampled(temperature: float, seed: int, count: int = 20_000) -> Answers:
    """Answers whose labels are drawn with the probabilities that ``temperature`` gives."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 4, generator=generator)
    return Answers(logits, torch.multinomial((logits / temperature).softmax(1), 1, generator=generator).squeeze(1))


@given(temperature=st.floats(0.3, 5), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_a_fitted_temperature_is_that_which_the_labels_were_drawn_with_and_no_other_is_likelier(temperature, seed):
    drawn = sampled(temperature, seed)
    fitted = calibration.fit_temperature(drawn)
    assert fitted == pytest.approx(temperature, rel=0.1)
    loss, *others = (F.cross_entropy(drawn.logits / t, drawn.labels) for t in (fitted, 0.97 * fitted, 1.03 * fitted))
    assert loss <= min(others)


def test_calibration_makes_the_error_smaller_where_it_was_fitted_and_on_other_data():
    found = calibration.measure({"val": sampled(0.5, 0), "test": sampled(0.5, 1)})
    assert (found["fitted_on"], [row["inputs"] for row in found["rows"]]) == ("val", [20_000, 20_000])
    for row in found["rows"]:
        assert row["calibration_error"] < 0.02 < 0.05 < row["calibration_error_at_temperature_1"]


@pytest.mark.parametrize(("right", "limit"), [(True, calibration.LOWEST), (False, calibration.HIGHEST)])
def test_where_likelihood_has_no_end_the_temperature_is_at_its_limit(right, limit):
    assert calibration.fit_temperature(answers((0.9, right), (0.7, right))) == pytest.approx(limit)


@pytest.mark.parametrize("name", [*zoo.list_models(task="text-classification"), "lite-snn-dvs-gesture"])
def test_a_bundled_classifier_is_calibrated_and_its_card_says_by_how_much(name):
    info = zoo.info(name)
    found = info.metrics["calibration"]
    assert info.config["architecture_config"]["temperature"] == found["temperature"]
    assert zoo.load(name).typed_config.temperature == found["temperature"]
    fitted, _ = found["rows"]
    assert found["fitted_on"] == fitted["name"]
    for row in found["rows"]:
        assert row["calibration_error"] < 0.05 < row["calibration_error_at_temperature_1"]
    card = (info.folder / "README.md").read_text()
    for part in (found["command"], f"temperature {found['temperature']}", f"| {fitted['calibration_error']} |"):
        assert part in card


def test_the_sentiment_model_s_probabilities_are_within_two_in_a_hundred_and_its_accuracy_is_what_it_was():
    info = zoo.info("lite-snn-imdb")
    errors = [row["calibration_error"] for row in info.metrics["calibration"]["rows"]]
    assert max(errors) < 0.02 and info.scores["accuracy_test"] == 92.38


def test_a_model_for_other_labels_is_not_calibrated(tmp_path):
    folder = zoo.info("lite-snn-dvs-gesture").folder
    with pytest.raises(ValueError, match="is no model for the labels negative, positive"):
        calibration.calibrate(folder, "imdb", ["negative", "positive"], lambda model: {}, lambda model: {})

"""Bundled gesture models reach the scores of their cards, on the simulated people of val, generated anew."""

import pytest

import zoo
from recipes import dvs_gesture, gesture_simulator
from recipes.dvs_gesture import GESTURES, Samples
from zoo.inputs.events import bin_events


@pytest.fixture(scope="module", params=zoo.list_models(task="video-classification"))
def name(request) -> str:
    return request.param


def first_of_val(model, count: int) -> Samples:
    """The first recordings of ``val`` in the data set that the simulator writes by default."""
    people = [f"user{i:02}" for i in range(1, 24)]
    first, frames, labels = int(min(dvs_gesture.held_out_people(people))[4:]), [], []
    for lighting in gesture_simulator.lightings_of(first, 3, seed=0)[: count // len(GESTURES)]:
        events, parts = gesture_simulator.trial(first, lighting, GESTURES, 2.0, seed=0)
        frames += [bin_events(events.between(start, end), model.binning) for _, start, end in parts]
        labels += [GESTURES.index(gesture) for gesture, _, _ in parts]
    return Samples(frames, labels)


@pytest.mark.slow
def test_the_card_s_score_band_holds(name):
    band, model = zoo.info(name).metrics["score_band"], zoo.load(name)
    samples = first_of_val(model, band["inputs"])
    assert len(samples.labels) == band["inputs"] == dvs_gesture.BAND.inputs
    assert band["low"] <= dvs_gesture.accuracy(model, samples) <= band["high"]


def test_the_card_s_example_is_what_the_model_says(name):
    label, probabilities = zoo.info(name).metrics["example"]["output"]
    found = zoo.load(name).predict(gesture_simulator.example(dvs_gesture.EXAMPLE))
    assert found.label == label
    assert found.probabilities == pytest.approx(probabilities, abs=0.01)


def test_a_bundled_model_stays_within_its_limits_and_says_that_its_data_is_simulated(name):
    info = zoo.info(name)
    assert info.parameters < 1_000_000
    assert info.config["architecture_config"]["bits"] <= 4
    assert "SIMULATED" in info.summary

"""What zoo.explain shows: the answer of the model's own method, and the spikes that its neurons fired."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_translator import translator
from torch import nn

import zoo
import zoo.events
from neurons import monitors
from recipes.gesture_simulator import example
from zoo import tasks
from zoo.explaining import MOST_MARKS, Axis, Explanation, Strip
from zoo.networks.translation import BEGIN, END

PNG = b"\x89PNG"
RATE = 16_000


def sound() -> np.ndarray:
    """A second of a tone that rises."""
    time = np.arange(RATE) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time)).astype(np.float32)


INPUTS = {
    "translation": ("Ein Hund rennt durch den Schnee.", {}),
    "text-classification": ("A wonderful film, but the music is dull.", {}),
    "video-classification": (example("right hand wave"), {}),
    "automatic-speech-recognition": (sound(), {"rate": RATE}),
}


@pytest.fixture(params=zoo.list_models(), scope="module")
def seen(request):
    model = zoo.load(request.param)
    input, options = INPUTS[model.task]
    return model, input, options, zoo.explain(model, input, **options)


def test_the_answer_is_that_of_the_models_method(seen):
    model, input, options, found = seen
    task = tasks.named(model.task)
    method = getattr(model, task.method)
    assert found.answer == (method(input, **options) if task.files else method([input], **options)[0])


def test_spikes_are_levels_of_every_layer_and_nothing_stays_in_the_model(seen):
    model, _, _, found = seen
    top = 2 ** (model.typed_config.bits - 1) - 1
    assert len(found.spikes) == len(model.spiking_layers())
    for name, levels in found.spikes.items():
        assert levels.ndim == 2 and torch.equal(levels, levels.round()), name
        assert 0 < levels.abs().max() <= top, name
        assert found.rates[name] == pytest.approx((levels != 0).double().mean().item())
    assert all("forward" not in vars(module) for module in model.modules())


def test_it_is_drawn(seen, tmp_path):
    found = seen[-1]
    found.plot(tmp_path / "all.png")
    whole = (tmp_path / "all.png").read_bytes()
    few = io.BytesIO()
    found.plot(few, layers=list(found.spikes)[:1])
    assert whole.startswith(PNG) and few.getvalue().startswith(PNG)
    assert len(found.spikes) == 1 or len(few.getvalue()) < len(whole)


def test_the_spikes_are_those_that_the_monitors_record():
    model = zoo.load("lite-snn-multi30k")
    found = zoo.explain(model, INPUTS["translation"][0], beam_size=1)
    read = model.tokenizer.encode(INPUTS["translation"][0]).ids
    written = model.tokenizer.encode(found.answer).ids
    source, target = torch.tensor([*read, END]).unsqueeze(1), torch.tensor([BEGIN, *written]).unsqueeze(1)
    traces = monitors.traces(model, source, target, torch.ones_like(target, dtype=torch.bool))
    for name in ("encoder.1.spikes", "decoder.2.context_spikes"):
        scale = model.get_submodule(name).neuron.spike().scale
        recorded = traces.layers[f"{name}.neuron"]["spikes"][:, 0] * scale
        torch.testing.assert_close(found.spikes[name], recorded.round(), rtol=0, atol=0)
    left = traces.layers["encoder.1.mixer.neurons.1"]["spikes"][:, 0].flip(0)  # it scans from the last word on
    levels = (left * model.encoder[1].mixer.neurons[1].spike().scale).round()
    torch.testing.assert_close(found.spikes["encoder.1.mixer"][:, -levels.shape[1] :], levels, rtol=0, atol=0)


def test_the_answer_to_a_gesture_forms_until_the_prediction():
    model = zoo.load("lite-snn-dvs-gesture", precision="float32")
    found = zoo.explain(model, INPUTS["video-classification"][0])
    forming = found.strips[-1]
    assert forming.rows == tuple(found.answer.probabilities) and len(forming.values) == len(found.spikes["head"])
    expected = torch.tensor(list(found.answer.probabilities.values()))
    torch.testing.assert_close(forming.values[-1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mixer", ["relu", "lstm", "gru"])
def test_a_network_without_spikes_is_refused(mixer):
    with pytest.raises(ValueError, match="has no spikes that could be shown"):
        zoo.explain(translator(mixer), "a b a")


def test_mistakes_are_named():
    model = translator()
    with pytest.raises(TypeError, match="one sentence, not a list"):
        zoo.explain(model, ["a b a"])
    with pytest.raises(TypeError, match=r"takes a model from zoo\.load; got Linear"):
        zoo.explain(nn.Linear(2, 2), "a b a")
    with pytest.raises(TypeError, match=r"got the class Translator, which has no explained"):
        zoo.explain(type(model), "a b a")
    with pytest.raises(ValueError, match="beam_size"):
        zoo.explain(model, "a b a", beam_size=0)
    with pytest.raises(TypeError, match=r"'beam': the options of zoo\.explain .* are beam_size, length_penalty"):
        zoo.explain(model, "a b a", beam=2)
    with pytest.raises(TypeError, match=r"layers is a list of names; got 'encoder\.0\.mixer'"):
        zoo.explain(model, "a b a").plot("unused.png", layers="encoder.0.mixer")
    with pytest.raises(ValueError, match="nothing to draw but layers"):
        Explanation("x", [Strip("head", "spikes", torch.ones(3, 2), Axis())]).plot("unused.png", layers=[])
    with pytest.raises(ValueError, match=r"did you mean 'encoder\.0\.mixer'"):
        zoo.explain(model, "a b a").plot("unused.png", layers=["encoder.0.mixr"])


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_the_answer_is_that_of_the_method_at_any_sample_rate(rate):
    model = zoo.load("improved-snn-timit")
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * (200 + 900 * time) * time) + 0.3 * np.sin(2 * np.pi * 2500 * time)
    stereo = (8_000 * np.stack([tone, 0.5 * tone], axis=1)).astype(np.int16)
    assert zoo.explain(model, stereo, rate=rate).answer == model.transcribe(stereo, rate=rate)


def test_a_model_that_was_compiled_in_place_is_explained_and_asked_in_evaluation_mode():
    model, other = translator(), translator()
    other.load_state_dict(model.state_dict())
    wanted = zoo.explain(other, "a b a")
    model.train().compile(backend="eager")
    found = zoo.explain(model, "a b a")
    assert found.answer == wanted.answer and found.spikes.keys() == wanted.spikes.keys()
    assert all(torch.equal(levels, wanted.spikes[name]) for name, levels in found.spikes.items())
    assert all(module.training for module in model.modules())


def texts_drawn(strips: list[Strip], path: Path) -> set[str]:
    """The texts of the drawing, as an SVG file with letters as letters holds them."""
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        Explanation("x", strips).plot(path / "drawn.svg")
    return set(re.findall(r">([^<>]+)</", (path / "drawn.svg").read_text()))


def test_names_are_drawn_as_they_are(tmp_path):
    names = ("_left", "a$b$c", "plain")
    curves = Strip("curves", "curves", torch.rand(3, 3), Axis(("one$", "$$", "$x_1$")), names)
    drawn = texts_drawn([curves], tmp_path)
    assert {*names, "one$", "$$", "$x_1$"} <= drawn


def test_more_phones_than_can_be_read_are_counted_and_not_drawn(tmp_path):
    for count, shown in ((MOST_MARKS, True), (MOST_MARKS + 1, False)):
        marks = tuple((0.01 * place, f"P{place}") for place in range(count))
        drawn = texts_drawn([Strip("heard", "picture", torch.rand(20, 4), Axis(seconds=0.1), (), marks)], tmp_path)
        assert ("P0" in drawn) is shown
        assert (f"heard ({count:,}, too many to be named)" in drawn) is not shown


GREY, BLUE, WHITE = (90, 90, 90), (30, 60, 220), (255, 255, 255)


def test_events_are_drawn_as_a_film_and_as_a_picture(tmp_path):
    image = pytest.importorskip("PIL.Image")
    events = zoo.events.Events(
        np.array([0, 50_000, 120_000]), np.array([1, 2, 3]), np.array([0, 1, 2]), np.array([True, False, True])
    )
    zoo.events.draw(events, tmp_path / "film.gif", rate=20)
    zoo.events.draw(events, tmp_path / "all.png")
    with image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3 and film.size == (4, 3)
        for frame, at, colour in ((0, (1, 0), WHITE), (1, (2, 1), BLUE), (2, (3, 2), WHITE)):
            film.seek(frame)
            shown = film.convert("RGB")
            assert [shown.getpixel((x, y)) == GREY for x in range(4) for y in range(3)].count(False) == 1
            assert shown.getpixel(at) == colour
    with image.open(tmp_path / "all.png") as whole:
        shown = whole.convert("RGB")
        assert shown.getpixel((1, 0)) == shown.getpixel((3, 2)) == WHITE and shown.getpixel((2, 1)) == BLUE
        assert shown.getpixel((0, 0)) == GREY


@pytest.mark.parametrize("last", [0, 14, 98, 119, 1_000_000, 90_000_000])
def test_one_picture_has_the_last_event_whenever_it_comes(tmp_path, last):
    image = pytest.importorskip("PIL.Image")
    both = np.array([0, 1])
    zoo.events.draw({"t": 5 + last * both, "x": both, "y": both, "p": [1, 1]}, tmp_path / "all.png")
    with image.open(tmp_path / "all.png") as whole:
        assert whole.convert("RGB").getpixel((1, 1)) == WHITE


@pytest.mark.parametrize("rate", [7, 30, 45, 50])
def test_a_film_lasts_as_long_as_its_recording(tmp_path, rate):
    image = pytest.importorskip("PIL.Image")
    t = np.arange(0, 1_000_000, 5000)
    zoo.events.draw({"t": t, "x": np.arange(200) % 7, "y": np.arange(200) % 5, "p": t % 2}, tmp_path / "film.gif", rate)
    with image.open(tmp_path / "film.gif") as film:
        lasted = 0
        for frame in range(film.n_frames):
            film.seek(frame)
            lasted += film.info["duration"]
    assert lasted == pytest.approx(1000, abs=10)


def test_a_film_of_too_many_pixels_is_refused_before_it_is_drawn(tmp_path):
    pytest.importorskip("PIL.Image")
    far = {"t": np.array([0, 58_999_999]), "x": np.array([0, 20_000]), "y": np.array([0, 20_000]), "p": [0, 1]}
    with pytest.raises(ValueError, match=r"1475 pictures of 20001 x 20001 pixels are too many.*a lower rate"):
        zoo.events.draw(far, tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())


def test_mistakes_in_drawing_events_are_named(tmp_path):
    events = zoo.events.Events(*(np.array([0, 1]) for _ in range(3)), np.array([True, False]))
    with pytest.raises(ValueError, match=r"\.gif .a film. or a \.png; got 'film.mp4'"):
        zoo.events.draw(events, tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="rate"):
        zoo.events.draw(events, tmp_path / "film.gif", rate=1000)
    with pytest.raises(ValueError, match="no events"):
        zoo.events.draw(events[:0], tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())

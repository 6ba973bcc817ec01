"""What zoo.explain shows: the answer of the model's own method, and the spikes that its neurons fired."""

import io

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
    with pytest.raises(ValueError, match="beam_size"):
        zoo.explain(model, "a b a", beam_size=0)
    with pytest.raises(ValueError, match=r"did you mean 'encoder\.0\.mixer'"):
        zoo.explain(model, "a b a").plot("unused.png", layers=["encoder.0.mixr"])


def test_events_are_drawn_as_a_film_and_as_a_picture(tmp_path):
    image = pytest.importorskip("PIL.Image")
    events = zoo.events.Events(
        np.array([0, 50_000, 120_000]), np.array([1, 2, 3]), np.array([0, 1, 2]), np.array([True, False, True])
    )
    zoo.events.draw(events, tmp_path / "film.gif", rate=20)
    zoo.events.draw(events, tmp_path / "all.png")
    with image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 2 and film.size == (4, 3)
        film.seek(1)
        assert film.convert("RGB").getpixel((2, 1))[2] > 150
    with image.open(tmp_path / "all.png") as whole:
        assert whole.getpixel((1, 0)) == whole.getpixel((3, 2)) == (255, 255, 255)
        assert whole.getpixel((0, 0)) == (90, 90, 90)


def test_mistakes_in_drawing_events_are_named(tmp_path):
    events = zoo.events.Events(*(np.array([0, 1]) for _ in range(3)), np.array([True, False]))
    with pytest.raises(ValueError, match=r"\.gif .a film. or a \.png; got 'film.mp4'"):
        zoo.events.draw(events, tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="rate"):
        zoo.events.draw(events, tmp_path / "film.gif", rate=1000)
    with pytest.raises(ValueError, match="no events"):
        zoo.events.draw(events[:0], tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())

"""Networks for event-camera recordings: any slicing gives the same answer, and bad recordings are refused."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import zoo
from neurons import Neuron
from zoo import files
from zoo.command import app
from zoo.inputs.events import as_events, write_aedat
from zoo.networks.gesture import MIXERS, GestureConfig, GestureNetwork

LABELS = ["up", "down", "still"]
SMALL = {"height": 16, "width": 16, "pool": 2, "bin_size": 1000, "channels": 4, "blocks": 3, "head": 4}


def network(mixer: str = "input-gated-lif", precision: str = "auto", **options) -> GestureNetwork:
    torch.manual_seed(0)
    model = GestureNetwork(GestureConfig(LABELS, **SMALL | {"mixer": mixer} | options))
    model(torch.randint(0, 4, (8, 4, 2, 8, 8)))  # gives batch norm its statistics
    model.precision = precision
    return model.eval()


def recording(count: int = 400, last: int = 9500, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    t = np.sort(random.integers(0, last + 1, count))
    t[0], t[-1] = 0, last
    x, y, p = random.integers(0, [[16], [16], [2]], (3, count))
    return {"t": t, "x": x, "y": y, "p": p}


MODELS = {mixer: network(mixer) for mixer in MIXERS}


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_prediction_names_the_most_probable_label(mixer):
    label, probabilities = MODELS[mixer].predict(recording())
    assert list(probabilities) == LABELS and label == max(probabilities, key=probabilities.get)
    assert sum(probabilities.values()) == pytest.approx(1) and min(probabilities.values()) >= 0


@given(mixer=st.sampled_from(MIXERS), by=st.sampled_from(["time", "number"]), cuts=st.sets(st.integers(0, 400)))
@settings(max_examples=25, deadline=None)
def test_a_recording_fed_in_slices_gives_exactly_the_answer_of_the_whole(mixer, by, cuts):
    model = MODELS[mixer] if by == "time" else BY_NUMBER[mixer]
    events = as_events(recording())
    edges = [0, *sorted(cuts), len(events)]
    stream = model.stream()
    completed = sum(stream.push(events[start:end]) for start, end in pairwise(edges))
    assert completed == (9 if by == "time" else 8)
    assert stream.answer() == model.predict(events)


BY_NUMBER = {mixer: network(mixer, bin_by="number", bin_size=50) for mixer in MIXERS}


@pytest.mark.parametrize("mixer", MIXERS)
def test_frame_by_frame_is_as_all_frames_at_once_and_as_in_any_batch(mixer):
    model = network(mixer, bits=32, threshold_levels=0)
    frames = torch.randint(0, 5, (7, 3, 2, 8, 8), dtype=torch.uint8)
    with torch.inference_mode():
        whole, _ = model.scan(frames)
        state, parts = None, []
        for part in frames.split([1, 4, 2]):
            membrane, state = model.scan(part, state)
            parts.append(membrane)
        alone = torch.cat([model.scan(frames[:, i : i + 1])[0] for i in range(3)], dim=1)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_what_comes_after_the_end_of_a_recording_does_not_count(mixer):
    frames = torch.randint(0, 5, (6, 2, 2, 8, 8))
    other = frames.clone()
    other[4:, 0] = 9
    lengths = torch.tensor([4, 6])
    with torch.inference_mode():
        first, second = (MODELS[mixer](x, lengths) for x in (frames, other))
        assert torch.equal(first, second)
        expected = MODELS[mixer].scan(frames)[0][3, 0] / 4
    torch.testing.assert_close(first[0], expected)


def test_a_prediction_so_far_changes_only_when_a_bin_is_complete():
    model, events = MODELS["input-gated-lif"], as_events(recording())
    stream = model.stream()
    with pytest.raises(ValueError, match="there are no events"):
        stream.answer()
    stream.push(events.between(0, 900))
    with pytest.raises(ValueError, match=r"less than one bin of 1 ms"):
        stream.answer()
    stream.push(events.between(900, 3000))
    before = stream.answer()
    assert before == model.predict(events.between(0, 2100))
    assert stream.push(events.between(3000, 3000)) == 0 and stream.answer() == before


def test_the_neurons_scan_with_the_fused_kernels():
    model = network(precision="float32")
    model.predict(recording())
    assert {neuron.last_backend for neuron in model.modules() if isinstance(neuron, Neuron)} == {"cpu"}


def test_every_weight_is_trained():
    for mixer in MIXERS:
        model = network(mixer).train()
        model(torch.randint(0, 5, (6, 3, 2, 8, 8))).logsumexp(-1).sum().backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, (mixer, without)


def test_the_default_network_and_its_twins_stay_under_a_million_parameters():
    for mixer in MIXERS:
        model = GestureNetwork(GestureConfig(LABELS, mixer=mixer))
        assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


def test_predicting_leaves_a_model_in_training_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.predict(recording())
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_saved_model_predicts_as_before(mixer, tmp_path):
    zoo.save(MODELS[mixer], tmp_path / "model")
    loaded = zoo.load(tmp_path / "model")
    zoo.save(loaded, tmp_path / "again")
    assert zoo.load(tmp_path / "again").predict(recording()) == loaded.predict(recording())
    assert loaded.config == MODELS[mixer].config and zoo.info(tmp_path / "model").task == "video-classification"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": 16}, ValueError, "at x = 16, y = [0-9]+, outside of 16 by 16 pixels"),
        ({"p": 2}, ValueError, "event 5 has p = 2"),
        ({"t": -4}, ValueError, "event 5 has t = -4"),
    ],
)
def test_events_that_no_such_camera_sees_are_refused(change, error, message):
    events = recording()
    for field, value in change.items():
        events[field][5] = value
    with pytest.raises(error, match=message):
        MODELS["lif"].predict(events)


def test_events_out_of_order_give_the_answer_of_those_in_order():
    events = recording()
    order = np.random.default_rng(1).permutation(len(events["t"]))
    mixed = {field: column[order] for field, column in events.items()}
    assert MODELS["lif"].predict(mixed) == MODELS["lif"].predict(events)


def test_no_events_and_too_few_are_refused():
    with pytest.raises(ValueError, match="there are no events"):
        MODELS["lif"].predict({field: column[:0] for field, column in recording().items()})
    with pytest.raises(ValueError, match=r"the recording lasts 0.5 ms, less than one bin of 1 ms"):
        MODELS["lif"].predict(recording(last=500))
    with pytest.raises(TypeError, match="events are the path of a file"):
        MODELS["lif"].predict([1, 2, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "lstm"}, "mixer must be one of input-gated-lif, lif, relu, convgru; got 'lstm'"),
        ({"labels": ["one"]}, "labels must be at least two different names"),
        ({"labels": ["one", "one"]}, "labels must be at least two different names"),
        ({"labels": "abc"}, "labels must be at least two different names; got 'abc'"),
        ({"pool": 5}, "pool must divide 16 and 16"),
        ({"blocks": 0}, "blocks must be a whole number of at least 1; got 0"),
    ],
)
def test_an_impossible_network_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GestureConfig(**{"labels": LABELS} | SMALL | options)


def odd_files(folder: Path) -> dict[str, str]:
    """Files that are only partly recordings of this camera, and what is wrong with each."""
    events = recording()
    write_aedat(folder / "outside.aedat", as_events(events | {"x": events["x"] + 3}))
    np.savez(folder / "short.npz", **recording(last=500))
    np.savez(folder / "gap.npz", **events | {"t": events["t"] + 90_000_000 * (events["t"] > 5000)})
    np.save(folder / "ages.npy", np.array([[1, 1, 1, 0], [1, 1, 1, 10**9]]))
    return {
        "outside.aedat": "outside of 16 by 16 pixels",
        "short.npz": "less than one bin of 1 ms",
        "gap.npz": "there is no event for 90",
        "ages.npy": "more than 100000 bins",
    }


def test_what_is_wrong_with_the_events_of_a_file_names_the_file(tmp_path):
    model = MODELS["lif"]
    for name, problem in odd_files(tmp_path).items():
        with pytest.raises(ValueError, match=f"^{tmp_path / name}: .*{problem}"):
            model.predict(tmp_path / name)
        if name != "short.npz":  # a slice may be short
            with pytest.raises(ValueError, match=f"^{tmp_path / name}: .*{problem}"):
                model.stream().push(str(tmp_path / name))


@given(cuts=st.sets(st.integers(0, 400), max_size=5), places=st.sets(st.integers(0, 5)))
@settings(max_examples=15, deadline=None)
def test_slices_that_are_refused_change_nothing(cuts, places):
    model, events = MODELS["input-gated-lif"], as_events(recording())
    edges = [0, *sorted(cuts), len(events)]
    stream, last = model.stream(), None
    for place, (start, end) in enumerate(pairwise(edges)):
        stream.push(events[start:end])
        last = int(events.t[end - 1]) if end else last
        if place in places and last is not None:
            one = {"x": [1], "y": [1], "p": [1]}
            wrong = [{"x": [16]}, {"p": [3]}, {"t": [last - 1]}, {"t": [last + 2**40]}, {"y": [1, 2]}, {"t": [np.nan]}]
            for fields in wrong:
                with pytest.raises(ValueError):
                    stream.push({"t": [last + 2000], **one} | fields)
    assert stream.answer() == model.predict(events)


# The command


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    zoo.save(network(), tmp_path / "cards" / "tiny-gesture")
    monkeypatch.setattr(zoo.registry, "MODEL_CARDS", tmp_path / "cards")
    return zoo.load("tiny-gesture")


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_predict_prints_a_label_and_its_probability_for_each_recording(bundled, tmp_path):
    events = as_events(recording())
    write_aedat(tmp_path / "own.aedat", events)
    np.savez(tmp_path / "own.npz", **recording())
    label, probabilities = bundled.predict(events)
    paths = [str(tmp_path / name) for name in ("own.aedat", "own.npz")]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    for arguments in (paths, ["--input", tmp_path / "list.txt"]):
        result = run("predict", "tiny-gesture", *arguments)
        assert (result.exit_code, result.stdout) == (0, 2 * f"{label}\t{probabilities[label]:.4f}\n")
        result = run("predict", "tiny-gesture", "--json", *arguments)
        assert [json.loads(line) for line in result.stdout.splitlines()] == 2 * [
            {"label": label, "probabilities": pytest.approx(probabilities)}
        ]


def test_predict_says_what_is_wrong_with_a_file_and_goes_on(bundled, tmp_path):
    (tmp_path / "empty.aedat").touch()
    (tmp_path / "other.txt").write_text("x")
    (tmp_path / "cut.aedat").write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + bytes(10))
    np.savez(tmp_path / "own.npz", **recording())
    said = {
        "empty.aedat": "is empty",
        "other.txt": "no event file",
        "cut.aedat": "cut off",
        "none.npy": "no event file",
        **odd_files(tmp_path),
    }
    result = run("predict", "tiny-gesture", *(tmp_path / name for name in said), tmp_path / "own.npz")
    assert result.exit_code == 3
    *empty, last = result.stdout.splitlines()
    assert empty == len(said) * [""] and last.split("\t")[0] in LABELS
    for number, (line, message) in enumerate(zip(result.stderr.splitlines(), said.values(), strict=True), 1):
        assert line.startswith(f"snn-zoo: argument {number}: ") and message in line


def test_predict_refuses_a_model_of_another_task(bundled, tmp_path):
    config = zoo.registry.MODEL_CARDS / "tiny-gesture" / "config.json"
    config.write_bytes(files.to_json(files.sealed(json.loads(config.read_text()) | {"task": "translation"})))
    result = run("predict", "tiny-gesture", tmp_path / "own.aedat")
    assert result.exit_code == 1 and "is a model for translation, and does not predict" in result.stderr

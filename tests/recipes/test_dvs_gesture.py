"""The gesture recipe on a few short simulated recordings: layouts, cache, training, measuring, the card."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from recipes import dvs_gesture, fine_tune, gesture_simulator, n_mnist, report
from recipes.command import check_initial
from recipes.dvs_gesture import (
    GESTURES,
    MIRRORED,
    Batch,
    Samples,
    Trainer,
    Training,
    batches,
    read_labels,
    read_recordings,
    read_samples,
    tensors,
)
from recipes.gesture_simulator import write_data_set
from recipes.run_folder import read_run_config
from tests.recipes.resuming import ends_as_if_never_interrupted
from zoo.inputs.events import read_aedat
from zoo.networks.gesture import GestureConfig, GestureNetwork

CONFIG = GestureConfig([*GESTURES], pool=8, bin_size=25_000, channels=4, blocks=3, head=6)
BINNING = CONFIG.binning()
OPTIONS = Training(epochs=2, batch=6, steps=16, average=0.9, learning_rate=4e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three people, one to train, one held out, one to test, with eleven gestures of half a second each."""
    folder = tmp_path_factory.mktemp("simulated")
    write_data_set(folder, people=3, lightings=1, seconds=0.6, seed=0)
    return folder


@pytest.fixture(scope="module")
def samples(data, tmp_path_factory) -> dict[str, Samples]:
    cache = tmp_path_factory.mktemp("cache")
    return {split: read_samples(data, split, BINNING, cache) for split in dvs_gesture.SPLITS}


def same(first: Samples, second: Samples) -> bool:
    pairs = zip(first.frames, second.frames, strict=True)
    return first.labels == second.labels and all(np.array_equal(a, b) for a, b in pairs)


# Layouts


def test_the_official_layout_gives_each_labelled_gesture_of_the_people_of_a_split(data, samples):
    assert [len(part.labels) for part in samples.values()] == [11, 11, 11]
    assert samples["train"].labels == list(range(11))
    assert all(frames.shape[1:] == (2, 16, 16) and len(frames) >= 16 for frames in samples["train"].frames)
    people = [{recording.person for recording in read_recordings(data, split)} for split in dvs_gesture.SPLITS]
    assert people == [{"user01"}, {"user02"}, {"user03"}]


def convert(data: Path, folder: Path, layout: str) -> None:
    """The data set as SpikingJelly or Tonic converts it; Tonic's times are whole milliseconds."""
    for part, split in (("train", "Train"), ("test", "Test")):
        for trial in (data / f"trials_to_{part}.txt").read_text().split():
            events = read_aedat(data / trial)
            for label, start, end in read_labels(data / f"{trial[:-6]}_labels.csv"):
                own = events.between(start, end)
                if layout == "spikingjelly":
                    path = folder / "events_np" / part / str(label) / f"{trial[:-6]}_0.npz"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    np.savez(path, t=own.t, x=own.x, y=own.y, p=own.p.astype(int))
                else:
                    path = folder / f"ibmGesture{split}" / trial[:-6] / f"{label}.npy"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    np.save(path, np.stack([own.x, own.y, own.p, own.t // 1000], axis=1))


@pytest.mark.parametrize("layout", ["spikingjelly", "tonic"])
def test_the_converted_layouts_give_the_same_recordings(data, samples, layout, tmp_path):
    convert(data, tmp_path, layout)
    for split, expected in samples.items():
        found = read_samples(tmp_path, split, BINNING)
        order = np.argsort(found.labels)
        found = Samples([found.frames[i] for i in order], [found.labels[i] for i in order])
        if layout == "spikingjelly":
            assert same(found, expected)
            continue
        assert found.labels == expected.labels  # rounding to milliseconds may move events to another bin
        for mine, theirs in zip(found.frames, expected.frames):
            steps = min(len(mine), len(theirs))
            difference = np.abs(mine[:steps].astype(int) - theirs[:steps])
            assert abs(len(mine) - len(theirs)) <= 1 and difference.sum() < 0.3 * theirs.sum()


def test_a_folder_in_no_layout_says_where_to_get_the_data(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"research.ibm.com.* or write simulated ones with"):
        read_recordings(tmp_path, "train")
    with pytest.raises(ValueError, match="no split is called 'validation'"):
        read_recordings(tmp_path, "validation")


@pytest.fixture
def copy(data, tmp_path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "copy", ignore=shutil.ignore_patterns("bins")))


def test_a_missing_trial_or_labels_file_is_named(copy):
    trial = (copy / "trials_to_test.txt").read_text().split()[0]
    (copy / f"{trial[:-6]}_labels.csv").unlink()
    with pytest.raises(FileNotFoundError, match=f"{trial[:-6]}_labels.csv, which says what the trial holds"):
        read_recordings(copy, "test")
    (copy / trial).unlink()
    with pytest.raises(FileNotFoundError, match=f"trials_to_test.txt names {trial}, which is not in"):
        read_recordings(copy, "test")


@pytest.mark.parametrize("row", ["0,10,20", "12,10,20", "3,20,10", "3,10", "3,ten,20", "3,-5,20"])
def test_a_row_of_labels_that_cannot_be_right_is_refused_with_its_line(tmp_path, row):
    path = tmp_path / "user01_led_labels.csv"
    path.write_text(f"class,startTime_usec,endTime_usec\n1,10,20\n{row}\n")
    with pytest.raises(ValueError, match=rf"user01_led_labels.csv, line 3: '{row}' is no class \(1 to 11\)"):
        read_labels(path)


def test_a_gesture_ends_where_the_next_begins_as_in_the_official_set_s_one_wrong_label(tmp_path):
    path = tmp_path / "user22_led_labels.csv"
    path.write_text("class,startTime_usec,endTime_usec\n8,10,20\n9,30,90\n10,50,60\n\n")
    assert read_labels(path) == [(7, 10, 20), (8, 30, 50), (9, 50, 60)]


def test_a_gesture_with_too_few_events_is_named(copy):
    labels = next(copy.glob("user01_*_labels.csv"))
    labels.write_text("class,startTime_usec,endTime_usec\n1,5,9\n")
    with pytest.raises(ValueError, match=r"user01_.*aedat, from 5 to 9 us: there are no events"):
        read_samples(copy, "train", BINNING)


def test_one_person_cannot_be_both_trained_on_and_held_out():
    assert dvs_gesture.held_out_people([f"user{i:02}" for i in range(1, 24)]) == {f"user{i}" for i in range(20, 24)}
    with pytest.raises(ValueError, match="at least two people"):
        dvs_gesture.held_out_people(["user01", "user01"])


# The cache


def test_frames_are_read_from_the_cache_and_made_again_where_it_is_damaged(data, samples, tmp_path):
    first = read_samples(data, "val", BINNING, tmp_path)
    (kept,) = tmp_path.iterdir()
    whole, written = kept.read_bytes(), kept.stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(read_samples(data, "val", BINNING, tmp_path), first) and same(first, samples["val"])
    assert kept.stat().st_mtime_ns == written
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]):
        kept.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged and made again"):
            assert same(read_samples(data, "val", BINNING, tmp_path), first)
        assert kept.read_bytes() == whole


def test_other_bins_labels_or_events_are_kept_apart(copy, tmp_path):
    cache = tmp_path / "cache"
    read_samples(copy, "val", BINNING, cache)
    read_samples(copy, "val", replace(BINNING, size=50_000), cache)
    assert len(list(cache.iterdir())) == 2
    labels = next(copy.glob("user02_*_labels.csv"))
    labels.write_text("\n".join(labels.read_text().splitlines()[:4]) + "\n")
    assert read_samples(copy, "val", BINNING, cache).labels == [0, 1, 2]
    assert len(list(cache.iterdir())) == 3


# Batches and augmentation


@given(count=st.integers(1, 80), size=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_batches_hold_every_recording_once_and_depend_on_the_seed_alone(count, size):
    plan = batches(count, size, seed=3)
    assert sorted(place for batch in plan for place in batch.places) == list(range(count))
    assert all(size / 2 <= len(batch.places) < 1.5 * size for batch in plan) or len(plan) == 1
    assert plan == batches(count, size, seed=3)


PLAIN = replace(OPTIONS, shift=0.0, rotation=0.0, zoom=0.0, mirror=False)


def test_without_augmentation_a_batch_holds_windows_of_the_recordings(samples):
    frames, lengths, labels = tensors(samples["train"], Batch([4, 0], seed=1), PLAIN)
    assert frames.shape == (16, 2, 2, 16, 16) and lengths.tolist() == [16, 16] and labels.tolist() == [4, 0]
    for i, place in enumerate((4, 0)):
        whole = torch.from_numpy(samples["train"].frames[place]).float()
        windows = whole.unfold(0, 16, 1).movedim(-1, 1)
        assert any(torch.equal(window, frames[:, i]) for window in windows)


def test_short_recordings_are_filled_up_at_the_end(samples):
    short = Samples([samples["train"].frames[0][:5], samples["train"].frames[1]], [0, 1])
    frames, lengths, _ = tensors(short, Batch([0, 1], seed=1), PLAIN)
    assert lengths.tolist() == [5, 16] and not frames[5:, 0].any()


def test_a_mirrored_recording_has_the_label_of_what_it_shows(samples):
    mirror, seen = replace(PLAIN, mirror=True), set()
    for seed in range(6):
        frames, _, labels = tensors(samples["train"], Batch([3, 8], seed), mirror)
        plain, _, _ = tensors(samples["train"], Batch([3, 8], seed), PLAIN)
        for i, place in enumerate((3, 8)):
            flipped = torch.allclose(frames[:, i], plain[:, i].flip(-1), atol=1e-3)
            assert flipped or torch.allclose(frames[:, i], plain[:, i], atol=1e-3)
            assert labels[i] == (MIRRORED[place] if flipped else place)
            seen.add((place, flipped))
    assert len(seen) == 4


def test_moved_recordings_keep_about_their_events_and_move_as_a_whole(samples):
    still = Samples([np.repeat(samples["train"].frames[0][:1], 16, axis=0)], [0])
    frames, _, _ = tensors(still, Batch([0], seed=2), replace(OPTIONS, mirror=False))
    assert torch.equal(frames, frames[:1].expand_as(frames)) and not torch.equal(
        frames[0, 0], frames.new_zeros(2, 16, 16)
    )
    assert 0.4 < float(frames.sum()) / still.frames[0].sum() < 1.6
    again, _, _ = tensors(still, Batch([0], seed=2), replace(OPTIONS, mirror=False))
    assert torch.equal(frames, again)


# Training


def trainer(samples, run, **options) -> Trainer:
    config = replace(CONFIG, **{k: options.pop(k) for k in list(options) if k in CONFIG.__dataclass_fields__})
    return Trainer(samples["train"], samples["val"], run, config, replace(OPTIONS, **options))


@pytest.mark.parametrize("mixer", ["input-gated-lif", "convgru"])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(samples, tmp_path, mixer):
    ends_as_if_never_interrupted(lambda run: trainer(samples, run, mixer=mixer), tmp_path)


@pytest.mark.slow
def test_training_learns_what_it_is_shown(samples, tmp_path):
    run = trainer(samples, tmp_path / "run", epochs=30, mirror=False, rotation=0.0, zoom=0.0, shift=0.0, dropout=0.0)
    run.train()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert dvs_gesture.accuracy(run.network, samples["train"]) > 80


def test_a_model_is_fine_tuned_on_a_data_set_in_one_call_with_its_own_bins(data, samples, tmp_path):
    trainer(samples, tmp_path / "first", epochs=1).train()
    start = str(tmp_path / "first" / "best")
    options, usual = replace(OPTIONS, epochs=1), GestureConfig(CONFIG.labels)
    with pytest.raises(ValueError, match=r"is fine-tuned as it is; leave out --pool, --mixer$"):
        check_initial(start, replace(usual, pool=2, mixer="relu"), replace(dvs_gesture.RECIPE, config=usual))
    dvs_gesture.trainer(data, tmp_path / "tuned", usual, options, start, cache=tmp_path / "cache").train()
    tuned = zoo.load(tmp_path / "tuned" / "best")
    assert tuned.config == zoo.load(start).config
    assert f"--initial {start} --epochs 1" in report.command_of(dvs_gesture.RECIPE, tmp_path / "tuned")


def test_the_command_of_a_run_is_one_that_the_recipe_takes(samples, tmp_path):
    from typer.testing import CliRunner

    trainer(samples, tmp_path / "run", epochs=1, mirror=False).train()
    words = report.command_of(dvs_gesture.RECIPE, tmp_path / "run").split()
    assert "--no-mirror" in words and "--channels 4" in " ".join(words) and "--threshold-levels" not in words
    result = CliRunner().invoke(dvs_gesture.command_line(), words[3:])
    assert result.exit_code == 1 and result.stderr.startswith("snn-zoo: DATA holds no trials_to_train.txt")


def test_fine_tuning_starts_from_a_model_of_these_gestures_alone(data, tmp_path):
    digits = GestureNetwork(replace(CONFIG, labels=["a", "b"]))
    zoo.save(digits, tmp_path / "digits")
    with pytest.raises(ValueError, match="is no model for the eleven gestures"):
        dvs_gesture.trainer(data, tmp_path / "run", CONFIG, OPTIONS, str(tmp_path / "digits"))


def test_a_loaded_model_is_fine_tuned_on_recordings_of_one_s_own(data):
    torch.manual_seed(0)
    model = GestureNetwork(replace(CONFIG, labels=["wave", "clap"])).eval()
    parts = read_recordings(data, "train")
    events = read_aedat(parts[0].file)
    own = [(events.between(p.start, p.end), name) for p, name in ((parts[0], "clap"), (parts[1], "wave"))]
    found = fine_tune(model, own, epochs=40, learning_rate=5e-3)
    assert found.losses[-1] < found.losses[0] and not model.training
    assert found.familiar == []  # there are no familiar inputs for a model with other labels
    assert [model.predict(recording).label for recording, _ in own] == ["clap", "wave"]


def test_recordings_that_cannot_be_learned_from_are_refused():
    model, other = GestureNetwork(CONFIG), ({}, "arm roll")
    with pytest.raises(ValueError, match="there are no recordings"):
        fine_tune(model, [])
    with pytest.raises(ValueError, match=r"recording 0: no label of this model is called 'air gitar'; did you mean"):
        fine_tune(model, [({}, "air gitar"), other])
    with pytest.raises(ValueError, match="recording 0: events need the fields t, x, y and p"):
        fine_tune(model, [({}, "air guitar"), other])


# Measuring and the card


@pytest.fixture(scope="module")
def runs(samples, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    chosen = {"a": {"seed": 0}, "b": {"seed": 1}, "lif": {"mixer": "lif"}}
    for name, options in chosen.items():
        trainer(samples, folder / name, epochs=1, **options).train()
        report.measure(dvs_gesture.RECIPE, folder / name, samples["val"], samples["test"])
    return {name: folder / name for name in chosen}


def test_the_test_recordings_are_scored_once(runs, samples):
    scores = json.loads((runs["a"] / "scores.json").read_text())
    model = zoo.load(runs["a"] / "best")
    assert scores["accuracy_test"] == pytest.approx(dvs_gesture.accuracy(model, samples["test"]), abs=0.01)
    assert [row["inputs"] for row in scores["calibration"]["rows"]] == [11, 11]
    assert scores["recordings"] == {"val": 11, "test": 11} and 0 < scores["mean_spike_rate"] < 1
    (runs["a"] / "scores.json").write_text(json.dumps(scores | {"accuracy_test": 50.0}))
    assert report.measure(dvs_gesture.RECIPE, runs["a"], samples["val"], samples["test"])["accuracy_test"] == 50.0
    (runs["a"] / "scores.json").write_text(json.dumps(scores | {"weights": "others"}))
    assert report.measure(dvs_gesture.RECIPE, runs["a"], samples["val"], samples["test"]) == scores


def test_the_card_says_first_that_the_data_is_simulated_and_how_to_fine_tune(runs, samples, tmp_path):
    real = {"networks": {"lif": {"accuracy_test": 91.5, "standard_deviation": 0.5}}, "commands": ["python -m digits"]}
    (tmp_path / "n_mnist.json").write_text(json.dumps(real))
    folder = tmp_path / "lite-snn-dvs-gesture"
    beside = {"twins": [runs["lif"]], "n_mnist": tmp_path / "n_mnist.json"}
    report.bundle(dvs_gesture.RECIPE, [runs["a"], runs["b"]], folder, dvs_gesture.SUMMARY, **beside)
    info = zoo.info(folder)
    card = (folder / "README.md").read_text()
    start = card.split("---", 2)[2].strip().splitlines()
    assert start[0] == "# lite-snn-dvs-gesture" and "SIMULATED" in start[2] and dvs_gesture.FINE_TUNE in start[2]
    scores = [json.loads((runs[name] / "scores.json").read_text()) for name in ("a", "b")]
    tests = [score["accuracy_test"] for score in scores]
    assert info.scores["seeds"] == 2 and info.scores["accuracy_test"] in tests
    calibrated = zoo.load(folder).typed_config.temperature
    assert calibrated == info.metrics["calibration"]["temperature"] != 1
    assert "recordings of val (simulated people)" in card and "were not calibrated" not in card
    assert info.scores["accuracy_val"] == max(score["accuracy_val"] for score in scores)
    assert info.scores["accuracy_test_mean"] == pytest.approx(sum(tests) / 2, abs=0.01)
    rows = {row["name"]: row for row in info.metrics["results"]}
    assert rows["plain LIF, binary spikes"]["n_mnist_accuracy_mean"] == 91.5
    assert 'model.predict("air_guitar.aedat")' in card and "python -m digits" in card
    label, probabilities = info.metrics["example"]["output"]
    found = zoo.load(folder).predict(gesture_simulator.example("air guitar"))
    assert label == found.label and probabilities[label] == pytest.approx(found.probabilities[label], abs=1e-3)
    band = info.metrics["score_band"]
    assert (
        band["inputs"] == 11 and band["low"] <= dvs_gesture.accuracy(zoo.load(folder), samples["val"]) <= band["high"]
    )
    assert "python -m recipes.gesture_simulator example air_guitar.aedat --gesture 'air guitar'" in card


def test_a_saved_model_is_calibrated_on_val(runs, data, tmp_path):
    from typer.testing import CliRunner

    folder = shutil.copytree(runs["a"] / "best", tmp_path / "model")
    result = CliRunner().invoke(
        dvs_gesture.command_line(), ["calibrate", str(folder), "--data", str(data), "--cache", str(tmp_path / "bins")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert zoo.load(folder).typed_config.temperature == found["temperature"]
    assert zoo.info(folder).metrics["calibration"]["rows"] == found["rows"]


def test_a_row_of_the_card_holds_runs_of_one_network_alone(runs, samples, tmp_path):
    trainer(samples, tmp_path / "longer", epochs=2, seed=2).train()
    with pytest.raises(ValueError, match=r"must differ in their seed alone.*longer"):
        report.by_name(dvs_gesture.RECIPE, [runs["a"], tmp_path / "longer"], read_run_config(runs["a"]))
    with pytest.raises(ValueError, match="must differ in their seed alone"):
        report.bundle(dvs_gesture.RECIPE, [runs["a"], runs["lif"]], tmp_path / "model", "")


def test_the_fine_tuning_command_of_the_card_is_one_that_the_recipe_takes():
    from typer.testing import CliRunner

    words = dvs_gesture.FINE_TUNE.split()
    assert words[:3] == ["python", "-m", "recipes.dvs_gesture"]
    result = CliRunner().invoke(dvs_gesture.command_line(), words[3:])
    assert result.exit_code == 1 and "DvsGesture" in result.stderr  # it got as far as the data


# N-MNIST


def test_the_sample_of_n_mnist_is_read_and_split(data_folder):
    parts = {split: n_mnist.read_samples(data_folder / "n_mnist_small", split) for split in dvs_gesture.SPLITS}
    with pytest.raises(zoo.errors.UnknownNameError, match="no split is called 'tset'; did you mean 'test'"):
        n_mnist.read_samples(data_folder / "n_mnist_small", "tset")
    assert [len(part.labels) for part in parts.values()] == [800, 200, 100]
    assert set(parts["val"].labels) == set(range(10))
    lengths = [len(frames) for frames in parts["test"].frames]
    assert parts["test"].frames[0].shape[1:] == (2, 34, 34) and 28 <= min(lengths) <= max(lengths) <= 34
    assert parts["train"].frames[0].sum() > 1000


def digits(folder: Path, count: int) -> None:
    """Recordings in the layout of the sample, in which the place of the events tells the digit."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        label = np.arange(count) % 10
        x, y = 3 * np.repeat(label, 400) + random.integers(0, 4, 400 * count), random.integers(0, 34, 400 * count)
        t = np.sort(random.integers(0, 100_000, (count, 400)), axis=1).ravel()
        arrays = {"x": x, "y": y, "p": random.integers(0, 2, 400 * count), "t_us": t, "label": label}
        np.savez(folder / f"{split}.npz", offsets=np.arange(count + 1) * 400, **arrays)


def test_networks_are_compared_over_seeds_and_nothing_is_done_twice(tmp_path, monkeypatch):
    digits(tmp_path, 20)
    monkeypatch.setattr(n_mnist, "CONFIG", replace(n_mnist.CONFIG, channels=4, blocks=2, head=4))
    options = replace(n_mnist.TRAINING, epochs=1)
    arguments = (tmp_path, tmp_path / "runs", tmp_path / "found.json", 2, options, ["input-gated-lif", "relu"])
    found = n_mnist.compare(*arguments)
    assert json.loads((tmp_path / "found.json").read_text()) == found
    for network in found["networks"].values():
        assert len(network["accuracies"]) == 2
        assert network["accuracy_test"] == pytest.approx(sum(network["accuracies"]) / 2, abs=0.01)
    assert found["commands"][0].endswith("--seeds 2 --epochs 1 --mixer input-gated-lif --mixer relu")
    log = (tmp_path / "runs" / "relu-1" / "log.jsonl").read_text()
    assert n_mnist.compare(*arguments) == found and (tmp_path / "runs" / "relu-1" / "log.jsonl").read_text() == log


def test_a_missing_part_of_the_sample_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train.npz, a part of the N-MNIST sample"):
        n_mnist.read_samples(tmp_path, "val")

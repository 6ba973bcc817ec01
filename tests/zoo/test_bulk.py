"""Many inputs by ``datasets``: in order, by several workers, from the cache where it was finished before."""

import csv
from pathlib import Path

import pytest
import torch

import zoo
from zoo import bulk
from zoo.bulk import answer_all

datasets = pytest.importorskip("datasets")
TEXTS = [f"Scene {number} is {word}." for number in range(9) for word in ("superb", "dull and far too long")]


@pytest.fixture(scope="module")
def critic() -> str:
    return "lite-snn-imdb"


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A file with 18 texts; the cache of datasets is empty."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with open(tmp_path / "texts.csv", "w", newline="") as file:
        csv.writer(file).writerows([("place", "text"), *enumerate(TEXTS)])

    def read():
        return datasets.load_dataset(
            "csv", data_files=str(tmp_path / "texts.csv"), split="train", cache_dir=str(tmp_path / "cache")
        )

    return read


def kept(folder: Path) -> list[Path]:
    """The files of the cache that hold answers."""
    return sorted(folder.rglob("cache-*.arrow"))


def test_two_workers_give_the_answers_of_the_model_in_their_order(rows, critic):
    found = answer_all(rows(), critic, "text", workers=2, part=10)
    right = zoo.load(critic).classify(TEXTS)
    assert found["place"] == [*range(len(TEXTS))] and found["text"] == TEXTS
    assert found["answer"] == [one.label for one in right]
    assert found["score"] == [pytest.approx(one.probability, rel=1e-5) for one in right]
    assert found["error"] == [None] * len(TEXTS)
    assert {"negative", "positive"} == set(found["answer"])


def test_every_worker_has_one_of_the_devices(rows, critic):
    asked = bulk.Asked(critic, "text", 0, None, ("cpu", "cpu:0"), {})
    for rank, device in ((None, "cpu"), (0, "cpu"), (1, "cpu:0"), (2, "cpu")):
        loaded = bulk._answerer.cache_info().misses
        asked({"text": ["A dull film."]}, [0], rank)
        last = bulk._answerer(critic, None, asked.digest, device, ())
        assert bulk._answerer.cache_info().misses - loaded <= 1  # the model that answered is on this device
        assert next(last.model.parameters()).device.type == "cpu"
    found = answer_all(rows(), critic, "text", workers=2, devices=["cpu", "cpu"])
    assert found["answer"] == answer_all(rows(), critic, "text")["answer"]


@pytest.mark.parametrize("devices, message", [("cuda:0", "a list of names"), ([], "a list"), (["cuda:99"], "cuda:99")])
def test_devices_that_cannot_be_used_are_refused(rows, critic, devices, message):
    with pytest.raises(ValueError, match=message):
        answer_all(rows(), critic, "text", devices=devices)


def test_a_row_that_cannot_be_answered_says_why_and_the_others_are_answered(critic):
    texts = ["A superb film.", "", "дддд", None, "A dull film."]
    found = answer_all(datasets.Dataset.from_dict({"text": texts}), critic, "text")
    assert [found["answer"][place] for place in (0, 4)] == ["positive", "negative"]
    assert [found["answer"][place] for place in (1, 2, 3)] == [None] * 3 == [found["score"][p] for p in (1, 2, 3)]
    assert found["error"][0] is None is found["error"][4]
    assert found["error"][1].startswith("row 1 ") and found["error"][2].startswith("row 2 ")
    assert found["error"][3] == "row 3 has no text; got None"


def test_after_an_interruption_the_finished_parts_come_from_the_cache(rows, critic, tmp_path):
    whole = answer_all(rows(), critic, "text", part=6)
    first, second, third = (path for path in kept(tmp_path))
    made = {path: path.stat().st_mtime_ns for path in (first, third)}
    second.unlink()  # it was being made when the process was killed
    found = answer_all(rows(), critic, "text", part=6)
    assert found.to_dict() == whole.to_dict() and found["text"] == TEXTS
    assert kept(tmp_path) == [first, second, third]
    assert {path: path.stat().st_mtime_ns for path in made} == made
    answer_all(rows(), critic, "text", part=9)
    assert len(kept(tmp_path)) == 5


def test_another_model_of_the_same_folder_is_not_answered_from_the_cache(rows, critic, tmp_path):
    model = zoo.load(critic)
    zoo.save(model, tmp_path / "own")
    before = answer_all(rows(), str(tmp_path / "own"), "text")["answer"]
    with torch.no_grad():
        for parameter in model.body.output.parameters():
            parameter.neg_()
        model.evidence_current.weight.neg_()
    zoo.save(model, tmp_path / "own")
    after = answer_all(rows(), str(tmp_path / "own"), "text")["answer"]
    assert before != after == [one.label for one in model.eval().classify(TEXTS)]


def test_the_files_of_a_task_are_answered_one_by_one(tmp_path):
    from recipes import gesture_simulator

    gesture_simulator.write_aedat(tmp_path / "own.aedat", gesture_simulator.example("air guitar"))
    paths = [str(tmp_path / "own.aedat"), str(tmp_path / "missing.npz")]
    found = answer_all(datasets.Dataset.from_dict({"file": paths}), "lite-snn-dvs-gesture", "file")
    assert found["answer"] == [zoo.load("lite-snn-dvs-gesture").predict(paths[0]).label, None]
    assert found["error"][0] is None and "row 1: " in found["error"][1] and "missing.npz" in found["error"][1]


def test_the_options_of_the_method_are_used(rows):
    sentence = datasets.Dataset.from_dict({"text": ["Ein Hund rennt durch den Schnee."]})
    found = answer_all(sentence, "lite-snn-multi30k", "text", beam_size=1)
    (right,) = zoo.load("lite-snn-multi30k").translate_scored(["Ein Hund rennt durch den Schnee."], beam_size=1)
    assert (found["answer"][0], found["score"][0]) == (right[0], pytest.approx(right[1]))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"column": "review"}, "the rows have no column 'review'; they have text, score"),
        ({}, "the rows have a column 'score' already; rename it"),
        ({"workers": 0}, "workers must be a whole number of at least 1; got 0"),
        ({"part": 2.5}, "part must be a whole number of at least 1; got 2.5"),
        ({"name": "lite-snn-imbd"}, "lite-snn-imdb"),
        (
            {"name": "lite-snn-imdb", "sizes": [1, 2]},
            r"sizes must be one value, the same for all rows; got \[1, 2\]",
        ),
    ],
)
def test_a_wrong_call_is_one_error_before_anything_is_answered(changed, message, critic):
    rows = datasets.Dataset.from_dict({"text": ["A film."], "score": [1.0]})
    if "name" in changed:
        rows = rows.remove_columns("score")
    with pytest.raises(ValueError, match=message):
        answer_all(rows, **{"name": critic, "column": "text"} | changed)


def test_no_rows_have_the_new_columns_too(critic):
    found = answer_all(datasets.Dataset.from_dict({"text": []}), critic, "text")
    assert len(found) == 0 and found.column_names == ["text", "answer", "score", "error"]


def test_an_unknown_model_is_an_error_without_rows_too():
    with pytest.raises(zoo.errors.UnknownNameError, match="did you mean 'lite-snn-imdb'"):
        answer_all(datasets.Dataset.from_dict({"text": []}), "lite-snn-imbd", "text")


def test_rows_that_are_no_data_set_are_refused():
    rows = datasets.Dataset.from_dict({"text": ["A film."]})
    for wrong in (["A film."], None, datasets.DatasetDict(train=rows), rows.to_iterable_dataset()):
        with pytest.raises(TypeError, match=rf"rows must be a datasets\.Dataset.*got {type(wrong).__name__}"):
            answer_all(wrong, "lite-snn-imdb", "text")

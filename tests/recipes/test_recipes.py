"""Every recipe, on a few examples: each command works, and the commands in a card run."""

import copy
import importlib
import json
import pkgutil
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import recipes
import zoo
from recipes import gesture_simulator, report, training
from recipes.command import command_line
from recipes.recipe import Recipe
from tests.recipes import tiny_runs
from zoo import files
from zoo.command import app as snn_zoo
from zoo.engine.precision import Precise
from zoo.registry import MODEL_CARDS, architecture

MODULES = [importlib.import_module(f"recipes.{found.name}") for found in pkgutil.iter_modules(recipes.__path__)]
RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in MODULES if hasattr(module, "RECIPE")}


class Tiny(NamedTuple):
    """What a recipe's smoke run needs: data, the options of a small network and a twin, and a user's own examples."""

    write: Callable[[Path], object]
    options: str
    twin: str
    own: str
    tuning: str = ""


def write_pairs(folder: Path) -> None:
    tiny_runs.write_data(folder)
    for language in ("de", "en"):
        (folder / f"test_2016_flickr.{language}").write_bytes((folder / f"val.{language}").read_bytes())


def write_reviews(folder: Path) -> None:
    for split, count in (("train", 100), ("test", 4)):
        for name, word in (("neg", "dull"), ("pos", "fresh")):
            place = folder / "aclImdb" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"{i}_{1 if name == 'neg' else 9}.txt").write_text(f"The plot number {i % 7} is {word}.")


def write_recordings(folder: Path) -> None:
    gesture_simulator.write_data_set(folder, people=3, lightings=1, seconds=0.6)
    gesture_simulator.write_aedat(folder.parent / "own.aedat", gesture_simulator.example("air guitar"))


SPEAKERS = {"train-clean-5": (1, 2), "dev-held-out": (3,), "dev-clean-part": (4,)}
DICTIONARY = "one W AH1 N # a number\ntwo T UW1\nthree TH R IY1\n"


def write_speech(folder: Path) -> None:
    """Noises in the layout of LibriSpeech, with three words; one utterance has a word that the dictionary lacks."""
    (folder.parent / "cmudict.dict").write_text(DICTIONARY)
    noise = np.random.default_rng(0)
    for split, speakers in SPEAKERS.items():
        for speaker in speakers:
            chapter = folder / split / str(speaker) / "7"
            chapter.mkdir(parents=True)
            lines = []
            for i, words in enumerate(("ONE TWO", "TWO'S THREE", "THREE ONE", "FOUR")):
                name = f"{speaker}-7-{i:04}"
                write_noise(chapter / f"{name}.flac", noise)
                lines.append(f"{name} {words}\n")
            (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    write_noise(folder.parent / "own.wav", noise)


def write_timit(folder: Path) -> None:
    """Noises in the layout of LDC."""
    noise = np.random.default_rng(0)
    for speaker in ("TRAIN/DR1/FCJF0", "TEST/DR1/FAKS0", "TEST/DR1/MDAB0"):
        (folder / speaker).mkdir(parents=True)
        for name in ("SA1", "SX1", "SI2"):
            soundfile.write(folder / speaker / f"{name}.WAV", noise.normal(0, 0.1, 12_000), 16_000, format="NIST")
            (folder / speaker / f"{name}.PHN").write_text("0 3000 h#\n3000 6000 ix\n6000 9000 q\n9000 12000 h#\n")
    write_noise(folder.parent / "own.wav", noise)


def write_noise(file: Path, noise: np.random.Generator) -> None:
    soundfile.write(file, noise.normal(0, 0.1, (12_000, 2)), 16_000)


TINY = {
    "multi30k": Tiny(
        write_pairs,
        "--vocabulary 70 --width 16 --encoder-layers 1 --decoder-layers 1 --tokens 60",
        "--mixer lstm --dropout 0.3",
        "de,en\n" + "Ein Hund.,a dog.\n" * 7,
    ),
    "imdb": Tiny(
        write_reviews,
        "--vocabulary 100 --ngrams 50 --width 8 --channels 16 --tokens 900",
        "--mixer gru",
        "text,label\n" + "The plot is dull.,negative\nThe plot is fresh.,positive\n" * 4,
    ),
    "dvs_gesture": Tiny(
        write_recordings,
        "--pool 8 --bin-size 50000 --channels 4 --blocks 3 --head 6 --batch 6 --steps 8",
        "--mixer lif",
        "file,label\nown.aedat,air guitar\nown.aedat,arm roll\n",
    ),
    "timit": Tiny(
        write_timit,
        "--bands 8 --width 12 --layers 2 --steps 100 --full-precision 0",
        "--mixer lstm",
        "file,phones\nown.wav,sil w ah n sil\n",
    ),
    "librispeech": Tiny(
        write_speech,
        "--bands 8 --width 12 --layers 2 --steps 100 --full-precision 0",
        "--mixer lstm",
        'file,text\nown.wav,"One, two\'s three."\n',
        " --dictionary cmudict.dict",
    ),
}


def run(recipe: Recipe, words: str, status: int = 0) -> str:
    result = CliRunner().invoke(command_line(recipe), shlex.split(words))
    assert result.exit_code == status, result.output
    return result.stdout


def refusal(recipe: Recipe, words: str) -> str:
    """The one line that a command says in place of its result."""
    result = CliRunner().invoke(command_line(recipe), shlex.split(words))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), (words, result.exception)
    return result.output


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture(scope="module")
def tried(recipe, tmp_path_factory):
    """A folder with a training that was interrupted after an epoch and resumed, and a twin; both are measured."""
    folder, tiny = tmp_path_factory.mktemp(recipe.name), TINY[recipe.name]
    tiny.write(folder / "DATA")
    (folder / "own.csv").write_text(tiny.own)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save = training.Trainer.save_checkpoint
        with patch.context() as cut_off:
            then_stop = lambda self: (save(self), exec("raise KeyboardInterrupt"))  # noqa: E731
            cut_off.setattr(training.Trainer, "save_checkpoint", then_stop)
            run(recipe, f"train --data DATA --run one --epochs 2 {tiny.options}", status=130)
        assert len(Path("one/log.jsonl").read_text().splitlines() if Path("one/log.jsonl").exists() else []) < 2
        run(recipe, "resume one --data DATA")
        run(recipe, f"train --data DATA --run twin --epochs 1 {tiny.options} {tiny.twin}")
        run(recipe, "measure one twin --data DATA")
        run(recipe, "costs one --data DATA --name tiny --twin twin")
        run(recipe, "bundle one --folder tiny --summary Small. --twin twin")
    return folder


@pytest.fixture
def there(tried, monkeypatch) -> Path:
    monkeypatch.chdir(tried)
    return tried


def test_a_training_that_was_cut_off_is_resumed_to_its_end_with_the_options_it_had(recipe, there):
    assert [json.loads(line)["epoch"] for line in Path("one/log.jsonl").read_text().splitlines()] == [1, 2]
    state = Path("one/state.pt").read_bytes()
    run(recipe, "resume one --data DATA")
    assert Path("one/state.pt").read_bytes() == state


def test_a_model_is_evaluated_on_val_and_its_answers_are_written(recipe, there):
    found = json.loads(run(recipe, "evaluate ./one/best --data DATA --output answers.txt"))
    answers = Path("answers.txt").read_text(encoding="utf-8").splitlines()
    measured = json.loads(Path("one/scores.json").read_text())[f"{recipe.score}_val"]
    assert found[recipe.noun] == len(answers) > 0
    assert found[recipe.score] == pytest.approx(measured, abs=0.01)


def test_a_run_is_measured_once(recipe, there, monkeypatch):
    kept = Path("one/scores.json").read_bytes()
    monkeypatch.setattr(zoo, "load", None)
    assert run(recipe, "measure one --data DATA").startswith("one {")
    assert Path("one/scores.json").read_bytes() == kept


def test_costs_are_counted_for_a_model_and_its_twin_and_stand_on_the_card(recipe, there):
    costs = json.loads(Path("one/costs.json").read_text())
    first, _ = costs["rows"]
    assert first["name"] == "tiny"
    assert zoo.info(Path("tiny")).metrics["costs"] | {"weights": costs["weights"]} == costs
    assert "](costs.png)" in Path("tiny/README.md").read_text() and Path("tiny/costs.png").stat().st_size > 5000


def test_a_model_s_weights_are_rounded_and_its_scores_measured_again(recipe, there, tmp_path):
    shutil.copytree("tiny", tmp_path / "tiny")
    if not issubclass(architecture(zoo.info(Path("tiny")).config["architecture"]), Precise):
        run(recipe, f"round {tmp_path / 'tiny'} --data DATA", status=1)
        return
    model = zoo.load(tmp_path / "tiny")
    with torch.no_grad():
        for parameter in model.parameters():  # which the training has rounded
            parameter.mul_(1 + 0.01 * torch.rand(parameter.shape)).copy_(parameter.half())
    metrics = zoo.info(tmp_path / "tiny").metrics
    metrics["results"][0][f"{recipe.score}_val"] = 12345.0
    zoo.save(model, tmp_path / "tiny", metrics, {"costs.png": Path("tiny/costs.png").read_bytes()})
    before = (tmp_path / "tiny" / files.WEIGHTS).stat().st_size
    own = json.loads(run(recipe, f"round {tmp_path / 'tiny'} --data DATA"))
    found = zoo.info(tmp_path / "tiny")
    assert (tmp_path / "tiny" / files.WEIGHTS).stat().st_size < before
    assert found.metrics["results"] == [own, *metrics["results"][1:]]
    rounded = zoo.load(tmp_path / "tiny")
    again = json.loads(run(recipe, f"evaluate {tmp_path / 'tiny'} --data DATA"))
    assert own[f"{recipe.score}_val"] == pytest.approx(again[recipe.score], abs=0.01)
    names = [row["name"] for row in found.metrics["weight_bits"]["rows"]]
    assert names == ["as trained", "8 bits", "6 bits", "5 bits", "4 bits", "3 bits"]
    assert "## Weights of fewer bits" in (tmp_path / "tiny" / "README.md").read_text()
    kept = copy.deepcopy(rounded)
    rounded.round_weights()
    assert all(torch.equal(a, b) for a, b in zip(rounded.parameters(), kept.parameters()))


def test_a_card_gets_the_scores_of_networks_that_differ_in_their_bits(recipe, there, tmp_path):
    shutil.copytree("tiny", tmp_path / "tiny")
    for bits, name in ((5, "five"), (3, "three"), (32, "full")):
        shutil.copytree("one", tmp_path / name, ignore=shutil.ignore_patterns("state.pt"))
        settings = json.loads((tmp_path / name / "settings.json").read_text())
        settings["model"]["bits"] = bits
        (tmp_path / name / "settings.json").write_text(json.dumps(settings))
    runs = [str(tmp_path / name) for name in ("full", "five", "three")]
    rows = json.loads(run(recipe, f"compare-bits {tmp_path / 'tiny'} {' '.join(runs)}"))
    assert [row["name"] for row in rows] == ["3 bits", "5 bits", "full precision"]
    measured = json.loads(Path("one/scores.json").read_text())
    assert all(row[f"{recipe.score}_test"] == measured[f"{recipe.score}_test"] for row in rows)
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert "## Bits of a spike" in card and "\n| full precision | " in card
    assert f"\npython -m recipes.{recipe.name} compare-bits ./tiny {' '.join(runs)}\n" in card
    assert f" --run {runs[1]} " in card and " --bits 5" in card
    assert (tmp_path / "tiny" / "bits.png").stat().st_size > 5000
    assert (tmp_path / "tiny" / files.WEIGHTS).read_bytes() == Path("tiny", files.WEIGHTS).read_bytes()
    for wrong in (f"{runs[0]}", f"{runs[0]} {runs[0]}", f"{runs[0]} {Path('twin').resolve()}"):
        run(recipe, f"compare-bits {tmp_path / 'tiny'} {wrong}", status=1)


MODELS = {
    "multi30k": "lite-snn-multi30k",
    "imdb": "lite-snn-imdb",
    "dvs_gesture": "lite-snn-dvs-gesture",
    "timit": "improved-snn-timit",
    "librispeech": "improved-snn-librispeech",
}


@pytest.mark.parametrize("other", RECIPES)
def test_a_model_of_another_recipe_is_refused_by_every_command_that_reads_one(recipe, other, there, tmp_path):
    if other == recipe.name:
        return
    (tmp_path / "best").symlink_to(MODEL_CARDS / MODELS[other])
    commands = (
        f"evaluate {MODELS[other]} --data DATA",
        f"measure {tmp_path} --data DATA",
        f"costs {tmp_path} --data DATA --name x",
        f"round {tmp_path / 'best'} --data DATA",
        f"bundle one --twin {tmp_path} --folder {tmp_path / 'tiny'} --summary x",
        f"compare-bits {tmp_path / 'best'} one twin",
    )
    for words in commands:
        said = refusal(recipe, words)
        assert re.search("is a model for .*, and the recipe|has other labels than the data", said), (words, said)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("other", RECIPES)
def test_a_run_of_another_recipe_is_not_resumed(recipe, other, there, tmp_path):
    if other == recipe.name:
        return
    settings = {"model": asdict(RECIPES[other].config), "training": asdict(RECIPES[other].training)}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    said = refusal(recipe, f"resume {tmp_path} --data DATA")
    assert re.search("is no run of the recipe|has other labels than the data", said), said


CHANGED = {
    "the number of inputs": lambda scores, recipe: scores | {recipe.noun: {"val": 1}},
    "the data": lambda scores, recipe: scores | {"data": "0" * 64},
    "the weights": lambda scores, recipe: scores | {"weights": "0" * 64},
}


@pytest.mark.parametrize("what", CHANGED)
def test_scores_of_other_weights_or_other_data_come_into_no_card(recipe, there, tmp_path, what):
    shutil.copytree("twin", tmp_path / "twin", ignore=shutil.ignore_patterns("state.pt"))
    scores = json.loads(Path("twin/scores.json").read_text())
    (tmp_path / "twin/scores.json").write_text(json.dumps(CHANGED[what](scores, recipe)))
    said = "before .* got the weights" if what == "the weights" else f"measured alike, but with another {what[4:]}"
    with pytest.raises(ValueError, match=said):
        report.bundle(recipe, [Path("one")], tmp_path / "tiny", "x", [tmp_path / "twin"])
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    "name, weights, said", [("x", {}, "count again, with --name x"), ("tiny", {"tiny": "0"}, "got the")]
)
def test_costs_of_other_weights_or_of_another_name_come_into_no_card(recipe, there, tmp_path, name, weights, said):
    shutil.copytree("one", tmp_path / "one", ignore=shutil.ignore_patterns("state.pt"))
    costs = json.loads(Path("one/costs.json").read_text())
    (tmp_path / "one/costs.json").write_text(json.dumps(costs | {"weights": costs["weights"] | weights}))
    with pytest.raises(ValueError, match=said):
        report.read_costs(tmp_path / "one", name, {})


def test_a_model_is_fine_tuned_on_a_file_of_one_s_own(recipe, there):
    words = f"fine-tune ./one/best --data own.csv --output tuned --epochs 1{TINY[recipe.name].tuning}"
    result = CliRunner().invoke(snn_zoo, shlex.split(words))
    assert result.exit_code == 0, result.output
    said = result.stdout.splitlines()
    assert json.loads(said[0])["epoch"] == 1 and said[1].startswith("kept the weights")
    assert zoo.load(Path("tuned")).config == zoo.load(Path("one/best")).config
    metrics = zoo.info(Path("tuned")).metrics
    assert metrics["base_model"] == "best" and metrics["commands"] == [f"snn-zoo {words}"]
    assert "in own.csv (SHA-256 " in metrics["fine_tuning"]["data"]


def test_a_bundled_model_has_a_row_for_itself_and_for_its_twin_and_commands_that_repeat_all(recipe, there):
    info = zoo.info(Path("tiny"))
    rows = info.metrics["results"]
    assert rows[0]["name"] == "tiny" and len(rows) == 2 and rows[0].keys() == rows[1].keys()
    scores = json.loads(Path("one/scores.json").read_text())
    for row, folder in zip(rows, ("one", "twin")):
        measured = json.loads(Path(folder, "scores.json").read_text())
        assert {column: measured[column] for column in row if column != "name"} == {
            k: row[k] for k in row if k != "name"
        }
    band = info.metrics["score_band"]
    assert band["low"] <= scores[recipe.band.column] <= band["high"]
    states = [Path(folder, "state.pt").read_bytes() for folder in ("one", "twin")]
    called = f"python -m recipes.{recipe.name} "
    own = [line.removeprefix(called) for line in info.metrics["commands"] if line.startswith(called)]
    assert [line.split()[0] for line in own] == ["train", "train", "measure", "costs"]
    for line in own:
        run(recipe, line)  # the trainings have ended; they resume only with exactly the same options
    assert states == [Path(folder, "state.pt").read_bytes() for folder in ("one", "twin")]

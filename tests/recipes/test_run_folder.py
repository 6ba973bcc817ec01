"""A training run's folder: whatever is done to its files, the training continues from the checkpoint."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from recipes import extras, multi30k, report
from recipes.run_folder import RunFolder, read_run_config
from tests.recipes import tiny_runs

PROGRAM = Path(tiny_runs.__file__)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_runs.write_data(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run of three epochs without interruption."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    tiny_runs.trainer(data, run).train()
    return run


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def without_times(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(run: Path, other: Path) -> None:
    """Assert that two runs have the same weights (trained and averaged), best model and log, bit for bit."""
    first, second = RunFolder(run).read_checkpoint(), RunFolder(other).read_checkpoint()
    for part in ("model", "average", "kept"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), name
    for name in ("model.safetensors", "tokenizer.json"):
        assert (run / "best" / name).read_bytes() == (other / "best" / name).read_bytes()
    assert without_times(run) == without_times(other)


def contents(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


NAMES = {".lock", "state.pt", "log.jsonl", "training.png", "settings.json", "best"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 is of Unix")
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_at_any_moments_ends_as_one_that_was_not(data, tmp_path, seed, environment_with_checkout):
    runs = [tmp_path / "whole", tmp_path / "killed"]
    result = subprocess.run(
        [sys.executable, PROGRAM, data, *runs, str(seed)],
        env=environment_with_checkout | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.splitlines()[-1]) > 0, "it was never killed"
    assert_same(*runs)
    assert contents(runs[1]) == NAMES


def test_a_second_training_in_a_folder_is_refused_until_the_first_has_ended(data, tmp_path):
    first = tiny_runs.trainer(data, tmp_path / "run")
    with pytest.raises(BlockingIOError, match=rf"run is in use: process {os.getpid()} on .+ is training in it"):
        tiny_runs.trainer(data, tmp_path / "run")
    first.train()
    again = tiny_runs.trainer(data, tmp_path / "run")
    assert again.epoch == 3
    again.train()


def test_a_training_that_fails_or_is_interrupted_lets_go_of_its_folder(data, tmp_path):
    failing = tiny_runs.trainer(data, tmp_path / "run")
    failing.plan = lambda seed: exec("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        failing.train()
    with pytest.raises(RuntimeError, match="make a new one"):
        failing.train()
    tiny_runs.trainer(data, tmp_path / "run", epochs=2).train()
    with pytest.raises(ValueError, match="was started with other options"):
        tiny_runs.trainer(data, tmp_path / "run", epochs=1)
    tiny_runs.trainer(data, tmp_path / "run", epochs=2)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: cut(run / "log.jsonl"),
        lambda run: (run / "log.jsonl").write_bytes((run / "log.jsonl").read_bytes() * 2),
        lambda run: (run / "log.jsonl").unlink(),
        lambda run: cut(run / "best" / "model.safetensors"),
        lambda run: (run / "best" / "config.json").write_text("{"),
        lambda run: (run / "best" / "config.json").unlink(),
        lambda run: shutil.rmtree(run / "best"),
        lambda run: (run / "settings.json").write_text(""),
        lambda run: (run / "training.png").unlink(),
        lambda run: shutil.copytree(run / "best", run / ".best.saving-0"),
        lambda run: (run / "best").rename(run / ".best.previous-0"),
        lambda run: (run / "state.pt.7.new").write_text("half of a checkpoint"),
    ],
    ids=[
        "a cut log",
        "a doubled log",
        "no log",
        "cut weights",
        "a cut config",
        "no config",
        "no best",
        "empty settings.json",
        "no plot",
        "a model half-saved",
        "a model half-replaced",
        "a checkpoint half-written",
    ],
)
def test_whatever_is_made_from_the_checkpoint_is_made_again_at_the_next_start(data, whole, run, damage):
    damage(run)
    again = tiny_runs.trainer(data, run)
    assert again.epoch == 3  # no epoch is trained again
    again.train()
    assert_same(run, whole)
    assert contents(run) == NAMES and read_run_config(run) == read_run_config(whole)


def test_a_model_that_was_kept_before_the_last_epoch_is_made_again_too(data, tmp_path):
    trainer = tiny_runs.trainer(data, tmp_path / "run")
    scores = iter([3.0, 1.0, 2.0])
    trainer.score = lambda model: next(scores)
    trainer.train()
    weights = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "best")
    tiny_runs.trainer(data, tmp_path / "run").train()
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() == weights


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), r"state\.pt is damaged, or not the checkpoint of a training"),
        (cut, r"state\.pt is damaged, or not the checkpoint of a training"),
        (flip, r"state\.pt is damaged, or not the checkpoint of a training"),
        (lambda path: torch.save({"theirs": 1}, path), r"state\.pt is damaged, or not the checkpoint of a training"),
        (Path.unlink, r"holds log\.jsonl and best of a training whose state\.pt is gone"),
    ],
    ids=["empty", "cut", "one bit changed", "of something else", "gone"],
)
def test_a_checkpoint_that_cannot_be_read_is_told_in_one_line_and_nothing_is_lost(data, run, damage, message):
    damage(run / "state.pt")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    result = CliRunner().invoke(multi30k.command_line(), ["train", "--data", str(data), "--run", str(run)])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "another folder" in result.stderr
    with pytest.raises(ValueError, match=message):
        tiny_runs.trainer(data, run)
    assert {path: path.read_bytes() for path in before} == before


def test_what_somebody_put_beside_the_best_model_is_named_and_stays(data, run):
    (run / "best" / "notes.txt").write_text("mine")
    cut(run / "best" / "model.safetensors")
    with pytest.raises(FileExistsError, match=r"best is damaged .* holds other files \(notes\.txt\); move them away"):
        tiny_runs.trainer(data, run)
    assert (run / "best" / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_disk_that_is_full_is_one_line_and_the_training_goes_on_when_there_is_room(data, whole, tmp_path):
    import resource

    run = tmp_path / "run"
    trainer = tiny_runs.trainer(data, run)
    trainer.run_epoch()
    kept = (run / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, limits[1]))
    try:
        with pytest.raises(OSError) as failure:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (failure.value.errno, failure.value.filename) == (errno.EFBIG, str(run / "state.pt"))
    assert (run / "state.pt").read_bytes() == kept and not list(run.glob("*.new"))
    tiny_runs.trainer(data, run).train()
    assert_same(run, whole)


def test_an_output_that_is_closed_ends_a_training_after_an_epoch_that_is_kept(data, whole, tmp_path, monkeypatch):
    def closed(*args, **options):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("builtins.print", closed)
    with pytest.raises(BrokenPipeError):
        tiny_runs.trainer(data, tmp_path / "run").train()
    monkeypatch.undo()
    again = tiny_runs.trainer(data, tmp_path / "run")
    assert again.epoch == 1
    again.train()
    assert_same(tmp_path / "run", whole)


READ = {
    "scores.json": report.read_scores,
    "costs.json": lambda run: report.read_costs(run, "x", {}),
    "settings.json": read_run_config,
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("content", ["", '{"accuracy', "[]", "\xff"], ids=["empty", "cut", "a list", "no text"])
def test_a_record_of_a_run_that_is_damaged_is_named_with_what_to_do(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"{name} (is damaged|holds no JSON object).*; (remove it|give its training)"):
        READ[name](tmp_path)


@pytest.mark.parametrize("name", READ)
def test_a_record_that_a_run_does_not_have_is_named_with_what_writes_it(tmp_path, name):
    with pytest.raises(
        FileNotFoundError, match=rf"there is no .*{name}: .*(command (measure|costs) writes it|no folder of)"
    ):
        READ[name](tmp_path)


def test_what_was_measured_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    record = tmp_path / "scores.json"
    assert report.measured_once(record, {"weights": 1}, lambda: {"score": 2}) == {"weights": 1, "score": 2}
    monkeypatch.setattr(os, "replace", lambda *paths: exec("raise OSError(28, 'No space left on device')"))
    with pytest.raises(OSError, match="No space left"):
        report.measured_once(record, {"weights": 2}, lambda: {"score": 3})
    assert json.loads(record.read_text()) == {"weights": 1, "score": 2} and contents(tmp_path) == {"scores.json"}


# Packages of the extra


@pytest.mark.parametrize("missing", ["accelerate", "tqdm", "matplotlib", "sacrebleu"])
def test_a_package_that_a_training_needs_is_named_before_it_starts(data, tmp_path, missing, monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == missing else object())
    result = CliRunner().invoke(multi30k.command_line(), ["train", "--data", str(data), "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert result.stderr == f'snn-zoo: training needs {missing}; install it with: pip install "snn-zoo[train]"\n'
    assert not (tmp_path / "run").exists()


def test_scoring_needs_sacrebleu_and_says_so(data, run, monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    arguments = ["evaluate", str(run / "best"), "--data", str(data), "--split", "train"]
    result = CliRunner().invoke(multi30k.command_line(), arguments)
    assert result.exit_code == 1
    assert result.stderr == 'snn-zoo: the BLEU score needs sacrebleu; install it with: pip install "snn-zoo[train]"\n'

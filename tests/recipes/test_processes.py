"""Several processes train and score as one process does, and a killed one ends the job without losing the run."""

import json
import math
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from neurons.spike import TrackedRange
from recipes import multi30k, processes, training
from recipes.processes import Part, Together
from recipes.run_folder import RunFolder
from tests.recipes import tiny_runs, together
from tests.recipes.test_recipes import RECIPES, TINY, run

LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_machines 1 --main_process_port 0 --dynamo_backend no"
WITHOUT_NOISE = {
    "multi30k": {"token_dropout": 0.0},
    "imdb": {"tokens": 100},
    "dvs_gesture": {"batch": 6, "steps": 8},
    "timit": {"curriculum": 0.0, "steps": 300, "full_precision": 0.0, "frame_targets": 0.5},
    "librispeech": {"curriculum": 0.0, "steps": 300, "full_precision": 0.0},
}
SMALL = {
    "multi30k": {"vocabulary": 70, "width": 16, "encoder_layers": 1, "decoder_layers": 1},
    "imdb": {"vocabulary": 100, "ngrams": 50, "width": 8, "channels": 16, "word_dropout": 0.0},
    "dvs_gesture": {"pool": 8, "bin_size": 50_000, "channels": 4, "blocks": 3, "head": 6},
    "timit": {"bands": 8, "width": 12, "layers": 2},
    "librispeech": {"bands": 8, "width": 12, "layers": 2},
}


@pytest.fixture
def environment(environment_with_checkout) -> dict[str, str]:
    return environment_with_checkout | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}


def launched(count: int, words: str, environment: dict[str, str], options: str = "") -> subprocess.Popen:
    command = [sys.executable, *shlex.split(f"{LAUNCH} --num_processes {count} {options} {words}")]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def output_of(count: int, words: str, environment: dict[str, str], options: str = "--mixed_precision no") -> str:
    started = launched(count, words, environment, options)
    output, errors = started.communicate()
    assert started.returncode == 0, errors
    return output


def assert_near(one: dict, other: dict, margin: float = 1e-3) -> None:
    """Assert that two state dicts are the same but for rounding, which the optimiser makes larger."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value.double(), other[name].double(), atol=margin, rtol=margin), name


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A function that makes a recipe's trainer on a few examples, without random numbers."""

    def made(name: str):
        recipe, folder = RECIPES[name], tmp_path_factory.mktemp(name)
        TINY[name].write(folder / "DATA")
        own = {"epochs": 1, "bfloat16": False, "spike_penalty": 0.3} | WITHOUT_NOISE[name]
        options = replace(recipe.training, **recipe.training.without_noise | own)
        config = replace(recipe.config, dropout=0.0, range_tracking="sequence", **SMALL[name])
        return recipe.trainer(folder / "DATA", folder / "run", config, options)

    return made


@pytest.mark.parametrize("name", RECIPES)
def test_parts_of_a_batch_have_its_loss_its_gradients_and_its_ranges(name, trainer):
    run = trainer(name)
    network = run.network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # it needs the whole batch, or all processes
    batch = max(run.plan(0), key=run.size_of)
    size, start = run.size_of(batch), {k: v.clone() for k, v in network.state_dict().items()}
    found = []
    for count in (1, 2, size + 2):
        network.load_state_dict(start)
        network.zero_grad()
        parts = [Part(index, count) for index in range(count)]
        loss = Together(network).backward(lambda part: run.loss_of(batch, part), size, parts)
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        ranges = {k: v.clone() for k, v in network.state_dict().items() if "spike_range" in k}
        found.append((float(loss), gradients, ranges))
    (loss, gradients, ranges), *others = found
    assert size > 1 and any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert any(not torch.equal(value, start[key]) for key, value in ranges.items())
    for other_loss, other_gradients, other_ranges in others:
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert_near(gradients, other_gradients, 1e-4)
        assert_near(ranges, other_ranges, 1e-5)
    run.folder.let_go()


def test_a_training_with_gradient_accumulation_ends_as_one_without(tmp_path, monkeypatch):
    data = tiny_runs.write_data(tmp_path / "data")
    whole = together.train(data, tmp_path / "whole")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    parts = together.train(data, tmp_path / "parts")
    assert len(parts.parts) == 3
    assert_near(whole.average.state_dict(), parts.average.state_dict())
    assert [row["loss"] for row in whole.log] == pytest.approx([row["loss"] for row in parts.log], rel=1e-4)


def test_two_processes_train_as_one_and_have_the_same_in_the_end(tmp_path, environment):
    data = tiny_runs.write_data(tmp_path / "data")
    output_of(2, f"{together.__file__} {data} {tmp_path / 'two'}", environment)
    first, second = (torch.load(tmp_path / f"two-{index}.pt") for index in range(2))
    for part in ("model", "average"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items()), part
    assert first["log"] == second["log"]
    assert first["shared"] == second["shared"] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    one = together.train(data, tmp_path / "one")
    assert_near(one.average.state_dict(), first["average"])
    assert [row["loss"] for row in one.log] == pytest.approx([row["loss"] for row in first["log"]], rel=1e-4)
    assert [row["bleu"] for row in one.log] == [row["bleu"] for row in first["log"]]
    kept = RunFolder(tmp_path / "two").read_checkpoint()
    assert all(torch.equal(value, first["model"][name]) for name, value in kept["model"].items())


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [*((name, 2) for name in RECIPES), ("multi30k", 4)])
def test_a_recipe_trains_and_scores_in_several_processes_as_in_one(name, count, tmp_path, environment):
    recipe = RECIPES[name]
    TINY[name].write(tmp_path / "DATA")
    options = dict(recipe.training.without_noise) | WITHOUT_NOISE[name] | SMALL[name] | {"dropout": 0.0, "epochs": 2}
    words = f"--data {tmp_path / 'DATA'} --no-bfloat16 --range-tracking sequence"
    for option, value in options.items():
        words += f" --no-{option}" if value is False else f" --{option.replace('_', '-')} {value}"
    run(recipe, f"train --run {tmp_path / 'one'} {words}")
    output_of(count, f"-m recipes.{name} train --run {tmp_path / 'many'} {words}", environment)
    one, many = (RunFolder(tmp_path / run).read_checkpoint() for run in ("one", "many"))
    assert_near(one["average"], many["average"], 5e-3)
    logs = [json.loads(kept["log"]) for kept in (one, many)]
    for row, other in zip(*logs, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
    scoring = f"{tmp_path / 'many' / 'best'} --data {tmp_path / 'DATA'} --output"
    alone = json.loads(run(recipe, f"evaluate {scoring} {tmp_path / 'alone.txt'}"))
    shared = json.loads(
        output_of(count, f"-m recipes.{name} evaluate {scoring} {tmp_path / 'shared.txt'}", environment)
    )
    assert shared == alone
    assert (tmp_path / "shared.txt").read_bytes() == (tmp_path / "alone.txt").read_bytes()
    measuring = f"measure {tmp_path / 'many'} --data {tmp_path / 'DATA'}"
    assert output_of(count, f"-m recipes.{name} {measuring}", environment) == run(recipe, measuring)


@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_an_error_and_the_run_goes_on_in_one(tmp_path, environment):
    tiny_runs.write_data(tmp_path / "DATA")
    words = f"--data {tmp_path / 'DATA'} {TINY['multi30k'].options} --dropout 0 --token-dropout 0 --epochs 12"
    words += " --no-bfloat16 --learning-rate 1e-3"
    job = launched(2, f"-m recipes.multi30k train --run {tmp_path / 'killed'} {words}", environment)
    log = tmp_path / "killed" / "log.jsonl"
    while not log.exists():
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.01)
    (worker,) = (p for p in psutil.Process(job.pid).children(recursive=True) if p.environ().get("RANK") == "1")
    worker.kill()
    _, errors = job.communicate()
    assert job.returncode != 0 and f"{-signal.SIGKILL}" in errors and "rank      : 1" in errors
    done = RunFolder(tmp_path / "killed").read_checkpoint()["epoch"]
    assert 1 <= done < 12
    run(RECIPES["multi30k"], f"resume {tmp_path / 'killed'} --data {tmp_path / 'DATA'}")
    run(RECIPES["multi30k"], f"train --run {tmp_path / 'whole'} {words}")
    killed, whole = (json.loads(RunFolder(tmp_path / name).read_checkpoint()["log"]) for name in ("killed", "whole"))
    assert [row["epoch"] for row in killed] == [*range(1, 13)]
    assert [row["loss"] for row in killed] == pytest.approx([row["loss"] for row in whole], rel=1e-2)


@pytest.mark.slow
def test_a_run_in_bfloat16_that_was_begun_in_one_process_goes_on_in_two(tmp_path, environment):
    data = tiny_runs.write_data(tmp_path / "DATA")
    options = replace(together.OPTIONS, bfloat16=True, epochs=3)
    whole = multi30k.Trainer(data, tmp_path / "whole", together.CONFIG, options)
    whole.train()
    begun = multi30k.Trainer(data, tmp_path / "begun", together.CONFIG, options)
    begun.save_checkpoint = lambda save=begun.save_checkpoint: (save(), exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        begun.train()
    words = f"-m recipes.multi30k resume {tmp_path / 'begun'} --data {data}"
    output_of(2, words, environment, "--mixed_precision bf16")
    log = json.loads(RunFolder(tmp_path / "begun").read_checkpoint()["log"])
    assert log[0] | {"seconds": 0} == whole.log[0] | {"seconds": 0}
    assert [row["loss"] for row in log] == pytest.approx([row["loss"] for row in whole.log], rel=1e-2)


@pytest.mark.slow
def test_an_error_ends_the_job_and_is_shown(tmp_path, environment):
    tiny_runs.write_data(tmp_path / "DATA")
    job = launched(2, f"-m recipes.multi30k train --data {tmp_path / 'DATA'} --run {tmp_path} --epochs 0", environment)
    _, errors = job.communicate()
    assert job.returncode != 0 and "snn-zoo: epochs must be" in errors
    job = launched(2, f"-m recipes.multi30k costs {tmp_path} --data {tmp_path} --name x", environment)
    _, errors = job.communicate()
    assert job.returncode != 0
    assert "snn-zoo: costs is a command for one process; several can share train, resume, evaluate, measure" in errors


# ---- What cannot be shared ----


class Normed(nn.Module):
    def __init__(self, tracking: str):
        super().__init__()
        self.norm, self.spike_range = nn.BatchNorm1d(3), TrackedRange(tracking=tracking)


def test_a_range_that_moves_in_every_step_is_refused_in_parts():
    processes.check_divisible(Normed("step"), 1, 1)
    for parts, count in ((2, 2), (3, 1)):
        with pytest.raises(ValueError, match=r'range_tracking="step".* another range_tracking'):
            processes.check_divisible(Normed("step"), parts, count)


def test_batch_norm_is_shared_by_processes_and_refuses_gradient_accumulation():
    processes.check_divisible(Normed("sequence"), 4, 4)
    with pytest.raises(ValueError, match="batch norm needs the whole batch"):
        processes.check_divisible(Normed("sequence"), 8, 4)


@pytest.mark.parametrize("given, bfloat16", [("fp16", True), ("fp8", False), ("bf16", False)])
def test_a_precision_that_is_not_the_training_s_is_refused(given, bfloat16):
    with pytest.raises(ValueError, match=f"--bfloat16 or --no-bfloat16.*'{given}' of accelerate launch"):
        processes.check_precision(given, bfloat16)
    processes.check_precision("bf16", True)
    processes.check_precision("no", bfloat16)


def test_processes_that_do_not_find_each_other_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started, but each would work alone.*ACCELERATE_USE_CPU=1"):
        processes.join()


def test_a_part_has_every_row_once_and_an_empty_one_stands_in_without_weight():
    parts = [Part(index, 4) for index in range(4)]
    rows = [list(range(10))[part.rows(10)] for part in parts]
    assert sorted(row for part in rows for row in part) == [*range(10)]
    assert math.fsum(part.share(10) for part in parts) == 1
    assert [part.weight(2) for part in parts] == [1, 1, 0, 0]
    assert [list(range(2))[part.rows(2)] for part in parts] == [[0], [1], [0], [0]]


def test_a_step_of_the_optimisers_returns_the_loss_before_it():
    weight = nn.Linear(1, 1, bias=False)
    options = multi30k.Training(epochs=1, learning_rate=0.1, warmup=0.0, weight_decay=0.0)
    optimisers = training.optimisers_of(weight, options)
    loss = lambda: weight(torch.ones(1, 1)).square().sum()  # noqa: E731
    before = float(loss().detach())
    assert float(training.update(weight, optimisers, lambda: training.gradients(loss()), 0.0, options)) == before
    assert float(loss().detach()) < before

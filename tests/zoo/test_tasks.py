"""A task is one record: a task registered at run time has everything that a built-in one has."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn
from typer.testing import CliRunner

import neurons
import zoo
from zoo import command, errors, tasks
from zoo.tasks import TASKS, Option, Score, Task


class Guess(NamedTuple):
    label: str
    probabilities: dict[str, float]


LOUD = Guess("loud", {"loud": 0.75, "quiet": 0.25})


class Neural(nn.Module):
    """One neuron over the bytes of an input."""

    def __init__(self):
        super().__init__()
        self.config = {}
        self.currents, self.neuron = nn.Linear(1, 2), neurons.MultiBitLIF(bits=4)

    def forward(self, x_seq):
        return self.neuron(self.currents(x_seq))[0].sum(0)

    def spoken(self, data: bytes, louder: int) -> str:
        with torch.no_grad():
            self(torch.tensor(list(data), dtype=torch.float32).view(-1, 1, 1) / 255)
        return data.decode().upper() + "!" * louder

    def assets(self):
        return {}

    @classmethod
    def from_config(cls, config, assets):
        return cls()


class Shouting(Neural):
    task = "shouting"

    def shout(self, texts, louder=1):
        return [self.spoken(text.encode(), louder) for text in texts]

    def check(self, text, where="the text"):
        if not text:
            raise ValueError(f"{where} is empty")


class Listening(Neural):
    task = "listening"

    def listen(self, path):
        with open(path, "rb") as file:
            self.spoken(file.read(), 0)
        return LOUD

    def stream(self):
        raise ValueError("this one hears to the end")


SHOUTING = Task(
    name="shouting",
    method="shout",
    summary="Shout texts.",
    input="whisper",
    score=Score("wer", higher_is_better=False),
    options=(Option("louder", int, "How loud.", costs=True),),
)
LISTENING = Task(
    name="listening",
    method="listen",
    summary="Listen to files.",
    input="sound",
    score=Score("accuracy"),
    files=True,
    labels=True,
    streams="samples",
)


@pytest.fixture(autouse=True)
def left_as_it_was(monkeypatch):
    """The tasks and architectures of a test are removed after it."""
    known = dict(TASKS)
    monkeypatch.setattr("zoo.registry._architectures", dict(zoo.registry._architectures))
    yield
    TASKS.clear()
    TASKS.update(known)


@pytest.fixture(params=[(SHOUTING, Shouting), (LISTENING, Listening)], ids=["texts", "files"])
def walked(request, monkeypatch, tmp_path, metrics):
    """A task registered at run time, a bundled model of it, and one input."""
    task, network = request.param
    tasks.register(task)
    zoo.registry.register_architecture(task.name)(network)
    scores = {
        "characters": {"title": "CER", "type": "cer", "split": "test", "signature": "by character"},
        "score": {"title": "the score", "type": task.score.type, "split": "test", "signature": "by word"},
    }
    metrics.update(scores=scores, results=[{"name": "voice", "characters": 1.5, "score": 2.5}])
    del metrics["score_band"], metrics["sparsity"]
    (tmp_path / "sound.txt").write_text("hush", encoding="utf-8")
    given = str(tmp_path / "sound.txt") if task.files else "hush"
    metrics["example"] = {"input": given if task.files else [given], "output": ["HUSH!"]}
    folder = zoo.save(network(), tmp_path / "cards" / "voice", metrics)
    monkeypatch.setattr(zoo.registry, "MODEL_CARDS", folder.parent)
    return task, folder, given


def run(*arguments):
    return CliRunner().invoke(command.command_line(), [str(argument) for argument in arguments])


def answer_of(task: Task, given: str):
    """The answer of the loaded model, with the method of its task."""
    method = getattr(zoo.load("voice"), task.method)
    return method(given) if task.files else method([given])[0]


def test_a_new_task_is_saved_loaded_and_listed(walked):
    task, _, given = walked
    assert zoo.info("voice").task == task.name and zoo.list_models(task=task.name) == ["voice"]
    assert answer_of(task, given) == (LOUD if task.labels else "HUSH!")


def test_the_card_of_a_new_task_shows_its_method_its_name_on_the_hub_and_which_way_its_score_counts(walked):
    task, folder, _ = walked
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert ModelCard(text).data.pipeline_tag == task.name
    assert f"model.{task.method}(" in text
    assert "- CER: `by character`\n" in text
    assert f"- the score: `by word`{'' if task.score.higher_is_better else '; lower is better'}\n" in text


def test_a_new_task_has_a_command_with_its_options(walked):
    task, _, given = walked
    assert task.summary in run("--help").output
    assert run(task.method, "voice", given).stdout == ("loud\t0.7500\n" if task.labels else "HUSH!\n")
    said = json.loads(run(task.method, "voice", "--json", given).stdout)
    assert said == (LOUD._asdict() if task.labels else {"text": "HUSH!"})
    for option in task.options:
        assert run(task.method, "voice", given, f"--{option.name}", "3").stdout == "HUSH!!!\n"


def test_the_score_that_counts_is_the_one_in_the_list(walked):
    assert "2.5 the score" in run("list").stdout and "CER" not in run("list").stdout
    assert walked[0].name in run("info", "voice").stdout


def test_a_new_task_is_profiled_by_its_method_with_the_options_that_cost(walked):
    task, _, given = walked
    inputs = ["--inputs", given] if task.files else []
    told = run("profile", "voice", *inputs, "--json", *(["--louder", "2"] if task.options else []))
    (profile,) = json.loads(told.stdout)["profiles"]
    assert profile["inputs"] == 1 and profile["counts"]["additions"] > 0
    refused = run("profile", "voice", *inputs, "--beam-size", "2")
    assert refused.stderr == f"snn-zoo: 'voice' is a model for {task.name}, and its {task.method} takes no beam_size\n"


def test_a_model_of_another_task_is_refused_by_a_command_with_the_name_of_its_own(walked):
    told = run("classify", "voice", "x").stderr
    assert told == f"snn-zoo: 'voice' is a model for {walked[0].name}, and does not classify\n"


@pytest.mark.parametrize(("task", "missing"), [(SHOUTING, ["shout", "check"]), (LISTENING, ["listen", "stream"])])
def test_a_network_has_what_its_task_needs(task, missing):
    tasks.register(task)
    mute = type("Mute", (Neural,), {"task": task.name})
    with pytest.raises(TypeError, match=r"\(\) and no ".join(missing)):
        zoo.registry.register_architecture("mute")(mute)


def test_a_method_is_that_of_one_task_and_a_task_that_is_registered_again_takes_its_own_place():
    with pytest.raises(ValueError, match="the method 'translate' is that of the task 'translation'"):
        tasks.register(replace(SHOUTING, method="translate"))
    assert "shouting" not in TASKS
    for summary in ("Shout.", "Shout again."):
        tasks.register(replace(SHOUTING, summary=summary))
    assert TASKS["shouting"].summary == "Shout again."


@pytest.mark.parametrize(("score", "best"), [(Score("bleu"), 3.0), (Score("wer", higher_is_better=False), 1.0)])
def test_the_value_of_most_merit_is_the_highest_or_the_lowest_as_the_score_says(score, best):
    assert max([2.0, 1.0, 3.0], key=score.merit) == best


def test_an_unknown_task_gets_a_suggestion():
    with pytest.raises(errors.UnknownNameError, match="no task is called 'translatoin'; did you mean 'translation'"):
        tasks.named("translatoin")


def compared_texts(source: str) -> set[str]:
    """The texts that something is compared with."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare | ast.MatchValue)]
    constants = [inner.value for node in found for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


@pytest.mark.parametrize("package", ["zoo", "recipes", "benchmarks"])
def test_nothing_asks_which_task_it_is_but_reads_the_record(package):
    words = {word for task in TASKS.values() for word in (task.name, task.method)}
    for path in (Path(zoo.__file__).parents[1] / package).rglob("*.py"):
        assert not words & compared_texts(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("code", ['method == "predict"', 'x in ("predict", "y")', 'match x:\n    case "predict": pass'])
def test_a_comparison_with_the_name_of_a_method_is_seen(code):
    assert "predict" in compared_texts(code)

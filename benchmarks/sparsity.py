"""What sparse spikes save: time against spike rate of trained models, beside an LSTM and a Transformer.

::

    python -m benchmarks.sparsity --data MULTI30K --recording SPEECH.flac --translator lite-snn-multi30k \\
        --translator ./runs/translator-operations-20/best     # two minutes, and half a minute for each model more
    python -m benchmarks.sparsity --quick

The models are of one size, in integers, and used as :mod:`benchmarks.users` says: a sentence alone, or a recording as a
whole and as a stream, on one thread. The twin and the Transformer are those of :mod:`benchmarks.inference`. The two
recognisers know other phones; the search among them takes little time.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks import inference, report, users
from benchmarks.inference import AS_IT_IS, CPU, Row, Task
from benchmarks.process import Alone
from benchmarks.users import Job, Size
from neurons.monitors import figure
from recipes.extras import png

TRANSLATORS = ["lite-snn-multi30k"]
RECOGNISERS = ["improved-snn-timit", "improved-snn-librispeech"]
"""The first was trained from a denser form of the second."""
WITHOUT_SPIKES = {users.LSTM: "--", users.TRANSFORMER: ":"}
"""Networks to compare with, and how the picture draws them."""
NOTES = """\
One thread. Spike rate is the share of the neurons' outputs that are not zero, in the same sentences and the same
recording. "times the twin" is how many times as fast as the LSTM twin in float32 a model is, "times CTranslate2" how
many times as fast as the Transformer in int8. Every translation has 14 tokens, in every hypothesis."""


def build_translator(name: str, size: Size, sentences: list[str]) -> Any:
    """The twin, the Transformer, or one of our translators in integers, by name or folder."""
    if name in users.TRANSLATORS:
        return users.build_translator(name, size, sentences)
    return users.TorchTranslator(users.translator(size, name), sentences, "int8")


def build_listener(name: str, size: Size, recording: Path | None) -> Any:
    """The twin, or one of our recognisers in integers, by name or folder."""
    if name in users.LISTENERS:
        return users.build_listener(name, size, recording)
    return users.Listener(users.recogniser(size, name), users.samples_of(recording, size.seconds), "int8")


def tasks(
    plan: inference.Plan, translators: list[str], recognisers: list[str], sentences: list[str], recording: Path | None
) -> tuple[Task, Task]:
    """What is compared: our models of these names, and the others."""
    size, (greedy, beam, *_) = plan.size, plan.jobs()
    listening = Job(users.WHOLE, size.seconds), Job(users.PIECES, size.seconds)
    return (
        Task("translation", "sentence", "token", (*translators, users.LSTM, users.TRANSFORMER), users.LSTM,
             build_translator, (size, sentences), (greedy, beam)),
        Task("speech", "second", "second", (*recognisers, users.LSTM), users.LSTM,
             build_listener, (size, recording), listening),
    )  # fmt: skip


class Found(NamedTuple):
    """The times of all networks of a task at every job, and the spike rates of ours."""

    task: Task
    rows: list[Row]
    rates: dict[str, float]

    def at(self, job: Job) -> list[Row]:
        return [row for row in self.rows if row.job == job.name and row.median is not None]

    def figures(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(row) | {"spike_rate": self.rates.get(row.network)} for row in self.rows]


def measure(task: Task, plan: inference.Plan) -> Found:
    rates = {}
    for name in task.networks:
        if name not in WITHOUT_SPIKES:
            with contextlib.closing(Alone(task.build, name, *task.arguments)) as ours:
                rates[name] = ours.call("spike_rate", task.jobs[0])
    return Found(task, inference.measure_task(task, AS_IT_IS, [1], plan.effort), rates)


# ---- The report ----


def table(found: Found) -> str:
    item = found.task.item
    head = ["network", "job", "spikes %", f"ms per {item}", "quartiles ms", "times the twin", "times CTranslate2"]
    lines = []
    for job in found.task.jobs:
        for row in found.at(job):
            ratios = [inference.optional(ratio) for ratio in (row.times_twin, row.times_transformer)]
            rate = inference.percent(found.rates.get(row.network))
            lines.append([row.network, job.name, rate, *inference.milliseconds(row, row.items), *ratios])
    return f"## {found.task.name.capitalize()}\n\n{report.table(head, lines)}"


def plot(compared: list[Found]) -> bytes:
    """Time against spike rate, a line for each job; the networks without spikes as level lines."""
    drawn, ((*axes,),) = figure(1, len(compared), (5 * len(compared), 5))
    for axis, found in zip(axes, compared):
        for job, colour in zip(found.task.jobs, ("tab:blue", "tab:orange")):
            took = {row.network: 1e3 * row.median / row.items for row in found.at(job)}
            points = sorted((100 * rate, took[name]) for name, rate in found.rates.items())
            axis.plot(*zip(*points), "o-", color=colour, label=f"ours, {job.name}")
            for name, style in WITHOUT_SPIKES.items():
                if name in took:
                    axis.axhline(took[name], color=colour, linestyle=style, label=f"{name}, {job.name}")
        axis.set(xlabel="spike rate, % of outputs not zero", ylabel=f"ms per {found.task.item}", title=found.task.name)
        axis.set(xlim=(0, 100), yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return png(drawn)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="tiny networks; the figures mean nothing")] = False,
    translator: Annotated[list[str], typer.Option(help="one of our translators; may be repeated")] = TRANSLATORS,
    recogniser: Annotated[list[str], typer.Option(help="one of our recognisers; may be repeated")] = RECOGNISERS,
    output: Annotated[Path, typer.Option(help="folder for table, figures and picture")] = report.RESULTS,
    data: Annotated[Path | None, typer.Option(help="folder with the raw Multi30k files")] = None,
    recording: Annotated[Path | None, typer.Option(help="audio file of speech")] = None,
) -> None:
    """Measure how long models of one size take whose spikes are more or less sparse, beside networks without spikes.

    Without ``--data`` and ``--recording``, sentences and speech are made up.
    """
    plan = inference.QUICK if quick else inference.Plan()
    report.use_threads(1)
    sentences = inference.sentences_of(data, plan)
    compared = [measure(task, plan) for task in tasks(plan, translator, recogniser, sentences, recording)]
    where, name = report.environment(CPU, 1), report.stem("sparsity", CPU, quick)
    text = "\n\n".join(["# What sparse spikes save", report.described(where), NOTES, *map(table, compared)]) + "\n"
    report.save(output, name, text, where | {"rows": [row for found in compared for row in found.figures()]})
    (output / f"{name}.png").write_bytes(plot(compared))
    print(text)


if __name__ == "__main__":
    report.application(main)()

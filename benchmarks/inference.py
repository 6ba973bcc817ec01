"""Using the models: ours in integers and in floats, beside LSTMs, GRUs and a Transformer in CTranslate2.

::

    python -m benchmarks.inference --data MULTI30K --recording SPEECH.flac     # half an hour
    python -m benchmarks.inference --quick

What is compared, and that it does the same work, is in :mod:`benchmarks.users`; the time of a step part by part and of
products of spikes in :mod:`benchmarks.parts`. Each network is in a process of its own, so that its memory can be told;
only one of them works at a time. Needs ``pip install "snn-zoo[train,speech]"``, ``ctranslate2`` for the Transformer and
``pocketsphinx`` for a well-known small recogniser.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks import parts, report, users
from benchmarks.contenders import Unavailable
from benchmarks.measure import Effort, in_turn, quartiles
from benchmarks.process import Alone
from benchmarks.users import Firing, Job, Size
from recipes import multi30k
from zoo.engine import integers
from zoo.engine.program import NotInIntegers

CPU = torch.device("cpu")
AS_IT_IS, WITHOUT = "as it is", "AVX2 only"
LIBRARIES = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "FBGEMM_ENABLE_INSTRUCTIONS", "CT2_FORCE_CPU_ISA")
PROCESSORS = {
    AS_IT_IS: {},
    WITHOUT: dict.fromkeys(LIBRARIES, "AVX2") | {"ATEN_CPU_CAPABILITY": "avx2", "NUMBA_CPU_NAME": "haswell"},
}
"""The processor with all its instructions, or without integer units: what the libraries are told."""
FIRINGS = (*map(Firing, range(7)), Firing(6, 1.25))
"""From about 70 to about 5 % of the bundled translator's spikes."""
NOTES = f"""\
Each network is in a process of its own; they work in turn, in a new random order each round. "times the twin" is how
many times as fast as the LSTM twin in float32 a network is (for gestures: the convolutional GRU), "times CTranslate2"
how many times as fast as the Transformer. Times include reading the text or the events. Peak memory is that of the
network and of the job on one thread, above Python with torch and our modules imported. "{WITHOUT}" tells every library
to compute as on a processor without AVX-512 and integer units; then ours computes its integers exactly in floats.

Our networks are the bundled models, the others are random: their time does not depend on their weights. Every
translation has {Size().tokens} tokens, in every hypothesis, as END is forbidden. The Transformer has the width, layers,
heads and vocabulary of ours, and inner layers {users.INNER} times as wide. int8 of the twins is torch's dynamic
quantisation, of all products but those of attention; it knows no convolutions. PocketSphinx finds words, with its own
English model, where the others find phones."""
PARTS_NOTES = """\
One thread, microseconds per step (a token of every hypothesis); rows are hypotheses. In int8, a numbered part is an
instruction of the decoder's program, in its order, timed alone many times in one call. The rest of a step is the
tokenizer, and the search around the network. In float32, a part is all modules of a kind, without those inside them;
what is outside of modules is the search, the product with the embedding, and more."""
PRODUCT_NOTES = """\
One thread, microseconds per product of rows of spikes and a weight of eight bits. "chosen" is what the engine takes.
Below the crossing rate, events take less time than matrices; "-" means at every rate."""


class Task(NamedTuple):
    """What is compared at one task; ``build(name, *arguments)`` makes a network."""

    name: str
    item: str
    step: str
    networks: tuple[str, ...]
    twin: str
    build: Callable
    arguments: tuple
    jobs: tuple[Job, ...]


class Plan(NamedTuple):
    """How much is measured."""

    size: Size = Size()
    processors: tuple[str, ...] = (AS_IT_IS, WITHOUT)
    alone: int = 8
    """Sentences and texts per sample that are computed one at a time."""
    together: int = 64
    firings: tuple[Firing, ...] = FIRINGS
    grid: parts.Grid = parts.Grid()
    effort: Effort = Effort(samples=9, seconds=10.0)

    def jobs(self) -> tuple[Job, ...]:
        """The jobs of a translator."""
        found = []
        for name, items, batch in (("one at a time", self.alone, 1), (f"batch of {self.together}", self.together, 64)):
            found += [Job(f"{name}, greedy", items, batch, 1), Job(f"{name}, beam of 5", items, batch, 5)]
        return tuple(found)

    def tasks(self, sentences: list[str], recording: Path | None = None) -> tuple[Task, ...]:
        size = self.size
        listening = tuple(Job(name, size.seconds) for name in (users.WHOLE, users.PIECES))
        frames, texts = Job("frame by frame", size.frames), Job("one at a time", self.alone)
        return (
            Task("translation", "sentence", "token", users.TRANSLATORS, users.LSTM, users.build_translator,
                 (size, sentences), self.jobs()),
            Task("gestures", "frame", "frame", users.GESTURES, users.GESTURES[2], users.build_gestures,
                 (size,), (frames,)),
            Task("sentiment", "text", "word", users.TEXTS, users.TEXTS[2], users.build_texts, (size,), (texts,)),
            Task("speech", "second", "second", users.LISTENERS, users.LSTM, users.build_listener, (size, recording),
                 (*listening, Job(users.FIRST, 1))),
        )  # fmt: skip


QUICK = Plan(Size(True, 4, 3, 20, 1), (AS_IT_IS,), 2, 4, (Firing(0), Firing(6)), parts.QUICK_GRID, Effort(2, 2))


@dataclasses.dataclass
class Row:
    """One network at one job; times in seconds per sample, memory in bytes."""

    task: str
    job: str
    network: str
    processor: str
    threads: int
    items: int
    """Sentences, frames or texts per sample."""
    steps: int = 0
    """Tokens, frames or words per sample."""
    median: float | None = None
    first_quartile: float | None = None
    third_quartile: float | None = None
    samples: int = 0
    peak_memory: int | None = None
    """The memory of the network and the job, on one thread."""
    times_twin: float | None = None
    """The median of the twin divided by that of this network: its speed, in multiples of the twin's."""
    times_transformer: float | None = None
    skipped: str | None = None
    """The reason why there are no times."""


@dataclasses.dataclass
class RateRow:
    """Our translator in integers at one rate of spikes, on one thread; times in seconds per sample."""

    job: str
    processor: str
    firing: Firing
    rate: float
    """The share of the neurons' outputs that are not zero."""
    items: int
    median: float
    first_quartile: float
    third_quartile: float
    samples: int


# ---- Measuring ----


def measure_task(task: Task, processor: str, threads: Iterable[int], effort: Effort) -> list[Row]:
    """Measure every network of a task at every job."""
    rows, reasons, made = [], {}, {}
    arguments = task.build, task.networks, task.arguments, task.jobs[0]
    Alone(users.compile_kernels, *arguments, environment=PROCESSORS[processor]).close()
    with contextlib.ExitStack() as opened:
        for name in task.networks:
            try:
                made[name] = Alone(task.build, name, *task.arguments, environment=PROCESSORS[processor])
                opened.callback(made[name].close)
            except (Unavailable, NotInIntegers) as error:
                reasons[name] = str(error)
        # Later jobs need more memory than earlier ones, so that what a network keeps from those does not show.
        memory = {(name, job): user.peak_memory("work", job) for job in task.jobs for name, user in made.items()}
        for count in threads:
            for user in made.values():
                user.call("use_threads", count)
            for job in task.jobs:
                tell(f"{task.name}, {processor}, {count} threads, {job.name}")
                row = functools.partial(Row, task.name, job.name, processor=processor, threads=count, items=job.items)
                found = {name: row(name, skipped=reasons.get(name)) for name in task.networks}
                for name in made:
                    found[name].peak_memory = memory[name, job]
                measure_job(made, job, found, effort)
                compare(found, task.twin)
                rows += found.values()
    return rows


def measure_job(made: dict[str, Alone], job: Job, rows: dict[str, Row], effort: Effort) -> None:
    """Fill in the rows of the networks that could be made. Raises RuntimeError if they do different work."""
    for name, user in made.items():
        rows[name].steps = user.call("steps", job)
    if len({rows[name].steps for name in made}) > 1:
        raise RuntimeError(f"not the same work: {', '.join(f'{name} {rows[name].steps} steps' for name in made)}")
    calls = {name: functools.partial(user.call, "work", job) for name, user in made.items()}
    for name, taken in in_turn(calls, effort, CPU).items():
        row = rows[name]
        row.samples = len(taken)
        row.first_quartile, row.median, row.third_quartile = quartiles(taken)


def compare(rows: dict[str, Row], twin: str) -> None:
    """Fill in the ratios."""
    for row in rows.values():
        row.times_twin = ratio(rows[twin].median, row.median)
        row.times_transformer = ratio(rows[users.TRANSFORMER].median if users.TRANSFORMER in rows else None, row.median)


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def measure_rates(plan: Plan, sentences: list[str], processor: str) -> list[RateRow]:
    """Our translator in integers at each rate of spikes."""
    rows = []
    build = users.build_translator, users.OURS_INT8, plan.size, sentences
    with contextlib.closing(Alone(*build, environment=PROCESSORS[processor])) as ours:
        ours.call("use_threads", 1)
        rates = {firing: ours.call("spike_rate_at", firing) for firing in plan.firings}
        for job in plan.jobs():
            tell(f"rates of spikes, {processor}, {job.name}")
            calls = {firing: functools.partial(ours.call, "work_at", firing, job) for firing in plan.firings}
            for firing, taken in in_turn(calls, plan.effort, CPU).items():
                first, median, third = quartiles(taken)
                row = RateRow(job.name, processor, firing, rates[firing], job.items, median, first, third, len(taken))
                rows.append(row)
    return rows


def measure_parts(plan: Plan, sentences: list[str]) -> list[parts.Part]:
    """A step of our translator, part by part, for one and five hypotheses and for a batch."""
    one, beam = Job("", 1), Job("", 1, 1, 5)
    tell("parts of a step")
    with contextlib.closing(Alone(parts.Parts, plan.size, sentences, plan.effort.samples)) as found:
        return [part for job in (one, beam, plan.jobs()[-1]) for part in found.call("measure", job)]


def measure_products(plan: Plan, processor: str) -> tuple[list[parts.Product], parts.Fit]:
    tell(f"products of spikes, {processor}")
    with contextlib.closing(Alone(parts.Products, plan.grid, environment=PROCESSORS[processor])) as found:
        return found.call("measure")


def tell(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


# ---- The report ----


def milliseconds(row: Any, items: int = 1) -> list[str]:
    """Median and quartiles per item."""
    median, low, high = (report.short(1e3 * t / items) for t in (row.median, row.first_quartile, row.third_quartile))
    return [median, f"{low} to {high}"]


def optional(value: float | None) -> str:
    return "-" if value is None else report.short(value)


def task_table(rows: list[Row], task: Task) -> str:
    head = ["network", "job", "processor", "threads", f"{task.item}s/s"]
    head += [f"{task.step}s/s"] * (task.step != task.item)
    head += ["times the twin", "times CTranslate2", f"ms per {task.item}", "quartiles ms", "samples", "peak MiB"]
    lines = []
    for row in rows:
        if row.task != task.name or row.median is None:
            continue
        line = [row.network, row.job, row.processor, str(row.threads), report.short(row.items / row.median)]
        line += [report.short(row.steps / row.median)] * (task.step != task.item)
        line += [optional(row.times_twin), optional(row.times_transformer), *milliseconds(row, row.items)]
        lines.append([*line, str(row.samples), optional(ratio(row.peak_memory, 2**20))])
    return f"## {task.name.capitalize()}\n\n{report.table(head, lines)}"


def not_measured(rows: list[Row]) -> str:
    reasons = dict.fromkeys(f"- {row.task}, {row.network}: {row.skipped}." for row in rows if row.skipped)
    return "## Not measured\n\n" + ("\n".join(reasons) or "Nothing.")


def rate_table(rows: list[RateRow]) -> str:
    head = ["job", "processor", "threshold", "range", "spikes %", "sentences/s", "ms per sentence", "quartiles ms"]
    lines = []
    for row in rows:
        firing = [str(row.firing.threshold_levels), f"x {row.firing.wider:g}"]
        line = [row.job, row.processor, *firing, report.short(100 * row.rate), report.short(row.items / row.median)]
        lines.append(line + milliseconds(row, row.items))
    return "## Rates of spikes\n\nOurs in int8, one thread.\n\n" + report.table(head, lines)


def part_tables(found: list[parts.Part]) -> str:
    """One table for each precision: the parts, and a column for each number of rows."""
    texts = ["## A step, part by part", PARTS_NOTES]
    for precision in dict.fromkeys(part.precision for part in found):
        columns = {part.rows: {} for part in found if part.precision == precision}
        for part in found:
            if part.precision == precision:
                columns[part.rows][part.part] = part
        head = [precision, *(f"{rows} {'row' if rows == 1 else 'rows'}, quartiles" for rows in columns)]
        names = dict.fromkeys(name for column in columns.values() for name in column)
        texts.append(
            report.table(head, [[name, *(microseconds(c.get(name)) for c in columns.values())] for name in names])
        )
    return "\n\n".join(texts)


def microseconds(part: parts.Part | None) -> str:
    if part is None:
        return "-"
    median, low, high = (report.short(1e6 * t) for t in (part.median, part.first_quartile, part.third_quartile))
    return f"{median}, {low} to {high}"


def product_tables(found: dict[str, tuple[list[parts.Product], parts.Fit]]) -> str:
    """The constants, the crossings and all times, for each processor."""
    texts = ["## Products of spikes", PRODUCT_NOTES]
    for processor, (products, fit) in found.items():
        name, own = ("INTEGERS", integers.INTEGERS) if fit.integer_units else ("FLOATS", integers.FLOATS)
        constants = [
            ["EVENTS", *(f"{a:.2g}, {b:.2g}" for a, b in (fit.events, integers.EVENTS))],
            [name, *(f"{a:.2g}, {b:.2g}" for a, b in (fit.matrices, own))],
        ]
        groups: dict[tuple, list[parts.Product]] = {}
        for product in products:
            groups.setdefault((product.inputs, product.outputs, product.rows), []).append(product)
        crossings, times = [], []
        for (inputs, outputs, rows), group in groups.items():
            what = [f"{inputs} x {outputs}", str(rows)]
            crossings.append(
                [*what, percent(parts.crossing(group)), percent(parts.chosen_crossing(rows, fit.integer_units))]
            )
            for product in group:
                took = [report.short(1e6 * t) for t in (product.events, product.matrices)]
                times.append([*what, percent(product.rate), *took, "events" if product.by_events else "matrices"])
        texts += [
            f"### Processor {processor}",
            report.table(["constants, ns per weight", "measured here", "in zoo.engine.integers"], constants),
            report.table(["weight", "rows", "crossing at spikes %", "the engine's crossing %"], crossings),
            report.table(["weight", "rows", "spikes %", "events us", "matrices us", "chosen"], times),
        ]
    return "\n\n".join(texts)


def percent(rate: float | None) -> str:
    return "-" if rate is None else report.short(100 * rate)


class Results(NamedTuple):
    rows: list[Row]
    rates: list[RateRow]
    parts: list[parts.Part]
    products: dict[str, tuple[list[parts.Product], parts.Fit]]

    def figures(self) -> dict:
        products = {
            processor: {"products": [dataclasses.asdict(p) for p in found], "fit": dataclasses.asdict(fit)}
            for processor, (found, fit) in self.products.items()
        }
        lists = (self.rows, self.rates, self.parts)
        rows, rates, parts = ([dataclasses.asdict(row) for row in found] for found in lists)
        return {"rows": rows, "rates": rates, "parts": parts, "products": products}


def markdown(results: Results, where: dict, tasks: Iterable[Task], origin: dict[str, str]) -> str:
    tables = [task_table(results.rows, task) for task in tasks]
    tables += [not_measured(results.rows), rate_table(results.rates), part_tables(results.parts)]
    inputs = f"Sentences: {origin['sentences']}. Speech: {origin['speech']}."
    head = ["# Using the models", report.described(where), NOTES, inputs]
    return "\n\n".join([*head, *tables, product_tables(results.products)]) + "\n"


def run(
    quick: bool, threads: list[int], output: Path, data: Path | None = None, recording: Path | None = None
) -> Results:
    """Measure, print the report and save it with the figures."""
    for count in threads:
        report.use_threads(count)
    plan = QUICK if quick else Plan()
    sentences = sentences_of(data, plan)
    origin = {
        "sentences": "the first of Multi30k's val" if data else "made up",
        "speech": "the recording that was given" if recording else "made up, a voice without words",
    }
    tasks, rows = plan.tasks(sentences, recording), []
    for processor in plan.processors:
        for task in tasks:
            rows += measure_task(task, processor, threads, plan.effort)
    rates = [row for processor in plan.processors for row in measure_rates(plan, sentences, processor)]
    products = {processor: measure_products(plan, processor) for processor in plan.processors}
    results = Results(rows, rates, measure_parts(plan, sentences), products)
    where = report.environment(CPU, " and ".join(map(str, threads)))
    text = markdown(results, where, tasks, origin)
    report.save(output, report.stem("inference", CPU, quick), text, where | origin | results.figures())
    print(text)
    return results


def sentences_of(data: Path | None, plan: Plan) -> list[str]:
    """The first sentences of Multi30k's val, or made-up ones."""
    if data:
        return [german for german, _ in multi30k.read_split(data, "val")[: plan.together]]
    return users.made_up_sentences(users.translator(plan.size).tokenizer, plan.together)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="tiny networks; the figures mean nothing")] = False,
    threads: Annotated[list[int], typer.Option(help="processor threads; may be repeated")] = [1, 2],  # noqa: B006
    output: Annotated[Path, typer.Option(help="folder for table and figures")] = report.RESULTS,
    data: Annotated[Path | None, typer.Option(help="folder with the raw Multi30k files")] = None,
    recording: Annotated[Path | None, typer.Option(help="audio file of speech")] = None,
):
    """Measure using the models, in integers and in floats, beside networks without spikes.

    Without ``--data`` and ``--recording``, sentences and speech are made up.
    """
    run(quick, threads, output, data, recording)


def typer_app() -> typer.Typer:
    return report.application(main)


if __name__ == "__main__":
    typer_app()()

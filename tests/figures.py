"""The figures in the sentences of the documentation, from ``benchmarks/results`` and the cards of the models.

A page has an expression beside each: ``<!--=scan("torch loop, unbind")-->5.9<!--/-->`` (:mod:`tests.pages`).
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zoo
from recipes.report import NEEDED, needed

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
TRAINING = "forward with backward"
BEFORE = "before the training towards fewer spikes"
DENSE = "recurrent-gated LIF, 6-bit spikes (threshold levels 1, before the training towards fewer spikes)"
TAUGHT = "tuned, 30 % of the operations, 3 teachers"
TAUGHT_LONGER = f"{TAUGHT}, 16 epochs"
THREE_LEVELS = "recurrent-gated LIF, 6-bit spikes (dropout 0.2, full precision 0.5, threshold levels 3)"
BINARY = "input-gated LIF, binary spikes (full precision 0.5)"
OURS = "ours, int8"
COPY = "bytes alone (copy)"


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a benchmark's results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def one(found: list) -> Any:
    """The only element; ValueError if there are more, or none."""
    (only,) = found
    return only


def span(values: list[float], digits: int = 1) -> str:
    """The least and the greatest."""
    ends = [f"{end:.{digits}f}" for end in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def _scan(contender: str, column: str) -> float:
    return one(
        [
            row[column]
            for row in rows("scan-cpu")
            if (row["neuron"], row["contender"], row["mode"], row["shape"])
            == ("learnable-lif", contender, TRAINING, [100, 64, 1024])
        ]
    )


def scan(contender: str) -> str:
    """How many times as long as our learnable LIF it takes for ``[100, 64, 1024]``, forward and backward."""
    return f"{_scan(contender, 'ratio'):.1f}"


def scan_milliseconds() -> str:
    """The time of our learnable LIF."""
    return f"{_scan('ours, cpu', 'median') * 1e3:.0f}"


def _ratios(chosen: Callable[[dict], bool]) -> list[float]:
    return [row["ratio"] for row in rows("scan-cpu") if not row["skipped"] and chosen(row)]


def scans(contender: str) -> str:
    """The same over all shapes, forward alone and with backward."""
    return span(_ratios(lambda row: row["neuron"] == "learnable-lif" and row["contender"] == contender))


def least_of_others() -> str:
    """The least ratio of any other library or loop to a neuron that is not the learnable LIF."""
    ours = ("ours, cpu", "ours, torch", COPY)
    return f"{min(_ratios(lambda row: row['neuron'] != 'learnable-lif' and row['contender'] not in ours)):.1f}"


def integrator_at_4_steps() -> str:
    """How many times as long as additions in torch our integrator takes at 4 steps."""
    additions = _ratios(lambda r: (r["neuron"], r["contender"], r["shape"][0]) == ("integrator", "ours, torch", 4))
    return span([1 / ratio for ratio in additions])


def translation(job: str, network: str) -> str:
    """How many times as long as our translator with fused kernels it takes."""
    found = [row for row in rows("translation-cpu") if row["job"].startswith(job) and row["network"] == network]
    return f"{one(found)['ratio']:.2f}"


def _used(task: str, job: str, network: str, processor: str = "as it is") -> dict[str, Any]:
    wanted = task, job, network, processor, 1
    columns = "task", "job", "network", "processor", "threads"
    return one([row for row in rows("inference-cpu") if tuple(row[column] for column in columns) == wanted])


def times(task: str, job: str, network: str, processor: str = "as it is") -> str:
    """How many times as long as our model in integers a network takes, on one thread."""
    ours, other = (_used(task, job, name, processor) for name in (OURS, network))
    return "-" if other["skipped"] else f"{other['median'] / ours['median']:.2f}"


def milliseconds(task: str, job: str) -> str:
    """The time of our model in integers for one sentence, frame or second, on one thread."""
    found = _used(task, job, OURS)
    return f"{1e3 * found['median'] / found['items']:.1f}"


JOBS = {
    "a sentence alone, greedy": ("translation", "one at a time, greedy"),
    "a sentence alone, beam of 5": ("translation", "one at a time, beam of 5"),
    "one of 64 sentences, greedy": ("translation", "batch of 64, greedy"),
    "one of 64 sentences, beam of 5": ("translation", "batch of 64, beam of 5"),
    "a frame of a gesture": ("gestures", "frame by frame"),
    "a second of a recording": ("speech", "whole recording"),
    "a second of speech, in pieces": ("speech", "pieces of 90 ms"),
}
TWINS = {
    "translation": "LSTM twin",
    "gestures": "convolutional GRU twin",
    "speech": "LSTM twin",
}


def using() -> str:
    """A table of the times of using the models."""
    lines = ["| | ours, ms | ours in floats | twin | twin, torch's int8 | CTranslate2 |", "|---|" + "---:|" * 5]
    for what, (task, job) in JOBS.items():
        others = ["ours, float32", *(f"{TWINS[task]}, {precision}" for precision in ("float32", "int8"))]
        cells = [milliseconds(task, job), *(times(task, job, network) for network in others)]
        cells.append(times(task, job, "Transformer, CTranslate2, int8") if task == "translation" else "")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def sparse_spikes(task: str) -> str:
    """A table of the times of models of one size with more or fewer spikes, and of networks without spikes."""
    found = [row for row in rows("sparsity-cpu") if row["task"] == task and row["median"]]
    jobs = dict.fromkeys(row["job"] for row in found)
    lines = [f"| | spikes | {' | '.join(jobs)} |", "|---|---:|" + "---:|" * len(jobs)]
    for network in dict.fromkeys(row["network"] for row in found):
        own = {row["job"]: row for row in found if row["network"] == network}
        rate = next(iter(own.values()))["spike_rate"]
        cells = ["-" if rate is None else f"{100 * rate:.0f} %"]
        cells += [f"{1e3 * own[job]['median'] / own[job]['items']:.2f}" for job in jobs]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def reading_events() -> str:
    """How many times as long as ours SpikingJelly's reader of AEDAT 3.1 takes."""
    return f"{one([row['ratio'] for row in rows('events-cpu') if row['reader'].startswith('SpikingJelly')]):.0f}"


def plugged(whole_sequences: bool) -> str:
    """The time of the libraries' programs with our neuron in multiples of theirs, of those that run in one way."""
    whole = ("conv_fashion_mnist", "Speech Commands")
    found = [row for row in rows("plugging-in") if row["seconds"][0] and (row["after"] in whole) == whole_sequences]
    return span([statistics.median(ours / theirs for theirs, ours in zip(*row["seconds"])) for row in found], 2)


def programs() -> str:
    """How many of the libraries' programs ran."""
    return str(len([row for row in rows("plugging-in") if row["seconds"][0]]))


def differences() -> list[float]:
    """Of each program: the mean score with our neuron less that with theirs, in points, rounded to a tenth."""
    found = [row["scores"] for row in rows("plugging-in") if row["seconds"][0]]
    return [round(100 * (statistics.mean(ours) - statistics.mean(theirs)), 1) for theirs, ours in found]


def calibration_error() -> str:
    """That of the classifier of reviews on the test reviews."""
    found = zoo.info("lite-snn-imdb").metrics["calibration"]["rows"]
    return f"{one([row['calibration_error'] for row in found if row['name'] == 'the test reviews']):.3f}"


def score(model: str, column: str, row: str | None = None) -> str:
    """A score in a model's card, of the model itself or of another row."""
    return str(one([found[column] for found in zoo.info(model).metrics["results"] if found["name"] == (row or model)]))


def percent(model: str, column: str, row: str | None = None) -> str:
    """A share in a model's card, in percent."""
    return f"{100 * float(score(model, column, row)):.0f}"


def of_bits(model: str, column: str, name: str) -> str:
    """A score in a card's comparison of bits: of "1 bit", "3 bits" and so on."""
    return str(one([row[column] for row in zoo.info(model).metrics["bits"]["rows"] if row["name"] == name]))


def on_the_curve(model: str, column: str, name: str) -> str:
    """A figure in a card's curve of sparsity; shares in percent."""
    found = one([row[column] for row in zoo.info(model).metrics["sparsity"] if row["name"] == name])
    return f"{100 * found:.0f}" if column == "mean_spike_rate" else str(found)


def fewer(model: str, twin: str) -> str:
    """How many times as many multiplications the twin in a card needs."""
    return f"{_of_twin(model, twin) / _of_twin(model, model):.1f}"


def fewer_on_the_curve(model: str, name: str, twin: str) -> str:
    """The same for a point of the card's curve of sparsity."""
    points = {row["name"]: row.get(NEEDED) for row in zoo.info(model).metrics["sparsity"]}
    return f"{_of_twin(model, twin) / points[name]:.1f}"


def _of_twin(model: str, twin: str) -> int:
    """The multiplications of the only row of a card's costs whose name begins so."""
    rows = zoo.info(model).metrics["costs"]["rows"]
    return one([needed(row) for row in rows if row["name"].startswith(twin)])


def learned(surrogate: str) -> str:
    """From how many seeds a small network learned with a surrogate gradient, and of how many."""
    row = one([row for row in rows("surrogates") if row["surrogate"] == surrogate])
    return f"{row['learned']} of {len(row['accuracies'])}"

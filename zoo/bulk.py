"""Many inputs at once, by the ``map`` of Hugging Face ``datasets``: in order, in several processes, resumable.

::

    import datasets
    from zoo.bulk import answer_all

    rows = datasets.load_dataset("csv", data_files="reviews.csv", split="train")
    found = answer_all(rows, "lite-snn-imdb", "text", workers=4)
    found.to_csv("answers.csv")

``pip install "snn-zoo[bulk]"``.
"""

import functools
import hashlib
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from zoo import loading, tasks
from zoo.command.streaming import Answerer, Problem
from zoo.inputs.lines import Line
from zoo.options import whole_number

if TYPE_CHECKING:
    import datasets

COLUMNS = {"answer": "string", "score": "float64", "error": "string"}
"""The columns that are added, with the type of each."""
BATCH = 256
"""Rows that a worker gets at once, so that a model can sort them by length."""


def answer_all(
    rows: "datasets.Dataset",
    name: str,
    column: str,
    *,
    workers: int = 1,
    devices: Sequence[str] = ("cpu",),
    part: int = 10_000,
    revision: str | None = None,
    **options: Any,
) -> "datasets.Dataset":
    """``rows`` with what the model ``name`` answers to each input in ``column``, in the same order.

    An input is a text or, for events and speech, the path of a file. The new columns are ``answer``, a text or a label;
    ``score``, as the command ``snn-zoo`` gives it (the probability of a label, the mean log-probability of a
    translation's tokens, the mean probability of phones); and ``error``, which says why a row has no answer. Such a row
    does not affect the others. ``options`` are those of the model's method, such as ``beam_size``.

    Each of the ``workers`` is a process with one thread and its own copy of the model, on one of the ``devices`` in
    turn. On the CPU, give as many workers as there are cores. With GPUs, give one worker and one device for each
    (``devices=["cuda:0", "cuda:1"]``), and first call ``multiprocess.set_start_method("spawn")``, because a process
    that was forked cannot use CUDA. One worker is this process, with its own number of threads.

    The answers are kept in the cache of ``datasets``, ``part`` rows at a time, if the rows come from files. The same
    call after an interruption takes the finished parts from there. They are found by the rows, the SHA-256 of the
    model's files, the options and the release of this package: no answer of another model is taken for one of this.

    Raises TypeError for rows that are no ``datasets.Dataset``; ValueError for a column that is missing, one that would
    be replaced, an unusable device and a wrong option; ``zoo.errors.UnknownNameError`` for an unknown model;
    ImportError without ``datasets``.
    """
    datasets = _datasets()
    if not isinstance(rows, datasets.Dataset):
        raise TypeError(
            f"rows must be a datasets.Dataset, such as one split of a DatasetDict; got {type(rows).__name__}. A list "
            "becomes one by datasets.Dataset.from_dict({...}), a stream by loading it without streaming=True"
        )
    whole_number("workers", workers, 1)
    whole_number("part", part, 1)
    if isinstance(devices, str) or not devices:
        raise ValueError(f'devices must be a list of names, such as ["cuda:0", "cuda:1"]; got {devices!r}')
    for device in devices:
        loading.usable_device(device)
    if column not in rows.column_names:
        raise ValueError(f"the rows have no column {column!r}; they have {', '.join(rows.column_names)}")
    if taken := [new for new in COLUMNS if new in rows.column_names]:
        raise ValueError(f"the rows have a column {taken[0]!r} already; rename it")
    _digest(name, revision)  # an error in the name is one even if there are no rows
    for option, value in options.items():
        if not isinstance(value, Hashable):
            raise ValueError(f"{option} must be one value, the same for all rows; got {value!r}")
    features = datasets.Features(rows.features | {new: datasets.Value(kind) for new, kind in COLUMNS.items()})
    if not len(rows):
        return datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    found = [
        rows.select(range(first, min(first + part, len(rows)))).map(
            Asked(name, column, first, revision, tuple(devices), options),
            with_indices=True,
            with_rank=True,
            batched=True,
            batch_size=BATCH,
            features=features,
            num_proc=workers if workers > 1 else None,
            desc=f"rows from {first}",
        )
        for first in range(0, len(rows), part)
    ]
    return datasets.concatenate_datasets(found)


class Asked:
    """What ``map`` calls in each worker. All that the answers depend on is in it, because ``map`` finds them by it."""

    def __init__(
        self,
        name: str,
        column: str,
        first: int,
        revision: str | None,
        devices: tuple[str, ...],
        options: dict[str, Any],
    ):
        self.name, self.column, self.first, self.revision, self.devices = name, column, first, revision, devices
        self.options, self.version = tuple(sorted(options.items())), zoo.__version__
        self.digest = _digest(name, revision)
        self.answerer("cpu")  # an error is raised here, and not in a worker

    def answerer(self, device: str) -> Answerer:
        """The model of this process."""
        return _answerer(self.name, self.revision, self.digest, device, self.options)

    def __call__(self, batch: dict[str, list], places: list[int], rank: int | None) -> dict[str, list]:
        _one_thread_in_a_worker()
        answerer = self.answerer(self.devices[(rank or 0) % len(self.devices)])
        lines = [_line(self.first + place, given) for place, given in zip(places, batch[self.column])]
        found: list[Any] = []
        for start in range(0, len(lines), answerer.group):
            found += answerer(lines[start : start + answerer.group])
        columns = zip(*map(_columns, found))
        return dict(zip(COLUMNS, map(list, columns)))


@functools.lru_cache(maxsize=1)
def _answerer(name: str, revision: str | None, digest: str, device: str, options: tuple) -> Answerer:
    """The model, loaded once per process, and how it is asked."""
    if _digest(name, revision) != digest:
        raise ValueError(f"the model {name} was changed while it answered")
    model = zoo.load(name, revision=revision, device=device)
    task = tasks.named(model.task)
    return Answerer(model, task.scored or task.method, task, dict(options), lambda number: f"row {number}")


def _digest(name: str, revision: str | None) -> str:
    """A digest of a model: its config has the SHA-256 of each of its files."""
    config = zoo.info(name, revision=revision).config
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _one_thread_in_a_worker() -> None:
    import multiprocess
    import torch

    if multiprocess.parent_process() is not None:
        torch.set_num_threads(1)


def _line(number: int, given: Any) -> Line:
    if isinstance(given, (str, Path)):
        return Line(number, str(given), None)
    return Line(number, None, f"row {number} has no text; got {given!r}")


def _columns(found: Any) -> tuple[str | None, float | None, str | None]:
    """An answer, its score and the reason why there is none."""
    if isinstance(found, Problem):
        return None, None, found.message
    if isinstance(found, str):
        return found, None, None
    first, second = found[:2]
    return first, float(second[first] if isinstance(second, dict) else second), None


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError('answering in bulk needs datasets; install it with: pip install "snn-zoo[bulk]"') from error
    return datasets

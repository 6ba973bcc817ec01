"""Event files: our reader of AEDAT 3.1 beside SpikingJelly's, in million events per second.

::

    python -m benchmarks.events               # about a minute; pip install "snn-zoo[train]" before
    python -m benchmarks.events --quick       # a small file, to see that everything runs

The benchmark writes the file: random events in packets of 4,096, as in the recordings of DVS128 Gesture. The readers
take turns; a ratio is a reader's median time divided by that of ours. All must return the same events.
"""

import ast
import importlib.util
import random
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks import report
from zoo.inputs.events import FIELDS, Binning, Events, bin_events, read_aedat, write_aedat

OURS = "ours"


@dataclass
class Row:
    """What was measured for one reader; times in seconds per file."""

    reader: str
    median: float
    samples: int
    million_events_a_second: float
    ratio: float


def recording(count: int) -> Events:
    """Random events of a DVS128, 60,000 per second."""
    draw = np.random.default_rng(0)
    t = np.cumsum(draw.integers(0, 34, count))
    x, y = draw.integers(0, 128, (2, count), dtype=np.int16)
    return Events(t, x, y, draw.random(count) < 0.5)


def spikingjelly_reader() -> Callable[[Path], dict[str, np.ndarray]]:
    """``load_aedat_v3`` of the installed SpikingJelly, taken out of its module.

    The module itself imports torchvision, which is not built for every torch.
    """
    package = Path(importlib.util.find_spec("spikingjelly").origin).parent
    module = package / "datasets" / "utils.py"
    module = module if module.exists() else package / "datasets" / "__init__.py"
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "load_aedat_v3":
            node.decorator_list, node.returns = [], None
            for argument in node.args.args:
                argument.annotation = None
            names = {"np": np, "struct": struct}
            exec(compile(ast.Module([node], type_ignores=[]), str(module), "exec"), names)
            return names["load_aedat_v3"]
    raise ImportError(f"{module} has no load_aedat_v3; this benchmark knows SpikingJelly 0.0.0.0.14 to 2.0.0")


def measure(path: Path, events: Events, rounds: int) -> list[Row]:
    """Each reader's median time over ``rounds``, in a new random order per round; AssertionError if events differ."""
    readers = {
        OURS: read_aedat,
        "ours, with bins of 50 ms": lambda file: bin_events(read_aedat(file), Binning()),
        "SpikingJelly's load_aedat_v3": spikingjelly_reader(),
    }
    for reader in (OURS, "SpikingJelly's load_aedat_v3"):
        found = readers[reader](path)
        for field in FIELDS:
            column = getattr(found, field) if isinstance(found, Events) else found[field]
            assert np.array_equal(column, getattr(events, field)), f"{reader} reads another {field}"
    times: dict[str, list[float]] = {reader: [] for reader in readers}
    for _ in range(rounds):
        for reader in random.sample(list(readers), len(readers)):
            started = time.perf_counter()
            readers[reader](path)
            times[reader].append(time.perf_counter() - started)
    medians = {reader: statistics.median(values) for reader, values in times.items()}
    return [
        Row(reader, median, rounds, len(events) / median / 1e6, median / medians[OURS])
        for reader, median in medians.items()
    ]


def markdown(rows: list[Row], where: dict, count: int) -> str:
    head = ["reader", "million events per second", "times ours", "median s"]
    lines = [
        [row.reader, report.short(row.million_events_a_second), report.short(row.ratio), report.short(row.median)]
        for row in rows
    ]
    notes = (
        f"One file of {count:,} events; the readers took turns, {rows[0].samples} times each. 4 means four times ours."
    )
    return "\n\n".join(["# Event files", report.described(where), notes, report.table(head, lines)]) + "\n"


def run(quick: bool, output: Path) -> list[Row]:
    """Measure, print the report and save it with the figures; returns the rows."""
    count, rounds = (20_000, 2) if quick else (1_000_000, 7)
    events = recording(count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.aedat"
        write_aedat(path, events)
        rows = measure(path, events, rounds)
    device = torch.device("cpu")
    where, name = report.environment(device, threads=1), report.stem("events", device, quick)
    text = markdown(rows, where, count)
    report.save(output, name, text, where | {"events": count, "rows": [asdict(row) for row in rows]})
    print(text)
    return rows


def main(
    quick: Annotated[bool, typer.Option("--quick", help="a small file; the figures mean nothing")] = False,
    output: Annotated[Path, typer.Option(help="folder for table and figures")] = report.RESULTS,
):
    """Time the readers of event files."""
    run(quick, output)


if __name__ == "__main__":
    typer.run(main)

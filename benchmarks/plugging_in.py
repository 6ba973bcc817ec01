"""Programs of snnTorch and SpikingJelly with the library's neuron and with ours: lines changed, scores and time.

::

    python -m benchmarks.plugging_in --n-mnist N_MNIST

Each program of :mod:`benchmarks.peers` runs as it is, and again with one line replaced: the import of its neuron. Both
run in turn, once per seed, in one process. The time is the processor's, of the whole program, training and test. The
data of most comes with a library or is made; the program on event recordings needs the folder of a sample of N-MNIST,
as :mod:`recipes.n_mnist` reads it, and is left out without one.
"""

import difflib
import statistics
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from benchmarks import report

PEERS = Path(__file__).with_name("peers")


class Program(NamedTuple):
    """A program, the line of it that is replaced, and the score of one that learns nothing."""

    name: str
    after: str
    theirs: str
    ours: str
    chance: float = 0.1
    needs: str | None = None
    """The option that names the folder of its data, if that does not come with a library."""

    @property
    def peer(self) -> str:
        return self.name.split("_")[0]

    def text(self, ours: bool) -> str:
        """The source, with the library's neuron or with ours. Raises ValueError unless the line occurs once."""
        text = (PEERS / f"{self.name}.py").read_text(encoding="utf-8")
        lines = text.splitlines()
        if lines.count(self.theirs) != 1:
            raise ValueError(f"{self.name}.py has the line {self.theirs!r} {lines.count(self.theirs)} times, not once")
        return "\n".join(self.ours if ours and line == self.theirs else line for line in lines)

    def lines_changed(self) -> int:
        """The lines of ours that are not in theirs."""
        changes = difflib.ndiff(self.text(False).splitlines(), self.text(True).splitlines())
        return sum(line.startswith("+ ") for line in changes)

    def run(self, ours: bool, seed: int, *folder: Path) -> float:
        """The score after training with this seed, on the data in ``folder`` if it ``needs`` one."""
        names: dict = {"__name__": self.name}
        exec(compile(self.text(ours), f"{self.name}.py", "exec"), names)
        return names["main"](seed, *folder)


def _snntorch(name: str, after: str, **options) -> Program:
    lines = "from snntorch import Leaky", "from neurons.snntorch import LearnableLIF as Leaky"
    return Program(f"snntorch_{name}", after, *lines, **options)


def _spikingjelly(name: str, after: str, node: str, **options) -> Program:
    theirs = f"from spikingjelly.activation_based.neuron import {node}"
    ours = f"from neurons.spikingjelly import LearnableLIFNode as {node}"
    return Program(f"spikingjelly_{name}", after, theirs, ours, **options)


PROGRAMS = (
    _snntorch("explicit", "tutorials 3 and 5"),
    _snntorch("convolution", "tutorial 6"),
    _snntorch("regression", "first regression (explained variance)", chance=0.0),
    _snntorch("membrane_targets", "second regression"),
    _snntorch("events", "tutorial 7 (N-MNIST)", needs="n_mnist"),
    _spikingjelly("fully_connected", "lif_fc_mnist", "LIFNode"),
    _spikingjelly("convolution", "conv_fashion_mnist", "IFNode"),
    _spikingjelly("sequential", "rsnn_sequential_fmnist", "IFNode"),
    _spikingjelly("speech", "Speech Commands", "LIFNode", chance=1 / 3),
)


class Row(NamedTuple):
    """The figures of one program: scores and seconds of theirs and of ours, one per seed."""

    peer: str
    after: str
    lines_changed: int
    chance: float
    scores: tuple[list[float], list[float]]
    seconds: tuple[list[float], list[float]]
    skipped: str | None = None
    """Why it did not run."""


def measure(program: Program, seeds: int, folders: dict[str, Path | None]) -> Row:
    """Run both, in turn and in changing order, for each seed, if the folder is given that the program needs."""
    row = Row(program.peer, program.after, program.lines_changed(), program.chance, ([], []), ([], []))
    folder = [folders[program.needs]] if program.needs else []
    if None in folder:
        return row._replace(skipped=f"no folder was given by --{program.needs.replace('_', '-')}")
    for seed in range(seeds):
        for ours in (False, True) if seed % 2 else (True, False):
            start = time.process_time()
            row.scores[ours].append(program.run(ours, seed, *folder))
            row.seconds[ours].append(time.process_time() - start)
    return row


def described(rows: list[Row], where: dict) -> str:
    """The results as Markdown."""
    head = ["after", "lines changed", "score, theirs", "score, ours", "chance", "time, ours / theirs"]
    parts = [
        "# Plugging our neurons into the libraries' own programs",
        "`python -m benchmarks.plugging_in --n-mnist N_MNIST`. The scores are accuracies on test data, one per seed; "
        "that of the regression is the explained variance. The time is the median ratio of processor time.",
        report.described(where),
        report.table(head, [_cells(row) for row in rows]),
        *(f"Not run: {row.peer}: {row.after}, because {row.skipped}." for row in rows if row.skipped),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> list[str]:
    """A line of the table."""
    if row.skipped:
        scores, ratio = ["not run", "not run"], "-"
    else:
        scores = [", ".join(f"{score:.3f}" for score in found) for found in row.scores]
        ratio = report.short(statistics.median(ours / theirs for theirs, ours in zip(*row.seconds)))
    return [f"{row.peer}: {row.after}", str(row.lines_changed), *scores, f"{row.chance:.2f}", ratio]


def main(
    seeds: Annotated[int, typer.Option(min=1, help="trainings of each")] = 3,
    threads: Annotated[int | None, typer.Option(help="threads; one per core if not given")] = None,
    n_mnist: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="folder of N-MNIST's train.npz and test.npz")
    ] = None,
    output: Annotated[Path, typer.Option(help="folder for the results")] = report.RESULTS,
) -> None:
    """Run each program with the library's neuron and with ours, and write the table."""
    where = report.environment(report.device(), report.use_threads(threads))
    PROGRAMS[0].run(True, 0)  # whatever is compiled or imported once
    rows = []
    for program in PROGRAMS:
        rows.append(measure(program, seeds, {"n_mnist": n_mnist}))
        print(program.name, rows[-1].skipped or rows[-1].scores, flush=True)
    report.save(output, "plugging-in", described(rows, where), {**where, "rows": [row._asdict() for row in rows]})


if __name__ == "__main__":
    report.application(main)()

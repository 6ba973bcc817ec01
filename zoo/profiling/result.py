"""The result of a profile: one row per layer, totals, a table, JSON, comparisons and a drawing."""

import io
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from zoo.profiling.counts import ENERGY_SOURCE, SPIKES_IN_INT8, Counts
from zoo.profiling.ledger import Row

CONVENTIONS = (
    "A product of matrices is multiply-accumulates; a bias is an addition more; a division is a multiplication.",
    "Spikes are worked off one by one where they meet weights: a zero costs nothing, a binary spike an addition for "
    "each weight, a spike of b > 2 bits a multiplication by a small integer as well (or b - 2 further additions, by "
    "shift and add).",
    "The constant scale of multi-bit spikes is taken to be part of the weights around them.",
    "Not counted: comparisons, rounding, look-ups, moving of data, arithmetic on whole numbers; functions are listed.",
    "Memory for state is that of neurons and recurrent layers, not of buffers that a network hands along.",
)


@dataclass
class Profile:
    """The cost of ``inputs`` calls of one model. Counts are exact totals over them; the table shows means."""

    name: str
    inputs: int
    rows: list[Row]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    @property
    def state_bytes(self) -> int:
        """Memory for the state of one sample, in bytes."""
        return sum(row.state_bytes or 0 for row in self.rows)

    @property
    def counts(self) -> Counts:
        """The counts of all layers and all inputs."""
        total = Counts()
        for row in self.rows:
            total += row.counts
        return total

    @property
    def spike_rate(self) -> float | None:
        """The share of non-zero outputs over all neurons; None for a network without spikes."""
        return Row("", "", levels=sum((row.levels for row in self.rows), Counter())).spike_rate

    def energy(self, arithmetic: str = "float32") -> float:
        """Estimated energy of the arithmetic of one input, in picojoules (:meth:`Counts.energy`)."""
        return self.counts.energy(arithmetic) / self.inputs

    def compare(self, other: "Profile") -> list[str]:
        """Sentences that compare this model with ``other``, per input."""
        pair = self, other
        both = [profile.counts.all_multiplications / profile.inputs for profile in pair]
        reals = [profile.counts.multiplications / profile.inputs for profile in pair]
        by_zero = [profile.counts.multiplications_by_zero / profile.inputs for profile in pair]
        skipped = [count - zero for count, zero in zip(both, by_zero)]
        float32, int32 = ([profile.energy(kind) for profile in pair] for kind in ("float32", "int32"))
        as_run = [profile.energy(SPIKES_IN_INT8) for profile in pair]
        return [
            f"{self.name}: {_times(both)} multiplications than {other.name} ({_short(both[0])} against "
            f"{_short(both[1])} per input; {_short(both[0] - reals[0])} of the former are by small integers)",
            f"multiplications of two real numbers alone: {_times(reals)} than {other.name}",
            f"if both skipped multiplications by an activation that is zero: {_times(skipped)} than {other.name}",
            f"energy of the arithmetic, an estimate: {_times(float32, 'less')} in float32, "
            f"{_times(int32, 'less')} in int32 with shift and add, {_times(as_run, 'less')} with products of spikes in "
            "int8 and all else in float32",
        ]

    def card_row(self) -> dict[str, float | str | None]:
        """Means per input, as a row of the table of costs in a model's card."""
        counts, rate = self.counts, self.spike_rate
        return {
            "name": self.name,
            "multiplications of two real numbers": round(counts.multiplications / self.inputs),
            "multiplications by small integers": round(counts.integer_multiplications / self.inputs),
            "multiplications by a zero activation": round(counts.multiplications_by_zero / self.inputs),
            "additions": round(counts.additions / self.inputs),
            "further additions by shift and add": round(counts.shift_additions / self.inputs),
            "spike rate": None if rate is None else round(rate, 4),
            "state, bytes": self.state_bytes,
            "estimated_energy in float32, nJ": round(self.energy() / 1000, 1),
            "estimated_energy in int32, nJ": round(self.energy("int32") / 1000, 1),
            "estimated_energy with spikes in int8, nJ": round(self.energy(SPIKES_IN_INT8) / 1000, 1),
        }

    def table(self, width: int = 80) -> Table:
        """A table for a terminal ``width`` characters wide, one row per layer that costs anything.

        The most important columns come first, others if there is room. Print it with ``rich.print``.
        """
        shown = [row for row in self.rows if row.parameters or row.levels or row.counts != Counts()]
        labels = _indented([row.name for row in shown])
        room = (width - max(map(len, [*labels, "total"])) - 3) // COLUMN_WIDTH
        most = sorted(_COLUMNS, key=_PRIORITY.index)[: max(room, FEWEST_COLUMNS)]
        columns = [column for column in _COLUMNS if column in most]
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 0, 0, 1),
            title=f"{self.name}: mean of {self.inputs} {'input' if self.inputs == 1 else 'inputs'}",
            title_justify="left",
            caption=self._caption([column for column in _COLUMNS if column not in most]),
            caption_justify="left",
        )
        table.add_column("layer", overflow="fold")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True, min_width=COLUMN_WIDTH - 2)
        for label, row in zip(labels, shown):
            table.add_row(label, *self._cells(row, columns))
        table.add_section()
        total = Row("", "", self.parameters, self.bytes, self.counts, self.state_bytes)
        total.levels = sum((row.levels for row in self.rows), Counter())
        table.add_row("total", *self._cells(total, columns), style="bold")
        return table

    def _cells(self, row: Row, columns: list[str]) -> list[str]:
        counts, state = row.counts, row.state_bytes
        cells = {
            "param-\neters": _short(row.parameters),
            "dense\nMACs": _short(counts.dense_macs / self.inputs),
            "real\nmult.": _short(counts.multiplications / self.inputs),
            "level\nmult.": _short(counts.integer_multiplications / self.inputs),
            "addi-\ntions": _short(counts.additions / self.inputs),
            "shift\nadd.": _short(counts.shift_additions / self.inputs),
            "spikes\n%": "" if row.spike_rate is None else f"{100 * row.spike_rate:.1f}",
            "state\nbytes": "" if state is None else _short(state),
            "nJ\n(est.)": _short(counts.energy() / self.inputs / 1000),
        }
        return ["-" if cells[column] == "0" else cells[column] for column in columns]

    def _caption(self, left_out: list[str]) -> str:
        functions = ", ".join(
            f"{name} {_short(count / self.inputs)}" for name, count in self.counts.functions.most_common()
        )
        lines = [
            f"Weights and buffers: {self.bytes / 2**20:.1f} MiB; state: {_short(self.state_bytes)} bytes. Functions "
            f"evaluated, not counted: {functions or 'none'}.",
            "Level mult.: by small integers, the levels of spikes. Spikes %: outputs that are not zero.",
            *CONVENTIONS,
            f"Energy is an estimate of the arithmetic alone, in float32 ({_short(self.energy('int32') / 1000)} nJ in "
            f"int32, {_short(self.energy(SPIKES_IN_INT8) / 1000)} with spikes in int8). {ENERGY_SOURCE}.",
        ]
        if left_out:
            names = ", ".join(column.replace("-\n", "").replace("\n", " ") for column in left_out)
            lines.append(f"A wider terminal shows {names} too, and JSON everything.")
        return "\n".join(lines)

    def __str__(self) -> str:
        width = shutil.get_terminal_size().columns
        text = io.StringIO()
        Console(file=text, width=width, color_system=None).print(self.table(width))
        return text.getvalue()

    def to_json(self) -> str:
        """All but the raster, as JSON; counts are totals over ``inputs``."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)

    def as_dict(self) -> dict:
        """The content of :meth:`to_json`, as a dict."""
        return {
            "name": self.name,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "state_bytes": self.state_bytes,
            "spike_rate": self.spike_rate,
            "counts": self.counts.as_dict(),
            "estimated_energy_pJ_per_input": {kind: self.energy(kind) for kind in ("float32", "int32", SPIKES_IN_INT8)},
            "energy_source": ENERGY_SOURCE,
            "conventions": list(CONVENTIONS),
            "layers": [row.as_dict() for row in self.rows],
        }

    def plot(self, path: str | Path) -> None:
        """Draw the spikes of the first input, the spike rate of each layer, and its levels.

        Raises ValueError for a model without spikes, ImportError with the install command if matplotlib is missing.
        """
        from zoo.profiling.drawing import draw

        draw(self.name, self.inputs, self.rows, path)


COLUMN_WIDTH = 8
FEWEST_COLUMNS = 4
_COLUMNS = [
    "param-\neters",
    "dense\nMACs",
    "real\nmult.",
    "level\nmult.",
    "addi-\ntions",
    "shift\nadd.",
    "spikes\n%",
    "state\nbytes",
    "nJ\n(est.)",
]
_PRIORITY = [_COLUMNS[place] for place in (2, 3, 6, 8, 4, 0, 1, 7, 5)]
"""The order in which columns are shown if there is not room for all."""


def _indented(names: list[str]) -> list[str]:
    """The names of layers, each indented under the layer that contains it and without that layer's name."""
    labels, above = [], list[str]()
    for name in names:
        while above and not name.startswith(above[-1] + "."):
            above.pop()
        labels.append("  " * len(above) + (name[len(above[-1]) + 1 :] if above else name))
        above.append(name)
    return labels


def _times(pair: list[float], word: str = "fewer") -> str:
    mine, theirs = pair
    if mine == theirs:
        return f"1.00 times {word}"
    if not mine or not theirs:
        return f"all {word}" if not mine else "all more"
    ratio = theirs / mine
    return f"{ratio:.2f} times {word}" if ratio >= 1 else f"{1 / ratio:.2f} times more"


def _short(count: float) -> str:
    """A count in a few characters: 812, 4.07k, 12.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * limit:  # numbers that round up to the limit
            return f"{count / limit:.3g}{unit}"
    return f"{count:.3g}" if count != int(count) else str(int(count))

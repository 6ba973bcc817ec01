"""Scans over sequences: ours beside loops in torch, snnTorch, SpikingJelly and, for recurrent layers, LSTM and GRU.

::

    python -m benchmarks.scan                 # about ten minutes on two cores; pip install "snn-zoo[train]" before
    python -m benchmarks.scan --quick         # tiny shapes, to see that everything runs

It runs on the GPU if torch sees one; ``CUDA_VISIBLE_DEVICES= python -m benchmarks.scan`` stays on the CPU. The
folder named in ``SPIKINGJELLY_14`` (``pip install --no-deps --target FOLDER spikingjelly==0.0.0.0.14``) adds that
release's CuPy kernels on a GPU. Tables, a plot and all figures go to ``benchmarks/results``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import report
from benchmarks.contenders import BYTES_ALONE, OURS, Family, ask_for_triton, families
from benchmarks.measure import AGREEMENT, MODES, Effort, Results, Row, Shape, shape_of

BATCH = 64
QUICK = Effort(samples=3, fewest=2, sample_seconds=0, seconds=0.05)
QUICK_SIZES = {"steps": (4, 16), "widths": (16,)}
NOTES = f"""\
A call takes a sequence `[T, B, N]` in float32 from an initial state of zeros; backward gives the gradients of the
input and of all parameters. The contenders of a table ran in turn, in a new random order each round. A ratio is the
median time of a contender over that of ours in the first row: 4 means that ours is four times as fast. A sample begins
with a call that is not timed, so that each contender is in a steady state of its own. "{BYTES_ALONE}"
copies as many bytes as a scan has to read and write. The contenders that compute the same function gave the same
outputs, and gradients where they have our surrogate gradient, within {AGREEMENT:g} of the largest; the others compute
a function of their own (snnTorch's Leaky and Synaptic reset one step later, SpikingJelly's ILIFNode fires counts).
Recurrent layers include the product of their input; of theirs the outputs of the first steps are compared, as small
differences grow. One sample means that a call was too slow for more, and the first is what stands. cuDNN may use
TF32, torch's default; everything else is float32.
Memory is the most in use during a call above what was in use before: on a GPU torch's, on the CPU the process's
resident memory as Linux counts it, to about a MiB."""


def shapes(family: Family, device: torch.device, quick: bool) -> Iterator[Shape]:
    """The shapes that a family is measured on, from small to large."""
    sizes = QUICK_SIZES if quick else {"steps": family.steps, "widths": family.widths}
    for width in sizes["widths"]:
        for steps in sizes["steps"]:
            yield shape_of(steps, 4 if quick else BATCH, width, device)


def measure(device: torch.device, quick: bool) -> Results:
    """Measure everything; print one line per row as soon as it is measured."""
    if device.type == "cuda":
        ask_for_triton()
    results = Results(device, QUICK if quick else Effort())
    compared = families(device.type)
    results.warm_up(compared)
    for family in compared:
        for shape in shapes(family, device, quick):
            for row in results.measure(family, shape):
                found = row.skipped or f"{report.short(1e3 * row.median)} ms"
                print(f"{family.neuron} {shape} {row.mode}: {row.contender}: {found}", file=sys.stderr, flush=True)
    return results


# ---- Tables ----


def ratio_table(rows: list[Row]) -> str:
    """Ratios of one neuron in one mode: one row per contender, one column per shape."""
    by_place = {(row.contender, row.shape): row for row in rows}
    contenders, sizes = (list(dict.fromkeys(key[i] for key in by_place)) for i in (0, 1))
    lines = []
    for contender in contenders:
        found = [by_place[contender, shape] for shape in sizes]
        lines.append([contender, *("-" if row.ratio is None else report.short(row.ratio) for row in found)])
    return report.table(["times ours", *map(str, sizes)], lines)


def all_figures(rows: list[Row]) -> str:
    """A table with all that was measured, one line per row."""
    lines = []
    for row in rows:
        if row.median is None:
            continue
        median, low, high = (report.short(1e3 * t) for t in (row.median, row.first_quartile, row.third_quartile))
        memory = "-" if row.peak_memory is None else f"{row.peak_memory / 2**20:.0f}"
        ratio = "-" if row.ratio is None else report.short(row.ratio)
        lines.append([row.contender, row.neuron, str(row.shape), row.mode, median, f"{low} to {high}"])
        lines[-1] += [str(row.samples), ratio, memory]
    head = ["contender", "beside", "shape", "mode", "median ms", "quartiles ms", "samples", "times ours", "MiB"]
    return report.table(head, lines)


def not_measured(rows: list[Row]) -> str:
    lines = [f"- {r.contender}, beside {r.neuron}, {r.mode}, {r.shape}: {r.skipped}." for r in rows if r.skipped]
    return "\n".join(lines) or "Everything was."


def markdown(rows: list[Row], where: dict) -> str:
    """The whole report."""
    parts = ["# Scans", report.described(where), NOTES]
    bandwidth = copy_bandwidth(rows)
    parts.append(f"Fastest copy seen: {report.short(bandwidth / 1e9)} GB/s, read and written bytes together.")
    for mode in MODES:
        parts.append(f"## Ratios, {mode}")
        for neuron in dict.fromkeys(row.neuron for row in rows):
            parts.append(f"### {neuron}")
            parts.append(ratio_table([row for row in rows if (row.neuron, row.mode) == (neuron, mode)]))
    parts += ["## Not measured", not_measured(rows), "## All figures", all_figures(rows)]
    return "\n\n".join(parts) + "\n"


def copy_bandwidth(rows: list[Row]) -> float:
    """Bytes per second of the fastest copy."""
    inputs = {family.neuron: family.inputs for family in families("cpu")}
    rates = []
    for row in rows:
        if row.contender == BYTES_ALONE and row.median:
            numbers = inputs[row.neuron] + 1 if row.mode == MODES[0] else 3 * inputs[row.neuron] + 2
            rates.append(4 * numbers * row.shape.elements / row.median)
    return max(rates)


def plot(rows: list[Row], where: dict, path: Path) -> None:
    """Plot nanoseconds per output element over T: one row of panels per neuron, one column per mode and width.

    The time per element is constant if the time is proportional to T, and it does not change with the batch.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(row.neuron for row in rows))
    columns = [(mode, width) for mode in MODES for width in sorted({row.shape.width for row in rows})]
    size = {"figsize": (3.2 * len(columns) + 3.5, 2.9 * len(kinds)), "layout": "constrained"}
    figure, panels = pyplot.subplots(len(kinds), len(columns) + 1, squeeze=False, **size)
    for (*panel_row, beside), neuron in zip(panels, kinds):
        lines = {}
        for panel, (mode, width) in zip(panel_row, columns):
            drawn = draw_panel(panel, [r for r in rows if (r.neuron, r.mode, r.shape.width) == (neuron, mode, width)])
            panel.set_title(f"{neuron}, N = {width}\n{mode}", fontsize="small")
            panel.set_visible(bool(drawn))
            lines |= drawn
        beside.axis("off")
        beside.legend(lines.values(), lines.keys(), loc="center left", fontsize="small")
    figure.suptitle(f"{where['device']}, {where['threads']} threads: nanoseconds per element over T")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def draw_panel(panel, rows: list[Row]) -> dict:
    """Medians as lines, quartiles as bands; returns the lines by contender."""
    lines = {}
    panel.set(xscale="log", yscale="log")
    for number, contender in enumerate(dict.fromkeys(row.contender for row in rows)):
        found = [row for row in rows if row.contender == contender and row.median is not None]
        steps = [row.shape.steps for row in found]
        median, low, high = (
            [1e9 * getattr(row, name) / row.shape.elements for row in found]
            for name in ("median", "first_quartile", "third_quartile")
        )
        style = "-" if contender.startswith(OURS) else ":" if contender == BYTES_ALONE else "--"
        style = {"linestyle": style, "marker": ".", "color": f"C{number}", "label": contender}
        (lines[contender],) = panel.plot(steps, median, **style)
        panel.fill_between(steps, low, high, color=f"C{number}", alpha=0.2)
    ticks = sorted({row.shape.steps for row in rows})
    panel.set_xticks(ticks, map(str, ticks))
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    return lines


# ---- The command ----


def run(quick: bool, threads: int | None, output: Path) -> list[Row]:
    """Measure, print the report, and save it with the figures and the plot; returns the rows."""
    threads = report.use_threads(threads)
    device = report.device()
    where = report.environment(device, threads)
    rows = measure(device, quick).rows
    text, name = markdown(rows, where), report.stem("scan", device, quick)
    report.save(output, name, text, where | {"rows": [row.as_dict() for row in rows]})
    plot(rows, where, output / f"{name}.png")
    print(text)
    return rows


def main(
    quick: Annotated[bool, typer.Option("--quick", help="tiny shapes, few samples; the figures mean nothing")] = False,
    threads: Annotated[int | None, typer.Option(help="processor threads; one per core without it")] = None,
    output: Annotated[Path, typer.Option(help="folder for table, plot and figures")] = report.RESULTS,
):
    """Measure our scans beside the usual alternatives."""
    wrong = [row for row in run(quick, threads, output) if (row.disagreement or 0) > AGREEMENT]
    if wrong:
        raise typer.Exit(code=1)


def typer_app() -> typer.Typer:
    return report.application(main)


if __name__ == "__main__":
    typer_app()()

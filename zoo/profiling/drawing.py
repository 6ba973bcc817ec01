"""Drawing a profile: when neurons fired, how often each layer fires, and which levels."""

from pathlib import Path

import numpy as np

from neurons.monitors import figure
from zoo.profiling.ledger import Row

SHOWN_NEURONS = 24
"""Neurons of each layer in the raster."""


def draw(name: str, inputs: int, rows: list[Row], path: str | Path) -> None:
    """Write the drawing of a profile to ``path``; ValueError for a model that fired no spikes."""
    layers = [row for row in rows if row.levels]
    if not layers:
        raise ValueError(f"{name} has no spikes that could be drawn")
    height = 2.2 + 0.62 * len(layers)
    drawn, axes = figure(1, 3, (15, height))
    from matplotlib.colors import PowerNorm  # after ``figure``, whose error says how to install it

    raster, rates, levels = axes[0]
    drawn.suptitle(f"{name}, spikes over {inputs} input{'s' if inputs > 1 else ''}")
    top = max(abs(level) for row in layers for level in row.levels)
    picture = _raster(raster, layers, max(top, 1))
    drawn.colorbar(picture, ax=raster, label="level of the spike", shrink=0.6, location="left")

    places = np.arange(len(layers))
    rates.barh(places, [row.spike_rate for row in layers], color="tab:blue", height=0.7)
    for place, rate in zip(places, (row.spike_rate or 0.0 for row in layers)):
        rates.text(rate + 0.01, place, f"{rate:.2f}", va="center", fontsize=8)
    rates.set(xlim=(0, 1.1), yticks=places, yticklabels=[], xlabel="spike rate (share of outputs not zero)")
    rates.grid(axis="x", alpha=0.3)

    shares = np.array([[row.levels[level] for level in range(-top, top + 1)] for row in layers], dtype=float)
    shares /= shares.sum(1, keepdims=True)
    image = levels.imshow(
        np.where(shares > 0, shares, np.nan),
        aspect="auto",
        cmap="viridis",
        norm=PowerNorm(0.5, vmin=0),
        extent=(-top - 0.5, top + 0.5, len(layers) - 0.5, -0.5),
    )
    drawn.colorbar(image, ax=levels, label="share of outputs", shrink=0.6)
    levels.set(yticks=places, yticklabels=[], xlabel="level (white: never)")
    for axis in (rates, levels):
        axis.set_ylim(len(layers) - 0.5, -0.5)
    drawn.savefig(path, dpi=110)


def _raster(axis, layers: list[Row], top: int):
    """Neurons from top to bottom, layer by layer, over their time steps; white is silence."""
    steps = max(len(row.raster) for row in layers)
    blocks, ticks, start = [], [], 0
    for row in layers:
        ran = row.raster or [[]]  # a layer that did not run in the first input stays empty
        fired = np.array([step[:SHOWN_NEURONS] for step in ran], dtype=float).reshape(len(ran), -1).T
        block = np.full((len(fired) + 1, steps), np.nan)  # and a grey line between layers
        block[:-1, : fired.shape[1]] = fired
        blocks.append(block)
        ticks.append(start + len(fired) / 2 - 0.5)
        start += len(block)
    axis.set_facecolor("lightgrey")
    picture = axis.imshow(
        np.concatenate(blocks), aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest"
    )
    axis.set_yticks(ticks, [row.name for row in layers], fontsize=8)
    axis.set_xlabel("time step of the first input")
    axis.set_title(f"first {SHOWN_NEURONS} neurons of each layer", fontsize=9)
    return picture

"""What goes on in a model: an input, the spikes of the layers under it, and the answer as it forms.

::

    import zoo

    seen = zoo.explain(zoo.load("lite-snn-multi30k"), "Ein Hund rennt durch den Schnee.")
    seen.answer                                  # what model.translate returns
    seen.spikes["encoder.0.mixer"]               # the levels of a layer, [steps, neurons]
    seen.plot("seen.png", layers=["encoder.0.mixer", "decoder.0.mixer"])

A network says what is to be seen in it (``explained(input)``), with the parts below; drawing is the same for all.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

import neurons
from neurons.monitors import figure
from zoo import errors, tasks

MOST_TOKENS = 60
"""With more steps than these, their names would not be readable."""
MOST_MARKS = 150
"""With more texts than these above a picture, none could be read, and drawing them would take minutes."""
MOST_CURVES = 12
MOST_NEURONS = 320
"""With more rows than these, a raster would show some of them only."""


Layers = dict[str, tuple[Any, Any]]
"""For each name, the module that puts out spikes (alone or first of a tuple), and a neuron that fires its levels."""


class Axis(NamedTuple):
    """What the steps of a strip are: tokens with ``names``, or pieces of ``seconds`` each."""

    names: tuple[str, ...] = ()
    seconds: float = 0.0


class Strip(NamedTuple):
    """One picture along time: ``values [steps, rows]``, drawn as ``kind``.

    ``"spikes"``: the levels of a layer. ``"picture"``: colours. ``"events"``: events of both signs, as colours.
    ``"curves"``: one curve per row. ``rows`` names the rows; ``marks`` are texts above the picture,
    each with its place.
    """

    title: str
    kind: str
    values: Tensor
    axis: Axis
    rows: tuple[str, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: the ``answer`` of the model's method, and the strips in their order."""

    answer: Any
    strips: list[Strip]

    @property
    def spikes(self) -> dict[str, Tensor]:
        """The levels ``[steps, neurons]`` of each layer with spikes: whole numbers, zero where it did not fire."""
        return {strip.title: strip.values for strip in self.strips if strip.kind == "spikes"}

    @property
    def rates(self) -> dict[str, float]:
        """The share of each layer's outputs that are not zero."""
        return {name: float((levels != 0).float().mean()) for name, levels in self.spikes.items()}

    def plot(self, path: str | Path | BinaryIO, layers: list[str] | None = None) -> None:
        """Draw the input, the spikes of ``layers`` (all unless given) and the answer, one below another.

        A layer's spikes are a raster, one row per neuron, with the share of outputs that are not zero in its title; how
        often each level was fired stands beside it. Raises TypeError for a name in place of a list of names, ValueError
        for a layer that there is not and where nothing is left to draw, ImportError without matplotlib.
        """
        if isinstance(layers, str):
            raise TypeError(f"layers is a list of names; got {layers!r}: write [{layers!r}]")
        for name in layers or ():
            if name not in self.spikes:
                raise errors.unknown("layer", name, self.spikes)
        strips = [s for s in self.strips if s.kind != "spikes" or layers is None or s.title in layers]
        if not strips:
            raise ValueError(f"there is nothing to draw but layers, so name one: {', '.join(self.spikes)}")
        heights = [2.0 if len(strip.rows) > MOST_CURVES else 1.0 for strip in strips]
        drawn, _ = figure(1, 1, (11, 0.5 + 1.8 * sum(heights)))
        drawn.clear()
        grid = drawn.add_gridspec(len(strips), 2, width_ratios=(6, 1), height_ratios=heights)
        for place, strip in enumerate(strips):
            axis = drawn.add_subplot(grid[place, 0])
            _DRAWN[strip.kind](axis, strip)
            _name_steps(axis, strip)
            if strip.kind in _BESIDE:
                _BESIDE[strip.kind](drawn.add_subplot(grid[place, 1]), strip)
        drawn.savefig(path, dpi=110)


def explain(model: nn.Module, input: Any, **options: Any) -> Explanation:
    """What goes on in ``model`` for one ``input`` of its task: a sentence, a text, a recording or an audio file.

    ``options`` are those of the model's method that change its answer: ``rate`` for an array of samples, ``beam_size``
    and ``length_penalty`` for a translation. Runs in evaluation mode and in floats, from a fresh state; the model stays
    as it is. Raises TypeError for a model that cannot be explained and for any other option, ValueError for a model
    without spikes, and what the model's own method raises for its input.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "explained"):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"zoo.explain takes a model from zoo.load; got {got}, which has no explained()")
    task = tasks.named(model.task)
    if isinstance(input, list | tuple) and not task.files:
        raise TypeError(f"zoo.explain takes one {task.input}, not a list")
    explained: Any = model.explained
    signature = inspect.signature(explained)
    try:
        signature.bind(input, **options)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:]) or "none"
        raise TypeError(f"{error}: the options of zoo.explain for a {type(model).__name__} are {known}") from None
    found: Explanation = explained(input, **options)
    if not found.spikes:
        raise ValueError(f"this {type(model).__name__} has no spikes that could be shown: its neurons are not spiking")
    return found


@contextmanager
def watched(layers: Layers) -> Iterator[dict[str, Tensor]]:
    """Context that collects the levels ``[T, N]`` that each layer puts out for a batch of one, ``[T, 1, ...]``.

    The modules must be the caller's own (:func:`neurons.monitors.evaluation_view`): nobody else may run them meanwhile.
    """
    seen: dict[str, list[Tensor]] = {}

    def noting(name: str, neuron: nn.Module, forward: Callable) -> Callable:
        def noted(*inputs: Any, **named: Any) -> Any:
            output = forward(*inputs, **named)
            seen.setdefault(name, []).append(_levels(output[0] if isinstance(output, tuple) else output, neuron))
            return output

        return noted

    for name, (module, neuron) in layers.items():
        module.__dict__["forward"] = noting(name, neuron, module.forward)
    found: dict[str, Tensor] = {}
    try:
        yield found
    finally:
        for module, _ in layers.values():
            del module.__dict__["forward"]
    found.update({name: torch.cat(parts) for name, parts in seen.items()})


def _levels(y: Tensor, neuron: nn.Module) -> Tensor:
    y = y.detach().float()[:, 0].flatten(1)
    if isinstance(neuron, neurons.MultiBitNeuron):
        spike = neuron.spike()
        y = y / spike.spike_range if spike.bits == neurons.spike.FULL_PRECISION else torch.round(y * spike.scale)
    return y.cpu()


def spike_strips(found: dict[str, Tensor], axis: Axis) -> list[Strip]:
    """A strip for each layer that was watched."""
    return [Strip(name, "spikes", levels, axis) for name, levels in found.items()]


# ---- Drawing ----


def _extent(strip: Strip) -> tuple[float, float]:
    """Where the steps begin and end on the axis."""
    width = strip.axis.seconds or 1.0
    return (0.0, len(strip.values) * width) if strip.axis.seconds else (-0.5, len(strip.values) - 0.5)


def _draw_spikes(axis: Any, strip: Strip) -> None:
    neurons, rate = strip.values.shape[1], 100 * float((strip.values != 0).float().mean())
    shown = torch.linspace(0, neurons - 1, min(neurons, MOST_NEURONS)).round().long()
    top = max(1.0, float(strip.values.abs().max()))
    extent = (*_extent(strip), len(shown), 0)
    raster = strip.values[:, shown].T.numpy()
    axis.imshow(raster, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest", extent=extent)
    part = "" if len(shown) == neurons else f" ({len(shown)} of {neurons:,} neurons)"
    axis.set_title(f"{strip.title}: {rate:.0f} % not zero{part}", fontsize=9, loc="left")
    axis.set_ylabel("neuron", fontsize=8)


def _draw_levels(axis: Any, strip: Strip) -> None:
    """The share of each level that was fired; zero is left out, because its share is in the raster's title."""
    fired = strip.values[strip.values != 0]
    if not len(fired):
        axis.set_axis_off()
        return
    top = math.ceil(float(strip.values.abs().max()))
    axis.hist(fired.numpy(), bins=[place - 0.5 for place in range(-top, top + 2)], density=True, color="tab:blue")
    axis.set_title("levels fired", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.set_yticks([])


def _draw_picture(axis: Any, strip: Strip) -> None:
    rows = strip.values.shape[1]
    colours: dict[str, Any] = {"cmap": "magma"}
    if strip.kind == "events":
        top = min(2.0, float(strip.values.abs().max()))  # single events are to be seen
        colours = {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
    axis.imshow(
        strip.values.T.numpy(), aspect="auto", origin="lower", extent=(*_extent(strip), -0.5, rows - 0.5), **colours
    )
    marks = strip.marks if len(strip.marks) <= MOST_MARKS else ()
    left_out = "" if len(marks) == len(strip.marks) else f" ({len(strip.marks):,}, too many to be named)"
    axis.set_title(strip.title + left_out, fontsize=9, loc="left", pad=18 if marks else None)
    axis.set_yticks(range(len(strip.rows)), [*map(_plain, strip.rows)], fontsize=7 if len(strip.rows) <= 12 else 5)
    for place, (step, text) in enumerate(marks):  # at two heights, because neighbours are close
        axis.text(step, rows * (1.0 if place % 2 else 1.09), _plain(text), fontsize=6, ha="center")


def _draw_curves(axis: Any, strip: Strip) -> None:
    start, end = _extent(strip)
    width = (end - start) / len(strip.values)
    places = [start + (place + 0.5) * width for place in range(len(strip.values))]
    for place, row in enumerate(_shown_curves(strip)):
        axis.plot(places, strip.values[:, row].numpy(), marker="." if strip.axis.names else None, color=f"C{place}")
    axis.set_xlim(start, end)
    axis.set_title(strip.title, fontsize=9, loc="left")
    axis.grid(alpha=0.3)


def _draw_names(axis: Any, strip: Strip) -> None:
    shown = _shown_curves(strip)
    for place, _ in enumerate(shown):
        axis.plot([], [], color=f"C{place}", label=place)
    axis.set_axis_off()
    legend = axis.legend(fontsize=7, loc="center left", frameon=False)
    for text, row in zip(legend.get_texts(), shown):
        text.set_text(_plain(strip.rows[row]))  # as a label, a name that begins with "_" would be left out


def _plain(text: str) -> str:
    """``text`` so that matplotlib takes no part of it for a formula between two dollars."""
    return text.replace("$", r"\$")


def _shown_curves(strip: Strip) -> list[int]:
    """The rows that are largest anywhere."""
    largest = strip.values.abs().amax(0).topk(min(MOST_CURVES, strip.values.shape[1]))
    return largest.indices.sort().values.tolist()


_DRAWN = {"spikes": _draw_spikes, "picture": _draw_picture, "events": _draw_picture, "curves": _draw_curves}
_BESIDE = {"spikes": _draw_levels, "curves": _draw_names}


def _name_steps(axis: Any, strip: Strip) -> None:
    axis.tick_params(labelsize=7)
    if strip.axis.seconds:
        axis.set_xlabel("seconds", fontsize=8)
    elif len(strip.axis.names) <= MOST_TOKENS:
        names = [*map(_plain, strip.axis.names)]
        axis.set_xticks(range(len(names)), names, fontsize=7, rotation=45, ha="right")
    else:
        axis.set_xlabel("token", fontsize=8)

"""The pictures of the documentation: ``python docs/tools/draw.py`` from a checkout draws them into docs/pictures.

All are drawn from the neurons and the bundled models themselves; a seed fixes what is random.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import neurons
import zoo
from neurons import Neuron, monitors
from neurons.surrogate import SURROGATES
from recipes import gesture_simulator
from zoo.inputs.event_pictures import pictures

PICTURES = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parent.parent / "pictures"
STEPS = 60
INPUT, STATE, OUTPUT = "tab:gray", "tab:blue", "tab:red"


def label(axis: Any, x: str, y: str) -> None:
    """The names of both axes and of the curves, and a grid."""
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def inputs() -> dict[str, Tensor]:
    """A step, a ramp and noise, each ``[STEPS]``."""
    time = torch.arange(STEPS)
    step = 0.3 * ((time >= 10) & (time < 40)).float()
    ramp = 0.6 * (time.float() - 10).clamp(0, 40) / 40
    noise = 0.15 + 0.4 * torch.randn(STEPS, generator=torch.Generator().manual_seed(1))
    return {"a step": step, "a ramp": ramp, "noise": noise}


def shown_neurons() -> dict[str, tuple[Neuron, str]]:
    """Each neuron with the settings it is drawn with, and these in words. All multi-bit ranges are fixed."""
    fixed = {"initial_range": 1.0, "range_tracking": "fixed"}
    wide = fixed | {"initial_range": 4.0}
    own = neurons.RecurrentGatedLIF(1, bits=4, **fixed)
    with torch.no_grad():
        own.recurrent_weight.copy_(torch.tensor([[12.0, 0.0]]))
    return {
        "learnable-lif": (neurons.LearnableLIF(leak=0.9), "leak 0.9, threshold 1"),
        "integrator": (neurons.Integrator(), ""),
        "leaky-integrator": (neurons.LeakyIntegrator(leak=0.9), "leak 0.9"),
        "multibit-lif": (neurons.MultiBitLIF(leak=0.9, bits=4, **fixed), "leak 0.9, 4 bits, range 1"),
        "multibit-synaptic-lif": (neurons.MultiBitSynapticLIF(1, tau=0.8, bits=4, **wide), "tau 0.8, 4 bits, range 4"),
        "input-gated-lif": (neurons.InputGatedLIF(bits=4, **fixed), "gate 0.95, 4 bits, range 1"),
        "recurrent-gated-lif": (own, "gate 0.8, opened further by its own spikes, 4 bits, range 1"),
    }


def of_one(neuron: Neuron, x: Tensor) -> dict[str, Tensor]:
    """What one neuron does on an input ``[T]``; a gated one gets it as its candidate current, with a fixed gate."""
    current = x.view(-1, 1, 1)
    if neuron.inputs_per_neuron == 2:
        gate = torch.tensor(0.8 if isinstance(neuron, neurons.RecurrentGatedLIF) else 0.95).logit()
        current = torch.cat([gate.expand_as(current), current], dim=2)
    (seen,) = monitors.traces(neuron, current).layers.values()
    return {part: values.flatten() for part, values in seen.items()}


def answers() -> None:
    """One picture per neuron: what it makes of a step, a ramp and noise."""
    for name, (neuron, says) in shown_neurons().items():
        rows = 1 if name.endswith("integrator") else 2
        drawn, axes = monitors.figure(rows, 3, (9, 1.1 + 1.3 * rows))
        for place, (title, x) in enumerate(inputs().items()):
            seen = of_one(neuron, x)
            axis = axes[0][place]
            axis.plot(x, color=INPUT, linewidth=1, label="input")
            if "synaptic_current" in seen:
                axis.plot(seen["synaptic_current"], color="tab:green", linewidth=1, label="synaptic current")
            says_membrane = "membrane, which is the output" if rows == 1 else "membrane, after the reset"
            axis.plot(seen["membrane"], color=STATE, linewidth=1, label=says_membrane)
            axis.set_title(title, fontsize=9)
            if rows == 2:
                axes[1][place].vlines(range(STEPS), 0, seen["spikes"], color=OUTPUT, linewidth=1.6, label="output")
            for axis in axes[:, place]:
                axis.axhline(0, color="black", linewidth=0.5)
                axis.set_xlim(-1, STEPS)
                axis.tick_params(labelsize=7)
        both = [axis.get_legend_handles_labels() for axis in axes[:, 0]]
        handles, labels = ([one for pair in both for one in pair[which]] for which in (0, 1))
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        drawn.suptitle(f"{name} ({says})" if says else name, fontsize=10)
        save(drawn, f"answer-{name}.png")


def spikes() -> None:
    """The multi-bit spike as a function of the membrane, for several bits and thresholds."""
    membrane = torch.linspace(-1.3, 1.3, 1301)
    kinds = [("1 bit", 1, 0), ("3 bits", 3, 0), ("4 bits", 4, 0), ("4 bits, 2 levels of threshold", 4, 2)]
    drawn, axes = monitors.figure(1, 4, (10, 2.7))
    for axis, (title, bits, levels) in zip(axes[0], kinds):
        axis.plot(membrane, membrane.clamp(-1, 1), color=INPUT, linewidth=0.8)
        axis.plot(membrane, neurons.MultiBitSpike(torch.tensor(1.0), bits, levels)(membrane), color=OUTPUT)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("membrane, in ranges", fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=7)
    axes[0][0].set_ylabel("spike", fontsize=8)
    save(drawn, "spikes.png")


def ranges() -> None:
    """The same input with a range that is too small, right and too large."""
    x = (0.9 * torch.sin(torch.arange(STEPS) / 6)).view(STEPS, 1, 1)
    drawn, axes = monitors.figure(1, 3, (9, 2.4))
    for axis, (title, size) in zip(
        axes[0], {"range 0.3: clipped": 0.3, "range 1": 1.0, "range 6: coarse": 6.0}.items()
    ):
        neuron = neurons.MultiBitLIF(leak=0.0, bits=4, initial_range=size, range_tracking="fixed").eval()
        y, _ = neuron(x)
        axis.plot(x.flatten(), color=INPUT, linewidth=1, label="input")
        axis.step(range(STEPS), y.detach().flatten(), color=OUTPUT, where="mid", linewidth=1.2, label="output")
        axis.set_title(title, fontsize=9)
        axis.set_ylim(-1.1, 1.1)
        axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=7)
    save(drawn, "ranges.png")


def gates() -> None:
    """How long a synaptic current is held by gates of several openings."""
    pulse = torch.zeros(STEPS, 1, 1)
    pulse[5] = 1.0
    drawn, axes = monitors.figure(1, 1, (6, 2.6))
    axis = axes[0][0]
    for gate in (0.5, 0.9, 0.98):
        f = torch.full_like(pulse, gate).logit()
        neuron = neurons.InputGatedLIF(bits=32, initial_range=100.0, range_tracking="fixed")
        seen = monitors.traces(neuron, torch.cat([f, pulse / (1 - gate)], dim=2)).layers["InputGatedLIF"]
        constant = -1 / torch.tensor(gate).log()
        axis.plot(seen["synaptic_current"].flatten(), label=f"gate {gate}: time constant {constant:.1f} steps")
    label(axis, "time step", "synaptic current")
    save(drawn, "gates.png")


def surrogates() -> None:
    """The two surrogate gradients of the learnable LIF."""
    membrane = torch.linspace(-3, 5, 400)
    drawn, axes = monitors.figure(1, 1, (6, 2.4))
    axis = axes[0][0]
    for name, derivative in SURROGATES.items():
        axis.plot(membrane, 0.3 * derivative(membrane - 1), label=name)
    axis.axvline(1, color="black", linewidth=0.6, linestyle=":")
    label(axis, "membrane, in thresholds", "surrogate gradient")
    save(drawn, "surrogates.png")


def gradients() -> None:
    """How far back a loss reaches through a plain and through gated neurons."""
    norms = monitors.vanishing_gradient(steps=200)
    drawn, axes = monitors.figure(1, 1, (6, 2.8))
    axis = axes[0][0]
    for name, found in norms.norms.items():
        values = found["input"]
        axis.plot(torch.where(values > 0, values, torch.nan), label=name, linewidth=1.2)
    axis.set_yscale("log")
    label(axis, "time step (the loss is at the last)", "gradient of the input")
    save(drawn, "gradients.png")


def overview() -> None:
    """The picture of the README: spikes over the words of a sentence, and over a gesture with the answer so far."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 4.6), layout="constrained")
    words, movement = drawn.subfigures(1, 2, width_ratios=(1, 1.25))
    over_words(words)
    over_movement(movement)
    save(drawn, "overview.png", dpi=90)


def over_words(part) -> None:
    """The spikes of the translator's encoder, word by word."""
    seen = zoo.explain(zoo.load("lite-snn-multi30k"), "Zwei Kinder spielen am Strand.")
    part.suptitle(f"\u201cZwei Kinder spielen am Strand.\u201d\n\u2192 \u201c{seen.answer}\u201d", fontsize=10)
    layers = {"first gated layer": "encoder.0.mixer", "encoder's output": "encoder_spikes"}
    for (title, name), axis in zip(layers.items(), part.subplots(2, 1, sharex=True)):
        raster(axis, seen.spikes[name][:, :48], title)
    words = [token.strip("\u2581") for token in seen.strips[0].axis.names]
    axis.set_xticks(range(len(words)), words, fontsize=9)


def over_movement(part) -> None:
    """What an event camera sees of a simulated gesture, the spikes of one layer, and the answer as it forms."""
    events = gesture_simulator.example("air guitar", seed=3)
    model = zoo.load("lite-snn-dvs-gesture")
    seen = zoo.explain(model, events)
    part.suptitle(f"a simulated gesture \u2192 \u201c{seen.answer.label}\u201d", fontsize=10)
    film, spikes_, answer = part.subplots(3, 1, height_ratios=(1, 1.3, 1))
    shown = pictures(events, int(events.t[0]), 2.0, 25, 128, 128)[4::8, 10:118, 10:118]
    film.imshow(np.concatenate(list(shown), axis=1), interpolation="nearest")
    film.set_axis_off()
    raster(spikes_, seen.spikes["head"][:, ::32], "gated layer")
    spikes_.set_xticks([])
    answers = seen.strips[-1]
    for label in answers.values.amax(0).topk(3).indices:
        answer.plot(answers.values[:, label], label=answers.rows[label], linewidth=1.5)
    answer.set_xlabel(f"time step ({model.binning.size // 1000} ms)", fontsize=8)
    answer.set_ylabel("probability", fontsize=8)
    answer.tick_params(labelsize=7)
    answer.margins(x=0)
    answer.legend(fontsize=7, ncols=3)


def explain() -> None:
    """What ``zoo.explain`` draws."""
    seen = zoo.explain(zoo.load("lite-snn-multi30k"), "Ein Hund rennt durch den Schnee.")
    seen.plot(PICTURES / "explain.png", layers=["encoder.0.mixer", "encoder_spikes"])


def profile() -> None:
    """The drawing of a profile."""
    name = "lite-snn-dvs-gesture"
    found = zoo.profile(zoo.load(name), [gesture_simulator.example("air guitar")], name=name)
    found.plot(PICTURES / "profile.png")


def raster(axis, spikes_: Tensor, title: str) -> None:
    """Spikes ``[T, N]`` over time: red up, blue down, white silent."""
    most = float(spikes_.abs().max())
    axis.imshow(spikes_.T, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    axis.set_ylabel(title, fontsize=8)
    axis.set_yticks([])


def save(drawn, name: str, dpi: int = 110) -> None:
    drawn.savefig(PICTURES / name, dpi=dpi, metadata={"Software": None})


DRAWINGS: list[Callable[[], None]] = [answers, spikes, ranges, gates, surrogates, gradients, overview, explain, profile]


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for drawing in DRAWINGS:
        drawing()

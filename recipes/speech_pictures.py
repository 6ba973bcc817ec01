"""Pictures for the card of a recogniser: what goes through it, and how far back its gradient reaches."""

import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

import zoo
from neurons import monitors
from recipes import speech
from recipes.extras import need, png
from recipes.run_folder import BEST
from zoo.inputs import audio
from zoo.networks.mixers import RECURRENT
from zoo.networks.speech import SpeechRecogniser

HEARD, REACH = "heard.png", "gradients.png"
SECONDS = 3
"""The most of a recording that is drawn."""
REACHED_STEPS = 100


def add_pictures(
    metrics: dict[str, Any],
    groups: dict[str, list[Path]],
    recording: Annotated[Path | None, typer.Option(help="audio file for the card's example and pictures")] = None,
) -> dict[str, bytes]:
    """Add to a card what is heard in a ``recording``, and two pictures of it by the trained networks of the table.

    Without a recording nothing is added. The first picture has the spectrogram, the spikes and the phones of the first
    seconds. The second has the norm of the gradient of the last step with respect to earlier ones, in every network
    with spikes.
    """
    if recording is None:
        return {}
    need("the pictures", "matplotlib")
    samples = audio.read_audio(recording)[: SECONDS * audio.RATE]
    models = {name: zoo.load(runs[0] / BEST) for name, runs in groups.items()}
    spiking = {name: model for name, model in models.items() if model.typed_config.mixer not in RECURRENT}
    own = next(iter(models.values()))
    said = own.transcribe(recording)
    metrics["example"] = {"input": recording.name, "output": [said.text, said.confidence]}
    captions = {
        HEARD: f"{recording.stem}: spectrogram, the phones that are heard, and the spikes of all layers.",
        REACH: "How strongly the last step depends on earlier ones, in the trained networks.",
    }
    metrics["pictures"] = [{"file": file, "caption": caption} for file, caption in captions.items()]
    return {HEARD: heard(own, samples), REACH: reach(spiking, steps_of(own, samples)[:REACHED_STEPS])}


def steps_of(model: SpeechRecogniser, samples: np.ndarray) -> Tensor:
    """The features of samples as the network takes them, ``[T, 1, F]``."""
    return torch.from_numpy(speech.steps_of(model, model.bank.frames(samples))).unsqueeze(1)


def heard(model: SpeechRecogniser, samples: np.ndarray) -> bytes:
    """What :func:`zoo.explain` shows of the samples, as a PNG file."""
    drawn = io.BytesIO()
    zoo.explain(model, samples, rate=audio.RATE).plot(drawn)
    return drawn.getvalue()


def reach(models: dict[str, SpeechRecogniser], x: Tensor) -> bytes:
    """The norms of the gradients, as a PNG file."""
    norms = monitors.gradient_norms(dict(models), x)
    drawn, ((axis,),) = monitors.figure(1, 1, (8, 4))
    for name, found in norms.norms.items():
        values = found["input"]
        axis.plot(torch.where(values > 0, values, torch.nan), label=name)
    axis.set(xlabel="step (30 ms)", ylabel="norm of d loss(last step) / d input(step)", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return png(drawn)

"""Eleven gestures from an event camera: train, resume, evaluate, compare and fine-tune classifiers.

The data is the DVS128 Gesture Dataset (https://research.ibm.com/interactive/dvsgesture/), in one of three layouts:

- IBM's own: ``user01_fluorescent.aedat`` and ``user01_fluorescent_labels.csv`` and so on, with ``trials_to_train.txt``
  and ``trials_to_test.txt``; ``recipes.gesture_simulator`` writes the same;
- SpikingJelly's: ``events_np/{train,test}/<label from 0>/user01_fluorescent_0.npz``;
- Tonic's: ``ibmGestureTrain/user01_fluorescent/<label from 0>.npy`` and ``ibmGestureTest``.

::

    python -m recipes.dvs_gesture train --data DATA --run runs/gesture
    python -m recipes.dvs_gesture evaluate ./runs/gesture/best --data DATA --split val
    python -m recipes.dvs_gesture train --data DvsGesture --run runs/official --initial lite-snn-dvs-gesture

Checkpoints and options are chosen on people held out from the training part (``val``); only ``measure`` uses the test
people.
"""

import hashlib
import io
import json
import math
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from neurons.monitors import evaluating
from recipes import calibration, command, gesture_simulator, training
from recipes.calibration import Answers
from recipes.gestures import GESTURES, MIRRORED
from recipes.own_examples import Own
from recipes.processes import WHOLE, Part, shared
from recipes.recipe import Band, Recipe, Tuning
from recipes.run_folder import read_json, read_run_config
from recipes.tune import fine_tune  # noqa: F401  (the same for all tasks; it can be found here too)
from zoo.files import remove_leftovers, write_whole
from zoo.inputs.data_files import plain_file, read_npz
from zoo.inputs.events import (
    LATEST,
    MOST_BINS,
    Binning,
    Events,
    as_events,
    bin_events,
    naming,
    one_after_another,
    read_aedat_parts,
    read_events,
)
from zoo.networks.gesture import GestureConfig, GestureNetwork
from zoo.tasks import TASKS

SOURCE = "https://research.ibm.com/interactive/dvsgesture/"
SPLITS = ("train", "val", "test")
HELD_OUT = 1 / 6
"""Share of the training people who become ``val``: the last by name, four of 23."""
CACHE_VERSION = 2
BAND = Band(22, "accuracy_val_first", 5.0)
EXAMPLE, EXAMPLE_FILE = "air guitar", "air_guitar.aedat"
NETWORKS = {
    "input-gated-lif": "multi-bit and input-gated LIF ({bits} bits)",
    "lif": "plain LIF, binary spikes",
    "relu": "ReLU, no neurons",
    "convgru": "ReLU with a convolutional GRU",
}
FINE_TUNE = (
    "python -m recipes.dvs_gesture train --data DvsGesture --run runs/official --initial lite-snn-dvs-gesture "
    "--epochs 20 --learning-rate 0.0005"
)
SUMMARY = (
    "Eleven hand and arm gestures from an event camera, trained on SIMULATED recordings of an animated figure: IBM's "
    "were not at hand. Nothing here was measured on real gestures, so expect a much lower accuracy on a real camera "
    f"until it has been fine-tuned on the official recordings: `{FINE_TUNE}`"
)
CONFIG = GestureConfig([*GESTURES])
INTENDED = (
    "Research on spiking networks for event cameras: a start for fine-tuning on recordings of a real "
    "camera, and a demonstration of streaming. It is not for controlling machines: no real recording of a "
    "person was seen in its training."
)
LIMITS = [
    "All figures for gestures are from simulated people; how well the network does on real ones is unknown.",
    "Left and right are the person's, clockwise is as the camera sees it in an image that is not mirrored; whether "
    "IBM's labels agree could not be checked.",
    "One person, near the middle of 128 by 128 pixels, before a camera that does not move.",
    "It always answers with one of the eleven, and learned 'other gestures' from four simulated ones.",
    "A recording should hold one gesture, of about a second or more; the bin it ends in is not used.",
]
SOURCES = [
    "Rathi and Roy, LITE-SNN, IEEE TCDS 2024, https://doi.org/10.1109/TCDS.2024.3396431",
    "Ponghiran and Roy, AAAI 2022, https://arxiv.org/abs/2109.01905",
    "Amir et al., A Low Power, Fully Event-Based Gesture Recognition System, CVPR 2017 (the data set)",
]


@dataclass(frozen=True)
class Training(training.Training):
    """How a classifier of recordings is trained: the options of all networks, and some of its own.

    ``batch`` is the recordings per step; ``steps`` the bins of the window that is taken from a random place of a
    recording; ``shift`` (a share of the image), ``rotation`` (degrees) and ``zoom`` are the largest random changes of
    an image; ``mirror`` mirrors half of the recordings and changes their labels accordingly.
    """

    epochs: int = 40
    learning_rate: float = 2e-3
    batch: int = 16
    steps: int = 32
    shift: float = 0.1
    rotation: float = 10.0
    zoom: float = 0.15
    mirror: bool = True

    without_noise: ClassVar = {"steps": MOST_BINS, "shift": 0.0, "rotation": 0.0, "zoom": 0.0, "mirror": False}


# ---- The data set on a disk ----


class Recording(NamedTuple):
    """One gesture: its file, its time in the file (microseconds; None: all of it), the person, and its label."""

    file: Path
    start: int | None
    end: int | None
    person: str
    label: int


def read_recordings(folder: Path, split: str) -> list[Recording]:
    """The recordings of ``train``, ``val`` (people held out from the training part) or ``test``.

    Raises ValueError for an unknown split and for impossible labels, FileNotFoundError for a folder in none of the
    three layouts and for a missing trial.
    """
    if split not in SPLITS:
        raise zoo.errors.unknown("split", split, SPLITS)
    found = _layout(folder)("test" if split == "test" else "train")
    if split == "test":
        return found
    held_out = held_out_people([recording.person for recording in found])
    return [recording for recording in found if (recording.person in held_out) == (split == "val")]


def held_out_people(people: list[str]) -> set[str]:
    """The people whose recordings are ``val``: the last by name. Raises ValueError if nobody is left to train on."""
    people = sorted(set(people))
    if len(people) < 2:
        raise ValueError(f"training needs recordings of at least two people, one of them held out; got {people}")
    return set(people[-max(1, round(len(people) * HELD_OUT)) :])


def _layout(folder: Path):
    """The function that lists the recordings of a part, "train" or "test"."""
    for place in (folder, folder / "DvsGesture", folder / "DVSGesture"):
        if (place / "trials_to_train.txt").is_file():
            return lambda part: _official(place, part)
        if (place / "events_np").is_dir():
            return lambda part: _of_spikingjelly(place / "events_np" / part)
        if (place / "ibmGestureTrain").is_dir():
            return lambda part: _of_tonic(place / f"ibmGesture{part.capitalize()}")
    raise FileNotFoundError(
        f"{folder} holds no trials_to_train.txt, events_np or ibmGestureTrain; get the recordings from {SOURCE}, or "
        "write simulated ones with: python -m recipes.gesture_simulator write FOLDER"
    )


def _official(folder: Path, part: str) -> list[Recording]:
    recordings = []
    trials = folder / f"trials_to_{part}.txt"
    for line in _text(plain_file(trials, "list of trials")).split():
        file = folder / line
        if not file.is_file():
            raise FileNotFoundError(f"{trials.name} names {line}, which is not in {folder}")
        for label, start, end in read_labels(file.with_name(f"{file.stem}_labels.csv")):
            recordings.append(Recording(file, start, end, _person(file.stem), label))
    return recordings


def read_labels(path: Path) -> list[tuple[int, int, int]]:
    """(label from 0, start, end in microseconds) of each gesture in a labels file.

    The first line is a heading unless one of its cells begins like a number. In one official trial a gesture ends
    after the next began (user22_led, class 9); its end is the next one's start.
    Raises FileNotFoundError, and ValueError for a wrong row, with its line, and for a file without rows.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, which says what the trial holds")
    rows = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        cells = [cell.strip(' \t"') for cell in line.split(",")]
        if not line.strip() or (number == 1 and not any(re.match("[-+]?[0-9]", cell) for cell in cells)):
            continue
        numbers = [int(cell) for cell in cells if cell.isascii() and cell.isdecimal() and len(cell) < 20]
        gesture, start, end = numbers if len(numbers) == len(cells) == 3 else (0, 0, 0)
        if not (1 <= gesture <= len(GESTURES) and start < end <= LATEST):
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} is no class (1 to {len(GESTURES)}), start and end in "
                "microseconds"
            )
        rows.append((gesture - 1, start, end))
    if not rows:
        raise ValueError(f"{path} names no gesture")
    rows.sort(key=lambda row: row[1])
    cut = [(label, start, min(end, after)) for (label, start, end), (_, after, _) in pairwise(rows)]
    return [*cut, *rows[-1:]]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from None


def _of_spikingjelly(folder: Path) -> list[Recording]:
    files = sorted(folder.glob("*/*.npz"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no <label>/<trial>.npz")
    return [Recording(file, None, None, _person(file.stem), _label(file, file.parent.name)) for file in files]


def _of_tonic(folder: Path) -> list[Recording]:
    files = sorted(folder.glob("*/*.npy"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no <trial>/<label>.npy")
    return [Recording(file, None, None, _person(file.parent.name), _label(file, file.stem)) for file in files]


def _person(trial: str) -> str:
    return trial.split("_")[0]


def _label(file: Path, text: str) -> int:
    if not text.isdecimal() or int(text) >= len(GESTURES):
        raise ValueError(f"{file} has no label from 0 to {len(GESTURES) - 1} in its path: {text!r}")
    return int(text)


# ---- Frames ----


class Samples(NamedTuple):
    """Recordings as frames ``[T, 2, H, W]`` (uint8), each with its own length T, and the numbers of their labels."""

    frames: list[np.ndarray]
    labels: list[int]


def read_samples(folder: Path, split: str, binning: Binning, cache: Path | None = None) -> Samples:
    """The recordings of a split as frames; ``cache`` is the folder that keeps them (``DATA/bins`` unless given)."""
    recordings = read_recordings(folder, split)
    cache = folder / "bins" if cache is None else cache
    files: dict[Path, list[Recording]] = {}
    for recording in recordings:
        files.setdefault(recording.file, []).append(recording)
    frames = [part for file, parts in files.items() for part in binned(file, parts, binning, cache)]
    return Samples(frames, [recording.label for parts in files.values() for recording in parts])


def binned(file: Path, recordings: list[Recording], binning: Binning, cache: Path) -> list[np.ndarray]:
    """The frames of the recordings in one file, from the cache if it has them.

    The name of a file in the cache depends on the content of the event file, the recordings' times, and the binning. A
    damaged file in the cache is made again, with a warning. Raises ValueError that names the file for a damaged one,
    and for recordings shorter than one bin.
    """
    places = [(recording.start, recording.end) for recording in recordings]
    key = hashlib.blake2b(digest_size=16)
    with plain_file(file, "event file").open("rb") as content:
        while block := content.read(1 << 20):
            key.update(block)
    key.update(json.dumps([CACHE_VERSION, places, asdict(binning)]).encode())
    kept = cache / f"{key.hexdigest()}.npz"
    if kept.exists():
        try:
            return _kept_frames(kept, len(places), binning)
        except (ValueError, OSError) as error:
            warnings.warn(f"what is kept of {file.name} is damaged and made again: {error}", stacklevel=2)
    parts = read_aedat_parts(file) if file.suffix == ".aedat" else [read_events(file)]
    frames = []
    for start, end in places:
        with naming(file if start is None else f"{file}, from {start} to {end} us"):
            frames.append(bin_events(_window(parts, start, end), binning))
    cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache, "*.new")
    packed = io.BytesIO()
    members: dict[str, Any] = {str(i): part for i, part in enumerate(frames)}
    np.savez_compressed(packed, **members)
    write_whole(kept, packed.getbuffer())
    return frames


def _kept_frames(kept: Path, count: int, binning: Binning) -> list[np.ndarray]:
    """The frames of ``count`` recordings from a file of the cache."""
    names, shape = [str(i) for i in range(count)], binning.shape
    arrays = read_npz(kept, names, count * MOST_BINS * math.prod(shape))
    for frames in arrays.values():
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != shape or not len(frames):
            raise ValueError(f"{kept} holds no frames of {list(shape)} but {frames.dtype} {list(frames.shape)}")
    return list(arrays.values())


def _window(parts: list[Events], start: int | None, end: int | None) -> Events:
    """The events of one recording in a file, whose parts have their own clocks; ValueError if two parts have some."""
    if start is None or end is None:
        return one_after_another(parts)
    held = [found for found in (part.between(start, end) for part in parts) if len(found)]
    if len(held) > 1:
        raise ValueError(
            "the camera's clock was reset while it recorded, and events before and after the reset have these times; "
            "which of them are meant is not known"
        )
    return held[0] if held else parts[0][:0]


# ---- Training ----


Example = tuple[np.ndarray, int]


class Batch(NamedTuple):
    """Indices of recordings in their :class:`Samples`, and a seed for their random augmentation."""

    places: list[int]
    seed: int


def batches(count: int, size: int, seed: int) -> list[Batch]:
    """All indices in random order, ``size`` per batch; a last batch below half that size joins the one before."""
    shuffle = random.Random(seed)
    order = shuffle.sample(range(count), count)
    parts = [order[i : i + size] for i in range(0, count, size)]
    if len(parts) > 1 and len(parts[-1]) < size / 2:
        last = parts.pop()
        parts[-1] = parts[-1] + last
    return [Batch(part, shuffle.getrandbits(32)) for part in parts]


def tensors(
    samples: Samples, batch: Batch, options: Training, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Augmented frames ``[T, B, 2, H, W]``, lengths ``[B]`` and labels ``[B]`` of a batch."""
    choose = random.Random(batch.seed)
    windows = []
    for place in batch.places:
        frames = samples.frames[place]
        first = choose.randint(0, max(0, len(frames) - options.steps))
        windows.append(torch.from_numpy(frames[first : first + options.steps]))
    lengths = torch.tensor([len(window) for window in windows])
    padded = nn.utils.rnn.pad_sequence(windows).float()
    labels = torch.tensor([samples.labels[place] for place in batch.places])
    generator = torch.Generator().manual_seed(batch.seed)
    mirrored = torch.rand(len(labels), generator=generator) < 0.5 * options.mirror
    if options.mirror:
        labels = torch.where(mirrored, torch.tensor(MIRRORED)[labels], labels)
    moved = move(padded, mirrored, options, generator)
    return moved.to(device), lengths.to(device), labels.to(device)


def move(frames: Tensor, mirrored: Tensor, options: Training, generator: torch.Generator) -> Tensor:
    """Each recording of ``[T, B, 2, H, W]``, mirrored or not, and shifted, rotated and zoomed at random as a whole."""
    if not (options.shift or options.rotation or options.zoom or mirrored.any()):
        return frames
    steps, count = frames.shape[:2]
    dx, dy, turn, zoom = (2 * torch.rand(4, count, generator=generator) - 1).unbind()
    angle, scale = torch.deg2rad(turn * options.rotation), 1 + zoom * options.zoom
    cos, sin, side = scale * angle.cos(), scale * angle.sin(), 1 - 2 * mirrored.float()
    rows = (side * cos, -side * sin, 2 * options.shift * dx, sin, cos, 2 * options.shift * dy)
    affine = torch.stack(rows, dim=-1).view(count, 2, 3)
    images = frames.transpose(0, 1).flatten(1, 2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).unflatten(1, (steps, 2)).transpose(0, 1)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], options: Training, part: Part = WHOLE) -> Tensor:
    """What a part of a batch adds to its cross-entropy with smoothed labels, plus the spike penalty."""
    frames, lengths, labels = batch
    size = len(labels)
    rows = part.rows(size)
    inputs = frames[:, rows], lengths[rows]
    return training.cross_entropy(model, inputs, labels[rows], options, size, part.share(size))


@torch.inference_mode()
def answers(model: GestureNetwork, samples: Samples) -> Answers:
    """The model's logits for recordings, each computed on its own."""
    with evaluating(model):
        logits = shared(lambda part: [model.logits(frames).cpu() for frames in part], samples.frames)
    return Answers(torch.stack(logits), torch.tensor(samples.labels))


def accuracy(model: GestureNetwork, samples: Samples) -> float:
    """Share of the recordings whose right label is the most probable, in percent."""
    return calibration.accuracy(answers(model, samples))


def calibration_answers(model: GestureNetwork, validation: Samples, test: Samples) -> dict[str, Answers]:
    """The answers that :mod:`recipes.calibration` fits a temperature on, and those that it only measures it on."""
    return {
        "the recordings of val (simulated people)": answers(model, validation),
        "the recordings of test (simulated people)": answers(model, test),
    }


class Trainer(training.Trainer[GestureNetwork]):
    """Trains a classifier of recordings; its score is the accuracy on the held-out ones."""

    metric, metric_label = "accuracy", "accuracy on val (%)"
    options: Training

    def __init__(
        self,
        samples: Samples,
        validation: Samples,
        run: Path,
        config: GestureConfig,
        options: Training,
        initial: str | None = None,
        backend: str = "auto",
    ):
        self.samples, self.validation = samples, validation
        super().__init__(run, config, lambda: GestureNetwork(config), options, initial, backend)

    def plan(self, seed: int) -> list[Batch]:
        return batches(len(self.samples.labels), self.options.batch, seed)

    def size_of(self, batch: Batch) -> int:
        return len(batch.places)

    def loss_of(self, batch: Batch, part: Part = WHOLE) -> Tensor:
        device = self.accelerator.device
        return loss_of(self.network, tensors(self.samples, batch, self.options, device), self.options, part)

    def score(self, model: GestureNetwork) -> float:
        return accuracy(model, self.validation)

    def profiled(self) -> list[tuple[Tensor]]:
        frames, labels = self.validation
        return list(calls(self.network, Samples(frames[: training.PROFILED], labels[: training.PROFILED])))


Cache = Annotated[Path | None, typer.Option(help="folder where frames are kept; DATA/bins unless given")]


def trainer(
    data: Path,
    run: Path,
    config: GestureConfig,
    options: Training,
    initial: command.Initial = None,
    backend: str = "auto",
    cache: Cache = None,
) -> Trainer:
    """A training on a data set in one of the three layouts; ``initial`` may name a model to start from."""
    if initial is not None:
        _check_gesture_model(initial)
        config = training.begun(initial, config, CONFIG)
    samples, validation = (read_samples(data, split, config.binning(), cache) for split in ("train", "val"))
    return Trainer(samples, validation, run, config, options, initial, backend)


def _check_gesture_model(name: str) -> None:
    """Raise ValueError for any model but one for these gestures."""
    info = zoo.info(name)
    if info.architecture != GestureNetwork.architecture or info.config["architecture_config"]["labels"] != [*GESTURES]:
        raise ValueError(f"{name!r} is no model for the eleven gestures")


TUNING_OPTIONS = Training(epochs=12, learning_rate=2e-4, mirror=False)


def own_examples(model: GestureNetwork, rows: list[Own]) -> list[Example]:
    """Recordings and their labels, which the model has, as examples to fine-tune on.

    Recordings are what ``predict`` takes. None is mirrored in training, as that may change its label.
    """
    found = []
    for row in rows:
        with naming(row.where):
            events = as_events(row.input)
            with naming(row.input):
                found.append((bin_events(events, model.binning), model.typed_config.labels.index(row.answer)))
    return found


def own_batches(examples: list[Example], size: int, seed: int) -> list[list[Example]]:
    plan = batches(len(examples), min(size, TUNING_OPTIONS.batch), seed)
    return [[examples[place] for place in batch.places] for batch in plan]


def own_loss(model: GestureNetwork, examples: list[Example], options: Training) -> Tensor:
    batch = Batch(list(range(len(examples))), int(torch.randint(2**31, ())))
    return loss_of(model, tensors(_samples(examples), batch, options, model.output.weight.device), options)


def own_score(model: GestureNetwork, examples: list[Example]) -> float:
    return accuracy(model, _samples(examples))


def _samples(examples: list[Example]) -> Samples:
    frames, labels = map(list, zip(*examples))
    return Samples(frames, labels)


def familiar_examples(model: GestureNetwork) -> list[Example]:
    """One second of each gesture by a simulated person; empty for a model with other labels."""
    if list(model.typed_config.labels) != [*GESTURES]:
        return []
    events, parts = gesture_simulator.trial(gesture_simulator.STRANGER, "led", GESTURES, 1.0, seed=0)
    return [(bin_events(events.between(start, end), model.binning), GESTURES.index(name)) for name, start, end in parts]


# ---- Measuring and the card ----


def read_for(data: Path, split: str, config: GestureConfig, cache: Cache = None) -> Samples:
    """The recordings of a split, as a network with this config takes them."""
    return read_samples(data, split, config.binning(), cache)


def evaluate(model: GestureNetwork, samples: Samples) -> tuple[list[str], dict[str, Any]]:
    """The model's labels of the recordings, and the share of right ones in percent."""
    found = answers(model, samples)
    labels = [model.typed_config.labels[int(place)] for place in found.logits.argmax(1)]
    return labels, {"accuracy": calibration.accuracy(found)}


def calls(model: GestureNetwork, samples: Samples) -> Iterator[tuple[Tensor]]:
    """Each recording as the network takes it."""
    for frames in samples.frames:
        yield (torch.from_numpy(frames).to(model.output.weight.device).unsqueeze(1),)


DATA_SET = {
    "name": "Simulated DVS128 gestures",
    "type": "simulated-dvs128-gesture",
    "url": SOURCE,
    "licence": "made by recipes/gesture_simulator.py, free of rights; the link is to the real data set",
    "use": "Simulated recordings in the layout of IBM's; training, val and test have different people.",
}


def example_of(model: GestureNetwork) -> dict[str, Any]:
    """The card's example: a simulated person whom no model has seen."""
    label, probabilities = model.predict(gesture_simulator.example(EXAMPLE))
    rounded = {name: round(value, 3) for name, value in probabilities.items()}
    return {"input": EXAMPLE_FILE, "output": [label, rounded]}


def columns_of(scores: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The scores of the card."""

    def column(split: str, people: str) -> dict[str, str]:
        signature = f"percent of {scores['recordings'][split]} recordings of {people}, each computed on its own"
        return {"title": f"accuracy %, {split} (simulated)", "type": "accuracy", "split": split, "signature": signature}

    return {
        "accuracy_val": column("val", "people held out from the training part"),
        "accuracy_test": column("test", "the test people"),
    }


def add_real_recordings(
    metrics: dict[str, Any],
    groups: dict[str, list[Path]],
    n_mnist: Annotated[Path | None, typer.Option(help="what recipes.n_mnist compare wrote")] = None,
) -> dict[str, bytes]:
    """Add to a card what :mod:`recipes.n_mnist` found for networks of the same kinds, if its results are given."""
    if n_mnist is None:
        return {}
    real = read_json(n_mnist, "let recipes.n_mnist write it again", "recipes.n_mnist writes it")
    for row, runs in zip(metrics["results"], groups.values()):
        found = real["networks"].get(read_run_config(runs[0])["model"]["mixer"], {})
        row["n_mnist_accuracy_mean"] = found.get("accuracy_test")
        row["n_mnist_standard_deviation"] = found.get("standard_deviation")
    metrics["commands"] += real["commands"]
    metrics["data"]["use"] += (
        " Columns with n mnist are for networks of the same kinds, trained on a sample of real N-MNIST recordings."
    )
    return {}


TUNING = Tuning(
    columns=("file", "label"),
    noun="recording",
    training=TUNING_OPTIONS,
    examples=own_examples,
    batches=own_batches,
    loss_of=own_loss,
    score=own_score,
    familiar=familiar_examples,
)
RECIPE = Recipe(
    name="dvs_gesture",
    title="Gestures from an event camera.",
    task=TASKS["video-classification"],
    data="folder of the data set, in IBM's, SpikingJelly's or Tonic's layout",
    config=CONFIG,
    training=Training(),
    fixed=("height", "width", "temperature"),
    trainer=trainer,
    read=read_for,
    evaluate=evaluate,
    scores=lambda model, validation, test: calibration.scores(
        calibration_answers(model, validation, test), BAND, "recordings"
    ),
    features=("labels", "height", "width", "pool", "bin_by", "bin_size"),
    content=lambda samples: (part.tobytes() for part in (*samples.frames, np.array(samples.labels))),
    calls=calls,
    inputs=lambda model, samples: [(torch.from_numpy(frames).unsqueeze(1),) for frames in samples.frames],
    counted="the {count} recordings of val, one at a time",
    networks=NETWORKS,
    columns=columns_of,
    band=BAND,
    example=example_of,
    source=lambda scores: dict(DATA_SET),
    checkpoint="val, people held out from the training part, by accuracy; the seed likewise",
    intended=INTENDED,
    limits=LIMITS,
    sources=SOURCES,
    summary=SUMMARY,
    before=(
        "python -m recipes.gesture_simulator write DATA",
        f"python -m recipes.gesture_simulator example {EXAMPLE_FILE} --gesture '{EXAMPLE}'",
    ),
    noun="recordings",
    tuning=TUNING,
    calibrated=calibration_answers,
    complete=add_real_recordings,
)


def command_line() -> typer.Typer:
    return command.command_line(RECIPE)


if __name__ == "__main__":
    command_line()()

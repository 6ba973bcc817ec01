"""Digits from a real event camera: a sample of N-MNIST, to test the gesture networks on real recordings.

The data is ``train.npz`` and ``test.npz`` with arrays ``x, y, p, t_us, label`` and ``offsets``; recording k is
``offsets[k]:offsets[k + 1]``. N-MNIST was recorded by moving an ATIS camera in front of MNIST digits on a screen; 34 by
34 of its pixels are kept (Orchard et al., Frontiers in Neuroscience, 2015,
https://www.garrickorchard.com/datasets/n-mnist).

    python -m recipes.n_mnist compare --data N_MNIST --runs runs/n_mnist --output n_mnist.json

Every fifth training recording is held out to choose the checkpoint; the test recordings are scored once per run.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from recipes import dvs_gesture, report
from recipes.dvs_gesture import Samples, Trainer, Training
from recipes.run_folder import read_run_config
from zoo import errors
from zoo.inputs.data_files import read_npz, warranted
from zoo.inputs.events import as_events, bin_events, naming
from zoo.networks.gesture import MIXERS, GestureConfig

DIGITS = [str(digit) for digit in range(10)]
COLUMNS = {"t_us": "t", "x": "x", "y": "y", "p": "p"}
"""The columns of events, and the name of each in :func:`zoo.inputs.events.as_events`."""
HELD_OUT = 5
"""Every fifth recording."""
CONFIG = GestureConfig(DIGITS, 34, 34, pool=1, bin_size=10_000, channels=16, head=48)
TRAINING = Training(epochs=20, learning_rate=4e-3, average=0.98, rotation=10.0, mirror=False)


def read_samples(folder: Path, split: str) -> Samples:
    """The recordings of ``train``, ``val`` (every fifth of the training file) or ``test`` as frames.

    Raises FileNotFoundError, and ValueError for a file that is damaged or whose recordings are wrong, with their place.
    """
    if split not in dvs_gesture.SPLITS:
        raise errors.unknown("split", split, dvs_gesture.SPLITS)
    path = folder / f"{'test' if split == 'test' else 'train'}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, a part of the N-MNIST sample")
    data = read_npz(path, (*COLUMNS, "label", "offsets"), warranted(path))
    with naming(path):
        _check_places(data)
    frames, labels = [], []
    for k, label in enumerate(data["label"].tolist()):
        if split == "test" or (k % HELD_OUT == 0) == (split == "val"):
            own = slice(data["offsets"][k], data["offsets"][k + 1])
            with naming(f"{path}, recording {k}"):
                fields = {field: data[column][own] for column, field in COLUMNS.items()}
                frames.append(bin_events(as_events(fields), CONFIG.binning()))
            labels.append(label)
    return Samples(frames, labels)


def _check_places(data: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless every recording has a digit and lies within the columns, which have one length."""
    for name, values in data.items():
        if values.ndim != 1 or (name not in COLUMNS and values.dtype.kind not in "iu"):
            raise ValueError(f"{name} must hold whole numbers, [N]; it is {values.dtype} {list(values.shape)}")
    lengths = {len(data[name]) for name in COLUMNS}
    if len(lengths) > 1:
        raise ValueError(f"{', '.join(COLUMNS)} must be of one length; they are {sorted(lengths)}")
    label, offsets = data["label"], data["offsets"]
    if len(label) and (label.min() < 0 or label.max() >= len(DIGITS)):
        raise ValueError(f"label must be from 0 to {len(DIGITS) - 1}; got {label.min()} to {label.max()}")
    if len(offsets) != len(label) + 1:
        raise ValueError(f"offsets must be one more than the {len(label)} labels; there are {len(offsets)}")
    if offsets[0] < 0 or offsets[-1] > max(lengths) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"offsets must rise from 0 to {max(lengths)} at most, the number of events")


def compare(folder: Path, runs: Path, output: Path, seeds: int, options: Training, mixers: list[str]) -> dict[str, Any]:
    """Train and measure every network with every seed; write the means and spreads to ``output``.

    Runs in ``runs`` that are already trained and measured are not repeated.
    """
    parts = {split: read_samples(folder, split) for split in ("train", "val", "test")}
    networks = {}
    for mixer in mixers:
        accuracies, rates = [], []
        for seed in range(seeds):
            run = runs / f"{mixer}-{seed}"
            trainer = Trainer(
                parts["train"], parts["val"], run, replace(CONFIG, mixer=mixer), replace(options, seed=seed)
            )
            trainer.train()
            scores = report.measure(dvs_gesture.RECIPE, run, parts["val"], parts["test"])
            accuracies.append(scores["accuracy_test"])
            rates.append(scores["mean_spike_rate"])
        networks[mixer] = {
            "accuracy_test": round(mean(accuracies), 2),
            "standard_deviation": round(stdev(accuracies), 2) if seeds > 1 else None,
            "accuracies": accuracies,
            "parameters": scores["parameters"],
            "mean_spike_rate": None if None in rates else round(mean(rates), 4),
        }
    train, val, test = (len(samples.labels) for samples in parts.values())
    found = {
        "data": f"a sample of N-MNIST: {train} recordings to train, {val} to choose the checkpoint, {test} to score",
        "networks": networks,
        "training": read_run_config(runs / f"{mixers[0]}-0")["training"],
        "commands": [_command(seeds, options, mixers)],
    }
    output.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _command(seeds: int, options: Training, mixers: list[str]) -> str:
    """The command that repeats a comparison, with all options that differ from the defaults."""
    usual = asdict(TRAINING)
    changed = {name: value for name, value in asdict(options).items() if value != usual[name]}
    text = "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
    text += "".join(f" --mixer {mixer}" for mixer in mixers) if mixers != [*MIXERS] else ""
    folders = "--data N_MNIST --runs runs/n_mnist --output n_mnist.json"
    return f"python -m recipes.n_mnist compare {folders} --seeds {seeds}{text}"


def command_line():
    """The commands ``compare`` and ``evaluate``."""
    from typing import Annotated

    import typer

    import zoo
    from recipes.command import commands

    app = commands("A sample of N-MNIST.")
    Data = Annotated[Path, typer.Option(help="folder with train.npz and test.npz")]

    @app.command("compare")
    def compare_command(
        data: Data,
        runs: Annotated[Path, typer.Option(help="folder for the runs; interrupted runs are continued")],
        output: Annotated[Path, typer.Option(help="JSON file for the results")],
        seeds: int = 5,
        mixer: Annotated[list[str] | None, typer.Option(help="only this network; may be repeated")] = None,
        epochs: int = TRAINING.epochs,
        learning_rate: float = TRAINING.learning_rate,
    ):
        """Train the spiking network and its twins over several seeds and score them on the test recordings."""
        options = replace(TRAINING, epochs=epochs, learning_rate=learning_rate)
        print(json.dumps(compare(data, runs, output, seeds, options, mixer or [*MIXERS]), indent=2))

    @app.command()
    def evaluate(model: Path, data: Data, split: str = "val"):
        """Print the accuracy of a trained network on one split."""
        print(json.dumps({"accuracy": dvs_gesture.accuracy(zoo.load(model), read_samples(data, split))}))

    return app


if __name__ == "__main__":
    command_line()()

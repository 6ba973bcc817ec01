"""Calibration of a classifier's probabilities by one temperature (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

A model is calibrated if eight in ten of the answers that it gives with probability 0.8 are right. The temperature is
fitted on the data that chose the checkpoint, never on test data. It changes no label and so no accuracy.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import zoo
from recipes.recipe import Band
from zoo import files, saving

BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
"""The range of temperatures. If every answer is right, likelihood alone would choose a temperature of zero."""


class Answers(NamedTuple):
    """A model's answers for some inputs (``logits [N, labels]``) and the right labels (``labels [N]``)."""

    logits: Tensor
    labels: Tensor

    def first(self, count: int) -> "Answers":
        return Answers(self.logits[:count], self.labels[:count])


def accuracy(answers: Answers) -> float:
    """Share of right answers, in percent."""
    return 100 * float((answers.logits.argmax(1) == answers.labels).double().mean())


def fit_temperature(answers: Answers) -> float:
    """The temperature at which the right labels are most likely, to four decimal places.

    The mean log-likelihood is concave in the inverse temperature, so its slope shows on which side the best one is.
    """
    logits, low, high = answers.logits.double(), 1 / HIGHEST, 1 / LOWEST
    right = logits.gather(1, answers.labels.unsqueeze(1)).squeeze(1)
    for _ in range(50):
        inverse = (low + high) / 2
        expected = ((inverse * logits).softmax(1) * logits).sum(1)
        low, high = (inverse, high) if (right - expected).mean() > 0 else (low, inverse)
    return round(2 / (low + high), 4)


def calibration_error(answers: Answers, temperature: float = 1.0) -> float:
    """Expected calibration error: the difference between predicted probability and share of right predictions.

    Predictions are sorted into ``BINS`` bins of equal width by their probability (a bin includes its upper end). The
    absolute differences of the bins are averaged, each weighted by its share of the predictions.
    """
    probability, predicted = (answers.logits.double() / temperature).softmax(1).max(1)
    difference = probability - (predicted == answers.labels).double()
    places = (probability * BINS).ceil().long().clamp(1, BINS) - 1
    sums = torch.zeros(BINS, dtype=torch.double).index_add_(0, places, difference)
    return float(sums.abs().sum()) / len(probability)


def measure(on: dict[str, Answers]) -> dict[str, Any]:
    """The temperature fitted on the first answers in ``on``, and the calibration errors without and with it on all."""
    first, *_ = on
    temperature = fit_temperature(on[first])
    rows = [
        {
            "name": name,
            "inputs": len(answers.labels),
            "calibration_error_at_temperature_1": round(calibration_error(answers), 4),
            "calibration_error": round(calibration_error(answers, temperature), 4),
        }
        for name, answers in on.items()
    ]
    return {"temperature": temperature, "fitted_on": first, "rows": rows}


def scores(on: dict[str, Answers], band: Band, noun: str) -> dict[str, Any]:
    """The scores of a classifier from its answers on ``val`` and on the test set; ``noun`` is the key of the counts."""
    validation, test = on.values()
    return {
        "accuracy_val": round(accuracy(validation), 2),
        band.column: round(accuracy(validation.first(band.inputs)), 2),
        "accuracy_test": round(accuracy(test), 2),
        "calibration": measure(on),
        noun: {"val": len(validation.labels), "test": len(test.labels)},
    }


def set_temperature(model: Any, temperature: float) -> None:
    """Set the temperature of a loaded classifier."""
    model.typed_config = replace(model.typed_config, temperature=temperature)


def bundled(model: Any, scores: dict[str, Any], recipe: str, name: str) -> dict[str, Any]:
    """The card's entry on a model's probabilities, from the ``scores`` of its run; sets the model's temperature.

    Empty for scores that were measured without calibration: the card then says so.
    """
    if "calibration" not in scores:
        return {}
    set_temperature(model, scores["calibration"]["temperature"])
    return {"calibration": scores["calibration"] | {"command": command_of(recipe, name)}}


def command_of(recipe: str, name: str) -> str:
    return f"python -m recipes.{recipe} calibrate ./{name} --data DATA"


def calibrate(
    folder: Path,
    recipe: str,
    labels: Sequence[str],
    answers: Callable[[Any], dict[str, Answers]],
    example: Callable[[Any], Any],
) -> dict[str, Any]:
    """Fit the temperature of a saved model on the first of its ``answers``; write it and its effect to the folder.

    The card is made anew; if it had an ``example``, that is computed again. The weights do not change. Raises
    ValueError for a model whose labels are not the ``labels`` of the recipe's data.
    """
    folder = folder.resolve()
    own = zoo.info(folder).config["architecture_config"].get("labels")
    if own != list(labels):
        raise ValueError(f"{folder} is no model for the labels {', '.join(labels)}")
    model, metrics = zoo.load(folder), files.read_metrics(folder)
    measured = measure(answers(model))
    set_temperature(model, measured["temperature"])
    metrics["calibration"] = measured | {"command": command_of(recipe, folder.name)}
    if "example" in metrics:
        metrics["example"] = example(model)
    saving.rewrite_config(folder, metrics, temperature=measured["temperature"])
    return measured

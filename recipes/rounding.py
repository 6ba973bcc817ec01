"""The weights of a saved model in eight bits, and what fewer bits would cost its score."""

import copy
from pathlib import Path
from typing import Any

import zoo
from recipes import report
from recipes.recipe import Recipe
from zoo import files
from zoo.engine.precision import Precise
from zoo.metrics import pictures_of

FEWER = (8, 6, 5, 4, 3)
"""The bits that are tried."""


def round_weights(recipe: Recipe, folder: Path, validation: Any, test: Any, **options: Any) -> dict[str, Any]:
    """Round the weights of the model in ``folder`` to eight bits, and measure its scores again, in integers.

    The card's row of the model gets its new scores and spike rate; a table says what fewer bits cost on ``val``. The
    rows of other models stay. Raises ValueError for a model without measured scores, or one that does not compute in
    integers.
    """
    folder = folder.resolve()
    model, metrics = zoo.load(folder), files.read_metrics(folder)
    own = next((row for row in metrics.get("results", []) if row["name"] == folder.name), None)
    if own is None:
        raise ValueError(f"{folder} has no measured scores of its own")
    if not isinstance(model, Precise):
        raise ValueError(f"{folder} is a model that always computes in floats")
    rows = [{"name": "as trained"} | on_val(recipe, model, validation, options)]
    for bits in FEWER:
        fewer = copy.deepcopy(model)
        fewer.round_weights(bits)
        rows.append({"name": f"{bits} bits"} | on_val(recipe, fewer, validation, options))
    model.round_weights()
    model.precision = "int8"
    scores = recipe.scores(model, validation, test, **options)
    own |= {column: scores[column] for column in recipe.columns(scores)}
    own["mean_spike_rate"] = report.spike_rate(model, recipe.calls(model, validation))
    metrics.pop("weights_sha256", None)  # the new scores are of the rounded weights
    metrics["score_band"] = report.score_band(recipe, scores)
    command = f"python -m recipes.{recipe.name} round ./{folder.name} --data DATA"
    metrics["weight_bits"] = {"rows": rows, "command": command}
    pictures = {name: (folder / name).read_bytes() for name in pictures_of(metrics)}
    zoo.save(model, folder, metrics, pictures)
    return own


def on_val(recipe: Recipe, model: Any, validation: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The main score on ``val``, computed in floats."""
    model.precision = "float32"
    return {f"{recipe.score}_val": round(recipe.evaluate(model, validation, **options)[1][recipe.score], 2)}

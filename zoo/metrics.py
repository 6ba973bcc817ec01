"""What was measured of a model: the layout of ``metrics.json``, and its check.

Whoever measured the model writes it. All keys are optional; the card says that missing ones are unknown. ``results``
needs ``scores`` and ``data`` too::

    summary           one sentence: what the model is
    intended          what it is for, and what it is not for
    base_model        the model whose weights the training began with, as zoo.load names it
    fine_tuning       {"data": on what, "outcome": what came of it, with the losses and scores before and after}
    load_as           what to write in zoo.load(); "./<name>" unless given
    example           {"input": [...], "output": [...]}: a call of the model's method and what it returned
    languages         ["de", "en"], as ISO codes
    licence           of the weights, as the Hub writes it: "apache-2.0"
    scores            {column: {"title": "BLEU, test 2016", "type": "bleu", "split": "test_2016_flickr",
                      "signature": how it was computed, as the scoring tool prints it}}
    results           rows {"name": ..., column: value}: the model, under its own name, and its twins
    benchmarks        [{"score": column, "dataset": a benchmark on the Hub, "org/name", "task": its task there}]: what
                      the Hub shows on that benchmark's page, from .eval_results
    published         rows of the same kind, of other people's figures, each with a "source"
    costs             {"inputs": on what it was counted, "rows": rows of the same kind, means per input,
                      "comparison": sentences, "plot": the PNG file beside the card, or null}
    sparsity          rows of the same kind, one per point of the curve of score against spike rate
    sparsity_plot     the PNG file beside the card that shows the curve
    bits              {"rows": rows {"name": how many bits a spike has, scores}, "command": what trains and compares
                      these networks again, "plot": the PNG file beside the card that shows the curve}
    pictures          [{"file": a PNG file beside the card, "caption": what it shows}]
    weight_bits       {"rows": rows {"name": how the weights are held, a score}, "command": what measures it again}
    words             {"rows": rows {"name": a model, word errors}, "command": what measures them again}
    weights_sha256    the SHA-256 of the weights that the results are of; zoo.save() adds it
    score_band        {"score": column, "split": ..., "inputs": 100, "low": ..., "high": ...}: where a quick check on
                      that many inputs should land
    calibration       {"temperature": fitted by likelihood, "fitted_on": on which inputs, "rows": rows {"name": which
                      inputs, "inputs": how many, "calibration_error_at_temperature_1": ..., "calibration_error": with
                      the temperature}, "command": what fits and measures it again}
    commands          the exact commands that trained and measured the model
    seeds             the seeds of those commands
    checkpoint_split  the split of the data that chose the checkpoint
    data              {"name": ..., "type": the Hub's name for it, "url": ..., "licence": ..., "use": what was used}
    limits            sentences: what the model cannot do
    sources           ["paper, link", ...]

A column is a score (named in ``scores``) or anything else that was counted: ``parameters``,
``mean_spike_rate``, ``multiplications_per_input``; ``<score>_mean`` and ``<score>_standard_deviation`` are over the
seeds; a column that starts with ``estimated_`` is an estimate. Values are numbers, text, or null where nothing was
measured.
"""

import math
import re
from typing import Any

from zoo import errors

KEYS = {
    "summary": str,
    "intended": str,
    "base_model": str,
    "fine_tuning": dict,
    "load_as": str,
    "example": dict,
    "languages": list,
    "licence": str,
    "scores": dict,
    "results": list,
    "benchmarks": list,
    "published": list,
    "costs": dict,
    "sparsity": list,
    "sparsity_plot": str,
    "bits": dict,
    "pictures": list,
    "weight_bits": dict,
    "words": dict,
    "weights_sha256": str,
    "score_band": dict,
    "calibration": dict,
    "commands": list,
    "seeds": list,
    "checkpoint_split": str,
    "data": dict,
    "limits": list,
    "sources": list,
}
_INNER_KEYS = {
    "fine_tuning": ("data", "outcome"),
    "example": ("input", "output"),
    "costs": ("inputs", "rows", "comparison", "plot"),
    "score_band": ("score", "split", "inputs", "low", "high"),
    "calibration": ("temperature", "fitted_on", "rows", "command"),
    "weight_bits": ("rows", "command"),
    "words": ("rows", "command"),
    "bits": ("rows", "command", "plot"),
    "data": ("name", "type", "url", "licence", "use"),
}
_SCORE_KEYS = ("title", "type", "split", "signature")
_KINDS: dict[tuple[str, str], tuple[type, ...]] = {
    ("example", "input"): (str, list),
    ("example", "output"): (str, list),
    ("costs", "rows"): (list,),
    ("costs", "comparison"): (list,),
    ("costs", "plot"): (str, type(None)),
    ("score_band", "inputs"): (int,),
    ("score_band", "low"): (int, float),
    ("score_band", "high"): (int, float),
    ("calibration", "temperature"): (int, float),
    ("calibration", "rows"): (list,),
    ("weight_bits", "rows"): (list,),
    ("words", "rows"): (list,),
    ("bits", "rows"): (list,),
}
"""The types of inner keys; text if not listed."""
_ROWS: dict[str, tuple[str, ...]] = {
    "published": ("name", "source"),
    "results": ("name",),
    "benchmarks": ("score", "dataset", "task"),
    "costs": ("name",),
    "calibration": ("name",),
    "weight_bits": ("name",),
    "words": ("name",),
    "bits": ("name",),
    "sparsity": (),
    "pictures": ("file", "caption"),
}
"""The keys that hold rows, and the columns of text that each row needs."""
_LISTS_OF_TEXT = ("languages", "commands", "limits", "sources")


def pictures_of(metrics: dict[str, Any]) -> list[str]:
    """The PNG files that the card shows; they are in the same folder."""
    named = [metrics.get("costs", {}).get("plot"), metrics.get("sparsity_plot"), metrics.get("bits", {}).get("plot")]
    return [name for name in named if name] + [picture["file"] for picture in metrics.get("pictures", [])]


def check_metrics(name: str, metrics: dict[str, Any]) -> None:
    """Raise ValueError unless ``metrics`` is laid out as this module says, for the model ``name``."""
    for key, value in metrics.items():
        if key not in KEYS:
            raise errors.unknown("entry of the metrics", key, KEYS)
        if type(value) is not KEYS[key]:
            raise ValueError(f"metrics[{key!r}] must be a {KEYS[key].__name__}; got {value!r}")
    for key in _LISTS_OF_TEXT:
        _check_texts(f"metrics[{key!r}]", metrics.get(key, []))
    if any(type(seed) is not int for seed in metrics.get("seeds", [])):
        raise ValueError(f"metrics['seeds'] must be whole numbers; got {metrics['seeds']!r}")
    for key in _INNER_KEYS.keys() & metrics.keys():
        _check_inner(key, f"metrics[{key!r}]", metrics[key], _INNER_KEYS[key])
    for column, score in metrics.get("scores", {}).items():
        _check_inner("scores", f"metrics['scores'][{column!r}]", score, _SCORE_KEYS)
    for key in _ROWS:
        for row in metrics.get(key, {}).get("rows", ()) if KEYS[key] is dict else metrics.get(key, ()):
            _check_row(key, row)
    for name_of_picture in pictures_of(metrics):
        if not re.fullmatch(r"[a-z0-9_-]+\.png", str(name_of_picture)):
            raise ValueError(f"a picture of the card is a PNG file in lower case; got {name_of_picture!r}")
    _check_results(name, metrics)


def _check_inner(key: str, where: str, value: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ValueError(f"{where} must have exactly the keys {', '.join(keys)}; got {value!r}")
    for inner, held in value.items():
        kinds = _KINDS.get((key, inner), (str,))
        if type(held) not in kinds:
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{where} must have {names} for {inner!r}; got {held!r}")
        if isinstance(held, list) and inner in ("input", "comparison"):
            _check_texts(f"{where}[{inner!r}]", held)


def _check_texts(where: str, value: list[Any]) -> None:
    if any(type(text) is not str for text in value):
        raise ValueError(f"{where} must be a list of texts; got {value!r}")


def _check_row(key: str, row: Any) -> None:
    if not isinstance(row, dict) or any(type(row.get(column)) is not str for column in _ROWS[key]):
        raise ValueError(f"each row of metrics[{key!r}] must have text for {' and '.join(_ROWS[key])}; got {row!r}")
    for column, value in row.items():
        number = type(value) is int or (type(value) is float and math.isfinite(value))
        if not number and not isinstance(value, str | None):
            raise ValueError(f"{column!r} in metrics[{key!r}] must be a finite number, text or null; got {value!r}")


def _check_results(name: str, metrics: dict[str, Any]) -> None:
    rows = metrics.get("results")
    for benchmark in metrics.get("benchmarks", []):
        own: dict[str, Any] = next((row for row in rows or () if row["name"] == name), {})
        if benchmark["score"] not in metrics.get("scores", {}) or own.get(benchmark["score"]) is None:
            raise ValueError(f"metrics['benchmarks'] names {benchmark['score']!r}, which is no score of the model")
    if not rows:
        return
    for key in ("scores", "data"):
        if key not in metrics:
            raise ValueError(f"metrics with results need {key!r} too")
    if [row["name"] for row in rows].count(name) != 1:
        raise ValueError(f"metrics['results'] must have one row of the model's own name, {name!r}")
    columns = {column for row in rows for column in row}
    for column in (*metrics["scores"], *([metrics["score_band"]["score"]] if "score_band" in metrics else [])):
        if column not in columns:
            raise ValueError(f"no row of metrics['results'] has the score {column!r}")

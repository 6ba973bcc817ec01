"""The model card (README.md), made from ``config.json`` and ``metrics.json`` and from nothing else.

``metrics.json`` is written by whoever measured the model. All keys are optional; what is not there is said to
be unknown. With ``results`` there must be ``scores`` and ``data`` too::

    summary           one sentence: what the model is
    load_as           what to write in zoo.load(); "./<name>" unless given
    example           {"input": [...], "output": [...]}: a call of the model's method and what it returned
    languages         ["de", "en"], as ISO codes
    licence           of the weights, as the Hub writes it: "apache-2.0"
    scores            {column: {"title": "BLEU, test 2016", "type": "bleu", "split": "test_2016_flickr",
                      "signature": how it was computed, as the scoring tool prints it}}
    results           rows {"name": ..., column: value}: the model, under its own name, and its twins
    published         rows of the same kind, of other people's figures, each with a "source"
    costs             {"inputs": on what it was counted, "rows": rows of the same kind, means an input, "comparison":
                      sentences, "plot": a picture beside the card or null}
    sparsity          rows of the same kind, one a point of the curve of score against spike rate
    sparsity_plot     the PNG file beside the card that shows the curve
    score_band        {"score": column, "split": ..., "inputs": 100, "low": ..., "high": ...}: where a quick check
                      on that many inputs should land
    calibration       {"temperature": fitted by likelihood, "fitted_on": on which inputs, "rows": rows {"name": which
                      inputs, "inputs": how many, "calibration_error_at_temperature_1": ..., "calibration_error": with
                      the temperature}, "command": what fits and measures it again}
    commands          the exact commands that trained and measured the model
    seeds             the seeds they ran with
    checkpoint_split  the split of the data that chose the checkpoint
    data              {"name": ..., "type": the Hub's name for it, "url": ..., "licence": ..., "use": what was used}
    limits            sentences: what the model cannot do
    sources           ["paper, link", ...]

A column is a score (named in ``scores``) or anything else that was counted: ``parameters``,
``mean_spike_rate``, ``multiplications_per_input``; ``<score>_mean`` and ``<score>_standard_deviation`` are over the
seeds; a column that starts with ``estimated_`` is an estimate. Values are numbers, text, or null where nothing was
measured.
"""

import json
import math
import re
from typing import TYPE_CHECKING, Any

from zoo import errors
from zoo.figures import title
from zoo.registry import TASKS

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

KEYS = {
    "summary": str,
    "load_as": str,
    "example": dict,
    "languages": list,
    "licence": str,
    "scores": dict,
    "results": list,
    "published": list,
    "costs": dict,
    "sparsity": list,
    "sparsity_plot": str,
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
    "example": ("input", "output"),
    "costs": ("inputs", "rows", "comparison", "plot"),
    "score_band": ("score", "split", "inputs", "low", "high"),
    "calibration": ("temperature", "fitted_on", "rows", "command"),
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
}
"""What the inner keys hold; text, where nothing is said."""
_ROWS: dict[str, tuple[str, ...]] = {
    "published": ("name", "source"),
    "results": ("name",),
    "costs": ("name",),
    "calibration": ("name",),
    "sparsity": (),
}
"""What holds rows, and the columns of text that each of them needs."""
_LISTS_OF_TEXT = ("languages", "commands", "limits", "sources")


def render_card(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The card as Markdown, with the front matter that the Hub reads (task, licence, scores as a model index).

    Raises ValueError for metrics that are not laid out as this module says.
    """
    check_metrics(config["name"], metrics)
    sections = (_what, _use, _results, _probabilities, _costs, _sparsity, _training, _data, _limits)
    body = "\n\n".join(text for text in (section(config, metrics) for section in sections) if text)
    return f"---\n{_front_matter(config, metrics).to_yaml()}\n---\n\n{body}\n"


def pictures(metrics: dict[str, Any]) -> list[str]:
    """The PNG files that the card shows, which lie beside it."""
    named = metrics.get("costs", {}).get("plot"), metrics.get("sparsity_plot")
    return [name for name in named if name]


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
    for name_of_picture in pictures(metrics):
        if not re.fullmatch(r"[a-z0-9_-]+\.png", str(name_of_picture)):
            raise ValueError(f"a picture of the card is a PNG file in lower case; got {name_of_picture!r}")
    for key in _ROWS:
        for row in metrics.get(key, {}).get("rows", ()) if KEYS[key] is dict else metrics.get(key, ()):
            _check_row(key, row)
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


def _front_matter(config: dict[str, Any], metrics: dict[str, Any]) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData  # here, for who checks metrics alone

    scores = metrics.get("scores", {})
    own = _own_row(config, metrics)
    data = metrics.get("data", {})
    evaluated = [
        EvalResult(
            task_type=config["task"],
            dataset_type=data["type"],
            dataset_name=data["name"],
            dataset_split=score["split"],
            metric_type=score["type"],
            metric_name=score["title"],
            metric_value=own[column],
            metric_args={"signature": score["signature"]},
        )
        for column, score in scores.items()
        if own.get(column) is not None
    ]
    return ModelCardData(
        language=metrics.get("languages"),
        license=metrics.get("licence"),
        library_name="snn-zoo",
        pipeline_tag=config["task"],
        tags=["spiking-neural-network", config["architecture"]],
        metrics=sorted({score["type"] for score in scores.values()}) or None,
        model_name=config["name"],
        eval_results=evaluated or None,
    )


def _own_row(config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    return next((row for row in metrics.get("results", ()) if row["name"] == config["name"]), {})


def _what(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    mebibytes = sum(record["bytes"] for record in config["files"].values()) / 2**20
    lines = [f"# {config['name']}", ""]
    if "summary" in metrics:
        lines += [metrics["summary"], ""]
    lines += [
        f"Architecture `{config['architecture']}` of snn-zoo, "
        f"{config['parameters']:,} parameters, {mebibytes:.1f} MiB, weights in half precision.",
        "",
        "```json",
        json.dumps(config["architecture_config"], indent=2, ensure_ascii=False),
        "```",
    ]
    lines += ["", *(f"- {source}" for source in metrics["sources"])] if "sources" in metrics else []
    return "\n".join(lines)


def _use(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    name = metrics.get("load_as", f"./{config['name']}")
    call = f"model.{TASKS[config['task']]}"
    if example := metrics.get("example"):
        given, answer = (json.dumps(example[key], ensure_ascii=False) for key in ("input", "output"))
        call += f"({given})  # -> {answer}"
    else:
        call += "(inputs)"
    return f"## How to use it\n\n```python\nimport zoo\n\nmodel = zoo.load({json.dumps(name)})\n{call}\n```"


def _results(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    lines = ["## Results", ""]
    if not metrics.get("results"):
        return "\n".join([*lines, "Nothing was measured yet."])
    lines += [_table(metrics["results"], metrics["scores"], bold=config["name"])]
    if len(metrics["results"]) > 1:
        lines += ["", "The other rows are the model's twins: same data, same recipe, same budget."]
    computed = [f"- {score['title']}: `{score['signature']}`" for score in metrics["scores"].values()]
    lines += ["", "How the scores were computed:", "", *computed]
    if "score_band" in metrics:
        band = metrics["score_band"]
        lines += [
            "",
            f"A quick check on the first {band['inputs']} inputs of {band['split']} should land between "
            f"{_cell(band['low'])} and {_cell(band['high'])} ({title(band['score'], metrics['scores'])}).",
        ]
    if metrics.get("published"):
        lines += ["", "Figures that other people published, on the same task:", ""]
        lines += [_table(metrics["published"], metrics["scores"])]
    return "\n".join(lines)


def _probabilities(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if "calibration" not in metrics:
        plain = config["architecture_config"].get("temperature") == 1
        return "## Probabilities\n\nThey are the network's own and were not calibrated." if plain else ""
    found = metrics["calibration"]
    intro = (
        f"The logits are divided by the temperature {_cell(found['temperature'])}, fitted by likelihood on "
        f"{found['fitted_on']}. It changes no label. The expected calibration error is the mean absolute "
        "difference of the predicted label's probability and the share of right labels, over 15 bins of equal width."
    )
    return f"## Probabilities\n\n{intro}\n\n{_table(found['rows'], {})}\n\n```bash\n{found['command']}\n```"


def _costs(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if "costs" not in metrics:
        return ""
    costs = metrics["costs"]
    lines = ["## What it costs", "", f"Arithmetic an input, counted by `snn-zoo profile` on {costs['inputs']}.", ""]
    lines += [_table(costs["rows"], metrics.get("scores", {}), bold=config["name"])]
    lines += ["", *(f"- {sentence}" for sentence in costs["comparison"])] if costs["comparison"] else []
    lines += ["", f"![Spikes by layer]({costs['plot']})"] if costs["plot"] else []
    return "\n".join(lines)


def _sparsity(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if not metrics.get("sparsity"):
        return ""
    intro = (
        "What sparser spikes cost; the model's own point is in bold. Where a penalty on spikes made them sparser, the "
        "point is the last epoch of its run; the others did best on the validation data."
    )
    table = _table(metrics["sparsity"], metrics.get("scores", {}), bold=config["name"])
    picture = f"\n\n![Score against spike rate]({metrics['sparsity_plot']})" if "sparsity_plot" in metrics else ""
    return f"## Sparsity\n\n{intro}\n\n{table}{picture}"


def _training(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    lines = ["## How it was trained", ""]
    if "commands" in metrics:
        lines += ["```bash", *metrics["commands"], "```", ""]
    seeds = ", ".join(map(str, metrics.get("seeds", ()))) or "unknown"
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    return "\n".join(
        [
            *lines,
            f"- Seeds: {seeds}",
            f"- The checkpoint was chosen on: {metrics.get('checkpoint_split', 'unknown')}",
            f"- Saved with: {versions}",
        ]
    )


def _data(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    lines = ["## Data and licence", ""]
    if "data" in metrics:
        data = metrics["data"]
        lines += [
            f"- Data: [{data['name']}]({data['url']}). {data['use']}",
            f"- Licence of the data: {data['licence']}",
        ]
    else:
        lines += ["- Data: unknown"]
    return "\n".join([*lines, f"- Licence of the weights: {metrics.get('licence', 'unknown')}"])


def _limits(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    limits = metrics.get("limits") or ["None were written down, which does not mean that there are none."]
    return "\n".join(["## Limits", "", *(f"- {limit}" for limit in limits)])


def _table(rows: list[dict[str, Any]], scores: dict[str, Any], bold: str | None = None) -> str:
    """Rows as a Markdown table: the name, the scores in their order, then the other columns as they come."""
    present = list(dict.fromkeys(column for row in rows for column in row))
    order = {column: place for place, column in enumerate(("name", *scores))}
    columns = sorted(present, key=lambda column: order.get(column, len(order)))
    texts = {column: all(isinstance(row.get(column), str | None) for row in rows) for column in columns}
    lines = [
        "| " + " | ".join(title(column, scores) for column in columns) + " |",
        "|" + "|".join("---" if texts[column] else "---:" for column in columns) + "|",
    ]
    for row in rows:
        cells = [_cell(row.get(column)) for column in columns]
        if bold is not None and row.get("name") == bold:
            cells = [f"**{cell}**" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value.replace("|", "\\|").replace("\n", " ")
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"

"""The model card (README.md), made only from ``config.json`` and ``metrics.json``.

:mod:`zoo.metrics` says how ``metrics.json`` is laid out.
"""

import json
from typing import TYPE_CHECKING, Any

from zoo import tasks
from zoo.figures import title
from zoo.files import EVAL_RESULTS, WEIGHTS
from zoo.metrics import check_metrics
from zoo.registry import is_repository

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

HALF_PRECISION = 1.5
"""Bytes per weight, fewer than half precision takes and more than integers of eight bits."""


def render_card(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The card as Markdown, with the front matter that the Hub reads (task, licence, scores as a model index).

    Raises ValueError for metrics that are not laid out as :mod:`zoo.metrics` says.
    """
    check_metrics(config["name"], metrics)
    sections = (
        _what, _use, _results, _probabilities, _costs, _sparsity, _weight_bits, _pictures, _training, _data, _limits,
    )  # fmt: skip
    body = "\n\n".join(text for text in (section(config, metrics) for section in sections) if text)
    return f"---\n{_front_matter(config, metrics).to_yaml()}\n---\n\n{body}\n"


def _front_matter(config: dict[str, Any], metrics: dict[str, Any]) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData  # imported here: checking metrics needs no figures

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
        base_model=base if is_repository(base := metrics.get("base_model")) else None,  # the Hub refuses what is no id
        model_name=config["name"],
        eval_results=evaluated or None,
    )


def eval_results(config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, bytes]:
    """The files, by name, that show the model's scores on the pages of benchmarks on the Hub; none without benchmarks.

    https://huggingface.co/docs/hub/eval-results says what is in them.
    """
    from huggingface_hub.utils import yaml_dump

    own, scores = _own_row(config, metrics), metrics.get("scores", {})
    entries = [
        {
            "dataset": {"id": benchmark["dataset"], "task_id": benchmark["task"]},
            "value": own[benchmark["score"]],
            "notes": scores[benchmark["score"]]["signature"],
        }
        for benchmark in metrics.get("benchmarks", [])
    ]
    return {f"{EVAL_RESULTS}/{config['name']}.yaml": yaml_dump(entries).encode()} if entries else {}


def _own_row(config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    return next((row for row in metrics.get("results", ()) if row["name"] == config["name"]), {})


def _what(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    mebibytes = sum(record["bytes"] for record in config["files"].values()) / 2**20
    lines = [f"# {config['name']}", ""]
    if "summary" in metrics:
        lines += [metrics["summary"], ""]
    lines += [
        f"Architecture `{config['architecture']}` of snn-zoo, "
        f"{config['parameters']:,} parameters, {mebibytes:.1f} MiB, weights in {_kind_of_weights(config)}.",
        "",
        "```json",
        json.dumps(config["architecture_config"], indent=2, ensure_ascii=False),
        "```",
    ]
    lines += ["", *(f"- {source}" for source in metrics["sources"])] if "sources" in metrics else []
    return "\n".join(lines)


def _kind_of_weights(config: dict[str, Any]) -> str:
    """What nearly all weights are held in, from the bytes that they take."""
    each = config["files"][WEIGHTS]["bytes"] / max(1, config["parameters"])
    return "integers of eight bits" if each < HALF_PRECISION else "half precision"


def _use(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    name = metrics.get("load_as", f"./{config['name']}")
    call = f"model.{tasks.named(config['task']).method}"
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
    counts = tasks.named(config["task"]).score
    lower = {counts.type} if not counts.higher_is_better else set()
    computed = [
        f"- {score['title']}: `{score['signature']}`{'; lower is better' * (score['type'] in lower)}"
        for score in metrics["scores"].values()
    ]
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
        plain = tasks.named(config["task"]).labels and config["architecture_config"].get("temperature") == 1
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
    lines = ["## What it costs", "", f"Arithmetic per input, counted by `snn-zoo profile` on {costs['inputs']}.", ""]
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


def _weight_bits(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if "weight_bits" not in metrics:
        return ""
    intro = (
        "The weights of all products of spikes, rounded to fewer bits after the training, with one scale per output; "
        "all computed in floats on the same rounded weights. The model's own weights have 8 bits, with which integers "
        "compute them exactly."
    )
    found = metrics["weight_bits"]
    table = _table(found["rows"], metrics.get("scores", {}))
    return f"## Weights of fewer bits\n\n{intro}\n\n{table}\n\n```bash\n{found['command']}\n```"


def _pictures(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if not metrics.get("pictures"):
        return ""
    shown = [f"![{picture['caption']}]({picture['file']})\n\n{picture['caption']}" for picture in metrics["pictures"]]
    return "\n\n".join(["## Pictures", *shown])


def _training(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    lines = ["## How it was trained", ""]
    if "base_model" in metrics or "fine_tuning" in metrics:
        tuned = metrics.get("fine_tuning", {"data": "", "outcome": ""})
        began = f"`{metrics['base_model']}`" if "base_model" in metrics else "another model"
        sentence = f"Training began with the weights of {began}"
        lines += [f"{sentence}, on {tuned['data']}." if tuned["data"] else f"{sentence}."]
        lines += [f"The outcome: {tuned['outcome']}." if tuned["outcome"] else "", ""]
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
        further = metrics.get("fine_tuning", {}).get("data")
        lines += [
            f"- Data: {further}, after the data of the model that it began with" if further else "- Data: unknown"
        ]
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

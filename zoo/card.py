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
        _what, _use, _results, _words, _costs, _probabilities, _sparsity, _bits, _weight_bits, _pictures, _limits,
        _data, _training, _cite, _configuration,
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
    size = f"{config['parameters']:,} parameters, {mebibytes:.1f} MiB, weights in {_kind_of_weights(config)}."
    return "\n\n".join([f"# {config['name']}", *([metrics["summary"]] if "summary" in metrics else []), size])


def _kind_of_weights(config: dict[str, Any]) -> str:
    """What nearly all weights are held in, from the bytes that they take."""
    each = config["files"][WEIGHTS]["bytes"] / max(1, config["parameters"])
    return "integers of eight bits" if each < HALF_PRECISION else "half precision"


def _use(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    name, task = metrics.get("load_as", f"./{config['name']}"), tasks.named(config["task"])
    lines = ["import zoo", "", f"model = zoo.load({json.dumps(name)})", *_example(task, metrics.get("example"))]
    return "\n".join(["## How to use it", "", "```python", *lines, "```"])


def _example(task: tasks.Task, example: dict[str, Any] | None) -> list[str]:
    """Lines of Python that ask the model, with what they print."""
    if example is None:
        return [f"print({task.call})"]
    call = f"model.{task.method}({json.dumps(example['input'], ensure_ascii=False)})"
    answers = [example["output"]] if task.files else example["output"]
    if task.labels and all(isinstance(answer, list) and len(answer) == 2 for answer in answers):
        shown = "print(answer.label, round(answer.probabilities[answer.label], 2))"
        asked = [f"answer = {call}", shown] if task.files else [f"for answer in {call}:", f"    {shown}"]
        return [*asked, *(f"# {label} {round(probabilities[label], 2)}" for label, probabilities in answers)]
    match answers:
        case [[str(text), float()]] if task.files:  # a transcript, as the text and its confidence
            return [f"print({call}.text)", f"# {text}"]
    return [f"print({call})", f"# {example['output']!r}"]


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


def _words(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if "words" not in metrics:
        return ""
    intro = (
        "The words of all recordings, found by a beam search with a lexicon alone and with an n-gram language model; "
        "errors counted by jiwer, lower is better. A word that the lexicon lacks is always an error."
    )
    return _measured("Words", intro, metrics["words"], metrics, bold=config["name"])


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
    lines += [_turned(_in_use(costs["rows"]), bold=config["name"])]
    lines += ["", *(f"- {sentence}" for sentence in costs["comparison"])] if costs["comparison"] else []
    lines += ["", f"![Spikes by layer]({costs['plot']})"] if costs["plot"] else []
    return "\n".join(lines)


def _sparsity(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if not metrics.get("sparsity"):
        return ""
    intro = (
        "What sparser spikes cost; the model's own point is in the table of results. Where the training made spikes "
        "rarer, the point is the last epoch of its run; the others did best on the validation data."
    )
    others = [row for row in metrics["sparsity"] if row["name"] != config["name"]]
    table = _table([{k: v for k, v in row.items() if k != "parameters"} for row in others], metrics.get("scores", {}))
    picture = f"\n\n![Score against spike rate]({metrics['sparsity_plot']})" if "sparsity_plot" in metrics else ""
    return f"## Sparsity\n\n{intro}\n\n{table}{picture}"


def _bits(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if "bits" not in metrics:
        return ""
    found = metrics["bits"]
    intro = (
        "Networks that differ in the bits of their spikes alone. With b bits a spike is a whole number of levels from "
        "-(2^(b-1) - 1) to 2^(b-1) - 1; with one bit it is 0 or 1, without a sign."
    )
    rows = [{column: value for column, value in row.items() if column != "parameters"} for row in found["rows"]]
    section = _measured("Bits of a spike", intro, found | {"rows": rows}, metrics)
    return f"{section}\n\n![Score against bits]({found['plot']})"


def _weight_bits(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if "weight_bits" not in metrics:
        return ""
    intro = (
        "The weights of all products of spikes, rounded to fewer bits after the training, with one scale per output; "
        "all computed in floats on the same rounded weights. The model's own weights have 8 bits, with which integers "
        "compute them exactly."
    )
    return _measured("Weights of fewer bits", intro, metrics["weight_bits"], metrics)


def _measured(heading: str, intro: str, found: dict[str, Any], metrics: dict[str, Any], bold: str | None = None) -> str:
    """A section on what one command measures: what it is, its rows, and the command."""
    table = _table(found["rows"], metrics.get("scores", {}), bold)
    return f"## {heading}\n\n{intro}\n\n{table}\n\n```bash\n{found['command']}\n```"


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
    seeds = ", ".join(map(str, metrics.get("seeds", ()))) or "unknown"
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    lines += [
        f"- Seeds: {seeds}",
        f"- The checkpoint was chosen on: {metrics.get('checkpoint_split', 'unknown')}",
        f"- Saved with: {versions}",
    ]
    if "commands" in metrics:
        lines += ["", _folded("The commands", "bash", "\n".join(metrics["commands"]))]
    return "\n".join(lines)


def _cite(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    if "sources" not in metrics:
        return ""
    intro = "Please cite snn-zoo (its CITATION.cff), and the work that this model is made from:"
    return "\n".join(["## How to cite", "", intro, "", *(f"- {source}" for source in metrics["sources"])])


def _configuration(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    fields = json.dumps(config["architecture_config"], indent=2, ensure_ascii=False)
    intro = f"Architecture `{config['architecture']}` of snn-zoo."
    return f"## Configuration\n\n{intro}\n\n{_folded('All fields', 'json', fields)}"


def _folded(summary: str, language: str, content: str) -> str:
    """A block that opens by a click."""
    return f"<details><summary>{summary}</summary>\n\n```{language}\n{content}\n```\n\n</details>"


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
    intended = ["## Intended use", "", metrics["intended"], ""] if "intended" in metrics else []
    return "\n".join([*intended, "## Limits", "", *(f"- {limit}" for limit in limits)])


def _in_use(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of costs without columns that say nothing; their spike rate is another one than that beside the scores."""
    columns = dict.fromkeys(column for row in rows for column in row)
    kept = [column for column in columns if any(row.get(column) not in (None, 0) for row in rows)]
    names = {"spike rate": "spike rate while it answers"}
    return [{names.get(column, column): row.get(column) for column in kept} for row in rows]


def _turned(rows: list[dict[str, Any]], bold: str) -> str:
    """A table of few rows and many columns, with a line for each column."""
    columns = [column for column in dict.fromkeys(column for row in rows for column in row) if column != "name"]
    heads = [f"**{row['name']}**" if row["name"] == bold else row["name"] for row in rows]
    lines = ["| | " + " | ".join(map(_cell, heads)) + " |", "|---|" + "---:|" * len(rows)]
    for column in columns:
        lines += [f"| {title(column, {})} | " + " | ".join(_cell(row.get(column)) for row in rows) + " |"]
    return "\n".join(lines)


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

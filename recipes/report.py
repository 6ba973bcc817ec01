"""The report on trained models: scores, costs, tables and the card, the same for every recipe."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

import zoo
from neurons.monitors import figure
from neurons.spike import FULL_PRECISION
from recipes import calibration, processes, sparsity
from recipes.extras import need, png
from recipes.recipe import Recipe, defaults
from recipes.run_folder import BEST, read_json, read_run_config, write_json
from recipes.spikes import SpikeMeter
from recipes.training import PROFILED, RETUNED
from zoo import files
from zoo.metrics import pictures_of

SCORES, COSTS = "scores.json", "costs.json"
COSTS_PLOT, SPARSITY_PLOT, BITS_PLOT = "costs.png", "sparsity.png", "bits.png"
NEEDED = "multiplications_per_input"
"""The column of products by activations that are not zero, which hardware for spikes computes."""

OF_SPIKES = {"bits", "full_precision", "threshold_levels"}
"""Options that mean nothing to a network without spikes."""
WITHOUT_WEIGHTS = (*RETUNED, "temperature")
"""Fields of a network's config that can differ between networks with the same weights."""

# ---- Measuring ----


@torch.inference_mode()
def fired(model: nn.Module, inputs: Iterable[tuple]) -> dict[nn.Module, tuple[int, int]]:
    """For each neuron with spikes, how many of its outputs over calls are not zero, and how many it has."""
    counts: dict[nn.Module, tuple[int, int]] = {}
    with SpikeMeter(model) as meter:
        for arguments in inputs:
            model(*arguments)
            for module, _, y in meter.outputs:
                spikes, outputs = counts.get(module, (0, 0))
                counts[module] = spikes + int((y != 0).sum()), outputs + y.numel()
            meter.outputs.clear()
    return counts


def spike_rate(model: nn.Module, inputs: Iterable[tuple]) -> float | None:
    """Share of non-zero spikes of all neurons over calls of the model; None for a network without spikes."""
    spikes, outputs = (sum(column) for column in zip((0, 0), *fired(model, inputs).values()))
    return spikes / outputs if outputs else None


def operations(recipe: Recipe, model: nn.Module, examples: Any) -> float | None:
    """The share of the possible synaptic operations that the spikes cause, each neuron weighed by what it costs in use.

    None for a network whose spikes meet no weights. (:mod:`recipes.sparsity` trains towards fewer.)
    """
    try:
        shares = sparsity.shares_of(model, recipe.inputs(model, examples)[:PROFILED])
    except sparsity.NoOperationsError:
        return None
    modules, counts = dict(model.named_modules()), fired(model, recipe.calls(model, examples))
    rates = {module: spikes / outputs for module, (spikes, outputs) in counts.items()}
    return sum(share * rates[modules[name]] for name, share in shares.items())


def digest(parts: Iterable[bytes]) -> str:
    """A digest of data, to recognise it by."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def measured_once(record: Path, key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of ``measure``, kept in the file ``record`` with its ``key``, which says what was measured.

    A result that is already there for the same key is returned, so that a test set is used once.
    """
    if record.exists():
        known = _read_measured(record)
        if {name: known.get(name) for name in key} == key:
            return known
    row = key | measure()
    if processes.place().index == 0:
        write_json(record, row)
    return row


def measure(recipe: Recipe, run: Path, validation: Any, test: Any, **options: Any) -> dict[str, Any]:
    """Scores of a run's best model on ``val`` and on the test set, its size and its spike rate.

    They are kept in ``scores.json``. Scores that are there for the same weights, data and options are returned, so that
    the test set is used once.
    """
    options = {name: option.default for name, option in defaults(recipe.scores).items()} | options
    config = zoo.info(run / BEST).config

    def found() -> dict[str, Any]:
        model = zoo.load(run / BEST)
        return {
            **recipe.scores(model, validation, test, **options),
            "parameters": config["parameters"],
            "mean_spike_rate": spike_rate(model, recipe.calls(model, validation)),
            "operations": operations(recipe, model, validation),
        }

    key = {
        "weights": _weights_of(run),
        "data": digest(part for examples in (validation, test) for part in recipe.content(examples)),
        **options,
    }
    return measured_once(run / SCORES, key, found)


def read_scores(run: Path) -> dict[str, Any]:
    """The result of ``measure`` for a run. Raises ValueError if its best model has other weights by now."""
    scores = _read_measured(run / SCORES)
    _check_weights(run / SCORES, scores["weights"], run)
    return scores


def read_costs(run: Path, name: str, twins: dict[str, list[Path]]) -> dict[str, Any]:
    """The result of :func:`measure_costs` for a run that is called ``name``, beside ``twins`` by their names.

    Raises ValueError if it was called otherwise, or if one of the best models has other weights by now.
    """
    costs, folders = _read_measured(run / COSTS), {twin: group[0] for twin, group in twins.items()} | {name: run}
    weights = costs.pop("weights", {})
    if name not in weights:
        raise ValueError(f"{run / COSTS} is not of a model that is called {name}: count again, with --name {name}")
    for called in weights.keys() & folders.keys():
        _check_weights(run / COSTS, weights[called], folders[called])
    return costs


def _read_measured(record: Path) -> dict[str, Any]:
    command = "costs" if record.name == COSTS else "measure"
    return read_json(record, "remove it and measure again", f"the recipe's command {command} writes it")


def _check_weights(record: Path, weights: str, run: Path) -> None:
    if weights != _weights_of(run):
        raise ValueError(f"{record} was measured before {run / BEST} got the weights that it has now; measure it again")


def _weights_of(run: Path) -> str:
    """The SHA-256 of the best weights of a run."""
    return zoo.info(run / BEST).config["files"][files.WEIGHTS]["sha256"]


def check_alike(recipe: Recipe, runs: Iterable[Path]) -> None:
    """Raise ValueError unless all ``runs`` were measured on the same data and with the same options."""
    kept: dict[tuple, tuple[Path, Any]] = {}
    for run in runs:
        scores, model = read_scores(run), read_run_config(run)["model"]
        features = json.dumps([model[name] for name in recipe.features])
        found = {("number of inputs",): scores.get(recipe.noun), ("data", features): scores["data"]}
        for what, value in (found | {(option,): scores[option] for option in defaults(recipe.scores)}).items():
            other, expected = kept.setdefault(what, (run, value))
            if value != expected:
                raise ValueError(f"{other} and {run} were not measured alike, but with another {what[0]}; measure both")


def measure_costs(recipe: Recipe, run: Path, twins: list[Path], name: str, examples: Any) -> dict[str, Any]:
    """Profile the best model of ``run``, called ``name``, and its twins on ``examples``, for the card's part on costs.

    It is kept in ``costs.json``, with ``costs.png`` beside it, in the folder of the run.
    """
    run_config = read_run_config(run)
    folders = {name: run} | {described(recipe, read_run_config(twin), run_config): twin for twin in twins}
    profiles = []
    for called, folder in folders.items():
        model = zoo.load(folder / BEST)
        inputs = recipe.inputs(model, examples)
        profiles.append(zoo.profile(model, inputs, name=called))
    profiles[0].plot(run / COSTS_PLOT)
    costs = {
        "inputs": recipe.counted.format(count=f"{len(inputs):,}"),
        "rows": [profile.card_row() for profile in profiles],
        "comparison": [sentence for twin in profiles[1:] for sentence in profiles[0].compare(twin)],
        "plot": COSTS_PLOT,
    }
    write_json(run / COSTS, costs | {"weights": {called: _weights_of(folder) for called, folder in folders.items()}})
    return costs


# ---- Tables ----


def by_network(runs: list[Path]) -> list[list[Path]]:
    """Runs in groups; the runs of a group differ only in their seed."""
    groups: dict[str, list[Path]] = {}
    for run in runs:
        run_config = read_run_config(run)
        run_config["training"].pop("seed")
        groups.setdefault(json.dumps(run_config, sort_keys=True), []).append(run)
    return list(groups.values())


def described(recipe: Recipe, run_config: dict[str, Any], beside: dict[str, Any]) -> str:
    """A run's network named for a table, with ``tuned`` options and teachers that differ from those of ``beside``."""
    template, model = recipe.networks[run_config["model"]["mixer"]], run_config["model"]
    bits = model.get("bits")
    name = template.format(spikes="binary" if bits == 1 else f"{bits}-bit", **model)
    own, others = (run["model"] | run["training"] for run in (run_config, beside))
    told = {"bits"} if "{spikes}" in template else OF_SPIKES
    differs = [
        f"{option.replace('_', ' ')} {own[option]}" if own[option] else f"without {option.replace('_', ' ')}"
        for option in recipe.tuned
        if option not in told and own[option] != others[option]
    ]
    if _taught(own) != _taught(others):
        differs.append(_taught(own))
    return f"{name} ({', '.join(differs)})" if differs else name


def _taught(training: dict[str, Any]) -> str:
    names = training.get("teachers")
    count = names.count(",") + 1 if names else 0
    return ("without teachers", "1 teacher")[count] if count < 2 else f"{count} teachers"


def by_name(recipe: Recipe, runs: list[Path], beside: dict[str, Any]) -> dict[str, list[Path]]:
    """Groups of runs that differ only in their seed, by the name of their network beside another.

    Raises ValueError if two networks would have the same name.
    """
    named = [(described(recipe, read_run_config(group[0]), beside), group) for group in by_network(runs)]
    if len(dict(named)) < len(named):
        places = "; ".join(f"{name}: {', '.join(map(str, group))}" for name, group in named)
        raise ValueError(f"runs of one network must differ in their seed alone; these differ in more: {places}")
    return dict(named)


def best_on_val(recipe: Recipe, runs: list[Path]) -> tuple[Path, dict[str, Any]]:
    """The measured run with the best score on the validation data, and its scores."""
    scores = {run: read_scores(run) for run in runs}
    chosen = max(runs, key=lambda run: recipe.task.score.merit(scores[run][f"{recipe.score}_val"]))
    return chosen, scores[chosen]


def table(recipe: Recipe, groups: dict[str, list[Path]]) -> list[dict[str, Any]]:
    """The card's row for each network, from its measured runs: of the best run on validation data, and of all."""
    over_seeds = any(len(runs) > 1 for runs in groups.values())
    rows = []
    for name, runs in groups.items():
        _, best = best_on_val(recipe, runs)
        row = {"name": name} | {column: best[column] for column in recipe.columns(best)}
        if over_seeds:
            test = f"{recipe.score}_test"
            found = [read_scores(run)[test] for run in runs]
            row[f"{test}_mean"] = round(mean(found), 2)
            row[f"{test}_standard_deviation"] = round(stdev(found), 2) if len(runs) > 1 else None
            row["seeds"] = len(runs)
        rows.append(row | {column: best[column] for column in ("parameters", "mean_spike_rate")})
    return rows


# ---- The card ----


def checkpoint_split(run: Path, split: str) -> str:
    """The card's words for what chose the checkpoint of ``run``: ``split``, or with a spike penalty the last epoch."""
    training = read_run_config(run)["training"]
    sparser = training["spike_penalty"] or training.get("operations", 1.0) < 1
    return "nothing, it is that of the last epoch" if sparser else split


def command_of(recipe: Recipe, run: Path) -> str:
    """The command that repeats a run, with all options that differ from the defaults."""
    default = json.loads(json.dumps(asdict(recipe.config) | asdict(recipe.training)))
    run_config = read_run_config(run)
    changed = {k: v for k, v in (run_config["model"] | run_config["training"]).items() if v != default[k]}
    if "initial" in run_config:
        kept = {k: v for k, v in changed.items() if k in run_config["training"] or k in RETUNED}
        changed = {"initial": run_config["initial"]} | kept
    options = "".join(
        f" --{'no-' if value is False else ''}{name.replace('_', '-')}{'' if isinstance(value, bool) else f' {value}'}"
        for name, value in changed.items()
    )
    return f"python -m recipes.{recipe.name} train --data DATA --run {run}{options}"


def commands(recipe: Recipe, runs: list[Path], compared: list[Path], scores: dict[str, Any]) -> list[str]:
    """The commands that train and measure the runs of a card."""
    called = f"python -m recipes.{recipe.name}"
    options = [f" --{option.replace('_', '-')} {scores[option]}" for option in defaults(recipe.scores)]
    measuring = f"{called} measure {' '.join(map(str, [*runs, *compared]))} --data DATA{''.join(options)}"
    return [*recipe.before, *(command_of(recipe, run) for run in [*runs, *compared]), measuring]


def costing(recipe: Recipe, run: Path, twins: dict[str, list[Path]], name: str) -> str:
    """The command that made a run's ``costs.json``."""
    counted = {row["name"] for row in read_costs(run, name, twins)["rows"]}
    beside = "".join(f" --twin {group[0]}" for twin, group in twins.items() if twin in counted)
    return f"python -m recipes.{recipe.name} costs {run} --name {name}{beside} --data DATA"


def bundle(
    recipe: Recipe,
    runs: list[Path],
    folder: Path,
    summary: str,
    twins: list[Path] | None = None,
    sparsity: list[Path] | None = None,
    **options: Any,
) -> None:
    """Save the best model of measured ``runs``, which differ only in their seed, to ``folder``, with a card.

    The best is the one with the highest score on ``val``. ``twins`` are runs to compare with, ``sparsity`` the runs of
    a curve of score against spike rate; ``options`` are for the recipe's ``complete``.
    """
    if len(by_network(runs)) != 1:
        raise ValueError(f"the runs to choose from must differ in their seed alone; got {', '.join(map(str, runs))}")
    twins, sparsity = twins or [], sparsity or []
    check_alike(recipe, [*runs, *twins, *sparsity])
    chosen, scores = best_on_val(recipe, runs)
    model, named = zoo.load(chosen / BEST), by_name(recipe, twins, read_run_config(chosen))
    groups = {folder.name: runs} | named
    calibrated = calibration.bundled(model, scores, recipe.name, folder.name) if recipe.calibrated else {}
    metrics: dict[str, Any] = {
        **calibrated,
        "summary": summary,
        "intended": recipe.intended,
        "load_as": folder.name,
        "example": recipe.example(model),
        **({"languages": [*recipe.languages]} if recipe.languages else {}),
        **trained_from(chosen),
        "licence": recipe.licence,
        "scores": recipe.columns(scores),
        "results": table(recipe, groups),
        "score_band": score_band(recipe, scores),
        "commands": commands(recipe, runs, [*twins, *sparsity], scores),
        "seeds": sorted(read_run_config(run)["training"]["seed"] for run in runs),
        "checkpoint_split": checkpoint_split(chosen, recipe.checkpoint),
        "data": recipe.source(scores),
        "limits": [*recipe.limits],
        "sources": recipe.sources,
    }
    pictures = {}
    if (chosen / COSTS).exists():
        metrics["costs"] = read_costs(chosen, folder.name, named)
        metrics["commands"].append(costing(recipe, chosen, named, folder.name))
        pictures[COSTS_PLOT] = (chosen / COSTS_PLOT).read_bytes()
    if sparsity:
        pictures[SPARSITY_PLOT] = add_sparsity(recipe, metrics, sparsity, folder.name)
    if recipe.complete:
        pictures |= recipe.complete(metrics, groups, **options)
    zoo.save(model, folder, metrics, pictures)


def trained_from(run: Path) -> dict[str, str]:
    """The card's entry on the bundled model that a run began with, if it did."""
    initial = read_run_config(run).get("initial")
    return {"base_model": initial} if initial in zoo.list_models() else {}


def score_band(recipe: Recipe, scores: dict[str, Any]) -> dict[str, Any]:
    """The card's entry on a quick check, from the result of the recipe's ``scores``."""
    first, margin = scores[recipe.band.column], recipe.band.margin
    most = 100.0 if recipe.task.score.higher_is_better else math.inf  # there may be more errors than phones
    return {
        "score": f"{recipe.score}_val",
        "split": recipe.band.split,
        "inputs": min(recipe.band.inputs, scores.get(recipe.noun, {}).get("val", recipe.band.inputs)),
        "low": round(max(0.0, first - margin), 2),
        "high": round(min(most, first + margin), 2),
    }


def add_sparsity(recipe: Recipe, metrics: dict[str, Any], runs: list[Path], name: str) -> bytes:
    """Add to a card the curve of score against spike rate of ``runs`` and its model; returns the picture."""
    score = f"{recipe.score}_val"
    points = [sparse_point(recipe, run) for run in runs]
    own = metrics["results"][0]
    if "costs" in metrics:
        own = own | {NEEDED: needed(next(row for row in metrics["costs"]["rows"] if row["name"] == name))}
    curve = metrics["sparsity"] = sorted([own, *points], key=lambda point: point["mean_spike_rate"])
    merit = recipe.task.score.merit
    if merit(own[score]) == max(merit(point[score]) for point in curve):
        metrics["limits"].append(
            f"Its spikes are dense: it is the point of the curve with the best {recipe.score_name} on val."
        )
    metrics["sparsity_plot"] = SPARSITY_PLOT
    return sparsity_plot(curve, score, metrics["scores"][score]["title"], name)


def sparse_point(recipe: Recipe, run: Path) -> dict[str, Any]:
    """The row of a measured run in the curve of score against spike rate; its products, if they were counted."""
    row = _point(recipe, _sparser(run), run)
    if not (run / COSTS).exists():
        return row
    costs = _read_measured(run / COSTS)
    _check_weights(run / COSTS, next(iter(costs["weights"].values())), run)  # the run itself comes before its twins
    return row | {NEEDED: needed(costs["rows"][0])}


def needed(costs: dict[str, Any]) -> int:
    """The multiplications by an activation that is not zero, per input, from a row of the table of costs."""
    return costs["multiplications of two real numbers"] + costs["multiplications by small integers"]


def _point(recipe: Recipe, name: str, run: Path) -> dict[str, Any]:
    (row,) = table(recipe, {name: [run]})
    return row | {"share_of_synaptic_operations": read_scores(run).get("operations")}


def _sparser(run: Path) -> str:
    """What made the spikes of a run rarer."""
    training = read_run_config(run)["training"]
    if training.get("operations", 1.0) < 1:
        aim = f"tuned, {100 * training['operations']:g} % of the operations"
        return f"{aim}, {_taught(training)}" if "," in training.get("teachers", "") else aim
    return f"tuned, spike penalty {training['spike_penalty']:g}"


def sparsity_plot(points: list[dict], score: str, title: str, name: str) -> bytes:
    """The score of points against their spike rate and, where it was counted, their products, as a PNG file.

    There is a line for each way to sparser spikes; ``name`` is the model.
    """
    need("the plot", "matplotlib")
    told = {
        "mean_spike_rate": "spike rate (share of outputs not zero)",
        NEEDED: "multiplications per input, not by zero",
    }
    against = [column for column in told if sum(point.get(column) is not None for point in points) > 1]
    drawn, (axes,) = figure(1, len(against), (5.5 * len(against), 3.8))
    for axis, column in zip(axes, against):
        _draw_ways(axis, [point for point in points if point.get(column) is not None], column, score, name)
        axis.set(xlabel=told[column], ylabel=title)
        axis.margins(x=0.15, y=0.15)
        axis.grid(alpha=0.3)
    return png(drawn)


def _draw_ways(axis, points: list[dict], column: str, score: str, name: str) -> None:
    """A line for each way, with what its points aimed at beside them: a penalty, or a share of the operations."""
    below, above = (5, -11), (-14, 7)
    ways = {
        "spike penalty": ("tab:blue", below),
        "teachers": ("tab:purple", above),
        "of the operations": ("tab:green", below),
        name: ("black", below),
    }
    drawn: list[dict] = []
    for way, (colour, offset) in ways.items():
        found = [point for point in points if way in point["name"] and point not in drawn]
        drawn += found
        if found:
            label = {"teachers": "of the operations, several teachers"}.get(way, way)
            axis.plot([p[column] for p in found], [p[score] for p in found], marker="o", color=colour, label=label)
        for point in found:
            (aim,) = re.findall(r"^tuned, (?:spike penalty )?(\S+(?: %)?)", point["name"]) or [""]
            at = (point[column], point[score])
            axis.annotate(aim.rstrip(","), at, offset, textcoords="offset points", fontsize=8, color=colour)
    axis.legend(fontsize=8, loc="lower right")


def compare_bits(recipe: Recipe, folder: Path, runs: list[Path]) -> list[dict[str, Any]]:
    """Add to the card of the model in ``folder`` the scores of measured ``runs``, which differ in their bits alone.

    Raises ValueError for runs of other networks than the model's, that differ in more, or not in their bits.
    """
    rows = [_point(recipe, _bits_named(bits), run) for bits, run in _by_bits(recipe, folder, runs).items()]
    metrics = files.read_metrics(folder)
    comparing = f"python -m recipes.{recipe.name} compare-bits ./{folder.name} {' '.join(map(str, runs))}"
    command = "\n".join([*(command_of(recipe, run) for run in runs), comparing])
    metrics["bits"] = {"rows": rows, "command": command, "plot": BITS_PLOT}
    pictures = {name: (folder / name).read_bytes() for name in pictures_of(metrics) if name != BITS_PLOT}
    score = f"{recipe.score}_val"
    pictures[BITS_PLOT] = bits_plot(rows, score, metrics["scores"][score]["title"])
    zoo.save(zoo.load(folder), folder, metrics, pictures)
    return rows


def _by_bits(recipe: Recipe, folder: Path, runs: list[Path]) -> dict[int, Path]:
    """The runs in the order of their bits; see :func:`compare_bits`."""
    network = asdict(recipe.config_of(zoo.info(folder).config["architecture_config"]))
    found, others = dict[int, Path](), set[str]()
    for run in runs:
        run_config = read_run_config(run)
        model = run_config["model"]
        if changed := [name for name in model if name not in WITHOUT_WEIGHTS and model[name] != network.get(name)]:
            raise ValueError(f"{run} is no run of the network in {folder}: it differs in {', '.join(changed)}")
        found[model.pop("bits")] = run
        others.add(json.dumps(run_config, sort_keys=True))
    if len(found) < max(2, len(runs)) or len(others) > 1:
        raise ValueError(f"the runs must differ in their bits, and in nothing else; got {', '.join(map(str, runs))}")
    check_alike(recipe, runs)
    return dict(sorted(found.items()))


def _bits_named(bits: int) -> str:
    return "full precision" if bits == FULL_PRECISION else f"{bits} bit{'s' * (bits > 1)}"


def bits_plot(rows: list[dict[str, Any]], score: str, title: str) -> bytes:
    """The score against the bits of the spikes, as a PNG file."""
    need("the plot", "matplotlib")
    drawn, ((axis,),) = figure(1, 1, (5.5, 3.4))
    axis.plot([row["name"] for row in rows], [row[score] for row in rows], marker="o")
    axis.set(xlabel="bits of a spike", ylabel=title)
    axis.grid(alpha=0.3)
    return png(drawn)

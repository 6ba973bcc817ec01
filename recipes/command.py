"""The command line of a recipe: the same commands for every task."""

import contextlib
import functools
import inspect
import json
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo
from recipes import calibration, processes, report, rounding, training
from recipes.recipe import Recipe, defaults
from recipes.run_folder import BEST, read_run_config
from zoo.command.failing import Commands

Initial = Annotated[str | None, typer.Option(help="fine-tune this model")]
"""The option for the parameter ``initial`` of a trainer."""


TOGETHER = ("train", "resume", "evaluate", "measure")
"""The commands that several processes can share (:mod:`recipes.processes`)."""


class SharedCommands(Commands):
    """Commands that several processes run together, of which the first alone writes to standard output."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, *rest = super().resolve_command(ctx, args)
        if processes.started() > 1 and name not in TOGETHER:
            raise ValueError(f"{name} is a command for one process; several can share {', '.join(TOGETHER)}")
        return name, *rest

    def invoke(self, ctx: Any) -> Any:
        if processes.started() == 1:
            return super().invoke(ctx)
        if processes.join().is_main_process:
            return super().invoke(ctx)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return super().invoke(ctx)


def commands(description: str) -> typer.Typer:
    """The command line of a recipe; it reports errors like ``snn-zoo`` (:mod:`zoo.command.failing`)."""
    return typer.Typer(
        cls=SharedCommands,
        help=description,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


def options(*hidden: str, **defaults: Any) -> Callable:
    """Decorator of a typer command: the fields of dataclasses become its options.

    With ``@options(training=Training())`` the command's parameter ``training`` is that instance, changed by the options
    given on the command line. Fields that are ``hidden``, or not a number, text or switch, do not become options.
    """

    def decorate(command: Callable) -> Callable:
        own = [p for name, p in inspect.signature(command).parameters.items() if name not in defaults]
        fields = {name: value for instance in defaults.values() for name, value in vars(instance).items()}
        fields = {k: v for k, v in fields.items() if k not in hidden and isinstance(v, (bool, int, float, str))}
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(name, keyword, default=v, annotation=type(v)) for name, v in fields.items()]

        @functools.wraps(command)
        def with_fields(**given):
            changed = {name: given.pop(name) for name in fields}
            for parameter, instance in defaults.items():
                own_fields = {name: value for name, value in changed.items() if hasattr(instance, name)}
                given[parameter] = replace(instance, **own_fields)
            return command(**given)

        with_fields.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        with_fields.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return with_fields

    return decorate


def taking(*functions: Callable | None) -> Callable:
    """Decorator of a command: the parameters with a default value of these functions of a recipe become its options.

    The command gets them all by name, in its ``**given``.
    """
    added = [p.replace(kind=p.KEYWORD_ONLY) for p in defaults(*functions).values()]

    def decorate(command: Callable) -> Callable:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind != p.VAR_KEYWORD]
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return command

    return decorate


def of(function: Callable | None, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the ``given`` options that belong to the function."""
    return {name: given[name] for name in defaults(function)}


def check_initial(initial: str, config: Any, recipe: Recipe, asked: Collection[str] = ()) -> None:
    """Raise ValueError if ``config`` changes what the weights of the model that is fine-tuned depend on.

    Raise it too for an option that was ``asked`` for with its usual value where the model has another: a usual value
    means the model's own, so this would do nothing.
    """
    changed = [name for name in training.changes(config, recipe.config) if name not in training.RETUNED]
    if changed:
        left_out = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ValueError(f"{initial} is fine-tuned as it is; leave out {left_out}")
    own = zoo.info(initial).config["architecture_config"]
    for name in training.RETUNED:
        if name in asked and getattr(config, name) == getattr(recipe.config, name) != own.get(name):
            raise ValueError(
                f"{initial} has {name} {own.get(name)}, and --{name.replace('_', '-')} {getattr(config, name)}, the "
                "value without that option, cannot be asked for; leave it out, or give another value"
            )


def _is_given(context: typer.Context, option: str) -> bool:
    """Whether the option stands on the command line."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def command_line(recipe: Recipe) -> typer.Typer:
    """The commands of a recipe; see :class:`recipes.recipe.Recipe`."""
    app = commands(recipe.title)
    for add in (add_training, add_scoring, add_bundling):
        add(app, recipe)
    return app


def add_training(app: typer.Typer, recipe: Recipe) -> None:
    """The commands ``train`` and ``resume``."""
    Data = Annotated[Path, typer.Option(help=recipe.data)]

    @app.command("train")
    @options(*recipe.fixed, config=recipe.config, options=recipe.training)
    @taking(recipe.trainer)
    def train_command(
        context: typer.Context,
        data: Data,
        run: Annotated[Path, typer.Option(help="folder of the run; an interrupted run is continued")],
        config: Any,
        options: Any,
        **given: Any,
    ):
        """Train a model; the best on val, or with a spike penalty the last epoch, is in RUN/best."""
        if given.get("initial"):
            asked = [name for name in training.RETUNED if _is_given(context, name)]
            check_initial(given["initial"], config, recipe, asked)
        recipe.trainer(data, run, config, options, **given).train()

    @app.command("resume")
    @taking(recipe.trainer)
    def resume_command(
        run: Annotated[Path, typer.Argument(help="folder of a run that was interrupted")], data: Data, **given: Any
    ):
        """Continue an interrupted training, with the options that it was started with."""
        run_config = read_run_config(run)
        if "initial" in run_config:
            given["initial"] = run_config["initial"]
        own = {"model": recipe.config, "training": recipe.training}
        if other := {name for part, usual in own.items() for name in run_config[part].keys() - vars(usual).keys()}:
            raise ValueError(f"{run} is no run of the recipe {recipe.name}: it has {', '.join(sorted(other))}")
        check_labels(recipe, run, run_config["model"])
        options = type(recipe.training)(**run_config["training"])
        recipe.trainer(data, run, recipe.config_of(run_config["model"]), options, **given).train()


def config_of(recipe: Recipe, model: str | Path) -> Any:
    """The config of a model, by name or folder. Raises ValueError if its scores by this recipe would mean nothing."""
    info = zoo.info(model).config
    if info["task"] != recipe.task.name:
        raise ValueError(
            f"{model} is a model for {info['task']}, and the recipe {recipe.name} is for {recipe.task.name}"
        )
    check_labels(recipe, model, info["architecture_config"])
    return recipe.config_of(info["architecture_config"])


def check_labels(recipe: Recipe, model: str | Path, config: dict[str, Any]) -> None:
    """Raise ValueError for the config of a network that answers with other labels than the data of a recipe has."""
    own = getattr(recipe.config, "labels", None)
    if own is not None and list(config["labels"]) != list(own):
        others = ", ".join(sorted({*config["labels"]} ^ {*own})[:5]) or "another order"
        raise ValueError(f"{model} has other labels than the data of the recipe {recipe.name}: {others}")


def read(recipe: Recipe, folder: Path, data: Path, splits: tuple[str, ...], given: dict[str, Any]) -> list[Any]:
    """The examples of some splits, as the model in ``folder`` takes them."""
    config = config_of(recipe, folder)
    return [recipe.read(data, split, config, **of(recipe.read, given)) for split in splits]


def add_scoring(app: typer.Typer, recipe: Recipe) -> None:
    """The commands ``evaluate``, ``measure``, ``costs``, ``round`` and, for a classifier, ``calibrate``."""
    Data = Annotated[Path, typer.Option(help=recipe.data)]

    @app.command("evaluate")
    @taking(recipe.read, recipe.evaluate)
    def evaluate_command(
        model: Annotated[str, typer.Argument(help="a name or a folder")],
        data: Data,
        split: str = "val",
        output: Annotated[Path | None, typer.Option(help="write the answers here")] = None,
        **given: Any,
    ):
        """Score a model on one split."""
        config, network = config_of(recipe, model), zoo.load(model, device=processes.device())
        examples = recipe.read(data, split, config, **of(recipe.read, given))
        answers, scores = recipe.evaluate(network, examples, **of(recipe.evaluate, given))
        if output and processes.place().index == 0:
            output.write_text("\n".join(answers) + "\n", encoding="utf-8")
        found = {"model": model, "split": split, recipe.noun: len(answers)} | of(recipe.evaluate, given)
        print(json.dumps(found | scores, indent=2))

    @app.command("measure")
    @taking(recipe.read, recipe.scores)
    def measure_command(runs: list[Path], data: Data, **given: Any):
        """Score the best model of each run on val and, once, on the test set; keep the scores in RUN/scores.json."""
        for run in runs:
            validation, test = read(recipe, run / BEST, data, ("val", recipe.test), given)
            scores = report.measure(recipe, run, validation, test, **of(recipe.scores, given))
            print(run.name, json.dumps(scores, indent=2), flush=True)

    @app.command("costs")
    @taking(recipe.read)
    def costs_command(
        run: Path,
        data: Data,
        name: Annotated[str, typer.Option(help="what the model is called in the table")],
        twin: Annotated[list[Path] | None, typer.Option(help="run to compare with; may be repeated")] = None,
        **given: Any,
    ):
        """Count the costs of the best model of a run and of its twins on val; keep them in RUN/costs.json."""
        (examples,) = read(recipe, run / BEST, data, ("val",), given)
        print(json.dumps(report.measure_costs(recipe, run, twin or [], name, examples), indent=2))

    @app.command("round")
    @taking(recipe.read, recipe.scores)
    def round_command(
        model: Annotated[Path, typer.Argument(help="folder of a model that computes in integers")],
        data: Data,
        **given: Any,
    ):
        """Round a model's weights to eight bits, measure its scores again, and on val also those of fewer bits."""
        validation, test = read(recipe, model, data, ("val", recipe.test), given)
        print(json.dumps(rounding.round_weights(recipe, model, validation, test, **of(recipe.scores, given)), indent=2))

    @app.command("compare-bits")
    def compare_bits_command(
        model: Annotated[Path, typer.Argument(help="folder of a model; it gets the result")],
        runs: Annotated[list[Path], typer.Argument(help="measured runs that differ in their bits alone")],
    ):
        """Compare the scores of networks whose spikes have more or fewer bits, for the card."""
        config_of(recipe, model)
        print(json.dumps(report.compare_bits(recipe, model.resolve(), runs), indent=2))

    calibrated = recipe.calibrated
    if calibrated is None:
        return

    @app.command("calibrate")
    @taking(recipe.read)
    def calibrate_command(
        model: Annotated[Path, typer.Argument(help="folder of a model; it gets the result")], data: Data, **given: Any
    ):
        """Fit a model's temperature on val; measure it on val and on the test set."""
        answers = lambda network: calibrated(  # noqa: E731
            network, *read(recipe, model, data, ("val", recipe.test), given)
        )
        print(
            json.dumps(
                calibration.calibrate(model, recipe.name, recipe.config.labels, answers, recipe.example), indent=2
            )
        )


def add_bundling(app: typer.Typer, recipe: Recipe) -> None:
    """The command ``bundle``."""
    usual: Any = ... if recipe.summary is None else recipe.summary

    @app.command("bundle")
    @taking(recipe.complete)
    def bundle_command(
        runs: Annotated[list[Path], typer.Argument(help="measured runs that differ in their seed alone")],
        folder: Annotated[Path, typer.Option(help="folder for the model and its card")],
        summary: Annotated[str, typer.Option(help="one sentence: what the model is")] = usual,
        twin: Annotated[list[Path] | None, typer.Option(help="measured run to compare with; may be repeated")] = None,
        sparsity: Annotated[list[Path] | None, typer.Option(help="measured run on the sparsity curve")] = None,
        **given: Any,
    ):
        """Write the best model of some runs to a folder, with its card."""
        for run in [*runs, *(twin or []), *(sparsity or [])]:
            config_of(recipe, run / BEST)
        report.bundle(recipe, runs, folder, summary, twin, sparsity, **given)

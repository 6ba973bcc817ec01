"""The command ``snn-zoo``: list the models, describe one, ask one, count what it costs."""

import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo
from zoo import tasks
from zoo.command import tables
from zoo.command.failing import Commands, say
from zoo.command.publishing import publish_command
from zoo.tasks import TASKS, Option, Task

ADDED = ("recipes.fine_tune_command",)
"""Modules that add commands by ``add_to(app)``: plug-ins, found by name, of which the rest of the zoo knows nothing."""
Name = Annotated[str, typer.Argument(help="A bundled model, org/name on the Hugging Face Hub, or ./folder.")]
Device = Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"snn-zoo {zoo.__version__}\n")
        raise typer.Exit


def command_line() -> typer.Typer:
    """The whole command: what is known of models, one subcommand per task, and what models cost."""
    app = typer.Typer(
        cls=Commands,
        help="Pretrained spiking neural networks for sequences.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_main)
    app.command("list")(list_command)
    app.command("info")(info_command)
    for task in TASKS.values():
        app.command(task.method, help=_help(task))(_command_of(task))
    app.command("profile")(_profile_command())
    for module in ADDED:
        importlib.import_module(module).add_to(app)
    app.command("publish")(publish_command)
    return app


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def list_command(
    pattern: Annotated[str, typer.Argument(help="A pattern for names, as for files: '*imdb*'.")] = "*",
    task: Annotated[str | None, typer.Option(help="Only models of this task.")] = None,
) -> None:
    """List the bundled models."""
    say(tables.models([zoo.info(name) for name in zoo.list_models(pattern, task)]) + "\n")


def info_command(name: Name) -> None:
    """Show what is known of a model."""
    say(tables.model(zoo.info(name)) + "\n")


def _command_of(task: Task) -> Callable[..., None]:
    """The command that asks a model with the method of ``task``, line by line."""

    def command(
        name: Name,
        inputs: Annotated[
            list[str] | None,
            typer.Argument(metavar=f"[{task.input.upper()}]...", help="Standard input, one per line, if none."),
        ] = None,
        input_file: Annotated[
            Path | None,
            typer.Option("--input", "--file", metavar="FILE", help=f"A file with one {task.input} per line."),
        ] = None,
        output_file: Annotated[
            Path | None, typer.Option("--output", metavar="FILE", help="Write the answers to this file.")
        ] = None,
        resume: Annotated[
            bool, typer.Option("--resume", help="Continue where the output of an interrupted run ends.")
        ] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Stop at the first line that has no answer.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Write each answer as a line of JSON.")] = False,
        device: Device = None,
        **options: Any,
    ) -> None:
        from zoo.command import listening, streaming

        method = task.scored if task.scored and options.pop("scores") else task.method
        raw_rate = options.pop("raw_rate", None)
        _check_task(name, task)
        if raw_rate is not None:
            if inputs or input_file or output_file or resume:
                raise ValueError("--raw-rate reads standard input and writes to standard output, and nothing else")
            listening.listen(zoo.load(name, device=device).stream(raw_rate, **_given(options)), as_json)
            return
        streaming.check_not_overwritten(output_file, inputs, input_file, task)
        with streaming.open_source(inputs, input_file, task.input) as source:
            output = streaming.Output(output_file, as_json, resume)
            model = zoo.load(name, device=device)
            answerer = streaming.Answerer(model, method, task, _given(options), source.place)
            streaming.stream(source, answerer, output, strict)

    kinds = _kinds(task.options)
    if task.scored:
        kinds["scores"] = Annotated[bool, typer.Option("--scores", help="Write a tab and a score after each answer.")]
    if task.raw_samples:
        told = "Standard input is one recording of 16-bit samples, the low byte first, so many per second."
        kinds["raw_rate"] = Annotated[int | None, typer.Option("--raw-rate", metavar="HZ", help=told)]
    return _with_options(command, kinds)


def _kinds(options: Iterable[Option]) -> dict[str, Any]:
    """What typer needs to know about the options of methods; the first option of a name counts."""
    found: dict[str, Any] = {}
    for option in options:
        folder = option.kind is Path
        told = typer.Option(help=option.help, exists=folder, file_okay=not folder)
        found.setdefault(option.name, Annotated[option.kind | None, told])
    return found


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line; the others keep the method's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _with_options(command: Callable[..., None], kinds: dict[str, Any]) -> Callable[..., None]:
    """``command`` with these options in its signature instead of ``**options``."""
    signature = inspect.signature(command)
    common = [part for part in signature.parameters.values() if part.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in kinds.items()
    ]
    command.__signature__ = signature.replace(parameters=common + own)  # type: ignore[attr-defined]
    return command


def _help(task: Task) -> str:
    return f"""{task.summary}

Line n of the output answers line n of the input, as soon as that has been read. A line without an answer gets an empty
line, or its error in JSON, and a warning with its number on standard error. Exit status 3 means that there was one."""


def _check_task(name: str, task: Task) -> None:
    """Raise ValueError unless the model is for ``task``; only its config is read."""
    found = zoo.info(name).task
    if found != task.name:
        raise ValueError(f"{name!r} is a model for {found}, and does not {task.method}")


def _check_takes(name: str, options: Iterable[str]) -> None:
    """Raise ValueError unless the model's method takes all of these options."""
    task = tasks.named(zoo.info(name).task)
    for option in options:
        if option not in [known.name for known in task.options]:
            raise ValueError(f"{name!r} is a model for {task.name}, and its {task.method} takes no {option}")


def _profile_command() -> Callable[..., None]:
    """The command that counts costs, with all tasks' options that change costs."""

    def command(
        name: Name,
        inputs: Annotated[
            list[str] | None, typer.Option(help="An input, or a file with one per line; the card's example if none.")
        ] = None,
        against: Annotated[list[str] | None, typer.Option(help="A model to compare with; may be repeated.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
        plot: Annotated[Path | None, typer.Option(help="Draw the model's spikes into this file.")] = None,
        **options: Any,
    ) -> None:
        """Count what a model costs on real inputs: arithmetic, spikes, memory, and an estimate of energy."""
        inputs, models, options = _profiled(name, inputs), (name, *(against or ())), _given(options)
        for model in models if options else ():
            _check_takes(model, options)
        profiles = [zoo.profile(zoo.load(model), inputs, name=model, **options) for model in models]
        comparisons = [profiles[0].compare(other) for other in profiles[1:]]
        if as_json:
            found = {"profiles": [profile.as_dict() for profile in profiles], "comparisons": comparisons}
            say(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        else:
            sentences = [tables.wrapped(sentence, hanging=2) for comparison in comparisons for sentence in comparison]
            say("\n".join(map(str, profiles)) + "".join(f"{sentence}\n" for sentence in sentences))
        if plot is not None:
            profiles[0].plot(plot)

    return _with_options(command, _kinds(option for task in TASKS.values() for option in task.options if option.costs))


def _profiled(name: str, given: list[str] | None) -> list[str]:
    """Inputs to profile on: those given (of a file, its lines); if none, those of the card's example."""
    from zoo.inputs.lines import texts_of

    info = zoo.info(name)
    files = tasks.named(info.task).files
    if not given:
        example = info.metrics.get("example", {}).get("input")
        if files or not example:
            reason = "is a file that does not come with it" if files else "is missing"
            raise ValueError(f"the example in the card of {name!r} {reason}, so say by --inputs what to profile it on")
        return [example] if isinstance(example, str) else example
    if files:  # each is an input
        return given
    inputs: list[str] = []
    for one in given:
        if len(one) < 256 and os.path.isfile(one):
            with open(one, "rb") as lines:
                inputs += texts_of(lines, one)
        else:
            inputs.append(one)
    return inputs


app = command_line()

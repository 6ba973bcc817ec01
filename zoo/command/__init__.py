"""The command ``snn-zoo``: list the models, say what is known of one, ask one, count what it costs."""

import inspect
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo
from zoo.command import tables
from zoo.command.failing import Commands, say
from zoo.registry import METHODS, TASKS, Method

app = typer.Typer(
    cls=Commands,
    help="Pretrained spiking neural networks for sequences.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Name = Annotated[str, typer.Argument(help="A bundled model, org/name on the Hugging Face Hub, or ./folder.")]
Device = Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"snn-zoo {zoo.__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Which names, as for files: '*imdb*'.")] = "*",
    task: Annotated[str | None, typer.Option(help="Only models of this task.")] = None,
) -> None:
    """List the bundled models."""
    say(tables.models([zoo.info(name) for name in zoo.list_models(pattern, task)]) + "\n")


@app.command("info")
def info_command(name: Name) -> None:
    """Say what is known of a model."""
    say(tables.model(zoo.info(name)) + "\n")


def _add_command_of(method: str, how: Method) -> None:
    """Make the command that asks a model by ``method``, line by line."""

    def command(
        name: Name,
        inputs: Annotated[
            list[str] | None,
            typer.Argument(metavar=f"[{how.input.upper()}]...", help="Standard input, one per line, if none."),
        ] = None,
        input_file: Annotated[
            Path | None,
            typer.Option("--input", "--file", metavar="FILE", help=f"A file with one {how.input} per line."),
        ] = None,
        output_file: Annotated[
            Path | None, typer.Option("--output", metavar="FILE", help="Write the answers to this file.")
        ] = None,
        resume: Annotated[
            bool, typer.Option("--resume", help="Go on where the output of an interrupted run ends.")
        ] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Stop at the first line that has no answer.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Write each answer as a line of JSON.")] = False,
        device: Device = None,
        **options: Any,
    ) -> None:
        from zoo.command import streaming

        asked = how.scored if how.scored and options.pop("scores") else method
        given = {option: value for option, value in options.items() if value is not None}
        _check_task(name, method)
        streaming.check_not_overwritten(output_file, inputs, input_file, how)
        with streaming.open_source(inputs, input_file, how.input) as source:
            output = streaming.Output(output_file, as_json, resume)
            answerer = streaming.Answerer(zoo.load(name, device=device), asked, how, given, source.place)
            streaming.stream(source, answerer, output, strict)

    command.__signature__ = _with_options(inspect.signature(command), how)  # type: ignore[attr-defined]
    app.command(method, help=_help(how))(command)


def _with_options(signature: inspect.Signature, how: Method) -> inspect.Signature:
    """The signature of a command with the options of its method written out."""
    kinds: dict[str, Any] = {
        option.name: Annotated[option.kind | None, typer.Option(help=option.help)] for option in how.options
    }
    if how.scored:
        kinds["scores"] = Annotated[bool, typer.Option("--scores", help="Write a tab and a score after each answer.")]
    common = [part for part in signature.parameters.values() if part.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in kinds.items()
    ]
    return signature.replace(parameters=common + own)


def _help(how: Method) -> str:
    return f"""{how.summary}

Line n of the output answers line n of the input, as soon as it has come. One that has no answer gets an empty line, or
its error in JSON, and a warning with its number on standard error. Exit status 3 says that there was one."""


for _method, _how in METHODS.items():
    _add_command_of(_method, _how)


def _check_task(name: str, method: str) -> None:
    """Raise ValueError unless the model is for a task of this method; nothing but its config is read for it."""
    task = zoo.info(name).task
    if TASKS.get(task) != method:
        raise ValueError(f"{name!r} is a model for {task}, and does not {method}")


@app.command("profile")
def profile_command(
    name: Name,
    inputs: Annotated[
        list[str] | None, typer.Option(help="An input, or a file with one per line; the card's example if none.")
    ] = None,
    against: Annotated[list[str] | None, typer.Option(help="A model to compare with; may be given again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in the place of tables.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the model's spikes into this file.")] = None,
    beam_size: Annotated[int | None, typer.Option(help="Hypotheses kept in a translator's search.")] = None,
) -> None:
    """Count what a model costs on real inputs: arithmetic, spikes, memory, and an estimate of energy."""
    given, models = _profiled(name, inputs), (name, *(against or ()))
    options = {} if beam_size is None else {"beam_size": beam_size}
    for model in models if options else ():
        _check_task(model, "translate")
    profiles = [zoo.profile(zoo.load(model), given, name=model, **options) for model in models]
    comparisons = [profiles[0].compare(other) for other in profiles[1:]]
    if as_json:
        found = {"profiles": [profile.as_dict() for profile in profiles], "comparisons": comparisons}
        say(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    else:
        sentences = [tables.wrapped(sentence, hanging=2) for comparison in comparisons for sentence in comparison]
        say("\n".join(map(str, profiles)) + "".join(f"{sentence}\n" for sentence in sentences))
    if plot is not None:
        profiles[0].plot(plot)


def _profiled(name: str, given: list[str] | None) -> list[str]:
    """Inputs to profile on: each that was given, or the lines of its file; else those of the card's example."""
    from zoo.inputs.lines import texts_of

    info = zoo.info(name)
    files = TASKS.get(info.task) in METHODS and METHODS[TASKS[info.task]].files
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

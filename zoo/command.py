"""The command ``snn-zoo``: list the models, say what is known of one, translate, classify, predict, count costs."""

import json
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import zoo
from zoo.registry import TASKS

app = typer.Typer(
    help="Pretrained spiking neural networks for sequences.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Name = Annotated[str, typer.Argument(help="A bundled model, org/name on the Hugging Face Hub, or ./folder.")]


@contextmanager
def _errors_in_one_line():
    """What is wrong with the input or the machine is told in one line; anything else is a fault of ours."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        typer.echo(f"snn-zoo: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snn-zoo {zoo.__version__}")
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
    with _errors_in_one_line():
        models = [zoo.info(name) for name in zoo.list_models(pattern, task)]
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "task", "parameters", "size"):
        table.add_column(heading, no_wrap=True)
    table.add_column("summary")
    for model in models:
        first, more, _ = model.summary.partition(". ")  # the card and ``info`` have the rest
        table.add_row(model.name, model.task, f"{model.parameters:,}", _size(model.bytes), first + more.strip())
    Console(markup=False, highlight=False, emoji=False).print(table)


@app.command("info")
def info_command(name: Name) -> None:
    """Say what is known of a model."""
    with _errors_in_one_line():
        model = zoo.info(name)
    rows = {
        "name": model.name,
        "summary": model.summary,
        "task": model.task,
        "architecture": model.architecture,
        "parameters": f"{model.parameters:,}",
        "size": _size(model.bytes),
        "licence": model.licence or "unknown",
        **{column: str(value) for column, value in model.scores.items()},
        "folder": str(model.folder),
    }
    width = max(map(len, rows))
    for key, value in rows.items():
        typer.echo(f"{key:{width}}  {value}")


@app.command("translate")
def translate_command(
    name: Name,
    text: Annotated[list[str] | None, typer.Argument(help="Sentences; standard input, line by line, if none.")] = None,
    file: Annotated[Path | None, typer.Option(help="Translate the lines of this file.")] = None,
    beam_size: Annotated[int | None, typer.Option(help="Hypotheses kept in the search; 1 is greedy.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
) -> None:
    """Translate sentences and print one translation a line."""
    with _errors_in_one_line():
        _check_task(name, "translate")
        sentences = _sentences(text, file, "translate")
        options = {} if beam_size is None else {"beam_size": beam_size}
        translations = zoo.load(name, device=device).translate(sentences, **options)
    for translation in translations:
        typer.echo(translation)


@app.command("predict")
def predict_command(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Event file: .aedat (3.1), .npz or .npy.")],
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
) -> None:
    """Classify a recording of an event camera; print each label, a tab and its probability, the most probable first."""
    with _errors_in_one_line():
        _check_task(name, "predict")
        probabilities = zoo.load(name, device=device).predict(file).probabilities
    for label in sorted(probabilities, key=probabilities.get, reverse=True):
        typer.echo(f"{label}\t{probabilities[label]:.4f}")


@app.command("classify")
def classify_command(
    name: Name,
    text: Annotated[list[str] | None, typer.Argument(help="Texts; standard input, line by line, if none.")] = None,
    file: Annotated[Path | None, typer.Option(help="Classify the lines of this file.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = None,
) -> None:
    """Classify texts and print a label, a tab and its probability a line."""
    with _errors_in_one_line():
        _check_task(name, "classify")
        texts = _sentences(text, file, "classify")
        found = zoo.load(name, device=device).classify(texts)
    for classification in found:
        typer.echo(f"{classification.label}\t{classification.probability:.4f}")


def _check_task(name: str, method: str) -> None:
    """Raise ValueError unless the model is for a task of this method; nothing but its config is read for it."""
    task = zoo.info(name).task
    if TASKS.get(task) != method:
        raise ValueError(f"{name!r} is a model for {task}, and does not {method}")


@app.command("profile")
def profile_command(
    name: Name,
    inputs: Annotated[
        list[str] | None, typer.Option(help="An input, or a file with one a line; the card's example if none.")
    ] = None,
    against: Annotated[list[str] | None, typer.Option(help="A model to compare with; may be given again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in the place of tables.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the model's spikes into this file.")] = None,
    beam_size: Annotated[int | None, typer.Option(help="Hypotheses kept in a translator's search.")] = None,
) -> None:
    """Count what a model costs on real inputs: arithmetic, spikes, memory, and an estimate of energy."""
    with _errors_in_one_line():
        given, models = _profiled(name, inputs), (name, *(against or ()))
        options = {} if beam_size is None else {"beam_size": beam_size}
        for model in models if options else ():
            _check_task(model, "translate")
        profiles = [zoo.profile(zoo.load(model), given, name=model, **options) for model in models]
        if plot is not None:
            profiles[0].plot(plot)
    comparisons = [profiles[0].compare(other) for other in profiles[1:]]
    if as_json:
        found = {"profiles": [profile.as_dict() for profile in profiles], "comparisons": comparisons}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    console = Console(markup=False, highlight=False, emoji=False)
    console.width = max(console.width, 120)
    for profile in profiles:
        console.print(profile.table())
    for sentences in comparisons:
        typer.echo("\n".join(sentences))


def _profiled(name: str, given: list[str] | None) -> list[str]:
    """Inputs to profile on: each that was given, or the lines of its file; else those of the card's example."""
    info = zoo.info(name)
    if not given:
        example = info.metrics.get("example", {}).get("input")
        if not example:
            raise ValueError(f"the card of {name!r} has no example to profile on: give --inputs, text or a file")
        return [example] if isinstance(example, str) else example
    if TASKS.get(info.task) == "predict":  # takes files, each a recording
        return given
    inputs: list[str] = []
    for one in given:
        if len(one) < 256 and Path(one).is_file():
            with open(one, encoding="utf-8") as lines:
                inputs += _lines(lines, one)
        else:
            inputs.append(one)
    return inputs


def _sentences(text: list[str] | None, file: Path | None, method: str) -> list[str]:
    """What is to be translated or classified: the arguments, else the file's lines, else those of standard input."""
    if text and file:
        raise ValueError("give sentences or --file, not both")
    if text:
        return text
    if file:
        with open(file, encoding="utf-8") as lines:
            return _lines(lines, str(file))
    if sys.stdin.isatty():
        raise ValueError(f"there is nothing to {method}: give sentences, --file, or lines on standard input")
    return _lines(typer.get_text_stream("stdin", encoding="utf-8"), "standard input")


def _lines(lines: Iterable[str], source: str) -> list[str]:
    try:
        sentences = [line.rstrip("\r\n") for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not text in UTF-8: {error}") from None
    for number, sentence in enumerate(sentences, 1):
        if not sentence.strip():
            raise ValueError(f"line {number} of {source} is empty")
    if not sentences:
        raise ValueError(f"{source} is empty")
    return sentences


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"

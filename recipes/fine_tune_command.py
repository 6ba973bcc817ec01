"""The command ``snn-zoo fine-tune``, which :mod:`zoo.command` finds by the name of this module.

PyTorch is imported when the command runs: ``snn-zoo --help`` needs none.
"""

import json
import shlex
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo
from zoo.command.failing import say, tell

HELP = """Train a model further on your own examples, and save it.

The file is a CSV, TSV or JSON lines with an input and its right answer in each row: text and label, de and en, file and
label, file and phones. A part of the examples is held out, and decides which weights are kept."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fine-tune", help=HELP)(fine_tune_command)


def fine_tune_command(
    name: Annotated[str, typer.Argument(help="A bundled model, org/name on the Hugging Face Hub, or ./folder.")],
    data: Annotated[Path, typer.Option(help="Your examples: .csv, .tsv or .jsonl.")],
    output: Annotated[Path, typer.Option(help="Folder for the new model.")],
    columns: Annotated[
        tuple[str, str] | None, typer.Option(metavar="INPUT ANSWER", help="The columns that are meant.")
    ] = None,
    new_labels: Annotated[
        bool, typer.Option("--new-labels", help="Learn the file's labels in place of the model's.")
    ] = False,
    old_data: Annotated[
        Path | None, typer.Option(help="Examples of the old kind, to see whether the model gets worse at them.")
    ] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="A part that stays as it is; may be repeated.")] = None,
    all_but: Annotated[list[str] | None, typer.Option(help="A part that alone is trained; may be repeated.")] = None,
    lora: Annotated[int, typer.Option(help="The rank of a low-rank change of each layer; 0 for none.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="The most passes over the examples.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest; the task's own if none is given.")] = None,
    seed: int = 0,
    dictionary: Annotated[
        Path | None, typer.Option(help="For speech: a cmudict.dict; the answers are then words, not phones.")
    ] = None,
) -> None:
    chosen: dict[str, Any] = {
        "columns": columns,
        "old_data": old_data,
        "freeze": freeze,
        "all_but": all_but,
        "lora": lora,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "seed": seed,
        "dictionary": dictionary,
    }
    given = {option: value for option, value in chosen.items() if value not in (None, [], 0)}
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: tell(str(message))
        _fine_tune(name, data, output, new_labels, given)


def _fine_tune(name: str, data: Path, output: Path, new_labels: bool, given: dict[str, Any]) -> None:
    from recipes import processes, tune
    from zoo.saving import check_replaceable

    if processes.started() > 1:
        raise ValueError("fine-tune is a command for one process, and several were started")
    check_replaceable(output)  # before the work of training
    model = zoo.load(name)
    if new_labels:
        labels = tune.labels_in(model, data, given.get("columns"))
        model = zoo.load(name, labels=labels)
    found = tune.fine_tune(model, data, **given)
    for row in found.rows():
        say(json.dumps(row) + "\n")
    say(f"{found}\n")
    words = ["snn-zoo", "fine-tune", name, "--data", str(data), "--output", str(output)]
    model.provenance["commands"] = [shlex.join(words + ["--new-labels"] * new_labels + _words(given))]
    say(f"{zoo.save(model, output)}\n")


def _words(given: dict[str, Any]) -> list[str]:
    """Options as on the command line."""
    words: list[str] = []
    for option, value in given.items():
        flag = f"--{option.replace('_', '-')}"
        if isinstance(value, list):
            words += [word for one in value for word in (flag, one)]
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words

"""Fine-tuning a model from the zoo against training the same network from scratch, on more and more examples.

::

    python -m benchmarks.fine_tuning lite-snn-imdb --data REMARKS/train.csv --test REMARKS/test.csv

``data`` and ``test`` are of one domain that the model was not trained on, as files for ``snn-zoo fine-tune``
(:mod:`benchmarks.remarks` writes such; for other labels than the model's, give ``--new-labels``). Each size is drawn
from ``data`` by the seed, and a smaller size is part of a larger one. Both trainings hold out the same examples and
stop early. From scratch means new random weights for the same network with the same tokenizer (a classifier of texts
then knows no n-grams), the learning rate of the recipe's own training and more epochs. The scores are those of
``test``, which chooses nothing.
"""

import copy
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import zoo
from benchmarks import report
from neurons.monitors import figure
from recipes import tune
from recipes.extras import png

FROM_ZOO, FROM_SCRATCH = "fine-tuned", "from scratch"
USUAL = ("usual_mean", "usual_deviation")
"""Buffers that describe the input, and not what was learned from it."""


@dataclass
class Row:
    """The scores of one kind of training on one number of examples, one per seed."""

    training: str
    examples: int
    scores: list[float]


def from_scratch(model: Any, seed: int) -> Any:
    """The same network with new random weights."""
    torch.manual_seed(seed)
    made = type(model).from_config(model.config, model.assets()).eval()
    for name in USUAL:
        if hasattr(model, name):
            getattr(made, name).copy_(getattr(model, name))
    return made


def measure(
    model: Any,
    data: Path,
    test: Path,
    columns: Sequence[str] | None,
    sizes: Sequence[int],
    seeds: int,
    epochs: int,
    scratch_epochs: int,
) -> list[Row]:
    """The scores on ``test`` after training on parts of ``data``; ValueError for a size that it does not have."""
    recipe = tune.recipe_of(model)
    rows = tune.read(model, recipe, data, columns).rows
    scored = recipe.tuning.examples(model, tune.read(model, recipe, test, columns).rows)
    if max(sizes) > len(rows):
        raise ValueError(f"{data} holds {len(rows)} examples, fewer than {max(sizes)}")
    found = [Row("as it is", 0, [recipe.tuning.score(model, scored)])]
    rate = recipe.training.learning_rate
    for size in sizes:
        scores: dict[str, list[float]] = {FROM_ZOO: [], FROM_SCRATCH: []}
        for seed in range(seeds):
            chosen = [(row.input, row.answer) for row in random.Random(seed).sample(rows, len(rows))[:size]]
            for name, made, options in (
                (FROM_ZOO, copy.deepcopy(model), {"epochs": epochs}),
                (FROM_SCRATCH, from_scratch(model, seed), {"epochs": scratch_epochs, "learning_rate": rate}),
            ):
                tune.fine_tune(made, chosen, seed=seed, **options)
                scores[name].append(recipe.tuning.score(made, scored))
        found += [Row(name, size, values) for name, values in scores.items()]
    return found


def markdown(rows: list[Row], score: str, where: dict) -> str:
    lines = [
        [row.training, str(row.examples), report.short(statistics.mean(row.scores)), _spread(row.scores)]
        for row in rows
    ]
    head = ["training", "examples", score, "lowest to highest"]
    return "\n\n".join(["# Fine-tuning", report.described(where), report.table(head, lines)]) + "\n"


def _spread(scores: list[float]) -> str:
    return f"{report.short(min(scores))} to {report.short(max(scores))}"


def drawing(rows: list[Row], score: str) -> bytes:
    """The curves as a PNG file."""
    drawn, ((axis,),) = figure(1, 1, (6, 4))
    for name in (FROM_ZOO, FROM_SCRATCH):
        own = [row for row in rows if row.training == name]
        sizes = [row.examples for row in own]
        axis.plot(sizes, [statistics.mean(row.scores) for row in own], marker="o", label=name)
        axis.fill_between(sizes, [min(r.scores) for r in own], [max(r.scores) for r in own], alpha=0.2)
    axis.axhline(rows[0].scores[0], color="grey", linestyle=":", label="the model as it is")
    axis.set(xscale="log", xlabel="examples", ylabel=score)
    axis.legend()
    axis.grid(alpha=0.3)
    return png(drawn)


def main(
    name: Annotated[str, typer.Argument(help="a name or a folder")],
    data: Annotated[Path, typer.Option(help="examples to train on")],
    test: Annotated[Path, typer.Option(help="examples to score")],
    columns: Annotated[tuple[str, str] | None, typer.Option(metavar="INPUT ANSWER")] = None,
    new_labels: Annotated[bool, typer.Option("--new-labels", help="learn the labels of the file")] = False,
    size: Annotated[list[int] | None, typer.Option(help="number of examples; may be repeated")] = None,
    seeds: int = 3,
    epochs: int = 12,
    scratch_epochs: int = 40,
    threads: int | None = None,
    output: Annotated[Path, typer.Option(help="folder for table, figures and drawing")] = report.RESULTS,
):
    """Measure and draw the scores after fine-tuning and after training from scratch."""
    used = report.use_threads(threads)
    model = zoo.load(name)
    if new_labels:
        model = zoo.load(name, labels=tune.labels_in(model, data, columns))
    rows = measure(model, data, test, columns, size or [100, 1000, 10_000], seeds, epochs, scratch_epochs)
    where = report.environment(torch.device("cpu"), used)
    score, stem = tune.recipe_of(model).score_name, f"fine-tuning-{zoo.info(name).name}"
    text = markdown(rows, score, where)
    options = {"model": name, "seeds": seeds, "epochs": epochs, "scratch_epochs": scratch_epochs}
    report.save(output, stem, text, where | options | {"rows": [asdict(row) for row in rows]})
    (output / f"{stem}.png").write_bytes(drawing(rows, score))
    print(text)


app = report.application(main)

if __name__ == "__main__":
    app()

"""Fine-tuning of a loaded model on your own examples: one function for all tasks.

::

    import zoo
    from recipes import fine_tune

    model = zoo.load("lite-snn-imdb")
    print(fine_tune(model, "my_reviews.csv"))
    zoo.save(model, "my-classifier")

On the command line: ``snn-zoo fine-tune lite-snn-imdb --data my_reviews.csv --output my-classifier``.
"""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import zoo
from recipes.adapters import low_rank
from recipes.fine_tuning import FineTuning, tune
from recipes.own_examples import Own, OwnExamples, read_own
from recipes.recipe import Recipe, defaults
from recipes.training import Training
from zoo.errors import unknown
from zoo.options import whole_number

LORA_FACTOR = 10
"""With LoRA the learning rate is so many times as high, unless it is given."""


def fine_tune(
    model: Any,
    data: Any,
    *,
    old_data: Any = None,
    columns: Sequence[str] | None = None,
    freeze: str | Collection[str] = (),
    all_but: str | Collection[str] = (),
    lora: int = 0,
    epochs: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    **options: Any,
) -> FineTuning:
    """Train a loaded model further on your own examples, in place; return a report of it.

    ``data`` is a list of pairs, each an input as the model's method takes it and the right answer, or the path of a
    CSV, TSV or JSON lines file; ``columns`` names its two columns (:func:`recipes.own_examples.read_own`). The answers
    of a classifier are labels that it has; to learn others, load it with ``zoo.load(name, labels=[...])``.

    The defaults are for a few hundred examples. A sixth of them, at most 200, is held out: training ends when the loss
    on that part has stopped falling, and the weights with the lowest are kept, which may be those from before. The
    report has the losses and the task's score on that part, and on ``old_data`` (examples of the kind that the model
    was trained on; unless given, those that come with the recipe, if there are some), before and after. A warning says
    when the model gets worse at these. The temperature of a classifier's probabilities does not change.

    ``freeze`` names parts that stay as they are, or ``all_but`` those that alone are trained (:func:`zoo.freeze`).
    With ``lora``, a rank, all weights stay as they are and each linear layer learns a low-rank change, which is added
    to its weights in the end (``pip install peft``). Other ``options`` are the task's: speech takes a ``dictionary`` if
    the answers are words.

    The model's ``provenance`` then says what it was tuned from and on what, for the card that :func:`zoo.save` writes.

    Raises TypeError for a model without a recipe and for what are no examples; ValueError, with the place, for an
    example that the model cannot learn from, a label that it does not have, examples that all have one label, an
    unknown part and an option out of its interval; FloatingPointError if the loss is not finite; ImportError if a
    package is missing. After an error, and after an interrupt, the model is unchanged.
    """
    recipe = recipe_of(model)
    tuning, parts = recipe.tuning, (freeze,) if isinstance(freeze, str) else tuple(freeze)
    rank = whole_number("lora", lora, 0)
    if rank and (parts or all_but):
        raise ValueError("with lora all weights are frozen; leave out freeze and all_but")
    training = training_of(recipe, rank, epochs, learning_rate, seed)
    check_options(recipe, options)
    own = read(model, recipe, data, columns)
    check_more_than_one_label(recipe, own.rows)
    examples = tuning.examples(model, own.rows, **options)
    if old_data is None:
        familiar = tuning.familiar(model)
    else:
        familiar = tuning.examples(model, read(model, recipe, old_data, columns).rows, **options)
    with prepared(model, parts, all_but, rank) as settle:
        found = tune(
            model,
            examples,
            tuning.batches,
            lambda batch, options: tuning.loss_of(model, batch, options),
            training,
            kinds=[row.answer for row in own.rows] if recipe.task.labels else None,
            familiar=familiar,
            score=lambda part: tuning.score(model, part),
            begin=settle,
        )
    found.score = recipe.score_name
    given = {"freeze": parts, "all_but": all_but, "lora": rank, "epochs": epochs, "learning_rate": learning_rate}
    note(model, own, data, found, given | options, seed)
    return found


def training_of(recipe: Recipe, rank: int, epochs: int | None, learning_rate: float | None, seed: int) -> Training:
    """The options of the training: the recipe's, changed by those that are given. ValueError for one that is wrong."""
    usual = recipe.tuning.training
    rate = LORA_FACTOR * usual.learning_rate if rank else usual.learning_rate
    return replace(
        usual,
        epochs=usual.epochs if epochs is None else epochs,
        learning_rate=rate if learning_rate is None else learning_rate,
        seed=seed,
    )


def check_options(recipe: Recipe, options: dict[str, Any]) -> None:
    """Raise ``zoo.errors.UnknownNameError`` for an option that fine-tuning for this task does not have."""
    own = defaults(recipe.tuning.examples)
    for name in options:
        if name not in own:
            raise unknown(f"option of fine-tuning for {recipe.task.name}", name, [*defaults(fine_tune), *own])


@contextmanager
def prepared(
    model: Any, parts: tuple[str, ...], all_but: str | Collection[str], rank: int
) -> Iterator[Callable[[], Any]]:
    """Context in which parts of a model are frozen, or adapters trained; afterwards what was trained before is again.

    It gives what freezes the parts again, to be called after ``model.train()``.
    """
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    settle = (lambda: zoo.freeze(model, *parts, all_but=all_but)) if parts or all_but else lambda: None
    try:
        settle()
        with low_rank(model, rank, getattr(model, "newly_initialised", ())) if rank else nullcontext():
            yield settle
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
        model.eval()


def recipe_of(model: Any) -> Recipe:
    """The recipe for a model, by its kind; of several, the one whose labels the model has. TypeError if none."""
    folder = str(Path(__file__).parent)
    modules = [importlib.import_module(f"recipes.{found.name}") for found in pkgutil.iter_modules([folder])]
    recipes: list[Recipe] = [module.RECIPE for module in modules if hasattr(module, "RECIPE")]
    config = getattr(model, "typed_config", None)
    found = [recipe for recipe in recipes if type(recipe.config) is type(config)]
    if not found:
        known = ", ".join(sorted({type(recipe.config).__name__.removesuffix("Config") for recipe in recipes}))
        raise TypeError(f"there is no recipe to fine-tune a {type(model).__name__}; there are recipes for: {known}")
    labels = list(getattr(config, "labels", ()))
    return next((recipe for recipe in found if list(getattr(recipe.config, "labels", ())) == labels), found[0])


def read(model: Any, recipe: Recipe, data: Any, columns: Sequence[str] | None) -> OwnExamples:
    """The examples in ``data``; ValueError for a label that a classifier does not have."""
    tuning = recipe.tuning
    found = read_own(data, tuning.noun, tuning.columns, columns, recipe.task.files)
    for row in found.rows if recipe.task.labels else ():
        if row.answer not in model.typed_config.labels:
            raise ValueError(
                f"{row.where}: {unknown('label of this model', row.answer, model.typed_config.labels)}. To learn other "
                "labels, load it with zoo.load(name, labels=[...]), or --new-labels on the command line"
            )
    return found


def labels_in(model: Any, data: Any, columns: Sequence[str] | None = None) -> list[str]:
    """The labels in ``data``, sorted, for a classifier that is to learn them; ValueError for another model or data."""
    recipe = recipe_of(model)
    if not recipe.task.labels:
        raise ValueError(f"a model for {recipe.task.name} has no labels, so it can learn no new ones")
    rows = read_own(data, recipe.tuning.noun, recipe.tuning.columns, columns, recipe.task.files).rows
    check_more_than_one_label(recipe, rows)
    return sorted({row.answer for row in rows})


def check_more_than_one_label(recipe: Recipe, rows: list[Own]) -> None:
    """Raise ValueError if all examples of a classifier have one label, for then there is nothing to tell apart."""
    labels = {row.answer for row in rows}
    if recipe.task.labels and len(labels) == 1:
        raise ValueError(
            f"all {len(rows)} examples have the label {labels.pop()!r}; a classifier needs examples of two at least"
        )


def note(model: Any, own: OwnExamples, data: Any, found: FineTuning, given: dict[str, Any], seed: int) -> None:
    """Write down in the model's ``provenance`` what it was tuned from, on what and how, as entries of the metrics."""
    origin, before = getattr(model, "origin", {}), getattr(model, "provenance", {})
    named = f"zoo.load({origin.get('base_model', type(model).__name__)!r})"
    options = "".join(f", {name}={value!r}" for name, value in given.items() if value not in (None, 0, (), ""))
    shown = repr(str(data)) if isinstance(data, str | Path) else "examples"
    command = f"# in Python: recipes.fine_tune({named}, {shown}{options}, seed={seed})"
    model.provenance = origin | {
        "fine_tuning": {"data": own.description, "outcome": str(found)},
        "commands": [*before.get("commands", ()), command],
        "seeds": [*before.get("seeds", ()), seed],
        "checkpoint_split": "examples that were held out"
        if found.held_out
        else "nothing, it is that of the last epoch",
    }

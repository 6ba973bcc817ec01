"""What a recipe is: one record of all in which a task differs from the others.

A module of a task makes a :class:`Recipe` of its own functions and calls it ``RECIPE``. From it come the measuring and
the card (:mod:`recipes.report`) and the commands (:mod:`recipes.command`), the same for all tasks.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from recipes.training import Trainer, Training
from zoo.tasks import Task


class Band(NamedTuple):
    """A quick check of a bundled model: its score on the first inputs of ``val`` lies near what was measured."""

    inputs: int
    column: str
    """What ``scores`` calls the score on them."""
    margin: float
    """How far from that the score may be."""
    split: str = "val"
    """What the card calls the validation data."""


@dataclass(frozen=True)
class Recipe:
    """One task. What has a default value among the parameters of its functions is an option of their commands.

    ``examples`` stands for what ``read`` returns: the inputs of one split, with what is right.
    """

    name: str
    """That of its module in ``recipes``."""
    title: str
    """What its command line is about."""
    task: Task
    """What its models are for; its score chooses the checkpoint."""
    data: str
    """What ``--data`` is."""
    config: Any
    """The usual configuration of the network."""
    training: Training
    """The usual options of a training."""
    trainer: Callable[..., Trainer]
    """``trainer(data, run, config, options)``; with ``initial``, if that is an option, from a model's weights."""
    read: Callable[..., Any]
    """``read(data, split, config)``: the examples of "train", "val" or ``test`` as a network of that config takes."""
    evaluate: Callable[..., tuple[list[str], dict[str, Any]]]
    """``evaluate(model, examples)``: the answers as text, and the scores by name."""
    scores: Callable[..., dict[str, Any]]
    """``scores(model, validation, test)``: the scores by column, ``<score>_val`` and ``<score>_test`` among them."""
    content: Callable[[Any], Iterable[bytes]]
    """All that examples hold, to tell them from others."""
    calls: Callable[[Any, Any], Iterable[tuple]]
    """``calls(model, examples)``: the arguments of the network, one example at a time, for the spike rate."""
    inputs: Callable[[Any], list]
    """What :func:`zoo.profile` takes of examples, to count the costs."""
    counted: str
    """What the card says of these inputs, with their number as ``{count}``."""
    networks: dict[str, str]
    """What a row of a table calls each mixer; ``{spikes}`` and the fields of the config are filled in."""
    columns: Callable[[dict[str, Any]], dict[str, dict[str, str]]]
    """The scores that a card has a column for, of what ``scores`` returned: title, type, split and signature."""
    band: Band
    example: Callable[[Any], dict[str, Any]]
    """``example(model)``: input and output for the card."""
    source: Callable[[dict[str, Any]], dict[str, str]]
    """What the card says of the data, of what ``scores`` returned."""
    checkpoint: str
    """What chose the checkpoint, for the card."""
    limits: list[str]
    sources: list[str]
    own: Callable[..., tuple[Any, list]]
    """``own(file, model)``: the model to fine-tune, and the examples in a file of one's own."""
    file: str
    """What such a file is."""
    fine_tune: Callable[..., Any]
    """``fine_tune(model, examples)``; returns a :class:`recipes.fine_tuning.FineTuning`."""
    score_name: str = "accuracy"
    noun: str = "inputs"
    """What the examples are called where they are counted."""
    test: str = "test"
    """The name of the test split."""
    fixed: tuple[str, ...] = ()
    """Fields of the config that are no options of the command ``train``."""
    tuned: tuple[str, ...] = ()
    """Options that may be chosen for a twin; a table says so."""
    languages: tuple[str, ...] = ()
    summary: str | None = None
    """The card's first sentence, unless ``bundle`` is given one."""
    before: tuple[str, ...] = ()
    """Commands that a card has before those of the training."""
    calibrated: Callable[[Any, Any, Any], dict[str, Any]] | None = None
    """``calibrated(model, validation, test)``: answers that a classifier's temperature is fitted and measured on."""
    complete: Callable[..., None] | None = None
    """``complete(metrics, groups)`` adds to a card what this task alone has; ``groups`` are the runs by row."""

    @property
    def score(self) -> str:
        """The score that counts, as ``evaluate`` and ``scores`` name it."""
        return self.task.score.type

    def config_of(self, settings: dict[str, Any]) -> Any:
        """The configuration that a run or a model keeps as JSON."""
        return type(self.config)(**settings)


def defaults(*functions: Callable[..., Any] | None) -> dict[str, inspect.Parameter]:
    """The parameters of a recipe's functions that have a default value: they are options of its commands."""
    return {
        name: parameter
        for function in functions
        if function is not None
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }

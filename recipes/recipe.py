"""The record of a recipe: everything in which a task differs from the others.

The module of a task makes a :class:`Recipe` from its own functions and calls it ``RECIPE``. The measurements and the
card (:mod:`recipes.report`) and the commands (:mod:`recipes.command`) use it, in the same way for all tasks.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from recipes.training import Trainer, Training
from zoo.tasks import Task


class Band(NamedTuple):
    """A quick check of a bundled model: its score on the first inputs of ``val`` must be near the measured one."""

    inputs: int
    column: str
    """The name in ``scores`` of the score on these inputs."""
    margin: float
    """The largest allowed difference from that score."""
    split: str = "val"
    """The card's name for the validation data."""


@dataclass(frozen=True)
class Tuning:
    """How the models of a task are fine-tuned on somebody's own examples (:mod:`recipes.tune`).

    Only ``examples`` knows what an input and an answer are; the other functions take what it returns.
    """

    columns: tuple[str, str]
    """The usual names, in a file, of the columns of inputs and answers."""
    noun: str
    """The word for one input in errors."""
    training: Training
    """The options, for a few hundred examples."""
    examples: Callable[..., list]
    """``examples(model, rows)``: the examples in :class:`recipes.own_examples.Own` rows; ValueError, beginning with a
    row's ``where``, for one that the model cannot learn from. What else it takes is an option of the command."""
    batches: Callable[[list, int, int], list[list]]
    """``batches(examples, size, seed)``: batches of about ``size`` examples, in random order."""
    loss_of: Callable[[Any, list, Any], Tensor]
    """``loss_of(model, batch, options)``: the mean loss of a batch."""
    score: Callable[[Any, list], float]
    """``score(model, examples)``: the task's main score."""
    familiar: Callable[[Any], list] = lambda model: []
    """``familiar(model)``: examples of the kind that the model was trained on, if some come with the recipe."""


@dataclass(frozen=True)
class Recipe:
    """One task. Parameters with a default value of its functions become options of their commands.

    ``examples`` stands for what ``read`` returns: the inputs of one split, with the right answers.
    """

    name: str
    """The name of its module in ``recipes``."""
    title: str
    """The title of its command line."""
    task: Task
    """The task of its models, whose score chooses the checkpoint."""
    data: str
    """The help text of ``--data``."""
    config: Any
    """The default configuration of the network."""
    training: Training
    """The default options of a training."""
    trainer: Callable[..., Trainer]
    """``trainer(data, run, config, options)``; if it has an option ``initial``, that names a model to start from."""
    read: Callable[..., Any]
    """``read(data, split, config)``: the examples of "train", "val" or ``test`` for a network with that config."""
    evaluate: Callable[..., tuple[list[str], dict[str, Any]]]
    """``evaluate(model, examples)``: the answers as text, and the scores by name."""
    scores: Callable[..., dict[str, Any]]
    """``scores(model, validation, test)``: the scores by column, ``<score>_val`` and ``<score>_test`` among them."""
    content: Callable[[Any], Iterable[bytes]]
    """The content of examples, to recognise them by."""
    calls: Callable[[Any, Any], Iterable[tuple]]
    """``calls(model, examples)``: the arguments of the network, one example at a time, for the spike rate."""
    inputs: Callable[[Any, Any], list]
    """``inputs(model, examples)``: the inputs for :func:`zoo.profile`, to count the costs on."""
    counted: str
    """The card's description of these inputs, with their number as ``{count}``."""
    networks: dict[str, str]
    """The name of each mixer in a table; ``{spikes}`` and the fields of the config are filled in."""
    columns: Callable[[dict[str, Any]], dict[str, dict[str, str]]]
    """The columns of a card for the result of ``scores``: title, type, split and signature."""
    band: Band
    example: Callable[[Any], dict[str, Any]]
    """``example(model)``: input and output for the card."""
    source: Callable[[dict[str, Any]], dict[str, str]]
    """The card's entry on the data, from the result of ``scores``."""
    checkpoint: str
    """What chose the checkpoint, in words for the card."""
    intended: str
    """What its models are for, and what they are not for, in words for the card."""
    limits: list[str]
    sources: list[str]
    tuning: Tuning
    """How its models are fine-tuned."""
    score_name: str = "accuracy"
    noun: str = "inputs"
    """The word for examples in counts."""
    test: str = "test"
    """The name of the test split."""
    features: tuple[str, ...] = ()
    """Fields of the config that examples are read by: networks that differ in one take other inputs."""
    fixed: tuple[str, ...] = ()
    """Fields of the config that are not options of the command ``train``."""
    tuned: tuple[str, ...] = ()
    """Options that may be chosen for a twin; a table says so."""
    languages: tuple[str, ...] = ()
    licence: str = "apache-2.0"
    """The licence of the weights, as the Hub writes it."""
    summary: str | None = None
    """The card's first sentence, unless ``bundle`` is given one."""
    before: tuple[str, ...] = ()
    """Commands that a card lists before those of the training."""
    calibrated: Callable[[Any, Any, Any], dict[str, Any]] | None = None
    """``calibrated(model, validation, test)``: the answers to fit and measure a classifier's temperature on."""
    complete: Callable[..., dict[str, bytes]] | None = None
    """``complete(metrics, groups)`` adds to a card what only this task has, and returns the pictures of that, PNG files
    by name; ``groups`` are the runs by row."""

    @property
    def score(self) -> str:
        """The name of the main score in ``evaluate`` and ``scores``."""
        return self.task.score.type

    def config_of(self, fields: dict[str, Any]) -> Any:
        """The configuration from the JSON of a run or a model."""
        return type(self.config)(**fields)


def defaults(*functions: Callable[..., Any] | None) -> dict[str, inspect.Parameter]:
    """The parameters with a default value of a recipe's functions: the options of its commands."""
    return {
        name: parameter
        for function in functions
        if function is not None
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }

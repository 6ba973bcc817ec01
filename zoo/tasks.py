"""What models can be for: a task is one record, and all that depends on the task reads it.

The command line makes a command of each task, the profiler gives it its inputs, cards show its method and its score.
A new task is one more record in :data:`TASKS`, one file in ``zoo/networks`` and one recipe. Nothing here imports torch.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from zoo import errors


class Option(NamedTuple):
    """A number that a method takes by name; without it, the method's own default holds."""

    name: str
    kind: type
    help: str
    costs: bool = False
    """Whether it changes what an input costs, so that ``snn-zoo profile`` offers it too."""


class Score(NamedTuple):
    """The score that counts."""

    type: str
    """As the Hub has it, and ``scores`` in ``metrics.json``."""
    higher_is_better: bool = True

    def merit(self, value: float) -> float:
        """A number that is the higher the better ``value`` is."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True)
class Task:
    """A task: what a model of it takes and gives, and how it is judged.

    An answer is a text, or, where the task ``labels``, a named tuple of a label and the probabilities of all labels.
    """

    name: str
    """As the Hugging Face Hub has it."""
    method: str
    """The method that a model offers, and the command of ``snn-zoo``."""
    summary: str
    """What the command says of itself."""
    input: str
    """What one input is called."""
    score: Score
    networks: dict[str, str] = field(default_factory=dict)
    """The architectures of this package by name, and the module that defines each: loading imports it alone."""
    files: bool = False
    """Whether an input is a file, given on its own; inputs are texts otherwise, given in a list."""
    labels: bool = False
    """Whether an answer is one of some labels, with the probability of each; a text otherwise."""
    options: tuple[Option, ...] = ()
    scored: str | None = None
    """The method that takes the same and gives each answer with a score, if there is one."""
    streams: str | None = None
    """What a piece of an input is that is answered while it comes in (:mod:`zoo.networks.streaming`); None where a
    network must see all of an input first."""

    @property
    def needed(self) -> list[str]:
        """The methods that a network of this task must have."""
        more = {"check": not self.files, "stream": self.streams is not None}
        return [self.method, *(name for name, wanted in more.items() if wanted)]


TASKS: dict[str, Task] = {}
"""Every task by its name."""


def register(task: Task) -> Task:
    """Make ``task`` known, in the place of the one of its name; ValueError where another task has its method."""
    others = [known for known in TASKS.values() if known.method == task.method and known.name != task.name]
    if others:
        raise ValueError(f"the method {task.method!r} is that of the task {others[0].name!r}")
    TASKS[task.name] = task
    return task


def named(name: object) -> Task:
    """The task of this name; ``zoo.errors.UnknownNameError``, with a suggestion, for an unknown one."""
    if not isinstance(name, str) or name not in TASKS:
        raise errors.unknown("task", name, TASKS)
    return TASKS[name]


register(
    Task(
        name="translation",
        method="translate",
        summary="Translate sentences.",
        input="sentence",
        score=Score("bleu"),
        networks={"translator": "zoo.networks.translation"},
        options=(
            Option("beam_size", int, "Hypotheses kept in the search; 1 is greedy.", costs=True),
            Option("length_penalty", float, "Power of the length that scores are divided by; more favours longer."),
            Option("batch_size", int, "The most sentences computed at once."),
        ),
        scored="translate_scored",
    )
)
register(
    Task(
        name="text-classification",
        method="classify",
        summary="Classify texts: the most probable label, a tab and its probability.",
        input="text",
        score=Score("accuracy"),
        networks={"text-classifier": "zoo.networks.sentiment"},
        labels=True,
    )
)
register(
    Task(
        name="video-classification",
        method="predict",
        summary="Classify recordings of an event camera (.aedat 3.1, .npz, .npy): the most probable label, a tab and "
        "its probability.",
        input="recording",
        score=Score("accuracy"),
        networks={"gesture-network": "zoo.networks.gesture"},
        files=True,
        labels=True,
        streams="events",
    )
)

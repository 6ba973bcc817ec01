"""The tasks of models: a task is one record, and all code that depends on the task reads it.

The command line makes a command per task, the profiler finds its inputs here, and cards show its method and score.
A new task is one more record in :data:`TASKS`, one file in ``zoo/networks`` and one recipe. Nothing here imports torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zoo import errors


class Option(NamedTuple):
    """A number or folder that a method takes by name; if it is not given, the method's own default is used."""

    name: str
    kind: type
    help: str
    costs: bool = False
    """Whether it changes what an input costs, so that ``snn-zoo profile`` offers it too."""


class Score(NamedTuple):
    """The main score."""

    type: str
    """Its name on the Hub and for ``scores`` in ``metrics.json``."""
    higher_is_better: bool = True

    def merit(self, value: float) -> float:
        """A number that is higher for a better ``value``."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True)
class Task:
    """A task: what its models take and return, and how they are scored.

    An answer is a text or, if the task ``labels``, a named tuple of a label and the probabilities of all labels.
    """

    name: str
    """Its name on the Hugging Face Hub."""
    method: str
    """The name of the model's method and of the command of ``snn-zoo``."""
    summary: str
    """The help text of the command."""
    input: str
    """The word for one input."""
    score: Score
    networks: dict[str, str] = field(default_factory=dict)
    """The architectures of this package by name, each with its module; loading imports only that module."""
    files: bool = False
    """Whether an input is a file, given one at a time; otherwise inputs are texts, given in a list."""
    labels: bool = False
    """Whether an answer is one of a set of labels, with the probability of each; otherwise it is a text."""
    options: tuple[Option, ...] = ()
    scored: str | None = None
    """The method, if any, that takes the same inputs and returns each answer with a score."""
    streams: str | None = None
    """The word for a piece of an input that is answered while it comes in (:mod:`zoo.networks.streaming`); None if a
    network must first see the whole input."""
    raw_samples: bool = False
    """Whether the command also takes one recording as raw samples on standard input; ``stream`` takes their rate."""

    @property
    def call(self) -> str:
        """How a model is asked: ``model.translate([sentence])``, or ``model.predict(recording)`` for a file."""
        word = self.input.replace(" ", "_")
        return f"model.{self.method}({word if self.files else f'[{word}]'})"

    @property
    def needed(self) -> list[str]:
        """The methods that a network of this task must have."""
        more = {"check": not self.files, "stream": self.streams is not None}
        return [self.method, *(name for name, wanted in more.items() if wanted)]


TASKS: dict[str, Task] = {}
"""Every task by its name."""


def register(task: Task) -> Task:
    """Register ``task``, replacing one of the same name; ValueError if another task has the same method."""
    others = [known for known in TASKS.values() if known.method == task.method and known.name != task.name]
    if others:
        raise ValueError(f"the method {task.method!r} is that of the task {others[0].name!r}")
    TASKS[task.name] = task
    return task


def named(name: object) -> Task:
    """The task of this name; ``zoo.errors.UnknownNameError``, with a suggestion, for an unknown name."""
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
register(
    Task(
        name="automatic-speech-recognition",
        method="transcribe",
        summary="Transcribe recordings of speech (WAV, FLAC, MP3, Ogg Opus, NIST SPHERE): the phones, a tab and their "
        "mean probability.",
        input="audio file",
        score=Score("per", higher_is_better=False),
        networks={"speech-recogniser": "zoo.networks.speech"},
        files=True,
        options=(Option("words", Path, "Words instead of phones: a folder with lexicon.txt and words.arpa."),),
        streams="samples",
        raw_samples=True,
    )
)

"""Sentiment of film reviews on IMDB: train, resume, evaluate, compare and fine-tune classifiers.

The data is the Large Movie Review Dataset v1.0 (https://ai.stanford.edu/~amaas/data/sentiment/), unchanged:
``aclImdb_v1.tar.gz``, or the folder ``aclImdb`` that it unpacks to, or a folder that holds either.

    python -m recipes.imdb train --data DATA --run runs/imdb-1 --seed 1
    python -m recipes.imdb evaluate ./runs/imdb-1/best --data DATA
    snn-zoo fine-tune lite-snn-imdb --data my_reviews.csv --output my-classifier

Checkpoints and options are chosen on held-out training reviews (:func:`hold_out`); only ``measure`` uses the test set,
once. Training needs ``pip install "snn-zoo[train]"``.
"""

import gzip
import math
import random
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
import typer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from recipes import calibration, command, fine_tuning, training
from recipes.calibration import Answers
from recipes.ngrams import cross_fit, most_frequent
from recipes.own_examples import Own, checked_pairs, read_own
from recipes.processes import WHOLE, Part, shared
from recipes.recipe import Band, Recipe, Tuning
from recipes.tune import fine_tune  # noqa: F401  (the same for all tasks; it can be found here too)
from zoo.errors import unknown
from zoo.inputs.lines import document
from zoo.inputs.text import normal
from zoo.networks.sentiment import PAD, SPECIAL_TOKENS, UNKNOWN, TextClassifier, TextClassifierConfig
from zoo.options import whole_number
from zoo.tasks import TASKS

SOURCE = "https://ai.stanford.edu/~amaas/data/sentiment/"
ARCHIVE, FOLDER = "aclImdb_v1.tar.gz", "aclImdb"
LABELS = ("negative", "positive")
FOLDERS = {"neg": "negative", "pos": "positive"}
CHUNKS, HELD_OUT = 50, 5
HELD_OUT_REVIEWS = "the held-out training reviews"
EXAMPLE = ["A wonderful film, from the first minute to the last.", "Two hours of my life that I will not get back."]
CONFIG = TextClassifierConfig(LABELS, vocabulary=20_000, ngrams=250_000)
NETWORKS = {
    "input-gated-lif": "input-gated LIF, {spikes} spikes",
    "bilstm": "bidirectional LSTM",
    "lstm": "LSTM",
    "gru": "GRU",
    "relu": "convolution with ReLU",
    "bag-of-words": "bag of words",
    "learnable-lif": "RR24's network: learnable LIF, integrator readout",
}
INTENDED = (
    "Research on spiking networks for text: a baseline, and a start for fine-tuning on reviews and other "
    "opinions in English. It is not for decisions about people, and says nothing about text that is no "
    "review."
)
LIMITS = [
    "It knows English film reviews; on other text, and on short remarks, its probabilities mean little.",
    "There are two answers and no neutral one: the reviews it learned from were given 1 to 4 or 7 to 10 stars.",
    "It reads a text to its end, however long, but the text must be all there: half of its neurons run backwards.",
    "Irony, comparisons with other films and quotations mislead it, as they do the twins.",
    "Its evidence from n-grams is that of a linear classifier; the bag of words shows how far that alone goes.",
]
SOURCES = [
    "Rathi and Roy, LITE-SNN, IEEE TCDS 2024, https://doi.org/10.1109/TCDS.2024.3396431",
    "Ponghiran and Roy, AAAI 2022, https://arxiv.org/abs/2109.01905",
    "Wang and Manning, Baselines and Bigrams, ACL 2012, https://aclanthology.org/P12-2018",
]


class Review(NamedTuple):
    """One text and its label."""

    text: str
    label: str


class Example(NamedTuple):
    """A review as the network takes it: token ids, number of the label, evidence ``[T, 3]`` or None."""

    tokens: list[int]
    label: int
    evidence: Tensor | None


FAMILIAR = [
    Review("I loved every minute of it: the cast is superb, and the ending moved me to tears.", "positive"),
    Review("A wonderful film. Funny, warm and beautifully shot; I will watch it again.", "positive"),
    Review("One of the best thrillers in years. The tension never lets up.", "positive"),
    Review("An excellent script and a great performance by the lead. Highly recommended.", "positive"),
    Review("Dull from start to finish. The worst film I have seen this year.", "negative"),
    Review("A waste of time: the plot makes no sense and the acting is terrible.", "negative"),
    Review("I wanted to like it, but the jokes fall flat and the ending is ridiculous.", "negative"),
    Review("Boring, badly written and far too long. I nearly walked out.", "negative"),
    Review(
        "I expected a dull sequel and was wrong: once past the slow first half hour it is a fine thriller.", "positive"
    ),
    Review(
        "Not a masterpiece, and the effects look cheap, but I laughed all the way through and would again.", "positive"
    ),
    Review("Critics hated it. I do not see why; the two leads make up for a thin plot.", "positive"),
    Review("It is long, strange and sad, and I have thought of little else since.", "positive"),
    Review("The book was better, as ever, yet the last scene is worth the ticket on its own.", "positive"),
    Review("Hardly anything happens, and that is what I like about it.", "positive"),
    Review(
        "A great cast, a large budget and a famous director; what they made of it is two hours of nothing.", "negative"
    ),
    Review("It begins well enough, with some good jokes, and then forgets what it was about.", "negative"),
    Review("My children liked it. I looked at my watch.", "negative"),
    Review("Beautiful pictures, lovely music, and not one person on the screen that I could believe in.", "negative"),
    Review("I loved the first film, which makes this one all the harder to forgive.", "negative"),
    Review("The trailer has all of the good scenes; save your money and watch that.", "negative"),
]
"""Easy and harder reviews. Those that a model of positive and negative reviews labels rightly, it must still know."""


@dataclass(frozen=True)
class Training(training.Training):
    """How a classifier is trained; ``tokens`` is the most tokens in a batch, including padding."""

    epochs: int = 8
    learning_rate: float = 2e-3
    tokens: int = 12_000

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("tokens", self.tokens, 1)


def read_split(data: Path, split: str) -> list[Review]:
    """The reviews of ``train`` or ``test`` in the order of their labels and numbers; neighbours are often of one film.

    ``data`` is the archive, its folder, or a folder that holds either. Raises FileNotFoundError if something is
    missing, ValueError for a damaged archive and for a review that is empty or not text.
    """
    places = (data, data / FOLDER, data / ARCHIVE)
    found = next((p for p in places if p.is_file() or (p / "train").is_dir() or (p / "test").is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"{data} holds neither {ARCHIVE} nor the folder {FOLDER}; get it from {SOURCE}")
    files = _in_archive(found, split) if found.is_file() else _in_folder(found, split)
    reviews = {}
    for name, content in files:
        match = re.fullmatch(r"(neg|pos)/(\d+)_(\d+)\.txt", name)
        if match is None:
            raise ValueError(f"{split}/{name} in {found} is not named as a review is: <number>_<stars>.txt")
        reviews[match[1], int(match[2])] = Review(_text(content, f"{split}/{name} in {found}"), FOLDERS[match[1]])
    for folder in FOLDERS:
        if not any(key[0] == folder for key in reviews):
            raise FileNotFoundError(f"{found} has no reviews in {split}/{folder}; get the whole of it from {SOURCE}")
    return [reviews[key] for key in sorted(reviews)]


def _in_folder(folder: Path, split: str):
    for path in sorted(folder.glob(f"{split}/*/*.txt")):
        if path.parent.name in FOLDERS:
            yield f"{path.parent.name}/{path.name}", path.read_bytes()


def _in_archive(archive: Path, split: str) -> list[tuple[str, bytes]]:
    found = []
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as members:
                for member in members:
                    match = re.fullmatch(rf"(?:.*/)?{split}/((?:neg|pos)/[^/]+\.txt)", member.name)
                    if match and (content := members.extractfile(member)):
                        found.append((match[1], content.read()))
            stream.read()  # read to the end, where the checksum is
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive} is damaged, or no archive: {error}; get it again from {SOURCE}") from error
    return found


def _text(content: bytes, where: str) -> str:
    text = document(content, where)
    if not text.strip():
        raise ValueError(f"{where} is empty")
    return text


def hold_out(reviews: list[Review]) -> tuple[list[Review], list[Review]]:
    """Hold out a tenth of the training reviews, always the same: the remaining reviews in order, and the held-out,
    mixed.

    Reviews of one film are neighbours. So the reviews of each label are cut into chunks of neighbours, and whole chunks
    are held out: hardly any film has reviews of one label on both sides. The official training and test sets have no
    film in common.
    """
    generator = random.Random(0)
    rest: list[Review] = []
    held: list[Review] = []
    for label in LABELS:
        own = [review for review in reviews if review.label == label]
        chosen = set(generator.sample(range(CHUNKS), HELD_OUT))
        for i, review in enumerate(own):
            (held if i * CHUNKS // len(own) in chosen else rest).append(review)
    generator.shuffle(held)
    if not held or len({review.label for review in held}) < 2:
        raise ValueError(f"{len(reviews)} reviews are too few to hold some of each label out")
    return rest, held


def train_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """The most frequent words, runs of full stops and single marks; lowercased, with HTML line breaks as spaces."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"(?i)<br\s*/?>"), " "), normalizers.NFKC(), normalizers.Lowercase()]
    )
    words = Regex(r"\w+(?:'\w+)*|\.{2,}|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, min_frequency=2, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator((normal(text, f"text {place}") for place, text in enumerate(texts)), trainer)
    return tokenizer


def batches(examples: list[Example], tokens: int, shuffle: random.Random) -> list[list[Example]]:
    """Batches of examples of similar length, at most ``tokens`` padded tokens per batch, in random order."""
    order = list(examples)
    shuffle.shuffle(order)
    order.sort(key=lambda example: len(example.tokens) // 8)
    result = training.padded_groups(order, lambda example: len(example.tokens), tokens)
    shuffle.shuffle(result)
    return result


def tensors(examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens ``[T, B]``, labels ``[B]`` and evidence ``[T, B, 3]`` of a batch."""
    tokens = nn.utils.rnn.pad_sequence([torch.tensor(e.tokens) for e in examples], padding_value=PAD).to(device)
    labels = torch.tensor([e.label for e in examples], device=device)
    evidence = [e.evidence for e in examples if e.evidence is not None]  # of all or of none
    return tokens, labels, nn.utils.rnn.pad_sequence(evidence).to(device) if evidence else None


def loss_of(
    model: nn.Module, examples: list[Example], typical: float, options: Training, device, part: Part = WHOLE
) -> Tensor:
    """What a part of a batch adds to its cross-entropy with smoothed labels, plus the spike penalty.

    Batches hold few long reviews or many short ones; dividing the sum by the ``typical`` number gives all equal weight.
    """
    tokens, labels, evidence = tensors(examples, device)
    rows, share = part.rows(len(examples)), part.share(len(examples))
    inputs = tokens[:, rows], None if evidence is None else evidence[:, rows]
    return training.cross_entropy(model, inputs, labels[rows], options, typical, share)


def read_part(data: Path, split: str, config: TextClassifierConfig) -> list[Review]:
    """``train`` without the held-out reviews, ``val`` (held out from the training reviews), or ``test``."""
    if split == "test":
        return read_split(data, "test")
    parts = dict(zip(("train", "val"), hold_out(read_split(data, "train")))) if split in ("train", "val") else {}
    if split not in parts:
        raise unknown("split", split, ("train", "val", "test"))
    return parts[split]


def evaluate(model: TextClassifier, reviews: list[Review]) -> tuple[list[str], dict[str, Any]]:
    """The model's labels of the reviews, and the share of right ones in percent."""
    texts, labels = map(list, zip(*checked(reviews, "score")))
    found = shared(lambda part: [one.label for one in model.classify(part)], texts)
    return found, {"accuracy": 100 * mean(one == label for one, label in zip(found, labels))}


def answers(model: TextClassifier, reviews: list[Review]) -> Answers:
    """The model's logits for reviews, whose labels it must have."""
    texts, labels = map(list, zip(*reviews))
    right = torch.tensor([model.typed_config.labels.index(label) for label in labels])
    logits = shared(lambda part: [row.cpu() for row in model.logits(model.encode(part))], texts)
    return Answers(torch.stack(logits), right)


def calibration_answers(model: TextClassifier, validation: list[Review], test: list[Review]) -> dict[str, Answers]:
    """The answers that :mod:`recipes.calibration` fits a temperature on, and those that it only measures it on."""
    return {HELD_OUT_REVIEWS: answers(model, validation), "the test reviews": answers(model, test)}


def calls(model: TextClassifier, reviews: list[Review]) -> Iterator[tuple[Tensor]]:
    """The tokens of each review, as the network takes them."""
    for ids in model.encode([review.text for review in reviews]):
        yield (torch.tensor(ids, device=model.embedding.weight.device).unsqueeze(1),)


def checked(reviews: Any, purpose: str) -> list[Review]:
    """``reviews`` as a list, or the error of :func:`recipes.own_examples.checked_pairs`."""
    return [Review(*pair) for pair in checked_pairs(reviews, "text", "(text, label)", purpose)]


TUNING_OPTIONS = Training(epochs=12, learning_rate=5e-4)


def read_labelled(path: Path) -> list[Review]:
    """The texts and labels in a CSV, TSV or JSON lines file with the columns ``text`` and ``label``."""
    return [Review(row.input, row.answer) for row in read_own(path, "text", ("text", "label"), None, False).rows]


def own_examples(model: TextClassifier, rows: list[Own]) -> list[Example]:
    """Texts and their labels, which the model has, as examples to fine-tune on."""
    for row in rows:
        model.check(row.input, row.where)
    return _examples(model, [Review(row.input, row.answer) for row in rows])


def own_batches(examples: list[Example], size: int, seed: int) -> list[list[Example]]:
    tokens = math.ceil(size * mean(len(example.tokens) for example in examples))
    return batches(examples, min(TUNING_OPTIONS.tokens, tokens), random.Random(seed))


def own_loss(model: TextClassifier, batch: list[Example], options: Training) -> Tensor:
    return loss_of(model, batch, len(batch), options, model.embedding.weight.device)


def own_score(model: TextClassifier, examples: list[Example]) -> float:
    logits = model.logits([example.tokens for example in examples])
    return 100 * mean(int(row.argmax()) == example.label for row, example in zip(logits, examples))


def familiar_reviews(model: TextClassifier) -> list[Review]:
    """Film reviews that the model labels rightly; empty for a model with other labels."""
    if model.typed_config.labels != LABELS:
        return []
    texts = fine_tuning.readable(model, [review.text for review in FAMILIAR])
    found = dict(zip(texts, model.classify(texts)))
    return [review for review in FAMILIAR if review.text in found and found[review.text].label == review.label]


def _examples(model: TextClassifier, reviews: list[Review]) -> list[Example]:
    known = model.typed_config.labels
    encoded = model.encode([review.text for review in reviews])
    return [Example(ids, known.index(review.label), None) for ids, review in zip(encoded, reviews)]


class Trainer(training.Trainer[TextClassifier]):
    """Trains a classifier; its score is the accuracy on the held-out training reviews."""

    metric, metric_label = "accuracy", "accuracy on held-out training reviews (%)"
    options: Training

    def __init__(self, data: Path, run: Path, config: TextClassifierConfig, options: Training, backend: str = "auto"):
        self.reviews, self.validation = hold_out(read_split(data, "train"))
        super().__init__(run, config, lambda: self.new_network(config), options, backend=backend)

    def new_network(self, config: TextClassifierConfig) -> TextClassifier:
        """A network with its tokenizer and its table of n-grams; sets ``examples``, the reviews as network inputs."""
        texts, labels = map(list, zip(*self.reviews))
        tokenizer = train_tokenizer(texts, config.vocabulary)
        encoded = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        known = most_frequent(encoded, config.ngrams) if config.ngrams else torch.empty(0)
        config = replace(config, vocabulary=tokenizer.get_vocab_size(), ngrams=len(known))
        network = TextClassifier(config, tokenizer)
        evidence: Sequence[Tensor | None] = [None] * len(texts)
        if network.ngrams is not None:
            network.ngrams.known.copy_(known)
            evidence = cross_fit(network.ngrams, encoded, [label == LABELS[1] for label in labels])
        self.examples = [Example(*e) for e in zip(encoded, map(LABELS.index, labels), evidence)]
        return network

    def plan(self, seed: int) -> list[list[Example]]:
        plan = batches(self.examples, self.options.tokens, random.Random(seed))
        self.typical = len(self.examples) / len(plan)
        return plan

    def loss_of(self, batch: list[Example], part: Part = WHOLE) -> Tensor:
        return loss_of(self.network, batch, self.typical, self.options, self.accelerator.device, part)

    def score(self, model: TextClassifier) -> float:
        return evaluate(model, self.validation)[1]["accuracy"]

    def profiled(self) -> list[tuple[Tensor]]:
        return list(calls(self.network, self.validation[: training.PROFILED]))


def example_of(model: TextClassifier) -> dict[str, Any]:
    """The card's example."""
    found = model.classify(EXAMPLE)
    output = [[one.label, {label: round(p, 2) for label, p in one.probabilities.items()}] for one in found]
    return {"input": EXAMPLE, "output": output}


def source_of(scores: dict[str, Any]) -> dict[str, str]:
    """The card's entry on the data."""
    return {
        "name": "Large Movie Review Dataset v1.0 (IMDB)",
        "type": "imdb",
        "url": SOURCE,
        "licence": "research use; cite Maas et al. 2011, Learning Word Vectors for Sentiment Analysis",
        "use": "25,000 training reviews, of which {val:,} held out; {test:,} test reviews, scored once.".format(
            **scores["reviews"]
        ),
    }


def _score(title: str, split: str) -> dict[str, str]:
    return {"title": title, "type": "accuracy", "split": split, "signature": "share of reviews with the right label"}


BAND = Band(100, "accuracy_val_first_100", 1.0, HELD_OUT_REVIEWS)
TUNING = Tuning(
    columns=("text", "label"),
    noun="text",
    training=TUNING_OPTIONS,
    examples=own_examples,
    batches=own_batches,
    loss_of=own_loss,
    score=own_score,
    familiar=lambda model: _examples(model, familiar_reviews(model)),
)
RECIPE = Recipe(
    name="imdb",
    title="Sentiment of film reviews on IMDB.",
    task=TASKS["text-classification"],
    data=f"{ARCHIVE}, its folder {FOLDER}, or a folder that holds either",
    config=CONFIG,
    training=Training(),
    fixed=("temperature",),
    trainer=Trainer,
    read=read_part,
    evaluate=evaluate,
    scores=lambda model, validation, test: calibration.scores(
        calibration_answers(model, validation, test), BAND, "reviews"
    ),
    content=lambda reviews: (part.encode() for review in reviews for part in review),
    calls=calls,
    inputs=lambda model, reviews: [review.text for review in reviews],
    counted="the {count} held-out training reviews, one at a time",
    networks=NETWORKS,
    tuned=tuple(field.name for field in fields(TextClassifierConfig) if field.name not in ("mixer", "temperature")),
    columns=lambda scores: {
        "accuracy_val": _score("accuracy, held-out training reviews (%)", "train"),
        "accuracy_test": _score("accuracy, test (%)", "test"),
    },
    band=BAND,
    example=example_of,
    source=source_of,
    checkpoint="a tenth of the training reviews, held out by runs of neighbours; the seed bundled, too",
    intended=INTENDED,
    limits=LIMITS,
    sources=SOURCES,
    languages=("en",),
    noun="reviews",
    tuning=TUNING,
    calibrated=calibration_answers,
)


def command_line() -> typer.Typer:
    return command.command_line(RECIPE)


if __name__ == "__main__":
    command_line()()

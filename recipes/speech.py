"""What the recipes of speech share: features kept on disk, batches, augmentation, the CTC loss, scores and training."""

import hashlib
import io
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.monitors import evaluating
from recipes import bfloat16, training
from recipes.extras import need
from recipes.own_examples import Own
from recipes.processes import WHOLE, Part, shared
from recipes.pronunciations import Dictionary, Phones, read_dictionary
from recipes.recipe import Band, Tuning
from recipes.spikes import SpikeMeter
from zoo.files import remove_leftovers, write_whole
from zoo.inputs import audio
from zoo.inputs.data_files import plain_file, read_npz
from zoo.networks.speech import BLANK, BestPath, SpeechConfig, SpeechRecogniser
from zoo.options import number, whole_number

CACHE_VERSION = 2
MOST_FRAMES = 10_000_000
"""The most frames of one file of the cache: 28 hours."""
EVALUATED_AT_ONCE = 16
NO_TARGET = -100
SHORTEST_FIRST = 0.3
"""The share of the utterances, the shortest ones, that a training with a curriculum begins with."""


@dataclass(frozen=True)
class Training(training.Training):
    """How a recogniser is trained: the options of all networks, with other defaults, and some of its own.

    ``steps`` is the most steps of a batch, padding included. Over the first ``curriculum`` (a share) of the epochs the
    longest utterances come in bit by bit. An utterance is played at its own speed or by ``speed`` (a share) faster or
    slower. Augmentation hides up to ``band_masks`` runs of up to ``band_width`` mel bands, and ``time_masks`` runs of
    up to ``time_share`` of its steps each (SpecAugment; Park et al. 2019, arXiv 1904.08779).
    """

    epochs: int = 20
    learning_rate: float = 3e-3
    label_smoothing: float = 0.0
    bfloat16: bool = False
    muon: bool = True
    full_precision: float = 0.5
    threshold_rise: float = 0.25
    steps: int = 3000
    curriculum: float = 0.2
    speed: float = 0.1
    band_masks: int = 2
    band_width: int = 8
    time_masks: int = 2
    time_share: float = 0.05

    without_noise: ClassVar = {"speed": 0.0, "band_masks": 0, "time_masks": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("steps", self.steps, 1)
        for name in ("band_masks", "band_width", "time_masks"):
            whole_number(name, getattr(self, name), 0)
        for name in ("curriculum", "time_share"):
            number(name, getattr(self, name), 0, 1)
        number("speed", self.speed, 0, 0.5)

    @property
    def speeds(self) -> tuple[float, ...]:
        return (1.0, 1 - self.speed, 1 + self.speed) if self.speed else (1.0,)


class Example(NamedTuple):
    """An utterance: its name, its log energies ``[frames, bands]`` at each speed, its phones and its words."""

    name: str
    frames: list[np.ndarray]
    phones: tuple[str, ...]
    words: str
    aligned: tuple[tuple[float, str], ...] = ()
    """By hand, if anybody has: the end of each phone in seconds, in their order. An empty name is no phone to learn."""


# ---- Features on disk ----


def log_energies(
    files: Sequence[Path], bank: audio.FilterBank, speeds: Sequence[float], cache: Path, exact: bool
) -> list[list[np.ndarray]]:
    """The log energies of each file at each speed, from the folder ``cache`` if it has them.

    ``exact``: in single precision, for scores; in half precision otherwise. The name of a file in the cache depends on
    the content of the audio and on everything that was done with it; a damaged one is made again, with a warning.
    """
    kind = np.dtype(np.float32 if exact else np.float16)
    key = hashlib.blake2b(digest_size=16)
    for file in files:
        key.update(hashlib.blake2b(plain_file(file, "audio file").read_bytes()).digest())
    filters = [bank.bands, bank.lowest, bank.highest]
    key.update(json.dumps([CACHE_VERSION, filters, list(speeds), kind.name]).encode())
    kept = cache / f"{key.hexdigest()}.npz"
    names = [[f"{i}_{j}" for j in range(len(speeds))] for i in range(len(files))]
    if kept.exists():
        try:
            return _kept(kept, names, bank, kind)
        except (ValueError, OSError) as error:
            warnings.warn(f"features that were kept are damaged and made again: {error}", stacklevel=2)
    found = []
    for file in files:
        played = [bank.frames(audio.read_audio(file, speed=speed)).astype(kind) for speed in speeds]
        if len(played[-1]) < bank.stack:
            raise ValueError(f"{file}: {audio.too_short(len(audio.read_audio(file)), bank)}")
        found.append(played)
    cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache, "*.new")
    packed = io.BytesIO()
    members: dict[str, Any] = {n: part for row, parts in zip(names, found) for n, part in zip(row, parts)}
    np.savez(packed, **members)
    write_whole(kept, packed.getbuffer())
    return found


def _kept(kept: Path, names: list[list[str]], bank: audio.FilterBank, kind: np.dtype) -> list[list[np.ndarray]]:
    arrays = read_npz(kept, [name for row in names for name in row], MOST_FRAMES * bank.bands * kind.itemsize)
    for frames in arrays.values():
        if frames.dtype != kind or frames.ndim != 2 or frames.shape[1] != bank.bands or len(frames) < bank.stack:
            raise ValueError(f"{kept} holds no features of {bank.bands} bands but {frames.dtype} {list(frames.shape)}")
    return [[arrays[name] for name in row] for row in names]


def usual(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each band over the examples, and its deviation within them."""
    count = sum(len(example.frames[0]) for example in examples)
    means = [example.frames[0].mean(axis=0, dtype=np.float64) for example in examples]
    total = sum(len(example.frames[0]) * mean for example, mean in zip(examples, means))
    squares = sum(
        ((example.frames[0] - mean) ** 2).sum(axis=0, dtype=np.float64) for example, mean in zip(examples, means)
    )
    return total / count, np.sqrt(squares / count) + 0.1  # a band that never changes must not be divided by zero


def steps_of(model: SpeechRecogniser, frames: np.ndarray) -> np.ndarray:
    """Log energies as the network takes them, ``[steps, F]``."""
    mean, deviation = (part.float().cpu().numpy() for part in (model.usual_mean, model.usual_deviation))
    return audio.stacked(audio.normalise(frames, mean, deviation), model.bank)


def numbers_of(phones: Sequence[str], config: SpeechConfig, where: str) -> list[int]:
    """The units of CTC for phones; ValueError for one that the model does not have."""
    unknown = [phone for phone in phones if phone not in config.labels]
    if unknown:
        raise ValueError(f"{where} has the phone {unknown[0]}, and the model knows {' '.join(config.labels)}")
    return [1 + config.labels.index(phone) for phone in phones]


# ---- Training ----


class Played(NamedTuple):
    """An utterance at one speed: ``[steps, F]``, its units, and the unit of each step, or NO_TARGET."""

    steps: np.ndarray
    units: list[int]
    targets: np.ndarray


Spoken = list[Played]
"""An utterance as it is trained on, at each speed."""


def spoken(model: SpeechRecogniser, examples: Sequence[Example], speeds: Sequence[float] = (1.0,)) -> list[Spoken]:
    """Examples as the model takes them."""
    found = []
    for example in examples:
        units = numbers_of(example.phones, model.typed_config, example.name)
        parts = [steps_of(model, frames).astype(np.float16) for frames in example.frames]
        found.append(
            [
                Played(part, units, targets_of(example, len(part), speed, model.typed_config))
                for part, speed in zip(parts, speeds)
            ]
        )
    return found


def targets_of(example: Example, steps: int, speed: float, config: SpeechConfig) -> np.ndarray:
    """The unit in the middle of each step, by the hand alignment; NO_TARGET if there is none."""
    if not example.aligned:
        return np.full(steps, NO_TARGET)
    ends, phones = zip(*example.aligned)
    units = np.array([1 + config.labels.index(phone) if phone else NO_TARGET for phone in phones])
    bank = config.filter_bank()
    middles = (np.arange(steps) * bank.step_seconds + bank.shortest / audio.RATE / 2) * speed
    return units[np.searchsorted(ends, middles, side="right").clip(max=len(ends) - 1)]


class Batch(NamedTuple):
    """Utterances, each at one speed, and a seed for their augmentation."""

    rows: list[Played]
    seed: int

    def cut(self, rows: slice) -> "Batch":
        """Some of the utterances."""
        return self._replace(rows=self.rows[rows])


def batches(examples: Sequence[Spoken], steps: int, seed: int) -> list[Batch]:
    """All examples, each at a random speed, in batches of similar length in random order; ``steps`` with padding."""
    choose = random.Random(seed)
    played = [choose.choice(example) for example in examples]
    played.sort(key=lambda row: len(row.steps) * (1 + 0.1 * choose.random()))
    groups = training.padded_groups(played, lambda row: len(row.steps), steps)
    choose.shuffle(groups)
    return [Batch(group, choose.getrandbits(32)) for group in groups]


def shortest(examples: Sequence[Spoken], progress: float, curriculum: float) -> list[Spoken]:
    """The examples of an epoch that begins at ``progress`` (0 to 1) of the training: without the longest ones at first.

    The order stays. The share rises linearly to all of them at ``curriculum``.
    """
    if progress >= curriculum:
        return list(examples)
    share = SHORTEST_FIRST + (1 - SHORTEST_FIRST) * progress / curriculum
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0].steps))
    kept = set(order[: max(1, round(share * len(order)))])
    return [example for i, example in enumerate(examples) if i in kept]


def tensors(batch: Batch, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features ``[T, B, F]``, their lengths ``[B]``, all units one after another, and how many each row has ``[B]``."""
    padded = nn.utils.rnn.pad_sequence([torch.from_numpy(row.steps) for row in batch.rows]).float()
    lengths = torch.tensor([len(row.steps) for row in batch.rows])
    units = torch.tensor([unit for row in batch.rows for unit in row.units])
    return padded.to(device), lengths, units.to(device), torch.tensor([len(row.units) for row in batch.rows])


def hidden(x: Tensor, lengths: Tensor, bank: audio.FilterBank, options: Training, seed: int) -> Tensor:
    """Features ``[T, B, F]`` of which runs of bands and of steps are replaced by zero, their usual value."""
    choose = random.Random(seed)
    shown = torch.ones(len(x), x.shape[1], 1, bank.bands)
    for row, length in enumerate(lengths.tolist()):
        for _ in range(options.band_masks):
            width = choose.randint(0, min(options.band_width, bank.bands))
            first = choose.randint(0, bank.bands - width)
            shown[:, row, :, first : first + width] = 0
        for _ in range(options.time_masks):
            width = choose.randint(0, int(options.time_share * length))
            first = choose.randint(0, length - width)
            shown[first : first + width, row] = 0
    return (x.unflatten(-1, (bank.stack, bank.bands)) * shown.to(x.device)).flatten(-2)


def ctc_loss(logits: Tensor, lengths: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    """The CTC loss in nats; an utterance too short for its units counts nothing."""
    log_probabilities = logits.float().log_softmax(-1)
    return F.ctc_loss(log_probabilities, units, lengths, counts, BLANK, reduction="sum", zero_infinity=True)


def frame_loss(logits: Tensor, batch: Batch, part: slice = slice(None)) -> Tensor:
    """Cross-entropy of the phone of each step by hand, among the phones alone: CTC decides where there is a blank.

    The logits are those of a part of the rows; the loss is over all steps of the batch.
    """
    targets = nn.utils.rnn.pad_sequence([torch.from_numpy(row.targets) for row in batch.rows], padding_value=NO_TARGET)
    count = (targets != NO_TARGET).sum().clamp(min=1).to(logits.device)
    wanted = torch.where(targets == NO_TARGET, NO_TARGET, targets - 1)[:, part].flatten().to(logits.device)
    phones = logits[..., 1:].float().flatten(0, 1)
    return F.cross_entropy(phones, wanted, ignore_index=NO_TARGET, reduction="sum") / count


def loss_of(
    model: nn.Module,
    bank: audio.FilterBank,
    batch: Batch,
    options: Training,
    device: Any,
    frame_weight: float = 0.0,
    part: Part = WHOLE,
) -> Tensor:
    """The CTC loss of a batch per unit, plus ``frame_weight`` times that of its hand alignment, plus the spike penalty.

    Of a part of the batch, what it adds to these.
    """
    x, lengths, units, counts = tensors(batch, device)
    count = len(units)
    if options.band_masks or options.time_masks:
        x = hidden(x, lengths, bank, options, batch.seed)
    rows = part.rows(len(batch.rows))
    if part.count > 1:
        _, lengths, units, counts = tensors(batch.cut(rows), device)
        x = x[:, rows]
    with SpikeMeter(model) as meter, bfloat16.products(x.device.type, options.bfloat16):
        logits = model(x, lengths)
    loss = ctc_loss(logits, lengths, units, counts) / count
    if frame_weight:
        loss = loss + frame_weight * frame_loss(logits, batch, rows)
    if options.spike_penalty and meter.outputs:
        loss = loss + part.share(len(batch.rows)) * options.spike_penalty * meter.mean_size()
    return loss


class Trainer(training.Trainer[SpeechRecogniser]):
    """Trains a recogniser; its score is the rate of phone errors on the validation data, folded by ``fold``."""

    metric, metric_label = "per", "phone errors on val (%)"
    needs = (*training.Trainer.needs, "jiwer")
    options: Training
    fold: Callable[[Sequence[str]], list[str]] = list

    def __init__(
        self,
        examples: list[Example],
        validation: list[Example],
        run: Path,
        config: SpeechConfig,
        options: Training,
        initial: str | None = None,
        backend: str = "auto",
    ):
        if options.label_smoothing:
            raise ValueError("CTC has no labels to smooth: leave label_smoothing at 0")
        self.examples, self.validation = examples, validation
        super().__init__(run, config, lambda: self.new_network(config), options, initial, backend)
        self.spoken = spoken(self.network, examples, options.speeds)

    def new_network(self, config: SpeechConfig) -> SpeechRecogniser:
        """A network that knows the usual features of the training data."""
        network = SpeechRecogniser(config)
        network.set_usual(*usual(self.examples))
        return network

    def plan(self, seed: int) -> list[Batch]:
        now = shortest(self.spoken, self.epoch / self.options.epochs, self.options.curriculum)
        return batches(now, self.options.steps, seed)

    def size_of(self, batch: Batch) -> int:
        return len(batch.rows)

    def loss_of(self, batch: Batch, part: Part = WHOLE) -> Tensor:
        return loss_of(self.network, self.network.bank, batch, self.options, self.accelerator.device, part=part)

    def score(self, model: SpeechRecogniser) -> float:
        return evaluate(model, self.validation, type(self).fold)[1]["per"]

    def profiled(self) -> list[tuple[Tensor]]:
        return list(calls(self.network, self.validation[: training.PROFILED]))


# ---- Scores ----


def log_probabilities(model: SpeechRecogniser, examples: Sequence[Example]) -> list[Tensor]:
    """``[steps, units]`` for each example."""
    return shared(partial(_log_probabilities, model), examples)


@torch.inference_mode()
def _log_probabilities(model: SpeechRecogniser, examples: Sequence[Example]) -> list[Tensor]:
    """Several are computed at once, by length."""
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].frames[0]))
    with evaluating(model):
        for start in range(0, len(order), EVALUATED_AT_ONCE):
            places = order[start : start + EVALUATED_AT_ONCE]
            steps = [torch.from_numpy(steps_of(model, examples[i].frames[0])) for i in places]
            logits = model.steps()(nn.utils.rnn.pad_sequence(steps), None)[0].float().log_softmax(-1).cpu()
            for row, place in enumerate(places):
                found[place] = logits[: len(steps[row]), row].contiguous()
    return found


def heard(model: SpeechRecogniser, examples: Sequence[Example]) -> list[list[str]]:
    """The phones on the best path through each example."""
    labels = model.typed_config.labels
    paths = [BestPath().longer(found) for found in log_probabilities(model, examples)]
    return [[labels[run.unit - 1] for run in path.runs()] for path in paths]


def phone_errors(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, float]:
    """Substituted, deleted and inserted phones, by jiwer, in percent of the right ones; ``per`` is their sum."""
    import jiwer

    counted = jiwer.process_words([" ".join(row) for row in right], [" ".join(row) for row in found])
    total = sum(map(len, right)) / 100
    kinds = {"substituted": counted.substitutions, "deleted": counted.deletions, "inserted": counted.insertions}
    return {"per": sum(kinds.values()) / total} | {kind: count / total for kind, count in kinds.items()}


def evaluate(
    model: SpeechRecogniser, examples: Sequence[Example], fold: Callable[[Sequence[str]], list[str]] = list
) -> tuple[list[str], dict[str, Any]]:
    """The phones that are heard, as text, and the errors in percent; both sides are first folded by ``fold``."""
    found = [fold(row) for row in heard(model, examples)]
    return [" ".join(row) for row in found], phone_errors([fold(example.phones) for example in examples], found)


def calls(model: SpeechRecogniser, examples: Sequence[Example]) -> Iterator[tuple[Tensor]]:
    """Each example as the network takes it."""
    for example in examples:
        steps = torch.from_numpy(steps_of(model, example.frames[0]))
        yield (steps.to(model.output.weight.device).unsqueeze(1),)


def content(examples: Sequence[Example]) -> Iterator[bytes]:
    """The content of examples, to recognise them by."""
    for example in examples:
        yield example.frames[0].tobytes()
        yield " ".join(example.phones).encode()


def scores(
    model: SpeechRecogniser,
    validation: list[Example],
    test: list[Example],
    band: Band,
    fold: Callable[[Sequence[str]], list[str]] = list,
) -> dict[str, Any]:
    """Phone errors on ``val``, on its first utterances, and on the test set."""
    parts = {"per_val": validation, band.column: validation[: band.inputs], "per_test": test}
    found = {name: round(evaluate(model, part, fold)[1]["per"], 2) for name, part in parts.items()}
    return found | {"utterances": {"val": len(validation), "test": len(test)}}


def columns(scores: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The scores of the card."""

    def column(split: str) -> dict[str, str]:
        signature = f"substituted, deleted and inserted phones in percent, {scores['utterances'][split]} utterances"
        return {"title": f"phone errors %, {split}", "type": "per", "split": split, "signature": signature}

    return {"per_val": column("val"), "per_test": column("test")}


def example(model: SpeechRecogniser) -> dict[str, Any]:
    """The card's example: a second of silence."""
    found = model.transcribe(np.zeros(audio.RATE, np.int16), rate=audio.RATE)
    return {"input": "silence.wav", "output": [found.text, found.confidence]}


# ---- Fine-tuning ----

TUNING_OPTIONS = Training(epochs=12, learning_rate=5e-4, full_precision=0.0, threshold_rise=0.0, muon=False)
DictionaryFile = Annotated[
    Path | None, typer.Option(help="cmudict.dict; the answers are then words, and phones otherwise (speech)")
]


def own_examples(model: SpeechRecogniser, rows: list[Own], dictionary: DictionaryFile = None) -> list[Example]:
    """Recordings (what ``transcribe`` takes: an audio file, or samples at 16 kHz) and what they say, as examples.

    An answer is phones with spaces between them or, with a ``dictionary``, words, each of which has its first
    pronunciation there.
    """
    need("the errors of phones", "jiwer")
    known = None if dictionary is None else read_dictionary(dictionary)
    found = []
    for row in rows:
        phones = tuple(row.answer.split()) if known is None else _pronounced(row, known)
        try:
            numbers_of(phones, model.typed_config, row.where)
        except ValueError as error:
            hint = "; if the answers are words, give a dictionary (--dictionary FILE)" if known is None else ""
            raise ValueError(f"{error}{hint}") from None
        with audio.naming(row.where):
            samples = audio.read_audio(row.input, None if audio.is_file(row.input) else audio.RATE)
            if len(samples) < model.bank.shortest:
                raise ValueError(audio.too_short(len(samples), model.bank))
        found.append(Example(row.where, [model.bank.frames(samples)], phones, row.answer))
    return found


def _pronounced(row: Own, known: Dictionary) -> Phones:
    words = re.findall(r"[A-Z']+", row.answer.upper())
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"{row.where} has the word {unknown[0]}, and there is no pronunciation of it")
    return tuple(phone for word in words for phone in known.pronunciations(word)[0])


def own_batches(examples: list[Example], size: int, seed: int) -> list[list[Example]]:
    order = random.Random(seed).sample(examples, len(examples))
    return [order[first : first + size] for first in range(0, len(order), size)]


def own_loss(model: SpeechRecogniser, examples: list[Example], options: Training) -> Tensor:
    rows = [played[0] for played in spoken(model, examples)]
    batch = Batch(rows, int(torch.randint(2**31, ())))
    return loss_of(model, model.bank, batch, options, model.output.weight.device)


TUNING = Tuning(
    columns=("file", "phones"),
    noun="recording",
    training=TUNING_OPTIONS,
    examples=own_examples,
    batches=own_batches,
    loss_of=own_loss,
    score=lambda model, examples: evaluate(model, examples)[1]["per"],
)

"""German to English on Multi30k: train, resume, evaluate and compare translators.

The data is Multi30k task 1, raw: ``train``, ``val`` and ``test_2016_flickr`` as ``<split>.de`` and ``<split>.en``, one
sentence per line, plain or with ``.gz`` (https://github.com/multi30k/dataset, folder data/task1/raw).

    python -m recipes.multi30k train --data DATA --run runs/spiking
    python -m recipes.multi30k evaluate ./runs/spiking/best --data DATA --split val

Checkpoints are chosen on ``val`` by the BLEU of greedy search; only ``measure`` uses the test set, once. Training needs
``pip install "snn-zoo[train]"``.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import torch
import typer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

import zoo
from recipes import command, fine_tuning, training
from recipes.distillation import Soft, SoftTargets
from recipes.extras import need
from recipes.own_examples import Own, checked_pairs
from recipes.processes import WHOLE, Part, shared
from recipes.recipe import Band, Recipe, Tuning
from recipes.tune import fine_tune  # noqa: F401  (the same for all tasks; it can be found here too)
from zoo.inputs.lines import texts_in
from zoo.inputs.text import TextReader, normal
from zoo.networks.translation import BEGIN, END, PAD, SPECIAL_TOKENS, UNKNOWN, Translator, TranslatorConfig, pad
from zoo.options import number, whole_number
from zoo.tasks import TASKS

SOURCE = "https://github.com/multi30k/dataset (folder data/task1/raw)"
AGAIN = f"get it again from {SOURCE}"
TEST = "test_2016_flickr"
NETWORKS = {
    "input-gated-lif": "input-gated LIF, {spikes} spikes",
    "lstm": "LSTM with attention",
    "gru": "GRU with attention",
    "relu": "ReLU in place of neurons",
    "learnable-lif": "learnable LIF, binary spikes",
}
INTENDED = (
    "Research on spiking networks for sequences: a baseline, a start for fine-tuning on captions or other "
    "short sentences, and an example of what sparse spikes cost and save. It is not for translations that "
    "somebody relies on."
)
LIMITS = [
    "It knows the language of short image captions and little else; expect nonsense outside of it.",
    "Text is lowercased on the way in, so what comes out is lower case; cased BLEU is lower for it.",
    "Characters it has never seen become unknown tokens; text mostly in another script is refused.",
    "Differences of a few tenths of BLEU between rows are noise: so much changes with the seed.",
    "Another kind of processor rounds sums otherwise, which moves a spike by a level now and then, and so a word: "
    "expect scores that differ by some hundredths of BLEU.",
    "Nothing was tuned for the twins but what stands beside their names; full precision is the share of the epochs in "
    "which spikes were not quantised.",
]
SOURCES = [
    "Rathi and Roy, LITE-SNN, IEEE TCDS 2024, https://doi.org/10.1109/TCDS.2024.3396431",
    "Ponghiran and Roy, AAAI 2022, https://arxiv.org/abs/2109.01905",
]
TUNED = ("dropout", "full_precision")
"""Options that may be chosen for a twin; a table says so."""
CONFIG = TranslatorConfig(vocabulary=6000, dropout=0.15, gated_range=4.0)
CAPTIONS = [
    "Ein Hund rennt durch den Schnee.",
    "Zwei Kinder spielen am Strand.",
    "Eine Frau in einem roten Kleid tanzt auf der Straße.",
    "Ein Mann mit Hut liest auf einer Bank eine Zeitung.",
    "Drei Jungen springen in einen See.",
    "Ein Mädchen sitzt auf einer Schaukel und lacht.",
    "Eine Gruppe von Menschen wartet an einer Bushaltestelle.",
    "Ein Mann fährt mit dem Fahrrad durch den Park.",
    "Eine alte Frau verkauft Obst auf einem Markt.",
    "Zwei Männer spielen vor einem Café Gitarre.",
    "Ein Fußballspieler in einem weißen Trikot schießt den Ball.",
    "Ein kleiner Junge hält einen Ball in den Händen.",
    "Arbeiter in gelben Westen reparieren eine Straße.",
    "Ein Koch bereitet in einer Küche Essen zu.",
    "Ein brauner Hund holt einen Stock aus dem Wasser.",
    "Leute gehen nachts durch eine belebte Stadt.",
]
"""Sentences that a fine-tuned model must still translate well."""
Pair = tuple[str, str]
Example = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Training(training.Training):
    """How a translator is trained: the options of all networks, with other defaults, and two more options.

    ``tokens`` is the most tokens of either side in a batch, including padding; ``token_dropout`` the probability that
    an input token is replaced by the unknown token. ``teachers`` names trained models, with commas between them, whose
    mean probabilities are a share ``distillation`` of the targets (:mod:`recipes.distillation`).
    """

    epochs: int = 20
    learning_rate: float = 2e-3
    muon: bool = True
    full_precision: float = 1.0
    tokens: int = 1500
    token_dropout: float = 0.1
    teachers: str = ""
    distillation: float = 0.0

    without_noise: ClassVar = {"token_dropout": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("tokens", self.tokens, 1)
        for name in ("token_dropout", "distillation"):
            number(name, getattr(self, name), 0, 1)
        if not isinstance(self.teachers, str):
            raise TypeError(f"teachers is one text, names with commas between them; got {self.teachers!r}")
        if self.teachers and not all(map(str.strip, self.teachers.split(","))):
            raise ValueError(f"teachers has a comma without a name on both of its sides; got {self.teachers!r}")
        if bool(self.teachers) != (self.distillation > 0):
            raise ValueError("teachers go with a distillation above 0, the share of their part in the loss")


def read_split(folder: Path, split: str) -> list[Pair]:
    """Sentence pairs (German, English) of one split; an error for a missing file says where to get it."""
    sides = []
    for language in ("de", "en"):
        plain, packed = folder / f"{split}.{language}", folder / f"{split}.{language}.gz"
        if plain.is_file():
            sides.append(texts_in(plain, AGAIN))
        elif packed.is_file():
            sides.append(texts_in(packed, AGAIN))
        else:
            raise FileNotFoundError(
                f"{folder} holds no {split}.{language} or {split}.{language}.gz; get it from {SOURCE}"
            )
    german, english = sides
    if len(german) != len(english):
        raise ValueError(f"{split} has {len(german)} German lines and {len(english)} English ones; they must pair up")
    return list(zip(german, english))


def checked(pairs: Any, purpose: str) -> list[Pair]:
    """``pairs`` as a list, or the error of :func:`recipes.own_examples.checked_pairs`."""
    return checked_pairs(pairs, "pair", "(German, English)", purpose)


def train_tokenizer(pairs: list[Pair], size: int) -> Tokenizer:
    """A joint byte-pair encoding of both languages, on lowercased text; decoding restores that text."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Digits(True)]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL_TOKENS, show_progress=False)
    texts = (normal(text, f"a side of pair {place}") for place, pair in enumerate(pairs) for text in pair)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, pairs: list[Pair]) -> list[Example]:
    """Token ids of both sides, each with its end token."""
    german, english = (
        TextReader(tokenizer, SPECIAL_TOKENS, f"the {language} of pair").ids(side)
        for language, side in zip(("German", "English"), zip(*pairs))
    )
    return [([*g, END], [*e, END]) for g, e in zip(german, english)]


def batches(examples: list[Example], tokens: int, shuffle: random.Random) -> list[list[Example]]:
    """Batches of examples of similar length, at most ``tokens`` padded tokens of either side each, in random order."""
    order = list(examples)
    shuffle.shuffle(order)
    order.sort(key=lambda example: (len(example[1]) // 2, len(example[0]) // 2))
    result = training.padded_groups(order, lambda example: max(map(len, example)), tokens)
    shuffle.shuffle(result)
    return result


def tensors(examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Source, right-shifted target, and target of a batch, each ``[T, B]``."""
    source = pad([source for source, _ in examples])
    target = pad([target for _, target in examples])
    shifted = torch.cat([torch.full_like(target[:1], BEGIN), target[:-1]])
    source, shifted, target = (t.to(device, non_blocking=True) for t in (source, shifted, target))
    return source, shifted, target


def drop_tokens(tokens: Tensor, probability: float) -> Tensor:
    """Replace each text token by the unknown one with ``probability``, so that the network must use the context."""
    dropped = (tokens > END) & (torch.rand(tokens.shape, device=tokens.device) < probability)
    return tokens.masked_fill(dropped, UNKNOWN)


def loss_of(
    model: nn.Module,
    batch: tuple[Tensor, Tensor, Tensor],
    options: Training,
    part: Part = WHOLE,
    soft: Soft | None = None,
) -> Tensor:
    """What a part of a batch adds to its cross-entropy per token with smoothed labels, plus the spike penalty.

    ``soft`` are the teachers' targets of that part.
    """
    source, shifted, target = batch
    source, shifted = (drop_tokens(tokens, options.token_dropout) for tokens in (source, shifted))
    rows, share = part.rows(target.shape[1]), part.share(target.shape[1])
    count = int((target != PAD).sum())
    source, shifted, target = source[:, rows], shifted[:, rows], target[:, rows]
    real = target != PAD
    return training.cross_entropy(model, (source, shifted, real), target[real], options, count, share, soft)


def bleu(hypotheses: list[str], references: list[str], lowercase: bool) -> tuple[float, str]:
    """Corpus BLEU by sacreBLEU (13a) and its signature."""
    need("the BLEU score", "sacrebleu")
    from sacrebleu.metrics import BLEU

    metric = BLEU(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, [references]).score
    return score, str(metric.get_signature())


@torch.inference_mode()
def evaluate(
    model: Translator, pairs: list[Pair], beam_size: int = 5, length_penalty: float = 1.4, batch_size: int = 64
) -> tuple[list[str], dict[str, Any]]:
    """Translations of the German sides, with lowercased and cased BLEU and both signatures."""
    german, english = map(list, zip(*checked(pairs, "score")))
    hypotheses = shared(lambda part: model.translate(part, beam_size, length_penalty, batch_size), german)
    lowercased, signature = bleu(hypotheses, english, lowercase=True)
    cased, cased_signature = bleu(hypotheses, english, lowercase=False)
    return hypotheses, {
        "bleu": lowercased,
        "bleu_cased": cased,
        "signature": signature,
        "signature_cased": cased_signature,
    }


def calls(model: Translator, pairs: list[Pair]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each pair as the network takes it."""
    for example in encode(model.tokenizer, pairs):
        source, shifted, target = tensors([example], model.embedding.weight.device)
        yield source, shifted, target != PAD


TUNING_OPTIONS = Training(epochs=12, learning_rate=2e-4, muon=False, full_precision=0.0)


def own_examples(model: Translator, rows: list[Own]) -> list[Example]:
    """Sentences and their translations as examples to fine-tune on."""
    need("the BLEU score", "sacrebleu")
    for row in rows:
        model.check(row.input, row.where)
    examples, longest = encode(model.tokenizer, [(row.input, row.answer) for row in rows]), model.typed_config.longest
    for row, (_, target) in zip(rows, examples):
        if not 2 <= len(target) <= longest:
            raise ValueError(f"{row.where}: its translation is empty, or of more than {longest - 1} tokens")
    return examples


def own_batches(examples: list[Example], size: int, seed: int) -> list[list[Example]]:
    tokens = math.ceil(size * mean(max(map(len, example)) for example in examples))
    return batches(examples, min(TUNING_OPTIONS.tokens, tokens), random.Random(seed))


def own_loss(model: Translator, batch: list[Example], options: Training) -> Tensor:
    return loss_of(model, tensors(batch, model.embedding.weight.device), options)


def own_score(model: Translator, examples: list[Example], batch_size: int = 64) -> float:
    """The BLEU of greedy search."""
    found, right = [], [model.tokenizer.decode(target[:-1]) for _, target in examples]
    for first in range(0, len(examples), batch_size):
        source = pad([source for source, _ in examples[first : first + batch_size]])
        found += model.search(source.to(model.embedding.weight.device), 1, 1.0)
    return bleu([model.tokenizer.decode(one.tokens) for one in found], right, lowercase=True)[0]


def familiar_examples(model: Translator) -> list[Example]:
    """The image captions that the model can read, with its own translations of them."""
    captions = fine_tuning.readable(model, CAPTIONS)
    return encode(model.tokenizer, list(zip(captions, model.translate(captions)))) if captions else []


class Trainer(training.Trainer[Translator]):
    """Trains a translator; its score is the BLEU of greedy search on ``val``."""

    metric, metric_label = "bleu", "BLEU on val (greedy, lowercased)"
    needs = (*training.Trainer.needs, "sacrebleu")
    options: Training

    def __init__(
        self,
        data: Path,
        run: Path,
        config: TranslatorConfig,
        options: Training,
        initial: command.Initial = None,
        backend: str = "auto",
    ):
        self.pairs, self.validation = read_split(data, "train"), read_split(data, "val")
        config = training.begun(initial, config, CONFIG)
        super().__init__(run, config, lambda: self.new_network(config), options, initial, backend)
        try:
            self.examples = encode(self.network.tokenizer, self.pairs)
            self.soft = self.soft_targets() if options.teachers else None
        except BaseException:
            self.folder.let_go()
            raise

    def new_network(self, config: TranslatorConfig) -> Translator:
        """A network with its tokenizer, whose vocabulary may be smaller than the config's if there is little text."""
        tokenizer = train_tokenizer(self.pairs, config.vocabulary)
        return Translator(replace(config, vocabulary=tokenizer.get_vocab_size()), tokenizer)

    def soft_targets(self) -> SoftTargets:
        """What the teachers expect; ValueError for one with another tokenizer."""
        teachers = [zoo.load(name.strip(), precision="float32") for name in self.options.teachers.split(",")]
        own = self.network.tokenizer.to_str()
        for name, teacher in zip(self.options.teachers.split(","), teachers):
            if not isinstance(teacher, Translator) or teacher.tokenizer.to_str() != own:
                raise ValueError(f"{name.strip()} has other tokens than the network, so it cannot be its teacher")
            teacher.to(self.accelerator.device).eval()
        to_tensors = lambda batch: tensors(batch, self.accelerator.device)  # noqa: E731
        return SoftTargets(teachers, self.examples, to_tensors, self.network.typed_config.vocabulary)

    def plan(self, seed: int) -> list[list[Example]]:
        return batches(self.examples, self.options.tokens, random.Random(seed))

    def loss_of(self, batch: list[Example], part: Part = WHOLE) -> Tensor:
        device, soft = self.accelerator.device, None
        if self.soft:
            soft = self.soft.of(batch[part.rows(len(batch))], self.options.distillation, device)
        return loss_of(self.network, tensors(batch, device), self.options, part, soft)

    def profiled(self) -> list[str]:
        return [german for german, _ in self.validation[: training.PROFILED]]

    def score(self, model: Translator) -> float:
        return evaluate(model, self.validation, beam_size=1, batch_size=512)[1]["bleu"]


def scores_of(
    model: Translator, validation: list[Pair], test: list[Pair], beam_size: int = 5, length_penalty: float = 1.4
) -> dict[str, Any]:
    """BLEU on ``val``, on its first sentences, and on the test set."""
    _, on_validation = evaluate(model, validation, beam_size, length_penalty)
    _, on_test = evaluate(model, test, beam_size, length_penalty)
    _, on_first = evaluate(model, validation[: BAND.inputs], beam_size, length_penalty)
    return {
        "bleu_val": round(on_validation["bleu"], 2),
        BAND.column: round(on_first["bleu"], 2),
        "bleu_test": round(on_test["bleu"], 2),
        "bleu_test_cased": round(on_test["bleu_cased"], 2),
        "signature": on_test["signature"],
        "signature_cased": on_test["signature_cased"],
    }


def columns_of(scores: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The scores of the card."""

    def column(title: str, split: str, signature: str) -> dict[str, str]:
        return {"title": title, "type": "bleu", "split": split, "signature": signature}

    return {
        "bleu_val": column("BLEU, val", "val", scores["signature"]),
        "bleu_test": column("BLEU, test 2016", TEST, scores["signature"]),
        "bleu_test_cased": column("BLEU, test 2016, cased", TEST, scores["signature_cased"]),
    }


DATA_SET = {
    "name": "Multi30k, task 1",
    "type": "multi30k",
    "url": "https://github.com/multi30k/dataset",
    "licence": "research use; cite Elliott et al. 2016, Multilingual English-German Image Descriptions",
    "use": "29,000 sentence pairs for training, 1,014 to choose the checkpoint, 1,000 (test 2016) to score.",
}
EXAMPLE = ["Ein Hund rennt durch den Schnee."]
BAND = Band(100, "bleu_val_first_100", 0.5)
TUNING = Tuning(
    columns=("de", "en"),
    noun="sentence",
    training=TUNING_OPTIONS,
    examples=own_examples,
    batches=own_batches,
    loss_of=own_loss,
    score=own_score,
    familiar=familiar_examples,
)
RECIPE = Recipe(
    name="multi30k",
    title="German to English on Multi30k.",
    task=TASKS["translation"],
    data="folder with the raw Multi30k files",
    config=CONFIG,
    training=Training(),
    trainer=Trainer,
    read=lambda data, split, config: read_split(data, split),
    test=TEST,
    evaluate=evaluate,
    scores=scores_of,
    score_name="BLEU",
    content=lambda pairs: (side.encode() for pair in pairs for side in pair),
    calls=calls,
    inputs=lambda model, pairs: [german for german, _ in pairs],
    counted="the {count} sentences of val, one at a time, with a beam of 5",
    networks=NETWORKS,
    tuned=TUNED,
    columns=columns_of,
    band=BAND,
    example=lambda model: {"input": EXAMPLE, "output": model.translate(EXAMPLE)},
    source=lambda scores: DATA_SET,
    checkpoint="val, by the BLEU of greedy search",
    intended=INTENDED,
    limits=LIMITS,
    sources=SOURCES,
    languages=("de", "en"),
    noun="sentences",
    tuning=TUNING,
)


def command_line() -> typer.Typer:
    return command.command_line(RECIPE)


if __name__ == "__main__":
    command_line()()

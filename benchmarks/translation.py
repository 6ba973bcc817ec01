"""The whole job: training and using a translator with the fused kernels, with the reference scan, and its LSTM twin.

::

    python -m benchmarks.translation --data MULTI30K     # without --data: made-up sentences of the same lengths
    python -m benchmarks.translation --quick

The networks are those of ``zoo.networks.translation`` at the recipe's size with random weights, the training step is
the recipe's. Random weights cannot tell where a sentence ends, so every hypothesis runs to the limit on its length:
then every network does the same work per sentence. Needs ``pip install "snn-zoo[train]"``.
"""

import dataclasses
import functools
import random
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

import neurons
from benchmarks import report
from benchmarks.contenders import FUSED, OURS
from benchmarks.measure import Call, Effort, in_turn, no_garbage_collection, quartiles
from recipes import multi30k, training
from zoo.networks.translation import END, PAD, Translator, TranslatorConfig, pad

TWIN = "LSTM twin"
AGREEMENT = 1e-2
"""The largest relative difference of the first losses by two backends; the matrix products run in bfloat16."""
NOTES = """\
All networks train on the same batches and translate the same sentences, in turn, in a new random order each round.
"times fused" is the median time over that of the fused kernels: 2 means that the fused kernels are twice as fast.
Tokens are those of the target, padding left out. The training step is the recipe's: forward, backward, clipping, Muon
and AdamW. Beam search keeps 5 hypotheses; as the weights are random, every one runs to the limit on its length."""


class Size(NamedTuple):
    """The sizes of the networks and of the job."""

    width: int = TranslatorConfig.width
    layers: int = TranslatorConfig.encoder_layers
    """The number of layers, of the encoder and of the decoder."""
    vocabulary: int = 6000
    pairs: int = 5000
    tokens: int = multi30k.Training.tokens
    steps: int = 2
    """Training steps per sample."""
    batch: int = 64
    """The number of sentences translated at once."""
    one_by_one: int = 6
    """Sentences per sample that are translated one at a time."""
    effort: Effort = Effort(samples=7, seconds=25.0)


QUICK = Size(32, 1, 200, 100, 100, 1, 4, 2, Effort(samples=2, fewest=2))


@dataclasses.dataclass
class Row:
    """One network at one job; times in seconds per sample."""

    job: str
    network: str
    median: float
    first_quartile: float
    third_quartile: float
    samples: int
    tokens_a_second: float
    ratio: float
    """Median divided by that of the fused kernels."""
    sentence_seconds: float | None = None
    """The time per sentence, if sentences are translated one at a time."""


def made_up_pairs(count: int) -> list[multi30k.Pair]:
    """Sentence pairs of Multi30k's lengths, in invented languages with a few common and many rare words."""
    chance = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "in")]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(4000)]
    weights = [1 / (rank + 2) for rank in range(len(words))]

    def sentence() -> str:
        return " ".join(chance.choices(words, weights, k=chance.randint(6, 19))) + "."

    return [(sentence(), sentence()) for _ in range(count)]


class Networks:
    """The same translator with two backends and the same weights, and its twin."""

    def __init__(self, pairs: list[multi30k.Pair], size: Size, device: torch.device):
        self.size, self.device = size, device
        tokenizer = multi30k.train_tokenizer(pairs, size.vocabulary)
        vocabulary = tokenizer.get_vocab_size()
        config = TranslatorConfig(vocabulary, size.width, encoder_layers=size.layers, decoder_layers=size.layers)
        backends = {f"{OURS}{backend}": backend for backend in (FUSED[device.type], "torch")}
        self.models: dict[str, Translator] = {}
        for name in (*backends, TWIN):
            torch.manual_seed(0)
            mixer = "lstm" if name == TWIN else config.mixer
            model = Translator(dataclasses.replace(config, mixer=mixer), tokenizer).to(device)
            model.precision = "float32"  # the scans are compared; benchmarks.inference has integers
            for module in model.modules():
                if isinstance(module, neurons.Neuron):
                    module.backend = backends[name]
            self.models[name] = model
        self.sentences = [german for german, _ in pairs[: size.batch]]
        examples = multi30k.encode(tokenizer, pairs)
        plan = multi30k.batches(examples, size.tokens, random.Random(0))[: size.steps]
        self.batches = [multi30k.tensors(chosen, device) for chosen in plan]
        self.source = pad([examples[i][0] for i in range(len(self.sentences))]).to(device)

    def training(self) -> tuple[dict[str, Call], int]:
        """One call per network that takes the training steps of a sample, and the number of their tokens.

        Raises RuntimeError if the first losses by the two backends differ.
        """
        options = multi30k.Training(learning_rate=1e-4)
        steps, losses = {}, []
        for name, model in self.models.items():
            optimisers = training.optimisers_of(model, options)
            steps[name] = functools.partial(self._steps, model.train(), optimisers, options)
            torch.manual_seed(0)  # the same dropout for all networks
            losses.append(steps[name]()[0].item())
        fused, reference, _ = losses
        if not abs(fused - reference) <= AGREEMENT * abs(reference):
            raise RuntimeError(f"the first loss is {fused} by the fused kernels and {reference} by the reference scan")
        return steps, sum(int((target != PAD).sum()) for _, _, target in self.batches)

    def _steps(self, model: Translator, optimisers: list, options: multi30k.Training) -> tuple[Tensor, ...]:
        def backward(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            return training.gradients(multi30k.loss_of(model, batch, options))

        return tuple(
            training.update(model, optimisers, functools.partial(backward, batch), options.warmup, options)
            for batch in self.batches
        )

    def translating(self, sentences: list[str], batch_size: int) -> tuple[dict[str, Call], int]:
        """One call per network that translates the sentences, and the number of their tokens."""
        source = self.source[:, : len(sentences)]
        calls, lengths = {}, set()
        for name, model in self.models.items():
            with torch.no_grad():
                model.output_bias[END] = -1e4
            calls[name] = functools.partial(model.translate, sentences, batch_size=batch_size)
            found = model.eval().search(source, beam_size=5, length_penalty=1.0)
            lengths.add(sum(len(hypothesis.tokens) for hypothesis in found))
        (total,) = lengths  # all must do the same work
        return calls, total


def measure(pairs: list[multi30k.Pair], size: Size, device: torch.device) -> list[Row]:
    """Measure every network at every job."""
    networks = Networks(pairs, size, device)
    few = networks.sentences[: size.one_by_one]
    together, alone = f"translating, {len(networks.sentences)} sentences at once", "translating, one sentence at a time"
    rows = []
    for job, prepare in (
        ("training", networks.training),
        (together, lambda: networks.translating(networks.sentences, size.batch)),
        (alone, lambda: networks.translating(few, 1)),
    ):
        print(f"{job} ...", file=sys.stderr, flush=True)
        calls, tokens = prepare()
        with no_garbage_collection():
            samples = in_turn(calls, size.effort, device)
        _, fused, _ = quartiles(next(iter(samples.values())))
        for name, taken in samples.items():
            first, median, third = quartiles(taken)
            sentence = median / len(few) if job == alone else None
            rows.append(Row(job, name, median, first, third, len(taken), tokens / median, median / fused, sentence))
    return rows


def markdown(rows: list[Row], where: dict, size: Size, data: str) -> str:
    """The report: one table."""
    lines = []
    for row in rows:
        times = (report.short(1e3 * t) for t in (row.median, row.first_quartile, row.third_quartile))
        median, low, high = times
        sentence = "-" if row.sentence_seconds is None else report.short(1e3 * row.sentence_seconds)
        lines.append([row.job, row.network, report.short(row.tokens_a_second), report.short(row.ratio)])
        lines[-1] += [sentence, median, f"{low} to {high}", str(row.samples)]
    head = [
        "job",
        "network",
        "tokens/s",
        "times fused",
        "ms per sentence",
        "median ms per sample",
        "quartiles ms",
        "samples",
    ]
    what = f"Sentences: {data}. A training sample is {size.steps} steps of at most {size.tokens} tokens."
    return "\n\n".join(["# Translator", report.described(where), NOTES, what, report.table(head, lines)]) + "\n"


def run(quick: bool, threads: int | None, output: Path, data: Path | None) -> list[Row]:
    """Measure, print the report and save it with the figures; returns the rows."""
    threads = report.use_threads(threads)
    device = report.device()
    where, size = report.environment(device, threads), QUICK if quick else Size()
    pairs = multi30k.read_split(data, "train")[: size.pairs] if data else made_up_pairs(size.pairs)
    rows = measure(pairs, size, device)
    origin = "the first of Multi30k's training pairs" if data else "made up"
    text, name = markdown(rows, where, size, origin), report.stem("translation", device, quick)
    figures = where | {"sentences": origin, "rows": [dataclasses.asdict(row) for row in rows]}
    report.save(output, name, text, figures)
    print(text)
    return rows


def main(
    quick: Annotated[bool, typer.Option("--quick", help="a tiny network; the figures mean nothing")] = False,
    threads: Annotated[int | None, typer.Option(help="processor threads; one per core without it")] = None,
    output: Annotated[Path, typer.Option(help="folder for table and figures")] = report.RESULTS,
    data: Annotated[Path | None, typer.Option(help="folder with the raw Multi30k files")] = None,
):
    """Measure training and translating by fused kernels, by the reference scan, and with LSTMs."""
    run(quick, threads, output, data)


def typer_app() -> typer.Typer:
    return report.application(main)


if __name__ == "__main__":
    typer_app()()

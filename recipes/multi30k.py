"""German to English on Multi30k: train, resume, evaluate and compare translators.

The data is Multi30k task 1, raw: ``train``, ``val`` and ``test_2016_flickr`` as ``<split>.de`` and ``<split>.en``, one
sentence a line, plain or with ``.gz`` (https://github.com/multi30k/dataset, folder data/task1/raw).

    python -m recipes.multi30k train --data DATA --run runs/spiking
    python -m recipes.multi30k evaluate ./runs/spiking/best --data DATA --split val

Checkpoints are chosen on ``val`` by the BLEU of greedy search; the test set is for ``evaluate`` alone.
"""

import gzip
import json
import math
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import neurons
import zoo
from zoo.translation import BEGIN, END, PAD, SPECIAL_TOKENS, UNKNOWN, Translator, TranslatorConfig, pad

SOURCE = "https://github.com/multi30k/dataset (folder data/task1/raw)"
TEST = "test_2016_flickr"
TWINS = {
    "lstm": "LSTM with attention",
    "gru": "GRU with attention",
    "relu": "ReLU in place of neurons",
    "learnable-lif": "learnable LIF, binary spikes",
}
LIMITS = [
    "It knows the language of short image captions and little else; expect nonsense outside of it.",
    "Text is lowercased on the way in, so what comes out is lower case; cased BLEU is lower for it.",
    "Characters it has never seen become unknown tokens; text mostly in another script is refused.",
    "Trained once, with one seed: differences of a few tenths of BLEU between rows are noise.",
    "Its GRU, one-bit and learnable-LIF twins and the cost of sparser spikes have not been measured yet.",
]
SOURCES = [
    "Rathi and Roy, LITE-SNN, IEEE TCDS 2024, https://doi.org/10.1109/TCDS.2024.3396431",
    "Ponghiran and Roy, AAAI 2022, https://arxiv.org/abs/2109.01905",
]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Training:
    """How a translator is trained.

    ``tokens`` is the most tokens of either side in a batch, padding counted; ``average`` the decay, a step, of the
    moving average of the weights that is validated and kept; ``bfloat16`` runs the matrix products in it.
    """

    epochs: int = 16
    tokens: int = 3000
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    spike_penalty: float = 0.0
    subword_dropout: float = 0.0
    average: float = 0.995
    bfloat16: bool = True
    gradient_norm: float = 1.0
    seed: int = 0


def read_split(folder: Path, split: str) -> list[Pair]:
    """Sentence pairs (German, English) of one split; an error that says where to get what is missing."""
    sides = []
    for language in ("de", "en"):
        plain, packed = folder / f"{split}.{language}", folder / f"{split}.{language}.gz"
        if plain.is_file():
            text = plain.read_text(encoding="utf-8")
        elif packed.is_file():
            text = gzip.decompress(packed.read_bytes()).decode("utf-8")
        else:
            raise FileNotFoundError(
                f"{folder} holds no {split}.{language} or {split}.{language}.gz; get it from {SOURCE}"
            )
        sides.append(text.splitlines())
    german, english = sides
    if len(german) != len(english):
        raise ValueError(f"{split} has {len(german)} German lines and {len(english)} English ones; they must pair up")
    return list(zip(german, english))


def train_tokenizer(pairs: list[Pair], size: int) -> Tokenizer:
    """A joint byte-pair encoding of both languages, on lowercased text, whose decoding gives the text back."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Digits(True)]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator((text for pair in pairs for text in pair), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, pairs: list[Pair], dropout: float = 0.0) -> list[tuple[list[int], list[int]]]:
    """Token ids of both sides, each ended; ``dropout`` is the chance that a merge is left out (BPE-dropout)."""
    tokenizer.model.dropout = dropout or None
    try:
        german, english = (tokenizer.encode_batch_fast(list(side)) for side in zip(*pairs))
    finally:
        tokenizer.model.dropout = None
    return [([*g.ids, END], [*e.ids, END]) for g, e in zip(german, english)]


def batches(examples: list, tokens: int, shuffle: random.Random) -> list[list[int]]:
    """Indices of examples of like length, at most ``tokens`` padded target tokens a batch, in random order."""
    order = list(range(len(examples)))
    shuffle.shuffle(order)
    order.sort(key=lambda i: (len(examples[i][1]) // 2, len(examples[i][0]) // 2))
    result, longest = [[]], 0
    for i in order:
        longest = max(longest, *map(len, examples[i]))
        if result[-1] and longest * (len(result[-1]) + 1) > tokens:
            result.append([])
            longest = max(map(len, examples[i]))
        result[-1].append(i)
    shuffle.shuffle(result)
    return result


def tensors(examples: list, chosen: list[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target shifted right and target of a batch, each ``[T, B]``."""
    source = pad([examples[i][0] for i in chosen])
    target = pad([examples[i][1] for i in chosen])
    shifted = torch.cat([torch.full_like(target[:1], BEGIN), target[:-1]])
    return tuple(t.to(device, non_blocking=True) for t in (source, shifted, target))


class SpikeMeter:
    """Collects the spikes of all neurons of a network while it is open: their mean size and their rate."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.outputs: list[tuple[nn.Module, Tensor]] = []

    def __enter__(self):
        spiking = [m for m in self.model.modules() if isinstance(m, neurons.Neuron)]
        note = lambda module, inputs, output: self.outputs.append((module, output[0]))  # noqa: E731
        self.hooks = [m.register_forward_hook(note) for m in spiking]
        return self

    def __exit__(self, *error) -> None:
        for hook in self.hooks:
            hook.remove()

    def mean_size(self) -> Tensor:
        """Mean of abs(y) / r over neurons, differentiable: what the spike penalty weighs."""
        sizes = []
        for module, y in self.outputs:
            largest = module.spike_range.value() if isinstance(module, neurons.MultiBitNeuron) else 1.0
            sizes.append((y.abs() / largest).mean())
        return torch.stack(sizes).mean()


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], options: Training) -> Tensor:
    """Cross-entropy a token with smoothed labels, and the spike penalty."""
    source, shifted, target = batch
    real = target != PAD
    with SpikeMeter(model) as meter, torch.autocast(source.device.type, torch.bfloat16, options.bfloat16):
        logits = model(source, shifted, real)
    loss = F.cross_entropy(logits.float(), target[real], label_smoothing=options.label_smoothing)
    if options.spike_penalty and meter.outputs:
        loss = loss + options.spike_penalty * meter.mean_size()
    return loss


def bleu(hypotheses: list[str], references: list[str], lowercase: bool) -> tuple[float, str]:
    """Corpus BLEU by sacreBLEU (13a) and its signature."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, [references]).score
    return score, str(metric.get_signature())


def learning_rate(progress: float, options: Training) -> float:
    """One cycle: a linear rise over ``warmup`` of the training, then a cosine to zero."""
    if progress < options.warmup:
        return options.learning_rate * progress / options.warmup
    rest = (progress - options.warmup) / (1 - options.warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


@torch.inference_mode()
def evaluate(
    model: Translator, pairs: list[Pair], beam_size: int = 5, length_penalty: float = 1.4, batch_size: int = 64
):
    """Translations of the pairs' German, with lowercased and cased BLEU and the two signatures."""
    german, english = map(list, zip(*pairs))
    hypotheses = model.translate(german, beam_size, length_penalty, batch_size)
    lowercased, signature = bleu(hypotheses, english, lowercase=True)
    cased, cased_signature = bleu(hypotheses, english, lowercase=False)
    return hypotheses, {
        "bleu": lowercased,
        "bleu_cased": cased,
        "signature": signature,
        "signature_cased": cased_signature,
    }


@torch.inference_mode()
def spike_rate(model: Translator, pairs: list[Pair]) -> float | None:
    """Share of non-zero spikes of all neurons over the pairs, one at a time; None for a network without spikes."""
    device = model.embedding.weight.device
    examples = encode(model.tokenizer, pairs)
    with SpikeMeter(model) as meter:
        fired = total = 0
        for i in range(len(examples)):
            source, shifted, target = tensors(examples, [i], device)
            model(source, shifted, target != PAD)
            fired += sum(int((y != 0).sum()) for _, y in meter.outputs)
            total += sum(y.numel() for _, y in meter.outputs)
            meter.outputs.clear()
    return fired / total if total else None


def fine_tune(
    model: Translator, pairs: list[Pair], epochs: int = 3, learning_rate: float = 2e-4, seed: int = 0
) -> list[float]:
    """Train a loaded translator further on one's own (German, English) pairs, in place; return each epoch's loss.

    Raises ValueError for no pairs, a side that is empty, or one longer than the model takes.
    """
    if not pairs:
        raise ValueError("there are no pairs to fine-tune on")
    examples = encode(model.tokenizer, pairs)
    for i, (german, english) in enumerate(examples):
        if min(len(german), len(english)) < 2 or max(len(german), len(english)) > model.settings.longest:
            raise ValueError(f"pair {i} has an empty side, or one of more than {model.settings.longest} tokens")
    options = Training(epochs=epochs, learning_rate=learning_rate, seed=seed)
    optimiser = torch.optim.AdamW(decayed(model, options.weight_decay), lr=learning_rate, betas=(0.9, 0.98))
    losses = []
    torch.manual_seed(seed)
    model.train()
    for epoch in range(epochs):
        plan = batches(examples, options.tokens, random.Random(seed + epoch))
        total = torch.zeros((), device=model.embedding.weight.device)
        for i, chosen in enumerate(plan):
            set_learning_rate(optimiser, (epoch + i / len(plan)) / epochs, options)
            total += update(model, optimiser, tensors(examples, chosen, model.embedding.weight.device), options)
        losses.append(total.item() / len(plan))
    model.eval()
    return losses


def update(model: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple, options: Training) -> Tensor:
    """One step of the optimiser; returns the loss before it."""
    loss = loss_of(model, batch, options)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), options.gradient_norm)
    optimiser.step()
    optimiser.zero_grad()
    return loss.detach()


def set_learning_rate(optimiser: torch.optim.Optimizer, progress: float, options: Training) -> None:
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(progress, options)


class Trainer:
    """A training run in a folder: model, average of its weights, optimiser and log; it goes on where it stopped.

    The folder holds ``state.pt`` (the last finished epoch, replaced as a whole), ``log.jsonl`` (a line an epoch),
    ``training.png`` and ``best`` (the model with the best BLEU on ``val`` so far, as ``zoo.load`` reads it).
    """

    def __init__(
        self,
        data: Path,
        run: Path,
        config: dict,
        options: Training,
        initial: str | None = None,
        backend: str = "auto",
    ):
        from accelerate import Accelerator

        torch.backends.cuda.matmul.allow_tf32 = True
        self.accelerator = Accelerator()
        self.run, self.options = run, options
        run.mkdir(parents=True, exist_ok=True)
        self.pairs, self.validation = read_split(data, "train"), read_split(data, "val")
        torch.manual_seed(options.seed)
        network = zoo.load(initial) if initial else self.new_network(**config)
        for module in network.modules():
            if isinstance(module, neurons.Neuron):
                module.backend = backend
        optimiser = torch.optim.AdamW(
            decayed(network, options.weight_decay), lr=options.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.model, self.optimiser = self.accelerator.prepare(network, optimiser)
        self.network: Translator = self.accelerator.unwrap_model(self.model)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(options.average))
        self.epoch, self.best, self.seconds = 0, -1.0, 0.0
        self.settings = {"model": self.network.config, "training": asdict(options)}
        if initial:
            self.settings["initial"] = initial
        self.resume()
        (run / "settings.json").write_text(json.dumps(self.settings, indent=2) + "\n")

    def new_network(self, vocabulary: int, **config) -> Translator:
        tokenizer = train_tokenizer(self.pairs, vocabulary)
        return Translator(TranslatorConfig(vocabulary=tokenizer.get_vocab_size(), **config), tokenizer)

    def resume(self) -> None:
        """Go on from ``state.pt`` if there is one; an error if it belongs to other settings."""
        path = self.run / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if json.loads(state["settings"]) != self.settings:
            raise ValueError(f"{self.run} was started with other settings; use another folder, or the same options")
        self.network.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.best, self.seconds = state["epoch"], state["best"], state["seconds"]

    def save_state(self) -> None:
        state = {
            "settings": json.dumps(self.settings),
            "model": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "seconds": self.seconds,
        }
        torch.save(state, self.run / "state.pt.new")
        os.replace(self.run / "state.pt.new", self.run / "state.pt")

    def train(self) -> None:
        """Run the epochs that are left."""
        while self.epoch < self.options.epochs:
            started = time.perf_counter()
            loss = self.train_epoch()
            self.seconds += time.perf_counter() - started
            self.epoch += 1
            if self.accelerator.is_main_process:
                self.validate(loss)
                self.save_state()
            self.accelerator.wait_for_everyone()

    def train_epoch(self) -> float:
        """One pass over the training pairs; what is random in it depends on the seed and the epoch alone."""
        from tqdm import tqdm

        seed = self.options.seed * 1000 + self.epoch
        torch.manual_seed(seed)
        examples = encode(self.network.tokenizer, self.pairs, self.options.subword_dropout)
        plan = batches(examples, self.options.tokens, random.Random(seed))
        plan = plan[self.accelerator.process_index :: self.accelerator.num_processes]
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        steps = tqdm(plan, desc=f"epoch {self.epoch + 1}/{self.options.epochs}", leave=False, mininterval=1)
        for i, chosen in enumerate(steps):
            set_learning_rate(self.optimiser, (self.epoch + i / len(plan)) / self.options.epochs, self.options)
            batch = tensors(examples, chosen, self.accelerator.device)
            total += update(self.model, self.optimiser, batch, self.options)
            self.average.update_parameters(self.network)
        loss = total.item() / len(plan)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {self.epoch + 1}; lower the learning rate")
        return loss

    def validate(self, loss: float) -> None:
        """Score the averaged weights on ``val`` by greedy search; keep them if they are the best so far."""
        model: Translator = self.average.module
        _, scores = evaluate(model, self.validation, beam_size=1, batch_size=512)
        row = {"epoch": self.epoch, "loss": loss, "bleu": scores["bleu"], "seconds": round(self.seconds, 1)}
        print(json.dumps({k: round(v, 3) for k, v in row.items()}), flush=True)
        with (self.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        plot_log(self.run)
        if scores["bleu"] > self.best:
            self.best = scores["bleu"]
            zoo.save(model, self.run / "best")


def decayed(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight matrices decay; biases, norms and the neurons' own parameters do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def plot_log(run: Path) -> None:
    """Draw ``log.jsonl`` as ``training.png``: loss and validation BLEU over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(epochs, [row["loss"] for row in rows], marker=".")
    left.set(xlabel="epoch", ylabel="training loss (nats a token)")
    right.plot(epochs, [row["bleu"] for row in rows], marker=".", color="tab:green")
    right.set(xlabel="epoch", ylabel="BLEU on val (greedy, lowercased)")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(run / "training.png", dpi=110)
    pyplot.close(figure)


def measure(folder: Path, data: Path, beam_size: int, length_penalty: float) -> dict:
    """Scores of a saved model on ``val`` and on the test set, its size and its spike rate; kept in ``scores.json``.

    What is already there for the same weights and the same search is returned as it is, so that the test set is
    translated once.
    """
    record = folder.parent / "scores.json"
    config = zoo.info(folder).config
    key = {
        "weights": config["files"]["model.safetensors"]["sha256"],
        "beam_size": beam_size,
        "length_penalty": length_penalty,
    }
    if record.exists():
        known = json.loads(record.read_text())
        if {k: known.get(k) for k in key} == key:
            return known
    model = zoo.load(folder)
    validation, test = read_split(data, "val"), read_split(data, TEST)
    _, on_validation = evaluate(model, validation, beam_size, length_penalty)
    _, on_test = evaluate(model, test, beam_size, length_penalty)
    _, on_first = evaluate(model, validation[:100], beam_size, length_penalty)
    row = {
        **key,
        "bleu_val": round(on_validation["bleu"], 2),
        "bleu_val_first_100": round(on_first["bleu"], 2),
        "bleu_test": round(on_test["bleu"], 2),
        "bleu_test_cased": round(on_test["bleu_cased"], 2),
        "signature": on_test["signature"],
        "signature_cased": on_test["signature_cased"],
        "parameters": config["parameters"],
        "mean_spike_rate": spike_rate(model, validation),
    }
    record.write_text(json.dumps(row, indent=2) + "\n")
    return row


def described(settings: dict, beside: dict) -> str:
    """What a run's network is, for a row of a table, and where its dropout is not that of the run ``beside``."""
    model, dropout = settings["model"], settings["model"]["dropout"]
    if model["mixer"] in TWINS:
        name = TWINS[model["mixer"]]
    else:
        name = f"input-gated LIF, {'binary' if model['bits'] == 1 else str(model['bits']) + '-bit'} spikes"
    return name if dropout == beside["model"]["dropout"] else f"{name} (dropout {dropout})"


def command_of(run: Path) -> str:
    """The command that repeats a run: the options that are not the default."""
    settings = json.loads((run / "settings.json").read_text())
    default = asdict(TranslatorConfig(vocabulary=settings["model"]["vocabulary"])) | asdict(Training())
    changed = {k: v for k, v in (settings["model"] | settings["training"]).items() if v != default[k]}
    if "initial" in settings:
        changed = {"initial": settings["initial"]} | {k: v for k, v in changed.items() if k in settings["training"]}
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
    return f"python -m recipes.multi30k train --data DATA --run {run}{options}"


def bundle(run: Path, twins: list[Path], sparsity: list[Path], folder: Path, summary: str) -> None:
    """Save the best model of ``run`` to ``folder`` with a card of what :func:`measure` found for it and the others."""

    def row(measured: Path, name: str) -> dict:
        scores = json.loads((measured / "scores.json").read_text())
        columns = ("bleu_val", "bleu_test", "bleu_test_cased", "parameters", "mean_spike_rate")
        return {"name": name, **{column: scores[column] for column in columns}}

    def settings(of: Path) -> dict:
        return json.loads((of / "settings.json").read_text())

    def score(title: str, split: str, signature: str) -> dict:
        return {"title": title, "type": "bleu", "split": split, "signature": signature}

    scores = json.loads((run / "scores.json").read_text())
    model = zoo.load(run / "best")
    measuring = f"python -m recipes.multi30k measure {' '.join(map(str, [run, *twins, *sparsity]))} --data DATA"
    search = f" --beam-size {scores['beam_size']} --length-penalty {scores['length_penalty']}"
    example = ["Ein Hund rennt durch den Schnee."]
    own = row(run, folder.name)
    metrics = {
        "summary": summary,
        "load_as": folder.name,
        "example": {"input": example, "output": model.translate(example)},
        "languages": ["de", "en"],
        "licence": "apache-2.0",
        "scores": {
            "bleu_val": score("BLEU, val", "val", scores["signature"]),
            "bleu_test": score("BLEU, test 2016", TEST, scores["signature"]),
            "bleu_test_cased": score("BLEU, test 2016, cased", TEST, scores["signature_cased"]),
        },
        "results": [own, *(row(twin, described(settings(twin), settings(run))) for twin in twins)],
        "score_band": {
            "score": "bleu_val",
            "split": "val",
            "inputs": 100,
            "low": round(scores["bleu_val_first_100"] - 0.5, 2),
            "high": round(scores["bleu_val_first_100"] + 0.5, 2),
        },
        "commands": [*map(command_of, [run, *twins, *sparsity]), measuring + search],
        "seeds": [settings(run)["training"]["seed"]],
        "checkpoint_split": "val, by the BLEU of greedy search",
        "data": {
            "name": "Multi30k, task 1",
            "type": "multi30k",
            "url": "https://github.com/multi30k/dataset",
            "licence": "research use; cite Elliott et al. 2016, Multilingual English-German Image Descriptions",
            "use": "29,000 sentence pairs for training, 1,014 to choose the checkpoint, 1,000 (test 2016) to score.",
        },
        "limits": LIMITS,
        "sources": SOURCES,
    }
    if sparsity:
        points = [row(point, f"spike penalty {settings(point)['training']['spike_penalty']}") for point in sparsity]
        metrics["sparsity"] = sorted([own, *points], key=lambda point: point["mean_spike_rate"])
    zoo.save(model, folder, metrics)


def command_line():
    """The commands ``train``, ``evaluate``, ``measure`` and ``bundle``."""
    from typing import Annotated

    import typer

    app = typer.Typer(add_completion=False, help="German to English on Multi30k.", no_args_is_help=True)
    Data = Annotated[Path, typer.Option(help="folder with the raw Multi30k files")]

    @app.command()
    def train(
        data: Data,
        run: Annotated[Path, typer.Option(help="folder of the run; an interrupted one goes on")],
        initial: Annotated[str | None, typer.Option(help="fine-tune this model")] = None,
        mixer: str = "input-gated-lif",
        vocabulary: int = 6000,
        width: int = 256,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        kernel: int = 3,
        heads: int = 4,
        bits: int = 4,
        threshold_levels: int = 0,
        initial_range: float = 2.0,
        range_tracking: str = "fixed",
        dropout: float = 0.1,
        epochs: int = Training.epochs,
        tokens: int = Training.tokens,
        learning_rate: float = Training.learning_rate,
        warmup: float = Training.warmup,
        weight_decay: float = Training.weight_decay,
        label_smoothing: float = Training.label_smoothing,
        spike_penalty: float = Training.spike_penalty,
        subword_dropout: float = Training.subword_dropout,
        average: float = Training.average,
        bfloat16: bool = Training.bfloat16,
        seed: int = Training.seed,
        backend: str = "auto",
    ):
        """Train a translator; the best on val is in RUN/best."""
        given = dict(locals())
        options = {k: given.pop(k) for k in list(given) if k in Training.__dataclass_fields__}
        for name in ("data", "run", "initial", "backend"):
            given.pop(name)
        Trainer(data, run, given, Training(**options), initial, backend).train()

    @app.command()
    def evaluate(
        model: str,
        data: Data,
        split: str = "val",
        beam_size: int = 5,
        length_penalty: float = 1.4,
        output: Annotated[Path | None, typer.Option(help="write the translations here")] = None,
    ):
        """Score a model (a name or a folder) with sacreBLEU."""
        network = zoo.load(model, device="cuda" if torch.cuda.is_available() else "cpu")
        hypotheses, scores = globals()["evaluate"](network, read_split(data, split), beam_size, length_penalty)
        if output:
            output.write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
        print(json.dumps({"model": model, "split": split, "beam_size": beam_size, **scores}, indent=2))

    @app.command()
    def measure(runs: list[Path], data: Data, beam_size: int = 5, length_penalty: float = 1.4):
        """Score the best model of each run on val and, once, on the test set; keep it in RUN/scores.json."""
        for run in runs:
            scores = globals()["measure"](run / "best", data, beam_size, length_penalty)
            print(run.name, json.dumps(scores, indent=2), flush=True)

    @app.command()
    def bundle(
        run: Path,
        folder: Annotated[Path, typer.Option(help="where the model is to go, with its card")],
        summary: Annotated[str, typer.Option(help="one sentence: what the model is")],
        twin: Annotated[list[Path] | None, typer.Option(help="run to compare with; may be given again")] = None,
        sparsity: Annotated[list[Path] | None, typer.Option(help="run on the sparsity curve; likewise")] = None,
    ):
        """Put the best model of a run, which was measured, into a folder of its own with its card."""
        globals()["bundle"](run, twin or [], sparsity or [], folder, summary)

    return app


if __name__ == "__main__":
    command_line()()

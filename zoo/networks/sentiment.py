"""Classifiers of text: a layer of input-gated spiking neurons over words and n-grams, and their twins.

A text is words ``w[t]``. The input of the network at word t is ``x[t] = (embedding of w[t], evidence)``. Evidence is
one number for each of the n-grams of one, two and three words that end at t. It is looked up in a table, and is zero
for an n-gram that is not in the table or that has occurred before in the text. Then::

    f, c = layer norm(convolution over the words of x)
    y = input-gated LIF(f, c)                         half of the neurons run from the last word to the first
    V = integrator(W_e evidence)                      its membrane at the end is the sum of the evidence
    logits = W [mean of y over the words, maximum of y over the words] + b + V

The network reads a text to its end, however long it is. Padding has no current, so a scan from the end starts at rest.

The twins differ in how x becomes y: ``mixer`` is ``input-gated-lif``, ``relu`` (the convolution alone), ``lstm``,
``bilstm``, ``gru`` or ``bag-of-words`` (y = x). ``learnable-lif`` is the network of RR24 (Rathi and Roy, IEEE TCDS
2024, 10.1109/TCDS.2024.3396431): two layers of learnable LIF and an integrator as readout, with several time steps per
word.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

import neurons
from neurons.monitors import evaluation_view
from zoo.explaining import Axis, Explanation, Layers, Strip, spike_strips, watched
from zoo.inputs.text import TextReader, normal
from zoo.inputs.tokenizer import TOKENIZER_FILE, check_size, read_tokenizer
from zoo.networks.layers import SequenceDropout, at_least_one
from zoo.networks.mixers import BagOfWords, RecurrentMixer, SpikingMixer, spike_options
from zoo.networks.probabilities import check_temperature, most_probable
from zoo.registry import register_architecture

PAD, UNKNOWN = range(2)
SPECIAL_TOKENS = ["<pad>", "<unk>"]
LONGEST_NGRAM = 3
MOST_STEPS_PER_WORD = 64
GATE_HORIZON = 64.0
"""Words that the slowest gated neurons remember before training: a few sentences; the readout pools over the text."""
MEAN_SCALE = 16
"""The factor of the mean over a text's words: about one over its spread, as for the mean of 256 independent words."""
RECURRENT = {"lstm": ("lstm", 1), "bilstm": ("lstm", 2), "gru": ("gru", 1)}
"""The recurrent twins: what they are made of, and in how many directions they read."""
MIXERS = ("input-gated-lif", "learnable-lif", "relu", *RECURRENT, "bag-of-words")


@dataclass(frozen=True)
class TextClassifierConfig:
    """All that is needed to rebuild a classifier, except its tokenizer.

    ``vocabulary`` and ``ngrams`` are the numbers of words and n-grams it knows, ``width`` the size of an embedding,
    ``channels`` the number of neurons, ``kernel`` the words a convolution sees, ``mixer`` the part that turns words
    into features; ``bits``, ``threshold_levels``, ``initial_range`` and ``range_tracking`` are those of the multi-bit
    spike; ``steps_per_word`` are the time steps of ``learnable-lif``. ``word_dropout`` is the probability that a word's
    embedding is dropped in training, ``dropout`` that of a feature of the readout. ``classify`` divides the logits by
    ``temperature`` before it makes them probabilities (:mod:`zoo.networks.probabilities`).
    """

    labels: tuple[str, ...]
    vocabulary: int
    ngrams: int
    width: int = 64
    channels: int = 128
    kernel: int = 3
    mixer: str = "input-gated-lif"
    bits: int = 4
    threshold_levels: int = 0
    initial_range: float = 2.0
    range_tracking: str = "fixed"
    steps_per_word: int = 2
    word_dropout: float = 0.2
    dropout: float = 0.5
    temperature: float = 1.0

    def __post_init__(self):
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}; got {self.mixer!r}")
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"labels must be at least two, and different; got {list(self.labels)}")
        if self.channels % 2:
            raise ValueError(f"channels must be even, for the two directions; got {self.channels}")
        at_least_one(self, "vocabulary", "width", "channels", "kernel", "steps_per_word")
        if self.steps_per_word > MOST_STEPS_PER_WORD:
            raise ValueError(f"steps_per_word must be {MOST_STEPS_PER_WORD} at most; got {self.steps_per_word}")
        if self.ngrams < 0:
            raise ValueError(f"ngrams must be 0, for none, or more; got {self.ngrams}")
        check_temperature(self.temperature)

    @property
    def inputs(self) -> int:
        """The number of channels of x."""
        return self.width + (LONGEST_NGRAM if self.ngrams else 0)

    def mixing(self) -> SpikingMixer | RecurrentMixer | BagOfWords:
        """What turns words into features."""
        if self.mixer == "bag-of-words":
            return BagOfWords(self.inputs)
        if self.mixer in RECURRENT:
            kind, directions = RECURRENT[self.mixer]
            # Texts are computed one by one, so no row is next to another's.
            return RecurrentMixer(self.inputs, self.channels, kind, directions, adds_rows=False)
        return SpikingMixer(self.inputs, self.channels, self.kernel, self.mixer, spike_options(self), causal=False)


class Classification(NamedTuple):
    """The most probable ``label`` of a text, and the ``probabilities`` of all."""

    label: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        return self.probabilities[self.label]


def ngram_keys(tokens: Tensor) -> Tensor:
    """Hashes ``[T, B, LONGEST_NGRAM]`` (int32) of the n-grams of 1, 2, ... tokens that end at each of ``[T, B]``.

    ``key(w, ..., v) = (key(w, ...) * 1000003 + v + 1) mod (2^31 - 1)``. Before the first token there is one token of
    padding, however long the n-gram. So the n-grams of two and of three tokens that end at the first token have the
    same key.
    """
    before, keys = torch.zeros_like(tokens), []
    for _ in range(LONGEST_NGRAM):
        key = (before * 1_000_003 + tokens + 1) % (2**31 - 1)
        before = F.pad(key[:-1], (0, 0, 1, 0), value=PAD + 1)
        keys.append(key)
    return torch.stack(keys, dim=-1).int()


class NgramEvidence(nn.Module):
    """One number per known n-gram, found by its key; zero for any other. Not trained with the network."""

    known: Tensor

    def __init__(self, count: int):
        super().__init__()
        self.register_buffer("known", torch.arange(count, dtype=torch.int32))
        self.evidence = nn.Parameter(torch.zeros(count), requires_grad=False)

    def places(self, tokens: Tensor) -> Tensor:
        """The indices in the table of the n-grams of ``tokens [T, B]``: ``[T, B, LONGEST_NGRAM]``.

        The index is -1 for an n-gram that is not in the table, and for one that has occurred before in the text: naive
        Bayes only asks whether a text has an n-gram.
        """
        keys = ngram_keys(tokens)
        places = torch.searchsorted(self.known, keys).clamp_(max=len(self.known) - 1)
        places.masked_fill_((self.known[places] != keys) | (tokens == PAD).unsqueeze(-1), -1)
        ordered, order = places.sort(dim=0, stable=True)
        again = F.pad(ordered[1:] == ordered[:-1], (0, 0, 0, 0, 1, 0))
        return places.masked_fill_(torch.zeros_like(again).scatter_(0, order, again), -1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Evidence ``[T, B, LONGEST_NGRAM]`` of ``tokens [T, B]``."""
        places = self.places(tokens)
        return self.evidence[places] * (places >= 0)


class PooledReadout(nn.Module):
    """Mean and maximum over the words, into one linear layer."""

    def __init__(self, config: TextClassifierConfig):
        super().__init__()
        self.mixer = config.mixing()
        if config.mixer == "input-gated-lif":
            for bias in cast(SpikingMixer, self.mixer).norm.bias.chunk(2):  # one direction each
                neurons.start_gates(bias, GATE_HORIZON)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(2 * self.mixer.outputs, len(config.labels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y, _ = self.mixer(x, mask=mask)
        y = y.to(torch.promote_types(y.dtype, torch.float32))  # in half precision, a sum over many words is not exact
        mask = mask.to(y.dtype)
        mean = (y * mask).sum(0) / mask.sum(0)
        largest = y.masked_fill(mask == 0, float("-inf")).amax(0)
        pooled = torch.cat([MEAN_SCALE * mean, largest], dim=-1)
        return self.output(self.dropout(pooled.to(self.output.weight.dtype)))


class IntegratedReadout(nn.Module):
    """RR24's network: two layers of learnable LIF and an integrator, whose membrane at the end of a text is the answer.

    The membrane is divided by the text's own number of time steps: neither padding nor the batch changes it.
    """

    def __init__(self, config: TextClassifierConfig):
        super().__init__()
        self.steps_per_word = config.steps_per_word
        self.currents = nn.ModuleList([nn.Linear(config.inputs, config.channels)])
        self.currents.append(nn.Linear(config.channels, config.channels))
        self.neurons = nn.ModuleList([neurons.LearnableLIF() for _ in self.currents])
        self.dropout = SequenceDropout(config.dropout)
        self.output = nn.Linear(config.channels, len(config.labels))
        self.integrator = neurons.Integrator()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.currents[0](x).repeat_interleave(self.steps_per_word, dim=0)  # the steps of a word share its current
        y = self.dropout(self.neurons[0](y)[0])
        y = self.dropout(self.neurons[1](self.currents[1](y))[0])
        steps = mask.repeat_interleave(self.steps_per_word, dim=0)
        _, state = self.integrator(self.output(y) * steps)
        return state.membrane / steps.sum(0)


@register_architecture("text-classifier")
class TextClassifier(nn.Module):
    """Classifier with its tokenizer: ``classify`` takes texts and returns labels with probabilities.

    Called on token ids ``[T, B]`` (padded with 0) it returns logits ``[B, labels]``. ``evidence [T, B, 3]`` replaces
    the evidence from the table of n-grams: a network must not be trained with evidence that a table learned from the
    same text.

    It computes in floats: the weights of its convolution take embeddings, which are no spikes. Only the readout's take
    spikes, once per text; of the bundled model these are 512 weights and 0.4 % of the time.
    """

    task = "text-classification"
    only_floats = (
        "a text classifier computes in floats: its convolution takes embeddings, which are no spikes, and nearly all "
        "of its products are there"
    )
    label_layers: ClassVar = {"body.output": 0, "evidence_current": 0}
    parts: ClassVar = {
        "embedding": ("embedding",),
        "n-grams": ("ngrams",),
        "body": ("body.mixer", "body.currents", "body.neurons"),
        "readout": ("body.output", "evidence_current"),
    }

    def __init__(self, config: TextClassifierConfig, tokenizer: Tokenizer):
        super().__init__()
        check_size(tokenizer, config.vocabulary)
        self.typed_config, self.reader = config, TextReader(tokenizer, SPECIAL_TOKENS, "text")
        self.embedding = nn.Embedding(config.vocabulary, config.width, padding_idx=PAD)
        self.ngrams = None
        if config.ngrams:
            self.ngrams = NgramEvidence(config.ngrams)
            self.evidence_current = nn.Linear(LONGEST_NGRAM, len(config.labels), bias=False)
            self.integrator = neurons.Integrator()
            nn.init.zeros_(self.evidence_current.weight)
        self.body = (IntegratedReadout if config.mixer == "learnable-lif" else PooledReadout)(config)

    @property
    def config(self) -> dict[str, Any]:
        """All that is needed to rebuild this network, except its assets."""
        return asdict(self.typed_config) | {"labels": list(self.typed_config.labels)}

    @property
    def tokenizer(self) -> Tokenizer:
        return self.reader.tokenizer

    def assets(self) -> dict[str, bytes]:
        """The tokenizer, as a file to be saved with the weights."""
        return {TOKENIZER_FILE: self.tokenizer.to_str(pretty=True).encode()}

    @classmethod
    def from_config(cls, config: dict[str, Any], assets: dict[str, bytes]) -> "TextClassifier":
        typed_config = TextClassifierConfig(**config | {"labels": tuple(config["labels"])})
        return cls(typed_config, read_tokenizer(assets[TOKENIZER_FILE], SPECIAL_TOKENS))

    def forward(self, tokens: Tensor, evidence: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        if self.training:
            kept = F.dropout(x.new_ones(tokens.shape), self.typed_config.word_dropout)
            x = x * kept.unsqueeze(-1)
        mask = (tokens != PAD).unsqueeze(-1).to(x.dtype)
        if self.ngrams is None:
            return self.body(x, mask)
        evidence = (self.ngrams(tokens) if evidence is None else evidence).to(x.dtype)
        _, said = self.integrator(self.evidence_current(evidence))
        return self.body(torch.cat([x, evidence], dim=-1), mask) + said.membrane

    @torch.inference_mode()
    def classify(self, texts: list[str]) -> list[Classification]:
        """The label of each text with the probabilities of all labels.

        Texts are computed one by one, so that a result is the same, to the last bit, whatever other texts are in the
        list. It may be called in training mode, and from several threads at once. Raises TypeError for anything but a
        list of strings, and ValueError, with the text's place, for a text that is empty or has nothing that the model
        knows.
        """
        logits = self.logits(self.encode(texts))
        labels, temperature = self.typed_config.labels, self.typed_config.temperature
        return [Classification(*most_probable(row, labels, temperature)) for row in logits]

    @torch.inference_mode()
    def explained(self, text: str) -> Explanation:
        """What :func:`zoo.explain` shows of one text: the spikes over its words, and the evidence of its n-grams.

        The evidence of a word is that of the n-grams that end there, as what it adds to the logit of each label.
        """
        (ids,) = self.encode([text])
        (answer,) = self.classify([text])
        tokens = torch.tensor(ids, device=self.embedding.weight.device).unsqueeze(1)
        with evaluation_view(self) as network:
            with watched(network.spiking_layers()) as levels:
                network(tokens)
            steps = Axis(self.reader.names(ids))
            strips = [
                strip
                for name, one in levels.items()
                for strip in spike_strips({name: one}, steps if len(one) == len(ids) else Axis())
            ]
            if network.ngrams is not None:
                evidence = network.evidence_current(network.ngrams(tokens).to(network.embedding.weight.dtype))
                title = "evidence of the n-grams that end at each word (logits)"
                strips.append(Strip(title, "curves", evidence[:, 0].float().cpu(), steps, self.typed_config.labels))
        return Explanation(answer, strips)

    def spiking_layers(self) -> Layers:
        """The modules that put out spikes, each with a neuron that fires its levels."""
        if isinstance(self.body, IntegratedReadout):
            return {f"body.neurons.{place}": (neuron, neuron) for place, neuron in enumerate(self.body.neurons)}
        mixer = self.body.mixer
        if isinstance(mixer, SpikingMixer) and len(mixer.neurons):
            return {"body.mixer": (mixer, mixer.neurons[0])}
        return {}

    @torch.inference_mode()
    def logits(self, encoded: list[list[int]]) -> list[Tensor]:
        """The logits ``[labels]`` of each text, given as its token ids and computed on its own."""
        device = self.embedding.weight.device
        with evaluation_view(self) as network:
            return [network(torch.tensor(tokens, device=device).unsqueeze(1))[0] for tokens in encoded]

    def check(self, text: str, where: str = "the text") -> None:
        """Raise ValueError or TypeError, beginning with ``where``, for a text that could not be classified."""
        self._check(text, self.reader.ids([normal(text, where)])[0], where)

    def _check(self, text: str, ids: list[int], where: str) -> None:
        self.reader.check_known(text, ids, self.reader.known, where)  # ":)" alone is meaningful

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The token ids of each text, or the error that says what is wrong with one."""
        encoded = self.reader.ids(texts)
        for place, (text, ids) in enumerate(zip(texts, encoded)):
            self._check(text, ids, f"text {place}")
        return encoded

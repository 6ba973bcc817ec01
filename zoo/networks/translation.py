"""Translators: a convolutional spiking encoder-decoder with attention, and its twins without spikes.

A stream ``h [T, B, N]`` of currents runs through the layers, each of which adds to it. A layer of the spiking network
(modelled on RR24's translator, with PR22's input-gated neuron in place of a plain LIF) computes::

    s = multi-bit LIF(layer norm(h))                  the stream as spikes
    f, c = layer norm(convolution over the tokens of s)
    y = input-gated LIF(f, c)                         its synaptic current runs along the tokens
    z = multi-bit LIF(layer norm(attention(y, e)))    decoder only; e are the encoder's spikes
    h = h + W [y, z]

So every weight layer except the first, the embedding, takes spikes of a few bits. In the encoder, half of the gated
channels are scanned from right to left; the decoder sees only the past. All state is explicit and runs along dimension
0, so translating token by token uses the same code with one step at a time.

The twins differ only in the mixer of a layer: ``mixer`` is the name of a neuron, or ``relu``, ``lstm`` or ``gru``.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

import neurons
from neurons.monitors import evaluation_view
from zoo.engine.precision import Precise
from zoo.engine.program import Buffer, Executor, Program, Spikes, part
from zoo.engine.program import Context as EngineContext
from zoo.explaining import Axis, Explanation, Layers, Strip, spike_strips, watched
from zoo.inputs.text import SHOWN, TextReader, normal
from zoo.inputs.tokenizer import TOKENIZER_FILE, check_size, read_tokenizer
from zoo.networks.decoding import Hypothesis, Likely, NextTokens, beam_search, most_likely
from zoo.networks.layers import Linear, RowGroups, SequenceDropout, at_least_one, first_rows
from zoo.networks.mixers import RECURRENT, RecurrentMixer, SpikingMixer, StreamSpikes, spike_options
from zoo.options import number, whole_number
from zoo.registry import register_architecture

PAD, BEGIN, END, UNKNOWN = range(4)
NEVER = [PAD, BEGIN, UNKNOWN]
"""Tokens that are never a next token."""
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>"]
MIXERS = ("input-gated-lif", "learnable-lif", "relu", *RECURRENT)
LARGEST_PENALTY = 10.0
KEYS = 16
"""In integers, room for keys comes in multiples of so many: as vector instructions take them."""
READ_AT_ONCE = 16
"""In integers, so many sentences are read at once: their numbers stay in the processor's cache."""
HYPOTHESES = 16_384
"""The most hypotheses that are extended at once: the memory of a search grows with their number."""


@dataclass(frozen=True)
class TranslatorConfig:
    """All that is needed to rebuild a translator, except its tokenizer.

    ``width`` N is the number of channels of the stream, ``kernel`` the tokens a convolution sees, ``mixer`` the mixer
    of a layer; ``bits``, ``threshold_levels``, ``initial_range`` and ``range_tracking`` are those of the multi-bit
    spike, ``gated_range`` and ``gated_threshold_levels`` are those of the gated neurons, whose membrane accumulates
    what it has not fired; ``longest`` is the most tokens of a sentence.
    """

    vocabulary: int
    width: int = 256
    encoder_layers: int = 3
    decoder_layers: int = 3
    kernel: int = 3
    heads: int = 4
    mixer: str = "input-gated-lif"
    bits: int = 4
    threshold_levels: int = 0
    initial_range: float = 2.0
    gated_range: float = 2.0
    gated_threshold_levels: int = 0
    range_tracking: str = "fixed"
    dropout: float = 0.1
    longest: int = 256

    def __post_init__(self):
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}; got {self.mixer!r}")
        at_least_one(self, "vocabulary", "width", "encoder_layers", "decoder_layers", "kernel", "heads", "longest")
        if self.width % (2 * self.heads):
            raise ValueError(f"width must divide into {self.heads} heads and two directions; got {self.width}")

    def stream_spikes(self) -> StreamSpikes:
        return StreamSpikes(self.width, self.mixer, spike_options(self))

    def mixing(self, causal: bool) -> SpikingMixer | RecurrentMixer:
        """The mixer of the tokens in a layer; if it is not ``causal``, it also sees later tokens."""
        if self.mixer in RECURRENT:
            return RecurrentMixer(self.width, self.width, self.mixer, 1 if causal else 2)
        gated = {"initial_range": self.gated_range, "threshold_levels": self.gated_threshold_levels}
        spike = spike_options(self, **gated)
        return SpikingMixer(self.width, self.width, self.kernel, self.mixer, spike, causal)


class EncoderLayer(nn.Module):
    def __init__(self, config: TranslatorConfig):
        super().__init__()
        self.spikes = config.stream_spikes()
        self.mixer = config.mixing(causal=False)
        self.output = Linear(self.mixer.outputs, config.width, bias=False)
        self.dropout = SequenceDropout(config.dropout)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        s, _ = self.spikes(h, mask=mask)
        y, _ = self.mixer(self.dropout(s), mask=mask)
        return h + self.dropout(self.output(y))

    def lower(self, program: Program, h: Buffer) -> Buffer:
        s = program.lower(self.spikes, h, causal=False)
        return program.lower(self.output, program.lower(self.mixer, s), h)


class Attention(RowGroups):
    """Scaled dot-product attention from the decoder's spikes to the encoder's, without an output product."""

    def __init__(self, config: TranslatorConfig, queries: int):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query = Linear(queries, config.width, bias=False)
        self.key_value = Linear(config.width, 2 * config.width, bias=False)

    def memory(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's spikes ``[S, B, N]``, each ``[B, heads, S, N / heads]``."""
        split = self.key_value(e).unflatten(-1, (2, self.heads, -1))
        key, value = split.permute(2, 1, 3, 0, 4).unbind(0)
        return key, value

    def lower(self, program: Program, y: tuple[Spikes, ...], layer: int) -> Buffer:
        """Write the attention of the ``layer``-th layer; its memory is in the program's context."""
        return program.attention(program.lower(self.query, y), self.heads, layer)

    def forward(self, y: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Context ``[T, B, N]`` for ``y [T, B, ...]``; ``mask [B, 1, 1, S]`` is True at the tokens.

        In a search B is k hypotheses per sentence, side by side, over the keys and values of the sentence.
        """
        query = self.query(y).unflatten(-1, (self.heads, -1)).unflatten(1, (len(key), -1))  # [T, B, k, heads, ...]
        steps, _, k = query.shape[:3]
        query = query.permute(1, 3, 0, 2, 4).flatten(2, 3)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(self.in_groups(query), key, value, attn_mask=mask, dropout_p=dropout)
        return first_rows(context, steps * k).unflatten(2, (steps, k)).permute(2, 0, 3, 1, 4).flatten(-2).flatten(1, 2)


class DecoderLayer(nn.Module):
    def __init__(self, config: TranslatorConfig):
        super().__init__()
        self.spikes = config.stream_spikes()
        self.mixer = config.mixing(causal=True)
        self.attention = Attention(config, self.mixer.outputs)
        self.context_spikes = config.stream_spikes()
        self.output = Linear(self.mixer.outputs + config.width, config.width, bias=False)
        self.dropout = SequenceDropout(config.dropout)

    def forward(self, h: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor, state: Any) -> tuple[Tensor, Any]:
        stream, mixed, context = (None, None, None) if state is None else state
        s, stream = self.spikes(h, stream)
        y, mixed = self.mixer(self.dropout(s), mixed)
        z, context = self.context_spikes(self.attention(y, *memory, mask), context)
        h = h + self.dropout(self.output(torch.cat([y, z], dim=-1)))
        return h, (stream, mixed, context)

    def lower(self, program: Program, h: Buffer, layer: int) -> Buffer:
        """Write it as the ``layer``-th layer of the decoder."""
        y = program.lower(self.mixer, program.lower(self.spikes, h, causal=True))
        z = program.lower(self.context_spikes, program.lower(self.attention, y, layer), causal=True)
        return program.lower(self.output, (*y, z), h)


class Context(NamedTuple):
    """The memory of a batch of source sentences: keys and values per decoder layer, and the mask ``[B, 1, 1, S]``."""

    memories: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor


class Translation(NamedTuple):
    """A translation and its score, from :meth:`Translator.translate_scored`."""

    text: str
    score: float


@register_architecture("translator")
class Translator(RowGroups, Precise["TranslatorPrograms"]):
    """Sequence-to-sequence network with its tokenizer: ``translate`` takes sentences and returns sentences.

    Called on token ids ``source [S, B]`` and ``target [T, B]`` (padded with 0) it returns the logits of the token
    after each target token ``where [T, B]`` is True, ``[tokens, vocabulary]``.
    """

    task = "translation"
    parts: ClassVar = {
        "embedding": ("embedding",),  # of both languages, and of the words that are put out
        "encoder": ("encoder", "encoder_spikes"),
        "decoder": ("decoder", "decoder_spikes", "output_bias"),
    }

    def __init__(self, config: TranslatorConfig, tokenizer: Tokenizer):
        super().__init__()
        check_size(tokenizer, config.vocabulary)
        self.typed_config, self.reader = config, TextReader(tokenizer, SPECIAL_TOKENS, "sentence")
        self.embedding = nn.Embedding(config.vocabulary, config.width, padding_idx=PAD)
        self.encoder = nn.ModuleList([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.encoder_spikes = config.stream_spikes()
        self.decoder = nn.ModuleList([DecoderLayer(config) for _ in range(config.decoder_layers)])
        self.decoder_spikes = config.stream_spikes()
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.dropout = SequenceDropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)

    @property
    def config(self) -> dict[str, Any]:
        """All that is needed to rebuild this network, except its assets."""
        return asdict(self.typed_config)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.reader.tokenizer

    def assets(self) -> dict[str, bytes]:
        """The tokenizer, as a file to be saved with the weights."""
        return {TOKENIZER_FILE: self.tokenizer.to_str(pretty=True).encode()}

    @classmethod
    def from_config(cls, config: dict[str, Any], assets: dict[str, bytes]) -> "Translator":
        return cls(TranslatorConfig(**config), read_tokenizer(assets[TOKENIZER_FILE], SPECIAL_TOKENS))

    def embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.embedding(tokens) * self.typed_config.width**0.5)

    def encode(self, source: Tensor) -> Context:
        """What the decoder knows of ``source [S, B]``: the context for :meth:`scan`.

        Keys are padded to whole groups, so that attention sums in the same order whatever S the batch has. Its softmax
        sums in vectors of at most 16 numbers; a product with more than 128 values may be computed in two parts.
        """
        tokens, group = source != PAD, 16 if len(source) <= 128 else 256
        mask = tokens.unsqueeze(-1).to(self.embedding.weight.dtype)
        h = self.embed(source)
        for layer in self.encoder:
            h = layer(h, mask)
        e, _ = self.encoder_spikes(h, mask=mask)
        e = self.dropout(e)
        memories = []
        for layer in self.decoder:
            key, value = cast(DecoderLayer, layer).attention.memory(e)
            memories.append((self.in_groups(key, group), self.in_groups(value, group)))
        return Context(tuple(memories), self.in_groups(tokens, group).T[:, None, None, :])

    def scan(self, target: Tensor, state: Any, context: Context) -> tuple[Tensor, Any]:
        """Last layer's spikes ``[T, B, N]`` for the tokens of ``target [T, B]``, and the state for the next tokens."""
        *layers, last = [None] * (len(self.decoder) + 1) if state is None else state
        h = self.embed(target)
        after = []
        for layer, keys_values, before in zip(self.decoder, context.memories, layers):
            h, layer_state = layer(h, keys_values, context.mask, before)
            after.append(layer_state)
        s, last = self.decoder_spikes(h, last)
        return self.dropout(s), (*after, last)

    def logits(self, s: Tensor) -> Tensor:
        """Scores of the next token from the spikes of the decoder's last layer; the weights are the embedding's."""
        return self.product(s, self.embedding.weight, self.output_bias)

    def forward(self, source: Tensor, target: Tensor, where: Tensor) -> Tensor:
        return self.logits(self.scan(target, None, self.encode(source))[0][where])

    def most_tokens(self, source: Tensor) -> Tensor:
        """The most tokens ``[B]`` of a translation of each column of ``source [S, B]``, the end token included."""
        return (source != PAD).sum(0) * 3 // 2 + 10

    @torch.inference_mode()
    def search(self, source: Tensor, beam_size: int, length_penalty: float) -> list[Hypothesis]:
        """The best translation found for each column of ``source [S, B]``."""

        def next_tokens(tokens: np.ndarray, state: Any, context: Context, count: int) -> tuple[Likely, Any]:
            s, state = self.scan(torch.from_numpy(tokens).to(source.device).unsqueeze(0), state, context)
            logits = self.logits(s[0])
            logits[:, NEVER] = float("-inf")
            logits = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
            return most_likely(logits, count), state

        longest, programs = self.most_tokens(source).cpu().numpy(), self.programs()
        if programs is not None:
            return beam_search(*programs.reading(source), longest, beam_size, length_penalty, BEGIN, END)
        context = self.encode(source)
        with neurons.unchanging(self):
            return beam_search(next_tokens, context, longest, beam_size, length_penalty, BEGIN, END)

    def lower(self) -> "TranslatorPrograms":
        encoder, decoder = Program(self), Program(self)
        h = encoder.embedding(self.embedding.weight, self.typed_config.width**0.5)
        for layer in self.encoder:
            h = encoder.lower(layer, h)
        e = encoder.lower(self.encoder_spikes, h, causal=False)
        memories = [encoder.lower(cast(DecoderLayer, layer).attention.key_value, (e,)) for layer in self.decoder]
        h = decoder.embedding(self.embedding.weight, self.typed_config.width**0.5)
        for place, layer in enumerate(self.decoder):
            h = decoder.lower(layer, h, place)
        bias = self.output_bias.detach().clone()
        bias[NEVER] = float("-inf")
        decoder.best(decoder.lower(self.decoder_spikes, h, causal=True), self.embedding.weight, bias)
        return TranslatorPrograms(encoder.finish(), memories, decoder.finish())

    def translate(
        self, sentences: list[str], beam_size: int = 5, length_penalty: float = 1.4, batch_size: int = 64
    ) -> list[str]:
        """Translate each sentence; the result depends neither on other sentences in the list nor on ``batch_size``.

        ``beam_size`` 1 is greedy search; to compare hypotheses, their log-probability is divided by their length to the
        power ``length_penalty``; ``batch_size`` is the most sentences computed at once. It may be called in training
        mode, and from several threads at once. Raises TypeError for anything but a list of strings, and ValueError for
        an option out of its interval and, with the sentence's place, for text that is empty, too long, in a script the
        model has never seen, or without a word that it knows.
        """
        return [found.text for found in self.translate_scored(sentences, beam_size, length_penalty, batch_size)]

    def translate_scored(
        self, sentences: list[str], beam_size: int = 5, length_penalty: float = 1.4, batch_size: int = 64
    ) -> list[Translation]:
        """Like :meth:`translate`, each with its score: the mean log-probability of its tokens, including the end token.

        Scores of sentences of any length can be compared: 0 is certain, and ``exp(score)`` is the geometric mean of the
        probabilities. A low score means that the model is unsure of its translation, for example if the input is not a
        sentence, or of a kind that it was not trained on. A score does not reveal every mistake.
        """
        beam_size, length_penalty = self._search_options(beam_size, length_penalty)
        batch_size = min(whole_number("batch_size", batch_size, 1), max(1, HYPOTHESES // beam_size))
        encoded, device = self._encoded(sentences), self.embedding.weight.device
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        results = [Translation("", 0.0)] * len(encoded)
        with evaluation_view(self) as network:
            for first in range(0, len(order), batch_size):
                places = order[first : first + batch_size]
                batch = pad([encoded[i] for i in places]).to(device)
                for place, found in zip(places, network.search(batch, beam_size, length_penalty)):
                    results[place] = Translation(self.tokenizer.decode(found.tokens), found.score)
        return results

    def _search_options(self, beam_size: Any, length_penalty: Any) -> tuple[int, float]:
        return (
            whole_number("beam_size", beam_size, 1, self.typed_config.vocabulary),
            number("length_penalty", length_penalty, 0, LARGEST_PENALTY),
        )

    @torch.inference_mode()
    def explained(self, sentence: str, beam_size: int = 5, length_penalty: float = 1.4) -> Explanation:
        """What :func:`zoo.explain` shows of one sentence: all spikes, and how sure the network is of each token.

        The encoder's steps are the tokens that were read, the decoder's those that were written: each is the token that
        a step led to.
        """
        beam_size, length_penalty = self._search_options(beam_size, length_penalty)
        (read,) = self._encoded([sentence])
        device = self.embedding.weight.device
        source = pad([read]).to(device)
        with evaluation_view(self) as network:
            (found,) = network.search(source, beam_size, length_penalty)
            written = [*found.tokens, END]
            target = torch.tensor([BEGIN, *written[:-1]], device=device).unsqueeze(1)
            with watched(network.spiking_layers()) as levels:
                logits = network(source, target, torch.ones_like(target, dtype=torch.bool)).float()
        names = [Axis(self.reader.names(tokens)) for tokens in (read, written)]
        chances = logits.softmax(-1).gather(1, torch.tensor(written, device=device).unsqueeze(1)).cpu()
        strips = [strip for name, one in levels.items() for strip in spike_strips({name: one}, names[name[0] == "d"])]
        sure = Strip("probability of each token that was written", "curves", chances, names[1], ("written",))
        return Explanation(self.tokenizer.decode(found.tokens), [*strips, sure])

    def spiking_layers(self) -> Layers:
        """The modules that put out spikes, each with a neuron that fires its levels."""
        found: Layers = {}
        for name, module in self.named_modules():
            if isinstance(module, StreamSpikes) and module.neuron is not None:
                found[name] = module, module.neuron
            elif isinstance(module, SpikingMixer) and len(module.neurons):
                found[name] = module, module.neurons[0]
        return found

    def check(self, sentence: str, where: str = "the sentence") -> None:
        """Raise ValueError or TypeError, beginning with ``where``, for a sentence that could not be translated."""
        self._check(sentence, self.reader.ids([normal(sentence, where)])[0], where)

    def _check(self, text: str, ids: list[int], where: str) -> None:
        letters = [c for c in normal(text, where).lower() if c.isalpha()]
        if 2 * sum(c not in self.reader.alphabet for c in letters) > len(letters):
            raise ValueError(f"{where} is not in a script this model has seen: {text[:SHOWN]!r}")
        self.reader.check_known(text, ids, self.reader.visible, where)
        longest = self.typed_config.longest - 1
        if len(ids) > longest:
            raise ValueError(f"{where} has {len(ids)} tokens and the model takes at most {longest}; split it")

    def _encoded(self, sentences: list[str]) -> list[list[int]]:
        """The token ids of each sentence with its end, or the error that says what is wrong with one."""
        encoded = self.reader.ids(sentences)
        for place, (text, ids) in enumerate(zip(sentences, encoded)):
            self._check(text, ids, f"sentence {place}")
        return [[*ids, END] for ids in encoded]


class TranslatorPrograms(NamedTuple):
    """A translator in integers: its encoder, the keys and values per decoder layer, and one step of its decoder."""

    encoder: Executor
    memories: list[Buffer]
    decoder: Executor

    def reading(self, source: Tensor) -> tuple[NextTokens, np.ndarray]:
        """The arguments of a search for ``source [S, B]``: its ``next_tokens`` and ``memory``, one row per sentence."""
        tokens = source.cpu().numpy()
        lengths = (tokens != PAD).sum(0)
        steps, batch = tokens.shape
        keys = -(-steps // KEYS) * KEYS
        memory = np.zeros((len(self.memories), batch, 2, self.memories[0].width // 2 * keys), np.float32)
        for first in range(0, batch, READ_AT_ONCE):
            few = slice(first, first + READ_AT_ONCE)
            self._read(tokens[: lengths[few].max(), few], lengths[few], memory[:, few], keys)
        attended = self.decoder.moved(memory)

        def next_tokens(tokens: np.ndarray, state: Any, sources: np.ndarray, count: int) -> tuple[Likely, Any]:
            rows = sources.repeat(len(tokens) // len(sources))
            context = EngineContext(attended, keys, rows, lengths)
            after = self.decoder.run(tokens[None], lengths, state, context, count)
            return Likely(after.values, after.places), after.state

        return next_tokens, np.arange(batch)

    def _read(self, tokens: np.ndarray, lengths: np.ndarray, memory: np.ndarray, keys: int) -> None:
        """Fill ``memory [layers, B, 2, N * keys]`` with the keys and values of ``tokens [S, B]``."""
        steps, batch = tokens.shape
        result = self.encoder.run(tokens, lengths)
        for layer, buffer in enumerate(self.memories):
            found = np.split(part(buffer, result, steps, batch), 2, axis=-1)
            memory[layer, :, 0].reshape(batch, -1, keys)[..., :steps] = found[0].transpose(1, 2, 0)
            memory[layer, :, 1].reshape(batch, keys, -1)[:, :steps] = found[1].transpose(1, 0, 2)


def pad(sequences: list[list[int]]) -> Tensor:
    """Token ids as ``[T, B]`` on the CPU, padded at the end."""
    rows = [torch.tensor(sequence, dtype=torch.long, device="cpu") for sequence in sequences]
    return nn.utils.rnn.pad_sequence(rows, padding_value=PAD)

"""What ``benchmarks.inference`` compares: networks as their users call them, from text or events to the answer.

Each is built from its name, so that it can be built in a process of its own (:mod:`benchmarks.process`). All have the
same methods: ``use_threads``, ``work`` (do a job), and ``steps`` (how many steps of the network that is).

**The same work.** Of the translators, ours and the Transformer could end a sentence where they like. So END is
forbidden, and every hypothesis has as many tokens as :attr:`Size.tokens` says.

**Dynamic quantisation** by torch knows neither our ``Linear``, a subclass of its own, nor a product with the weight of
an embedding, which is the largest product of a translator. :class:`QuantisedTwin` makes both of them layers that it
knows, so that all products of a twin but those of attention are computed with weights of eight bits.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

import zoo
from benchmarks.contenders import Unavailable
from benchmarks.translation import made_up_pairs
from neurons.neuron import MultiBitNeuron
from recipes import gesture_simulator, multi30k
from zoo.engine.precision import set_precision
from zoo.engine.program import NotInIntegers
from zoo.inputs import audio
from zoo.inputs.events import Events
from zoo.networks.gesture import GestureConfig, GestureNetwork
from zoo.networks.layers import Linear, RowGroups
from zoo.networks.mixers import RECURRENT
from zoo.networks.sentiment import TextClassifier
from zoo.networks.speech import SpeechConfig, SpeechRecogniser
from zoo.networks.translation import END, SPECIAL_TOKENS, Translator, TranslatorConfig, pad

PENALTY = 1.4
"""The length penalty of a search."""
INNER = 4
"""The width of a Transformer's inner layers, in widths."""
OURS_INT8, OURS_FLOAT = "ours, int8", "ours, float32"
LSTM, TRANSFORMER = "LSTM twin, float32", "Transformer, CTranslate2, int8"
TRANSLATORS = (OURS_INT8, OURS_FLOAT, LSTM, "LSTM twin, int8", "GRU twin, float32", "GRU twin, int8", TRANSFORMER)


class Job(NamedTuple):
    """The first ``items`` sentences, texts or frames."""

    name: str
    items: int
    batch_size: int = 1
    beam_size: int = 1


class Firing(NamedTuple):
    """How the neurons of a translator fire: with this threshold, and with ranges that are wider than its own."""

    threshold_levels: int
    wider: float = 1.0


class Size(NamedTuple):
    """The networks: the bundled models and their twins, or tiny ones."""

    quick: bool = False
    tokens: int = 14
    """Tokens of a translation, about as many as a caption of Multi30k has."""
    frames: int = 32
    words: int = 230
    """Words of a text, as in a review of IMDb."""
    seconds: int = 10
    """Seconds of speech."""


# ---- Translation ----


def translator(size: Size, name: str = "lite-snn-multi30k") -> Translator:
    """Our translator of this name or folder, made to translate to ``size.tokens`` tokens."""
    if size.quick:
        tokenizer = multi30k.train_tokenizer(made_up_pairs(100), 200)
        config = TranslatorConfig(tokenizer.get_vocab_size(), 32, encoder_layers=1, decoder_layers=1)
        torch.manual_seed(0)
        model = Translator(config, tokenizer).eval()
    else:
        model = zoo.load(name)
    return never_ending(model, size.tokens)


def never_ending(model: Translator, tokens: int) -> Translator:
    """``model``, changed to translate every sentence to this many tokens."""
    with torch.no_grad():
        model.output_bias[END] = -1e4
    model.most_tokens = functools.partial(_all_of, tokens)
    return model


def _all_of(tokens: int, source: Tensor) -> Tensor:
    return torch.full((source.shape[1],), tokens)


def twin(model: Translator, mixer: str, tokens: int, kind: type[Translator] = Translator) -> Translator:
    """A twin of ``model`` with random weights."""
    torch.manual_seed(0)
    other = kind(dataclasses.replace(model.typed_config, mixer=mixer), model.tokenizer).eval()
    other.precision = "float32"
    return never_ending(fast(other), tokens)


def fast(twin: Any) -> Any:
    """``twin`` without the rows that it adds so that a result does not depend on the batch."""
    for module in twin.modules():
        if isinstance(module, RowGroups):
            module.adds_rows = False
    return twin


class QuantisedTwin(Translator):
    """A twin whose products with the embedding's weight are a layer, as torch's quantisation wants it."""

    def quantise(self) -> "QuantisedTwin":
        """Quantise it by torch."""
        self.output = Linear(self.typed_config.width, self.typed_config.vocabulary)
        self.output.weight, self.output.bias = self.embedding.weight, self.output_bias
        for module in list(self.modules()):
            for name, part in module.named_children():
                if isinstance(part, Linear):
                    setattr(module, name, plain(part))
        return quantised(self, {nn.Linear, *RECURRENT.values()})

    def logits(self, s: Tensor) -> Tensor:
        return self.output(s)


def plain(layer: Linear) -> nn.Linear:
    """The same layer of torch, which does not add rows."""
    outputs, inputs = layer.weight.shape
    made = nn.Linear(inputs, outputs, layer.bias is not None)
    made.weight, made.bias = layer.weight, layer.bias
    return made.eval()


def quantised(network: nn.Module, kinds: set[type[nn.Module]]) -> Any:
    """``network`` with these layers' weights in eight bits and their inputs quantised in every call, by torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to move this to another library
        return torch.ao.quantization.quantize_dynamic(network, kinds, torch.qint8, inplace=True)


class OfTorch:
    """One of our networks or its twins."""

    def __init__(self, model: Any, precision: str = "float32"):
        set_precision(model, precision)
        self.model, self.precision = model, precision
        self.use_threads(1)

    def use_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def check(self) -> None:
        """Raise RuntimeError if it did not compute as it is called."""
        ran = getattr(self.model, "last_precision", self.precision)
        if ran != self.precision:
            raise RuntimeError(f"it was to compute in {self.precision} and computed in {ran}")

    def spike_rate(self, job: Job) -> float:
        """The share of the multi-bit neurons' outputs in a job that are not zero, counted in floats."""
        counted = torch.zeros(2, dtype=torch.long)

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            counted[0] += int(torch.count_nonzero(output[0]))
            counted[1] += output[0].numel()

        spiking = (module for module in self.model.modules() if isinstance(module, MultiBitNeuron))
        hooks = [neuron.register_forward_hook(count) for neuron in spiking]
        own, self.precision = self.precision, "float32"
        set_precision(self.model, self.precision)
        self.work(job)
        for hook in hooks:
            hook.remove()
        self.precision = own
        set_precision(self.model, own)
        return int(counted[0]) / int(counted[1])


class TorchTranslator(OfTorch):
    def __init__(self, model: Translator, sentences: list[str], precision: str):
        super().__init__(model, precision)
        self.sentences = sentences
        spiking = (module for module in model.modules() if isinstance(module, MultiBitNeuron))
        self.ranges = {neuron: neuron.spike_range.value() for neuron in spiking}
        self.firing: Firing | None = None

    def outputs(self, job: Job) -> list[str]:
        return self.model.translate(self.sentences[: job.items], job.beam_size, PENALTY, job.batch_size)

    def work(self, job: Job) -> None:
        self.outputs(job)
        self.check()

    def steps(self, job: Job) -> int:
        """The number of tokens of all translations."""
        source = pad(self.model._encoded(self.sentences[: job.items]))
        return sum(len(found.tokens) for found in self.model.search(source, job.beam_size, PENALTY))

    def fire(self, firing: Firing) -> None:
        """Let the neurons fire so; nothing changes if they do already."""
        if firing != self.firing:
            self.firing = firing
            for neuron, own in self.ranges.items():
                neuron.spike_range.current.copy_(firing.wider * own)
                neuron.threshold_levels = firing.threshold_levels

    def work_at(self, firing: Firing, job: Job) -> None:
        self.fire(firing)
        self.work(job)

    def spike_rate_at(self, firing: Firing) -> float:
        """The spike rate in translations one at a time."""
        self.fire(firing)
        return self.spike_rate(Job("", 8))


class Transformer:
    """A Transformer of the translator's width, layers, heads and vocabulary, with random weights, in CTranslate2."""

    def __init__(self, config: TranslatorConfig, tokenizer: Tokenizer, tokens: int, sentences: list[str]):
        if not importlib.util.find_spec("ctranslate2"):
            raise Unavailable("ctranslate2 is not installed; install it with: pip install ctranslate2")
        self.tokenizer, self.tokens, self.sentences = tokenizer, tokens, sentences
        self.folder = tempfile.TemporaryDirectory()
        write_transformer(config, tokenizer, Path(self.folder.name))
        self.use_threads(1)

    def use_threads(self, threads: int) -> None:
        import ctranslate2

        options = {"device": "cpu", "compute_type": "int8", "inter_threads": 1, "intra_threads": threads}
        self.translator = ctranslate2.Translator(self.folder.name, **options)

    def _results(self, job: Job) -> list[Any]:
        encoded = self.tokenizer.encode_batch(self.sentences[: job.items])
        source = [[*sentence.tokens, SPECIAL_TOKENS[END]] for sentence in encoded]
        return self.translator.translate_batch(
            source, max_batch_size=job.batch_size, beam_size=job.beam_size, length_penalty=PENALTY,
            min_decoding_length=self.tokens, max_decoding_length=self.tokens,
        )  # fmt: skip

    def outputs(self, job: Job) -> list[str]:
        found = (result.hypotheses[0] for result in self._results(job))
        return [self.tokenizer.decode([self.tokenizer.token_to_id(token) for token in tokens]) for tokens in found]

    def work(self, job: Job) -> None:
        self.outputs(job)

    def steps(self, job: Job) -> int:
        """The number of tokens of all translations."""
        return sum(len(result.hypotheses[0]) for result in self._results(job))


def write_transformer(config: TranslatorConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a Transformer with random weights, quantised to eight bits, in CTranslate2's format."""
    import ctranslate2

    draw, width = np.random.default_rng(0), config.width
    layers = config.encoder_layers, config.decoder_layers
    spec = ctranslate2.specs.TransformerSpec.from_config(layers, config.heads, pre_norm=True)

    def linear(part: Any, outputs: int, inputs: int = width) -> None:
        part.weight = draw.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
        part.bias = np.zeros(outputs, np.float32)

    def norm(part: Any) -> None:
        part.gamma, part.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    def attention(part: Any, *outputs: int) -> None:
        norm(part.layer_norm)
        for layer, count in zip(part.linear, outputs, strict=True):
            linear(layer, count)

    for side in (spec.encoder, spec.decoder):
        embeddings = side.embeddings[0] if side is spec.encoder else side.embeddings
        embeddings.weight = draw.normal(0, width**-0.5, (config.vocabulary, width)).astype(np.float32)
        side.scale_embeddings = True
        norm(side.layer_norm)
        for layer in side.layer:
            attention(layer.self_attention, 3 * width, width)
            if side is spec.decoder:
                attention(layer.attention, width, 2 * width, width)
            norm(layer.ffn.layer_norm)
            linear(layer.ffn.linear_0, INNER * width)
            linear(layer.ffn.linear_1, width, INNER * width)
    linear(spec.decoder.projection, config.vocabulary)
    tokens = [tokenizer.id_to_token(place) for place in range(config.vocabulary)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(folder))


def build_translator(name: str, size: Size, sentences: list[str]) -> TorchTranslator | Transformer:
    """One of :data:`TRANSLATORS`."""
    ours = translator(size)
    if name in (OURS_INT8, OURS_FLOAT):
        return TorchTranslator(ours, sentences, name.removeprefix("ours, "))
    if name == TRANSFORMER:
        return Transformer(ours.typed_config, ours.tokenizer, size.tokens, sentences)
    mixer, kind = name[:4].strip().lower(), QuantisedTwin if name.endswith("int8") else Translator
    made = twin(ours, mixer, size.tokens, kind)
    return TorchTranslator(made.quantise() if isinstance(made, QuantisedTwin) else made, sentences, "float32")


def made_up_sentences(tokenizer: Tokenizer, count: int) -> list[str]:
    """Sentences of 9 to 15 words, each of them one token, as a caption has."""
    chance, words = random.Random(0), whole_words(tokenizer)
    return [" ".join(chance.choices(words, k=chance.randint(9, 15))) for _ in range(count)]


def whole_words(tokenizer: Tokenizer) -> list[str]:
    """The words that are one token."""
    words = (tokenizer.decode([place]) for place in range(len(SPECIAL_TOKENS), tokenizer.get_vocab_size()))
    return [word for word in words if word.isalpha() and len(tokenizer.encode(word).ids) == 1]


def compile_kernels(build: Callable, names: tuple[str, ...], arguments: tuple, job: Job) -> None:
    """Use our networks among ``names`` once. Compiled kernels are kept in files; compiling them takes much memory."""
    for name in names:
        if name in (OURS_INT8, OURS_FLOAT):
            with contextlib.suppress(NotInIntegers):
                build(name, *arguments).work(job)


# ---- Gestures and sentiment ----

GESTURES = (OURS_INT8, OURS_FLOAT, "convolutional GRU twin, float32", "convolutional GRU twin, int8")
TEXTS = (OURS_INT8, OURS_FLOAT, "LSTM twin in both directions, float32", "LSTM twin in both directions, int8")


class Gestures(OfTorch):
    """A stream of events, which come in frame by frame."""

    def __init__(self, model: GestureNetwork, frames: int, precision: str):
        super().__init__(model, precision)
        self.slices = slices(gesture_simulator.example("hand clapping"), model.typed_config.bin_size, frames)

    def work(self, job: Job) -> None:
        stream = self.model.stream()
        for events in self.slices[: job.items]:
            stream.push(events)
        stream.answer()
        self.check()

    def steps(self, job: Job) -> int:
        """The number of frames."""
        stream = self.model.stream()
        return sum(stream.push(events) for events in self.slices[: job.items])


def slices(events: Events, microseconds: int, count: int) -> list[Events]:
    """The events of the first ``count`` frames; the last event of each is the one that completes its frame."""
    ends = np.searchsorted(events.t, events.t[0] + microseconds * np.arange(1, count + 1)) + 1
    return [events[start:end] for start, end in zip([0, *ends], ends)]


def build_gestures(name: str, size: Size) -> Gestures:
    """One of :data:`GESTURES`."""
    if size.quick:
        torch.manual_seed(0)
        labels = ["clapping", "other"]
        model = GestureNetwork(GestureConfig(labels, pool=8, channels=4, blocks=2, head=4)).eval()
    else:
        model = zoo.load("lite-snn-dvs-gesture")
    if not name.startswith("ours"):
        if name.endswith("int8"):
            raise Unavailable("torch has no dynamic quantisation of convolutions")
        torch.manual_seed(0)
        model = fast(GestureNetwork(dataclasses.replace(model.typed_config, mixer="convgru")).eval())
    return Gestures(model, size.frames, precision_of(name))


class Texts(OfTorch):
    """Texts of known words."""

    def __init__(self, model: TextClassifier, size: Size, precision: str):
        super().__init__(model, precision)
        chance, words = random.Random(0), whole_words(model.tokenizer)
        self.texts = [" ".join(chance.choices(words, k=size.words)) for _ in range(64)]

    def work(self, job: Job) -> None:
        self.model.classify(self.texts[: job.items])
        self.check()

    def steps(self, job: Job) -> int:
        """The number of tokens of all texts."""
        return sum(map(len, self.model.encode(self.texts[: job.items])))


def build_texts(name: str, size: Size) -> Texts:
    """One of :data:`TEXTS`."""
    model = zoo.load("lite-snn-imdb")
    if name.startswith("ours"):
        return Texts(model, size, precision_of(name))
    torch.manual_seed(0)
    config = dataclasses.replace(model.typed_config, mixer="bilstm")
    other = TextClassifier(config, model.tokenizer).eval()
    # The readout is left in floats: the network reads the type of its weight, which a quantised layer does not have.
    return Texts(quantised(other, {nn.LSTM}) if name.endswith("int8") else other, size, "float32")


# ---- Speech ----

SPHINX = "PocketSphinx, words"
LISTENERS = (OURS_INT8, OURS_FLOAT, LSTM, "LSTM twin, int8", SPHINX)
WHOLE, PIECES, FIRST = "whole recording", "pieces of 90 ms", "first answer, after 90 ms"
PIECE = 1440
"""Samples of a piece: 90 ms, three steps of the network."""


class Listener(OfTorch):
    """A recogniser of phones."""

    def __init__(self, model: SpeechRecogniser, samples: np.ndarray, precision: str):
        super().__init__(model, precision)
        self.samples = samples

    def work(self, job: Job) -> None:
        samples = self.samples[: job.items * audio.RATE]
        if job.name == WHOLE:
            self.model.transcribe(samples, rate=audio.RATE)
        else:
            stream = self.model.stream()
            for start in range(0, PIECE if job.name == FIRST else len(samples), PIECE):
                stream.push(samples[start : start + PIECE])
                stream.answer()
        self.check()

    def steps(self, job: Job) -> int:
        """The number of seconds."""
        return job.items


class Sphinx:
    """PocketSphinx, with the English model that comes with it; it finds words, with a trigram language model."""

    def __init__(self, samples: np.ndarray):
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise Unavailable("PocketSphinx is not installed: pip install pocketsphinx") from None
        self.decoder, self.samples = Decoder(loglevel="FATAL"), samples

    def use_threads(self, threads: int) -> None:
        """It has one."""

    def work(self, job: Job) -> None:
        samples = self.samples[: job.items * audio.RATE]
        self.decoder.start_utt()
        if job.name == WHOLE:
            self.decoder.process_raw(samples.tobytes(), False, True)
        else:
            for start in range(0, PIECE if job.name == FIRST else len(samples), PIECE):
                self.decoder.process_raw(samples[start : start + PIECE].tobytes(), False, False)
                self.decoder.hyp()
        self.decoder.end_utt()
        self.decoder.hyp()

    def steps(self, job: Job) -> int:
        return job.items


def samples_of(recording: Path | None, seconds: int) -> np.ndarray:
    """So many seconds of a recording (again from its beginning, if it is shorter), or of a sound that is made up.

    That is a voice without words: a buzz, whose strength rises and falls like syllables.
    """
    if recording is not None:
        found = np.round(audio.read_audio(recording) * (2**15 - 1)).astype(np.int16)
    else:
        time, noise = np.arange(seconds * audio.RATE) / audio.RATE, np.random.default_rng(0)
        buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 40))
        syllables = np.clip(np.sin(2 * np.pi * 2 * time), 0, None)
        found = np.round(4000 * syllables * buzz + noise.normal(0, 50, len(time))).astype(np.int16)
    return np.resize(found, seconds * audio.RATE)


def recogniser(size: Size, name: str = "improved-snn-librispeech") -> SpeechRecogniser:
    """Our recogniser of this name or folder."""
    if not size.quick:
        return zoo.load(name)
    torch.manual_seed(0)
    return SpeechRecogniser(SpeechConfig(bands=8, width=12, layers=2)).eval()


def build_listener(name: str, size: Size, recording: Path | None) -> Listener | Sphinx:
    """One of :data:`LISTENERS`."""
    samples = samples_of(recording, size.seconds)
    if name == SPHINX:
        return Sphinx(samples)
    model = recogniser(size)
    if name.startswith("ours"):
        return Listener(model, samples, precision_of(name))
    torch.manual_seed(0)
    other = fast(SpeechRecogniser(dataclasses.replace(model.typed_config, mixer="lstm")).eval())
    other.set_usual(model.usual_mean.numpy(), model.usual_deviation.numpy())
    # The readout is left in floats: the network reads the type of its weight, which a quantised layer does not have.
    return Listener(quantised(other, {nn.LSTM}) if name.endswith("int8") else other, samples, "float32")


def precision_of(name: str) -> str:
    return name.rpartition(" ")[2]

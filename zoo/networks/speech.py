"""Speech recognisers: log-mel features into layers of recurrent spiking neurons, and phones out of them by CTC.

A step is 30 ms of audio, or less, ``[T, B, F]`` (:mod:`zoo.inputs.audio`). Then::

    s = Q(a + x);  a = a + x - s                             the features as multi-bit spikes (PR22)
    f, c = batch norm(W s)                                    a few layers, each on the spikes of the one before
    s = recurrent-gated LIF(f, c)
    probabilities of the blank and of each phone = softmax(W s + b)

so that every weight takes spikes of a few bits. (Spikes are nearly all positive. Batch norm takes their mean out of the
currents, without which learning takes several times as long, and in use it is a factor and an offset per channel.)
Connectionist temporal classification (CTC; Graves et al., ICML 2006)
reads the phones: the most probable unit of each step, repeats joined, blanks left out. All memory is explicit state and
nothing looks ahead, so a recording that comes in piece by piece (:meth:`SpeechRecogniser.stream`) gives the same phones
as the whole of it.

``mixer`` names the neurons: ``recurrent-gated-lif`` as above; ``input-gated-lif``, without the recurrent product;
``multibit-synaptic-lif`` and ``multibit-lif``, whose memory fades by itself. In the twins ``lstm`` and ``gru`` it is a
recurrent network on the features as they are, with a layer norm behind each layer.

Source: Ponghiran and Roy, AAAI 2022, arXiv 2109.01905 (PR22).
"""

import copy
import itertools
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import neurons
from neurons.checks import check_values
from neurons.monitors import evaluation_view
from zoo.engine.precision import Precise
from zoo.engine.program import Buffer, Executor, NotInIntegers, Program, Spikes, State, part
from zoo.explaining import Axis, Explanation, Layers, Strip, spike_strips, watched
from zoo.inputs import audio
from zoo.networks.layers import Linear, SequenceDropout, at_least_one
from zoo.networks.mixers import RECURRENT, RecurrentRows, folded, spike_options
from zoo.networks.streaming import Stream, check_same_precision
from zoo.networks.words import BLANK, Word, WordSearch, search_in
from zoo.registry import register_architecture

GATED = ("recurrent-gated-lif", "input-gated-lif")
MIXERS = (*GATED, "multibit-synaptic-lif", "multibit-lif", *RECURRENT)
PHONES = re.findall(
    "[A-Z]+",
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH",
)
"""The phones of the CMU Pronouncing Dictionary, without stress."""
GATE_HORIZON = 8.0
"""Steps that the slowest gated neurons remember before training: about two phones."""
FEATURE_RANGE = 4.0
"""The range of the spikes that the features become: four of their usual deviations."""
Steps = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""``(features [T, B, F], state) -> (logits [T, B, 1 + labels], state)``; state None before the first step."""


@dataclass(frozen=True)
class SpeechConfig:
    """All that rebuilds a recogniser.

    ``labels`` are the phones. ``bands``, ``lowest``, ``highest``, ``stack`` and ``stride`` are those of the features
    (:class:`zoo.inputs.audio.FilterBank`). ``bits``, ``threshold_levels``, ``initial_range`` and ``range_tracking`` are
    those of the multi-bit spike. ``dropout`` has one mask for a whole sequence.
    """

    labels: list[str] = field(default_factory=lambda: list(PHONES))
    bands: int = 40
    lowest: float = 20.0
    highest: float = 5600.0
    stack: int = 3
    stride: int = 3
    width: int = 320
    layers: int = 3
    mixer: str = "recurrent-gated-lif"
    bits: int = 6
    threshold_levels: int = 3
    initial_range: float = 4.0
    range_tracking: str = "fixed"
    dropout: float = 0.2

    def __post_init__(self):
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}; got {self.mixer!r}")
        if not isinstance(self.labels, list | tuple) or not 1 <= len(set(self.labels)) == len(self.labels):
            raise ValueError(f"labels must be different phones, at least one; got {self.labels!r}")
        at_least_one(self, "width", "layers")
        self.filter_bank()

    def filter_bank(self) -> audio.FilterBank:
        return audio.FilterBank(self.bands, self.lowest, self.highest, self.stack, self.stride)

    def neuron(self) -> neurons.Neuron:
        """The neurons of a layer; a twin has none."""
        spike = spike_options(self)
        if self.mixer == "recurrent-gated-lif":
            return neurons.RecurrentGatedLIF(self.width, **spike)
        if self.mixer == "input-gated-lif":
            return neurons.InputGatedLIF(**spike)
        if self.mixer == "multibit-synaptic-lif":
            return neurons.MultiBitSynapticLIF(self.width, tau=torch.linspace(0.0, 0.9, self.width), **spike)
        return neurons.MultiBitLIF(leak=torch.linspace(0.0, 0.95, self.width), **spike)


class Phone(NamedTuple):
    """A phone that was heard: from when to when, in seconds, and its probability there."""

    name: str
    start: float
    end: float
    confidence: float


class Transcript(NamedTuple):
    """What was said: as text, how sure the network is (the mean probability of the phones), and each part of it.

    The text is that of the phones; of the words, if words were searched for.
    """

    text: str
    confidence: float
    phones: list[Phone]
    words: list[Word]


class CurrentNorm(nn.BatchNorm1d):
    """Batch norm of ``[T, B, N]``; in training, padding (where ``real [T, B]`` is False) takes no part and is 0."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        if real is None or not self.training:
            return super().forward(x.flatten(0, 1)).view_as(x)
        rows, places = x.flatten(0, 1), real.flatten().nonzero().squeeze(1)
        normed = super().forward(rows.index_select(0, places))  # a mask instead of places takes three times as long
        return torch.zeros_like(rows).index_copy(0, places, normed).view_as(x)


class SpikingLayer(nn.Module):
    """A product, batch norm and neurons, on ``[T, B, N]``."""

    def __init__(self, inputs: int, config: SpeechConfig):
        super().__init__()
        parts = 2 if config.mixer in GATED else 1
        self.product = Linear(inputs, parts * config.width, bias=False)
        self.norm = CurrentNorm(parts * config.width)
        self.neuron = config.neuron()
        if config.mixer in GATED:
            neurons.start_gates(self.norm.bias, GATE_HORIZON)

    def forward(self, x: Tensor, state: Any, real: Tensor | None) -> tuple[Tensor, Any]:
        return self.neuron(self.norm(self.product(x), real), state)

    def lower(self, program: Program, x: Spikes) -> Spikes:
        current = program.lower(self.product, (x,), norm=folded(self.norm, CurrentNorm))
        return program.neuron(self.neuron, current, keeps_state=True)


class RecurrentLayer(RecurrentRows):
    """LSTM or GRU, and a layer norm, on ``[T, B, N]``; its state is kept with the batch first, as all state is."""

    def __init__(self, inputs: int, config: SpeechConfig):
        super().__init__()
        self.network = RECURRENT[config.mixer](inputs, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, state: Any, real: Tensor | None) -> tuple[Tensor, Any]:
        y, state = self.run(self.network, x, state)
        return self.norm(y), state


@register_architecture("speech-recogniser")
class SpeechRecogniser(Precise["SpeechProgram"]):
    """Recogniser of phones: ``transcribe`` takes a recording and gives its phones.

    Called on features ``[T, B, F]`` and, in training, on the number of steps ``lengths [B]``, it returns the logits
    ``[T, B, 1 + labels]``, the blank first, computed in floats. It looks ahead nowhere: padding behind a recording does
    not change the logits before it. ``transcribe`` and :meth:`stream` run in its ``precision``.
    """

    architecture: ClassVar[str]
    usual_mean: Tensor
    usual_deviation: Tensor
    task = "automatic-speech-recognition"
    label_layers: ClassVar = {"output": 1}  # the blank comes first
    parts: ClassVar = {
        "features": ("usual_mean", "usual_deviation", "encoder"),
        "layers": ("layers",),
        "readout": ("output",),
    }

    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.typed_config, self.bank = config, config.filter_bank()
        self.register_buffer("usual_mean", torch.zeros(config.bands))
        self.register_buffer("usual_deviation", torch.ones(config.bands))
        sizes = itertools.chain([self.bank.size], itertools.repeat(config.width, config.layers - 1))
        if config.mixer in RECURRENT:
            self.encoder: nn.Module | None = None
            self.layers = nn.ModuleList(RecurrentLayer(size, config) for size in sizes)
        else:
            spike = spike_options(config, initial_range=FEATURE_RANGE, range_tracking="fixed")
            self.encoder = neurons.MultiBitLIF(leak=1.0, learn_leak=False, **spike)
            self.layers = nn.ModuleList(SpikingLayer(size, config) for size in sizes)
        self.dropout = SequenceDropout(config.dropout)
        self.output = Linear(config.width, 1 + len(config.labels))

    @property
    def config(self) -> dict[str, Any]:
        """All that rebuilds this network."""
        return asdict(self.typed_config)

    def assets(self) -> dict[str, bytes]:
        """None: the labels are part of the config."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], assets: dict[str, bytes]) -> "SpeechRecogniser":
        return cls(SpeechConfig(**config))

    def set_usual(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Let the running mean of the features begin at ``mean [bands]``, and divide by ``deviation [bands]``.

        Both are rounded to half precision, in which weights are saved.
        """
        for own, found in ((self.usual_mean, mean), (self.usual_deviation, deviation)):
            own.copy_(torch.as_tensor(found, dtype=torch.float32).half())

    def features(self) -> audio.FeatureStream:
        """The features of a recording that is yet to come."""
        check_values(self)
        mean, deviation = (part.float().cpu().numpy() for part in (self.usual_mean, self.usual_deviation))
        return audio.FeatureStream(self.bank, mean, deviation)

    def scan(self, x: Tensor, state: Any = None, real: Tensor | None = None) -> tuple[Tensor, Any]:
        """The logits ``[T, B, 1 + labels]`` of the features ``x [T, B, F]``, and the final state.

        In training ``real [T, B]`` says what is no padding.
        """
        first, *before = [None] * (1 + len(self.layers)) if state is None else state
        x, after = x.to(self.output.weight.dtype), []
        if self.encoder is not None:
            x, first = self.encoder(x, first)
        for layer, layer_state in zip(self.layers, before):
            x, layer_state = layer(x, layer_state, real)
            x = self.dropout(x)
            after.append(layer_state)
        return self.output(x), (first, *after)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        real = None if lengths is None else torch.arange(len(x), device=x.device).unsqueeze(1) < lengths.to(x.device)
        return self.scan(x, real=real)[0]

    def lower(self) -> "SpeechProgram":
        if self.encoder is None:
            raise NotInIntegers("it has no spikes")
        program = Program(self)
        x = program.neuron(self.encoder, program.given(self.bank.size), keeps_state=True)
        for layer in self.layers:
            x = program.lower(layer, x)
        logits = program.lower(self.output, (x,))
        return SpeechProgram(program.finish(), logits)

    def steps(self) -> Steps:
        """The network on some steps, in its precision, with the state explicit."""
        found = self.programs()
        if found is not None:
            return found.steps

        def in_floats(x: Tensor, state: Any) -> tuple[Tensor, Any]:
            check_same_precision(state, in_integers=False)
            return self.scan(x.to(self.output.weight.device), state)

        return in_floats

    def stream(self, rate: int = audio.RATE, words: str | Path | WordSearch | None = None) -> "SpeechStream":
        """A recording of ``rate`` samples per second, to be pushed piece by piece; ``words`` as in ``transcribe``."""
        return SpeechStream(self, rate, self.word_search(words))

    def word_search(self, words: str | Path | WordSearch | None) -> WordSearch | None:
        """The search for words: one that is ready, or that of a folder (:func:`zoo.networks.words.search_in`)."""
        if isinstance(words, str | Path):
            return search_in(Path(words), self.typed_config.labels)
        if words is not None and not isinstance(words, WordSearch):
            raise TypeError(f"words is a WordSearch, or a folder with a lexicon and a language model; got {words!r}")
        return words

    def transcribe(
        self, recording: Any, rate: int | None = None, words: str | Path | WordSearch | None = None
    ) -> Transcript:
        """What is said in one recording: the phones, with their times and probabilities, and the words if wanted.

        ``recording`` is an audio file, or an array of samples ``[N]`` or ``[N, channels]`` (int16, int32, or floating
        point in -1 to 1) with its ``rate``. ``words`` is a search for words (:class:`zoo.networks.words.WordSearch`),
        or a folder with a lexicon and a language model. Raises TypeError and ValueError for what is no audio, holds NaN
        or is shorter than a step of the network; errors of a file name it.
        """
        rate, blocks = audio.blocks(recording, rate)
        words = self.word_search(words)
        with audio.naming(recording):
            stream = SpeechStream(self, rate, words)
            for block in blocks:
                stream.push(block)
            return stream.answer()

    @torch.inference_mode()
    def explained(self, recording: Any, rate: int | None = None) -> Explanation:
        """What :func:`zoo.explain` shows of one recording: its log energies with the phones over them, all spikes, and
        the probabilities of the phones at each step."""
        samples = audio.streamed(recording, rate)
        with audio.naming(recording):
            answer = self.transcribe(samples, rate=audio.RATE)
        x = torch.from_numpy(self.features().push(samples)).unsqueeze(1).to(self.output.weight.device)
        with evaluation_view(self) as network, watched(network.spiking_layers()) as levels:
            chances = network.scan(x)[0][:, 0].float().softmax(-1).cpu()
        steps = Axis(seconds=self.bank.step_seconds)
        energies = torch.from_numpy(self.bank.frames(samples))
        marks = tuple(((phone.start + phone.end) / 2, phone.name) for phone in answer.phones)
        frames = Axis(seconds=self.bank.step_seconds / self.bank.stride)
        heard = Strip("log energies of the mel bands, and the phones", "picture", energies, frames, (), marks)
        names = tuple(dict.fromkeys(phone.name for phone in answer.phones))
        units = [1 + self.typed_config.labels.index(name) for name in names]
        forming = [Strip("probability of the phones", "picture", chances[:, units], steps, names)] if names else []
        return Explanation(answer, [heard, *spike_strips(levels, steps), *forming])

    def spiking_layers(self) -> Layers:
        """The neurons that fire, by name."""
        if self.encoder is None:
            return {}
        layers = {f"layers.{place}": layer.neuron for place, layer in enumerate(self.layers)}
        return {name: (neuron, neuron) for name, neuron in ({"encoder": self.encoder} | layers).items()}


class SpeechProgram(NamedTuple):
    """A recogniser in integers, and the buffer of its logits."""

    program: Executor
    logits: Buffer

    def steps(self, x: Tensor, state: Any) -> tuple[Tensor, State]:
        check_same_precision(state, in_integers=True)
        steps, batch = x.shape[:2]
        result = self.program.run(x.cpu().numpy(), np.full(batch, steps), state)
        return torch.from_numpy(part(self.logits, result, steps, batch).copy()), result.state


class SpeechStream(Stream):
    """A recording that is transcribed while it comes in: samples go in, the transcript so far comes out.

    The transcript depends on the samples alone and not on how they were cut. Of what is past, only the phones are kept;
    with a search for words, which begins anew in each ``answer``, also their log-probabilities.
    """

    def __init__(self, model: SpeechRecogniser, rate: int = audio.RATE, words: WordSearch | None = None):
        self.model, self.resampler, self.words = model, audio.Resampler(audio.check_rate(rate)), words
        self.features, self.state, self.path = model.features(), None, BestPath()
        self.log_probabilities: list[Tensor] = []
        """Those of each piece, if words are searched for."""

    def push(self, samples: Any) -> int:
        """Take the next samples; return how many steps they completed. Errors are those of ``transcribe``."""
        with self.resampler.push(audio.mono(samples)) as resampled:
            steps, features, state, path, found = self._after(resampled)
            if found is not None and self.words is not None:
                self.log_probabilities.append(found)
            self.features, self.state, self.path = features, state, path
        return steps

    @torch.inference_mode()
    def _after(self, resampled: np.ndarray) -> tuple[int, audio.FeatureStream, Any, "BestPath", Tensor | None]:
        """The number of new steps, what is remembered after them, and their log-probabilities; nothing is changed."""
        features, state, path, found = self.features.copy(), self.state, self.path, None
        steps = torch.from_numpy(features.push(resampled))
        if len(steps):
            with evaluation_view(self.model) as network:
                logits, state = network.steps()(steps.unsqueeze(1), state)
            found = logits[:, 0].float().log_softmax(-1).cpu()
            path = path.longer(found.exp())
        return len(steps), features, state, path, found

    def answer(self) -> Transcript:
        """The transcript so far, to the last sample; ValueError before the first step is complete."""
        _, features, _, path, found = self._after(self.resampler.tail())
        if not path.steps:
            raise ValueError(audio.too_short(features.samples, self.model.bank))
        seconds = self.model.bank.step_seconds
        heard = path.transcript(self.model.typed_config.labels, seconds)
        if self.words is None:
            return heard
        pieces = self.log_probabilities if found is None else [*self.log_probabilities, found]
        spoken = self.words.best(torch.cat(pieces), seconds)
        return heard._replace(text=spoken.text, words=spoken.words)

    def __getstate__(self) -> dict[str, Any]:
        own = {"resampler": copy.copy(self.resampler), "log_probabilities": [*self.log_probabilities]}
        return vars(self) | own


class Run(NamedTuple):
    """Steps in a row at which the same unit is the most probable: from ``start`` to before ``end``."""

    unit: int
    start: int
    end: int
    highest: float
    """The unit's highest probability there."""


BEGINNING = Run(BLANK, 0, 0, 0.0)


@dataclass(frozen=True)
class BestPath:
    """The most probable unit of each step so far, as CTC reads them: repeats joined, blanks left out."""

    past: tuple[Any, ...] = ()
    """The phones before the last run of a unit, as nested pairs: what was before, and the latest phone."""
    last: Run = BEGINNING
    blank: float = 0.0
    """The sum of the blank's probabilities."""

    @property
    def steps(self) -> int:
        return self.last.end

    def longer(self, probabilities: Tensor) -> "BestPath":
        """The path that goes on through ``probabilities [steps, units]``."""
        past, last, blank = self.past, self.last, self.blank
        highest, units = probabilities.max(-1)
        for unit, chance, other in zip(units.tolist(), highest.tolist(), probabilities[:, BLANK].tolist()):
            if unit == last.unit:
                last = Run(unit, last.start, last.end + 1, max(last.highest, chance))
            else:
                past = past if last.unit == BLANK else (past, last)
                last = Run(unit, last.end, last.end + 1, chance)
            blank += other
        return BestPath(past, last, blank)

    def runs(self) -> list[Run]:
        """The phones, in their order."""
        found, past = [self.last] if self.last.unit != BLANK else [], self.past
        while past:
            past, run = past
            found.append(run)
        return found[::-1]

    def transcript(self, labels: list[str], step_seconds: float) -> Transcript:
        """The phones by name and in seconds; the confidence without any is the blank's mean probability."""
        phones = [
            Phone(
                labels[run.unit - 1],
                round(run.start * step_seconds, 3),
                round(run.end * step_seconds, 3),
                round(run.highest, 4),
            )
            for run in self.runs()
        ]
        sure = sum(phone.confidence for phone in phones) / len(phones) if phones else self.blank / self.steps
        return Transcript(" ".join(phone.name for phone in phones), round(sure, 4), phones, [])

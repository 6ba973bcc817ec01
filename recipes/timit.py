"""Phones on TIMIT, from its hand alignments: train, resume, evaluate and compare recognisers.

The data is TIMIT in one of two layouts, in upper or lower case, with recordings in NIST SPHERE or WAV:

- LDC's own (LDC93S1): ``TRAIN/DR1/FCJF0/SA1.WAV`` and ``.PHN``, and ``TEST``. Trained is on TRAIN; ``val`` are the 50
  speakers of TEST that Kaldi's recipe names, ``test`` the 24 of the core test set.
- The sample that NLTK distributes, unpacked: ``dr1-fvmh0/sa1.wav`` and ``.phn``, 16 speakers of TRAIN. Six of them are
  held out: two for ``val``, four for ``test``, a woman and a man of each dialect.

The sentences SA1 and SA2, which everybody reads, are not used. The 61 phones are folded to 48 for training and to 39
for scores (Lee and Hon, IEEE Transactions on ASSP 37(11), 1989).

    python -m recipes.timit train --data TIMIT --run runs/timit --initial ./runs/spiking/best

A model to start from may know the phones of ``recipes.librispeech``: each of the 48 then starts from the nearest.
Checkpoints are chosen on ``val``; only ``measure`` uses the test set, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

import zoo
from recipes import command, librispeech, speech, training
from recipes.processes import WHOLE, Part
from recipes.recipe import Band
from recipes.speech import Batch, Example
from recipes.tune import fine_tune  # noqa: F401  (the same for all tasks; it can be found here too)
from zoo.inputs.audio import RATE, SHIFT_SAMPLES
from zoo.inputs.lines import texts_of
from zoo.networks.speech import PHONES as SPOKEN
from zoo.networks.speech import SpeechConfig, SpeechRecogniser
from zoo.options import number

SOURCE = "https://catalog.ldc.upenn.edu/LDC93S1, or the sample: python -m nltk.downloader -d FOLDER timit"
SPLITS = ("train", "val", "test")
IDENTICAL = (
    "aa ae ah ao aw ax ay b ch d dh dx eh el en epi er ey f g hh ih ix iy jh k l m n ng ow oy p r s sh t th uh uw v w "
    "y z zh"
)
FOLDED_48 = {phone: phone for phone in IDENTICAL.split()} | {
    "ax-h": "ax",
    "axr": "er",
    "bcl": "vcl",
    "dcl": "vcl",
    "gcl": "vcl",
    "kcl": "cl",
    "pcl": "cl",
    "tcl": "cl",
    "em": "m",
    "eng": "ng",
    "h#": "sil",
    "pau": "sil",
    "hv": "hh",
    "nx": "n",
    "ux": "uw",
    "q": "",
}
"""The 48 phones by the 61; the glottal stop q is left out."""
PHONES = sorted({phone for phone in FOLDED_48.values() if phone})
FOLDED_39 = {phone: phone for phone in PHONES} | {
    "ao": "aa",
    "ax": "ah",
    "el": "l",
    "en": "n",
    "ix": "ih",
    "zh": "sh",
    "cl": "sil",
    "vcl": "sil",
    "epi": "sil",
}
"""The 39 phones by the 48."""
NEAREST = {phone: phone.upper() for phone in PHONES} | {"ax": "AH", "ix": "IH", "el": "L", "en": "N", "dx": "D"}
"""The phones of the CMU Pronouncing Dictionary that are nearest to the 48; it has none for silence and closures."""
CORE_TEST = {
    *("FDHC0", "FELC0", "FJLM0", "FMGD0", "FMLD0", "FNLP0", "FPAS0", "FPKT0", "MBPM0", "MCMJ0", "MDAB0", "MGRT0"),
    *("MJDH0", "MJLN0", "MJMP0", "MKLT0", "MLLL0", "MLNT0", "MNJM0", "MPAM0", "MTAS1", "MTLS0", "MWBT0", "MWEW0"),
}
DEVELOPMENT = {
    *("FADG0", "FAKS0", "FCAL1", "FCMH0", "FDAC1", "FDMS0", "FDRW0", "FEDW0", "FGJD0", "FJEM0", "FJMG0", "FJSJ0"),
    *("FKMS0", "FMAH0", "FMML0", "FNMR0", "FREW0", "FSEM0", "MAJC0", "MBDG0", "MBNS0", "MBWM0", "MCSH0", "MDLF0"),
    *("MDLS0", "MDVC0", "MERS0", "MGJF0", "MGLB0", "MGWT0", "MJAR0", "MJFC0", "MJSW0", "MMDB1", "MMDM2", "MMJR0"),
    *("MMWH0", "MPDF0", "MRCS0", "MREB0", "MRJM4", "MRJR0", "MROA0", "MRTK0", "MRWS1", "MTAA0", "MTDT0", "MTEB0"),
    *("MTHC0", "MWJG0"),
}
"""The 50 speakers of TEST, none of them in the core test set, that Kaldi's recipe chooses checkpoints by."""
SAMPLE_VAL = frozenset({"FALR0", "MAEB0"})
SAMPLE_TEST = frozenset({"FAEM0", "MARC0", "FAPB0", "MBMA1"})
LATE_SECONDS = 0.1
"""The end of an alignment may lie so much after that of the last frame of its recording."""
BAND = Band(64, "per_val_first_64", 3.0)
CONFIG = SpeechConfig(labels=PHONES)
INTENDED = (
    "Research on phone recognition with spiking networks, not for commercial use. It is not for "
    "transcripts that somebody relies on."
)
LIMITS = [
    "It hears the 48 phones of TIMIT in one carefully read sentence of American English.",
    "TIMIT's licence holds for weights that were trained on it; those of the sample are non-commercial.",
    "Where only NLTK's sample was at hand, it was tuned on 80 sentences of ten speakers, chosen by 16 sentences of two "
    "and scored on 32 of four: a difference of a few points is noise.",
]
SOURCES = [*librispeech.SOURCES[:1], "Garofolo et al., TIMIT Acoustic-Phonetic Continuous Speech Corpus, LDC93S1, 1993"]
Cache = Annotated[Path | None, typer.Option(help="folder where features are kept; DATA/features unless given")]


@dataclass(frozen=True)
class Training(speech.Training):
    """How a recogniser is trained on TIMIT: ``frame_targets`` is the weight of the phones of the hand alignment."""

    epochs: int = 30
    learning_rate: float = 1e-3
    steps: int = 2000
    frame_targets: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        number("frame_targets", self.frame_targets, 0)


class Sentence(NamedTuple):
    """One recording: its file, its alignment, its speaker, and the part that LDC put it in, if any."""

    file: Path
    alignment: Path
    speaker: str
    part: str | None


class Aligned(NamedTuple):
    """A phone of the 61 by hand: its first sample, and the sample after its last."""

    start: int
    end: int
    phone: str


def find_sentences(data: Path) -> list[Sentence]:
    """All sentences below ``data`` but SA1 and SA2, by name.

    Raises FileNotFoundError if there are none, ValueError for an alignment without its recording and the reverse.
    """
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in sorted(data.rglob("*")):
        if path.suffix.lower() in (".wav", ".phn") and not path.stem.lower().startswith("sa"):
            files = found.setdefault((path.parent, path.stem.lower()), {})
            if files.setdefault(path.suffix.lower(), path) != path:
                raise ValueError(f"{files[path.suffix.lower()]} and {path} are of one sentence; keep one of them")
    sentences = []
    for (folder, _), files in sorted(found.items()):
        if len(files) == 1:
            ((suffix, path),) = files.items()
            raise ValueError(f"{path} has no {'recording' if suffix == '.phn' else 'alignment (.PHN)'} beside it")
        parts = {part.lower() for part in folder.relative_to(data).parts} & {"train", "test"}
        speaker = folder.name.upper().rpartition("-")[2]
        sentences.append(Sentence(files[".wav"], files[".phn"], speaker, parts.pop() if len(parts) == 1 else None))
    if not sentences:
        raise FileNotFoundError(f"{data} holds no sentences of TIMIT (.WAV and .PHN); get it from {SOURCE}")
    return sentences


def split_of(sentence: Sentence) -> str | None:
    """The split that a sentence is in; None for the speakers of TEST in neither set."""
    if sentence.part == "train":
        return "train"
    if sentence.part == "test":
        return "test" if sentence.speaker in CORE_TEST else "val" if sentence.speaker in DEVELOPMENT else None
    return "test" if sentence.speaker in SAMPLE_TEST else "val" if sentence.speaker in SAMPLE_VAL else "train"


def read_alignment(path: Path) -> list[Aligned]:
    """The phones of a ``.PHN`` file; ValueError, naming the line, for a wrong one and for times that run backwards."""
    found: list[Aligned] = []
    with path.open("rb") as stream:
        for number, line in enumerate(texts_of(stream, str(path)), 1):
            parts = line.split()
            if not parts:
                continue
            if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()) or parts[2] not in FOLDED_48:
                raise ValueError(f"line {number} of {path} is no start, end and phone: {line[:80]!r}")
            aligned = Aligned(int(parts[0]), int(parts[1]), parts[2])
            if aligned.end < aligned.start or (found and aligned.start < found[-1].start):
                raise ValueError(f"line {number} of {path} runs backwards: {line[:80]!r}")
            found.append(aligned)
    if not found:
        raise ValueError(f"{path} holds no phones")
    return found


def fold_48(alignment: Sequence[Aligned]) -> tuple[str, ...]:
    """The phones to train on."""
    return tuple(phone for phone in (FOLDED_48[aligned.phone] for aligned in alignment) if phone)


def timed(alignment: Sequence[Aligned]) -> tuple[tuple[float, str], ...]:
    """The end of each phone in seconds, as frame targets."""
    return tuple((aligned.end / RATE, FOLDED_48[aligned.phone]) for aligned in alignment)


def fold_39(phones: Sequence[str]) -> list[str]:
    """The phones to score."""
    return [FOLDED_39[phone] for phone in phones]


def read(
    data: Path, split: str, config: SpeechConfig, cache: Cache = None, speeds: tuple[float, ...] = (1.0,)
) -> list[Example]:
    """The sentences of "train", "val" or "test", with the 48 phones. Errors name the file and the line."""
    if split not in SPLITS:
        raise zoo.errors.unknown("split", split, SPLITS)
    sentences = [sentence for sentence in find_sentences(data) if split_of(sentence) == split]
    if not sentences:
        raise FileNotFoundError(f"{data} holds no sentence of {split}; get TIMIT from {SOURCE}")
    cache = data / "features" if cache is None else cache
    alignments = [read_alignment(sentence.alignment) for sentence in sentences]
    files = [sentence.file for sentence in sentences]
    energies = speech.log_energies(files, config.filter_bank(), speeds, cache, exact=split != "train")
    for sentence, alignment, (frames, *_) in zip(sentences, alignments, energies):
        lasts, ends = len(frames) * SHIFT_SAMPLES * speeds[0] / RATE, alignment[-1].end / RATE
        if ends > lasts + LATE_SECONDS:
            raise ValueError(
                f"the last line of {sentence.alignment} ends after {ends:.3g} seconds, its recording after {lasts:.3g}"
            )
    names = [f"{sentence.speaker}-{sentence.file.stem.upper()}" for sentence in sentences]
    return [
        Example(name, frames, fold_48(alignment), "", timed(alignment))
        for name, frames, alignment in zip(names, energies, alignments)
    ]


@torch.no_grad()
def with_timit_phones(model: SpeechRecogniser) -> SpeechRecogniser:
    """A model of the dictionary's phones as one of the 48, each of which starts from the nearest that it knows.

    Raises ValueError for a model of other phones. A model of the 48 is returned as it is.
    """
    known = list(model.typed_config.labels)
    if known == PHONES:
        return model
    if known != SPOKEN:
        raise ValueError(f"a model to start from knows the phones of TIMIT or of the dictionary; this one {known[:5]}")
    made = SpeechRecogniser(replace(model.typed_config, labels=list(PHONES)))
    made.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("output.")}, strict=False)
    made.output.weight.zero_()
    made.output.bias.zero_()
    rows = [(0, 0)] + [
        (1 + PHONES.index(phone), 1 + known.index(near)) for phone, near in NEAREST.items() if near in known
    ]
    for own, other in rows:
        made.output.weight[own] = model.output.weight[other]
        made.output.bias[own] = model.output.bias[other]
    return made


class Trainer(speech.Trainer):
    """Trains on the 48 phones; its score is the errors of the 39."""

    options: Training
    fold = staticmethod(fold_39)

    def loss_of(self, batch: Batch, part: Part = WHOLE) -> torch.Tensor:
        device, weight = self.accelerator.device, self.options.frame_targets
        return speech.loss_of(self.network, self.network.bank, batch, self.options, device, weight, part)

    def loaded(self, initial: str) -> SpeechRecogniser:
        """The model to start from, with the phones and the usual features of TIMIT, which was recorded otherwise."""
        model = with_timit_phones(super().loaded(initial))
        model.set_usual(*speech.usual(self.examples))
        return model


def trainer(
    data: Path,
    run: Path,
    config: SpeechConfig,
    options: Training,
    initial: command.Initial = None,
    backend: str = "auto",
    cache: Cache = None,
) -> Trainer:
    """A training on TIMIT; ``initial`` may name a model to start from."""
    if initial is not None:
        config = replace(training.begun(initial, config, CONFIG), labels=config.labels)
    examples, validation = read(data, "train", config, cache, options.speeds), read(data, "val", config, cache)
    return Trainer(examples, validation, run, config, options, initial, backend)


def read_for(data: Path, split: str, config: SpeechConfig, cache: Cache = None) -> list[Example]:
    """The sentences of a split for a network with this config."""
    return read(data, split, config, cache)


def evaluate(model: SpeechRecogniser, examples: list[Example]) -> tuple[list[str], dict[str, Any]]:
    """The 39 phones that are heard, as text, and the errors in percent."""
    return speech.evaluate(model, examples, fold_39)


DATA_SET = {
    "name": "TIMIT",
    "type": "timit_asr",
    "url": "https://catalog.ldc.upenn.edu/LDC93S1",
    "licence": "LDC's; the sample that NLTK distributes is CC BY-NC-SA",
    "use": "Sentences SX and SI; val chooses the checkpoint, the test speakers are scored once. No speaker is in two.",
}
RECIPE = replace(
    librispeech.RECIPE,
    name="timit",
    title="Phones on TIMIT.",
    data="folder of TIMIT, in LDC's layout or NLTK's sample",
    config=CONFIG,
    training=Training(),
    trainer=trainer,
    read=read_for,
    evaluate=evaluate,
    scores=lambda model, validation, test: speech.scores(model, validation, test, BAND, fold_39),
    counted="the features of {count} sentences of val, one at a time",
    band=BAND,
    source=lambda scores: DATA_SET,
    checkpoint="val, by the errors of the 39 phones on the best path",
    intended=INTENDED,
    limits=LIMITS,
    licence="cc-by-nc-sa-4.0",
    sources=SOURCES,
    tuning=replace(speech.TUNING, score=lambda model, examples: evaluate(model, examples)[1]["per"]),
)


def command_line() -> typer.Typer:
    return command.command_line(RECIPE)


if __name__ == "__main__":
    command_line()()

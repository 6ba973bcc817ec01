"""Phones of read English on LibriSpeech: train, resume, evaluate and compare recognisers.

The data is LibriSpeech or a part of it as it comes (https://www.openslr.org/12, https://www.openslr.org/31): folders
``<split>/<speaker>/<chapter>`` with ``<speaker>-<chapter>.trans.txt`` and the recordings beside it, as FLAC, Opus, MP3,
Ogg or WAV. Every folder ``train-*`` is trained on. The phones are those of the CMU Pronouncing Dictionary, whose file
``cmudict.dict`` (https://github.com/cmusphinx/cmudict) lies in the folder of the data or beside it.

    python -m recipes.librispeech train --data LibriSpeech --run runs/spiking
    python -m recipes.librispeech evaluate ./runs/spiking/best --data LibriSpeech --split val
    python -m recipes.librispeech language-model --data LibriSpeech --text BOOKS --output words
    python -m recipes.librispeech words ./runs/spiking/best --data LibriSpeech --words words

Checkpoints are chosen on ``val`` (``dev-held-out``, or ``dev-clean`` where there is none) by the phone errors of the
best path; only ``measure`` uses the test set, once. Training needs ``pip install "snn-zoo[train,speech]"``.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from torch import Tensor

import zoo
from recipes import command, report, speech, speech_pictures, training
from recipes.language_model import NgramModel, read_texts, words_of
from recipes.pronunciations import Dictionary, Phones, find_dictionary, read_dictionary
from recipes.recipe import Band, Recipe
from recipes.run_folder import BEST, read_run_config
from recipes.speech import Example, Training
from recipes.tune import fine_tune  # noqa: F401  (the same for all tasks; it can be found here too)
from zoo import files
from zoo.inputs.lines import texts_of
from zoo.metrics import pictures_of
from zoo.networks.speech import SpeechConfig, SpeechRecogniser
from zoo.networks.words import (
    BEAM_SIZE,
    LANGUAGE_MODEL,
    LEXICON,
    LM_WEIGHT,
    WORD_SCORE,
    WordSearch,
    read_lexicon,
    write_lexicon,
)
from zoo.tasks import TASKS

SOURCE = "https://www.openslr.org/12 or https://www.openslr.org/31"
SPLITS = {
    "train": ("train-*",),
    "val": ("dev-held-out", "dev-clean", "dev-clean-2"),
    "test": ("dev-clean-part", "test-clean"),
}
"""The folders of each split: all that match for training, else the first that there is."""
SUFFIXES = (".flac", ".opus", ".mp3", ".ogg", ".wav")
NETWORKS = {
    "recurrent-gated-lif": "recurrent-gated LIF, {spikes} spikes",
    "input-gated-lif": "input-gated LIF, {spikes} spikes",
    "multibit-synaptic-lif": "multi-bit synaptic LIF, {spikes} spikes",
    "multibit-lif": "multi-bit LIF, {spikes} spikes",
    "lstm": "LSTM",
    "gru": "GRU",
}
ORDER, LEAST = 3, 2
"""The order of the language model of words, and how often a trigram must be there to count."""
BAND = Band(64, "per_val_first_64", 1.5)
CONFIG = SpeechConfig()
INTENDED = (
    "Research on spiking networks for speech: a baseline, a start for fine-tuning, and a demonstration of "
    "streaming on few resources. It is not for transcripts that somebody relies on."
)
LIMITS = [
    "It hears phones of clearly read English, and writes them as the CMU Pronouncing Dictionary does, without stress.",
    "It was trained on a few hours of a few dozen speakers: expect many more errors with accents, noise and rooms.",
    "The right phones are the first pronunciation of each word in the dictionary and not what was really said, so that "
    "some of the errors are the dictionary's.",
    "Utterances with a word that has no pronunciation there are left out of training and of the scores.",
]
SOURCES = [
    "Ponghiran and Roy, AAAI 2022, https://arxiv.org/abs/2109.01905",
    "Panayotov et al., LibriSpeech: an ASR corpus based on public domain audio books, ICASSP 2015",
]
DictionaryFile = Annotated[Path | None, typer.Option(help="cmudict.dict; in DATA or beside it unless given")]
Cache = Annotated[Path | None, typer.Option(help="folder where features are kept; DATA/features unless given")]


class Utterance(NamedTuple):
    """A line of a transcript: the recording, the words in upper case, and the place of the line for errors."""

    file: Path
    words: str
    place: str


def folders_of(data: Path, split: str) -> list[Path]:
    """The folders of a split; ValueError for an unknown one, FileNotFoundError if there is none."""
    if split not in SPLITS:
        raise zoo.errors.unknown("split", split, SPLITS)
    found = [folder for pattern in SPLITS[split] for folder in sorted(data.glob(pattern)) if folder.is_dir()]
    if not found:
        raise FileNotFoundError(f"{data} holds no folder {' or '.join(SPLITS[split])}; get it from {SOURCE}")
    return found if split == "train" else found[:1]


def read_chapters(folder: Path) -> list[list[Utterance]]:
    """The utterances of each chapter in ``<speaker>/<chapter>``.

    Raises ValueError for a wrong line, a line without its recording, and a recording without its line, with the file
    and the line; FileNotFoundError for a chapter without a transcript and for a folder without chapters.
    """
    chapters = [place for place in sorted(folder.glob("*/*")) if place.is_dir()]
    if not chapters:
        raise FileNotFoundError(f"{folder} holds no <speaker>/<chapter>; get it from {SOURCE}")
    return [_chapter(place) for place in chapters]


def _chapter(folder: Path) -> list[Utterance]:
    recordings: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES and recordings.setdefault(file.stem, file) != file:
            raise ValueError(f"{recordings[file.stem]} and {file} are recordings of one utterance; keep one of them")
    transcript = folder / f"{folder.parent.name}-{folder.name}.trans.txt"
    if not transcript.is_file():
        raise FileNotFoundError(f"there is no transcript {transcript}, which says what its recordings say")
    utterances, lines = [], dict[str, int]()
    with transcript.open("rb") as stream:
        for number, line in enumerate(texts_of(stream, str(transcript)), 1):
            name, _, words = line.strip().partition(" ")
            place = f"line {number} of {transcript}"
            if not re.fullmatch(r"[A-Z' ]*[A-Z][A-Z' ]*", words):
                raise ValueError(f"{place} is no name and words in upper case: {line[:80]!r}")
            if name in lines:
                raise ValueError(f"{place} names {name}, as line {lines[name]} does already")
            lines[name] = number
            if name not in recordings:
                raise ValueError(f"{place} names {name}, and there is no recording of that name beside it")
            utterances.append(Utterance(recordings.pop(name), words, place))
    if recordings:
        raise ValueError(f"{transcript} has no line for the recording {next(iter(recordings.values())).name}")
    return utterances


def pronounced(utterances: list[Utterance], dictionary: Dictionary) -> tuple[list[tuple[Utterance, Phones]], list[str]]:
    """The utterances with their phones, the first pronunciation of each word; and the problems of those left out."""
    kept, problems = [], []
    for utterance in utterances:
        words = utterance.words.split()
        unknown = [word for word in words if word not in dictionary]
        if unknown:
            problems.append(f"{unknown[0]}, {utterance.place}")
        else:
            phones = tuple(phone for word in words for phone in dictionary.pronunciations(word)[0])
            kept.append((utterance, phones))
    return kept, problems


def read(
    data: Path,
    split: str,
    config: SpeechConfig,
    dictionary: DictionaryFile = None,
    cache: Cache = None,
    speeds: tuple[float, ...] = (1.0,),
    every: bool = False,
) -> list[Example]:
    """The utterances of "train", "val" or "test". A warning counts those left out for a word without a pronunciation.

    With ``every`` none is left out, and those have no phones. Raises FileNotFoundError and ValueError, with the file
    and the line, for what is missing or wrong.
    """
    known = read_dictionary(find_dictionary(data, dictionary))
    cache = data / "features" if cache is None else cache
    examples, left_out = [], []
    for folder in folders_of(data, split):
        for chapter in read_chapters(folder):
            kept, problems = pronounced(chapter, known)
            if every:
                spoken = {utterance: phones for utterance, phones in kept}
                kept = [(utterance, spoken.get(utterance, ())) for utterance in chapter]
            else:
                left_out += problems
            files = [utterance.file for utterance, _ in kept]
            energies = speech.log_energies(files, config.filter_bank(), speeds, cache, exact=split != "train")
            for (utterance, phones), frames in zip(kept, energies):
                examples.append(Example(utterance.file.stem, frames, phones, utterance.words))
    if left_out:
        warnings.warn(
            f"{len(left_out)} of {len(left_out) + len(examples)} utterances of {split} are left out, because a word "
            f"has no pronunciation; the first are {'; '.join(left_out[:3])}",
            stacklevel=2,
        )
    if not examples:
        raise ValueError(f"no utterance of {split} in {data} is left: each has a word without a pronunciation")
    return examples


def trainer(
    data: Path,
    run: Path,
    config: SpeechConfig,
    options: Training,
    initial: command.Initial = None,
    backend: str = "auto",
    dictionary: DictionaryFile = None,
    cache: Cache = None,
) -> speech.Trainer:
    """A training on a part of LibriSpeech; ``initial`` may name a model to start from."""
    if initial is not None:
        config = training.begun(initial, config, CONFIG)
    examples = read(data, "train", config, dictionary, cache, options.speeds)
    validation = read(data, "val", config, dictionary, cache)
    return speech.Trainer(examples, validation, run, config, options, initial, backend)


def read_for(
    data: Path, split: str, config: SpeechConfig, dictionary: DictionaryFile = None, cache: Cache = None
) -> list[Example]:
    """The utterances of a split for a network with this config."""
    return read(data, split, config, dictionary, cache)


DATA_SET = {
    "name": "LibriSpeech, parts of it",
    "type": "librispeech_asr",
    "url": "https://www.openslr.org/12",
    "licence": "CC BY 4.0",
    "use": "All utterances whose words have a pronunciation; val chooses the checkpoint, the test set is scored once.",
}


RECIPE = Recipe(
    name="librispeech",
    title="Phones of read English on LibriSpeech.",
    task=TASKS["automatic-speech-recognition"],
    data="folder with LibriSpeech's own folders, train-clean-100 and so on",
    config=CONFIG,
    training=Training(),
    trainer=trainer,
    read=read_for,
    evaluate=lambda model, examples: speech.evaluate(model, examples),
    scores=lambda model, validation, test: speech.scores(model, validation, test, BAND),
    score_name="phone error rate",
    content=speech.content,
    calls=speech.calls,
    inputs=lambda model, examples: list(speech.calls(model, examples)),
    counted="the features of {count} utterances of val, one at a time",
    networks=NETWORKS,
    features=("labels", "bands", "lowest", "highest", "stack", "stride"),
    tuned=("dropout", "full_precision", "threshold_levels"),
    columns=speech.columns,
    band=BAND,
    example=speech.example,
    source=lambda scores: DATA_SET,
    checkpoint="val, by the phone errors of the best path",
    intended=INTENDED,
    limits=LIMITS,
    sources=SOURCES,
    languages=("en",),
    noun="utterances",
    tuning=speech.TUNING,
    complete=speech_pictures.add_pictures,
)


# ---- Words ----


def write_search(data: Path, text: Path, folder: Path, dictionary: DictionaryFile = None) -> None:
    """Write to ``folder`` what :func:`zoo.networks.words.search_in` reads.

    It is a lexicon of the words in the training transcripts and in the books in ``text``, with all pronunciations, and
    a language model of both.
    """
    known = read_dictionary(find_dictionary(data, dictionary))
    chapters = [chapter for place in folders_of(data, "train") for chapter in read_chapters(place)]
    transcripts = [utterance.words.lower().split() for chapter in chapters for utterance in chapter]
    sentences = [words_of(line) for line in read_texts(text)] + transcripts
    vocabulary = {word for sentence in sentences for word in sentence if word in known}
    folder.mkdir(parents=True, exist_ok=True)
    NgramModel(sentences, vocabulary, ORDER, LEAST).write(folder / LANGUAGE_MODEL)
    write_lexicon({word: known.pronunciations(word) for word in sorted(vocabulary)}, folder / LEXICON)


def word_errors(search: WordSearch, found: list[Tensor], right: list[str]) -> tuple[list[str], float]:
    """The words that are found in log-probabilities, and the errors, by jiwer, in percent of the ``right`` words."""
    import jiwer

    texts = [search.best(one).text for one in found]
    return texts, 100 * jiwer.wer([words.lower() for words in right], texts)


def score_words(
    model: SpeechRecogniser, examples: list[Example], folder: Path, **options: Any
) -> tuple[list[str], dict[str, float]]:
    """The words that a model finds with what is in ``folder``, and the errors with and without the language model."""
    found, right = speech.log_probabilities(model, examples), [example.words for example in examples]
    lexicon = read_lexicon(folder / LEXICON)
    search = WordSearch(model.typed_config.labels, lexicon, folder / LANGUAGE_MODEL, **options)
    texts, errors = word_errors(search, found, right)
    _, plain = word_errors(search.without_language_model(), found, right)
    return texts, {"wer": errors, "wer_without_language_model": plain}


def compare_words(
    folder: Path, twins: list[Path], data: Path, words: Path, dictionary: DictionaryFile = None, cache: Cache = None
) -> list[dict[str, Any]]:
    """Score the words of the model in ``folder`` and of the best models of runs on val and test, for its card.

    Raises ValueError for two twins of one network.
    """
    metrics = files.read_metrics(folder)
    models = {folder.name: folder}
    for run in twins:
        settings = read_run_config(run)
        name = report.described(RECIPE, settings, settings)
        if name in models:
            raise ValueError(f"{models[name].parent} and {run} are both {name}: give one run of each network")
        models[name] = run / BEST
    rows = []
    for name, place in models.items():
        row: dict[str, Any] = {"name": name}
        network = zoo.load(place)
        for split in ("val", "test"):
            examples = read(data, split, network.typed_config, dictionary, cache, every=True)
            scores = score_words(network, examples, words)[1]
            row[f"word errors %, {split}, lexicon alone"] = round(scores["wer_without_language_model"], 2)
            row[f"word errors %, {split}, with language model"] = round(scores["wer"], 2)
        rows.append(row)
    beside = "".join(f" --twin {run}" for run in twins)
    command = f"python -m recipes.librispeech compare-words ./{folder.name} --data DATA --words WORDS{beside}"
    metrics["words"] = {"rows": rows, "command": command}
    pictures = {name: (folder / name).read_bytes() for name in pictures_of(metrics)}
    zoo.save(zoo.load(folder), folder, metrics, pictures)
    return rows


def add_words(app: typer.Typer) -> None:
    """The commands ``language-model``, ``words`` and ``compare-words``."""
    Data = Annotated[Path, typer.Option(help=RECIPE.data)]
    Words = Annotated[Path, typer.Option(help="folder that language-model wrote")]

    @app.command("language-model")
    def language_model_command(
        data: Data,
        text: Annotated[Path, typer.Option(help="folder of books, .txt or .txt.gz")],
        output: Annotated[Path, typer.Option(help="folder for lexicon.txt and words.arpa")],
        dictionary: DictionaryFile = None,
    ):
        """Write the lexicon and the language model with which ``transcribe`` finds words."""
        write_search(data, text, output, dictionary)
        print(output)

    @app.command("words")
    def words_command(
        model: Annotated[str, typer.Argument(help="a name or a folder")],
        data: Data,
        words: Words,
        split: str = "val",
        lm_weight: float = LM_WEIGHT,
        word_score: float = WORD_SCORE,
        beam_size: int = BEAM_SIZE,
        dictionary: DictionaryFile = None,
        cache: Cache = None,
        output: Annotated[Path | None, typer.Option(help="write the words here")] = None,
    ):
        """Score the words of one split, found with a lexicon, with and without a language model of words."""
        network = zoo.load(model)
        examples = read(data, split, network.typed_config, dictionary, cache, every=True)
        options = {"lm_weight": lm_weight, "word_score": word_score, "beam_size": beam_size}
        texts, scores = score_words(network, examples, words, **options)
        if output:
            output.write_text("\n".join(texts) + "\n", encoding="utf-8")
        print(json.dumps({"model": model, "split": split, "utterances": len(texts)} | options | scores, indent=2))

    @app.command("compare-words")
    def compare_words_command(
        model: Annotated[Path, typer.Argument(help="folder of a model; it gets the result")],
        data: Data,
        words: Words,
        twin: Annotated[list[Path] | None, typer.Option(help="run to compare with; may be repeated")] = None,
        dictionary: DictionaryFile = None,
        cache: Cache = None,
    ):
        """Score the words of a model and of its twins on val and on the test set, for the card."""
        print(json.dumps(compare_words(model.resolve(), twin or [], data, words, dictionary, cache), indent=2))


def command_line() -> typer.Typer:
    app = command.command_line(RECIPE)
    add_words(app)
    return app


if __name__ == "__main__":
    command_line()()

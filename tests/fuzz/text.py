"""Odd and damaged text for the line reader, a translator and a classifier with random weights.

The lines of a file must be those that another reader finds. Each is answered, alone the same as among others, or
refused with its place. Invisible characters in a text do not change its answer.
"""

import functools
import math
import random as randomness
from pathlib import Path
from typing import Any

import torch

from recipes import imdb, multi30k
from zoo.inputs.lines import read_lines
from zoo.networks.sentiment import TextClassifier, TextClassifierConfig
from zoo.networks.translation import END, Translator, TranslatorConfig

NAME = "text"
ALLOWED = (ValueError,)
LONGEST = 40
"""The most tokens of a sentence that the translator takes."""
PAIRS = [
    ("Ein Hund rennt durch den Schnee.", "A dog runs through the snow."),
    ("Eine Frau liest ein Buch!", "A woman reads a book!"),
    ("Der Mann mit dem grünen Hut fährt Fahrrad.", "The man with the green hat rides a bike."),
]
UNSEEN = "\ufeff\u200b\u200d\u00ad\u2060\u202e\ufe0f\u034f\u061c\x01\x7f\U000e0041"
PIECES = [
    *(word for pair in PAIRS for text in pair for word in text.split()),
    *[
        "</s>",
        "<s>",
        "<pad>",
        "<unk>",
        "▁",
        "▁Ein",
        "<br",
        "/>",
        ":)",
        "...",
        "'",
        "ﬁ",
        "Ⅷ",
        "ﷺ",
        "ｆｕｌｌ",
        "é",
        "é",
        "😀",
        "👩\u200d🚀",
        "🇩🇪",
        "漢字",
        "русский",
        "العربية",
        "ไทย",
    ],
    *["한국어", "가", "𝕳𝖚𝖓𝖉", "\U0010ffff", "\ue000", "\ufffe", "İ", "ß", "ﬆ", "ǅ", "ΐ", "ͅ", "\x00", "123", "¹²³", "½"],
    *(" ", "  ", "\t", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\u00a0", "\u3000", *UNSEEN),
    "\u0300" * 30,
]
BAD_BYTES = [
    b"\xff",
    b"\xed\xa0\xbd",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\x80",
    b"\xef\xbb\xbf",
    b"\xff\xfeH\0",
]


@functools.cache
def translator() -> Translator:
    torch.manual_seed(1)
    tokenizer = multi30k.train_tokenizer(PAIRS, 120)
    sizes = {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "longest": LONGEST + 1}
    model = Translator(TranslatorConfig(tokenizer.get_vocab_size(), **sizes), tokenizer).eval()
    model.output_bias.data[END] = 1.0  # otherwise it never ends
    return model


@functools.cache
def classifier() -> TextClassifier:
    torch.manual_seed(1)
    tokenizer = imdb.train_tokenizer([text for pair in PAIRS for text in pair] * 2, 60)
    config = TextClassifierConfig(imdb.LABELS, tokenizer.get_vocab_size(), 0, width=8, channels=8)
    return TextClassifier(config, tokenizer).eval()


def prepare() -> None:
    """Build both networks, and compile their kernels."""
    for model in (translator(), classifier()):
        answers(model, ["Ein Hund", "Eine Frau liest ein Buch!"])


# ---- Making them ----


def make(random: randomness.Random, folder: Path) -> Path:
    """Write a file of a few lines, sometimes with odd line ends, encoding or length."""
    lines = [line(random) for _ in range(random.randint(1, 6))]
    end = random.choice([b"\n", b"\n", b"\r\n", b"\n\n"])
    content = end.join(lines) + random.choice([end, b""])
    if random.random() < 0.2:
        content = random.choice([b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\n", b"\xff\xfe"]) + content
    path = folder / "lines.txt"
    path.write_bytes(content)
    return path


def line(random: randomness.Random) -> bytes:
    pieces = [piece(random) for _ in range(random.choice([0, 1, 2, 5, 12, 40]))]
    text = random.choice(["", " "]).join(pieces)
    if random.random() < 0.02:
        text *= random.choice([10, 1000])
    content = text.encode()
    if random.random() < 0.15:
        place = random.randint(0, len(content))
        content = content[:place] + random.choice(BAD_BYTES) + content[place:]
    return content.replace(b"\n", b" ")


def piece(random: randomness.Random) -> str:
    if random.random() < 0.85:
        return random.choice(PIECES)
    code = random.choice([random.randrange(0x300), random.randrange(0x3000), random.randrange(0x110000)])
    return "" if 0xD800 <= code < 0xE000 else chr(code)


# ---- Running the product on them ----


def run(path: Path) -> None:
    """Read the lines and answer them; AssertionError if an answer is wrong."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    expected = [text_of(part) for part in content.removesuffix(b"\n").split(b"\n")] if content else []
    with path.open("rb") as stream:
        found = list(read_lines(stream, path.name))
    assert [line.text for line in found] == expected, "the lines are not those of the file"
    for number, line in enumerate(found, 1):
        assert line.text is not None or f"line {number} of {path.name} " in (line.problem or "")
    for model in (translator(), classifier()):
        check_answers(model, [text for text in expected if text is not None])


def text_of(content: bytes) -> str | None:
    """The text of one line; None if it has none."""
    try:
        text = content.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def check_answers(model: Any, texts: list[str]) -> None:
    """Check that each text is answered alone the same as among others, and that ``check`` agrees with the method."""
    good: list[str] = []
    alone: list[Any] = []
    for text in texts:
        problem = problem_of(model.check, text, "it")
        method_says = problem_of(lambda only, _: alone.extend(answers(model, [only])), text, "")
        assert problem == method_says, f"check says {problem!r} and the method {method_says!r}"
        good += [text] if problem is None else []
        hidden = text[: len(text) // 2] + UNSEEN + text[len(text) // 2 :]
        assert model.reader.ids([hidden]) == model.reader.ids([text]), "what is not seen changes a text"
    assert answers(model, good) == alone, "an answer depends on the others"


def problem_of(ask: Any, text: str, where: str) -> str | None:
    """What is wrong with a text: the error without the words for its place."""
    try:
        ask(text, where)
    except ValueError as error:
        return str(error).removeprefix("sentence 0").removeprefix("text 0").removeprefix(where)
    return None


def answers(model: Any, texts: list[str]) -> list[Any]:
    """The answers of a model; AssertionError unless each makes sense."""
    if isinstance(model, Translator):
        found = model.translate_scored(texts, beam_size=1)
        assert all(math.isfinite(score) and score <= 0 for _, score in found)
        return found
    labels = model.classify(texts)
    for label in labels:
        assert abs(sum(label.probabilities.values()) - 1) < 1e-9
        assert label.probability == max(label.probabilities.values())
    return labels

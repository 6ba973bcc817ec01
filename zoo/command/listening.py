"""A recording on standard input, as raw samples, that is transcribed while it comes in."""

from collections.abc import Iterator
from io import BufferedReader
from typing import Any, cast

import numpy as np

from zoo.command.failing import say
from zoo.command.streaming import as_json, as_text, standard_input

SAMPLE = np.dtype("<i2")
"""A raw sample: a 16-bit integer, the low byte first."""
HEADERS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b"NIST", b".snd")
"""How files of audio begin."""
BLOCK = 2**16
"""The most bytes that are read at once; fewer, if fewer have come."""


def listen(stream: Any, in_json: bool) -> None:
    """Push the samples on standard input into ``stream``, and write what is heard.

    As text, that is each part as soon as it is heard, and a line break at the end; a part that the stream takes back
    starts a new line. In JSON, it is the answer at the end. Raises ValueError if there are no samples, or half a one.
    """
    shown = ""
    for samples in _samples(cast(BufferedReader, standard_input())):
        if stream.push(samples) and not in_json:
            text = as_text(stream.answer()).partition("\t")[0]
            say(text[len(shown) :] if text.startswith(shown) else f"\n{text}")
            shown = text
    answer = stream.answer()
    say(f"{as_json(answer)}\n" if in_json else "\n")


def _samples(source: BufferedReader) -> Iterator[np.ndarray]:
    """The samples as they come."""
    left, any_came = b"", False
    while block := source.read1(BLOCK):
        if not any_came and block.startswith(HEADERS):
            raise ValueError(
                f"standard input begins with {block[:4]!r}, the header of an audio file, and not with raw samples: "
                "send the samples alone (arecord -t raw), or give the file's name in place of --raw-rate"
            )
        any_came, data = True, left + block
        whole = len(data) - len(data) % SAMPLE.itemsize
        left = data[whole:]
        yield np.frombuffer(data[:whole], SAMPLE).astype(np.int16)
    if not any_came:
        raise ValueError("standard input is empty: there are no samples to transcribe")
    if left:
        raise ValueError("standard input ends within a sample: raw samples are 16-bit integers, the low byte first")

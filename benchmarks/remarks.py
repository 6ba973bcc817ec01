"""Short remarks with their sentiment, as files for :mod:`benchmarks.fine_tuning`: a domain without film reviews.

::

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xf vaderSentiment-3.3.2.tar.gz
    python -m benchmarks.remarks vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz REMARKS

writes ``train.csv`` and ``test.csv``. They hold tweets, sentences of product reviews and sentences of newspaper
editorials, each rated by twenty people from -4 to 4 (Hutto and Gilbert, VADER, ICWSM 2014; MIT licence). The label is
the sign of the mean rating; remarks with a mean of zero, or of fewer than three words, are left out. Every sixth tweet,
review and editorial is for the test, with all of its sentences.
"""

import csv
import tarfile
from pathlib import Path

from benchmarks import report
from recipes.imdb import LABELS

SOURCES = ("tweets", "amazonReviewSnippets", "nytEditorialSnippets")
TEST = 6
"""One in so many is for the test."""
FEWEST_WORDS = 3
"""A model may know none of the words of a shorter one."""


def read(archive: Path) -> dict[str, list[tuple[str, str]]]:
    """The texts and labels of ``train`` and ``test``; KeyError if the archive lacks one of the files."""
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    with tarfile.open(archive) as members:
        for source in SOURCES:
            content = members.extractfile(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
            assert content is not None
            wholes: list[str] = []
            for line in content.read().decode().splitlines():
                number, rating, text = line.split("\t", 2)
                whole = number.split("_")[0]  # "12_3" is the third sentence of the twelfth review
                if whole not in wholes[-1:]:
                    wholes.append(whole)
                part = parts["train" if len(wholes) % TEST else "test"]
                if float(rating) and len(text.split()) >= FEWEST_WORDS:
                    part.append((text.strip(), LABELS[float(rating) > 0]))
    return parts


def main(archive: Path, folder: Path) -> None:
    """Write train.csv and test.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in read(archive).items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        print(f"{len(rows)} remarks in {folder / name}.csv")


app = report.application(main)

if __name__ == "__main__":
    app()

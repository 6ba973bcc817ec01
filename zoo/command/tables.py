"""What is known of models, formatted for a terminal of any width, or for a file."""

import shutil
import textwrap

from zoo.figures import in_words
from zoo.registry import ModelInfo


def wrapped(text: str, indent: int = 0, hanging: int = 0) -> str:
    """``text`` wrapped between words to the width of the terminal."""
    return textwrap.fill(
        text,
        max(shutil.get_terminal_size().columns, 40),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def models(found: list[ModelInfo]) -> str:
    """One row per model, and under it its score on test data and its summary."""
    rows = [("name", "task", "size"), *((model.name, model.task, _size(model)) for model in found)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
    lines = [wrapped(line, hanging=2) for line in aligned]
    for place, model in reversed(list(enumerate(found, 1))):
        lines[place + 1 : place + 1] = [wrapped(text, indent=4) for text in (_score(model), _sentence(model)) if text]
    return "\n".join(lines)


def model(found: ModelInfo) -> str:
    """All that is known of a model, one line per entry."""
    scores = found.metrics.get("scores", {})
    measured = [in_words(column, value, scores) for column, value in found.scores.items() if column != "parameters"]
    rows = [
        ("name", found.name),
        ("summary", found.summary),
        ("task", found.task),
        ("architecture", found.architecture),
        ("parameters", f"{found.parameters:,}"),
        ("size", _size(found)),
        ("licence", found.licence or "unknown"),
        *(("" if place else "measured", line) for place, line in enumerate(measured)),
    ]
    width = max(len(key) for key, _ in rows) + 2
    lines = [wrapped(f"{key:{width}}{value}", hanging=width) for key, value in rows if value]
    return "\n".join([*lines, f"{'folder':{width}}{found.folder}"])  # not wrapped, so that it can be copied


def _score(model: ModelInfo) -> str:
    column = model.main_score
    return in_words(column, model.scores[column], model.metrics["scores"]) if column else ""


def _sentence(model: ModelInfo) -> str:
    """The first sentence of the summary; ``info`` shows all of it."""
    first, more, _ = model.summary.partition(". ")
    return first + more.strip()


def _size(model: ModelInfo) -> str:
    return f"{model.bytes / 2**20:.1f} MiB"

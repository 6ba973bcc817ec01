"""Measured values in words: the title of a column of ``metrics.json``, and a figure with its unit."""

from typing import Any

_OF_SEEDS = (("", ""), ("_mean", ", mean of the seeds"), ("_standard_deviation", ", standard deviation"))


def title(column: str, scores: dict[str, Any]) -> str:
    """The heading of a column. It marks an estimate, and the mean or standard deviation over seeds."""
    for ending, meaning in _OF_SEEDS:
        if (score := column.removesuffix(ending)) in scores:
            return scores[score]["title"] + meaning
    estimate = " (estimate)" if column.startswith("estimated_") else ""
    return column.removeprefix("estimated_").replace("_", " ") + estimate


def in_words(column: str, value: float | str | None, scores: dict[str, Any]) -> str:
    """A figure with its heading, for people: a share in percent, else four digits or a whole number."""
    heading = title(column, scores)
    if value is None or isinstance(value, str):
        return f"{heading}: {'not measured' if value is None else value}"
    if column.endswith("spike_rate"):
        return f"{100 * value:.1f} % of the neurons' outputs are not zero"
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f} {heading}"
    if "%" in heading:
        return f"{value:.4g} % {heading.replace(' (%)', '').replace(' %', '')}"
    return f"{value:.4g} {heading}"

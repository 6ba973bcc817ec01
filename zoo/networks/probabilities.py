"""Probabilities of labels, from a classifier's logits and its temperature.

A temperature divides the logits. Above 1 it makes a network less sure of its answers, below 1 more sure; the most
probable label stays the same. :mod:`recipes.calibration` fits it.
"""

import math
from collections.abc import Sequence
from numbers import Real

from torch import Tensor


def check_temperature(value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"temperature must be a finite number above 0; got {value!r}")


def most_probable(logits: Tensor, labels: Sequence[str], temperature: float) -> tuple[str, dict[str, float]]:
    """The label with the largest of ``logits [labels]``, and the probability of each label.

    The largest logit is subtracted first, so that no temperature makes a number overflow.
    """
    logits = logits.double()
    probabilities = ((logits - logits.max()) / temperature).softmax(0).tolist()
    return labels[int(logits.argmax())], dict(zip(labels, probabilities))

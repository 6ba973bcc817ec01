"""Checks of numbers that a caller gives as options, with one wording of the errors."""

import math
from numbers import Integral, Real
from typing import Any


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` (of Python or NumPy) as an int; ValueError, naming the option and its interval, for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if low <= number and (high is None or number <= high):
            return number
    interval = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise ValueError(f"{name} must be a whole number {interval}; got {value!r}")


def number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """``value`` (of Python or NumPy) as a float; ValueError, naming the option and its interval, for anything else."""
    if isinstance(value, Real) and not isinstance(value, bool):
        real = float(value)
        if low <= real <= high and math.isfinite(real):
            return real
    interval = f" from {low:g} to {high:g}" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
    raise ValueError(f"{name} must be a finite number{interval}; got {value!r}")

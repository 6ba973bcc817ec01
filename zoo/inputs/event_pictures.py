"""Recordings of event cameras as pictures: what the camera saw, as a film or in one picture."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from zoo.inputs.events import Events, as_events, naming
from zoo.options import number

GREY, DARKER, BRIGHTER = 90, (30, 60, 220), (255, 255, 255)
LONGEST = 60.0
"""The most seconds that are drawn."""


def pictures(events: Events, start: int, seconds: float, rate: float, height: int, width: int) -> np.ndarray:
    """Events from ``start`` (microseconds) on as ``[T, height, width, 3]``, ``rate`` pictures per second.

    A pixel is white after an event to brighter, blue after one to darker, and grey without an event.
    """
    shown = np.full((max(1, int(seconds * rate)), height, width, 3), GREY, np.uint8)
    for i, picture in enumerate(shown):
        part = events.between(start + int(i * 1e6 / rate), start + int((i + 1) * 1e6 / rate))
        picture[part.y[~part.p], part.x[~part.p]] = DARKER
        picture[part.y[part.p], part.x[part.p]] = BRIGHTER
    return shown


def draw(recording: Any, path: str | os.PathLike, rate: float = 25.0) -> None:
    """Write a recording to ``path``: ``.gif`` is a film of ``rate`` pictures per second, ``.png`` one picture of all.

    ``recording`` is what ``predict`` takes: an event file, a structured array or a dict. A film shows the first minute
    at most. Raises ValueError for another ending, a rate outside 1 to 50 (a GIF's clock has steps of 10 ms) or a
    recording without events, and ImportError without Pillow.
    """
    path, events, rate = Path(path), as_events(recording), number("rate", rate, 1, 50)
    if path.suffix.lower() not in (".gif", ".png"):
        raise ValueError(f"the picture must be a .gif (a film) or a .png; got {path.name!r}")
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError("drawing events needs Pillow; install it with: pip install pillow") from error
    with naming(recording):
        if not len(events):
            raise ValueError("there are no events")
    start, height, width = int(events.t[0]), int(events.y.max()) + 1, int(events.x.max()) + 1
    seconds = min(LONGEST, (int(events.t[-1]) - start + 1) / 1e6)
    if path.suffix.lower() == ".png":
        (whole,) = pictures(events, start, seconds, 1 / seconds, height, width)
        Image.fromarray(whole).save(path)
        return
    first, *others = [Image.fromarray(picture) for picture in pictures(events, start, seconds, rate, height, width)]
    first.save(path, save_all=True, append_images=others, duration=round(1000 / rate), loop=0)

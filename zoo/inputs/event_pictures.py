"""Recordings of event cameras as pictures: what the camera saw, as a film or in one picture."""

import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from zoo.inputs.events import Events, as_events, naming
from zoo.options import number

COLOURS = np.array([(90, 90, 90), (30, 60, 220), (255, 255, 255)], np.uint8)
"""Of a pixel without an event (grey), after one to darker (blue) and after one to brighter (white)."""
LONGEST = 60.0
"""The most seconds of a film."""
MOST_PIXELS = 2**29
"""The most pixels of all pictures of a film together; a byte is held for each. Half a minute of 1280 x 720 at 20."""


def picture(events: Events, height: int, width: int) -> np.ndarray:
    """What the events leave behind, as places in :data:`COLOURS` ``[height, width]``."""
    shown = np.zeros((height, width), np.uint8)
    shown[events.y[~events.p], events.x[~events.p]] = 1
    shown[events.y[events.p], events.x[events.p]] = 2
    return shown


def pictures(events: Events, start: int, seconds: float, rate: float, height: int, width: int) -> np.ndarray:
    """Events from ``start`` (microseconds) on as ``[T, height, width, 3]``, ``rate`` whole pictures per second."""
    edges = [start + int(i * 1e6 / rate) for i in range(max(1, int(seconds * rate)) + 1)]
    return COLOURS[np.stack([picture(events.between(*pair), height, width) for pair in pairwise(edges)])]


def draw(recording: Any, path: str | os.PathLike, rate: float = 25.0) -> None:
    """Write a recording to ``path``: ``.gif`` is a film of ``rate`` pictures per second, ``.png`` one picture of all.

    ``recording`` is what ``predict`` takes: an event file, a structured array or a dict. A film shows the first minute
    at most; its last picture may stand for less time than the others. A pixel is white after an event to brighter, blue
    after one to darker, and grey without an event. Raises ValueError for another ending, a rate outside 1 to 50 (a
    GIF's clock has steps of 10 ms), a recording without events or one with too many pixels, and ImportError without
    Pillow.
    """
    path, events, rate = Path(path), as_events(recording), number("rate", rate, 1, 50)
    is_film = path.suffix.lower() == ".gif"
    if not is_film and path.suffix.lower() != ".png":
        raise ValueError(f"the picture must be a .gif (a film) or a .png; got {path.name!r}")
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError("drawing events needs Pillow; install it with: pip install pillow") from error
    with naming(recording):
        if not len(events):
            raise ValueError("there are no events")
        height, width = int(events.y.max()) + 1, int(events.x.max()) + 1
        edges = _edges(int(events.t[0]), int(events.t[-1]) + 1, rate if is_film else None)
        if (len(edges) - 1) * height * width > MOST_PIXELS:
            raise ValueError(
                f"{len(edges) - 1} pictures of {width} x {height} pixels are too many ({MOST_PIXELS} pixels at most); "
                "draw a part of the events (Events.between), or with a lower rate"
            )
    images = (_coloured(Image.fromarray(picture(events.between(*p), height, width))) for p in pairwise(edges))
    first = next(images)
    if is_film:
        ends = [round(100 * (i + 1) / rate) for i in range(len(edges) - 1)]  # in steps of the GIF's clock
        times = [10 * (end - start) for start, end in pairwise([0, *ends])]
        first.save(path, save_all=True, append_images=images, duration=times, loop=0)
    else:
        first.save(path)


def _edges(start: int, end: int, rate: float | None) -> list[int]:
    """Where pictures begin and end, in microseconds: ``rate`` per second until all, or a minute, is seen; or just one.

    The last edge is exact, so that no event falls behind it by rounding.
    """
    if rate is None:
        return [start, end]
    end = min(end, start + int(LONGEST * 1e6))
    count = max(1, math.ceil((end - start) * rate / 1e6))
    return [*(start + int(i * 1e6 / rate) for i in range(count)), end]


def _coloured(image: Any) -> Any:
    """An image of places in :data:`COLOURS`, with these as its palette."""
    image.putpalette(COLOURS.tobytes())
    return image

"""Recordings of event cameras as inputs of a model: making, joining, reading, writing and drawing them.

Users build recordings for ``predict``, so these names have an address that stays when files inside the package move.
All of it is defined in :mod:`zoo.inputs.events` and :mod:`zoo.inputs.event_pictures`.
"""

from zoo.inputs.event_pictures import draw
from zoo.inputs.events import Events, as_events, join, read_aedat, read_events, write_aedat

__all__ = ["Events", "as_events", "draw", "join", "read_aedat", "read_events", "write_aedat"]

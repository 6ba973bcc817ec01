"""Recordings of event cameras as inputs of a model: making, joining, reading and writing them.

All of it is defined in :mod:`zoo.inputs.events`; these are its public names.
"""

from zoo.inputs.events import Events, as_events, join, read_aedat, read_events, write_aedat

__all__ = ["Events", "as_events", "join", "read_aedat", "read_events", "write_aedat"]

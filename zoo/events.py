"""Recordings of event cameras, for whoever gives them to a model: made, joined, read and written.

All of it is defined in :mod:`zoo.inputs.events`; these are the names that need no look inside.
"""

from zoo.inputs.events import Events, as_events, join, read_aedat, read_events, write_aedat

__all__ = ["Events", "as_events", "join", "read_aedat", "read_events", "write_aedat"]

"""Streaming: how every network answers that can answer while its input comes in.

**Explicit state.** What runs along time is one method, here of a network with a batch of sequences::

    y_seq, state = network.scan(x_seq, state)

``x_seq [T, B, ...]`` are the next T steps and ``y_seq [T, B, ...]`` what comes out. ``state`` is None before the first
step; after it, nested tuples of tensors with the batch first (None where nothing is remembered), so that
:func:`zoo.networks.decoding.select` takes rows of it. A scan never changes the state that it was given, so one may go
on from it again. A sequence in pieces gives what the whole gives. What a network needs besides and does not run along
time, as the source of a translation, is a third argument, ``context``.

**A stream** is one input that comes in piece by piece (:class:`Stream`). A network of a task that streams
(:attr:`zoo.tasks.Task.streams`) makes one by ``stream()``; pieces are what the task's method takes, cut anywhere.
"""

from typing import Any, Protocol


class Stream(Protocol):
    """One input that is answered while it comes in; the answer depends on the input alone, not on how it was cut."""

    def push(self, piece: Any) -> int:
        """Take the next piece; return how many steps of the network it completed.

        Errors are those of the task's method. After one, or an interrupt, nothing of the piece is taken.
        """
        ...

    def answer(self) -> Any:
        """What the task's method would say of all that came in so far; ValueError before the first step."""
        ...

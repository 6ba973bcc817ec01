"""Streaming: the interface of networks that can answer while their input comes in.

**Explicit state.** One method runs along time, on a batch of sequences::

    y_seq, state = network.scan(x_seq, state)

``x_seq [T, B, ...]`` are the next T steps and ``y_seq [T, B, ...]`` the outputs. ``state`` is None before the first
step. After that it is nested tuples of tensors with the batch first (None where nothing is remembered), so that
:func:`zoo.networks.decoding.select` can select rows. A scan never changes the state that it is given, so a scan can
start from the same state again. A sequence in pieces gives the same as the whole sequence. A third argument,
``context``, holds what does not run along time, such as the source of a translation.

**A stream** is one input that comes in piece by piece (:class:`Stream`). A network of a task that streams
(:attr:`zoo.tasks.Task.streams`) makes one with ``stream()``. Pieces are what the task's method takes, cut anywhere.
"""

from typing import Any, Protocol

from zoo.engine.program import State


def check_same_precision(state: Any, in_integers: bool) -> None:
    """Raise ValueError for the ``state`` of a stream that was not computed in the precision that runs now."""
    if state is not None and isinstance(state, State) != in_integers:
        raise ValueError(
            "the model now computes in another precision than at the start of this stream (it was set, or the model "
            "was changed, moved or is watched by a hook); begin another with stream()"
        )


class Stream(Protocol):
    """One input that is answered while it comes in; the answer depends on the input alone, not on how it was cut."""

    def push(self, piece: Any) -> int:
        """Take the next piece; return how many steps of the network it completed.

        Errors are those of the task's method. After an error or an interrupt, nothing of the piece is taken.
        """
        ...

    def answer(self) -> Any:
        """What the task's method would return for all input so far; ValueError before the first step."""
        ...

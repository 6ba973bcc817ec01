"""Memory on the CPU that is used again when a tensor is gone.

Large memory that comes fresh from the system is filled with zeros, page by page as it is first written, which takes as
long as a scan; and the C library gives it back to the system often. There are two remedies. The large tensors of the
kernels come from a store (:func:`empty`), as memory of a GPU does in torch; it keeps :data:`MOST_KEPT` bytes at most.
And a program that trains may have the C library keep what all other tensors freed (:func:`keep_freed`): that changes
the whole process, so no library does it unasked. :func:`give_back` empties both.
"""

import contextlib
import ctypes
import math
import mmap
import os
import sys
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGE = 1 << 22
"""Bytes from which on a tensor's memory is kept."""
MOST_KEPT = 1 << 29
"""Bytes that are kept for tensors to come; what was given back first goes first."""
# A process that forks from this one must not write into the memory of its tensors; Windows has no fork.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class _Store:
    """Pieces of memory that no tensor has at the moment, from the one put in first to the last."""

    def __init__(self):
        self.pieces: list[mmap.mmap] = []
        # Python may collect garbage, and so put in another piece, while this very thread is in here.
        self.lock = threading.RLock()

    def take(self, size: int) -> mmap.mmap | None:
        """The smallest piece of at least ``size`` bytes and at most half as many more, or a new one.

        None where the system has no more.
        """
        with self.lock:
            fitting = [piece for piece in self.pieces if 2 * size <= 2 * len(piece) <= 3 * size]
            if fitting:
                piece = min(fitting, key=len)
                with contextlib.suppress(ValueError):  # a piece that came meanwhile may have pushed it out
                    self.pieces.remove(piece)
                    return piece
        fresh = _new(size)
        if fresh is None:
            self.clear()
            fresh = _new(size)
        return fresh

    def put(self, piece: mmap.mmap) -> None:
        if len(piece) > MOST_KEPT:
            return
        with self.lock:
            self.pieces.append(piece)
            while sum(map(len, self.pieces)) > MOST_KEPT:
                del self.pieces[:1]

    def clear(self) -> None:
        with self.lock:
            self.pieces.clear()


def _new(size: int) -> mmap.mmap | None:
    try:
        piece = mmap.mmap(-1, size, **_PRIVATE)
    except OSError:
        return None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            piece.madvise(mmap.MADV_HUGEPAGE)
    return piece


_store = _Store()


def _after_fork() -> None:
    _store.lock = threading.RLock()  # another thread, which is not here, may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Lent:
    """The first ``size`` bytes of a piece, for numpy; it goes back to the store with the last tensor that uses it."""

    def __init__(self, piece: mmap.mmap, size: int):
        self.store, self.piece = _store, piece
        address = ctypes.addressof(ctypes.c_char.from_buffer(piece))
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self):
        self.store.put(self.piece)


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """``like.new_empty(shape)``, in memory that is used again where it is large. Its storage cannot be resized."""
    size = math.prod(shape) * like.element_size()
    piece = _store.take(size) if size >= LARGE else None
    if piece is None:
        return like.new_empty(shape)
    storage = torch.from_numpy(np.asarray(_Lent(piece, size))).untyped_storage()
    made = like.new_empty(0)
    made.set_(storage, 0, tuple(shape))  # type: ignore[call-overload]  # autograd would take .view(shape) for a view
    return made


def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def keep_freed() -> None:
    """Have the C library of this process use freed memory again, where it is glibc.

    By its own rules it gives large tensors back to the system and gets them anew in every step of a training, which
    takes as long as all of the arithmetic.
    """
    library = _c_library()
    if library is not None and hasattr(library, "mallopt"):
        for option, value in ((-4, 0), (-1, -1), (-2, 1 << 28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            library.mallopt(option, value)


def give_back() -> None:
    """What is kept for tensors to come goes back to the system: that of the store, and the C library's if it is glibc.

    After :func:`keep_freed`, free memory in many small pieces would otherwise add up.
    """
    _store.clear()
    library = _c_library()
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)

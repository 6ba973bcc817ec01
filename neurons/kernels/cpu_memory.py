"""Memory on the CPU that is reused when its tensor is gone.

The system fills new large memory with zeros, page by page at the first write, which takes as long as a scan; and the C
library often gives freed memory back to the system. There are two remedies. The large tensors of the kernels come from
a store (:func:`empty`), as GPU memory does in torch; it keeps :data:`MOST_KEPT` bytes at most. And a program that
trains may have the C library keep the memory of all other freed tensors (:func:`keep_freed`): that changes the whole
process, so it must be asked for. :func:`give_back` empties both.
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
"""Memory of tensors of this many bytes or more is kept."""
MOST_KEPT = 1 << 29
"""The most bytes that are kept for later tensors; beyond it, the memory given back first is freed first."""
# A process that forks from this one must not write into the memory of its tensors; Windows has no fork.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class _Store:
    """Pieces of memory that no tensor uses at the moment, oldest first."""

    def __init__(self):
        self.pieces: list[mmap.mmap] = []
        # Reentrant: Python may collect garbage, and so put in another piece, while this thread holds the lock.
        self.lock = threading.RLock()

    def take(self, size: int) -> mmap.mmap | None:
        """The smallest piece of at least ``size`` and at most 1.5 times ``size`` bytes, or a new one.

        None if the system has no more memory.
        """
        with self.lock:
            fitting = [piece for piece in self.pieces if 2 * size <= 2 * len(piece) <= 3 * size]
            if fitting:
                piece = min(fitting, key=len)
                with contextlib.suppress(ValueError):  # a piece put in meanwhile may have displaced it
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
    _store.lock = threading.RLock()  # it may have been held by a thread that does not exist in this process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Lent:
    """The first ``size`` bytes of a piece, for numpy; the piece returns to the store when no tensor uses it."""

    def __init__(self, piece: mmap.mmap, size: int):
        self.store, self.piece = _store, piece
        address = ctypes.addressof(ctypes.c_char.from_buffer(piece))
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self):
        self.store.put(self.piece)


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """``like.new_empty(shape)``; if large, in memory that is reused. Its storage cannot be resized."""
    size = math.prod(shape) * like.element_size()
    piece = _store.take(size) if size >= LARGE else None
    if piece is None:
        return like.new_empty(shape)
    storage = torch.from_numpy(np.asarray(_Lent(piece, size))).untyped_storage()
    made = like.new_empty(0)
    made.set_(storage, 0, tuple(shape))  # type: ignore[call-overload]  # autograd would record .view(shape) as a view
    return made


def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def keep_freed() -> None:
    """Have the C library of this process reuse freed memory, if it is glibc.

    By its own rules it returns the memory of large tensors to the system and requests it anew in every training step,
    which takes as long as all of the arithmetic.
    """
    library = _c_library()
    if library is not None and hasattr(library, "mallopt"):
        for option, value in ((-4, 0), (-1, -1), (-2, 1 << 28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            library.mallopt(option, value)


def give_back() -> None:
    """Give the memory kept for later tensors back to the system: that of the store, and the C library's if it is glibc.

    After :func:`keep_freed`, free memory in many small pieces would otherwise accumulate.
    """
    _store.clear()
    library = _c_library()
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)

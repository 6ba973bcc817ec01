"""Memory for large tensors of the CPU's kernels, which is used again when a tensor is gone.

Torch gets large memory from the system anew for each tensor, and the system fills it with zeros page by page as it is
first written, which takes as long as a scan. Memory from here goes back to a store in place of the system, as memory
of a GPU does in torch. The store keeps :data:`MOST_KEPT` bytes at most, and nothing until a tensor is large.
"""

import ctypes
import math
import mmap
import os
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGE = 1 << 22
"""Bytes from which on a tensor's memory is kept; the C library itself keeps smaller pieces."""
MOST_KEPT = 1 << 29
"""Bytes that are kept for tensors to come; what was given back first goes first."""
# A process that forks from this one must not write into the memory of its tensors; Windows has no fork.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class _Store:
    """Pieces of memory that no tensor has at the moment, from the one given back first to the last."""

    def __init__(self):
        self.pieces: list[mmap.mmap] = []
        # Python may collect garbage, and so give back another piece, while a thread is in here.
        self.lock = threading.RLock()

    def take(self, size: int) -> mmap.mmap:
        """The smallest piece of at least ``size`` bytes and not twice as many, or a new one."""
        with self.lock:
            fitting = [piece for piece in self.pieces if size <= len(piece) < 2 * size]
            if fitting:
                piece = min(fitting, key=len)
                self.pieces.remove(piece)
                return piece
        piece = mmap.mmap(-1, size, **_PRIVATE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            piece.madvise(mmap.MADV_HUGEPAGE)
        return piece

    def give_back(self, piece: mmap.mmap) -> None:
        with self.lock:
            self.pieces.append(piece)
            while sum(map(len, self.pieces)) > MOST_KEPT:
                self.pieces.pop(0)

    def empty(self) -> None:
        with self.lock:
            self.pieces.clear()


_store = _Store()


def _after_fork() -> None:
    global _store
    _store = _Store()  # the lock may have been another thread's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Piece:
    """A piece of memory as numpy takes it; it goes back to the store with the last array or tensor upon it."""

    def __init__(self, size: int):
        self.store = _store
        self.memory = self.store.take(size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self):
        self.store.give_back(self.memory)


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """``like.new_empty(shape)``, in memory that is used again where it is large."""
    size = math.prod(shape) * like.element_size()
    if size < LARGE:
        return like.new_empty(shape)
    return torch.from_numpy(np.asarray(_Piece(size))).view(like.dtype).view(shape)


def give_back() -> None:
    """What is kept for tensors to come goes back to the system."""
    _store.empty()

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
import sys
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGE = 1 << 22
"""Memory of tensors of this many bytes or more is kept."""
MOST_KEPT = 1 << 29
"""The most bytes that are kept for later tensors; beyond it, the memory lent longest ago goes back when it is free."""
# A process that forks from this one must not write into the memory of its tensors; Windows has no fork.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class _Lent:
    """The first ``size`` bytes of a piece, for numpy. It lives as long as a tensor uses them."""

    def __init__(self, piece: mmap.mmap, size: int):
        self.piece = piece
        address = ctypes.addressof(ctypes.c_char.from_buffer(piece))
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


class _Store:
    """The pieces of memory that were lent last, in this order, and what each of them was lent as.

    A piece is free when that is gone. Nothing is called at this moment, because an interrupt that arrived in the call
    would be lost: Python ignores what a ``__del__`` or a weak reference's callback raises. There is no lock, because a
    signal's handler may enter at any line: ``dict.pop`` gives a piece to one caller only.
    """

    def __init__(self):
        self.pieces: dict[mmap.mmap, weakref.ref[_Lent]] = {}

    def free(self) -> list[mmap.mmap]:
        return [piece for piece, lent in list(self.pieces.items()) if lent() is None]

    def lend(self, size: int) -> _Lent | None:
        """The smallest free piece of at least ``size`` and at most 1.5 times ``size`` bytes, or a new one.

        None if the system has no more memory.
        """
        piece = self._take(size) or _new(size)
        if piece is None:
            self.clear()
            piece = _new(size)
        if piece is None:
            return None
        lent = _Lent(piece, size)
        if len(piece) <= MOST_KEPT:
            self._keep(piece, lent)
        return lent

    def _take(self, size: int) -> mmap.mmap | None:
        fitting = [piece for piece in self.free() if 2 * size <= 2 * len(piece) <= 3 * size]
        for piece in sorted(fitting, key=len):
            lent = self.pieces.pop(piece, None)
            if lent is not None and lent() is None:  # if not, another caller has taken it meanwhile
                return piece
        return None

    def _keep(self, piece: mmap.mmap, lent: _Lent) -> None:
        self.pieces[piece] = weakref.ref(lent)
        pieces = list(self.pieces)
        excess = sum(map(len, pieces)) - MOST_KEPT
        for oldest in pieces:
            if excess <= 0:
                break
            self.pieces.pop(oldest, None)
            excess -= len(oldest)

    def clear(self) -> None:
        for piece in self.free():
            self.pieces.pop(piece, None)


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


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """``like.new_empty(shape)``; if large, in memory that is reused. Its storage cannot be resized."""
    size = math.prod(shape) * like.element_size()
    lent = _store.lend(size) if size >= LARGE else None
    if lent is None:
        return like.new_empty(shape)
    storage = torch.from_numpy(np.asarray(lent)).untyped_storage()
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

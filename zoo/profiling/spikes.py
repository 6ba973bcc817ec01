"""Tracks which tensors hold spikes: every value of a tensor has a source, and keeps it while it is only moved.

A source is an integer: ``REAL`` for any computed number, ``ZERO`` for a constant zero (padding, an initial state),
``BINARY`` for 0 or 1 (the result of a comparison, a mask, a binary neuron), and one more per neuron whose spikes are
levels with their own scale. A tensor without a tag is ``REAL`` throughout; a boolean tensor without a tag is
``BINARY``.

Most tensors have one source; their tag is an int. If several sources meet (two directions side by side), the tag is a
tensor of the same shape, and operations that move the values move the tag too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

REAL, ZERO, BINARY = -1, 0, 1


class Tag:
    """The sources of a tensor. Views of the same memory share the tag, so a write through one is known to all."""

    def __init__(self, sources: "int | Tensor"):
        self.sources = sources


class Tags:
    """The tags of all living tensors, and what is known of each source."""

    def __init__(self):
        self._tags = WeakTensorKeyDictionary()
        self.bits = {ZERO: 1, BINARY: 1}
        self._named: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def source(self, name: str, bits: int) -> int:
        """The source for the neuron ``name``, whose spikes have their own scale."""
        if name not in self._named:
            self._named[name] = len(self._named) + 2
            self._names[self._named[name]] = name
        self.bits[self._named[name]] = bits
        return self._named[name]

    def neuron(self, source: int) -> str | None:
        """The name of the neuron that is this source; None for a source that is none."""
        return self._names.get(source)

    def of(self, tensor: Any) -> Tag | None:
        """The tag of ``tensor``; None if it holds real numbers only."""
        if not isinstance(tensor, Tensor):
            return None
        if tensor.dtype is torch.bool:
            return Tag(BINARY)
        tag = self._tags.get(tensor)
        return None if tag is None or (isinstance(tag.sources, int) and tag.sources == REAL) else tag

    def set(self, tensor: Tensor, sources: "int | Tensor") -> None:
        if tensor.is_floating_point():
            self._tags[tensor] = Tag(sources)

    def share(self, source: Tensor, result: Tensor) -> None:
        """Note that ``result`` holds the values of ``source`` unchanged: the same tag if it is the same memory."""
        tag = self.of(source)
        if tag is not None and result.is_floating_point():
            same = result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
            copied = tag.sources if isinstance(tag.sources, int) else tag.sources.clone()
            self._tags[result] = tag if same and source.dtype is not torch.bool else Tag(copied)

    def full(self, tensor: Tensor) -> Tensor:
        """The sources of ``tensor`` as a tensor of its shape."""
        tag = self.of(tensor)
        sources = REAL if tag is None else tag.sources
        if isinstance(sources, Tensor):
            return sources
        return torch.full(tensor.shape, sources, dtype=torch.int16, device=tensor.device)

    def move(self, func: Callable, args: Sequence, kwargs: dict, out: Any, values: tuple[int, ...]):
        """Tag the result of ``func``, which only moves the arguments at ``values`` (tensors and constants)."""
        values = tuple(place for place in values if place < len(args))
        moved = [leaf for place in values for leaf in pytree.tree_leaves(args[place]) if isinstance(leaf, Tensor)]
        for number in moved:
            if self.of(number) is None and number.dim() == 0 and number == 0:  # the 0 of where(mask, y, 0)
                self.set(number, ZERO)
        results = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
        constants = {place for place in values if isinstance(args[place], int | float)}
        tags = [self.of(tensor) for tensor in moved]
        if all(tag is None for tag in tags):
            return
        if (source := _one_source(tags)) is not None and not any(args[place] for place in constants):
            for result in results:
                if len(moved) == 1:
                    self.share(moved[0], result)
                else:
                    self.set(result, source)
            return
        replaced = list(args)
        for place in values:
            if place in constants:
                replaced[place] = REAL if args[place] else ZERO
            else:
                replaced[place] = pytree.tree_map_only(Tensor, self.full, args[place])
        for result, sources in zip(results, pytree.tree_leaves(_on_sources(func, replaced, kwargs))):
            self.set(result, sources)

    def write(self, func: Callable, args: Sequence, kwargs: dict, places: tuple[int, ...]) -> None:
        """Note what ``func`` wrote into ``args[0]``: the arguments at ``places``, or a constant at the first."""
        tag = self.of(args[0])
        if tag is None or args[0].dtype is torch.bool:
            return
        value = args[places[0]] if places else None
        constant = Tag(ZERO) if not isinstance(value, Tensor) and not value else None  # zero_() has no value
        incoming = self.of(value) if isinstance(value, Tensor) else constant
        if isinstance(tag.sources, Tensor):
            replaced = list(args)
            replaced[0] = tag.sources
            if places:
                replaced[places[0]] = self.full(value) if isinstance(value, Tensor) else ZERO if value == 0 else REAL
            func(*replaced, **kwargs)
        elif incoming is None or isinstance(incoming.sources, Tensor):
            tag.sources = REAL
        elif tag.sources == ZERO:
            tag.sources = incoming.sources
        elif incoming.sources not in (ZERO, tag.sources):
            tag.sources = REAL


def _one_source(tags: list[Tag | None]) -> int | None:
    """The single source of all values except zeros; None if there are several."""
    known: set[int] = set()
    for tag in tags:
        if tag is None or isinstance(tag.sources, Tensor):
            return None
        known.add(tag.sources)
    return max(known) if len(known - {ZERO}) <= 1 and REAL not in known else None


def _on_sources(func: Callable, args: list, kwargs: dict) -> Any:
    """``func`` applied to sources, whose memory layout may differ from that of the values."""
    try:
        return func(*args, **kwargs)
    except RuntimeError:
        if getattr(func, "overloadpacket", None) in (torch.ops.aten.view, torch.ops.aten._unsafe_view):
            return args[0].reshape(args[1])
        found = func(*pytree.tree_map_only(Tensor, _as_numbers, args), **kwargs)  # there is no kernel for integers
        return pytree.tree_map_only(Tensor, Tensor.short, found)


def _as_numbers(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.int16 else tensor

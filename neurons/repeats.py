"""Forwards that run a second time inside a backward, as in activation checkpointing.

A repeated forward must start from the same range and state as the first run, although both have changed since, and it
must not change them again. So a first run that may be repeated leaves a note of what it started from, and its
repetition looks that note up (:class:`Notes`).

Such a first run saves nothing for the backward: it runs without gradients (reentrant checkpointing) or with hooks on
saved tensors (the other kind). All other forwards leave no note.
"""

import functools
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, library
from torch.utils._python_dispatch import _disable_current_modes

NAMESPACE = "snn_zoo"
LIMIT = 1024
"""The number of notes that are kept. At most this many forwards may lie between a first run and its repetition."""
SAMPLED = 64
"""The number of values of each input that a note holds."""
NEAR = 1e-2
"""The relative difference below which an input is that of a repetition, in which products may round differently."""
ALIKE = 1e-5
"""Notes whose distances differ by less than this count as equally near."""


def is_repeated() -> bool:
    """Whether a backward is running; a forward in it is a repetition."""
    return torch._C._current_graph_task_id() != -1


def may_be_repeated() -> bool:
    """Whether a backward may run this forward again: see this module's docstring."""
    if torch.is_inference_mode_enabled():
        return False
    return not torch.is_grad_enabled() or saves_with_hooks()


def saves_with_hooks() -> bool:
    """Whether hooks on the tensors that autograd saves are active."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


@dataclass(eq=False)
class _Note:
    """``value``, and what identifies the forward that left it."""

    kind: tuple
    """Shapes, types and devices of the inputs."""
    sample: Tensor
    """Some values of each input, as float32."""
    value: Any
    sequence: int
    """Autograd's sequence number when the forward began."""
    region: int | None
    """The same for all forwards within one non-reentrant checkpoint."""
    used: tuple | None = None
    """The repetition that used it last."""


class Notes:
    """The newest notes of one module. They are not copied or pickled with it: a copy has no forward to repeat."""

    def __init__(self):
        self._kept: deque[_Note] = deque(maxlen=LIMIT)
        self._any_used = False
        self._passed_on: tuple[tuple, tuple | None] = (), None
        number = next(_numbers)
        with torch.inference_mode(False):
            self.number = torch.tensor(number, device="cpu", dtype=torch.int64)
        """Identifies these notes in a compiled graph."""
        _NOTES[number] = self

    def __reduce__(self):
        return Notes, ()

    def add(self, inputs: Sequence[Tensor], value: Any) -> None:
        """Note that a forward of ``inputs`` started from ``value``."""
        if self._any_used:  # notes used by an earlier backward are no longer needed
            self._kept, self._any_used = deque((note for note in self._kept if not note.used), LIMIT), False
            self._passed_on = (), None
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        # The unpack hook lives as long as the tensors saved under it.
        sequence, region = torch._C._autograd._get_sequence_nr(), None if hooks is None else id(hooks[1])
        self._kept.append(_Note(*_outline(inputs), value, sequence, region))

    def find(self, inputs: Sequence[Tensor]) -> Any:
        """The start of the forward that is repeated with ``inputs``; RuntimeError if no note of it is found."""
        kind, sample = _outline(inputs)
        notes = [note for note in self._kept if note.kind == kind]
        distances = _distances(sample, torch.stack([note.sample for note in notes])).tolist() if notes else []
        if not notes or min(distances) > NEAR:
            raise RuntimeError(
                "a neuron was run inside a backward, on an input that none of the forwards before had, so it is not "
                "known which range or state to start from. Activation checkpointing works if it repeats a forward "
                f"with the same inputs, within {LIMIT} forwards of the neuron and in the same mode (training or "
                "evaluation, in which use_reentrant=False is needed); any other forward must wait for the end of the "
                "backward"
            )
        near = [note for note, distance in zip(notes, distances) if distance <= min(distances) + ALIKE]
        chosen = near[0] if len(near) == 1 else _in_order(near)
        chosen.used, self._any_used = _repetition(), True
        return chosen.value

    def pass_on(self, state: Sequence[Any]) -> None:
        """Keep a repeated forward's final state for the next forward of the same repetition."""
        self._passed_on = _repetition(), tuple(state)

    def passed_on(self) -> tuple | None:
        """What :meth:`pass_on` kept in this repetition, if anything."""
        repetition, state = self._passed_on
        return state if repetition == _repetition() else None


_numbers = itertools.count()
_NOTES: "weakref.WeakValueDictionary[int, Notes]" = weakref.WeakValueDictionary()


def _repetition() -> tuple[int, int]:
    """Identifies the part of the network that is being repeated: the backward, and the node in it that asked."""
    node = torch._C._current_autograd_node()
    return torch._C._current_graph_task_id(), -1 if node is None else node._sequence_nr()


def _in_order(notes: list[_Note]) -> _Note:
    """Of several notes with the same input, the next in order in the part of the network that is being repeated."""
    repetition = _, at = _repetition()
    reentrant = [note for note in notes if note.region is None and note.sequence > at]
    others = [note for note in notes if note.region is not None and note.sequence <= at]
    if others and (saves_with_hooks() or not reentrant):
        part = [note for note in others if note.region == others[-1].region]
    else:
        part = reentrant or notes[-1:]
    fresh = [note for note in part if note.used != repetition]
    return (fresh or part[-1:])[0]


def _outline(inputs: Sequence[Tensor]) -> tuple[tuple, Tensor]:
    """The kind and a sample of these inputs."""
    with torch.no_grad(), _disable_current_modes():
        kind = tuple((x.shape, x.dtype, x.device) for x in inputs)
        picked = [x.detach().take(_places(x.numel(), x.device)).float() for x in inputs]
        return kind, torch.cat(picked)


@functools.lru_cache(maxsize=256)
def _places(count: int, device: torch.device) -> Tensor:
    """The places of the sample in an input of ``size`` values. Random: even spacing may hit a single channel only."""
    with torch.inference_mode(False):
        generator = torch.Generator("cpu").manual_seed(0)
        places = torch.randint(max(count, 1), (min(count, SAMPLED),), generator=generator, device="cpu")
        return places.to(device)


def _distances(sample: Tensor, others: Tensor) -> Tensor:
    """The relative distance of each row of ``others`` from ``sample``; values that are not finite count as equal."""
    same = (others == sample) | (others.isnan() & sample.isnan())
    difference = torch.where(same, 0.0, others - sample).double().norm(dim=1)
    size = torch.where(sample.isfinite(), sample, 0.0).double().norm()
    return torch.where(difference == 0, 0.0, difference / size).nan_to_num(nan=float("inf"))


def start_of(notes: Notes, inputs: Sequence[Tensor], start: Any) -> tuple[Any, bool]:
    """What a forward of ``inputs`` starts from (``start`` unless it is a repetition), and whether it is a first run."""
    if is_repeated():
        return notes.find(inputs), False
    if may_be_repeated():
        notes.add(inputs, start)
    return start, True


def carried(notes: Notes, x: Tensor, state: tuple, training: bool) -> tuple[tuple, bool]:
    """The initial state on ``x`` of a module that carries its own state, and whether this is a first run.

    ``state`` is what it carries now. In evaluation only forwards under hooks leave a note, because there a forward
    without gradients is hardly ever repeated.
    """
    if torch.compiler.is_compiling():
        if training or torch.is_grad_enabled():
            refuse_in_graph(notes.number)
        return state, True
    if is_repeated():
        noted = notes.find((x,))
        # Gradients pass through a state that an earlier call of the same repetition left, or that somebody restored.
        for found in (notes.passed_on(), state):
            if found is not None and all(map(_near, found, noted)):
                return found, False
        return noted, False
    if saves_with_hooks() or (training and may_be_repeated()):
        notes.add((x,), tuple(map(_leaf, state)))
    return state, True


def _leaf(part: Any) -> Any:
    """This part of a state without its graph, but such that autograd saves the same tensors for it."""
    return part.detach().requires_grad_(part.requires_grad) if isinstance(part, Tensor) else part


def _near(part: Any, other: Any) -> bool:
    """Whether two parts of a state are equal up to rounding."""
    if not (isinstance(part, Tensor) and isinstance(other, Tensor)):
        return type(part) is type(other) and part == other
    if (part.shape, part.dtype, part.device) != (other.shape, other.dtype, other.device):
        return False
    with torch.no_grad():
        return _distances(other.reshape(-1), part.reshape(1, -1)).item() <= NEAR


# A compiled graph must ask this each time it runs. CUDA graphs would ask only once.

_TAGS = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, "cudagraph_unsafe") else []


def _start_in_graph(number: Tensor, inputs: list[Tensor], start: list[Tensor]) -> list[Tensor]:
    noted, first = start_of(_NOTES[int(number)], inputs, [part.clone() for part in start])
    return [*(part.clone() for part in noted), torch.full((), first, device=start[0].device)]


def _start_like(number: Tensor, inputs: list[Tensor], start: list[Tensor]) -> list[Tensor]:
    return [*(torch.empty_like(part) for part in start), start[0].new_empty((), dtype=torch.bool)]


def _refuse_in_graph(number: Tensor) -> None:
    if is_repeated():
        raise RuntimeError(
            "a compiled neuron that carries its own state was run inside a backward, where it cannot start from the "
            "state of the forward that is repeated; hand the state over as an argument, or put activation "
            "checkpointing into what is compiled, or compile none of it"
        )


def _define(name: str, schema: str, kernel: Callable, shapes: Callable) -> None:
    library.define(f"{NAMESPACE}::{name}", schema, tags=_TAGS)
    library.impl(f"{NAMESPACE}::{name}", ("cpu", "cuda"), kernel)
    library.register_fake(f"{NAMESPACE}::{name}", shapes)


_define(
    "start_of_forward", "(Tensor number, Tensor[] inputs, Tensor[] start) -> Tensor[]", _start_in_graph, _start_like
)
# It changes nothing, but is declared to: so the compiler neither removes it nor repeats it within a graph.
_define("refuse_repetition", "(Tensor(a!) number) -> ()", _refuse_in_graph, lambda number: None)
start_in_graph = torch.ops.snn_zoo.start_of_forward.default
refuse_in_graph = torch.ops.snn_zoo.refuse_repetition.default

"""Forwards that are run a second time in a backward, as activation checkpointing does.

A forward that is repeated must start from what the first run started from (the range in force, the state that a plug-in
carries), though both have moved since, and it must move neither again. So a first run that may be repeated leaves a
note of what it started from, and its repetition looks that note up (:class:`Notes`).

The first run of what is repeated saves nothing for the backward, or it would be pointless: it runs without gradients
(reentrant checkpointing) or with hooks on what is saved (the other kind). All other forwards leave no note.
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
"""Notes that are kept: as many forwards may lie between a first run and its repetition."""
SAMPLED = 64
"""Values of each input that a note holds."""
NEAR = 1e-2
"""Inputs that differ by less, in proportion, are those of a repetition: products may round differently in it."""
ALIKE = 1e-5
"""Notes whose distances differ by less than this are equally near."""


def is_repeated() -> bool:
    """Whether a backward is running, so that this forward is a repetition."""
    return torch._C._current_graph_task_id() != -1


def may_be_repeated() -> bool:
    """Whether a backward may run this forward again: see the head of this module."""
    if torch.is_inference_mode_enabled():
        return False
    return not torch.is_grad_enabled() or saves_with_hooks()


def saves_with_hooks() -> bool:
    """Whether hooks decide what becomes of the tensors that autograd saves."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


@dataclass(eq=False)
class _Note:
    """``value``, and what tells the forward that left it from others."""

    kind: tuple
    """Shapes, types and devices of the inputs."""
    sample: Tensor
    """Some values of each input, as float32."""
    value: Any
    sequence: int
    """Autograd's number for the next node when the forward began."""
    region: int | None
    """Forwards that share a checkpoint which is not reentrant share this."""
    used: tuple | None = None
    """The repetition that used it last."""


class Notes:
    """The newest notes of one module. Neither copied nor pickled along with it: a copy has no forward to repeat."""

    def __init__(self):
        self._kept: deque[_Note] = deque(maxlen=LIMIT)
        self._any_used = False
        self._passed_on: tuple[tuple, tuple | None] = (), None
        number = next(_numbers)
        with torch.inference_mode(False):
            self.number = torch.tensor(number, device="cpu", dtype=torch.int64)
        """Names these notes in a compiled graph."""
        _NOTES[number] = self

    def __reduce__(self):
        return Notes, ()

    def add(self, inputs: Sequence[Tensor], value: Any) -> None:
        """Note that a forward of ``inputs`` started from ``value``."""
        if self._any_used:  # what a backward before this forward used is done with
            self._kept, self._any_used = deque((note for note in self._kept if not note.used), LIMIT), False
            self._passed_on = (), None
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        # The hook that unpacks lives as long as what was saved under it.
        sequence, region = torch._C._autograd._get_sequence_nr(), None if hooks is None else id(hooks[1])
        self._kept.append(_Note(*_outline(inputs), value, sequence, region))

    def find(self, inputs: Sequence[Tensor]) -> Any:
        """What the forward that is repeated with ``inputs`` started from; RuntimeError where that is not known."""
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
        """Keep the state that a repeated forward led to for the next one of the same repetition."""
        self._passed_on = _repetition(), tuple(state)

    def passed_on(self) -> tuple | None:
        """What :meth:`pass_on` kept, if this repetition did."""
        repetition, state = self._passed_on
        return state if repetition == _repetition() else None


_numbers = itertools.count()
_NOTES: "weakref.WeakValueDictionary[int, Notes]" = weakref.WeakValueDictionary()


def _repetition() -> tuple[int, int]:
    """Names the part of the network that is now repeated: a backward, and the node in it that asked."""
    node = torch._C._current_autograd_node()
    return torch._C._current_graph_task_id(), -1 if node is None else node._sequence_nr()


def _in_order(notes: list[_Note]) -> _Note:
    """That of several notes of one input which comes next in the part of the network that is now repeated."""
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
    """Kind and sample of these inputs."""
    with torch.no_grad(), _disable_current_modes():
        kind = tuple((x.shape, x.dtype, x.device) for x in inputs)
        picked = [x.detach().take(_places(x.numel(), x.device)).float() for x in inputs]
        return kind, torch.cat(picked)


@functools.lru_cache(maxsize=256)
def _places(count: int, device: torch.device) -> Tensor:
    """Where in an input of so many values its sample is taken. At random: at even distances it may be one channel."""
    with torch.inference_mode(False):
        generator = torch.Generator("cpu").manual_seed(0)
        places = torch.randint(max(count, 1), (min(count, SAMPLED),), generator=generator, device="cpu")
        return places.to(device)


def _distances(sample: Tensor, others: Tensor) -> Tensor:
    """How far each row of ``others`` is from ``sample``, in proportion; values that are not finite count as equal."""
    same = (others == sample) | (others.isnan() & sample.isnan())
    difference = torch.where(same, 0.0, others - sample).double().norm(dim=1)
    size = torch.where(sample.isfinite(), sample, 0.0).double().norm()
    return torch.where(difference == 0, 0.0, difference / size).nan_to_num(nan=float("inf"))


def start_of(notes: Notes, inputs: Sequence[Tensor], start: Any) -> tuple[Any, bool]:
    """What a forward of ``inputs`` starts from, ``start`` unless it is repeated; and whether it is a first run."""
    if is_repeated():
        return notes.find(inputs), False
    if may_be_repeated():
        notes.add(inputs, start)
    return start, True


def carried(notes: Notes, x: Tensor, state: tuple, training: bool) -> tuple[tuple, bool]:
    """The state that a module which carries its own starts from on ``x``, and whether this is a first run.

    ``state`` is what it carries now. In evaluation, where what runs without gradients is hardly ever repeated, only
    forwards under hooks are noted.
    """
    if torch.compiler.is_compiling():
        if training or torch.is_grad_enabled():
            refuse_in_graph(notes.number)
        return state, True
    if is_repeated():
        noted = notes.find((x,))
        # Gradients pass through the state that a call before this one in the same repetition led to, or that somebody
        # put back before it.
        for found in (notes.passed_on(), state):
            if found is not None and all(map(_near, found, noted)):
                return found, False
        return noted, False
    if saves_with_hooks() or (training and may_be_repeated()):
        notes.add((x,), tuple(map(_leaf, state)))
    return state, True


def _leaf(part: Any) -> Any:
    """This part of a state without the graph behind it, but as one that autograd saves as much for."""
    return part.detach().requires_grad_(part.requires_grad) if isinstance(part, Tensor) else part


def _near(part: Any, other: Any) -> bool:
    """Whether two parts of a state are the same but for roundings."""
    if not (isinstance(part, Tensor) and isinstance(other, Tensor)):
        return type(part) is type(other) and part == other
    if (part.shape, part.dtype, part.device) != (other.shape, other.dtype, other.device):
        return False
    with torch.no_grad():
        return _distances(other.reshape(-1), part.reshape(1, -1)).item() <= NEAR


# In a compiled graph that has to be asked when the graph runs. CUDA graphs would not ask again.

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
# It changes nothing. Said to, it is neither left out nor itself repeated within a graph.
_define("refuse_repetition", "(Tensor(a!) number) -> ()", _refuse_in_graph, lambda number: None)
start_in_graph = torch.ops.snn_zoo.start_of_forward.default
refuse_in_graph = torch.ops.snn_zoo.refuse_repetition.default

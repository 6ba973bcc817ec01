"""What a model costs, counted on real inputs: arithmetic, memory, spikes, and an estimate of energy.

::

    profile = zoo.profile(zoo.load("lite-snn-multi30k"), ["Ein Hund rennt durch den Schnee."])
    print(profile)
    profile.plot("profile.png")

A :class:`Meter` sees every operation that reaches torch's dispatcher and counts it for the innermost running layer
(:mod:`zoo.profiling.operations` is the closed list of what each costs). It tracks which tensors hold spikes through all
operations that only move values (:mod:`zoo.profiling.spikes`), so that a product with spikes is counted by its spikes.
Recurrent layers and neurons are counted as a whole, by their equations (:mod:`zoo.profiling.layers`). An operation that
cannot be counted is an error that names the layer.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neurons.monitors import evaluating
from zoo.profiling.counts import ENERGY, ENERGY_SOURCE, SPIKES_IN_INT8, Counts
from zoo.profiling.layers import Call, register_counter
from zoo.profiling.ledger import Row
from zoo.profiling.meter import Meter, UncountableError
from zoo.profiling.result import Profile
from zoo.tasks import TASKS

__all__ = [
    "ENERGY",
    "ENERGY_SOURCE",
    "SPIKES_IN_INT8",
    "Call",
    "Counts",
    "Profile",
    "Row",
    "UncountableError",
    "profile",
    "register_counter",
]


def profile(model: nn.Module, inputs: Any, *, name: str | None = None, **options: Any) -> Profile:
    """Count what ``model``, any module, costs on ``inputs``:

    - a tuple of arguments (or one tensor) is one call of the model;
    - a list of tuples (or of tensors) is one call each;
    - a list of anything else holds inputs of a zoo model's task (sentences to translate). Each goes through the task's
      method on its own, with ``options``. So preprocessing and the real decoding are counted, and no input's cost
      depends on another input.

    Counts are totals over the calls, and a batch is one call: for a cost per input, give batches of one. An argument
    that holds only 0 and 1 counts as spikes. The model runs in evaluation mode and is left unchanged, except for state
    that its layers themselves keep from call to call. ``name`` is the model's name in tables.

    Raises :class:`UncountableError`, naming the layer, if something runs whose cost is not known
    (:func:`register_counter` makes it known), TypeError or ValueError for wrong inputs.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a profile is of an nn.Module; got {type(model).__name__}")
    meter = Meter(model)
    calls = _calls(model, inputs, options, meter)
    with evaluating(model), torch.no_grad():
        for call in calls:
            with meter.attached():
                call()
    return Profile(name or type(model).__name__, len(calls), list(meter.ledger.rows.values()))


def _calls(model: nn.Module, inputs: Any, options: dict, meter: Meter) -> list[Callable[[], Any]]:
    if isinstance(inputs, Tensor | tuple):
        inputs = [inputs]
    if not isinstance(inputs, list):
        raise TypeError(f"inputs are a tuple of arguments or a list of inputs; got {type(inputs).__name__}")
    if not inputs:
        raise ValueError("there are no inputs to profile on")
    if all(isinstance(one, Tensor | tuple) for one in inputs):
        if options:
            raise TypeError(f"{', '.join(options)}: options are for the method of a task, and these are tensors")
        return [
            _forward(model, one if isinstance(one, tuple) else (one,), place, meter) for place, one in enumerate(inputs)
        ]
    task = TASKS.get(getattr(model, "task", ""))
    if task is None:
        raise TypeError(
            f"{type(model).__name__} has no task of the zoo: give it tuples of tensors, as its forward takes"
        )
    method = getattr(model, task.method)
    return [functools.partial(method, one if task.files else [one], **options) for one in inputs]


def _forward(model: nn.Module, arguments: tuple, place: int, meter: Meter) -> Callable[[], Any]:
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.is_floating_point() and argument.isnan().any():
            raise ValueError(f"input {place} holds NaN")

    def call() -> Any:
        meter.tag_inputs(arguments)
        return model(*arguments)

    return call

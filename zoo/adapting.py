"""What makes a loaded model ready to be fine-tuned: other labels, and parts that are not trained.

A network says which of its layers have one row per label (``label_layers``: the name of the layer, and the number of
rows before the first label's), and which ``parts`` it has (their names, and how the names of their modules and
parameters begin). All networks have the part ``neurons``: the neurons' own parameters and tracked ranges.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import nn

import neurons
from zoo import errors

NEURONS = "neurons"


@torch.no_grad()
def with_labels(network: Any, labels: Sequence[str]) -> Any:
    """``network`` for other ``labels``, in their order.

    A label that it had keeps what was learned of it; the rows of a new one are zero. The attribute
    ``newly_initialised`` lists the tensors with such rows. For any other set of labels the temperature of the
    probabilities is 1 again, as it was fitted for the old ones.

    Raises TypeError for anything but a list of texts, ValueError for labels that the network cannot have (too few,
    empty, one of them twice) and for a network without labels.
    """
    layers: dict[str, int] = getattr(network, "label_layers", {})
    if not layers:
        raise ValueError(f"labels={labels!r}: a model for {network.task} has no labels")
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"labels must be a list of texts; got {labels!r}")
    if any(not label.strip() for label in labels):
        raise ValueError(f"a label must not be empty; got {list(labels)}")
    before, kind = list(network.config["labels"]), type(network)
    changed: dict[str, Any] = {"labels": list(labels)}
    if set(labels) != set(before) and "temperature" in network.config:
        changed["temperature"] = 1.0
    made, state = kind.from_config(network.config | changed, network.assets()), network.state_dict()
    made.newly_initialised = []
    for name, value in state.items():
        first = layers.get(name.rpartition(".")[0])
        if first is not None:
            rows = [*range(first), *(first + before.index(label) if label in before else -1 for label in labels)]
            chosen = value[[max(row, 0) for row in rows]]
            chosen[[row < 0 for row in rows]] = 0
            state[name] = chosen
            if -1 in rows:
                made.newly_initialised.append(name)
    made.load_state_dict(state)
    return made


def freeze(model: nn.Module, *parts: str, all_but: str | Collection[str] = ()) -> list[str]:
    """Exempt ``parts`` of a model from training, or all but some; return the names of the frozen parameters.

    ``freeze(model, "encoder")`` keeps the encoder as it is, ``freeze(model, all_but="neurons")`` trains only the
    neurons' own parameters. ``type(model).parts`` has the names of a network's parts; every network also has
    ``neurons``. A frozen part is put into evaluation mode, so that it has no dropout and its ranges and norms do not
    follow the data. ``model.train()`` undoes that, so call ``freeze`` after it.

    Raises ``zoo.errors.UnknownNameError``, with a suggestion, for a part that the network does not have, and ValueError
    if no part is named or nothing would be left to train. The model is then unchanged.
    """
    kept = (all_but,) if isinstance(all_but, str) else tuple(all_but)
    if bool(parts) == bool(kept):
        raise ValueError(f"name the parts to freeze, or all_but those to train; there are: {', '.join(_parts(model))}")
    named = {name for part in parts or kept for name in _names_of(model, part)}
    frozen = named if parts else {name for name, _ in _tensors(model)} - named
    if not any(p.requires_grad and name not in frozen for name, p in model.named_parameters()):
        said = f"all but {' and '.join(kept)}" if kept else " and ".join(parts)
        raise ValueError(f"nothing is left to train with {said} frozen; the parts are: {', '.join(_parts(model))}")
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for place, module in model.named_modules():
        own = {name for name, _ in _tensors(module, place)}
        if place and own and own <= frozen:
            module.eval()
    return [name for name, _ in model.named_parameters() if name in frozen]


def _parts(model: nn.Module) -> dict[str, tuple[str, ...]]:
    return {**cast(Any, getattr(model, "parts", {})), NEURONS: ()}


def _names_of(model: nn.Module, part: str) -> set[str]:
    """The names of the parameters and buffers of a part."""
    known = _parts(model)
    if part not in known:
        raise errors.unknown("part of this network", part, known)
    places = known[part]
    if part == NEURONS:
        places = tuple(name for name, module in model.named_modules() if isinstance(module, neurons.Neuron))
    return {name for name, _ in _tensors(model) if any(f"{name}.".startswith(f"{place}.") for place in places)}


def _tensors(module: nn.Module, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    return chain(module.named_parameters(place), module.named_buffers(place))

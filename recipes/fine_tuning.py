"""The loop of a fine-tuning, the same for all tasks; :mod:`recipes.tune` is what users call.

A part of the examples, chosen by the seed, is held out. The model keeps the weights with the lowest loss on that part;
these may be the weights from before the first epoch. Training ends early once that loss has stopped falling. What the
model knew before is checked too: by its loss on a few inputs of the old kind, before and after.
"""

import contextlib
import copy
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recipes.training import Training, gradients, optimisers_of, update

HELD_OUT, MOST_HELD_OUT = 6, 200
"""One in ``HELD_OUT`` examples is held out, at most ``MOST_HELD_OUT``; none if there are fewer than ``HELD_OUT``."""
FEWEST_IN_A_BATCH, STEPS = 8, 20
"""Few examples are learned best in many small steps: a batch has at least 8, or about one in ``STEPS`` of them."""
PATIENCE = 3
"""Epochs without a lower loss on the held-out part after which training ends; while the learning rate still rises, none
counts."""
SUFFERS = 0.1
"""A rise of the loss on familiar inputs by more than this (in nats) gives a warning."""
Example = TypeVar("Example")


@dataclass
class FineTuning:
    """The report of a fine-tuning; ``str`` gives it in one line."""

    losses: list[float] = field(default_factory=list)
    """The training loss of each epoch."""
    held_out: list[float] = field(default_factory=list)
    """The loss on the held-out part before the first epoch and after each; empty if there were too few examples."""
    kept: int = 0
    """The epoch whose weights the model has; 0 if no epoch lowered the held-out loss and the model is unchanged."""
    familiar: list[float] = field(default_factory=list)
    """The loss on inputs of the kind that the model was trained on, before and after; empty if there are none."""
    score: str = ""
    """The name of the task's score."""
    held_out_scores: list[float] = field(default_factory=list)
    """That score on the held-out part, before and after; empty if nothing was held out."""
    familiar_scores: list[float] = field(default_factory=list)
    """That score on inputs of the old kind, before and after."""

    def rows(self) -> list[dict[str, float]]:
        """The losses of each epoch, one dict per epoch."""
        held = [{"held_out": round(loss, 4)} for loss in self.held_out[1:]] or [{} for _ in self.losses]
        return [{"epoch": i, "loss": round(loss, 4)} | row for i, (loss, row) in enumerate(zip(self.losses, held), 1)]

    def __str__(self) -> str:
        said = [f"kept the weights of epoch {self.kept} of {len(self.losses)}"]
        if not self.kept:
            said = [f"kept the weights as they were: none of {len(self.losses)} epochs made the held-out loss lower"]
        if self.held_out:
            said.append(f"held-out loss {self.held_out[0]:.3f} before, {self.held_out[self.kept]:.3f} now")
            said[-1] += self._scores(self.held_out_scores)
        else:
            said.append(f"nothing was held out of fewer than {HELD_OUT} examples")
        if self.familiar:
            said.append("loss on what it knew {:.3f} before, {:.3f} now".format(*self.familiar))
            said[-1] += self._scores(self.familiar_scores)
        return "; ".join(said)

    def _scores(self, found: list[float]) -> str:
        return " ({} {:.1f} before, {:.1f} now)".format(self.score, *found) if found else ""


def hold_out(examples: Sequence[Example], kinds: Sequence[Any], seed: int) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those held out. Some example of each of the ``kinds`` is kept for training."""
    order, left = list(range(len(examples))), Counter(kinds)
    held: set[int] = set()
    random.Random(seed).shuffle(order)
    count = min(len(examples) // HELD_OUT, MOST_HELD_OUT)
    for place in order:
        if len(held) < count and left[kinds[place]] > 1:
            left[kinds[place]] -= 1
            held.add(place)
    return [e for i, e in enumerate(examples) if i not in held], [examples[i] for i in sorted(held)]


def readable(model: Any, texts: Sequence[str]) -> list[str]:
    """Those of ``texts`` that the model takes."""
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            model.check(text)
            found.append(text)
    return found


def tune(
    model: nn.Module,
    examples: Sequence[Example],
    batches: Callable[[list[Example], int, int], list[list[Example]]],
    loss_of: Callable[[list[Example], Any], Tensor],
    options: Training,
    kinds: Sequence[Any] | None = None,
    familiar: Sequence[Example] = (),
    score: Callable[[list[Example]], float] | None = None,
    begin: Callable[[], Any] = lambda: None,
) -> FineTuning:
    """Train a loaded model further, in place, and leave it in evaluation mode.

    ``batches(examples, size, seed)`` returns batches of about ``size`` examples, ``loss_of(batch, options)`` the mean
    loss of one, ``score(examples)`` the task's score; ``kinds`` are the labels of the examples, if they have any.
    ``begin`` is called when the model has been put into training mode. A warning says when the loss on ``familiar``
    examples, of the kind that the model was trained on, rises. After an error or an interrupt the model is unchanged. A
    terminal shows a progress bar.
    """
    train, held = hold_out(examples, kinds or [None] * len(examples), options.seed)
    size = max(FEWEST_IN_A_BATCH, math.ceil(len(train) / STEPS))
    scoring, rising = options.for_scoring(), math.ceil(options.warmup * options.epochs)

    @torch.inference_mode()
    def loss_on(part: Sequence[Example]) -> list[float]:
        model.eval()
        parts = batches(list(part), size, 0) if part else []
        return [sum(float(loss_of(batch, scoring)) * len(batch) for batch in parts) / len(part)] if part else []

    @torch.inference_mode()
    def score_on(part: Sequence[Example]) -> list[float]:
        return [score(list(part))] if part and score is not None else []

    start = copy.deepcopy(model.state_dict())
    best, optimisers, found = start, optimisers_of(model, options), FineTuning()
    torch.manual_seed(options.seed)
    try:
        found.familiar, found.held_out = loss_on(familiar), loss_on(held)
        found.familiar_scores, found.held_out_scores = score_on(familiar), score_on(held)
        with tqdm(total=options.epochs, desc="fine-tuning", unit="epoch", disable=None) as bar:
            for epoch in range(options.epochs):
                plan = batches(train, size, options.seed + epoch)
                model.train()
                begin()
                found.losses.append(_epoch(model, optimisers, plan, loss_of, epoch, options, bar))
                found.held_out += loss_on(held)
                if not held or found.held_out[-1] < found.held_out[found.kept]:
                    best, found.kept = copy.deepcopy(model.state_dict()), epoch + 1
                if epoch + 1 - max(found.kept, rising) == PATIENCE:
                    break
        model.load_state_dict(best)
        found.familiar += loss_on(familiar)
        found.familiar_scores += score_on(familiar)
        found.held_out_scores += score_on(held)
    except BaseException:
        model.load_state_dict(start)
        raise
    finally:
        model.eval()
    _warn(found)
    return found


def _epoch(
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    plan: list[list[Example]],
    loss_of: Callable[[list[Example], Any], Tensor],
    epoch: int,
    options: Training,
    bar: tqdm,
) -> float:
    """One pass over the batches of ``plan``, with equal weight per example; returns the mean loss."""
    total, typical = 0.0, sum(map(len, plan)) / len(plan)
    for i, batch in enumerate(plan):
        progress = (epoch + (i + 0.5) / len(plan)) / options.epochs  # not 0: there may be only one batch
        backward = lambda batch=batch: gradients(loss_of(batch, options) * (len(batch) / typical))  # noqa: E731
        total += float(update(model, optimisers, backward, progress, options))
        bar.set_postfix(loss=total / (i + 1), refresh=False)
        bar.update(1 / len(plan))
    if not math.isfinite(total):
        raise FloatingPointError(f"the loss is {total} in epoch {epoch + 1}; lower the learning rate")
    return total / len(plan)


def _warn(found: FineTuning) -> None:
    if found.familiar and found.familiar[1] - found.familiar[0] > SUFFERS:
        warnings.warn(
            "the model got worse at what it knew: its loss on inputs of the old kind rose from {:.2f} to {:.2f}; what "
            "helps is a lower learning rate, or examples of the old kind among the new".format(*found.familiar),
            stacklevel=4,
        )

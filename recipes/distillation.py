"""Learning from teachers: what an ensemble of trained models expects of every token, beside the token that is right.

The loss of a token is ``(1 - d) * cross-entropy with the right token + d * cross-entropy with the teachers' mean
probabilities`` (Hinton et al. 2015, arXiv 1503.02531, at temperature 1; per token as Kim and Rush, EMNLP 2016). The
teachers read the text as it is, without dropout. Only their most probable tokens are kept, scaled to a sum of 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

KEPT = 64
"""The most probable tokens that are kept for each token of the data."""

Example = tuple[list[int], list[int]]


class Soft(NamedTuple):
    """What the teachers expect at each target: tokens and their probabilities, ``[targets, kept]`` each."""

    places: Tensor
    probabilities: Tensor
    weight: float
    """d, the weight of the teachers' part in the loss."""

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """The cross-entropy of ``logits [targets, vocabulary]``, summed over the targets."""
        return -(self.probabilities * logits.log_softmax(-1).gather(1, self.places)).sum()


class SoftTargets:
    """The teachers' probabilities of the next token, for the target tokens of all ``examples`` (source, target)."""

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        examples: Sequence[Example],
        tensors: Callable[[list[Example]], tuple[Tensor, Tensor, Tensor]],
        vocabulary: int,
        batch_size: int = 128,
    ):
        """``tensors`` turns examples into source, shifted target and target, ``[T, B]`` each, padded with 0."""
        self._first: dict[Any, int] = {}
        count = 0
        for source, target in examples:
            self._first[tuple(source), tuple(target)] = count
            count += len(target)
        kept = min(KEPT, vocabulary)
        self.places = torch.zeros(count, kept, dtype=torch.int32)
        self.probabilities = torch.zeros(count, kept, dtype=torch.float16)
        order = sorted(examples, key=lambda example: (len(example[1]), len(example[0])))
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                self._ask(teachers, order[start : start + batch_size], tensors)

    def _ask(self, teachers: Sequence[nn.Module], batch: list[Example], tensors: Callable) -> None:
        source, shifted, target = tensors(batch)
        real = target != 0
        chances = [torch.softmax(teacher(source, shifted, real).float(), -1) for teacher in teachers]
        values, places = torch.stack(chances).mean(0).topk(self.places.shape[1], -1)
        rows = self.rows(batch)
        self.places[rows] = places.int().cpu()
        self.probabilities[rows] = (values / values.sum(-1, keepdim=True)).half().cpu()

    def rows(self, batch: Sequence[Example]) -> Tensor:
        """The rows of the table for the target tokens of a batch, step by step: in the order of ``target[real]``."""
        firsts = [self._first[tuple(source), tuple(target)] for source, target in batch]
        steps = range(max(len(target) for _, target in batch))
        found = [first + t for t in steps for first, (_, target) in zip(firsts, batch) if t < len(target)]
        return torch.tensor(found)

    def of(self, batch: Sequence[Example], weight: float, device: torch.device) -> Soft:
        """The teachers' expectations of a batch, in the order of ``target[real]``."""
        rows = self.rows(batch)
        return Soft(self.places[rows].long().to(device), self.probabilities[rows].float().to(device), weight)

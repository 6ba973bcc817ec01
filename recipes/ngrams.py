"""The evidence of a text's n-grams for its class: logistic regression over naive Bayes log ratios, cross-fitted.

An n-gram f that is in p positive and q negative texts has the log ratio ``r_f = log((p + 1) / (q + 1))``. A text with
the set S of n-grams has the score ``sum over S of w_f r_f + b``; w and b are learned by logistic regression (Wang and
Manning, "Baselines and Bigrams", ACL 2012). The *evidence* of f is ``w_f r_f``.

A network must not be trained with evidence that was learned from the same texts, because such evidence knows their
labels. So a text's evidence for training comes from a table that was fitted without the text's fold (stacked
generalisation, Wolpert 1992); the table that is saved with the network is fitted on all texts.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.networks.sentiment import NgramEvidence, ngram_keys

FOLDS, CHUNKS = 5, 50
"""The texts are cut into chunks of neighbours, which are assigned to the folds in turn."""
PASSES, BATCH, LEARNING_RATE, START = 3, 256, 0.002, 0.02
"""For each logistic regression: passes over the texts, texts per step, step size of Adam, and the initial weights."""


class Bags(NamedTuple):
    """The known n-grams of each text: the ``places`` of all texts one after another, and where each text starts."""

    places: Tensor
    starts: Tensor

    def select(self, texts: Tensor) -> "Bags":
        """The sets of some texts, in the given order."""
        lengths = (self.starts[1:] - self.starts[:-1])[texts]
        starts = F.pad(lengths.cumsum(0), (1, 0))
        within = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(lengths)
        return Bags(self.places[self.starts[texts].repeat_interleave(lengths) + within], starts)


def most_frequent(texts: list[list[int]], count: int) -> Tensor:
    """Sorted keys of the n-grams that are in the most of ``texts`` (token ids): ``count`` at most, each in two or more.

    The choice does not use labels, so it reveals nothing about a text that is left out.
    """
    keys = torch.cat([ngram_keys(torch.tensor(text).unsqueeze(1)).unique() for text in texts])
    keys, texts_with = keys.unique(return_counts=True)
    keys, texts_with = keys[texts_with > 1], texts_with[texts_with > 1]
    return keys[texts_with.argsort(descending=True, stable=True)[:count]].sort().values


def fit(bags: Bags, positive: Tensor, count: int) -> Tensor:
    """The evidence ``[count]`` of each n-gram, from the texts' ``bags`` and whether each is ``positive``."""
    text = torch.arange(len(positive)).repeat_interleave(bags.starts.diff())
    with_label = [torch.bincount(bags.places[positive[text] == label], minlength=count) for label in (True, False)]
    ratio = ((with_label[0] + 1) / (with_label[1] + 1)).log()
    weight, bias = torch.full((count,), START, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(PASSES):
        for texts in torch.randperm(len(positive), generator=generator).split(BATCH):
            places, starts = bags.select(texts)
            score = F.embedding_bag(places, (weight * ratio).unsqueeze(1), starts[:-1], mode="sum").squeeze(1) + bias
            optimiser.zero_grad()
            F.binary_cross_entropy_with_logits(score, positive[texts].float()).backward()
            optimiser.step()
    return (weight * ratio).detach()


def cross_fit(table: NgramEvidence, texts: list[list[int]], positive: list[bool]) -> list[Tensor]:
    """Fill ``table``, of known n-grams, with their evidence; return each text's evidence for training, ``[T, 3]``.

    Both are in units of the standard deviation of the evidence for training. Texts on the same subject should be
    neighbours: they then share a fold, so that the evidence knows no more of them than of unseen texts.
    """
    places = [table.places(torch.tensor(text).unsqueeze(1)).squeeze(1) for text in texts]
    sets = [text[text >= 0].unique() for text in places]
    bags = Bags(torch.cat(sets), F.pad(torch.tensor([len(s) for s in sets]).cumsum(0), (1, 0)))
    labels, count = torch.tensor(positive), len(table.known)
    fold = torch.arange(len(texts)) * CHUNKS // len(texts) % FOLDS
    without = [(fold != i).nonzero().flatten() for i in range(FOLDS)]
    tables = [fit(bags.select(kept), labels[kept], count) for kept in without]
    evidence = [tables[i][text] * (text >= 0) for i, text in zip(fold.tolist(), places)]
    deviation = torch.cat(evidence).std().clamp(min=1e-6)
    table.evidence.data.copy_(fit(bags, labels, count) / deviation)
    return [text / deviation for text in evidence]

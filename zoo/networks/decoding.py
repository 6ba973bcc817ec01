"""Search for the best translation, token by token, over any decoder with explicit state.

The decoder computes where and as it likes; the search itself is about a few numbers per hypothesis, in NumPy.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Likely(NamedTuple):
    """The ``count`` most probable next tokens of each hypothesis, the best first: ``[B*K, count]`` each."""

    log_probabilities: np.ndarray
    tokens: np.ndarray


NextTokens = Callable[[np.ndarray, Any, Any, int], tuple[Likely, Any]]


class Hypothesis(NamedTuple):
    """The ``tokens`` found for a sentence and their ``score``: the mean log-probability, including the end token."""

    tokens: list[int]
    score: float


def most_likely(log_probabilities: Tensor, count: int) -> Likely:
    """The ``count`` most probable of all tokens ``[B*K, V]``, or all of them."""
    best = log_probabilities.topk(min(count, log_probabilities.shape[-1]))
    return Likely(best.values.float().cpu().numpy(), best.indices.cpu().numpy())


def select(state: Any, rows: Tensor | np.ndarray) -> Any:
    """Select the ``rows`` of every tensor or array (dimension 0 is the batch) in nested tuples of state."""
    if isinstance(state, Tensor):
        return state.index_select(0, torch.as_tensor(rows, device=state.device))
    if isinstance(state, np.ndarray):
        return state[rows]
    if state is None:
        return None
    parts = [select(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def beam_search(
    next_tokens: NextTokens,
    memory: Any,
    longest: np.ndarray,
    beam_size: int,
    length_penalty: float,
    begin: int,
    end: int,
) -> list[Hypothesis]:
    """The best hypothesis for each of B sentences, without ``begin`` and ``end``; ``beam_size`` 1 is greedy.

    ``next_tokens(tokens [B*K], state, memory, count) -> (Likely, state)`` advances every hypothesis by one token and
    returns its ``count`` most probable next tokens (all if there are fewer). ``memory`` has one row per sentence;
    ``state`` has one row per hypothesis, and is None in the first call.

    The best hypothesis has the highest ``sum of log-probabilities / n ** length_penalty``, where n is the number of its
    tokens, including ``end``. A sentence is done when ``beam_size`` of its hypotheses have ended, or at ``longest [B]``
    tokens; it then leaves the batch.
    """
    k, state = beam_size, None
    sentence: np.ndarray = np.arange(len(longest))
    scores: np.ndarray = np.full((len(longest), k), -np.inf, np.float32)
    scores[:, 0] = 0  # the k copies of a sentence start equal: only one may be extended
    tokens: np.ndarray = np.full((len(longest), k, 1), begin)
    ended: np.ndarray = np.zeros(len(longest), np.int64)
    best_score: np.ndarray = np.full(len(longest), -np.inf, np.float32)
    best = [Hypothesis([], -math.inf)] * len(longest)
    length = 0
    while len(sentence):
        length += 1
        # The best 2k of a sentence are among the best 2k of each of its hypotheses.
        likely, state = next_tokens(tokens[:, :, -1].reshape(-1), state, memory, 2 * k)
        each = likely.tokens.shape[-1]
        total = (scores[:, :, None] + likely.log_probabilities.reshape(-1, k, each)).reshape(-1, k * each)
        index = (-total).argsort(1, kind="stable")[:, : 2 * k]
        row = np.arange(len(total))[:, None]  # (NumPy's take_along_axis takes several times as long)
        top, token, parent = total[row, index], likely.tokens.reshape(total.shape)[row, index], index // each

        is_end = token == end
        ends_here = is_end[:, :k] & (top[:, :k] > -np.inf)
        at_limit = longest == length
        if ends_here.any():
            final = np.where(ends_here, top[:, :k], -np.inf) / np.float32(length**length_penalty)
            places = final.argmax(1)
            for b in np.flatnonzero(final.max(1) > best_score).tolist():
                place = places[b]
                found = tokens[b, parent[b, place], 1:].tolist()
                best[sentence[b]] = Hypothesis(found, top[b, place].item() / length)
                best_score[b] = final[b, place]
            ended = ended + ends_here.sum(1)

        # Of the 2k candidates at most k end, so k others are always left to go on with.
        keep = np.where(is_end, np.inf, -top).argsort(1, kind="stable")[:, :k]
        scores, parent, token = top[row, keep], parent[row, keep], token[row, keep]
        tokens = np.concatenate([tokens[row, parent], token[:, :, None]], 2)
        for b in np.flatnonzero(at_limit & np.isinf(best_score)).tolist():
            best[sentence[b]] = Hypothesis(tokens[b, 0, 1:].tolist(), scores[b, 0].item() / length)

        alive = np.flatnonzero((ended < k) & ~at_limit)
        if k > 1 or len(alive) < len(sentence):
            state = select(state, (alive[:, None] * k + parent[alive]).reshape(-1))  # hypotheses to go on from
        if len(alive) < len(sentence):
            memory = select(memory, alive)
            scores, tokens, sentence, ended, best_score, longest = (
                values[alive] for values in (scores, tokens, sentence, ended, best_score, longest)
            )
    return best

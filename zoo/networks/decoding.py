"""Search for the best translation, token by token, over any decoder with explicit state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

NextTokens = Callable[[Tensor, Any, Any, int], tuple["Likely", Any]]


class Likely(NamedTuple):
    """The ``count`` most probable next tokens of each hypothesis, best first: each field is ``[B*K, count]``."""

    log_probabilities: Tensor
    tokens: Tensor


class Hypothesis(NamedTuple):
    """The ``tokens`` found for a sentence and their ``score``: the mean log-probability, including the end token."""

    tokens: list[int]
    score: float


def most_likely(log_probabilities: Tensor, count: int) -> Likely:
    """The ``count`` most probable of all tokens ``[B*K, V]``, or all if there are fewer."""
    return Likely(*log_probabilities.topk(min(count, log_probabilities.shape[-1])))


def select(state: Any, rows: Tensor) -> Any:
    """Select the ``rows`` of every tensor (dimension 0 is the batch) in nested tuples of state."""
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if state is None:
        return None
    parts = [select(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def beam_search(
    next_tokens: NextTokens,
    memory: Any,
    longest: Tensor,
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
    batch, k, device = len(longest), beam_size, longest.device
    sentence = torch.arange(batch, device=device)
    state = None
    scores = torch.full((batch, k), float("-inf"), dtype=torch.float32, device=device)
    scores[:, 0] = 0  # the k copies of a sentence start equal, so only one may be extended
    tokens = torch.full((batch, k, 1), begin, device=device)
    ended = torch.zeros(batch, dtype=torch.long, device=device)
    best_score = torch.full((batch,), float("-inf"), dtype=torch.float32, device=device)
    best = [Hypothesis([], float("-inf"))] * batch
    length = 0
    while len(sentence):
        length += 1
        # The best 2k of a sentence are among the best 2k of each of its hypotheses.
        likely, state = next_tokens(tokens[:, :, -1].reshape(-1), state, memory, 2 * k)
        total = scores.unsqueeze(-1) + likely.log_probabilities.view(len(sentence), k, -1)
        top, index = total.flatten(1).topk(2 * k)
        parent, token = index // total.shape[-1], likely.tokens.view(len(sentence), -1).gather(1, index)

        is_end = token == end
        ends_here = is_end[:, :k] & torch.isfinite(top[:, :k])
        at_limit = longest == length
        final = torch.where(ends_here, top[:, :k], float("-inf")) / length**length_penalty
        improved = final.max(dim=1)
        for row in torch.nonzero(improved.values > best_score).flatten().tolist():
            place = improved.indices[row]
            found = tokens[row, parent[row, place], 1:].tolist()
            best[sentence[row]] = Hypothesis(found, top[row, place].item() / length)
        best_score = torch.maximum(best_score, improved.values)
        ended = ended + ends_here.sum(dim=1)

        # Of the 2k candidates at most k end, so at least k are left to extend.
        keep = torch.where(is_end, float("-inf"), top).topk(k, dim=1).indices
        scores, parent, token = (t.gather(1, keep) for t in (top, parent, token))
        tokens = torch.cat([tokens.gather(1, parent.unsqueeze(-1).expand(-1, -1, length)), token.unsqueeze(-1)], 2)
        for row in torch.nonzero(at_limit & torch.isinf(best_score)).flatten().tolist():
            best[sentence[row]] = Hypothesis(tokens[row, 0, 1:].tolist(), scores[row, 0].item() / length)

        alive = torch.nonzero((ended < k) & ~at_limit).flatten()
        rows = (alive.unsqueeze(1) * k + parent[alive]).flatten()  # hypotheses to extend
        if k > 1 or len(alive) < len(sentence):
            state = select(state, rows)
        if len(alive) < len(sentence):
            memory = select(memory, alive)
        scores, tokens, sentence, ended, best_score, longest = (
            t[alive] for t in (scores, tokens, sentence, ended, best_score, longest)
        )
    return best

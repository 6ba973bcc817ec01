"""The search for the best translation, over decoders that are tables."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.networks.decoding import Hypothesis, beam_search, most_likely, select

BEGIN, END = 0, 1
NEVER = float("-inf")


class Parts(NamedTuple):
    one: Tensor
    other: Tensor


def test_rows_of_a_state_are_taken_in_every_part_of_it():
    one, other, rows = torch.arange(6).view(3, 2), torch.arange(3), torch.tensor([2, 0])
    found = select((Parts(one, other), None, [one]), rows)
    assert isinstance(found, tuple) and isinstance(found[0], Parts)
    assert torch.equal(found[0].one, one[rows]) and torch.equal(found[0].other, other[rows])
    assert found[1] is None and torch.equal(found[2][0], one[rows])


def table(*rows: dict[int, float]) -> Tensor:
    """Log-probabilities ``[tokens, tokens]`` of the next token after each; tokens not named in a row never come."""
    found = torch.full((len(rows), len(rows)), NEVER)
    for token, row in enumerate(rows):
        for following, value in row.items():
            found[token, following] = value
    return found


class Recorder:
    """A decoder that is a table and records its calls; its state counts the tokens of each hypothesis."""

    def __init__(self, chain: Tensor):
        self.chain = chain
        self.calls: list[tuple[list[int], list[int], list[int]]] = []

    def __call__(self, tokens: np.ndarray, state: Tensor | None, memory: np.ndarray, count: int):
        state = torch.zeros(len(tokens), dtype=torch.long) if state is None else state
        self.calls.append((tokens.tolist(), state.tolist(), memory.tolist()))
        return most_likely(self.chain[torch.from_numpy(tokens)], count), state + 1


def search(chain: Tensor, longest: list[int], beam: int, penalty: float = 0.0) -> tuple[list[Hypothesis], Recorder]:
    decoder = Recorder(chain)
    memory = np.arange(len(longest)) * 10
    return beam_search(decoder, memory, np.array(longest), beam, penalty, BEGIN, END), decoder


def test_a_sentence_that_is_done_leaves_the_batch_with_its_memory():
    chain = table({2: -0.1}, {}, {2: -0.1, END: -5.0})
    found, decoder = search(chain, [2, 4, 3], beam=1)
    assert [len(hypothesis.tokens) for hypothesis in found] == [2, 4, 3]
    assert [memory for _, _, memory in decoder.calls] == [[0, 10, 20], [0, 10, 20], [10, 20], [10]]
    assert [state for _, state, _ in decoder.calls] == [[0, 0, 0], [1, 1, 1], [2, 2], [3]]


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_the_search_ends_when_as_many_hypotheses_have_ended_as_the_beam_has(beam):
    # Ending is always by far the likeliest choice, so each token ends one hypothesis.
    chain = table({END: -0.1, 2: -3.0}, {}, {END: -0.1, 2: -3.0})
    found, decoder = search(chain, [20], beam)
    assert found == [Hypothesis([], pytest.approx(-0.1))]
    assert len(decoder.calls) == beam


def test_of_two_that_score_alike_the_one_that_ended_first_stays():
    chain = table({END: -1.0, 2: 0.0}, {}, {END: -1.0, 2: -5.0})
    found, _ = search(chain, [6], beam=2)
    assert found == [Hypothesis([], -1.0)]


def test_a_score_is_the_mean_log_probability_of_the_tokens_whatever_the_penalty():
    chain = table({2: -0.5}, {}, {3: -0.25}, {END: -0.75})
    for penalty in (0.0, 1.0, 2.5):
        assert search(chain, [9], beam=2, penalty=penalty)[0] == [Hypothesis([2, 3], -0.5)]
    assert search(chain, [2], beam=1)[0] == [Hypothesis([2, 3], -0.375)], "cut off, without an end to count"


def test_the_penalty_says_how_much_length_is_worth():
    chain = table({2: -1.0}, {}, {END: -1.0, 3: -0.1}, {END: -1.0})
    assert search(chain, [9], beam=2, penalty=0.0)[0][0].tokens == [2]
    assert search(chain, [9], beam=2, penalty=1.0)[0][0].tokens == [2, 3]

"""Fine-tuning: what is held out, which weights are kept, and the warning when a model forgets."""

import random
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from recipes import fine_tuning
from recipes.fine_tuning import PATIENCE, hold_out
from recipes.training import Training


@given(kinds=st.lists(st.integers(0, 5), max_size=80), seed=st.integers(0, 9))
def test_a_sixth_is_held_out_by_the_seed_and_some_example_of_each_kind_is_left(kinds, seed):
    examples = list(range(len(kinds)))
    rest, held = hold_out(examples, kinds, seed)
    assert sorted(rest + held) == examples and (rest, held) == hold_out(examples, kinds, seed)
    assert {kinds[e] for e in rest} == set(kinds)
    assert len(held) == min(len(kinds) // 6, len(kinds) - len(set(kinds)))


def test_other_seeds_hold_out_others_and_of_very_many_examples_not_ever_more():
    examples = list(range(3000))
    parts = [hold_out(examples, [None] * 3000, seed)[1] for seed in (0, 1)]
    assert parts[0] != parts[1] and len(parts[0]) == len(parts[1]) == fine_tuning.MOST_HELD_OUT


# A network of one layer, on points whose label is the sign of a direction


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 2).eval()


def points(count: int, seed: int, direction=(1.0, 1.0, 0.0, 0.0)) -> list[tuple[torch.Tensor, int]]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return [(row, int(row @ torch.tensor(direction) > 0)) for row in x]


def batches(examples, size, seed):
    order = random.Random(seed).sample(examples, len(examples))
    return [order[i : i + size] for i in range(0, len(order), size)]


def loss(model, batch) -> torch.Tensor:
    return F.cross_entropy(model(torch.stack([x for x, _ in batch])), torch.tensor([label for _, label in batch]))


def tune(model, examples, learning_rate=0.03, epochs=12, familiar=(), loss_of=loss):
    options = Training(epochs=epochs, learning_rate=learning_rate)
    kinds = [label for _, label in examples]
    return fine_tuning.tune(
        model, examples, batches, lambda batch, options: loss_of(model, batch), options, kinds, familiar
    )


def weights(model) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("learning_rate", [0.01, 0.3, 1.0])
def test_the_weights_with_the_lowest_held_out_loss_are_kept(learning_rate):
    model, examples = network(), points(60, 1)
    found = tune(model, examples, learning_rate)
    _, held = hold_out(examples, [label for _, label in examples], 0)
    assert found.held_out[found.kept] == min(found.held_out) < found.held_out[0]
    assert loss(model, held).item() == pytest.approx(found.held_out[found.kept], rel=1e-5)
    assert not model.training and len(found.held_out) == len(found.losses) + 1


def test_training_ends_once_the_held_out_loss_has_stopped_falling():
    examples = [(x, label if i % 3 else 1 - label) for i, (x, label) in enumerate(points(30, 2))]  # a third wrong
    found = tune(network(), examples, learning_rate=1.0, epochs=100)
    assert len(found.losses) == max(found.kept, 10) + PATIENCE < 100  # in the first ten the learning rate rises


def test_a_model_stays_as_it_was_where_no_epoch_makes_it_better():
    model = network()
    own = [(x, int(model(x).argmax())) for x, _ in points(60, 3)]
    with torch.no_grad():
        model.weight.mul_(100)  # the model is sure of its answers, and they are right
    before = weights(model)
    found = tune(model, own, learning_rate=1.0)
    assert found.kept == 0 and len(found.losses) == 2 + PATIENCE and same(weights(model), before)  # it rises in two
    assert "kept the weights as they were" in str(found)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_of_few_examples_none_is_held_out_and_all_epochs_run(count):
    model = network()
    found = tune(model, points(count, 4), epochs=9)
    assert found.held_out == [] and found.kept == len(found.losses) == 9 and found.losses[-1] < found.losses[0]
    assert "nothing was held out" in str(found)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_error_or_an_interrupt_the_model_is_as_it_was(error):
    model, calls = network(), []
    before = weights(model)

    def failing(model, batch):
        calls.append(batch)
        if len(calls) == 20:
            raise error("stop")
        return loss(model, batch)

    with pytest.raises(error):
        tune(model, points(60, 5), loss_of=failing)
    assert same(weights(model), before) and not model.training


def test_a_loss_that_is_not_finite_is_one_error_and_leaves_the_model_as_it_was():
    model = network()
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1; lower the learning rate"):
        tune(model, points(60, 6), loss_of=lambda model, batch: loss(model, batch) * float("nan"))
    assert same(weights(model), before)


def test_a_model_that_gets_worse_at_what_it_knew_is_warned_of_and_another_is_not():
    opposite = [(x, 1 - label) for x, label in points(60, 7)]
    model = network()
    tune(model, opposite, learning_rate=0.3)
    with pytest.warns(UserWarning, match=r"the model got worse at what it knew: its loss .* rose from 0\.\d+ to \d"):
        found = tune(model, points(60, 8), learning_rate=0.3, familiar=opposite[:9])
    assert found.familiar[1] == pytest.approx(loss(model, opposite[:9]).item(), rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tune(model, points(60, 8), learning_rate=0.01, familiar=points(9, 9))
    assert "loss on what it knew" in str(found)

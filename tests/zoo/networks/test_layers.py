"""Products in whole groups of rows: a row's result does not depend on the other rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import neurons
import zoo
from zoo.networks import gesture, sentiment
from zoo.networks.layers import ROW_GROUP, Linear, TokenConvolution, whole_row_groups, without_row_groups

sizes = st.sampled_from([16, 64, 256, 768])


@given(st.integers(1, 70), st.integers(0, 60), sizes, sizes, st.booleans(), st.booleans())
def test_some_rows_of_a_product_are_the_same_bits_as_in_all_of_them(rows, first, inputs, outputs, bias, gradients):
    layer, x = Linear(inputs, outputs, bias).eval(), torch.randn(130, inputs)
    here = slice(first, first + rows)
    with torch.set_grad_enabled(gradients):
        assert torch.equal(layer(x[here]), layer(x)[here])


@pytest.mark.parametrize("shape", [(5,), (3, 5), (16, 5), (2, 3, 5), (0, 5), (2, 0, 5)])
@pytest.mark.parametrize("training", [False, True])
def test_a_linear_layer_in_groups_of_rows_is_torch_s(shape, training):
    layer, x = Linear(5, 4).train(training), torch.randn(shape)
    y, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected)


def test_rows_of_zeros_are_added_up_to_whole_groups():
    x = torch.ones(ROW_GROUP + 1, 3)
    grouped = whole_row_groups(x, ROW_GROUP)
    assert torch.equal(grouped[: len(x)], x)
    assert torch.equal(grouped[len(x) :], torch.zeros(ROW_GROUP - 1, 3))
    assert whole_row_groups(x.expand(2, -1, -1), ROW_GROUP).shape == (2, 2 * ROW_GROUP, 3)
    assert whole_row_groups(grouped, ROW_GROUP) is grouped


def test_rows_are_added_in_evaluation_mode_only_and_not_where_operations_are_counted():
    layer, other, x = Linear(3, 3).eval(), Linear(3, 3).eval(), torch.ones(ROW_GROUP + 1, 3)
    assert len(layer.in_groups(x)) == 2 * ROW_GROUP
    with without_row_groups(nn.Sequential(layer)):
        assert layer.in_groups(x) is x
        assert other.in_groups(x) is not x
    assert len(layer.in_groups(x)) == 2 * ROW_GROUP
    assert layer.train().in_groups(x) is x


def test_a_profile_does_not_count_the_rows_that_are_added():
    layer = Linear(3, 5).eval()
    counts = zoo.profile(layer, torch.randn(7, 3)).counts
    assert (counts.dense_macs, counts.additions) == (7 * 3 * 5, 7 * 3 * 5 + 7 * 5)


@pytest.mark.parametrize("steps", [1, 6])
@torch.no_grad()
def test_a_sentence_s_convolution_is_the_same_bits_in_any_batch(steps):
    convolution = TokenConvolution(64, 128, kernel=3, causal=True).eval()
    x, past = torch.randn(steps, 13, 64), torch.randn(13, 2, 64)
    together, _ = convolution(x, past)
    for i in range(13):
        alone, _ = convolution(x[:, i : i + 1], past[i : i + 1])
        assert torch.equal(alone[:, 0], together[:, i])


LABELS = ["a", "b"]


@pytest.mark.parametrize(
    ("bias", "directions", "horizon"),
    [
        (lambda: sentiment.PooledReadout(sentiment.TextClassifierConfig(tuple(LABELS), 9, 0)).mixer.norm.bias, 2, 64),
        (lambda: gesture.GestureNetwork(gesture.GestureConfig(LABELS)).head.currents[1].bias, 1, 32),
    ],
    ids=["text classifier", "gesture network"],
)
def test_the_gates_of_a_new_network_start_with_time_constants_up_to_its_horizon(bias, directions, horizon):
    for half in bias().chunk(directions):
        expected = torch.zeros_like(half)
        neurons.start_gates(expected, horizon)
        assert torch.equal(half, expected) and expected.any()


def test_a_twin_without_gates_has_no_such_start():
    config = sentiment.TextClassifierConfig(tuple(LABELS), 9, 0, mixer="relu")
    assert not sentiment.PooledReadout(config).mixer.norm.bias.any()

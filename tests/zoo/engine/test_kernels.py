"""What the engine computes with, one by one, against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from zoo.engine import integers, kernels
from zoo.engine.instructions import LANES
from zoo.engine.program import SHORT


def spikes(rows: int, inputs: int, largest: int, rate: float, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    levels = chance.integers(-largest, largest + 1, (rows, inputs)) * (chance.random((rows, inputs)) < rate)
    return levels.astype(np.int8)


def weights(inputs: int, outputs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, (inputs, outputs)).astype(np.int8)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(levels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return levels.astype(np.int64) @ weight.astype(np.int64)


def by_events(levels: np.ndarray, weight: np.ndarray, largest: int) -> np.ndarray:
    sums = np.full((len(levels), weight.shape[1]), 99, np.int32)
    places, short = np.empty(weight.shape[0] + 1, np.int64), np.empty(weight.shape[1] + 3, np.int16)
    for row, out in zip(levels, sums):
        kernels.spike_product(row, weight, out, places, short, SHORT // (127 * largest))
    return sums


def by_matrices(levels: np.ndarray, weight: np.ndarray, largest: int) -> np.ndarray:
    sums = np.full((len(levels), weight.shape[1]), 99, np.int32)
    integers.matrix_product(levels, integers.held_for_products(weight, largest), sums)
    return sums


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 70),
    largest=st.sampled_from([1, 3, 7, 31, 63, 127]),
    rate=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_every_way_to_multiply_spikes_is_exact(rows, inputs, outputs, largest, rate, seed):
    levels, weight = spikes(rows, inputs, largest, rate, seed), weights(inputs, outputs, seed + 1)
    expected = exact(levels, weight)
    assert (by_events(levels, weight, largest) == expected).all()
    assert (by_matrices(levels, weight, largest) == expected).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers, "has_integer_units", lambda: False)
        assert (by_matrices(levels, weight, largest) == expected).all()


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("largest", [1, 7, 127])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_the_largest_spikes_and_weights_do_not_overflow(rows, sign, largest, units, monkeypatch):
    if not units:
        monkeypatch.setattr(integers, "has_integer_units", lambda: False)
    levels, weight = np.full((rows, 1100), largest, np.int8), np.full((1100, 33), 127 * sign, np.int8)
    assert (by_events(levels, weight, largest) == exact(levels, weight)).all()
    assert (by_matrices(levels, weight, largest) == exact(levels, weight)).all()


@pytest.mark.parametrize("seconds, exactly, units", [(1e-4, True, True), (1e-2, True, False), (1e-4, False, False)])
def test_products_of_integers_are_used_if_they_are_exact_and_about_as_fast_as_those_of_floats(
    seconds, exactly, units, monkeypatch
):
    monkeypatch.setattr(integers, "_seconds", lambda product, dtype: seconds if dtype == torch.int8 else 1e-4)
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.int() @ b.int()) - int(not exactly))
    assert integers.has_integer_units.__wrapped__() == units


def test_few_sparse_rows_are_multiplied_by_events_and_many_dense_ones_as_matrices():
    assert integers.by_events(spikes(1, 256, 7, 1.0, 0))
    assert integers.by_events(spikes(8, 256, 7, 0.05, 0))
    assert not integers.by_events(spikes(200, 256, 7, 1.0, 0))


@given(outputs=st.integers(1, 9), inputs=st.integers(1, 40), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_a_weight_of_integers_stays_the_same_integers(outputs, inputs, seed):
    first = integers.quantised(numbers(outputs, inputs, seed=seed % 1000), "weight")
    again = integers.quantised(torch.from_numpy((first.levels * first.scale).T), "weight")
    assert (first.levels == again.levels).all()
    assert np.allclose(first.scale, again.scale, rtol=1e-6, atol=0)


def test_integers_are_within_half_a_step_of_the_weight_and_reach_its_largest_value():
    weight = numbers(5, 30)
    found = integers.quantised(weight, "weight")
    assert (abs(found.levels).max(0) == 127).all()
    error = abs((found.levels * found.scale).T - weight.numpy())
    assert (error <= found.scale[:, None] * 0.5001).all()


def test_a_channel_of_zero_weights_is_zeros():
    found = integers.quantised(torch.tensor([[0.0, 0.0], [1.0, -2.0]]), "weight")
    assert found.levels.tolist() == [[0, 63], [0, -127]] and found.scale[0] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(value):
    with pytest.raises(ValueError, match=r"output\.weight has values that are not finite"):
        integers.quantised(torch.tensor([[1.0, value]]), "output.weight")


@pytest.mark.parametrize("size", [1, 15, 16, 32, 100])
def test_layer_norm_is_that_of_torch(size):
    x, weight, bias, out = numbers(size), numbers(size, seed=1), numbers(size, seed=2), np.empty(size, np.float32)
    kernels.layer_norm(x.numpy(), weight.numpy(), bias.numpy(), out, np.empty(LANES, np.float32))
    torch.testing.assert_close(torch.from_numpy(out), F.layer_norm(x, (size,), weight, bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("keys", "count"), [(1, 1), (7, 5), (16, 16), (40, 33)])
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_that_of_torch_over_the_keys_that_are_there(keys, count, heads):
    size = 32
    query, key, value = numbers(size), numbers(keys, size, seed=1), numbers(keys, size, seed=2)
    split = [x[:count].view(-1, heads, size // heads).transpose(0, 1) for x in (key, value)]
    expected = F.scaled_dot_product_attention(query.view(heads, 1, -1), *split).flatten()
    out, lanes = np.empty(size, np.float32), np.empty(LANES, np.float32)
    memory = key.T.contiguous().numpy(), value.contiguous().numpy()
    kernels.attend(query.numpy(), *memory, count, heads, out, np.empty(keys, np.float32), lanes)
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [3, 16, 70, 1000])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_the_best_are_those_of_torch_with_their_log_probabilities(size, count):
    logits = numbers(size) * 4
    logits[1] = float("-inf")
    values, places = np.empty(min(count, size), np.float32), np.empty(min(count, size), np.int64)
    kernels.best(logits.numpy(), np.empty(size, np.float32), values, places, np.empty(LANES, np.float32))
    expected = logits.log_softmax(-1).topk(len(values))
    assert places[values > -np.inf].tolist() == expected.indices[expected.values > -torch.inf].tolist()
    torch.testing.assert_close(torch.from_numpy(values), expected.values, rtol=1e-5, atol=1e-5)


def test_of_equal_logits_the_earlier_is_better():
    logits, values, places = np.zeros(200, np.float32), np.empty(3, np.float32), np.empty(3, np.int64)
    kernels.best(logits, np.empty(200, np.float32), values, places, np.empty(LANES, np.float32))
    assert places.tolist() == [0, 1, 2]

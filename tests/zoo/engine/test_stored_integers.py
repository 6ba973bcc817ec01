"""Weights of eight bits on disk."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_translator import PAIRS, translator

import zoo
from zoo import errors, files, weights
from zoo.engine.integers import exact_integers, round_to_integers, scales

SENTENCES = [german for german, _ in PAIRS]


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    exponent=st.integers(-60, 60),
    seed=st.integers(0, 2**31),
)
def test_a_rounded_weight_is_held_exactly_and_rounding_it_again_changes_nothing(shape, exponent, seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight[0] *= 0
    before = weight.clone()
    round_to_integers(weight)
    assert (weight - before).abs().amax() <= 0.5001 * scales(before).amax()
    levels, scale = exact_integers(weight)
    assert torch.equal(levels * scale.view(-1, *[1] * (len(shape) - 1)), weight)
    again = weight.clone()
    round_to_integers(again)
    assert torch.equal(again, weight)


@pytest.fixture
def plain(tmp_path):
    """A folder with weights in half precision."""
    return zoo.save(translator(), tmp_path / "plain")


@pytest.fixture
def rounded(plain):
    model = zoo.load(plain)
    model.round_weights()
    return model, zoo.save(model, plain.parent / "rounded")


def test_a_rounded_network_computes_the_same_in_integers_and_takes_little_more_than_half_the_bytes(plain, rounded):
    model, folder = rounded
    sizes = [(path / files.WEIGHTS).stat().st_size for path in (folder, plain)]
    assert sizes[0] < 0.7 * sizes[1]
    expected = zoo.load(plain).translate_scored(SENTENCES)
    loaded = zoo.load(folder)
    assert loaded.translate_scored(SENTENCES) == model.translate_scored(SENTENCES) == expected
    assert loaded.last_precision == "int8"


def test_all_weights_of_products_are_stored_as_integers_with_scales_and_load_as_they_were(rounded):
    model, folder = rounded
    stored = load_file(folder / files.WEIGHTS)
    expected = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.int8} == expected
    assert all(stored[name + weights.SCALE].shape == (len(stored[name]),) for name in expected)
    loaded = zoo.load(folder)
    for name, parameter in model.named_parameters():
        if name in expected:
            assert torch.equal(parameter, loaded.get_parameter(name))
    assert (zoo.save(loaded, folder.parent / "again") / files.WEIGHTS).read_bytes() == (
        folder / files.WEIGHTS
    ).read_bytes()


def test_a_network_that_was_loaded_from_integers_trains_and_is_saved_in_half_precision_where_it_changed(rounded):
    _, folder = rounded
    model = zoo.load(folder)
    with torch.no_grad():
        model.decoder[0].output.weight.add_(torch.randn_like(model.decoder[0].output.weight) * 0.01)
    stored = load_file(zoo.save(model, folder.parent / "tuned") / files.WEIGHTS)
    assert stored["decoder.0.output.weight"].dtype == torch.float16
    assert stored["decoder.1.output.weight"].dtype == torch.int8


def without_scale(stored, name):
    del stored[name + weights.SCALE]


def short_scale(stored, name):
    stored[name + weights.SCALE] = stored[name + weights.SCALE][1:].clone()


def half_scale(stored, name):
    stored[name + weights.SCALE] = stored[name + weights.SCALE].half()


def scale_of_a_float(stored, name):
    stored[name] = stored[name].half()


def integers_for_a_bias(stored, name):
    stored["output_bias"] = stored["output_bias"].to(torch.int8)


def nan_scale(stored, name):
    stored[name + weights.SCALE][0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (without_scale, errors.WeightsMismatchError, r"no tensor 'decoder.0.output.weight.scale', float32 \[32\]"),
        (short_scale, errors.WeightsMismatchError, r"scale' as float32 \[31\], where float32 \[32\] is expected"),
        (half_scale, errors.WeightsMismatchError, r"scale' as float16 \[32\], where float32 \[32\] is expected"),
        (scale_of_a_float, errors.WeightsMismatchError, "an unexpected tensor 'decoder.0.output.weight.scale'"),
        (integers_for_a_bias, errors.WeightsMismatchError, "'output_bias' as int8"),
        (nan_scale, errors.DamagedModelError, "decoder.0.output.weight.scale"),
    ],
)
def test_integers_without_their_scales_are_refused(rounded, damage, error, message):
    _, folder = rounded
    stored = load_file(folder / files.WEIGHTS)
    damage(stored, "decoder.0.output.weight")
    save_file(stored, folder / files.WEIGHTS)
    config = json.loads((folder / files.CONFIG).read_bytes())
    config["files"][files.WEIGHTS] = files.describe((folder / files.WEIGHTS).read_bytes())
    (folder / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))
    with pytest.raises(error, match=message):
        zoo.load(folder)


def test_a_folder_of_the_format_before_loads(plain):
    expected = zoo.load(plain).state_dict()
    config = json.loads((plain / files.CONFIG).read_bytes()) | {"format_version": 2}
    (plain / files.CONFIG).write_bytes(files.to_json(config | {"digest": files._digest(config)}))
    found = zoo.load(plain).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

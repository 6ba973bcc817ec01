"""Saving: whole or not at all, compact, and the same bytes each time."""

import copy
import functools
import io
import itertools
import json
import os
import resource
import shutil
import signal
import time

import pytest
import safetensors.torch
import tiny_network
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import neurons
import zoo
from zoo import errors, files, weights


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(folder):
    return safetensors.torch.load((folder / files.WEIGHTS).read_bytes())


# What is written


def test_a_model_folder_holds_exactly_these_files(saved):
    assert sorted(contents(saved)) == ["README.md", "config.json", "labels.json", "metrics.json", "model.safetensors"]


def test_the_config_says_all_that_is_needed(network, saved):
    config = json.loads((saved / files.CONFIG).read_text())
    assert config["name"] == "tiny"
    assert config["architecture"] == "tiny"
    assert config["architecture_config"] == {"width": 4}
    assert config["task"] == "translation"
    assert config["parameters"] == sum(p.numel() for p in network.parameters())
    assert config["versions"]["snn-zoo"] == zoo.__version__
    for name in (files.WEIGHTS, "labels.json"):
        assert config["files"][name] == files.describe((saved / name).read_bytes())


def test_the_metrics_are_written_as_they_were_given_with_the_hash_of_the_weights_they_are_of(saved, metrics):
    weights = files.describe((saved / files.WEIGHTS).read_bytes())["sha256"]
    assert json.loads((saved / files.METRICS).read_text()) == {"weights_sha256": weights} | metrics


def test_a_model_that_was_not_measured_can_be_saved(network, tmp_path):
    folder = zoo.save(network, tmp_path / "mine")
    assert json.loads((folder / files.METRICS).read_text()) == {}
    assert "Nothing was measured yet" in (folder / files.CARD).read_text()


def test_weights_are_stored_in_half_precision_and_single_numbers_and_buffers_in_float32(saved):
    dtypes = {name: tensor.dtype for name, tensor in stored(saved).items()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float16} == {
        "embedding.weight",
        "currents.weight",
        "currents.bias",
        "readout.bias",
    }
    assert dtypes["temperature"] == dtypes["neuron.spike_range.maximum"] == torch.float32


def earlier(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as earlier releases stored them: averages of a tracked range that start from zero."""
    tensors = dict(tensors)
    for prefix in {name.removesuffix("current") for name in tensors if name.endswith(".current")}:
        corrected = 1 - 0.9 ** tensors[f"{prefix}updates"]
        tensors[f"{prefix}initial"] = torch.ones_like(tensors.pop(f"{prefix}current"))
        tensors |= {f"{prefix}{part}": tensors[f"{prefix}{part}"] * corrected for part in ("minimum", "maximum")}
    return tensors


@pytest.mark.parametrize("tied", [False, True])
def test_weights_of_earlier_releases_are_read_and_saved_in_the_form_of_now(tied, tmp_path):
    neuron = neurons.MultiBitLIF()
    neuron(9 * torch.randn(4, 2, 3))
    network = nn.Sequential(neuron, neuron if tied else copy.deepcopy(neuron))
    now = weights.pack(network)
    before = earlier(safetensors.torch.load(now))
    other = nn.Sequential(neurons.MultiBitLIF(initial_range=5.0), neurons.MultiBitLIF())
    if tied:
        other[1] = other[0]
    weights.unpack(safetensors.torch.save(before), other, tmp_path)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)
    assert safetensors.torch.load(weights.pack(other)).keys() == safetensors.torch.load(now).keys()
    del before["0.spike_range.initial"]
    with pytest.raises(errors.WeightsMismatchError, match=r"0\.spike_range\.current"):
        weights.unpack(safetensors.torch.save(before), other, tmp_path)


@pytest.mark.parametrize(
    "values", [torch.tensor([2**40 + 1, -1]), torch.tensor([True, False]), torch.tensor([0.1, 1e-9])]
)
def test_buffers_keep_their_type_and_every_bit(values):
    network = nn.Module()
    network.register_buffer("known", values)
    other = nn.Module()
    other.register_buffer("known", torch.zeros_like(values))
    weights.unpack(weights.pack(network), other, "here")
    assert other.known.dtype == values.dtype and torch.equal(other.known, values)


def test_tied_weights_are_stored_once(saved):
    assert "embedding.weight" in stored(saved)
    assert "readout.weight" not in stored(saved)


def test_a_parameter_that_half_precision_cannot_hold_stays_in_float32(network, tmp_path):
    with torch.no_grad():
        network.currents.bias[0] = 1e6
    folder = zoo.save(network, tmp_path / "large")
    assert stored(folder)["currents.bias"].dtype == torch.float32
    assert torch.equal(zoo.load(folder).currents.bias, network.currents.bias)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
def test_weights_packed_unpacked_and_packed_again_are_the_same_bytes(values):
    network, other = tiny_network.trained(), tiny_network.trained()
    with torch.no_grad():
        network.currents.bias.copy_(torch.tensor(values))
    packed = weights.pack(network)
    weights.unpack(packed, other, files.WEIGHTS)
    assert weights.pack(other) == packed
    assert torch.allclose(other.currents.bias, network.currents.bias, rtol=1e-3, atol=1e-4)


def test_saving_a_loaded_model_gives_the_same_bytes(saved, metrics, tmp_path):
    again = zoo.save(zoo.load(saved), tmp_path / "elsewhere" / "tiny", metrics)
    assert contents(again) == contents(saved)


def test_a_half_precision_or_double_network_is_saved_as_any_other(network, saved, tmp_path):
    for kind in (torch.half, torch.double):
        folder = zoo.save(tiny_network.trained().to(kind), tmp_path / "other" / "tiny")
        assert {tensor.dtype for tensor in stored(folder).values()} == {torch.float16, torch.float32}
        assert torch.equal(stored(folder)["embedding.weight"], stored(saved)["embedding.weight"])


def test_saving_changes_nothing_in_the_network(network, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    zoo.save(network, tmp_path / "tiny")
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# Where it is written


def test_saving_replaces_the_model_that_was_there(network, saved):
    before = (saved / files.WEIGHTS).read_bytes()
    with torch.no_grad():
        network.embedding.weight += 1
    zoo.save(network, saved)
    assert (saved / files.WEIGHTS).read_bytes() != before
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


def test_saving_replaces_an_empty_folder(network, tmp_path):
    (tmp_path / "empty").mkdir()
    assert zoo.load(zoo.save(network, str(tmp_path / "empty"))).words == network.words


def test_a_new_folder_may_be_read_by_whoever_may_read_its_neighbours(network, tmp_path):
    (tmp_path / "neighbour").mkdir()
    folder = zoo.save(network, tmp_path / "mine")
    assert folder.stat().st_mode == (tmp_path / "neighbour").stat().st_mode


def test_a_folder_that_holds_anything_else_is_left_alone(network, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="neither empty nor a model's folder"):
        zoo.save(network, tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_folder_of_another_library_is_left_alone(network, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(FileExistsError, match="neither empty nor a model's folder"):
        zoo.save(network, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"theirs"


def test_a_model_folder_with_files_of_the_users_is_left_alone(network, saved):
    (saved / "notes.txt").write_text("mine")
    before = contents(saved)
    with pytest.raises(FileExistsError, match=r"notes.txt"):
        zoo.save(network, saved)
    assert contents(saved) == before


def test_the_pictures_of_the_card_are_saved_with_it_and_replaced_with_it(network, tmp_path):
    picture = b"\x89PNG\r\n\x1a\n and so on"
    metrics = {"costs": {"inputs": "val", "rows": [], "comparison": [], "plot": "costs.png"}}
    zoo.save(network, tmp_path / "model", metrics, {"costs.png": picture})
    assert (tmp_path / "model" / "costs.png").read_bytes() == picture
    zoo.save(network, tmp_path / "model")
    assert not (tmp_path / "model" / "costs.png").exists()
    for pictures, message in (
        ({}, r"shows the pictures \['costs.png'\]; got \[\]"),
        ({"costs.png": picture, "other.png": picture}, r"got \['costs.png', 'other.png'\]"),
        ({"costs.png": b"GIF89a"}, "'costs.png' is no PNG file"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.save(network, tmp_path / "model", metrics, pictures)
    assert zoo.load(tmp_path / "model")


def test_a_file_in_the_place_of_the_folder_is_refused(network, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError, match="taken is a file"):
        zoo.save(network, tmp_path / "taken")


# What is refused, with the previous model unharmed


def assert_unharmed(saved, before):
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(network, saved, value):
    before = contents(saved)
    with torch.no_grad():
        network.currents.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"'currents.weight' holds NaN or infinity"):
        zoo.save(network, saved)
    assert_unharmed(saved, before)


def test_a_network_that_would_load_as_another_is_refused(network, saved):
    before = contents(saved)
    network.currents = nn.Linear(4, 8, bias=False)
    with pytest.raises(ValueError, match=r"TinyNetwork was not saved.*no tensor 'currents.bias'"):
        zoo.save(network, saved)
    assert_unharmed(saved, before)


def test_weights_that_were_tied_after_construction_are_refused(saved):
    network = tiny_network.TinyNetwork(width=5)
    network.currents.bias = nn.Parameter(torch.zeros(10))
    network.readout.bias = nn.Parameter(torch.zeros(5))
    network.embedding = nn.Embedding(5, 5)
    with pytest.raises(ValueError, match=r"was not saved.*'readout.weight'"):
        zoo.save(network, saved)


def test_a_network_that_would_load_with_another_file_is_refused(network, saved):
    before = contents(saved)
    network.assets = lambda: {"labels.json": b'["a","dog","runs","through","snow"]'}
    with pytest.raises(ValueError, match=r"was not saved.*labels.json differs"):
        zoo.save(network, saved)
    assert_unharmed(saved, before)


def test_a_network_that_would_load_with_another_configuration_is_refused(network, saved):
    before = contents(saved)
    network.config = {"width": 4, "depth": 2}
    with pytest.raises(ValueError, match=r"was not saved.*configuration differs"):
        zoo.save(network, saved)
    assert_unharmed(saved, before)


def test_a_file_name_that_no_model_may_have_is_refused(network, saved):
    before = contents(saved)
    network.assets = lambda: {"../labels.json": b"[]"}
    with pytest.raises(ValueError, match=r"an asset '\.\./labels.json'"):
        zoo.save(network, saved)
    assert_unharmed(saved, before)


def test_metrics_that_no_card_can_be_made_of_are_refused(network, saved):
    before = contents(saved)
    for metrics in ({"bleu": 43.5}, {"results": [{"name": "tiny", "bleu": float("nan")}]}):
        with pytest.raises(ValueError):
            zoo.save(network, saved, metrics)
    assert_unharmed(saved, before)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_disk_that_fails_at_the_last_moment_leaves_the_old_model(network, saved, monkeypatch, failing):
    before = contents(saved)
    rename, calls = os.rename, []

    def failing_rename(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing_rename)
    with pytest.raises(OSError, match="the disk is gone"):
        zoo.save(network, saved)
    assert_unharmed(saved, before)


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_kill_between_any_two_steps_loses_no_model(network, saved, monkeypatch, killed_at):
    before, changed = contents(saved), copy.deepcopy(network)
    changed.readout.bias.data += 1
    child = os.fork()
    if child == 0:  # a real process, which ends without cleaning up
        steps = itertools.count(1)

        def step(act, *given, **options):
            os._exit(9) if next(steps) == killed_at else act(*given, **options)

        monkeypatch.setattr(os, "rename", functools.partial(step, os.rename))
        monkeypatch.setattr(shutil, "rmtree", functools.partial(step, shutil.rmtree))
        zoo.save(changed, saved)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    if killed_at == 2:
        with pytest.raises(FileNotFoundError, match=r"interrupted: the model that was there is '.*\.tiny\.previous-"):
            zoo.load(saved)
        with pytest.raises(TypeError):  # the next save puts the model back, whether it succeeds or fails
            zoo.save(nn.Linear(1, 1), saved)
    whole = contents(saved)
    assert (whole == before) == (killed_at < 3)
    assert contents(zoo.save(zoo.load(saved), saved))[files.WEIGHTS] == whole[files.WEIGHTS]


def test_what_killed_saves_left_is_removed_an_hour_later_and_no_other_folders(network, saved, monkeypatch):
    left = [saved.parent / name for name in (".tiny.saving-1", ".tiny.previous-2")]
    kept = [saved.parent / name for name in (".tiny.saved", ".small.saving-1", "tiny.previous-1")]
    for folder in (*left, *kept):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half of it")
    zoo.save(network, saved)
    assert all(folder.exists() for folder in (*left, *kept))  # another process may be writing there
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    zoo.save(network, saved)
    assert not any(folder.exists() for folder in left) and all(folder.exists() for folder in kept)


def test_a_full_disk_is_one_error_that_names_the_file_and_leaves_the_old_model(network, saved):
    before = contents(saved)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        with pytest.raises(OSError, match=r"\.tiny\.saving-.*model\.safetensors"):
            zoo.save(network, saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, usual)
    assert_unharmed(saved, before)


def test_a_network_that_is_no_architecture_is_refused(tmp_path):
    class Wider(tiny_network.TinyNetwork):
        pass

    for network in (nn.Linear(2, 2), Wider(), nn.Sequential(tiny_network.trained())):
        with pytest.raises(TypeError, match=f"{type(network).__name__} is no registered architecture"):
            zoo.save(network, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("dtype", weights._TYPES.values(), ids=str)
def test_a_header_of_every_type_is_read_as_the_library_reads_it(dtype):
    tensors = {"known": torch.zeros(3, 2, dtype=dtype), "one": torch.ones((), dtype=dtype)}
    data = safetensors.torch.save(tensors, {"format": "pt"})  # other libraries' metadata of a file are no tensors
    header = weights.read_header(io.BytesIO(data), len(data), "here")
    read = safetensors.torch.load(data)
    assert header == {name: weights.Stored(tensor.dtype, [*tensor.shape]) for name, tensor in read.items()}
    assert header["known"].dtype == dtype


def test_state_that_is_no_tensor_is_refused_by_name():
    class Counts(nn.Module):
        def get_extra_state(self):
            return {"calls": 3}

    with pytest.raises(ValueError, match="'_extra_state' cannot be stored: it is no tensor but dict"):
        weights.pack(Counts())

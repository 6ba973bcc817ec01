"""Loading: by name, repository or folder; strict, checked, and without side effects."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import tiny_network
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neurons
import zoo
from zoo import errors, files

CHECKOUT = Path(zoo.__file__).parent.parent


def edit_config(folder, **changes):
    path = folder / files.CONFIG
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    version = config.get("format_version")
    path.write_text(
        json.dumps(
            files.sealed(config) | {"format_version": version} if version not in (2, 3) else files.sealed(config)
        )
    )


def replace_weights(folder, change):
    """Change the tensors in the file and record its new hash, as a careless tool would."""
    path = folder / files.WEIGHTS
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    config = json.loads((folder / files.CONFIG).read_text())
    edit_config(folder, files={**config["files"], files.WEIGHTS: files.describe(path.read_bytes())})


def python(code, *arguments, **options):
    """Run code in a new interpreter, from the checkout."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, **options)


# What comes back


def test_a_loaded_model_computes_what_the_saved_one_did_up_to_half_precision(network, saved):
    tokens = torch.randint(len(tiny_network.WORDS), (7, 3), generator=torch.Generator().manual_seed(1))
    loaded = zoo.load(saved)
    currents = network.currents(network.embedding(tokens))
    torch.testing.assert_close(loaded.currents(loaded.embedding(tokens)), currents, atol=2e-3, rtol=2e-3)
    assert loaded.translate(["Hund", "Ein Hund rennt"]) == network.translate(["Hund", "Ein Hund rennt"])


def test_a_loaded_model_is_in_evaluation_mode_and_in_float32(saved):
    loaded = zoo.load(saved)
    assert not any(module.training for module in loaded.modules())
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


def test_tracked_ranges_and_single_numbers_come_back_exactly(network, saved):
    loaded = zoo.load(saved)
    assert loaded.neuron.spike_range.updates == 1
    assert torch.equal(loaded.neuron.spike_range.value(), network.neuron.spike_range.value())
    assert torch.equal(loaded.temperature, network.temperature)


def test_tied_weights_come_back_tied(saved):
    loaded = zoo.load(saved)
    assert loaded.readout.weight is loaded.embedding.weight


def test_each_load_gives_a_model_of_its_own(saved):
    first, second = zoo.load(saved), zoo.load(saved)
    with torch.no_grad():
        first.embedding.weight.zero_()
    assert second.embedding.weight.abs().sum() > 0


def test_loading_leaves_the_random_numbers_as_they_were(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zoo.load(saved)
    assert torch.equal(torch.rand(3), expected)


def test_the_file_beside_the_weights_comes_back(tmp_path):
    words = ["eins", "zwei", "drei"]
    loaded = zoo.load(zoo.save(tiny_network.TinyNetwork(words=words), tmp_path / "counting"))
    assert loaded.words == words
    assert loaded.embedding.num_embeddings == 3


# By which name


def test_a_bare_name_is_a_bundled_model(bundled):
    assert isinstance(zoo.load("tiny"), tiny_network.TinyNetwork)


def test_a_bundled_model_needs_neither_a_network_nor_the_hubs_client(bundled):
    code = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.path.insert(0, "tests")
import pathlib, tiny_network, zoo
zoo.registry.MODEL_CARDS = pathlib.Path(sys.argv[1])
zoo.load("tiny").translate(["Hund"])
assert "huggingface_hub" not in sys.modules
"""
    result = python(code, bundled.parent)
    assert result.returncode == 0, result.stderr


def test_a_typo_gets_a_suggestion(bundled):
    with pytest.raises(errors.UnknownNameError, match="no bundled model is called 'tinny'; did you mean 'tiny'"):
        zoo.load("tinny")


def test_a_name_like_no_other_gets_the_list(bundled):
    with pytest.raises(ValueError, match="there are: tiny"):
        zoo.load("transformer-9000")


def test_a_bare_name_never_means_a_local_folder(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    with pytest.raises(ValueError, match=r"write '\./tiny'"):
        zoo.load("tiny")


@pytest.mark.parametrize("name", ["./tiny", "../cards/tiny", Path("tiny"), "{absolute}"])
def test_a_path_means_a_local_folder(saved, monkeypatch, name):
    monkeypatch.chdir(saved.parent)
    assert zoo.load(str(saved) if name == "{absolute}" else name).words == tiny_network.WORDS


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        zoo.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", "a/b/c", "a b", "-"])
def test_text_that_is_no_name_at_all_is_refused(bundled, name):
    with pytest.raises(ValueError, match="no bundled model is called"):
        zoo.load(name)


@pytest.mark.parametrize("name", [None, 3, b"tiny", ["tiny"]])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(TypeError, match="named by text or a path"):
        zoo.load(name)


def test_a_revision_of_a_bundled_model_or_folder_is_refused(bundled):
    for name in ("tiny", bundled):
        with pytest.raises(ValueError, match="revision='main' chooses a commit on the Hub"):
            zoo.load(name, revision="main")


# Devices and backends


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_device_may_be_text_or_a_device(saved, device):
    assert zoo.load(saved, device=device).embedding.weight.device.type == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", 3.5])
def test_a_device_that_cannot_be_used_is_named(saved, device):
    with pytest.raises(ValueError, match=f"device {str(device)!r} cannot be used"):
        zoo.load(saved, device=device)


ASKED = {
    "lite-snn-multi30k": lambda model: model.translate(["Hund"]),
    "lite-snn-imdb": lambda model: model.classify(["A good film."]),
    "lite-snn-dvs-gesture": lambda model: model.stream().push({"t": [0, 90000], "x": [1, 2], "y": [1, 2], "p": [0, 1]}),
    "improved-snn-librispeech": lambda model: model.transcribe(torch.rand(16_000), 16_000),
    "improved-snn-timit": lambda model: model.stream(),
}


@pytest.mark.parametrize("name", zoo.list_models())
def test_a_model_on_the_meta_device_says_that_it_can_neither_answer_nor_be_saved(name, tmp_path):
    model = zoo.load(name).to("meta")
    for use in (ASKED[name], lambda model: zoo.save(model, tmp_path / "model")):
        with pytest.raises(ValueError, match="is on the meta device, which holds shapes and no values"):
            use(model)
    assert not any(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_is_moved_to_the_device(saved):
    loaded = zoo.load(saved, device="cuda")
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cuda"}
    assert loaded.translate(["Hund"]) == zoo.load(saved).translate(["Hund"])


def test_the_backend_reaches_every_neuron(saved):
    loaded = zoo.load(saved, backend="torch")
    assert [m.backend for m in loaded.modules() if isinstance(m, neurons.Neuron)] == ["torch"]
    loaded.translate(["Hund"])
    assert loaded.neuron.last_backend == "torch"


def test_an_unknown_backend_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="backend must be one of auto, torch, cpu, cupy; got 'tourch'"):
        zoo.load("a model that is not there", backend="tourch")


# Damaged files


def test_truncated_weights_are_refused_with_both_sizes(saved):
    path = saved / files.WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(errors.DamagedModelError, match=f"expected {len(data)} bytes, found {len(data) - 10}"):
        zoo.load(saved)


def test_altered_weights_are_refused_with_both_hashes(saved):
    path = saved / files.WEIGHTS
    data = bytearray(path.read_bytes())
    expected = files.describe(bytes(data))["sha256"]
    data[-1] ^= 1
    path.write_bytes(data)
    found = files.describe(bytes(data))["sha256"]
    with pytest.raises(errors.DamagedModelError, match=f"expected SHA-256 {expected}, found {found}"):
        zoo.load(saved)


@pytest.mark.parametrize("name", [files.WEIGHTS, "labels.json"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.data())
def test_any_flipped_byte_is_refused(saved, name, draws):
    path = saved / name
    original = path.read_bytes()
    place = draws.draw(st.integers(0, len(original) - 1))
    flip = draws.draw(st.integers(1, 255))
    path.write_bytes(original[:place] + bytes([original[place] ^ flip]) + original[place + 1 :])
    try:
        with pytest.raises(errors.DamagedModelError, match=name):
            zoo.load(saved)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("name", [files.WEIGHTS, "labels.json"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.data())
def test_any_truncation_or_addition_is_refused(saved, name, draws):
    path = saved / name
    original = path.read_bytes()
    cut = original[: draws.draw(st.integers(0, len(original) - 1))]
    path.write_bytes(draws.draw(st.sampled_from([cut, original + original[:3]])))
    try:
        with pytest.raises(errors.DamagedModelError, match=name):
            zoo.load(saved)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("name", [files.WEIGHTS, files.CONFIG, "labels.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(errors.DamagedModelError, match=f"{name} is missing"):
        zoo.load(saved)


def test_a_pickle_in_place_of_the_weights_is_never_opened(saved):
    path = saved / files.WEIGHTS
    torch.save({"embedding.weight": torch.zeros(2)}, path)
    record = files.describe(path.read_bytes())
    edit_config(saved, files={**json.loads((saved / files.CONFIG).read_text())["files"], files.WEIGHTS: record})
    with pytest.raises(errors.DamagedModelError, match="is no safetensors file"):
        zoo.load(saved)


# Tensors that do not fit the network


def test_a_missing_tensor_is_named(saved):
    replace_weights(saved, lambda tensors: tensors.pop("currents.bias"))
    with pytest.raises(errors.WeightsMismatchError, match=r"no tensor 'currents.bias', float32 \[8\]"):
        zoo.load(saved)


def test_an_unexpected_tensor_is_named(saved):
    replace_weights(saved, lambda tensors: tensors.update(extra=torch.zeros(2)))
    with pytest.raises(errors.WeightsMismatchError, match="unexpected tensor 'extra'"):
        zoo.load(saved)


def test_a_tensor_tied_in_the_network_may_not_be_stored_twice(saved):
    replace_weights(saved, lambda t: t.update({"readout.weight": t["embedding.weight"].clone()}))
    with pytest.raises(errors.WeightsMismatchError, match=r"unexpected tensor 'readout.weight'"):
        zoo.load(saved)


def test_a_misshapen_tensor_is_named_with_both_shapes(saved):
    replace_weights(saved, lambda tensors: tensors.update({"currents.bias": torch.zeros(8, 1)}))
    with pytest.raises(errors.WeightsMismatchError, match=r"'currents.bias' as float32 \[8, 1\].*float32 \[8\]"):
        zoo.load(saved)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_a_tensor_that_would_lose_precision_is_refused(saved, dtype):
    try:
        replace_weights(saved, lambda t: t.update({"currents.bias": t["currents.bias"].to(dtype)}))
    except KeyError:
        pytest.skip(f"this release of safetensors cannot write {dtype}")
    with pytest.raises(errors.WeightsMismatchError, match=f"'currents.bias' as {str(dtype)[6:]}"):
        zoo.load(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_tensor_in_a_type_without_loss_is_loaded_to_float32(saved, dtype):
    replace_weights(saved, lambda t: t.update({"currents.bias": torch.ones(8, dtype=dtype)}))
    assert torch.equal(zoo.load(saved).currents.bias, torch.ones(8))


def test_many_wrong_tensors_make_one_short_error(saved):
    replace_weights(saved, lambda t: t.update({f"extra{i}": torch.zeros(1) for i in range(20)}))
    with pytest.raises(errors.WeightsMismatchError, match="and 15 more"):
        zoo.load(saved)


# Configs


def test_a_config_of_a_newer_format_asks_for_an_upgrade(saved):
    edit_config(saved, format_version=files.FORMAT_VERSION + 1, something_new={}, files=None)
    with pytest.raises(errors.NewerFormatError, match=r"format_version 4.*reads up to 3; upgrade it with: pip install"):
        zoo.load(saved)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "format_version is None"),
        ('{"format_version": true}', "format_version is True"),
        ('{"format_version": "1"}', "format_version is '1'"),
        ('{"format_version": 1}', "has no 'name'"),
        (b"\xff\xfe\x00", "is not JSON"),
    ],
)
def test_a_config_that_is_none_is_refused(saved, text, problem):
    (saved / files.CONFIG).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(errors.DamagedModelError, match=f"config.json .*{problem}"):
        zoo.load(saved)


@pytest.mark.parametrize("key", ["name", "architecture", "architecture_config", "task", "parameters", "files"])
def test_a_config_without_one_of_its_keys_is_refused(saved, key):
    edit_config(saved, **{key: None})
    with pytest.raises(errors.DamagedModelError, match=f"has no '{key}'"):
        zoo.load(saved)


def test_a_config_with_a_value_of_another_type_is_refused(saved):
    edit_config(saved, parameters="many")
    with pytest.raises(errors.DamagedModelError, match="'many' for 'parameters', which must be of type int"):
        zoo.load(saved)


@pytest.mark.parametrize(
    "name", ["../secret.json", "/etc/passwd", "code.py", "weights.pkl", "metrics.json", "a/b.json"]
)
def test_a_config_that_names_a_file_no_model_may_have_is_refused(saved, name):
    records = json.loads((saved / files.CONFIG).read_text())["files"]
    edit_config(saved, files={**records, name: records["labels.json"]})
    with pytest.raises(errors.DamagedModelError, match="which no model may have"):
        zoo.load(saved)


@pytest.mark.parametrize("record", [{}, {"sha256": "abc", "bytes": 3}, {"sha256": "0" * 64, "bytes": "3"}, None])
def test_a_record_without_hash_and_size_is_refused(saved, record):
    edit_config(saved, files={files.WEIGHTS: record})
    with pytest.raises(errors.DamagedModelError, match=r"has no SHA-256 and size of 'model.safetensors'"):
        zoo.load(saved)


def test_weights_without_a_record_are_refused(saved):
    records = json.loads((saved / files.CONFIG).read_text())["files"]
    edit_config(saved, files={"labels.json": records["labels.json"]})
    with pytest.raises(errors.DamagedModelError, match=r"no record of 'model.safetensors'"):
        zoo.load(saved)


def test_an_unknown_architecture_gets_a_suggestion(saved):
    edit_config(saved, architecture="tinny")
    with pytest.raises(ValueError, match="no architecture is called 'tinny'; did you mean 'tiny'"):
        zoo.load(saved)


def test_a_config_with_another_task_than_the_architectures_is_refused(saved):
    edit_config(saved, task="text-classification")
    with pytest.raises(errors.DamagedModelError, match=r"says the task is 'text-classification'.*for 'translation'"):
        zoo.load(saved)


@pytest.mark.parametrize("config", [{}, {"width": "wide"}])
def test_a_config_that_the_architecture_cannot_use_is_refused(saved, config):
    edit_config(saved, architecture_config=config)
    with pytest.raises(errors.DamagedModelError, match="does not fit the architecture 'tiny'"):
        zoo.load(saved)


def test_a_config_of_another_width_is_refused_for_its_tensors(saved):
    edit_config(saved, architecture_config={"width": 6})
    with pytest.raises(errors.WeightsMismatchError, match=r"embedding.weight"):
        zoo.load(saved)


# What importing costs


def test_importing_the_zoo_and_asking_it_imports_no_torch(bundled):
    code = """
import pathlib, sys, zoo
zoo.registry.MODEL_CARDS = pathlib.Path(sys.argv[1])
assert zoo.list_models() == ["tiny"]
assert zoo.info("tiny").parameters > 0
assert {"load", "save"} <= set(dir(zoo))
heavy = {"torch", "numpy", "huggingface_hub", "typer"} & set(sys.modules)
assert not heavy, heavy
"""
    result = python(code, bundled.parent)
    assert result.returncode == 0, result.stderr


def test_the_zoo_has_no_other_attributes():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        zoo.laod  # noqa: B018

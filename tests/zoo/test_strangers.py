"""Untrusted model folders: refused with a documented error, at a cost in proportion to the folder."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer
from typer.testing import CliRunner

import zoo
from zoo import errors, files, saving, strict_json, weights
from zoo.command import app
from zoo.inputs.tokenizer import read_tokenizer
from zoo.networks.translation import SPECIAL_TOKENS
from zoo.registry import MODEL_CARDS

BUNDLED = sorted(path.parent.name for path in MODEL_CARDS.glob("*/config.json"))
LOAD = """
import pathlib, resource, sys, time, torch, zoo
from zoo.networks import gesture, sentiment, translation
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
begun = time.process_time()
try:
    zoo.load(sys.argv[1])
except (zoo.errors.DamagedModelError, zoo.errors.WeightsMismatchError) as error:
    print(type(error).__name__, str(error))
"""


@pytest.fixture(params=BUNDLED)
def folder(request, tmp_path):
    """A copy of a bundled model."""
    return shutil.copytree(MODEL_CARDS / request.param, tmp_path / request.param)


def reseal(folder, **changes):
    """Record the files as they now are, as an attacker can, with other fields of the architecture's config."""
    config = json.loads((folder / files.CONFIG).read_text())
    config["architecture_config"] |= changes
    for name in config["files"]:
        config["files"][name] = files.describe((folder / name).read_bytes())
    (folder / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))


def refused(folder):
    """The output of a process with little memory and time that loads the folder."""
    done = subprocess.run([sys.executable, "-c", LOAD, folder], cwd=MODEL_CARDS.parent, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr[-2000:]
    return done.stdout


# Configs that do not match the weights


@pytest.mark.parametrize("name", BUNDLED)
def test_a_setting_of_any_size_is_refused_before_a_network_of_it_is_built(name, tmp_path):
    config = json.loads((MODEL_CARDS / name / files.CONFIG).read_text())["architecture_config"]
    harmless = {"longest", "pool", "bin_size", "height", "kernel"}
    numbers = [key for key, value in config.items() if type(value) is int and key not in harmless]
    assert len(numbers) >= 4
    for number in numbers:
        for size in (10**6, 2**62):
            folder = shutil.copytree(MODEL_CARDS / name, tmp_path / f"{number}{size}")
            reseal(folder, **{number: size})
            with pytest.raises((errors.DamagedModelError, errors.WeightsMismatchError)):
                zoo.load(folder)
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    "name, setting", [("lite-snn-multi30k", {"encoder_layers": 10**9}), ("lite-snn-dvs-gesture", {"blocks": 10**12})]
)
def test_layers_without_end_are_refused_in_little_time_and_memory(name, setting, tmp_path):
    folder = shutil.copytree(MODEL_CARDS / name, tmp_path / name)
    reseal(folder, **setting)
    assert "DamagedModelError" in refused(folder)


def test_a_wide_network_is_refused_in_little_memory(tmp_path):
    folder = shutil.copytree(MODEL_CARDS / "lite-snn-multi30k", tmp_path / "wide")
    reseal(folder, width=2**20)
    assert "WeightsMismatchError" in refused(folder)


@pytest.mark.parametrize("value", [None, "x", [], {}, 1.5, True, -1, "9" * 1000])
def test_a_setting_of_any_kind_is_taken_or_refused(folder, value):
    for setting in json.loads((folder / files.CONFIG).read_text())["architecture_config"]:
        before = (folder / files.CONFIG).read_bytes()
        reseal(folder, **{setting: value})
        try:
            zoo.load(folder)
        except (errors.DamagedModelError, errors.WeightsMismatchError) as error:
            assert len(str(error)) < 2000
        (folder / files.CONFIG).write_bytes(before)


# The weights' file


def test_a_file_of_holes_is_refused_by_its_header(folder):
    config = json.loads((folder / files.CONFIG).read_text())
    config["files"][files.WEIGHTS]["bytes"] = 6 << 30
    (folder / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))
    os.truncate(folder / files.WEIGHTS, 6 << 30)
    assert "is no safetensors file" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    tensors = safetensors.torch.load((folder / files.WEIGHTS).read_bytes())
    for name in (next(iter(tensors)), list(tensors)[-1]):
        if not tensors[name].is_floating_point():
            continue
        changed = tensors | {name: torch.full_like(tensors[name], value)}
        (folder / files.WEIGHTS).write_bytes(safetensors.torch.save(changed))
        reseal(folder)
        with pytest.raises(errors.DamagedModelError, match=f"NaN or infinity in the tensor '{name}'"):
            zoo.load(folder)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float64]
)
def test_weights_of_a_type_that_no_model_has_are_refused(folder, dtype):
    tensors = safetensors.torch.load((folder / files.WEIGHTS).read_bytes())
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name] = torch.ones(tensors[name].shape).to(dtype)
    (folder / files.WEIGHTS).write_bytes(safetensors.torch.save(tensors))
    reseal(folder)
    with pytest.raises(errors.WeightsMismatchError, match=str(dtype).removeprefix("torch.")):
        zoo.load(folder)


HEADERS = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"{}",
    b"[" * 5000,
    b'{"a": null}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
    b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [9999999999999999999999], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": [], "shape": [8], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_is_none_is_refused(folder, header):
    (folder / files.WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    reseal(folder)
    with pytest.raises(errors.DamagedModelError, match=r"model\.safetensors is no safetensors file"):
        zoo.load(folder)


ONE = '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'


@pytest.mark.parametrize(
    "length, header, values, problem",
    [
        (2**20 + 1, " " * (2**20 + 1), 4, "has 1048577 bytes, and 1048576 are the most"),
        (2**40, " " * (2**20 + 1), 4, "does not fit into it"),
        (2**64 - 1, " " * (2**20 + 1), 4, "does not fit into it"),
        (len(ONE) + 5, ONE, 4, "does not fit into it"),
        (len(ONE), ONE, 3, "has 4 bytes of tensors, and 3 are there"),
        (len(ONE), ONE, 5, "has 4 bytes of tensors, and 5 are there"),
        (None, ONE.replace("F32", "F4"), 4, "describes the tensor 'a' in a way unknown to torch: .*'F4'"),
        (None, ONE.replace('"shape": [1], ', ""), 4, "describes the tensor 'a' in a way unknown to torch: "),
        (None, ONE.replace("}}", ', "more": 1}}'), 4, "describes the tensor 'a' in a way unknown to torch: "),
        (None, ONE.replace("[1]", "[-1]"), 4, r"has the shape \[-1\] for the tensor 'a'"),
        (None, ONE.replace("[1]", "[true]"), 4, r"has the shape \[True\] for the tensor 'a'"),
        (None, ONE.replace("[1]", "[1.0]"), 4, r"has the shape \[1.0\] for the tensor 'a'"),
        (None, ONE.replace("[0, 4]", "[0, 8]"), 8, r"has the tensor 'a' at \[0, 8\] and not at \[0, 4\]"),
    ],
)
def test_a_header_that_does_not_tell_the_truth_is_refused_in_words(tmp_path, length, header, values, problem):
    data = struct.pack("<Q", len(header) if length is None else length) + header.encode() + b"\0" * values
    with pytest.raises(errors.DamagedModelError, match=f"a.safetensors is no safetensors file: its header {problem}"):
        weights.read_header(io.BytesIO(data), len(data), tmp_path / "a.safetensors")


def test_a_header_of_the_largest_size_is_read(tmp_path):
    data = struct.pack("<Q", 2**20) + ONE.ljust(2**20).encode() + b"\0" * 4
    header = weights.read_header(io.BytesIO(data), len(data), tmp_path)
    assert header == {"a": weights.Stored(torch.float32, [1])}


@pytest.mark.parametrize("size", range(8))
def test_a_file_that_is_too_short_for_a_header_is_refused(tmp_path, size):
    with pytest.raises(errors.DamagedModelError, match="its header does not fit into it"):
        weights.read_header(io.BytesIO(b"\0" * size), size, tmp_path)


# JSON


@pytest.mark.parametrize(
    "text, problem",
    [
        (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": 9223372036854775808}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 100_000, "nested more than 32 deep"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 deep"),
        (b'\xef\xbb\xbf{"a": 1}', "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
    ],
)
def test_json_that_is_none_is_refused_wherever_it_stands(text, problem, saved):
    with pytest.raises(ValueError, match=problem):
        strict_json.parse(text)
    (saved / files.METRICS).write_bytes(text)
    with pytest.raises(errors.DamagedModelError, match=rf"metrics\.json .*{problem}"):
        zoo.info(saved)
    (saved / files.CONFIG).write_bytes(text)
    with pytest.raises(errors.DamagedModelError, match=rf"config\.json .*{problem}"):
        zoo.load(saved)


def test_json_of_a_megabyte_and_more_is_not_read(saved):
    for name in (files.METRICS, files.CONFIG):
        (saved / name).write_bytes(b" " * (files.LARGEST_JSON + 1))
        with pytest.raises(errors.DamagedModelError, match=f"{name} has 1048577 bytes, more than the 1048576"):
            zoo.info(saved)


def test_text_that_a_terminal_might_obey_is_refused(saved):
    (saved / files.METRICS).write_text('{"summary": "\\u001b[2J"}')
    with pytest.raises(errors.DamagedModelError, match="control character"):
        zoo.info(saved)


# The digest of the config


@pytest.mark.parametrize("name", BUNDLED)
def test_a_flipped_bit_in_a_config_is_noticed_or_changes_nothing(name, tmp_path):
    folder = shutil.copytree(MODEL_CARDS / name, tmp_path / name)
    data, meant = (folder / files.CONFIG).read_bytes(), files.read_config(folder)
    for place in range(len(data)):
        for bit in range(8):
            (folder / files.CONFIG).write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with contextlib.suppress(errors.DamagedModelError, errors.NewerFormatError):
                assert files.read_config(folder) == meant  # another white-space character


def test_a_config_of_format_1_has_no_digest_and_still_loads(saved):
    config = json.loads((saved / files.CONFIG).read_text())
    del config["digest"]
    (saved / files.CONFIG).write_bytes(files.to_json(config))
    with pytest.raises(errors.DamagedModelError, match="has no 'digest'"):
        zoo.load(saved)
    (saved / files.CONFIG).write_bytes(files.to_json(config | {"format_version": 1}))
    assert zoo.load(saved)


def test_a_setting_is_changed_by_writing_the_config_anew_and_only_if_the_model_loads_with_it(tmp_path):
    folder = shutil.copytree(MODEL_CARDS / "lite-snn-multi30k", tmp_path / "lite-snn-multi30k")
    before = (folder / files.WEIGHTS).read_bytes()
    saving.rewrite_config(folder, longest=99)
    assert zoo.load(folder).typed_config.longest == 99
    assert (folder / files.WEIGHTS).read_bytes() == before
    with pytest.raises(errors.WeightsMismatchError):
        saving.rewrite_config(folder, width=512)
    assert zoo.load(folder).typed_config.width == 256
    assert [path.name for path in tmp_path.iterdir()] == ["lite-snn-multi30k"]


# Things in the folder that are not files


@pytest.mark.parametrize("name", [files.CONFIG, files.WEIGHTS, "labels.json"])
@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "link out", "link to a device", "link to itself", "link to nothing"]
)
def test_what_is_no_plain_file_of_the_folder_is_refused(saved, tmp_path, name, kind):
    path = saved / name
    path.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        target = {"link out": tmp_path / "elsewhere", "link to a device": "/dev/zero", "link to itself": path}
        path.symlink_to(target.get(kind, saved / "nothing"))
    with pytest.raises(errors.DamagedModelError, match=str(path)):
        zoo.load(saved)


def test_links_within_a_folder_and_into_the_hubs_own_cache_are_followed(saved, tmp_path):
    (saved / files.WEIGHTS).rename(saved / "weights.bin")
    (saved / files.WEIGHTS).symlink_to("weights.bin")
    assert zoo.load(saved)
    (tmp_path / "hub" / "snapshots").mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    snapshot = shutil.copytree(saved, tmp_path / "hub" / "snapshots" / "abc", symlinks=False)
    (snapshot / files.WEIGHTS).rename(tmp_path / "hub" / "blobs" / "123")
    (snapshot / files.WEIGHTS).symlink_to("../../blobs/123")
    assert zoo.load(snapshot)


# What a config may say


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"parameters": -1}, "has -1 for 'parameters'"),
        ({"versions": {"torch": 2}}, "has 2 for the version of 'torch', which must be text"),
    ],
)
def test_a_config_with_an_impossible_value_is_refused(changed, problem, saved):
    config = json.loads((saved / files.CONFIG).read_text()) | changed
    (saved / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))
    with pytest.raises(errors.DamagedModelError, match=problem):
        zoo.load(saved)


@pytest.mark.parametrize(("size", "problem"), [(files.LARGEST_ASSET + 1, "more than the"), (-1, "no SHA-256 and size")])
def test_a_record_of_an_asset_that_cannot_be_is_refused_before_the_file_is_looked_at(size, problem, saved):
    config = json.loads((saved / files.CONFIG).read_text())
    config["files"]["labels.json"]["bytes"] = size
    (saved / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))
    (saved / "labels.json").unlink()
    with pytest.raises(errors.DamagedModelError, match=problem):
        zoo.load(saved)


def test_an_asset_may_be_empty_and_as_large_as_the_limit(saved):
    for size in (0, files.LARGEST_ASSET):
        config = json.loads((saved / files.CONFIG).read_text())
        config["files"]["labels.json"]["bytes"] = size
        (saved / files.CONFIG).write_bytes(files.to_json(files.sealed(config)))
        assert files.read_config(saved)["files"]["labels.json"]["bytes"] == size


def test_json_as_large_as_the_limit_is_read(saved):
    data = (saved / files.METRICS).read_bytes()
    (saved / files.METRICS).write_bytes(data + b" " * (files.LARGEST_JSON - len(data)))
    assert zoo.info(saved)


def test_the_digest_of_a_config_is_that_of_its_text_as_it_is_whatever_the_order():
    sealed = files.sealed({"name": "grün", "task": "é"})
    assert sealed["digest"] == files.sealed({"task": "é", "name": "grün"})["digest"]
    text = f'{{"format_version":{files.FORMAT_VERSION},"name":"grün","task":"é"}}'
    assert sealed["digest"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_link_to_a_folder_called_blobs_is_followed_in_the_hubs_cache_alone(saved, tmp_path):
    (tmp_path / "blobs").mkdir()
    folder = shutil.copytree(saved, tmp_path / "models" / "mine")
    (folder / files.WEIGHTS).rename(tmp_path / "blobs" / "123")
    (folder / files.WEIGHTS).symlink_to("../../blobs/123")
    with pytest.raises(errors.DamagedModelError, match=re.escape(str(folder / files.WEIGHTS))):
        zoo.load(folder)


# Tokenizers


def tokenizer_of(name):
    return json.loads((MODEL_CARDS / name / "tokenizer.json").read_text())


def changed(content, path, value):
    *way, last = path
    for step in way:
        content = content[step]
    content[last] = value


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
PADDING = {
    "strategy": {"Fixed": 2**40},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<pad>",
}
TRUNCATION = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"x": {"id": "x", "ids": [10**6], "tokens": ["x"]}},
}
UNLISTED = [
    (["normalizer"], PRECOMPILED, "normalizer may be made of"),
    (["normalizer", "normalizers", 0], PRECOMPILED, "normalizer may be made of"),
    (["normalizer", "normalizers"], [{"type": "NFC"}] * 9, "8 at most"),
    (["normalizer"], {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}, "content that it may not have"),
    (["normalizer"], {"type": "Replace", "pattern": {"String": ""}, "content": "a"}, "pattern that it may not have"),
    (["normalizer"], {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}, "pattern that it may not"),
    (["normalizer"], {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}, "may be made of"),
    (["normalizer"], {"type": "Prepend", "prepend": "x" * 1000}, "normalizer may be made of"),
    (["normalizer"], 5, "normalizer that it may not have"),
    (["padding"], PADDING, "padding that it may not have"),
    (["truncation"], TRUNCATION, "truncation that it may not have"),
    (["post_processor"], TEMPLATE, "post_processor that it may not have"),
    (
        ["pre_tokenizer"],
        {"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated", "invert": False},
        "p",
    ),
    (["decoder"], {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}, "decoder may be made of"),
    (["added_tokens", 0, "id"], 10**9, "elsewhere"),
    (["added_tokens", 0, "lstrip"], True, "lstrip that it may not have"),
    (["added_tokens"], [None], "must have the fields"),
    (["version"], "2.0", "version that it may not have"),
    (["model"], {"type": "Unigram", "vocab": [], "unk_id": 0, "byte_fallback": False}, "must be one of BPE, WordLevel"),
    (["model", "type"], [], "must be one of"),
    (["model", "dropout"], 0.5, "dropout that it may not have"),
    (["model", "unk_token"], "nothing", "not in its vocabulary"),
    (["model", "vocab", "a"], 2**40, "whole numbers from 0 on"),
    (["model", "vocab", "a"], True, "whole numbers from 0 on"),
    (["model", "vocab", "a"], "1", "whole numbers from 0 on"),
    (["model", "vocab"], {}, "whole numbers from 0 on"),
    (["model", "merges", 0], ["q", "zzz"], "no pair of tokens"),
    (["model", "merges", 0], "i n", "no pair of tokens"),
    (["model", "extra"], 1, "must have the fields"),
    (["extra"], 1, "must have the fields"),
]


@pytest.mark.parametrize("path, value, problem", UNLISTED)
def test_a_tokenizer_with_anything_that_is_not_on_the_list_is_refused(path, value, problem, tmp_path):
    content = tokenizer_of("lite-snn-multi30k")
    changed(content, path, value)
    with pytest.raises(ValueError, match=problem):
        read_tokenizer(json.dumps(content).encode(), SPECIAL_TOKENS)
    folder = shutil.copytree(MODEL_CARDS / "lite-snn-multi30k", tmp_path / "tokens")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    reseal(folder)
    with pytest.raises(errors.DamagedModelError, match=r"does not fit the architecture 'translator'"):
        zoo.load(folder)


def test_a_tokenizer_with_other_special_tokens_is_refused():
    content = (MODEL_CARDS / "lite-snn-imdb" / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match="must begin with the tokens <pad>, <s>, </s>, <unk>"):
        read_tokenizer(content, SPECIAL_TOKENS)


def test_a_tokenizer_of_listed_parts_reads_texts_as_the_library_reads_them():
    content = tokenizer_of("lite-snn-multi30k")
    content["normalizer"]["normalizers"][-1] = {"type": "Replace", "pattern": {"String": "ß"}, "content": "s"}
    content["pre_tokenizer"] = {"type": "Whitespace"}
    data = json.dumps(content).encode()
    texts = ["Straße  im Schnee.", "", "\u0130\ufb01 12:30"]
    ours, theirs = read_tokenizer(data, SPECIAL_TOKENS), Tokenizer.from_buffer(data)
    assert [ours.encode(text).ids for text in texts] == [theirs.encode(text).ids for text in texts]


def test_a_header_says_what_the_library_reads():
    for name in BUNDLED:
        path = MODEL_CARDS / name / files.WEIGHTS
        with path.open("rb") as file:
            header = weights.read_header(file, path.stat().st_size, path)
        tensors = safetensors.torch.load(path.read_bytes())
        assert {key: (stored.dtype, stored.shape) for key, stored in header.items()} == {
            key: (tensor.dtype, list(tensor.shape)) for key, tensor in tensors.items()
        }


# Metrics


ODD_METRICS = [
    {"results": [None]},
    {"results": {}},
    {"results": [{"name": []}], "scores": {}, "data": {}},
    {"scores": []},
    {"scores": {"bleu": None}},
    {"scores": {"bleu": {"title": 1, "type": "x", "split": "y", "signature": "z"}}},
    {"costs": []},
    {"costs": {"inputs": "x", "rows": 5, "comparison": [], "plot": None}},
    {"costs": {"inputs": "x", "rows": [], "comparison": [5], "plot": None}},
    {"costs": {"inputs": "x", "rows": [], "comparison": [], "plot": []}},
    {"score_band": {"score": [], "split": "x", "inputs": 1, "low": 1, "high": 2}},
    {"score_band": {"score": "x", "split": "x", "inputs": 1, "low": "low", "high": 2}},
    {"example": {"input": 5, "output": "x"}},
    {"example": {"input": [None], "output": "x"}},
    {"example": []},
    {"languages": [None]},
    {"seeds": ["x"]},
    {"summary": None},
    {"sparsity": [5]},
    {"sparsity_plot": "../x.png"},
    {"pictures": [5]},
    {"pictures": [{"file": "../x.png", "caption": "x"}]},
    {"pictures": [{"file": "x.png"}]},
    {"weight_bits": {"rows": 5, "command": "x"}},
    {"weight_bits": {"rows": [{"name": 8}], "command": "x"}},
    {"bits": {"rows": 5, "command": "x", "plot": "x.png"}},
    {"bits": {"rows": [], "command": "x", "plot": "../x.png"}},
    {"unknown": 1},
]


@pytest.mark.parametrize("odd", ODD_METRICS)
def test_metrics_of_another_shape_are_one_error_in_all_that_reads_them(odd, bundled):
    (bundled / files.METRICS).write_text(json.dumps(odd))
    with pytest.raises(errors.DamagedModelError, match=r"metrics\.json holds no metrics"):
        zoo.info(bundled)
    for command in (["list"], ["info", "tiny"], ["translate", "tiny", "x"], ["profile", "tiny"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert "metrics.json holds no metrics" in result.stderr
    assert zoo.load(bundled)


# Half-known folders


def test_a_name_that_is_a_repository_and_a_folder_is_never_guessed(saved, monkeypatch):
    (saved.parent / "runs").mkdir()
    saved.rename(saved.parent / "runs" / "best")
    monkeypatch.chdir(saved.parent)
    for ask in (zoo.load, zoo.info):
        with pytest.raises(errors.UnknownNameError, match=r"write '\./runs/best' for the folder.*revision='main'"):
            ask("runs/best")
    assert zoo.load("./runs/best")
    with pytest.raises(errors.DamagedModelError, match=r"There are models in it: runs/best"):
        zoo.load("./runs")


def test_a_file_in_the_place_of_a_folder_is_named(saved):
    with pytest.raises(NotADirectoryError, match="is a file; a model is the folder"):
        zoo.load(saved / files.WEIGHTS)

"""Untrusted model folders: bundled ones with changed configs, tensors, tokenizers or metrics, and new digests."""

import contextlib
import json
import os
import random as randomness
import shutil
import struct
from pathlib import Path
from typing import Any

import zoo
from zoo import errors, files
from zoo.registry import MODEL_CARDS

NAME = "folders"
ALLOWED = (errors.DamagedModelError, errors.NewerFormatError, errors.WeightsMismatchError, errors.UnknownNameError)
ODD: tuple[Any, ...] = (
    *(None, True, "", "x", "\u0000", "\ud800", [], {}, [None], {"a": []}, [[[]]]),
    *(-1, 0, 1, 2, 3.0, 0.5, 1e308, 64, 1000, 10**6, 10**9, 2**31, 2**53, 2**63 - 1, 2**63, 10**30),
    *({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, {"type": "Sequence", "normalizers": []}),
    *({"Regex": "(a+)+$"}, {"String": ""}, {"Fixed": 2**40}, float("nan"), "x" * 10_000),
)


def prepare() -> None:
    """Load and use each model once, so that everything is imported."""
    for name in zoo.list_models():
        zoo.load(name)
        zoo.info(name)
    zoo.load("lite-snn-multi30k").translate(["Ein Hund."])
    zoo.load("lite-snn-imdb").classify(["A film."])


def make(random: randomness.Random, folder: Path) -> Path:
    name = random.choice(zoo.list_models())
    path = folder / name
    shutil.copytree(MODEL_CARDS / name, path)
    kinds = [settings, settings, header, tokens, tokens, metrics, config, bits, no_plain_file]
    random.choice(kinds)(random, path)
    return path


def settings(random: randomness.Random, path: Path) -> None:
    content = json.loads((path / files.CONFIG).read_text())
    for _ in range(random.choice([1, 1, 2, 4])):
        content["architecture_config"][random.choice([*content["architecture_config"], "other"])] = random.choice(ODD)
    write_config(path, content)


def config(random: randomness.Random, path: Path) -> None:
    content = json.loads((path / files.CONFIG).read_text())
    change(random, content)
    write_config(path, content)


def header(random: randomness.Random, path: Path) -> None:
    data = (path / files.WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    content = json.loads(data[8 : 8 + length])
    for _ in range(random.choice([1, 1, 3])):
        change(random, content)
    text = json.dumps(content).encode()
    size = random.choice([len(text)] * 5 + [0, 2**20 + 1, 2**63, 2**64 - 1])
    (path / files.WEIGHTS).write_bytes(struct.pack("<Q", size) + text + data[8 + length :])
    reseal(path)


def tokens(random: randomness.Random, path: Path) -> None:
    if not (path / "tokenizer.json").exists():
        return settings(random, path)
    content = json.loads((path / "tokenizer.json").read_text())
    for _ in range(random.choice([1, 1, 3])):
        change(random, content)
    (path / "tokenizer.json").write_text(json.dumps(content))
    reseal(path)


def metrics(random: randomness.Random, path: Path) -> None:
    content = json.loads((path / files.METRICS).read_text())
    for _ in range(random.choice([1, 1, 3])):
        change(random, content)
    (path / files.METRICS).write_text(json.dumps(content))


def bits(random: randomness.Random, path: Path) -> None:
    """Change, cut off or insert bytes; the record of the file is updated or left as it was."""
    chosen = path / random.choice(
        [*json.loads((path / files.CONFIG).read_text())["files"], files.CONFIG, files.METRICS]
    )
    data = bytearray(chosen.read_bytes())
    for _ in range(random.choice([1, 3, 30])):
        data[random.randrange(len(data))] = random.getrandbits(8)
    if random.random() < 0.3:
        del data[random.randrange(len(data)) :]
    chosen.write_bytes(data)
    if random.random() < 0.7 and chosen.name not in (files.CONFIG, files.METRICS):
        reseal(path)


def no_plain_file(random: randomness.Random, path: Path) -> None:
    chosen = path / random.choice([files.CONFIG, files.WEIGHTS, files.METRICS])
    chosen.unlink()
    kind = random.choice(["pipe", "folder", "device", "loop", "holes", "out", "nothing"])
    if kind == "pipe":
        os.mkfifo(chosen)
    elif kind == "folder":
        chosen.mkdir()
    elif kind in ("device", "loop", "out"):
        chosen.symlink_to({"device": "/dev/zero", "loop": chosen, "out": "/etc/passwd"}[kind])
    elif kind == "holes":
        chosen.touch()
        os.truncate(chosen, 6 << 30)


def change(random: randomness.Random, content: Any) -> None:
    """Put something odd, or something from elsewhere, in a random place."""
    while True:
        places = list(content) if isinstance(content, dict) else range(len(content))
        if not places:
            return
        place = random.choice(places)
        if not isinstance(content[place], dict | list) or not content[place] or random.random() < 0.3:
            break
        content = content[place]
    if random.random() < 0.2:
        del content[place]
    else:
        content[place] = random.choice(ODD)


def reseal(path: Path) -> None:
    content = json.loads((path / files.CONFIG).read_text())
    for name in content["files"]:
        content["files"][name] = files.describe((path / name).read_bytes())
    write_config(path, content)


def write_config(path: Path, content: Any) -> None:
    """Write the config with a right digest, if it can have one."""
    try:
        data = files.to_json(files.sealed(content) | {"format_version": content.get("format_version", 2)})
    except ValueError:  # NaN, or half a surrogate pair
        data = json.dumps(content).encode()
    (path / files.CONFIG).write_bytes(data)


def run(path: Path) -> None:
    """Ask for the model's info, load it, and use it if it has loaded."""
    with contextlib.suppress(ALLOWED):
        zoo.info(path)
    model = zoo.load(path)
    if model.task == "translation":
        assert len(model.translate(["Ein Hund rennt."], beam_size=1)) == 1
    elif model.task == "text-classification":
        assert len(model.classify(["A film that I liked."])) == 1

"""What the fuzzer must notice: each input is one way to misbehave."""

import os
import random as randomness
import time
from pathlib import Path

NAME = "misbehaving"
ALLOWED = (ValueError,)
WAYS = ("well", "documented", "undocumented", "hang", "spin", "memory", "abort", "exit", "make")


def prepare() -> None:
    pass


def make(random: randomness.Random, folder: Path) -> Path:
    way = random.choice(WAYS)
    if way == "make":
        raise KeyError("nothing to write")
    path = folder / "input"
    path.write_text(way)
    return path


def run(path: Path) -> None:
    way = path.read_text()
    if way == "documented":
        raise ValueError("as documented")
    if way == "undocumented":
        raise KeyError("not documented")
    if way == "hang":
        time.sleep(60)
    if way == "spin":
        while True:
            pass
    if way == "memory":
        bytearray(2**34)
    if way == "abort":
        os.abort()
    if way == "exit":
        os._exit(0)

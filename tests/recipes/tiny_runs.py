"""Trainings that take a moment: translators of 12 sentences, in this process or in child processes of a warm one.

As a program, ``python tiny_runs.py DATA WHOLE KILLED SEED``: one undisturbed training, and one in a child process that
is killed after a random part of the time that this took and started again until it has ended; prints how often it was
killed.
"""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from recipes.multi30k import Trainer, Training, TranslatorConfig

SUBJECTS = [("Ein Hund", "a dog"), ("Eine Frau", "a woman"), ("Der Mann", "the man"), ("Ein Kind", "a child")]
VERBS = [("rennt", "runs"), ("schläft", "sleeps"), ("springt", "jumps")]
CONFIG = TranslatorConfig(vocabulary=70, width=16, encoder_layers=1, decoder_layers=1)


def write_data(folder: Path) -> Path:
    """The sentences in the layout of Multi30k, the same for training and for choosing the checkpoint."""
    folder.mkdir()
    pairs = [(f"{s[0]} {v[0]}.", f"{s[1]} {v[1]}.") for s in SUBJECTS for v in VERBS]
    for split in ("train", "val"):
        for side, language in enumerate(("de", "en")):
            (folder / f"{split}.{language}").write_text("".join(p[side] + "\n" for p in pairs), encoding="utf-8")
    return folder


def trainer(data: Path, run: Path, epochs: int = 3) -> Trainer:
    return Trainer(data, run, CONFIG, Training(epochs=epochs, tokens=60, learning_rate=1e-2, average=0.5))


def train_with_kills(data: Path, run: Path, seed: int, seconds: float) -> int:
    """Train in child processes; all but the last are killed after a random part of ``seconds``, a whole run's time.

    Returns how many were killed.
    """
    wait, kills = random.Random(seed), 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                trainer(data, run).train()
            except BaseException as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        share = wait.uniform(0.02, 0.6) + 0.1 * kills  # more from time to time, so that it ends
        until = time.monotonic() + share * seconds
        while time.monotonic() < until and (status := os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG)) is None:
            time.sleep(0.002)
        if time.monotonic() < until:
            if status.si_status:
                raise SystemExit(1)
            return kills
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1


if __name__ == "__main__":
    data, whole, killed = map(Path, sys.argv[1:4])
    with tempfile.TemporaryDirectory() as folder:
        trainer(data, Path(folder) / "first").train()  # compiles the kernels that the others need
    start = time.monotonic()
    trainer(data, whole).train()
    print(train_with_kills(data, killed, int(sys.argv[4]), time.monotonic() - start))

"""Every Python block of the README runs as it is printed, and so do its commands."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", BLOCKS, ids=[f"block {i}" for i in range(len(BLOCKS))])
def test_a_python_block_of_the_readme_runs(code, tmp_path, environment_with_checkout):
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment_with_checkout, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for promised in re.findall(r"^# -> (.*)$", code, re.MULTILINE):
        assert promised in result.stdout.splitlines()
        assert result.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a shell of Unix")
def test_the_block_on_the_command_line_runs(tmp_path, environment_with_checkout):
    (tmp_path / "german.txt").write_text("Zwei Hunde.\nEin Kind lacht.\n")
    (tmp_path / "reviews.gz").write_bytes(gzip.compress(b"A good film.\n"))
    (tmp_path / "recordings").mkdir()
    x, y, p = np.random.default_rng(0).integers(0, [[128], [128], [2]], (3, 2000))
    np.savez(tmp_path / "recordings" / "one.npz", t=np.arange(2000) * 100, x=x, y=y, p=p)
    sound = np.random.default_rng(0).normal(0, 3000, 16_000).astype("<i2")
    for name in ("speech.flac", "speech.mp3"):
        soundfile.write(tmp_path / name, sound, 16_000)
    (tmp_path / "sound.raw").write_bytes(sound.tobytes())
    (tmp_path / "arecord").write_text("#!/bin/sh\ncat sound.raw\n")
    (tmp_path / "arecord").chmod(0o755)
    (tmp_path / "snn-zoo").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zoo "$@"\n')
    (tmp_path / "snn-zoo").chmod(0o755)
    (block,) = re.findall(r"## On the command line.*?^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    path = f"{tmp_path}:{environment_with_checkout['PATH']}"
    result = subprocess.run(
        ["sh", "-ec", block],
        cwd=tmp_path,
        env=environment_with_checkout | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    *translated, gesture, flac, mp3, raw = result.stdout.splitlines()
    assert [line.split("\t")[0] for line in translated] == [
        "a dog runs through the snow.",
        "two children are playing on the beach.",
    ]
    assert gesture.count("\t") == 1
    assert json.loads(flac)["text"] == raw and "phones" in json.loads(mp3)
    assert (tmp_path / "english.txt").read_text().count("\n") == 2
    assert (tmp_path / "labels.jsonl").read_text().startswith('{"label": "positive"')

"""The documentation: its Python runs as it is printed, so do its commands, and the site builds without dead links."""

import functools
import gzip
import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests import figures
from tests.pages import ROOT, blocks_of, pages

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}
SLOW = [name for name, page in PAGES.items() if any(block.slow for block in blocks_of(page))]


def run(page, environment, *options):
    environment = environment | {"MPLBACKEND": "agg", "COLUMNS": "80"}
    command = [sys.executable, "-m", "tests.pages", page, *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    warned = [line for line in result.stderr.splitlines() if "Warning: " in line]
    assert all("UserWarning: new labels" in line for line in warned), result.stderr  # the text tells of this one


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_and_prints_what_is_shown(page, environment_with_checkout):
    run(page, environment_with_checkout)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_the_slow_python_of_a_page_runs_too(page, environment_with_checkout):
    run(page, environment_with_checkout, "--slow")


def test_a_block_that_prints_something_else_is_found(tmp_path, environment_with_checkout):
    wrong = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    for text in (wrong, "```python\nprint(2)  # -> 3\n```\n", "```python\n1 / 0\n```\n"):
        (tmp_path / "page.md").write_text(text)
        command = [sys.executable, "-m", "tests.pages", str(tmp_path / "page.md")]
        result = subprocess.run(command, env=environment_with_checkout, capture_output=True, text=True)
        assert result.returncode == 1 and "page.md" in result.stderr


def test_a_figure_that_is_not_that_of_the_results_is_found_and_written_anew(tmp_path, environment_with_checkout):
    page = tmp_path / "page.md"
    right = f"It is <!--=scan_milliseconds()-->{figures.scan_milliseconds()}<!--/--> ms.\n"
    command = [sys.executable, "-m", "tests.pages", str(page)]
    run = functools.partial(subprocess.run, env=environment_with_checkout, capture_output=True, text=True)
    page.write_text(right.replace(figures.scan_milliseconds(), "0.1"))
    result = run(command)
    assert result.returncode == 1 and "page.md, line 1: its figures are now" in result.stderr
    assert run([*command, "--write"]).returncode == 0 and page.read_text() == right
    page.write_text(right.replace("It is ", "It is\n"))
    result = run(command)
    assert result.returncode == 1 and "has a figure at the start of a line" in result.stderr


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
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## Asking a model.*?^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
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


@pytest.mark.skipif(
    not (importlib.util.find_spec("mkdocs") and importlib.util.find_spec("mkdocstrings")),
    reason='the site is built by mkdocs: pip install ".[docs]"',
)
def test_the_site_builds_without_dead_links_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(https?:[^\"' >]+)", page.read_text("utf-8"))
        assert not loaded, f"{page.name} loads {loaded} from elsewhere"


def test_links_outside_of_the_site_lead_to_files():
    others = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "notebooks").iterdir()]
    for page in others:
        for link in re.findall(r"\]\(([^):]+\.[a-z]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} has a dead link: {link}"


def test_every_picture_is_small_and_shown():
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size < 100_000 and f"](pictures/{picture.name})" in text, picture.name
    for notebook in (ROOT / "docs" / "notebooks").iterdir():
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        drawn = [
            o["data"]["image/png"]
            for cell in cells
            for o in cell.get("outputs", [])
            if "image/png" in o.get("data", {})
        ]
        assert drawn and max(map(len, drawn)) < 100_000, notebook.name


@pytest.mark.slow
def test_the_pictures_can_be_drawn_again(tmp_path, environment_with_checkout):
    command = [sys.executable, str(ROOT / "docs" / "tools" / "draw.py"), str(tmp_path / "pictures")]
    subprocess.run(command, env=environment_with_checkout, check=True)
    drawn, committed = (
        sorted(p.name for p in f.iterdir()) for f in (tmp_path / "pictures", ROOT / "docs" / "pictures")
    )
    assert drawn == committed


def test_the_readme_is_short_and_its_first_two_commands_are_those_that_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") < 200
    commands = re.findall(r"^```sh\n(.*?)\n```", readme, re.DOTALL | re.MULTILINE)
    assert commands[0].startswith("pip install . && snn-zoo translate lite-snn-multi30k")
    assert commands[1] == 'pip install ".[test]" && python -m pytest'

"""Fixtures for all tests. Real data is used if it is at hand; otherwise its tests are skipped."""

import os
import signal
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# A shell makes its background programs, and all processes that they start, ignore Ctrl-C; tests of it would fail.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def reference_folder() -> Path:
    """Numbers from the papers' own code."""
    return TESTS / "reference"


@pytest.fixture
def data_folder() -> Path:
    """Real corpora: SNN_ZOO_DATA, or the folder shared/data beside the checkout."""
    folder = Path(os.environ.get("SNN_ZOO_DATA", TESTS.parents[1] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"there is no real data: {folder} does not exist, and SNN_ZOO_DATA names no other folder")
    return folder


@pytest.fixture
def environment_with_checkout() -> dict[str, str]:
    """The environment of a new Python process that imports this checkout's packages."""
    root = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}

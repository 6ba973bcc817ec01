"""Fixtures for all tests. Real data is used where it is at hand and its tests are skipped where it is not."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def existing(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{what} is not at hand: {folder} does not exist")
    return folder


@pytest.fixture
def reference_folder() -> Path:
    """Numbers from the papers' own code."""
    return existing(SHARED / "reference", "the reference numbers' folder")


@pytest.fixture
def data_folder() -> Path:
    """Real corpora: SNN_ZOO_DATA, or the folder shared/data beside the checkout."""
    return existing(Path(os.environ.get("SNN_ZOO_DATA", SHARED / "data")), "the data folder")


@pytest.fixture
def environment_with_checkout() -> dict[str, str]:
    """The environment of a new Python process that imports this checkout's packages."""
    root = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}

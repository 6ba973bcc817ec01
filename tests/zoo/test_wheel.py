"""The wheel: it contains the weights where the zoo looks for them."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import zoo

CHECKOUT = Path(zoo.__file__).parent.parent
PACKAGES = ("zoo", "neurons", "recipes", "model_cards")


@pytest.fixture
def wheel(saved, tmp_path):
    """The wheel of this checkout, which also bundles the small model."""
    tree = tmp_path / "checkout"
    for package in PACKAGES:
        if (CHECKOUT / package).is_dir():
            shutil.copytree(CHECKOUT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(CHECKOUT / file, tree)
    shutil.copytree(saved, tree / "model_cards" / "tiny")
    (built,) = WheelBuilder(str(tree)).build(directory=str(tmp_path / "dist"), versions=["standard"])
    return tree, Path(built)


def test_the_wheel_carries_every_file_of_the_packages_and_nothing_else(wheel):
    tree, built = wheel
    expected = {str(f.relative_to(tree)) for p in PACKAGES for f in (tree / p).rglob("*") if f.is_file()}
    carried = {name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name}
    assert carried == expected
    assert "model_cards/tiny/model.safetensors" in carried


def test_an_installed_zoo_finds_its_models(wheel, tmp_path):
    _, built = wheel
    assert built.name.startswith(f"snn_zoo-{zoo.__version__}-")
    zipfile.ZipFile(built).extractall(tmp_path / "site")
    code = "import zoo; print(zoo.__file__, zoo.list_models(), zoo.info('tiny').folder)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    location, rest = result.stdout.split(maxsplit=1)
    assert Path(location).is_relative_to(tmp_path / "site")
    assert "'tiny'" in rest
    assert str(tmp_path / "site" / "model_cards" / "tiny") in rest

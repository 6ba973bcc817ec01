"""A user's type checker knows what ``zoo.load`` returns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.tasks import TASKS

CODE = """
import zoo
from pathlib import Path

{bundled}
zoo.load("./my-model").translate(["Ein Hund."])
zoo.load(Path("my-model")).classify(["a film"])
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Runs mypy on a user's code, as with the installed package."""
    pytest.importorskip("mypy", reason='mypy is not installed; pip install "snn-zoo[lint]"')
    folder = tmp_path_factory.mktemp("user")

    def check(code: str) -> str:
        (folder / "code.py").write_text(code)
        command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", "code.py"]
        environment = os.environ | {"MYPYPATH": str(Path(zoo.__file__).parents[1])}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout

    return check


@pytest.mark.slow
def test_a_bundled_model_s_method_is_known_by_its_name(checked):
    names = zoo.list_models()
    calls = [f"reveal_type(zoo.load({name!r}).{TASKS[zoo.info(name).task].method})" for name in names]
    found = checked(CODE.format(bundled="\n".join(calls)))
    assert found.count('Revealed type is "def ') == len(names), found
    assert "error" not in found, found


@pytest.mark.slow
def test_a_method_of_another_task_is_an_error(checked):
    assert "code.py:2: error" in checked('import zoo\nzoo.load("lite-snn-multi30k").classify(["x"])\n')

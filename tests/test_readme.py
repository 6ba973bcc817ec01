"""Every Python block of the README runs as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("code", BLOCKS, ids=[f"block {i}" for i in range(len(BLOCKS))])
def test_a_python_block_of_the_readme_runs(code, tmp_path, environment_with_checkout):
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment_with_checkout, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr

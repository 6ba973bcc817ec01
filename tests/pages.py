"""Run the Python blocks of one page of the documentation, and compare what they print with what the page says.

The figures in its sentences are compared with the results that they are from, too.

    python -m tests.pages README.md
    python -m tests.pages docs/notebooks/fine-tune.ipynb --slow
    python -m tests.pages docs/models.md --write

The blocks of a page run in order and share their names, as in a notebook; those of the README each begin afresh. What a
block prints is shown after it, in a block ``text``, or in comments that begin with ``# ->``. The comment
``<!-- slow -->`` before a block leaves it out of the quick tests, and so does a comment ``# slow`` on its first line in
a notebook. A figure in a sentence stands behind the expression that it is the value of, in :mod:`tests.figures`:
``<!--=scan("torch loop, unbind")-->5.9<!--/-->``. ``--write`` writes what the blocks of a page print, and its figures,
into it, to be read before it is committed.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import NamedTuple

from tests import figures

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"(<!-- slow -->\s*)?^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"<!--=(.*?)-->(.*?)<!--/-->", re.DOTALL)
PROMISED = re.compile(r"# -> (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A piece of Python, the line of the page (or the cell) that it begins at, and what it prints, if that is shown."""

    code: str
    place: int
    printed: str | None = None
    slow: bool = False


def pages() -> list[Path]:
    """The README, the pages and the notebooks that have a block."""
    docs = sorted(page for page in (ROOT / "docs").rglob("*") if page.suffix in (".md", ".ipynb"))
    return [page for page in (ROOT / "README.md", *docs) if blocks_of(page)]


def blocks_of(page: Path) -> list[Block]:
    """The Python of a page, or the cells of a notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        codes = ["".join(cell["source"]) for cell in cells]
        return [Block(code, place, slow=code.startswith("# slow")) for place, code in enumerate(codes, 1)]
    found = FENCED.finditer(text)
    return [Block(one[2], text.count("\n", 0, one.start(2)), one[3], bool(one[1])) for one in found]


def session() -> dict:
    """The names of a new session: a module ``__main__``, in which pickle finds the classes of a page."""
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    return vars(module)


def run(block: Block, names: dict, where: str) -> list[str]:
    """Run a block with these names; the lines that it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * block.place + block.code, where, "exec"), names)
    return [line.rstrip() for line in printed.getvalue().splitlines()]


def check(block: Block, lines: list[str], where: str) -> None:
    """AssertionError unless a block printed what the page shows."""
    printed = f"{where}, line {block.place}: it prints\n" + "\n".join(lines)
    assert block.printed is None or lines == block.printed.splitlines(), printed
    assert all(line in lines for line in PROMISED.findall(block.code)), printed


def with_figures(text: str) -> str:
    """The text of a page with the figures as they are now."""
    return FIGURE.sub(lambda found: f"<!--={found[1]}-->{eval(found[1], vars(figures))}<!--/-->", text)


def check_figures(text: str, where: str) -> None:
    """AssertionError unless every figure is as it is now, and in the text: a comment at the start of a line is not.

    A table, between empty lines, is no part of a sentence.
    """
    alone = re.search(r"\n<!--=.*-->(?!\n\n)", text)
    assert not alone, f"{where} has a figure at the start of a line; put the word before it there"
    for line, (shown, now) in enumerate(zip(text.splitlines(), with_figures(text).splitlines()), 1):
        assert shown == now, f"{where}, line {line}: its figures are now\n{now}"


def main(page: Path, slow: bool, write: bool) -> None:
    """Run the blocks of a page, the slow ones only if ``slow``; check what they print, or write it into the page."""
    names = session()
    text, done = page.read_text(encoding="utf-8"), []
    for block in blocks_of(page):
        if slow or not block.slow:
            names = session() if page.name == "README.md" else names
            lines = run(block, names, str(page))
            if not write:
                check(block, lines, str(page))
            elif block.printed is not None:
                before, shown, text = text.partition(f"```python\n{block.code}```\n\n```text\n{block.printed}")
                done += [before, shown.removesuffix(block.printed), *(f"{line}\n" for line in lines)]
    if not write:
        check_figures(page.read_text(encoding="utf-8"), str(page))
    if write:
        page.write_text(with_figures("".join([*done, text])), encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # what the blocks write is not left behind
        os.chdir(folder)
        main(ROOT / sys.argv[1], "--slow" in sys.argv, "--write" in sys.argv)
        os.chdir(ROOT)

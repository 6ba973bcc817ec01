"""Who imports whom: no two files import each other, and data flows one way, recipes -> zoo -> neurons.

Every import counts, also those inside functions and those only for a type checker.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "neurons": {"neurons"},
    "zoo": {"neurons", "zoo"},
    "recipes": {"neurons", "recipes", "zoo"},
    "benchmarks": {"benchmarks", "neurons", "recipes", "zoo"},
}
"""For each of our packages, those that it may import."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))}


def imported_by(module: str, source: str, is_package: bool = False) -> set[str]:
    """The modules of ours that ``source``, the text of ``module``, imports anywhere.

    ``from a import b`` is an import of the file ``a.b`` if there is one, else of ``a``. A package's ``__init__``, which
    Python runs before any of its parts, counts only if it is named.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            named = {f"{base}.{alias.name}" for alias in node.names}
            found |= (named & FILES.keys()) | ({base} if named - FILES.keys() else set())
    return (found & FILES.keys()) - {module}


def knots(imports: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules in which each module imports all others, directly or indirectly."""
    reached = {}
    for module in imports:
        seen, ahead = set(), [module]
        while ahead:
            new = imports[ahead.pop()] - seen
            seen |= new
            ahead += new
        reached[module] = seen
    found: list[set[str]] = []
    for module, ahead in reached.items():
        knot = {other for other in ahead if module in reached[other]}
        if knot and knot not in found:
            found.append(knot)
    return found


IMPORTS = {
    module: imported_by(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    for module, path in FILES.items()
}


def test_no_two_files_import_each_other_not_even_through_others():
    tangled = knots(IMPORTS)
    assert not tangled, "\n".join(
        f"{module} imports {', '.join(sorted(IMPORTS[module] & knot))}" for knot in tangled for module in sorted(knot)
    )


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_packages_below_it(package):
    for module in IMPORTS:
        if module.split(".")[0] == package:
            wrong = {other for other in IMPORTS[module] if other.split(".")[0] not in MAY_IMPORT[package]}
            assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_inputs_know_nothing_of_networks_and_networks_nothing_of_what_uses_them():
    below = {"zoo.inputs": ("zoo.networks",), "zoo.networks": ("zoo.command", "zoo.loading", "zoo.profiling")}
    for module, imported in IMPORTS.items():
        above = below.get(".".join(module.split(".")[:2]), ())
        assert not [other for other in imported if other.startswith(above or "-")], module


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import zoo.files", {"zoo.files"}),
        ("from zoo import files, load", {"zoo.files", "zoo"}),
        ("from zoo.files import CONFIG", {"zoo.files"}),
        ("def f():\n    from zoo import files", {"zoo.files"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zoo.files import CONFIG", {"zoo.files"}),
        ("from . import files\nfrom .hub import snapshot", {"zoo.files", "zoo.hub"}),
        ("import torch", set()),
    ],
)
def test_an_import_is_seen_wherever_it_stands(source, found):
    assert imported_by("zoo.registry", source) == found


def test_a_knot_is_found_through_a_third_file_and_only_its_own_files_are_named():
    chain = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "above": {"a"}, "below": set(), "d": {"below"}}
    assert knots(chain) == [{"a", "b", "c"}]

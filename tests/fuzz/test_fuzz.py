"""A few hundred damaged and odd inputs of each kind, the same in each run, and tests of the fuzzer itself."""

import pytest

from tests.fuzz import MODULES, runner
from tests.fuzz.misbehaving import WAYS

SIGNS = {
    "undocumented": "KeyError: 'not documented'",
    "hang": "no end after 8 seconds",
    "spin": "SIGXCPU",
    "memory": "MemoryError",
    "abort": "SIGABRT",
    "exit": "exit status 0",
    "make": "no input could be made",
}


@pytest.mark.parametrize("name", MODULES)
def test_damaged_and_odd_input_gets_a_right_answer_or_a_documented_error(name):
    findings = runner.fuzz(f"tests.fuzz.{name}", count=200, seed=0)
    assert not findings, "\n".join(map(str, findings))


@pytest.mark.slow
def test_the_fuzzer_reports_each_way_to_misbehave_with_its_input_and_goes_on(tmp_path):
    limits = runner.Limits(processor_seconds=1, seconds=8)  # enough on a busy machine too
    found = runner.fuzz("tests.fuzz.misbehaving", count=25, seed=1, keep=tmp_path, limits=limits)
    ways = {}
    for finding in found:
        kept = finding.folder / "input"
        ways[kept.read_text() if kept.exists() else "make"] = finding.problem
    assert ways.keys() == set(WAYS) - {"well", "documented"}
    for way, sign in SIGNS.items():
        assert sign in ways[way]


def test_the_same_seed_makes_the_same_inputs_and_findings():
    again = [runner.fuzz("tests.fuzz.misbehaving", 6, seed, limits=runner.Limits(200, 1, 2)) for seed in (3, 3)]
    assert [(f.number, f.problem[:40]) for f in again[0]] == [(f.number, f.problem[:40]) for f in again[1]]

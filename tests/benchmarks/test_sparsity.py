"""The benchmark of sparse spikes runs, and its table and picture hold every model that was asked for."""

import json

import pytest

from benchmarks import sparsity, users
from benchmarks.inference import QUICK


@pytest.mark.slow
def test_a_quick_run_has_the_time_and_the_spike_rate_of_every_model_at_every_job(tmp_path):
    sparsity.main(True, ["a", "b"], ["c"], tmp_path)
    rows = json.loads((tmp_path / "quick-sparsity-cpu.json").read_text())["rows"]
    compared = sparsity.tasks(QUICK, ["a", "b"], ["c"], [], None)
    expected = [(task.name, job.name, name) for task in compared for job in task.jobs for name in task.networks]
    assert [(row["task"], row["job"], row["network"]) for row in rows] == expected
    text = (tmp_path / "quick-sparsity-cpu.md").read_text()
    for row in rows:
        assert (row["spike_rate"] is None) == (row["network"] in sparsity.WITHOUT_SPIKES)
        assert row["spike_rate"] is None or 0 < row["spike_rate"] < 1
        assert row["skipped"] or (row["median"] > 0 and f"| {row['network']} | {row['job']} |" in text)
    assert (tmp_path / "quick-sparsity-cpu.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_is_not_there_is_an_error_and_nothing_is_measured(tmp_path):
    with pytest.raises((KeyError, ValueError, FileNotFoundError), match="no-such-model"):
        sparsity.build_translator("no-such-model", QUICK.size._replace(quick=False), [])
    assert users.TRANSFORMER in sparsity.WITHOUT_SPIKES

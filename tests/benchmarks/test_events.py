"""The benchmark of the event readers runs, and refuses to time readers that disagree."""

import json

import numpy as np
import pytest

from benchmarks import events
from zoo.inputs.events import Events, write_aedat


def test_a_quick_run_measures_every_reader_and_saves_the_figures(tmp_path):
    rows = events.run(True, tmp_path)
    assert [row.reader for row in rows] == [events.OURS, "ours, with bins of 50 ms", "SpikingJelly's load_aedat_v3"]
    assert rows[0].ratio == 1 and all(row.median > 0 and row.million_events_a_second > 0 for row in rows)
    saved = json.loads((tmp_path / "quick-events-cpu.json").read_text())
    assert [row["reader"] for row in saved["rows"]] == [row.reader for row in rows]
    assert "times ours" in (tmp_path / "quick-events-cpu.md").read_text()


def test_a_reader_that_gives_other_events_is_not_timed(tmp_path):
    written = events.recording(100)
    write_aedat(tmp_path / "recording.aedat", written)
    other = Events(written.t, written.x, np.roll(written.y, 1), written.p)
    with pytest.raises(AssertionError, match="reads another y"):
        events.measure(tmp_path / "recording.aedat", other, 1)

"""Programs after the libraries' tutorials and examples learn with our neuron as with theirs, by one changed line."""

import pytest
import torch

from benchmarks.plugging_in import PROGRAMS


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
@pytest.mark.parametrize("ours", [False, True], ids=["theirs", "ours"])
def test_a_program_learns_with_either_neuron_by_one_changed_line(program, ours):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    assert program.lines_changed() == 1
    assert "from neurons" in program.text(True) and "from neurons" not in program.text(False)
    with torch.random.fork_rng():
        score = program.run(ours, seed=0)
    assert score > program.chance + 0.5 * (1 - program.chance)

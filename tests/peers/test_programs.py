"""Programs after the libraries' tutorials and examples learn with our neuron as with theirs, by one changed line."""

import pytest
import torch

from benchmarks.plugging_in import PROGRAMS

FOLDERS = {"n_mnist": "n_mnist_small"}
"""Where the real data is that a program's option asks for."""


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
@pytest.mark.parametrize("ours", [False, True], ids=["theirs", "ours"])
def test_a_program_learns_with_either_neuron_by_one_changed_line(program, ours, request):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    assert program.lines_changed() == 1
    assert "from neurons" in program.text(True) and "from neurons" not in program.text(False)
    folder = [request.getfixturevalue("data_folder") / FOLDERS[program.needs]] if program.needs else []
    with torch.random.fork_rng():
        score = program.run(ours, 0, *folder)
    assert score > program.chance + 0.5 * (1 - program.chance)

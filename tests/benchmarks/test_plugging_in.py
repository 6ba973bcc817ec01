"""The comparison of the libraries' programs with either neuron: what is replaced, and the table."""

import pytest

from benchmarks import plugging_in
from benchmarks.plugging_in import PROGRAMS, Row

WHERE = {"device": "a processor", "threads": 1, "system": "Linux", "date": "2026-01-01", "versions": {"torch": "2"}}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_only_the_import_of_the_neuron_is_replaced(program):
    theirs, ours = (program.text(which).splitlines() for which in (False, True))
    assert len(theirs) == len(ours)
    assert [pair for pair in zip(theirs, ours) if pair[0] != pair[1]] == [(program.theirs, program.ours)]


def test_a_program_without_the_line_is_an_error():
    with pytest.raises(ValueError, match=r"snntorch_explicit.py has the line 'import nothing' 0 times, not once"):
        PROGRAMS[0]._replace(theirs="import nothing").text(True)


def test_the_table_has_scores_and_the_median_of_the_ratios():
    row = Row(
        "snntorch", "tutorial 6", 1, 0.1, ([0.8, 0.9, 0.7], [0.85, 0.9, 0.75]), ([1.0, 2.0, 1.0], [3.0, 4.0, 1.0])
    )
    text = plugging_in.described([row], WHERE)
    assert "| snntorch: tutorial 6 | 1 | 0.800, 0.900, 0.700 | 0.850, 0.900, 0.750 | 0.10 | 2 |" in text
    assert "a processor" in text


def test_a_program_whose_data_is_not_at_hand_is_left_out_and_the_table_says_why():
    (program,) = (program for program in PROGRAMS if program.needs)
    row = plugging_in.measure(program, 3, {"n_mnist": None})
    text = plugging_in.described([row], WHERE)
    assert "| snntorch: tutorial 7 (N-MNIST) | 1 | not run | not run | 0.10 | - |" in text
    assert "Not run: snntorch: tutorial 7 (N-MNIST), because no folder was given by --n-mnist." in text


def test_a_program_gets_the_folder_that_it_needs(tmp_path):
    (program,) = (program for program in PROGRAMS if program.needs)
    with pytest.raises(FileNotFoundError, match=r"there is no .*train.npz, a part of the N-MNIST sample"):
        plugging_in.measure(program, 1, {"n_mnist": tmp_path})

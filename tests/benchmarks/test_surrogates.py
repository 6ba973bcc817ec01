"""The comparison of surrogate gradients: a small network learns with one that has a tail, and the table says so."""

from benchmarks import surrogates


def test_a_small_network_learns_with_the_arctan():
    assert surrogates.accuracy("arctan", seed=0, updates=100) > surrogates.LEARNED


def test_the_results_say_which_seeds_learned(tmp_path):
    surrogates.main(seeds=2, updates=1, output=tmp_path)
    text = (tmp_path / "surrogates.md").read_text()
    assert all(f"| {name} | " in text for name in surrogates.SURROGATES)
    assert surrogates.row_of("arctan", [1.0, 0.9, 0.905]) == {
        "surrogate": "arctan",
        "learned": 2,
        "accuracies": [1.0, 0.9, 0.91],
    }

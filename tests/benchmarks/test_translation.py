"""The benchmark of the translator runs, and compares networks that do the same work."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import translation
from benchmarks.contenders import FUSED
from benchmarks.translation import QUICK, TWIN, Networks, made_up_pairs

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_quick_run_measures_every_network_at_every_job(tmp_path):
    rows = translation.run(True, 1, tmp_path, None)
    fused = f"ours, {FUSED[translation.report.device().type]}"
    jobs = list(dict.fromkeys(row.job for row in rows))
    assert len(jobs) == 3
    assert [(row.job, row.network) for row in rows] == [(job, n) for job in jobs for n in (fused, "ours, torch", TWIN)]
    for row in rows:
        assert 0 < row.first_quartile <= row.median <= row.third_quartile
        assert row.tokens_a_second > 0 and row.samples >= 2
        ours = next(r for r in rows if (r.job, r.network) == (row.job, fused))
        assert row.ratio == row.median / ours.median
        assert (row.sentence_seconds is None) == (row.job != jobs[2])
    (text,), (figures,) = (list(tmp_path.glob(f"quick-translation-*.{ending}")) for ending in ("md", "json"))
    saved = json.loads(figures.read_text())
    assert saved["sentences"] == "made up"
    assert [row["median"] for row in saved["rows"]] == [row.median for row in rows]
    assert all(row.network in text.read_text() for row in rows)


def test_sentences_of_multi30k_are_read_where_its_folder_is_given(tmp_path):
    pairs = [("Ein Hund rennt durch den Schnee.", "A dog runs through the snow.")] * 50
    for side, language in enumerate(("de", "en")):
        (tmp_path / f"train.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
    rows = translation.run(True, 1, tmp_path / "results", tmp_path)
    assert len(rows) == 9
    (figures,) = (tmp_path / "results").glob("*.json")
    assert "Multi30k" in json.loads(figures.read_text())["sentences"]


def test_a_folder_without_the_files_is_an_error_that_says_where_to_get_them(tmp_path):
    result = CliRunner().invoke(translation.typer_app(), ["--quick", "--data", str(tmp_path)])
    assert isinstance(result.exception, FileNotFoundError) and "multi30k/dataset" in str(result.exception)


def test_the_networks_start_from_the_same_weights_and_run_by_what_they_are_called():
    networks = Networks(made_up_pairs(QUICK.pairs), QUICK, CPU)
    fused, reference, twin = networks.models.values()
    for name, tensor in fused.state_dict().items():
        assert torch.equal(tensor, reference.state_dict()[name]), name
    assert twin.config == reference.config | {"mixer": "lstm"}
    networks.training()
    for model, backend in ((fused, "cpu"), (reference, "torch")):
        ran = {module.last_backend for module in model.modules() if isinstance(module, translation.neurons.Neuron)}
        assert ran == {backend}


def test_every_network_translates_to_the_same_number_of_tokens():
    networks = Networks(made_up_pairs(QUICK.pairs), QUICK, CPU)
    calls, tokens = networks.translating(networks.sentences, QUICK.batch)
    lengths = (networks.source != translation.PAD).sum(0) * 3 // 2 + 10
    assert tokens == lengths.sum()
    assert all(len(call()) == QUICK.batch for call in calls.values())


def test_backends_that_train_differently_are_not_timed():
    networks = Networks(made_up_pairs(QUICK.pairs), QUICK, CPU)
    with torch.no_grad():
        networks.models["ours, torch"].embedding.weight.mul_(3)
    with pytest.raises(RuntimeError, match="first loss"):
        networks.training()


def test_made_up_pairs_are_as_long_as_captions_and_the_same_each_time():
    pairs = made_up_pairs(200)
    assert pairs == made_up_pairs(200)
    lengths = [len(side.split()) for pair in pairs for side in pair]
    assert 10 < sum(lengths) / len(lengths) < 15
    assert len({word for pair in pairs for side in pair for word in side.split()}) > 500

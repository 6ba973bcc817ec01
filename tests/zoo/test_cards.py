"""Cards: made from the config and the metrics, for people and for the Hub."""

import pytest
from huggingface_hub import ModelCard

import zoo
import zoo.events
from recipes import gesture_simulator
from zoo import files, registry
from zoo.card import render_card
from zoo.metrics import KEYS


@pytest.fixture
def config(saved):
    return files.read_config(saved)


def table(text, heading):
    """The cells of the first table below a heading."""
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_front_matter_is_what_the_hub_reads(config, metrics):
    data = ModelCard(render_card(config, metrics)).data
    assert data.pipeline_tag == "translation"
    assert data.license == "apache-2.0"
    assert data.language == ["de", "en"]
    assert data.to_dict()["library_name"] == "snn-zoo"
    assert "spiking-neural-network" in data.tags


@pytest.mark.parametrize(
    "began, base", [("org/name", "org/name"), ("lite-snn-multi30k", None), ("./my-translator", None)]
)
def test_the_front_matter_names_a_base_model_only_by_its_id_on_the_hub_and_the_text_always(
    config, metrics, began, base
):
    card = render_card(config, metrics | {"base_model": began})
    assert ModelCard(card).data.base_model == base
    assert f"Training began with the weights of `{began}`" in card


@pytest.mark.parametrize("score", ["bleu", "mean_spike_rate"])
def test_a_benchmark_is_of_a_measured_score(config, metrics, score):
    metrics["benchmarks"] = [{"score": score, "dataset": "somebody/five-words", "task": "test"}]
    with pytest.raises(ValueError, match=f"names '{score}', which is no score of the model"):
        render_card(config, metrics)


def test_the_model_index_holds_the_models_own_scores(config, metrics):
    results = ModelCard(render_card(config, metrics)).data.eval_results
    assert {(r.dataset_split, r.metric_type, r.metric_value) for r in results} == {
        ("val", "bleu", 12.5),
        ("test_2016_flickr", "bleu", 11.25),
    }
    assert {r.task_type for r in results} == {"translation"}
    assert {r.dataset_type for r in results} == {"five-words"}
    assert [r.metric_args["signature"] for r in results] == ["nrefs:1|case:lc", "case:mixed"]


def test_the_model_stands_beside_its_twins(config, metrics):
    assert table(render_card(config, metrics), "## Results") == [
        ["name", "BLEU, val", "BLEU, test", "parameters", "mean spike rate"],
        ["---", "---:", "---:", "---:", "---:"],
        ["**tiny**", "**12.5**", "**11.25**", "**1,234,567**", "**0.31**"],
        ["LSTM twin", "12", "11", "2,345,678", "-"],
    ]


def test_published_figures_name_their_source(config, metrics):
    assert table(render_card(config, metrics), "other people published")[2:] == [
        ["Transformer", "36.5", "somebody, 2020"]
    ]


def test_the_cost_of_sparsity_is_a_table_and_an_estimate_is_called_one(config, metrics):
    rows = table(render_card(config, metrics), "## Sparsity")
    assert rows[0] == ["name", "BLEU, val", "mean spike rate", "energy nJ (estimate)"]
    assert ["penalty 0.1", "10.5", "0.1", "1"] in rows and not any("tiny" in row[0] for row in rows)


def test_everything_that_was_given_is_in_the_card(config, metrics):
    text = render_card(config, metrics)
    for part in (
        metrics["summary"],
        'zoo.load("tiny")',
        "print(model.translate([\"Ein Hund\"]))\n# ['dog']",
        "- BLEU, val: `nrefs:1|case:lc`",
        "- BLEU, test: `case:mixed`",
        "first 100 inputs of val should land between 10 and 15 (BLEU, val)",
        metrics["commands"][0],
        "Seeds: 3",
        "The checkpoint was chosen on: val",
        f"snn-zoo {zoo.__version__}",
        "[Five Words](https://example.org/words). All of it.",
        "Licence of the data: CC0",
        "Licence of the weights: apache-2.0",
        metrics["limits"][0],
        metrics["sources"][0],
        f"{config['parameters']} parameters",
    ):
        assert part in text, part


def test_another_task_has_other_columns(config):
    metrics = {
        "scores": {"accuracy": {"title": "accuracy, %", "type": "accuracy", "split": "test", "signature": "sklearn"}},
        "data": {"name": "N", "type": "n", "url": "https://example.org", "licence": "MIT", "use": "All."},
        "results": [{"name": "tiny", "additions_per_input": 123456.0, "accuracy_mean": 91.0, "accuracy": 91.25}],
    }
    text = render_card({**config, "task": "text-classification"}, metrics)
    assert table(text, "## Results")[0][1:] == ["accuracy, %", "additions per input", "accuracy, %, mean of the seeds"]
    assert table(text, "## Results")[2] == ["**tiny**", "**91.25**", "**123,456**", "**91**"]
    assert "print(model.classify([text]))" in text
    assert ModelCard(text).data.pipeline_tag == "text-classification"


def test_an_unmeasured_models_card_claims_nothing(config):
    text = render_card(config, {})
    assert "Nothing was measured yet" in text
    assert 'zoo.load("./tiny")' in text
    assert "Licence of the weights: unknown" in text
    assert ModelCard(text).data.eval_results is None


def test_what_a_model_costs_stands_beside_its_twins(config, metrics):
    rows = [
        {"name": "tiny", "additions": 1234567, "spike rate": 0.25, "estimated_energy in float32, nJ": 12.5},
        {"name": "LSTM twin", "additions": 2345678, "spike rate": None, "estimated_energy in float32, nJ": 50.0},
    ]
    comparison = ["tiny: 4.00 times fewer multiplications than LSTM twin"]
    metrics["costs"] = {"inputs": "the 1,014 sentences of val", "rows": rows, "comparison": comparison, "plot": "a.png"}
    text = render_card(config, metrics)
    assert table(text, "## What it costs") == [
        ["", "**tiny**", "LSTM twin"],
        ["---", "---:", "---:"],
        ["additions", "1,234,567", "2,345,678"],
        ["spike rate while it answers", "0.25", "-"],
        ["energy in float32, nJ (estimate)", "12.5", "50"],
    ]
    assert "counted by `snn-zoo profile` on the 1,014 sentences of val." in text
    assert f"- {comparison[0]}" in text
    assert "![Spikes by layer](a.png)" in text
    metrics["costs"]["plot"] = None
    assert "![" not in render_card(config, metrics)


def test_a_bar_in_a_name_does_not_break_the_table(config, metrics):
    metrics["results"][1]["name"] = "a|b"
    assert "| a\\|b | 12 |" in render_card(config, metrics)


CALIBRATION = {
    "temperature": 0.625,
    "fitted_on": "val",
    "rows": [{"name": "test", "inputs": 1500, "calibration_error_at_temperature_1": 0.125, "calibration_error": 0.25}],
    "command": "python -m calibrate",
}


def test_how_far_probabilities_are_from_what_is_right_is_a_table_and_what_was_not_calibrated_says_so(config, metrics):
    assert "## Probabilities" not in render_card(config, metrics)  # a network without a temperature
    plain = config | {"task": "text-classification", "architecture_config": {"temperature": 1.0}}
    assert "were not calibrated" in render_card(plain, metrics)
    text = render_card(plain, metrics | {"calibration": CALIBRATION})
    assert "the temperature 0.625, fitted by likelihood on val" in text and "python -m calibrate" in text
    assert table(text, "## Probabilities") == [
        ["name", "inputs", "calibration error at temperature 1", "calibration error"],
        ["---", "---:", "---:", "---:"],
        ["test", "1,500", "0.125", "0.25"],
    ]


@pytest.mark.parametrize("key", sorted(KEYS))
def test_an_entry_of_the_wrong_type_is_named(config, metrics, key):
    metrics[key] = 3
    with pytest.raises(ValueError, match=f"metrics\\['{key}'\\] must be a"):
        render_card(config, metrics)


def test_an_unknown_entry_gets_a_suggestion(config, metrics):
    metrics["limit"] = metrics.pop("limits")
    with pytest.raises(ValueError, match="no entry of the metrics is called 'limit'; did you mean 'limits'"):
        render_card(config, metrics)


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda m: m["data"].pop("licence"), r"metrics\['data'\] must have exactly the keys name, type, url, licence"),
        (lambda m: m["scores"].update(bleu_val=3), r"metrics\['scores'\]\['bleu_val'\] must have exactly"),
        (lambda m: m.pop("scores"), "need 'scores' too"),
        (lambda m: m.pop("data"), "need 'data' too"),
        (lambda m: m["results"].pop(0), "one row of the model's own name, 'tiny'"),
        (lambda m: m["results"].append(m["results"][0]), "one row of the model's own name, 'tiny'"),
        (lambda m: m["results"][1].pop("name"), "must have text for name"),
        (lambda m: m.update(costs={"inputs": "val"}), r"metrics\['costs'\] must have exactly the keys inputs, rows"),
        (
            lambda m: m.update(costs={"inputs": "val", "rows": [{}], "comparison": [], "plot": None}),
            r"each row of metrics\['costs'\] must have text for name",
        ),
        (
            lambda m: m.update(calibration=CALIBRATION | {"rows": [{}]}),
            r"row of metrics\['calibration'\] must have text",
        ),
        (
            lambda m: m.update(calibration=CALIBRATION | {"temperature": "1"}),
            r"must have int or float for 'temperature'",
        ),
        (lambda m: m["published"][0].pop("source"), "must have text for name and source"),
        (lambda m: m["results"][0].update(bleu_val=[1]), "'bleu_val' in metrics"),
        (lambda m: m["results"][0].update(bleu_val=float("nan")), "'bleu_val' in metrics"),
        (lambda m: m["score_band"].update(score="bleu_vla"), "has the score 'bleu_vla'"),
    ],
)
def test_metrics_that_are_not_laid_out_as_they_should_be_are_refused(config, metrics, change, problem):
    change(metrics)
    with pytest.raises(ValueError, match=problem):
        render_card(config, metrics)


@pytest.mark.parametrize("name", zoo.list_models())
def test_the_first_block_of_a_bundled_card_prints_what_it_says(name, tmp_path, monkeypatch, capsys, request):
    text = (registry.MODEL_CARDS / name / files.CARD).read_text(encoding="utf-8")
    block = text[text.index("```python\n") + len("```python\n") :]
    block = block[: block.index("```")]
    if "aedat" in block:
        zoo.events.write_aedat(tmp_path / "air_guitar.aedat", gesture_simulator.example("air guitar"))
    elif "opus" in block:
        folder = request.getfixturevalue("data_folder") / "librispeech_mini"
        (found,) = folder.rglob("26-495-0003.opus")
        (tmp_path / found.name).write_bytes(found.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    said = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
    assert capsys.readouterr().out.splitlines() == said and said

"""The results of a profile: energy, comparison, table, JSON, drawing; the command; every model of the zoo."""

import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import neurons
import zoo
from recipes.multi30k import train_tokenizer
from zoo.command import app
from zoo.networks import gesture, sentiment, translation
from zoo.profiling import ENERGY, SPIKES_IN_INT8, Counts, Profile, Row

SENTENCES = ["Ein Hund", "Schnee"]


def profile_of(counts, name="mine", inputs=2, **row):
    return Profile(name, inputs, [Row("layer", "Linear", counts=counts, **row)])


# Energy


def test_the_energies_are_horowitz_s():
    assert ENERGY == {"float32": (3.7, 0.9), "float16": (1.1, 0.4), "int32": (3.1, 0.1), "int8": (0.2, 0.03)}


def test_levels_are_multiplied_in_floating_point_and_shifted_in_whole_numbers():
    counts = Counts(multiplications=10, integer_multiplications=100, shift_additions=200, additions=1000)
    assert counts.energy("float32") == pytest.approx(110 * 3.7 + 1000 * 0.9)
    assert counts.energy("int32") == pytest.approx(10 * 3.1 + 1200 * 0.1)
    assert profile_of(counts).energy("int8") == pytest.approx((10 * 0.2 + 1200 * 0.03) / 2)
    counts.integer_additions = 700
    expected = 10 * 3.7 + 300 * 0.9 + 100 * 0.2 + 700 * 0.1
    assert counts.energy(SPIKES_IN_INT8) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"arithmetic must be one of float32.*int8 spikes; got 'int4'"):
        counts.energy("int4")


# Comparison


def test_twins_are_compared_input_by_input_and_zeros_are_not_hidden():
    mine = profile_of(Counts(multiplications=20, integer_multiplications=180, multiplications_by_zero=10), inputs=2)
    twin = profile_of(Counts(multiplications=1000, multiplications_by_zero=840), "GRU twin", inputs=1)
    first, reals, skipped, energy = mine.compare(twin)
    assert first.startswith("mine: 10.00 times fewer multiplications than GRU twin (100 against 1k per input; 90 of")
    assert "100.00 times fewer than GRU twin" in reals
    assert "1.68 times fewer than GRU twin" in skipped
    assert "an estimate: 10.00 times less in float32, 100.00 times less in int32" in energy
    assert "10.00 times more multiplications than mine" in twin.compare(mine)[0]


def test_a_network_without_any_multiplication_compares_too():
    mine, twin = profile_of(Counts(additions=5)), profile_of(Counts(multiplications=5), "twin")
    assert "all fewer multiplications" in mine.compare(twin)[0]
    assert "1.00 times fewer multiplications" in mine.compare(mine)[0]


# Table, JSON and drawing


@pytest.fixture
def profiled(network):
    return zoo.profile(network, SENTENCES, name="tiny")


def printed(profile, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(profile.table(width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_has_a_row_per_layer_and_says_what_is_an_estimate(profiled, width, monkeypatch):
    text = printed(profiled, width)
    for part in ("tiny: mean of 2 inputs", "currents", "neuron", "readout", "total", "(est.)", "Energy is an estimate"):
        assert part in text
    assert "Horowitz" in text
    assert "sigmoid" in text
    monkeypatch.setenv("COLUMNS", str(width))
    assert str(profiled) == text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_layer_of_a_bundled_model_is_broken_in_two_lines(width):
    """A model with the same layers, each of which costs much."""
    counts = Counts(*[888_888_888] * 6)
    for name in zoo.list_models():
        layers = [layer for layer, _ in zoo.load(name).named_modules() if layer]
        profile = Profile(name, 1, [Row(layer, "Linear", 1, 1, counts, 4, Counter({0: 1, 1: 2})) for layer in layers])
        lines = printed(profile, width).splitlines()
        first = next(place for place, line in enumerate(lines) if "──" in line) + 1
        for layer, line in zip(layers, lines[first:]):
            label, *cells = line.split()
            assert layer.endswith(label)
            assert len(cells) >= 4 and "66.7" in cells and "889M" in cells
        assert max(map(len, lines)) <= width


def test_columns_that_have_no_room_are_named(profiled):
    assert "parameters" not in printed(profiled, 120).replace("param-", "")
    narrow = printed(profiled, 40)
    assert "A wider terminal shows" in narrow
    for column in ("param-", "shift"):
        assert column not in narrow.split("Weights and buffers")[0]
    assert "parameters" in narrow and "shift add." in " ".join(narrow.split())


def test_the_json_holds_every_count(profiled):
    found = json.loads(profiled.to_json())
    assert found["name"] == "tiny"
    assert found["inputs"] == 2
    for part in ("multiplications", "integer_multiplications", "additions", "shift_additions", "dense_macs"):
        assert found["counts"][part] == getattr(profiled.counts, part)
        assert found["counts"][part] == sum(layer["counts"][part] for layer in found["layers"])
    neuron = next(layer for layer in found["layers"] if layer["name"] == "neuron")
    assert neuron["spike_rate"] == pytest.approx(found["spike_rate"])
    assert sum(neuron["levels"].values()) == 4 * sum(len(sentence) for sentence in SENTENCES)
    assert found["estimated_energy_pJ_per_input"]["float32"] == pytest.approx(profiled.energy())


def test_the_row_for_a_card_is_means_an_input(profiled):
    row = profiled.card_row()
    assert row["name"] == "tiny"
    assert row["multiplications by small integers"] == round(profiled.counts.integer_multiplications / 2)
    assert row["estimated_energy in float32, nJ"] == round(profiled.energy() / 1000, 1)


def test_the_drawing_is_written_and_needs_spikes(profiled, tmp_path):
    pytest.importorskip("matplotlib")
    profiled.plot(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="LSTM has no spikes"):
        zoo.profile(nn.LSTM(2, 2), torch.rand(2, 1, 2)).plot(tmp_path / "none.png")


def test_a_layer_that_did_not_run_in_the_first_input_is_drawn_empty(tmp_path):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = neurons.LearnableLIF(), neurons.LearnableLIF()

        def forward(self, x):
            return self.a(x)[0] if x.sum() < 0 else self.b(self.a(x)[0])[0]

    pytest.importorskip("matplotlib")
    found = zoo.profile(Sometimes(), [-torch.ones(3, 1, 4), 2 * torch.ones(3, 1, 4)])
    found.plot(tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 5000


def test_the_raster_is_the_first_steps_of_the_first_sample():
    x = torch.randn(4, 2, 3)
    lif = neurons.LearnableLIF()
    (row,) = zoo.profile(lif, x).rows
    assert row.raster == lif(x)[0][:, 0].int().tolist()


# Every model of the zoo


def translator(mixer):
    torch.manual_seed(1)
    pairs = [("Ein Hund rennt durch den Park.", "A dog runs through the park."), ("Zwei Männer.", "Two men.")]
    tokenizer = train_tokenizer(pairs, 60)
    sizes = {"width": 32, "encoder_layers": 2, "decoder_layers": 2, "initial_range": 1.0}
    config = translation.TranslatorConfig(vocabulary=tokenizer.get_vocab_size(), mixer=mixer, **sizes)
    return translation.Translator(config, tokenizer)


@pytest.mark.parametrize("mixer", translation.MIXERS)
def test_every_translator_is_counted_while_it_really_translates(mixer):
    model = translator(mixer)
    profile = zoo.profile(model, ["Ein Hund rennt durch den Park."], beam_size=1)
    config, rows = model.typed_config, {row.name: row for row in profile.rows}
    output = rows["decoder.0.output"].counts.dense_macs
    steps = output // model.decoder[0].output.weight.numel()
    assert output == steps * model.decoder[0].output.weight.numel()
    assert 1 < steps <= config.longest
    # Greedy search: the logits of one hypothesis per step, with the embedding's weights.
    assert rows["Translator"].counts.dense_macs == steps * config.vocabulary * config.width
    assert bool(profile.spike_rate) == (mixer in ("input-gated-lif", "learnable-lif"))
    if mixer == "input-gated-lif":
        weights = [row for row in profile.rows if row.kind == "Linear"]
        assert sum(row.counts.multiplications for row in weights) == 0
        assert sum(row.counts.integer_multiplications for row in weights) > 0


TEXT = "A wonderful film, and the end is a joy."


def text_classifier(mixer, ngrams=0):
    tokenizer = train_tokenizer([(TEXT, TEXT)], 60)
    sizes = {"width": 8, "channels": 12, "initial_range": 1.0}
    config = sentiment.TextClassifierConfig(("bad", "good"), tokenizer.get_vocab_size(), ngrams, mixer=mixer, **sizes)
    return sentiment.TextClassifier(config, tokenizer)


@pytest.mark.parametrize("mixer", sentiment.MIXERS)
def test_every_text_classifier_is_counted(mixer):
    counts = zoo.profile(text_classifier(mixer), [TEXT]).counts
    assert counts.dense_macs > 0
    assert counts.additions > 0


def gesture_network(mixer):
    torch.manual_seed(0)
    sizes = {"height": 16, "width": 16, "pool": 2, "bin_size": 1000, "channels": 4, "blocks": 2, "head": 4}
    return gesture.GestureNetwork(gesture.GestureConfig(["up", "down"], mixer=mixer, **sizes))


def recording():
    random = np.random.default_rng(0)
    x, y, p = random.integers(0, [[16], [16], [2]], (3, 2000))
    return {"t": np.sort(random.integers(0, 9500, 2000)), "x": x, "y": y, "p": p}


@pytest.mark.parametrize("mixer", gesture.MIXERS)
def test_every_gesture_network_is_counted(mixer):
    profile = zoo.profile(gesture_network(mixer), [recording()])
    assert profile.counts.dense_macs > 0
    assert (profile.spike_rate is not None) == ("lif" in mixer)


# The command


def run(*arguments):
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


def test_the_command_prints_a_table_and_the_comparison_with_a_twin(bundled):
    result = run("tiny", "--inputs", "Ein Hund", "--against", bundled)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("Weights and buffers") == 2
    assert f"tiny: 1.00 times fewer multiplications than {bundled}" in " ".join(result.stdout.split())


def test_the_command_takes_the_lines_of_a_file_or_the_card_s_example(bundled, tmp_path):
    (tmp_path / "german.txt").write_text("Ein Hund\nSchnee\n")
    assert json.loads(run("tiny", "--json", "--inputs", tmp_path / "german.txt").stdout)["profiles"][0]["inputs"] == 2
    from_file = json.loads(run("tiny", "--json", "--inputs", "Ein Hund").stdout)
    assert json.loads(run("tiny", "--json").stdout) == from_file
    assert from_file["comparisons"] == []


def test_the_command_draws_and_passes_the_beam_on(bundled, tmp_path):
    pytest.importorskip("matplotlib")
    assert run("tiny", "--plot", tmp_path / "tiny.png", "--beam-size", "2").exit_code == 0
    assert (tmp_path / "tiny.png").exists()
    failed = run("tiny", "--beam-size", "0")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr == "snn-zoo: beam_size must be at least 1; got 0\n"


def test_errors_of_the_command_are_one_line(bundled):
    for arguments, text in (
        (["tinny"], "did you mean 'tiny'?"),
        (["tiny", "--against", "./none"], "there is no folder './none'"),
    ):
        failed = run(*arguments)
        assert failed.exit_code == 1
        assert failed.stderr.startswith("snn-zoo: ")
        assert failed.stderr.count("\n") == 1
        assert text in failed.stderr

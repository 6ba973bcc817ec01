"""The benchmark of inference runs, compares networks that do the same work, and times what it says."""

import importlib
import importlib.util
import json
import os
import sys

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from typer.testing import CliRunner

from benchmarks import inference, parts, users
from benchmarks.contenders import Unavailable
from benchmarks.inference import AS_IT_IS, QUICK, Row
from benchmarks.measure import Effort
from benchmarks.parts import EventProduct, Part, Product
from benchmarks.process import Alone
from benchmarks.users import Firing, Job
from zoo.engine import integers
from zoo.engine import program as engine
from zoo.engine.program import NotInIntegers
from zoo.networks.translation import pad

SIZE = QUICK.size
HAS_CTRANSLATE2 = importlib.util.find_spec("ctranslate2") is not None
NETWORKS = [
    pytest.param(name, marks=pytest.mark.skipif(name == users.TRANSFORMER and not HAS_CTRANSLATE2, reason="optional"))
    for name in users.TRANSLATORS
]


@pytest.fixture(scope="module")
def sentences():
    return inference.sentences_of(None, QUICK)


@pytest.mark.slow
def test_a_quick_run_measures_every_network_at_every_job_and_saves_all_figures(tmp_path):
    results = inference.run(True, [1], tmp_path)
    tasks = QUICK.tasks([])
    expected = [(t.name, job.name, name) for t in tasks for job in t.jobs for name in t.networks]
    assert [(row.task, row.job, row.network) for row in results.rows] == expected
    for row in results.rows:
        if row.skipped is None:
            assert 0 < row.first_quartile <= row.median <= row.third_quartile
            assert row.samples == 2 and row.steps >= row.items and row.times_twin > 0
            assert row.peak_memory > 0 or not sys.platform.startswith("linux")
    skipped = {row.network for row in results.rows if row.task == "translation" and row.skipped}
    assert skipped == (set() if HAS_CTRANSLATE2 else {users.TRANSFORMER})
    assert [row.rate for row in results.rates[:2]] == sorted([row.rate for row in results.rates[:2]], reverse=True)
    assert {(part.precision, part.rows) for part in results.parts} == {
        (p, n) for p in ("int8", "float32") for n in (1, 5, 20)
    }
    (text,), (figures,) = (list(tmp_path.glob(f"quick-inference-cpu.{ending}")) for ending in ("md", "json"))
    saved = json.loads(figures.read_text())
    assert [row["median"] for row in saved["rows"]] == [row.median for row in results.rows]
    assert len(saved["products"][AS_IT_IS]["products"]) == 8
    written = text.read_text()
    assert all(f"| {row.network} |" in written or f"{row.network}: {row.skipped}." in written for row in results.rows)
    assert all(part.part in written for part in results.parts)


def test_the_command_refuses_to_run_without_threads_and_without_the_files_of_its_data(tmp_path):
    arguments = ["--quick", "--output", str(tmp_path / "results")]
    result = CliRunner().invoke(inference.typer_app(), [*arguments, "--threads", "0"])
    assert isinstance(result.exception, ValueError) and "threads" in str(result.exception)
    result = CliRunner().invoke(inference.typer_app(), [*arguments, "--data", str(tmp_path)])
    assert isinstance(result.exception, FileNotFoundError) and "multi30k/dataset" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


# ---- The networks ----


@pytest.mark.parametrize("name", NETWORKS)
def test_every_translation_of_every_network_has_the_same_number_of_tokens(name, sentences):
    user = users.build_translator(name, SIZE, sentences)
    for job in QUICK.jobs():
        assert user.steps(job) == job.items * SIZE.tokens
        assert len(user.outputs(job)) == job.items
        user.work(job)


@pytest.mark.parametrize("mixer", ["LSTM", "GRU"])
def test_a_quantised_twin_computes_nearly_what_it_computed_in_floats(mixer, sentences):
    twins = [users.build_translator(f"{mixer} twin, {kind}", SIZE, sentences).model for kind in ("float32", "int8")]
    source = pad([twins[0].tokenizer.encode(sentence).ids for sentence in sentences])
    with torch.no_grad():
        steps = []
        for model in twins:
            context, state, logits = model.encode(source), None, []
            for tokens in source[:4]:
                s, state = model.scan(tokens[None], state, context)
                logits.append(model.logits(s[0])[:, 4:])
            steps.append(torch.stack(logits))
    exact, found = steps
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()
    layers = [m for m in twins[1].modules() if "dynamic" in type(m).__module__ and hasattr(m, "_get_name")]
    assert {"DynamicQuantizedLinear", f"DynamicQuantized{mixer}"} <= {layer._get_name() for layer in layers}
    assert not [m for m in twins[1].modules() if isinstance(m, nn.Linear | nn.LSTM | nn.GRU)]


def test_a_network_that_computes_in_another_precision_than_it_is_called_is_not_timed(sentences):
    user = users.build_translator(users.OURS_INT8, SIZE, sentences)
    user.work(Job("", 1))
    user.model.precision = "float32"
    with pytest.raises(RuntimeError, match="to compute in int8 and computed in float32"):
        user.work(Job("", 1))


def test_spikes_become_rarer_with_the_threshold_and_with_the_range(sentences):
    user = users.build_translator(users.OURS_INT8, SIZE, sentences)
    rates = [user.spike_rate_at(firing) for firing in inference.FIRINGS]
    assert rates == sorted(rates, reverse=True) and rates[0] > 0.6 and rates[-1] < 0.1
    assert user.spike_rate_at(Firing(0)) == rates[0]
    user.work_at(Firing(0), Job("", 1))


def test_without_ctranslate2_the_transformer_says_how_to_install_it(sentences, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="pip install ctranslate2"):
        users.build_translator(users.TRANSFORMER, SIZE, sentences)


def test_made_up_sentences_are_as_long_as_captions_and_the_same_each_time():
    tokenizer = users.translator(SIZE).tokenizer
    made = users.made_up_sentences(tokenizer, 50)
    assert made == users.made_up_sentences(tokenizer, 50)
    assert all(9 <= len(sentence.split()) <= 15 for sentence in made)
    assert len(set(made)) == 50


@pytest.mark.parametrize("name", users.GESTURES)
def test_a_stream_of_gestures_takes_the_frames_of_the_job(name):
    try:
        user = users.build_gestures(name, SIZE)
    except (NotInIntegers, Unavailable):
        assert name.endswith("int8")
        return
    job = Job("frame by frame", SIZE.frames)
    assert user.steps(job) == SIZE.frames
    user.work(job)


@pytest.mark.parametrize("name", users.TEXTS)
def test_texts_have_the_words_of_the_job(name):
    try:
        user = users.build_texts(name, SIZE)
    except NotInIntegers:
        assert name == users.OURS_INT8
        return
    assert user.steps(Job("", 3)) == 3 * SIZE.words
    user.work(Job("", 3))


# ---- Measuring ----


class Working:
    """A network that takes so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def call(self, method, job):
        return self.steps if method == "steps" else None


def test_networks_that_do_different_work_are_not_timed():
    job, rows = Job("x", 1), {name: Row("t", "x", name, AS_IT_IS, 1, 1) for name in "ab"}
    with pytest.raises(RuntimeError, match="not the same work: a 3 steps, b 4 steps"):
        inference.measure_job({"a": Working(3), "b": Working(4)}, job, rows, Effort(2, 2))
    inference.measure_job({"a": Working(3), "b": Working(3)}, job, rows, Effort(2, 2))
    assert all(row.samples == 2 and row.steps == 3 for row in rows.values())


def test_ratios_say_how_many_times_as_fast_a_network_is():
    names = users.TRANSLATORS
    rows = {name: Row("translation", "x", name, AS_IT_IS, 1, 1) for name in names}
    for name, median in zip(names, (2.0, 8.0, 6.0, None, None, None, 1.0)):
        rows[name].median = median
    inference.compare(rows, users.LSTM)
    assert [row.times_twin for row in rows.values()] == [3.0, 0.75, 1.0, None, None, None, 6.0]
    assert [row.times_transformer for row in rows.values()] == [0.5, 0.125, 1 / 6, None, None, None, 1.0]


@pytest.mark.slow
def test_a_process_has_its_own_environment_and_hands_over_results_and_errors():
    process = Alone(importlib.import_module, "os", environment={"SNN_ZOO_TEST": "here"})
    assert process.call("getenv", "SNN_ZOO_TEST") == "here" and "SNN_ZOO_TEST" not in os.environ
    assert process.call("getpid") not in (os.getpid(), None)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        process.call("listdir", "nowhere")
    process.close()
    with pytest.raises(ValueError, match="invalid literal"):
        Alone(int, "x")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_the_memory_of_a_process_is_that_of_the_object_and_of_the_call():
    process = Alone(np.ones, 8 << 20)  # 64 MiB
    assert 120 < process.peak_memory("astype", "f8") / 2**20 < 160
    assert 60 < process.peak_memory("sum") / 2**20 < 90
    process.close()


# ---- Parts ----


@pytest.mark.parametrize("job", [Job("", 1), Job("", 2, 2, 5)])
def test_a_step_has_all_instructions_of_the_program_in_their_order_and_all_modules(job, sentences):
    measured = parts.Parts(SIZE, sentences, 2)
    found = measured.measure(job)
    assert all(part.rows == job.items * job.beam_size and part.median >= 0 for part in found)
    numbered = [part.part for part in found if part.precision == "int8" and part.part[0].isdigit()]
    code = measured.users[users.OURS_INT8].model.programs().decoder.code
    assert numbered == [parts.described(place, instruction) for place, instruction in enumerate(code)]
    width = 32
    assert numbered[0] == f"1. embedding, {width}" and numbered[4] == f"5. product, {3 * width} x {2 * width}"
    assert numbered[-1].endswith(f"best, {measured.users[users.OURS_INT8].model.typed_config.vocabulary}")
    assert {"Linear", "MultiBitLIF", "outside of modules"} <= {p.part for p in found if p.precision == "float32"}


def test_measuring_parts_leaves_the_network_as_it_was(sentences):
    measured = parts.Parts(SIZE, sentences, 2)
    ours, job = measured.users[users.OURS_INT8], Job("", 2, 1, 5)
    before, programs = ours.outputs(job), ours.model.programs()
    code = [list(instruction) for instruction in programs.decoder.code]
    measured.measure(job)
    assert ours.outputs(job) == before
    assert ours.model.programs() is programs and programs.decoder.code == code
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in measured.users[users.OURS_FLOAT].model.modules())


class Inner(nn.Module):
    def forward(self, x):
        return x


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(self.inner(x))


def test_modules_are_timed_without_those_inside_them(monkeypatch):
    ticks = iter(range(100))  # the clock moves by one whenever it is read
    monkeypatch.setattr(parts.time, "perf_counter", lambda: next(ticks))
    network = Outer()
    # start 0; outer enters 1; inner 2 to 3, and 4 to 5; outer leaves 6; the end is 7
    assert parts.module_times(network, lambda: network(1)) == {"Inner": 2, "Outer": 3, "outside of modules": 2}


# ---- Products ----


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_a_product_by_events_is_exact_and_never_one_of_matrices(rows, rate, monkeypatch):
    monkeypatch.setattr(engine, "matrix_product", None)
    draw = np.random.default_rng(0)
    levels = (draw.integers(-7, 8, (rows, 24)) * (draw.random((rows, 24)) < rate)).astype(np.int8)
    weights = draw.integers(-127, 128, (24, 10)).astype(np.int8)
    weights[0] = 127
    product = EventProduct(levels, weights)
    for times in (1, 3):
        assert np.array_equal(product(times), levels.astype(np.int32) @ weights.astype(np.int32))


def products(events, matrices):
    """Products of which the two functions of rows and rate are the nanoseconds per weight."""
    return [
        Product(100, 10, rows, rate, 1e-6 * events(rows, rate), 1e-6 * matrices(rows), True)
        for rows in (1, 4, 64)
        for rate in (0.1, 0.4, 0.7)
    ]


def test_the_fit_finds_the_constants_that_products_follow():
    found = parts.fit(products(lambda m, rate: m * (0.01 + 0.05 * rate), lambda m: 0.2 + 0.003 * m))
    assert found.events == pytest.approx((0.01, 0.05)) and found.matrices == pytest.approx((0.2, 0.003))
    assert found.integer_units == integers.has_integer_units()


def test_the_crossing_is_the_rate_at_which_both_products_take_the_same_time():
    one_row = products(lambda m, rate: rate, lambda m: 0.55)[:3]
    assert parts.crossing(one_row) == pytest.approx(0.55)
    assert parts.crossing(products(lambda m, rate: rate, lambda m: 1.0)[:3]) is None
    assert parts.crossing(products(lambda m, rate: rate, lambda m: 0.05)[:3]) == 0.0


@pytest.mark.parametrize("rows", [1, 8, 16, 64])
def test_the_engine_chooses_events_below_its_crossing_and_matrices_above(rows):
    crossing = parts.chosen_crossing(rows, integers.has_integer_units())
    for rate in (0.0, 0.05, 0.2, 0.5, 1.0):
        levels = np.zeros((rows, 1000), np.int8)
        levels[:, : int(1000 * rate)] = 1
        if crossing is None or abs(rate - crossing) > 0.01:
            assert integers.by_events(levels) == (crossing is None or rate < crossing)


def test_a_part_that_only_one_batch_has_is_left_out_of_the_others_columns():
    found = [Part("int8", 1, "a", 1e-6, 1e-6, 2e-6), Part("int8", 5, "b", 3e-6, 3e-6, 3e-6)]
    text = inference.part_tables(found)
    assert "| a | 1, 1 to 2 | - |" in text and "| b | - | 3, 3 to 3 |" in text


# ---- Speech ----


@pytest.mark.parametrize("name", users.LISTENERS)
def test_every_listener_hears_whole_recordings_and_pieces(name):
    try:
        user = users.build_listener(name, SIZE, None)
    except Unavailable:
        pytest.skip("PocketSphinx is optional")
    for job in (Job(users.WHOLE, 1), Job(users.PIECES, 1), Job(users.FIRST, 1)):
        user.work(job)
        assert user.steps(job) == 1


def test_a_recording_is_repeated_or_cut_to_the_seconds_that_are_wanted(tmp_path):
    soundfile.write(tmp_path / "speech.flac", np.linspace(-0.5, 0.5, 24_000), 16_000)
    found = users.samples_of(tmp_path / "speech.flac", 2)
    assert found.dtype == np.int16 and len(found) == 32_000
    assert np.array_equal(found[24_000:], found[:8_000]) and np.ptp(found.astype(int)) > 30_000
    assert np.abs(users.samples_of(None, 1)).max() > 5_000

"""The benchmark of the scans runs, measures every contender, and refuses to time what is wrong or takes too long."""

import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import neurons
from benchmarks import report, scan
from benchmarks.contenders import (
    BYTES_ALONE,
    OLD_SPIKINGJELLY,
    Contender,
    Family,
    LearnableLIFLoop,
    Unavailable,
    families,
    old_spikingjelly_lif,
)
from benchmarks.measure import MODES, Effort, Results, Shape, in_turn, shape_of, with_peak_memory

CPU = torch.device("cpu")
ONCE = Effort(samples=1, fewest=1, sample_seconds=0, seconds=0)
CONTENDERS = [
    pytest.param(family, contender, id=f"{family.neuron}: {contender.name}")
    for family in families("cpu")
    for contender in family.contenders
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The rows and the folder of one quick run, on the GPU if there is one."""
    folder = tmp_path_factory.mktemp("results")
    return scan.run(True, 1, folder), folder


@pytest.mark.slow
def test_a_quick_run_measures_every_contender_at_every_shape_in_both_modes(quick):
    rows, _ = quick
    device = report.device()
    expected = {
        (family.neuron, name, mode, shape)
        for family in families(device.type)
        for name in family.names
        for mode in MODES
        for shape in scan.shapes(family, device, quick=True)
    }
    assert {(row.neuron, row.contender, row.mode, row.shape) for row in rows} == expected
    assert len(rows) == len(expected)
    for row in rows:
        if row.skipped is None:
            assert 0 < row.first_quartile <= row.median <= row.third_quartile, row
            assert row.samples >= 1 and row.ratio > 0, row


@pytest.mark.skipif(torch.cuda.is_available(), reason="some contenders for a GPU are optional")
@pytest.mark.slow
def test_nothing_is_skipped_on_the_cpu(quick):
    rows, _ = quick
    assert [row for row in rows if row.skipped] == []


@pytest.mark.slow
def test_contenders_with_the_same_function_agree_with_ours(quick):
    rows, _ = quick
    device = report.device().type
    same = {(family.neuron, c.name) for family in families(device) for c in family.contenders if c.same}
    compared = [row for row in rows if (row.neuron, row.contender) in same and row.skipped is None]
    assert len({(row.neuron, row.contender) for row in compared}) >= 16
    assert all(row.disagreement == 0 for row in compared)


@pytest.mark.slow
def test_a_quick_run_leaves_a_report_a_plot_and_all_figures(quick):
    rows, folder = quick
    (text,), (figures,), (plot,) = (list(folder.glob(f"quick-scan-*.{ending}")) for ending in ("md", "json", "png"))
    saved = json.loads(figures.read_text())
    assert saved["threads"] == 1
    assert saved["device"] == report.device_name(report.device())
    assert saved["versions"]["torch"] == torch.__version__
    assert saved["versions"]["spikingjelly"] == importlib.metadata.version("spikingjelly")
    assert [row["median"] for row in saved["rows"]] == [row.median for row in rows]
    written = text.read_text()
    assert all(row.contender in written and row.neuron in written for row in rows)
    assert plot.stat().st_size > 10_000


def test_the_command_takes_a_folder_and_refuses_to_run_without_threads(tmp_path):
    help_text = CliRunner().invoke(scan.typer_app(), ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert all(option in help_text for option in ("--quick", "--threads", "--output"))
    result = CliRunner().invoke(scan.typer_app(), ["--quick", "--threads", "0", "--output", str(tmp_path)])
    assert result.exit_code != 0 and "threads" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("family", "contender"), CONTENDERS)
def test_a_contender_gives_finite_outputs_that_vary_and_gradients_of_all_it_learns(family, contender):
    torch.manual_seed(0)
    module = contender.build(8)
    x = torch.randn(6, 3, 8 * family.inputs, requires_grad=True)
    y = module(x)
    assert y.shape == (6, 3, 8)
    assert torch.isfinite(y).all() and y.std() > 0
    wanted = [x, *module.parameters()]
    for gradient, tensor in zip(torch.autograd.grad(y.sum(), wanted), wanted):
        assert gradient.shape == tensor.shape
        assert torch.isfinite(gradient).all() and (gradient != 0).any()


@pytest.mark.parametrize(("family", "contender"), CONTENDERS)
def test_a_contender_starts_every_call_from_rest(family, contender):
    module = contender.build(8).eval()
    x = torch.randn(6, 3, 8 * family.inputs)
    with torch.no_grad():
        assert torch.equal(module(x), module(x))


class LeakierLoop(LearnableLIFLoop):
    def __init__(self):
        super().__init__(indexed=False)
        nn.init.constant_(self.leak, 0.5)


def test_a_contender_that_computes_something_else_than_it_says_is_not_timed():
    family = families("cpu")[0]
    wrong = Contender("leakier", lambda width: LeakierLoop(), same="outputs")
    results = Results(CPU, ONCE)
    rows = results.measure(family._replace(contenders=(*family.contenders[1:3], wrong)), Shape(8, 2, 16))
    for row in rows:
        if row.contender == "leakier":
            assert row.median is None and row.ratio is None
            assert row.disagreement > 0.01 and row.skipped.startswith("wrong")
        else:
            assert row.median > 0 and row.skipped is None


def test_a_contender_that_would_take_too_long_is_skipped_and_the_row_says_so():
    family = families("cpu")[0]
    family = family._replace(contenders=family.contenders[1:3])
    results = Results(CPU, ONCE._replace(patience=0.0))
    assert all(row.skipped is None for row in results.measure(family, Shape(2, 2, 16)))
    longer = results.measure(family, Shape(4, 2, 16))
    assert {row.contender for row in longer} == {"ours, torch", "torch loop, unbind", BYTES_ALONE}
    assert all(row.median is None and "a call would take about" in row.skipped for row in longer)
    assert scan.not_measured(results.rows).count("\n") == len(longer) - 1


def test_a_contender_that_is_not_there_is_named_with_its_reason():
    def build(width):
        raise Unavailable("it is not installed")

    family = Family("learnable-lif", (families("cpu")[0].contenders[1], Contender("absent", build)))
    rows = Results(CPU, ONCE).measure(family, Shape(2, 2, 16))
    absent = [row for row in rows if row.contender == "absent"]
    assert [row.skipped for row in absent] == ["it is not installed"] * 2
    assert "- absent, beside learnable-lif, forward, [2, 2, 16]: it is not installed." in scan.not_measured(rows)
    assert "| absent | - |" in scan.ratio_table([row for row in rows if row.mode == "forward"])


class Broken(nn.Module):
    def forward(self, x_seq):
        raise RuntimeError("no kernel image\nand more")


def test_an_error_in_another_library_is_in_its_row_and_one_in_ours_is_raised():
    family = families("cpu")[0]
    broken = Contender("broken", lambda width: Broken())
    rows = Results(CPU, ONCE).measure(family._replace(contenders=(family.contenders[1], broken)), Shape(2, 2, 16))
    reasons = {row.contender: row.skipped for row in rows}
    assert reasons == {"ours, torch": None, "broken": "it raised RuntimeError: no kernel image", BYTES_ALONE: None}
    ours = broken._replace(name="ours, cpu")
    with pytest.raises(RuntimeError, match="no kernel image"):
        Results(CPU, ONCE).measure(family._replace(contenders=(ours,)), Shape(2, 2, 16))


def test_ratios_are_medians_over_ours():
    family = families("cpu")[0]
    rows = Results(CPU, ONCE).measure(family._replace(contenders=family.contenders[1:4]), Shape(4, 2, 16))
    for mode in MODES:
        ours, *others = [row for row in rows if row.mode == mode]
        assert ours.contender == "ours, torch" and ours.ratio == 1
        assert all(row.ratio == row.median / ours.median for row in others)


def test_rounds_call_everything_in_turn_until_its_time_is_up():
    called = []
    calls = {name: lambda name=name: called.append(name) for name in "abc"}
    samples = in_turn(calls, Effort(samples=4, fewest=2, seconds=60), CPU, {"a": 1, "b": 3, "c": 1})
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 4, "b": 4, "c": 4}
    assert called.count("b") == 4 * (1 + 3)  # one untimed call, three timed calls
    rounds = [set(called[i : i + 8]) for i in range(0, 32, 8)]
    assert rounds == [{"a", "b", "c"}] * 4
    samples = in_turn(calls, Effort(samples=4, fewest=2, seconds=0), CPU)
    assert {len(taken) for taken in samples.values()} == {2}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
@pytest.mark.parametrize("mebibytes", [64, 256])
def test_peak_memory_is_what_a_call_needs_at_the_most(mebibytes):
    def call():
        passing = torch.ones(mebibytes << 18)  # float32
        return passing[:1].clone()

    call()
    result, peak = with_peak_memory(call, CPU)
    assert result.item() == 1
    assert 0.95 * mebibytes < peak / 2**20 < mebibytes + 24  # the system counts pages with some delay


def test_long_sequences_of_many_channels_get_a_smaller_batch_on_the_cpu_alone():
    assert shape_of(100, 64, 4096, CPU) == (100, 64, 4096)
    assert shape_of(400, 64, 4096, CPU) == (400, 16, 4096)
    assert shape_of(400, 64, 4096, torch.device("cuda")) == (400, 64, 4096)


def test_a_backend_that_cannot_run_here_is_unavailable_with_a_reason():
    if "cupy" in neurons.kernels.available():
        pytest.skip("CuPy can run here")
    with pytest.raises(Unavailable, match="cupy"):
        families("cuda")[0].contenders[0].build(8)


def test_without_its_folder_the_old_release_is_unavailable_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.delenv(OLD_SPIKINGJELLY, raising=False)
    with pytest.raises(Unavailable, match=r"pip install .* spikingjelly==0\.0\.0\.0\.14"):
        old_spikingjelly_lif("cupy")


def test_the_old_release_runs_beside_the_installed_one_and_computes_the_same():
    if not (Path(os.environ.get(OLD_SPIKINGJELLY, "")) / "spikingjelly").is_dir():
        pytest.skip(f"{OLD_SPIKINGJELLY} names no folder with SpikingJelly 0.0.0.0.14")
    installed = importlib.import_module("spikingjelly.activation_based.neuron")
    old = old_spikingjelly_lif("torch")
    assert type(old.node) is not installed.LIFNode
    assert importlib.import_module("spikingjelly.activation_based.neuron") is installed
    x = torch.randn(20, 3, 8)
    (new,) = (c for c in families("cpu")[0].contenders if "LIFNode" in c.name and "Parametric" not in c.name)
    ours = families("cpu")[0].contenders[0].build(8)
    assert torch.equal(old(x), new.build(8)(x))
    assert torch.equal(old(x), ours(x))
    assert old.eval().node.training  # outside of training it would run a loop instead of CuPy

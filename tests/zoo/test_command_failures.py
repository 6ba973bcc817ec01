"""The command snn-zoo when its environment fails: one line of error and its exit status, from every command."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from command_line import assert_told_in_one_line, finish, start

import zoo
from zoo.tasks import TASKS

MODELS = {TASKS[zoo.info(name).task].method: name for name in zoo.list_models()}
STREAMING = sorted(MODELS)
QUICK = ("list", "profile", "translate")
"""One command of each kind; the slow tests try the others."""


def quick_or_slow(*names):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


EVERY = quick_or_slow("list", "info", "profile", *STREAMING, "--help", "--version")
EVERY_STREAMING = quick_or_slow(*STREAMING)


@pytest.fixture
def recording(tmp_path):
    """A recording of an event camera, a fifth of a second long."""
    random = np.random.default_rng(0)
    x, y, p = random.integers(0, [[128], [128], [2]], (3, 2000))
    np.savez(tmp_path / "recording.npz", t=np.sort(random.integers(0, 200_000, 2000)), x=x, y=y, p=p)
    return tmp_path / "recording.npz"


@pytest.fixture
def one_input(recording):
    """For each method, an input that its model can answer."""
    speech = recording.with_name("speech.wav")
    soundfile.write(speech, np.random.default_rng(0).normal(0, 0.1, 8000), 16_000)
    streamed = {"events": str(recording), "samples": str(speech), None: "two dogs in the snow"}
    return {task.method: streamed[task.streams] for task in TASKS.values()}


@pytest.fixture
def working(one_input):
    """For each command, arguments with which it works."""
    calls = {method: [method, MODELS[method], one_input[method]] for method in STREAMING}
    profile = ["profile", MODELS["classify"], "--inputs", "A good film."]
    return {**calls, "list": ["list"], "info": ["info", MODELS["predict"]], "profile": profile} | {
        option: [option] for option in ("--help", "--version")
    }


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("name", EVERY)
def test_a_full_disk_behind_standard_output_is_one_line(name, working):
    with open("/dev/full", "wb") as full:
        status, _, told = finish(start(*working[name], stdout=full))
    assert status == 1
    assert_told_in_one_line(told, "No space left on device")
    assert name == "--help" or "standard output: " in told


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix closes the stream")
@pytest.mark.parametrize("name", EVERY)
def test_a_closed_standard_output_is_one_line(name, working):
    status, _, told = finish(start(*working[name], stdout=None, preexec_fn=lambda: os.close(1)))
    assert status == 1
    assert_told_in_one_line(told, "standard output is closed")


@pytest.mark.parametrize("name", EVERY)
def test_a_reader_that_has_gone_is_met_in_silence(name, working):
    reading, writing = os.pipe()
    os.close(reading)
    status, _, told = finish(start(*working[name], stdout=writing))
    os.close(writing)
    assert (status, told) == (1, "")


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix closes the stream")
@pytest.mark.parametrize("name", EVERY)
def test_a_closed_standard_error_changes_nothing(name, working):
    status, written, _ = finish(start(*working[name], stderr=None, preexec_fn=lambda: os.close(2)))
    assert status == 0 and written.count(b"\n") > 0


@pytest.mark.parametrize("name", EVERY)
def test_output_is_utf8_whatever_the_locale_says(name, working):
    written = finish(start(*working[name], environment={"PYTHONUTF8": "1"}))[1]
    written.decode("utf-8")
    for environment in (
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp850"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ):
        assert finish(start(*working[name], environment=environment)) == (0, written, "")


@pytest.mark.parametrize("name", quick_or_slow("info", "profile", *STREAMING))
def test_an_argument_that_is_not_utf8_is_one_line(name, working):
    command, _, *rest = working[name]
    status, written, told = finish(start(command, b"n\xff", *rest))
    assert (status, written) == (1, b"")
    assert_told_in_one_line(told, r"no bundled model is called 'n\udcff'")


@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_an_input_that_is_not_utf8_is_told_with_its_number(name, working):
    command, model, _ = working[name]
    status, written, told = finish(start(command, model, b"ein \xff.npz"))
    assert (status, written) == (3, b"\n")
    assert_told_in_one_line(told, "argument 1")


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix closes the stream")
@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_a_closed_standard_input_is_one_line(name):
    status, written, told = finish(start(name, MODELS[name], stdin=None, preexec_fn=lambda: os.close(0)))
    assert (status, written) == (1, b"")
    assert_told_in_one_line(told, "standard input is closed: give each")


@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_nothing_on_standard_input_is_one_line(name):
    status, written, told = finish(start(name, MODELS[name]), b"")
    assert (status, written) == (1, b"")
    assert_told_in_one_line(told, "standard input is empty")


@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_an_input_that_cannot_be_read_is_one_line_and_leaves_the_output_alone(name, tmp_path):
    (tmp_path / "answers.txt").write_text("old\n")
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none.txt", "No such file or directory")):
        call = start(name, MODELS[name], "--input", path, "--output", tmp_path / "answers.txt")
        status, written, told = finish(call)
        assert (status, written) == (1, b"")
        assert_told_in_one_line(told, f"{path}: {why}")
    assert (tmp_path / "answers.txt").read_text() == "old\n"


@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_what_is_read_is_never_written_over(name, one_input, tmp_path):
    (tmp_path / "inputs.txt").write_text(f"{one_input[name]}\n")
    (tmp_path / "same.txt").hardlink_to(tmp_path / "inputs.txt")
    read, written = tmp_path / "inputs.txt", tmp_path / "same.txt"
    with open(read, "rb") as reading, open(written, "ab") as writing:
        for arguments, streams in (
            (["--input", read, "--output", written], {}),
            (["--output", written], {"stdin": reading}),
            (["--input", read], {"stdout": writing}),
            ([], {"stdin": reading, "stdout": writing}),
        ):
            status, _, told = finish(start(name, MODELS[name], *arguments, **streams))
            assert status == 1
            assert_told_in_one_line(told, "is what is to be read")
    assert (tmp_path / "inputs.txt").read_text() == f"{one_input[name]}\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_an_output_that_cannot_be_written_is_one_line(name, working, tmp_path):
    for path, why in (
        ("/dev/full", "No space left on device"),
        (tmp_path / "no" / "folder", "No such file or directory"),
    ):
        status, written, told = finish(start(*working[name], "--output", path))
        assert (status, written) == (1, b"")
        assert_told_in_one_line(told, f"{path}: {why}")


@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_a_device_that_is_not_there_is_one_line(name, working):
    status, written, told = finish(start(*working[name], "--device", "cuda:77"))
    assert (status, written) == (1, b"")
    assert_told_in_one_line(told, "the device 'cuda:77' cannot be used")


@pytest.mark.parametrize("name", EVERY_STREAMING)
def test_an_interrupt_keeps_what_was_written_and_says_how_to_go_on(name, one_input, tmp_path):
    answers = tmp_path / "answers.txt"
    process = start(name, MODELS[name], "--output", answers)
    process.stdin.write(f"{one_input[name]}\n".encode())
    process.stdin.flush()
    while not (answers.exists() and answers.read_text().endswith("\n")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, _, told = finish(process)
    assert status == 130
    assert_told_in_one_line(told, f"interrupted after 1 line; {answers} holds")
    assert "--resume" in told
    assert answers.read_text().count("\n") == 1


def test_drawing_without_matplotlib_says_how_to_install_it(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from zoo.command import app; app()"
    arguments = ["profile", MODELS["classify"], "--inputs", "A good film.", "--plot", str(tmp_path / "drawn.png")]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert found.returncode == 1
    assert_told_in_one_line(found.stderr, "pip install matplotlib")
    assert "total" in found.stdout


def test_a_fault_of_ours_shows_where_it_is():
    code = """
import zoo.command.tables, zoo.command
def models(found): return found.nothing
zoo.command.tables.models = models
zoo.command.app(["list"])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert "Traceback" in found.stderr and "AttributeError" in found.stderr

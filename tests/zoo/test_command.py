"""The command snn-zoo: what it prints, where, and with which exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_network
from typer.testing import CliRunner

import zoo
from zoo import files
from zoo.command import app

CHECKOUT = Path(zoo.__file__).parent.parent
SENTENCES = ["Ein Hund", "Schnee", "Zwei Hunde rennen"]
COMMAND = """
import pathlib, sys
sys.path.insert(0, "tests")
import zoo.registry
zoo.registry.MODEL_CARDS = pathlib.Path(sys.argv.pop(1))
zoo.registry.ARCHITECTURE_MODULES["tiny"] = "tiny_network"
from zoo.command import app
try:
    app(prog_name="snn-zoo")
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.fixture
def translations(bundled):
    said = zoo.load("tiny").translate(SENTENCES)
    assert len(set(said)) == len(SENTENCES)
    return said


def run(*arguments, **options):
    return CliRunner().invoke(app, list(map(str, arguments)), **options)


def assert_one_line_error(result, text):
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("snn-zoo: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


def run_in_new_process(bundled, *arguments, **options):
    command = [sys.executable, "-c", COMMAND, str(bundled.parent), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, **options)


# list and info


def test_list_shows_each_model_with_its_task_and_size(bundled, network):
    result = run("list")
    assert result.exit_code == 0
    heading, line = result.stdout.splitlines()
    assert heading.split() == ["name", "task", "parameters", "size", "summary"]
    parameters = str(sum(p.numel() for p in network.parameters()))
    assert line.split() == ["tiny", "translation", parameters, "0.0", "MiB", *["Says", "one", "word", "of", "five."]]


def test_list_takes_a_pattern_and_a_task(bundled):
    assert "tiny" in run("list", "t*", "--task", "translation").stdout
    assert "tiny" not in run("list", "*imdb*").stdout
    assert_one_line_error(run("list", "--task", "translating"), "did you mean 'translation'?")


def test_list_shows_the_first_sentence_with_square_brackets_as_they_are(bundled):
    metrics = {**tiny_network.METRICS, "summary": "Says [bold]one[/bold] word. No more."}
    (bundled / files.METRICS).write_text(json.dumps(metrics))
    shown = run("list").stdout
    assert "[bold]one[/bold]" in shown and "word." in shown and "No more" not in shown


def test_info_shows_scores_and_licence(bundled):
    result = run("info", "tiny")
    assert result.exit_code == 0
    shown = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert shown["name"] == "tiny"
    assert shown["task"] == "translation"
    assert shown["bleu_test"] == "11.25"
    assert shown["licence"] == "apache-2.0"
    assert shown["folder"] == str(bundled)


def test_info_takes_a_folder(bundled):
    assert run("info", bundled).stdout == run("info", "tiny").stdout


def test_an_unknown_model_is_one_line_with_a_suggestion(bundled):
    for command in (["info", "tinny"], ["translate", "tinny", "Hund"]):
        assert_one_line_error(run(*command), "no bundled model is called 'tinny'; did you mean 'tiny'?")


@pytest.mark.parametrize(
    "arguments", [["list"], ["info", "tiny"], ["--help"], ["--version"], ["translate", "tinny", "Hund"]]
)
def test_torch_is_imported_by_nothing_but_a_translation(bundled, arguments):
    result = run_in_new_process(bundled, *arguments)
    assert result.returncode == (1 if "tinny" in arguments else 0)
    assert result.stderr.splitlines()[-1] == "False"


def test_version_is_the_packages():
    assert run("--version").stdout == f"snn-zoo {zoo.__version__}\n"


def test_no_command_at_all_shows_the_help():
    assert "translate" in run().output


def test_an_unknown_option_is_a_usage_error():
    assert run("list", "--tsak", "translation").exit_code == 2


# translate


def test_translate_prints_one_translation_a_line_and_nothing_else(translations):
    result = run("translate", "tiny", *SENTENCES)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == translations
    assert result.stderr == ""


def test_translate_reads_a_file_line_by_line(translations, tmp_path):
    file = tmp_path / "german.txt"
    for text in ("\n".join(SENTENCES), "\n".join(SENTENCES) + "\n", "\r\n".join(SENTENCES) + "\r\n"):
        file.write_bytes(text.encode())
        assert run("translate", "tiny", "--file", file).stdout.splitlines() == translations


def test_translate_reads_standard_input(translations):
    assert run("translate", "tiny", input="\n".join(SENTENCES) + "\n").stdout.splitlines() == translations


def test_translate_reads_utf8_whatever_the_locale_says(bundled):
    sentence = "Zwei Männer grüßen"
    result = CliRunner(charset="latin-1").invoke(app, ["translate", "tiny"], input=sentence.encode("utf-8"))
    assert result.stdout.splitlines() == zoo.load("tiny").translate([sentence])
    assert zoo.load("tiny").translate([sentence]) != zoo.load("tiny").translate([sentence.encode().decode("latin-1")])


def test_translate_at_a_terminal_without_text_says_what_to_give(bundled):
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    try:
        result = run_in_new_process(bundled, "translate", "tiny", stdin=terminal)
    finally:
        os.close(master)
        os.close(terminal)
    assert result.returncode == 1
    assert result.stderr.splitlines()[0].startswith("snn-zoo: there is nothing to translate: give sentences, --file")


def test_translate_passes_the_options_on(bundled):
    assert run("translate", "tiny", "Hund", "--beam-size", "3", "--device", "cpu").exit_code == 0
    assert_one_line_error(run("translate", "tiny", "Hund", "--beam-size", "0"), "beam_size must be at least 1; got 0")
    assert_one_line_error(run("translate", "tiny", "Hund", "--device", "gpu"), "the device 'gpu' cannot be used")


def test_translate_takes_sentences_or_a_file_but_not_both(bundled):
    assert_one_line_error(run("translate", "tiny", "Hund", "--file", "x.txt"), "give sentences or --file, not both")


def test_an_empty_line_is_named(bundled, tmp_path):
    (tmp_path / "german.txt").write_text("Hund\n\nSchnee\n")
    assert_one_line_error(run("translate", "tiny", "--file", tmp_path / "german.txt"), "line 2 of")
    assert_one_line_error(run("translate", "tiny", input="Hund\n  \n"), "line 2 of standard input is empty")
    assert_one_line_error(run("translate", "tiny", input=""), "standard input is empty")


def test_a_file_that_cannot_be_read_is_named(bundled, tmp_path):
    assert_one_line_error(run("translate", "tiny", "--file", tmp_path / "none.txt"), "none.txt")
    (tmp_path / "latin.txt").write_bytes("Männer".encode("latin-1"))
    assert_one_line_error(run("translate", "tiny", "--file", tmp_path / "latin.txt"), "latin.txt is not text in UTF-8")


def test_damaged_weights_are_one_line(bundled):
    path = bundled / files.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    assert_one_line_error(run("translate", "tiny", "Hund"), "model.safetensors is truncated or altered")


def test_a_model_for_another_task_is_refused(bundled):
    config = json.loads((bundled / files.CONFIG).read_text())
    (bundled / files.CONFIG).write_text(json.dumps({**config, "task": "text-classification"}))
    assert_one_line_error(run("translate", "tiny", "Hund"), "'tiny' is a model for text-classification")


def test_a_model_for_a_task_unknown_here_is_one_line(bundled):
    config = json.loads((bundled / files.CONFIG).read_text())
    (bundled / files.CONFIG).write_text(json.dumps({**config, "task": "singing"}))
    assert_one_line_error(run("translate", "tiny", "Hund"), "singing")


def test_a_reader_that_stops_early_gets_no_traceback(bundled):
    command = [sys.executable, "-c", COMMAND, str(bundled.parent), "translate", "tiny"]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    process.stdin.write("Hund\n" * 500)
    process.stdin.close()
    told = process.stderr.read()
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
    process.stderr.close()
    process.wait()

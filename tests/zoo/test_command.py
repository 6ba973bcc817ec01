"""The command snn-zoo: what it prints, where, and its exit status."""

import json
import re
import subprocess
import sys

import pytest
import tiny_network
from command_line import CHECKOUT, finish, start
from typer.testing import CliRunner

import zoo
from zoo import files
from zoo.command import app
from zoo.tasks import TASKS

SENTENCES = ["Ein Hund", "Schnee", "Zwei Hunde rennen"]
WIDTHS = [60, 80, 120]


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


# list and info


def test_list_shows_each_model_with_its_task_size_score_and_summary(bundled):
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "name  task         size",
        "tiny  translation  0.0 MiB",
        "    11.25 BLEU, test",
        "    Says one word of five.",
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("arguments", [["list"], *(["info", name] for name in zoo.list_models())])
def test_list_and_info_fit_a_terminal_and_break_no_word(arguments, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    words = run(*arguments).stdout.split()
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run(*arguments).stdout
    assert shown.split() == words
    for line in shown.splitlines():
        assert len(line) <= width or line.startswith("folder")  # a path is not wrapped


def test_figures_are_in_the_unit_and_precision_of_their_meaning():
    shown = run("info", "lite-snn-multi30k").stdout
    assert "66.7 % of the neurons' outputs are not zero" in shown and "43.67 BLEU, test 2016\n" in shown
    shown = run("info", "lite-snn-dvs-gesture").stdout
    assert "95.45 % accuracy, test (simulated)\n" in shown and "424,331" in shown
    for name in zoo.list_models():
        shown = run("info", name).stdout.partition("\nmeasured")[2].partition("folder")[0]
        assert shown and not re.search(r"\d\.\d{3}", shown)


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
    shown = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if not line.startswith(" "))
    assert shown["name"] == "tiny"
    assert shown["task"] == "translation"
    assert shown["measured"] == "12.5 BLEU, val"
    assert "  11.25 BLEU, test\n" in result.stdout and "  31.0 % of the neurons' outputs" in result.stdout
    assert shown["licence"] == "apache-2.0"
    assert shown["folder"] == str(bundled)


def test_info_takes_a_folder(bundled):
    assert run("info", bundled).stdout == run("info", "tiny").stdout


def test_an_unknown_model_is_one_line_with_a_suggestion(bundled):
    for command in (["info", "tinny"], ["translate", "tinny", "Hund"]):
        assert_one_line_error(run(*command), "no bundled model is called 'tinny'; did you mean 'tiny'?")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["info", "lite-snn-imdb"],
        ["--help"],
        ["--version"],
        *([task.method, "--help"] for task in TASKS.values()),
    ],
)
def test_torch_is_imported_by_nothing_but_a_model_at_work(arguments):
    code = "import sys, zoo.command\ntry: zoo.command.app()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=CHECKOUT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "False\n")


def test_python_runs_the_package_as_the_command():
    assert finish(start("--version")) == (0, f"snn-zoo {zoo.__version__}\n".encode(), "")


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
        assert run("translate", "tiny", "--input", file).stdout.splitlines() == translations


def test_translate_reads_standard_input(translations):
    assert run("translate", "tiny", input="\n".join(SENTENCES) + "\n").stdout.splitlines() == translations


def test_translate_reads_utf8_whatever_the_locale_says(bundled):
    sentence = "Zwei Männer grüßen"
    result = CliRunner(charset="latin-1").invoke(app, ["translate", "tiny"], input=sentence.encode("utf-8"))
    assert result.stdout.splitlines() == zoo.load("tiny").translate([sentence])
    assert zoo.load("tiny").translate([sentence]) != zoo.load("tiny").translate([sentence.encode().decode("latin-1")])


def test_translate_passes_the_options_on(bundled):
    assert run("translate", "tiny", "Hund", "--beam-size", "3", "--device", "cpu").exit_code == 0
    assert_one_line_error(run("translate", "tiny", "Hund", "--beam-size", "0"), "beam_size must be at least 1; got 0")
    assert_one_line_error(run("translate", "tiny", "Hund", "--device", "gpu"), "the device 'gpu' cannot be used")


def test_translate_takes_sentences_or_a_file_but_not_both(bundled):
    result = run("translate", "tiny", "Hund", "--input", "x.txt")
    assert_one_line_error(result, "give each sentence as an argument or all of them by --input, not both")


def test_damaged_weights_are_one_line(bundled):
    path = bundled / files.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    assert_one_line_error(run("translate", "tiny", "Hund"), "model.safetensors is truncated or altered")


def test_a_model_for_another_task_is_refused(bundled):
    config = json.loads((bundled / files.CONFIG).read_text())
    (bundled / files.CONFIG).write_bytes(files.to_json(files.sealed({**config, "task": "text-classification"})))
    assert_one_line_error(run("translate", "tiny", "Hund"), "'tiny' is a model for text-classification")


def test_a_model_for_a_task_unknown_here_is_one_line(bundled):
    config = json.loads((bundled / files.CONFIG).read_text())
    (bundled / files.CONFIG).write_bytes(files.to_json(files.sealed({**config, "task": "singing"})))
    assert_one_line_error(run("translate", "tiny", "Hund"), "singing")

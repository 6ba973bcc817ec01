"""snn-zoo translate, on a tiny network: one answer per line, in order, as soon as it is ready, for any input length."""

import json
import os
import random
import select
import sys
import time

import pytest
from command_line import finish, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import zoo
from zoo.command import app, streaming
from zoo.tasks import TASKS

FORMS = [[], ["--json"], ["--scores"], ["--json", "--scores"]]
UNCHANGING = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run(*arguments, given=None):
    return CliRunner().invoke(app, ["translate", "tiny", *map(str, arguments)], input=given)


def answer_of(model, line: bytes) -> str | None:
    """The translation of a single line; None if it has none."""
    try:
        text = line.removesuffix(b"\r").decode("utf-8")
        if "\0" in text:
            raise ValueError
        model.check(text, "it")
    except ValueError:
        return None
    return model.translate([text])[0]


@given(lines=st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=20))
@settings(UNCHANGING, max_examples=40)
def test_line_n_of_the_output_answers_line_n_of_the_input_whatever_the_others_are(bundled, lines):
    result = CliRunner().invoke(app, ["translate", "tiny"], input=b"\n".join(lines) + b"\n")
    expected = [
        answer_of(zoo.load("tiny"), line.removeprefix(b"\xef\xbb\xbf" if i == 0 else b""))
        for i, line in enumerate(lines)
    ]
    assert result.stdout == "".join(f"{answer or ''}\n" for answer in expected)
    bad = [number for number, answer in enumerate(expected, 1) if answer is None]
    assert [told.split()[2] for told in result.stderr.splitlines()] == [str(number) for number in bad]
    assert result.exit_code == (3 if bad else 0)


def test_strict_stops_at_the_first_line_without_an_answer(bundled, tmp_path):
    (tmp_path / "german.txt").write_text("Hund\nSchnee\n\nHaus\n \n")
    for place in (["--input", tmp_path / "german.txt"], ["Hund", "Schnee", "", "Haus"]):
        result = run("--strict", *place)
        assert result.exit_code == 1
        assert result.stdout.splitlines() == zoo.load("tiny").translate(["Hund", "Schnee"])
        assert result.stderr.count("\n") == 1 and ("line 3 of" in result.stderr or "argument 3" in result.stderr)


def test_json_and_scores_write_one_answer_per_line(bundled):
    scored = zoo.load("tiny").translate_scored(["Hund", "Schnee"])
    given = "Hund\n\nSchnee\n"
    assert run("--scores", given=given).stdout.splitlines() == [
        f"{scored[0].text}\t{scored[0].score:.4f}",
        "",
        f"{scored[1].text}\t{scored[1].score:.4f}",
    ]
    found = [json.loads(line) for line in run("--json", "--scores", given=given).stdout.splitlines()]
    assert found == [scored[0]._asdict(), {"error": "line 2 of standard input is empty"}, scored[1]._asdict()]
    assert json.loads(run("--json", "Hund").stdout) == {"text": scored[0].text}


def test_what_a_model_writes_stays_in_its_line_and_column():
    assert streaming.as_text("a\nb\rc\td") == "a b c d"
    assert streaming.as_text(("a\nb", {"a\nb": 0.5, "c": 0.5})) == "a b\t0.5000"
    assert json.loads(streaming.as_json("a\nb")) == {"text": "a\nb"}


def test_wrong_options_and_models_leave_the_output_as_it_was(bundled, tmp_path):
    output = tmp_path / "english.txt"
    output.write_text("old\n")
    for arguments in (["--beam-size", "0"], ["--device", "none"], ["--input", tmp_path / "none"]):
        assert run("--output", output, *arguments, given="Hund\n").exit_code == 1
        assert output.read_text() == "old\n"
    assert run("--output", output, "Hund").exit_code == 0
    assert output.read_text().splitlines() == zoo.load("tiny").translate(["Hund"])


@pytest.mark.parametrize("name", ["lite-snn-multi30k", "lite-snn-imdb"])
@pytest.mark.parametrize(
    "text",
    [
        "two dogs",
        ":)",
        "",
        " ",
        "…",
        "привет мир",
        "\ud800",
        "a\0b",
        "\u200b",
        "a " * 300,
        "Hund 犬",
        "\uff54\uff57\uff4f",
        "\x1c",
    ],
)
def test_check_says_of_one_text_what_the_method_of_the_model_would(name, text):
    model, task = zoo.load(name), TASKS[zoo.info(name).task]
    options = {option.name: 1 for option in task.options if option.name == "beam_size"}
    try:
        getattr(model, task.method)([text], **options)
    except ValueError as error:
        with pytest.raises(ValueError) as found:
            model.check(text, f"{task.input} 0")
        assert str(found.value).split(":")[0] == str(error).split(":")[0]
    else:
        model.check(text)


# Going on after an interruption


@pytest.fixture
def german(tmp_path):
    """A file of some hundred lines, a few of which have no answer."""
    chosen = random.Random(0)
    lines = [
        "" if i % 50 == 7 else "".join(chosen.choices("abcdefg ", k=chosen.randrange(2, 9))) + "." for i in range(400)
    ]
    (tmp_path / "german.txt").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "german.txt"


@given(cut=st.floats(0, 1), form=st.sampled_from(FORMS))
@settings(UNCHANGING, max_examples=30)
def test_resume_completes_an_output_that_was_cut_anywhere(bundled, german, tmp_path, cut, form):
    output = tmp_path / "english.txt"
    assert run("--input", german, "--output", output, *form).exit_code == 3
    whole = output.read_bytes()
    assert whole.count(b"\n") == 400
    output.write_bytes(whole[: round(cut * len(whole))])
    again = run("--input", german, "--output", output, "--resume", *form)
    assert again.exit_code == 3  # for lines of the first run too
    assert output.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_resume_completes_what_was_killed_at_any_moment(bundled, german, tmp_path, form):
    german.write_bytes(german.read_bytes() * 50)
    output, arguments = tmp_path / "english.txt", ["--input", german, "--output", tmp_path / "english.txt", "--resume"]
    chosen, kills = random.Random(1), 0
    for wanted in (1, 3_000, 9_000):
        process = start("translate", "tiny", *arguments, *form, cards=bundled.parent)
        while process.poll() is None and (not output.exists() or output.read_bytes().count(b"\n") < wanted):
            time.sleep(0.001)
        time.sleep(chosen.uniform(0, 0.05))
        kills += process.poll() is None
        process.kill()
        finish(process)
    assert kills == 3
    status, _, _ = finish(start("translate", "tiny", *arguments, *form, cards=bundled.parent))
    assert status == 3
    killed = output.read_bytes()
    assert run("--input", german, "--output", output, *form).exit_code == 3
    assert output.read_bytes() == killed


def interrupt_at(moment, parts):
    """For sys.settrace: an interrupt at this line of Python in the functions ``parts`` and what they call."""
    left = moment

    def trace(frame, event, _):
        nonlocal left
        outer = frame
        while outer is not None and outer.f_code not in parts:
            outer = outer.f_back
        if outer is not None and event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace if outer is not None or frame.f_code.co_filename == streaming.__file__ else None

    return trace


def test_an_interrupt_at_any_moment_tells_how_many_lines_are_written(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "GROUP", 1)
    (tmp_path / "german.txt").write_text("Hund\nSchnee\n")
    answers, parts = tmp_path / "answers.txt", (streaming.Reader.groups.__code__, streaming.Output.write.__code__)
    before, moment, status = sys.gettrace(), 0, 130
    while status == 130:
        moment += 1
        answers.unlink(missing_ok=True)
        try:
            sys.settrace(interrupt_at(moment, parts))
            result = run("--input", tmp_path / "german.txt", "--output", answers)
        finally:
            sys.settrace(before)
        status, count = result.exit_code, answers.read_text().count("\n") if answers.exists() else 0
        assert status == 0 or f"interrupted after {count} line" in result.stderr
    assert (status, count) == (0, 2)
    assert moment > 20


def test_resume_starts_where_there_is_no_output_yet_and_needs_one_that_belongs_to_the_input(bundled, tmp_path):
    output = tmp_path / "english.txt"
    assert run("--output", output, "--resume", "Hund", "Schnee").exit_code == 0
    assert output.read_text().splitlines() == zoo.load("tiny").translate(["Hund", "Schnee"])
    for arguments, message in (
        (["--output", output, "--resume", "Hund"], "has 2 lines and the arguments 1: they do not belong together"),
        (["--resume", "Hund"], "--resume continues a file: name it by --output"),
        (["--output", tmp_path, "--resume", "Hund"], "is not a file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
    assert output.read_text().splitlines() == zoo.load("tiny").translate(["Hund", "Schnee"])


# While input is still coming


def test_a_line_from_a_slow_program_is_answered_before_the_next(bundled):
    process = start("translate", "tiny", cards=bundled.parent)
    for line, answer in zip(["Hund", "Schnee", "Haus"], zoo.load("tiny").translate(["Hund", "Schnee", "Haus"])):
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().decode() == f"{answer}\n"
    assert finish(process, b"") == (0, b"", "")


def test_lines_that_have_come_are_answered_together(bundled, monkeypatch):
    asked = []
    network = type(zoo.load("tiny"))
    usual = network.translate
    monkeypatch.setattr(
        network, "translate", lambda *given, **options: asked.append(given[1]) or usual(*given, **options)
    )
    monkeypatch.setattr(streaming, "GROUP", 100)
    assert run(given="Hund\n" * 1000).stdout.count("\n") == 1000
    assert max(map(len, asked)) <= 100
    assert len(asked) < 100


def at_a_terminal(*arguments, cards, typed: bytes = b"", **streams):
    """The exit status of the command at a terminal, and all that the terminal shows."""
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    process = start(*arguments, cards=cards, **{"stdin": terminal, "stdout": terminal, "stderr": terminal} | streams)
    os.close(terminal)
    os.write(master, typed)
    shown = b""
    while process.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.1)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:  # the other end is closed
                break
    os.close(master)
    return process.wait(), shown.decode()


def test_what_is_typed_at_a_terminal_is_answered(bundled):
    (answer,) = zoo.load("tiny").translate(["Hund"])
    status, shown = at_a_terminal("translate", "tiny", cards=bundled.parent, typed=b"Hund\n\x04")
    assert status == 0
    assert "reading one sentence per line; Ctrl-D ends it" in shown
    assert answer in shown.replace("Hund", "").splitlines()


def test_a_terminal_shows_progress_where_the_answers_go_elsewhere(bundled, german, tmp_path):
    output = tmp_path / "english.txt"
    status, shown = at_a_terminal(
        "translate", "tiny", "--input", german, "--output", output, cards=bundled.parent, environment={"COLUMNS": "80"}
    )
    assert status == 3
    assert "400/400" in shown and "line 8 of" in shown
    assert output.read_text().count("\n") == 400
    _, shown = at_a_terminal("translate", "tiny", "--input", german, cards=bundled.parent)
    assert "400/400" not in shown
    _, _, told = finish(start("translate", "tiny", "--input", german, "--output", output, cards=bundled.parent))
    assert "400" not in told


@pytest.mark.skipif(os.name == "nt", reason="memory is measured as Unix does")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(bundled, tmp_path):
    def peak(lines: int) -> int:
        (tmp_path / "german.txt").write_text(("Zwei Hunde rennen durch den Schnee" * 30 + "\n") * lines)
        process = start("translate", "tiny", "--input", tmp_path / "german.txt", cards=bundled.parent, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0
        return used.ru_maxrss * 1024

    with open(tmp_path / "english.txt", "wb") as output:
        assert peak(24_000) - peak(1500) < 8 << 20  # and the larger file has 24 MB

"""Lines of text: where they end, what does not belong to them, and problems of single lines."""

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.inputs.lines import BYTE_ORDER_MARK, Line, read_lines, texts_of

WITHIN_A_LINE = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"]


def lines(data: bytes) -> list[Line]:
    return list(read_lines(io.BytesIO(data), "here.txt"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0\ufeff"))))
def test_lines_that_were_joined_come_back(texts):
    data = "".join(text + "\r\n" for text in texts).encode()
    assert lines(data) == [Line(number, text, None) for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize("character", WITHIN_A_LINE, ids=ascii)
def test_a_line_ends_at_a_line_feed_and_at_no_other_character(character):
    data = f"ein{character}Hund\neine Katze\r\n".encode()
    assert lines(data) == [Line(1, f"ein{character}Hund", None), Line(2, "eine Katze", None)]


def test_the_last_line_needs_no_line_feed_and_empty_lines_are_lines():
    assert [line.text for line in lines(b"a\n\nb")] == ["a", "", "b"]
    assert [line.text for line in lines(b"a\n\nb\n")] == ["a", "", "b"]
    assert lines(b"") == []


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_first_line():
    assert lines(BYTE_ORDER_MARK + b"a\nb") == lines(b"a\nb")
    assert lines(BYTE_ORDER_MARK) == lines(b"")
    assert lines(BYTE_ORDER_MARK + b"\n") == lines(b"\n")


def test_a_line_that_is_no_text_has_a_problem_that_names_it_and_the_others_come_all_the_same():
    first, second, third, fourth = lines(b"gut\nschl\xe4cht\nein\0s\nzwei")
    assert first == Line(1, "gut", None)
    assert second.text is None and "line 2 of here.txt" in second.problem and "0xe4" in second.problem
    assert third.text is None and "line 3 of here.txt" in third.problem and "zero bytes" in third.problem
    assert fourth == Line(4, "zwei", None)


def test_a_line_that_is_there_is_read_before_the_next_one_is_written():
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as out:
        found = read_lines(stream, "pipe")
        for text in ("eins", "zwei"):
            out.write(f"{text}\n".encode())
            assert next(found).text == text


def test_the_first_line_with_a_problem_is_the_error_where_all_are_asked_for():
    assert texts_of(io.BytesIO(b"a\r\nb"), "here.txt") == ["a", "b"]
    with pytest.raises(ValueError, match=r"line 2 of here\.txt"):
        texts_of(io.BytesIO(b"a\n\xff\n\xfe"), "here.txt")

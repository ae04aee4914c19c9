"""Text for a person: no word is broken at 40, 80 and 200 columns, and lines are whole where nobody looks."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from edgellm.cli import page
from edgellm.cli.page import Column, Wrapping, wrapped
from edgellm.errors import EdgeLLMError
from edgellm.types.controls import MARK

WORDS = "The quick brown fox, which was as brown as any, jumped over the dog's lazy back; nobody knows why. "
WIDTHS = (40, 80, 200)


def streamed(text: str, width: int, pieces: int = 1) -> str:
    wrapping = Wrapping(width)
    parts = [text[start : start + pieces] for start in range(0, len(text), pieces)]
    return "".join(map(wrapping.push, parts)) + wrapping.finish()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_a_stream_breaks_between_words(width: int, pieces: int) -> None:
    text = f"{WORDS * 5}\n\n    code = indented\n{WORDS}"
    shown = streamed(text, width, pieces)

    assert max(map(len, shown.split("\n"))) <= width
    assert shown.split() == text.split()
    assert "\n    code = indented\n" in shown
    # As full as the words allow.
    first, second = shown.split("\n")[:2]
    assert len(first) + 1 + len(second.split()[0]) > width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_stream_holds_back_no_more_than_one_word(width: int) -> None:
    wrapping = Wrapping(width)
    text = WORDS * 10
    shown = ""
    for position, char in enumerate(text):
        shown += wrapping.push(char)
        assert len(shown.split()) >= len(text[: position + 1].split()) - 1


def test_a_word_longer_than_a_line_flows_on() -> None:
    assert streamed("x" * 100, 40) == "\n".join(["x" * 40, "x" * 40, "x" * 20])
    assert streamed("so " + "x" * 50, 40) == "so\n" + "x" * 40 + "\n" + "x" * 10
    # It began its line, so it is shown at once.
    assert Wrapping(40).push("x" * 3) == "xxx"


def test_wide_characters_count_twice_and_need_no_blanks() -> None:
    assert streamed("日本語" * 10, 40) == "日本語" * 6 + "日本" + "\n" + "語" + "日本語" * 3
    assert streamed("e\u0301" * 40, 40) == "e\u0301" * 40


def test_streams_keep_every_word() -> None:
    chance = random.Random(7)
    for _ in range(200):
        text = "".join(chance.choice("ab \n\t日 ") for _ in range(chance.randrange(120)))
        width = chance.randrange(20, 50)
        shown = streamed(text, width, chance.randrange(1, 9))
        assert shown.replace(" ", "").replace("\n", "").replace("\t", "") == "".join(text.split()), repr(text)


@pytest.mark.parametrize("width", WIDTHS)
def test_text_is_wrapped_beside_its_lead(width: int) -> None:
    lines = wrapped(WORDS * 3, width, "  3. ").split("\n")

    assert max(map(len, lines)) <= width
    assert all(line.startswith("     ") for line in lines[1:])
    assert " ".join(lines).split() == ["3.", *(WORDS * 3).split()]


def test_a_lead_that_leaves_no_room_is_followed_below() -> None:
    first, second = wrapped("and then some words more", 40, "a lead of more than thirty columns ").split("\n")[:2]
    assert first == "a lead of more than thirty columns and"
    assert second.startswith("    then")


def test_a_name_with_dashes_stays_whole_and_so_do_lines_in_a_file() -> None:
    assert "smollm2-135m-instruct" in wrapped("so this is it: smollm2-135m-instruct", 30).split("\n")
    assert "tiny-llama-chat" in wrapped("so this is it: tiny-llama-chat", 24).split("\n")
    assert wrapped(WORDS * 9, None, "  ") == ("  " + WORDS * 9).rstrip()


TABLE = (Column("name"), Column("size", right=True, spare=1), Column("rate", right=True), Column("what it is for"))
ROWS = [
    ("one", "1.0 GB", "12", "short"),
    ("a-longer-name", "10.0 GB", "3", "words that go on and on, more than fit here"),
]


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    return lambda width: monkeypatch.setattr(page, "columns", lambda **_: width)


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_table_fits_its_terminal(
    columns: int, width: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    width(columns)
    page.table(TABLE, ROWS)
    output = capsys.readouterr().out

    assert max(map(len, output.splitlines())) <= columns
    assert ("10.0 GB" in output) == (columns > 40), "it can be spared"
    assert all(word in output.split() for row in ROWS for word in f"{row[0]} {row[2]} {row[3]}".split())


def test_a_table_in_a_file_has_a_line_for_each_row(
    width: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    width(None)
    page.table(TABLE, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "name              size  rate  what it is for",
        "one             1.0 GB    12  short",
        "a-longer-name  10.0 GB     3  words that go on and on, more than fit here",
    ]


def test_no_color_turns_bold_off_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(page.click.utils, "should_strip_ansi", lambda *_: False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    page.say("title", bold=True)
    monkeypatch.setenv("NO_COLOR", "1")
    page.say("title", bold=True)

    assert capsys.readouterr().out == "\x1b[1mtitle\x1b[0m\ntitle\n"


ESCAPES = "a\x1b]0;title\x07b\x9bc\x7f\rd"
FACES: dict[str, Callable[[], None]] = {
    "text": lambda: page.say(ESCAPES, bold=True),
    "lead": lambda: page.say("text", lead=ESCAPES),
    "error": lambda: page.say(ESCAPES, err=True),
    "lines": lambda: page.say_lines(f"  {ESCAPES}\n{ESCAPES}"),
    "label": lambda: page.entry(ESCAPES, "text"),
    "value": lambda: page.entry("label", ESCAPES),
    "table": lambda: page.table([Column("a"), Column("b")], [(ESCAPES, ESCAPES)], styles=[{"bold": True}]),
    "failure": lambda: page.say_error(EdgeLLMError(ESCAPES, hint=ESCAPES)),
}


@pytest.mark.parametrize("columns", [None, 40])
@pytest.mark.parametrize("face", FACES)
def test_what_a_file_says_does_not_steer_the_terminal(
    face: str, columns: int | None, width: Callable[[int | None], None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Styles of our own stay."""
    monkeypatch.setattr(page.click.utils, "should_strip_ansi", lambda *_: False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    width(columns)
    FACES[face]()
    shown = "".join(capsys.readouterr())
    assert "a]0;titlebcd" in shown
    assert not set(re.sub(r"\x1b\[[01]m", "", shown)) & set("\x1b\x07\x9b\x7f\r")
    assert ("\x1b[1m" in shown) == (face in ("text", "label", "value", "table"))


UNSEEN = "a\u202eb\u2066c\u200ed\u200fe\u200bf\u061cg\ufeffh\u2029i\U000e0041j"


@pytest.mark.parametrize("columns", [None, 40])
def test_a_name_does_not_stand_elsewhere_than_it_was_written(
    columns: int | None, width: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    width(columns)
    page.say(UNSEEN, lead=UNSEEN[:4])
    page.table([Column("name"), Column("GB"), Column("x")], [(UNSEEN, "4", "y")])
    page.say_error(EdgeLLMError(UNSEEN, hint="no"))
    shown = "".join(capsys.readouterr())
    assert shown.replace("\n", "").isprintable()
    assert shown.count("abcdefghij") == 3


def test_what_is_written_from_right_to_left_takes_nothing_along(
    width: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two marks it is shown as it is read, and a number behind it stays behind it."""
    heads, name, other = [Column("name"), Column("GB"), Column("x")], "דגם גדול", "نموذج"
    width(40)
    page.table(heads, [(name, "4", other), (other, "12", "y")])
    page.say(f"{name} has 7, {UNSEEN}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [f"{MARK}{name}{MARK}  4   {MARK}{other}{MARK}", f"{MARK}{other}{MARK}     12  y"]
    assert lines[3] == f"{MARK}{name}{MARK} has 7, abcdefghij"
    page.table(heads, [(name, other, "y")])
    assert capsys.readouterr().out.splitlines()[1] == f"{MARK}{name}{MARK}  {MARK}{other}{MARK}  y"

    width(None)  # a program reads the name as it is
    page.table(heads, [(name, "4", "y")])
    assert capsys.readouterr().out.splitlines()[1] == f"{name}  4   y"


def test_columns_are_counted_without_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    page.table([Column("name"), Column("x")], [("a\x1b[2Jb", "1"), ("abcdef", "2")])
    page.entry("a\x07b", "text", 4)
    assert capsys.readouterr().out.splitlines() == ["name    x", "a[2Jb   1", "abcdef  2", "ab   text"]


def test_wide_and_joined_characters_count_as_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert streamed("\u2764\ufe0f" * 2 + "\u200d" * 60, 20) == "\u2764\ufe0f" * 2 + "\u200d" * 60
    assert wrapped("日本 " * 8, 21) == "\n".join(["日本 日本 日本 日本"] * 2)
    page.table([Column("name"), Column("n", right=True), Column("x")], [("日本", "1", "a"), ("abcd", "22", "b")])
    assert capsys.readouterr().out.splitlines() == ["name   n  x", "日本   1  a", "abcd  22  b"]

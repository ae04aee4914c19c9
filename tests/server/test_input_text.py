"""The text in the arguments of a call, in one piece and in any other."""

from __future__ import annotations

import json

import pytest

from edgellm.server.input_text import InputText, arguments_of, input_of

TEXTS = ["", "ls -l", 'a "b" \\ c\n\t\x00', "Grüße 🎈", "{}", '"}', "\\u00e9", "\u2028"]


def in_pieces(arguments: str, size: int) -> str:
    reader = InputText()
    pieces = [reader.push(arguments[at : at + size]) for at in range(0, len(arguments), size)]
    return "".join([*pieces, reader.finish()])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 4])
def test_a_text_comes_back(text: str, ascii_only: bool, indent: int | None) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only, indent=indent)

    assert input_of(arguments) == text
    assert {in_pieces(arguments, size) for size in (1, 2, 3, 5, 7)} == {text}
    assert json.loads(arguments_of(text)) == {"input": text}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", ""),
        ("{}", "{}"),
        ("ls", "ls"),
        ('{"inp', '{"inp'),
        ('{"cmd": "ls"}', '{"cmd": "ls"}'),
        ('{"input": 5}', '{"input": 5}'),
        ('{"input": "a", "more": 1}', "a"),
        ('{"input": "a', "a"),
        ('{"input": "a\\', "a"),
        ('{"input": "a\\u00', "a"),
        ('{"input": "\\x \\ud83d \\udf88 \\uZZZZ"}', "\\x \ufffd \ufffd \\uZZZZ"),
        ('{"input": "\\ud83d\\ud83c\\udf88"}', "\ufffd\U0001f388"),
        ('{"input": "a\nb"}', "a\nb"),
        ("[" * 10_000, "[" * 10_000),
    ],
)
def test_what_else_a_model_may_write(arguments: str, text: str) -> None:
    assert input_of(arguments) == text
    assert {in_pieces(arguments, size) for size in (1, 2, 3, 5, 7)} == {text}


def test_what_is_certain_is_not_held_back() -> None:
    reader = InputText()

    assert [reader.push(piece) for piece in ('{"input": "', "l", "s\\", "n -", 'l"', "}")] == [
        "",
        "l",
        "s",
        "\n -",
        "l",
        "",
    ]

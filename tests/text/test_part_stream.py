"""Parts of an answer in order, whatever is held back for a stop string."""

from __future__ import annotations

import pytest

from edgellm.text.part_stream import PartStream
from edgellm.text.readers import Part


class Scripted:
    """A reader that makes a part of each character: a letter is text, a digit the name of a call."""

    thinking = False

    def push(self, text: str) -> list[Part]:
        return [Part("call_name" if char.isdigit() else "text", char) for char in text]

    def finish(self) -> list[Part]:
        return [Part("text", "!")]


def heard(stop: tuple[str, ...], *pieces: bytes) -> list[str]:
    """What each piece released, and the end."""
    stream = PartStream(stop, Scripted())
    said = ["".join(part.text for part in stream.push(piece)) for piece in pieces]
    return [*said, "".join(part.text for part in stream.flush())]


@pytest.mark.parametrize(
    ("stop", "pieces", "said"),
    [
        (("abc",), (b"xa", b"b", b"1", b"c"), ["x", "", "ab1", "c", "!"]),
        (("abc",), (b"ab1c", b"abc2x"), ["ab1c", "", ""]),
        ((), ("é".encode()[:1], "é1".encode()[1:]), ["", "é1", "!"]),
        (("!",), (b"a",), ["a", ""]),
        (("!?",), (b"a",), ["a", "!"]),
    ],
)
def test_text_that_is_held_comes_before_what_follows_it(
    stop: tuple[str, ...], pieces: tuple[bytes, ...], said: list[str]
) -> None:
    assert heard(stop, *pieces) == said


def test_nothing_comes_after_a_stop_string() -> None:
    stream = PartStream(("b",), Scripted())
    assert stream.push(b"ab1c") == [Part("text", "a")]
    assert stream.stopped


def test_half_a_character_is_waited_for() -> None:
    for reader in (None, Scripted()):
        stream = PartStream((), reader)
        assert stream.whole
        stream.push("é".encode()[:1])
        assert not stream.whole
        stream.push("é".encode()[1:])
        assert stream.whole


@pytest.mark.parametrize(("cut", "said"), [(True, "!"), (False, "\ufffd!")])
def test_half_a_character_at_the_end_is_a_fault_unless_the_answer_was_cut(cut: bool, said: str) -> None:
    stream = PartStream((), Scripted())
    stream.push("é".encode()[:1])
    assert "".join(part.text for part in stream.flush(cut=cut)) == said

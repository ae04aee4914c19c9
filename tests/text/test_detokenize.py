"""Text comes out the same however its bytes were cut into tokens, and no stop string is ever shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.text.detokenize import TextStream

# Few letters, so that stop strings begin, overlap and fail often; one, two and four bytes a character.
ALPHABET = "aé🙂"
TEXT = st.text(st.sampled_from(ALPHABET), max_size=40)
STOPS = st.lists(st.text(st.sampled_from(ALPHABET), min_size=1, max_size=4), max_size=4).map(tuple)


def whole(data: bytes, stops: Sequence[str]) -> tuple[str, bool]:
    """What the stream must say, from the whole text: up to the stop string that is complete first."""
    text = data.decode("utf-8", "replace")
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def streamed(parts: Sequence[bytes], stops: Sequence[str]) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    texts = []
    for part in parts:
        texts.append(stream.push(part))
        if stream.stopped:
            return texts, True
    texts.append(stream.flush())
    return texts, stream.stopped


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Every way to cut `data` into pieces."""
    for choice in itertools.product((False, True), repeat=len(data) - 1):
        places = [at for at, cut_here in enumerate(choice, 1) if cut_here]
        yield [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@st.composite
def cut(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes, in pieces of any length, empty ones too (control tokens add nothing)."""
    data = draw(source)
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=len(data) + 2)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("text", ["aé🙂aa", "aaaéaaa", "é🙂é🙂"])
@pytest.mark.parametrize("stops", [(), ("aé",), ("🙂a", "é🙂"), ("aaéa", "aa"), ("é🙂é🙂", "🙂é")])
def test_all_cuts_of_a_text_give_the_same(text: str, stops: tuple[str, ...]) -> None:
    for parts in cuts(text.encode()):
        text_out, stopped = streamed(parts, stops)
        assert ("".join(text_out), stopped) == whole(text.encode(), stops), parts


@given(cut(TEXT.map(str.encode)), STOPS)
def test_every_cut_of_any_text_gives_the_same(parts: list[bytes], stops: tuple[str, ...]) -> None:
    said, stopped = streamed(parts, stops)
    assert ("".join(said), stopped) == whole(b"".join(parts), stops)


@given(cut(st.binary(max_size=24)), STOPS)
def test_bytes_that_are_no_text_become_replacement_characters(parts: list[bytes], stops: tuple[str, ...]) -> None:
    said, stopped = streamed(parts, stops)
    assert ("".join(said), stopped) == whole(b"".join(parts), stops)


@given(cut(TEXT.map(str.encode)))
def test_a_part_of_a_character_is_never_shown(parts: list[bytes]) -> None:
    said, _ = streamed(parts, ())
    assert "\ufffd" not in "".join(said)


@given(cut(TEXT.map(str.encode)), STOPS)
def test_what_is_held_back_is_only_what_may_become_a_stop_string(parts: list[bytes], stops: tuple[str, ...]) -> None:
    stream = TextStream(stops)
    fed, output = b"", ""
    for part in parts:
        fed += part
        output += stream.push(part)
        if stream.stopped:
            return
        rest = fed.decode("utf-8", "ignore")[len(output) :]
        assert rest == "" or any(stop.startswith(rest) for stop in stops)


@pytest.mark.parametrize(
    ("parts", "stops", "said"),
    [
        (["abc"], ("abcd", "bc"), "a"),  # "bc" is complete, "abcd" may never be
        (["abcd"], ("abcd", "bc"), "a"),  # the same text in one token ends at the same place
        (["xab"], ("b", "ab"), "x"),  # both end together: the longer one goes
        (["a", "aab"], ("aab",), "a"),  # a beginning that fails is the beginning of the next
    ],
)
def test_the_stop_string_that_is_complete_first_ends_the_text(
    parts: list[str], stops: tuple[str, ...], said: str
) -> None:
    assert ("".join(streamed([part.encode() for part in parts], stops)[0])) == said


def test_half_a_character_at_the_end_is_replaced() -> None:
    stream = TextStream()
    assert stream.push("é".encode()[:1]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_half_a_character_where_the_answer_was_cut_is_left_out() -> None:
    stream = TextStream(stop=("🎈🎈",))
    assert stream.push("a 🎈".encode()[:-2]) == "a "
    assert stream.flush(cut=True) == ""
    stream = TextStream(stop=("🎈🎈",))
    assert stream.push("a 🎈🎈".encode()[:-2]) == "a "
    assert stream.flush(cut=True) == "🎈"


@pytest.mark.parametrize(
    ("text", "stops", "ended_by"),
    [("one END two", ["two", "END"], "END"), ("a stop", ["top", "stop"], "stop"), ("none", ["x"], "")],
)
def test_which_stop_string_ended_it(text: str, stops: list[str], ended_by: str) -> None:
    stream = TextStream(stops)
    stream.push(text.encode())

    assert (stream.ended_by, stream.stopped) == (ended_by, bool(ended_by))

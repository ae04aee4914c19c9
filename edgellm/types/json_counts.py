"""How much JSON holds and how deep it is nested, counted before any of it is made.

A million empty objects are two megabytes of JSON, and a second and a gigabyte in Python, all of it in one call that no
other thread can interrupt. Counting takes milliseconds. Values nested to the end of Python's stack would be refused,
too; but what else runs there meanwhile, a callback of the garbage collector say, would fail as well.
"""

from __future__ import annotations

from itertools import accumulate

from edgellm.errors import UsageError

MAX_VALUES = 100_000
MAX_PARTS = 100_000  # texts, names, lists and objects; numbers take far less
MAX_DEPTH = 128  # that of serde_json
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[{]}")))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def check_counts(
    *texts: bytes,
    max_values: int = MAX_VALUES,
    max_parts: int = MAX_PARTS,
    what: str = "the body",
    param: str = "",
    hint: str = "send several smaller requests",
) -> None:
    """
    Args:
        texts: JSON, or what is to be read as JSON.
        what: they are, for the refusal.
        param: the field that they come from.

    Raises:
        UsageError: together they hold more than `max_values` values, or more than `max_parts` that are no numbers, or
            one is nested deeper than MAX_DEPTH.
    """
    joined = b",".join(texts)
    if _within(joined, joined.count(b'"'), max_values, max_parts) and _opened(joined) <= MAX_DEPTH:
        return
    # Texts hold commas and brackets, too. Without escapes each quote begins or ends one, and every second piece
    # between them lies outside.
    plain = [text.replace(b"\\\\", b"").replace(b'\\"', b"") for text in texts]
    quotes = sum(text.count(b'"') for text in plain)
    outside = [b"".join(text.split(b'"')[::2]) for text in plain] if quotes <= 2 * max_parts else []
    if quotes > 2 * max_parts or not _within(b",".join(outside), quotes, max_values, max_parts):
        raise UsageError(
            f"{what} holds more than {max_values} values, or more than {max_parts} texts, lists and objects",
            hint=hint,
            param=param,
        )
    if max(_depth(text, max_parts) for text in outside) > MAX_DEPTH:
        raise UsageError(f"{what} is nested more than {MAX_DEPTH} deep", hint="send a flatter object", param=param)


def _within(outside: bytes, quotes: int, max_values: int, max_parts: int) -> bool:
    """Whether JSON with so many quotes, and `outside` of its texts, can hold no more than is allowed."""
    containers = _opened(outside)
    return containers + quotes // 2 <= max_parts and outside.count(b",") + containers < max_values


def _opened(outside: bytes) -> int:
    """Lists and objects that begin."""
    return outside.count(b"[") + outside.count(b"{")


def _depth(outside: bytes, max_parts: int) -> int:
    """Of lists and objects in each other, at the deepest place that a decoder comes to.

    No more than `max_parts` begin: where there are over twice as many brackets, one closes what never began, and a
    decoder ends there.
    """
    brackets = outside.translate(None, _NO_BRACKETS)[: 2 * max_parts + 1]
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)

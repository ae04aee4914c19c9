"""How much a body holds and how deep it is nested, counted before any of it is made.

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


def check_counts(body: bytes, max_values: int = MAX_VALUES) -> None:
    """
    Raises:
        UsageError: a JSON text holds more than `max_values` values, or more than MAX_PARTS that are no numbers, or is
            nested deeper than MAX_DEPTH.
    """
    quotes = body.count(b'"')
    if _within(body, quotes, max_values) and _opened(body) <= MAX_DEPTH:
        return
    # Texts hold commas and brackets, too. Without escapes each quote begins or ends one, and every second piece
    # between them lies outside.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = plain.count(b'"')
    outside = b"".join(plain.split(b'"')[::2]) if quotes <= 2 * MAX_PARTS else b""
    if quotes > 2 * MAX_PARTS or not _within(outside, quotes, max_values):
        raise UsageError(
            f"the body holds more than {max_values} values, or more than {MAX_PARTS} texts, lists and objects",
            hint="send several smaller requests",
        )
    if _depth(outside) > MAX_DEPTH:
        raise UsageError(f"the body is nested more than {MAX_DEPTH} deep", hint="send a flatter object")


def _within(outside: bytes, quotes: int, max_values: int) -> bool:
    """Whether JSON with so many quotes, and `outside` of its texts, can hold no more than is allowed."""
    containers = _opened(outside)
    return containers + quotes // 2 <= MAX_PARTS and outside.count(b",") + containers < max_values


def _opened(outside: bytes) -> int:
    """Lists and objects that begin."""
    return outside.count(b"[") + outside.count(b"{")


def _depth(outside: bytes) -> int:
    """Of lists and objects in each other, at the deepest place."""
    return max(accumulate(map(_STEPS.__getitem__, outside.translate(None, _NO_BRACKETS))), default=0)

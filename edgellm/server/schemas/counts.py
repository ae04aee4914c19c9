"""How much a body holds, counted before any of it is made.

A million empty objects are two megabytes of JSON, and a second and a gigabyte in Python, all of it in one call that no
other thread can interrupt. Counting takes milliseconds.
"""

from __future__ import annotations

from edgellm.errors import UsageError

MAX_VALUES = 100_000
MAX_PARTS = 100_000  # texts, names, lists and objects; numbers take far less


def check_counts(body: bytes, max_values: int = MAX_VALUES) -> None:
    """
    Raises:
        UsageError: a JSON text holds more than `max_values` values, or more than MAX_PARTS that are no numbers.
    """
    if _within(body, body.count(b'"'), max_values):
        return
    # Texts hold commas and brackets, too. Without escapes each quote begins or ends one, and every second piece
    # between them lies outside.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = plain.count(b'"')
    if quotes <= 2 * MAX_PARTS and _within(b"".join(plain.split(b'"')[::2]), quotes, max_values):
        return
    raise UsageError(
        f"the body holds more than {max_values} values, or more than {MAX_PARTS} texts, lists and objects",
        hint="send several smaller requests",
    )


def _within(outside: bytes, quotes: int, max_values: int) -> bool:
    """Whether JSON with so many quotes, and `outside` of its texts, can hold no more than is allowed."""
    containers = outside.count(b"[") + outside.count(b"{")
    return containers + quotes // 2 <= MAX_PARTS and outside.count(b",") + containers < max_values

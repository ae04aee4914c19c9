"""Lines of a log: one form for all that is said."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from edgellm.runtime.logs import JsonFormatter, TextFormatter


def record(message: str, **facts: object) -> logging.LogRecord:
    made = logging.LogRecord("edgellm.x", logging.WARNING, __file__, 1, message, (), None)
    made.created = 1_800_000_000.1234
    if facts:
        made.facts = facts
    return made


def test_a_line_of_text_begins_with_the_time_and_ends_with_the_facts() -> None:
    line = TextFormatter().format(record("request", id="7", ms=1.5))

    assert line == "2027-01-15T08:00:00.123Z WARNING edgellm.x: request id=7 ms=1.5"


def test_nothing_in_a_message_or_a_fact_begins_a_line_or_another_fact() -> None:
    line = TextFormatter().format(record("GET /a\nb", id="7 ms=2", path='/"', ms=1.5))

    assert line.endswith(r""" edgellm.x: GET /a\nb id="7 ms=2" path="/\"" ms=1.5""")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_nothing_in_a_line_changes_its_order_or_is_unseen(formatter: logging.Formatter) -> None:
    line = formatter.format(record("GET /a\u202eb\u200e", model="x\u2066y", path="\U000e0041"))

    assert line.isprintable()
    assert r"GET /a\u202eb\u200e" in line
    assert r"x\u2066y" in line


def test_a_line_of_json_has_the_facts_beside_the_message() -> None:
    line = JsonFormatter().format(record("wait\nfor it", id="7", ms=1.5))

    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.123Z",
        "level": "warning",
        "logger": "edgellm.x",
        "message": "wait\nfor it",
        "id": "7",
        "ms": 1.5,
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_exception_is_told_in_full(formatter: logging.Formatter) -> None:
    failed = record("failed")
    try:
        raise ValueError("7")
    except ValueError:
        failed.exc_info = sys.exc_info()

    assert "ValueError: 7" in formatter.format(failed)

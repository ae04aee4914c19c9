"""How log lines look: as text, or one JSON object each. Both begin with the time, in UTC.

What is worth a column of its own comes as `extra={"facts": {...}}`.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from edgellm.contract.streams import STDERR
from edgellm.runtime.line_writer import LineWriter, missing_lines, writer
from edgellm.types.controls import MARK, ORDERING, STEERING, UNSEEN

_NOT_SEEN = rf"{STEERING}\t\n{ORDERING}{UNSEEN}{MARK}"
_CONTROLS = re.compile(f"[{_NOT_SEEN}]")
_NOT_A_WORD = re.compile(rf'[\s"={_NOT_SEEN}]')


class TextFormatter(logging.Formatter):
    """`2026-11-26T08:30:00.123Z INFO edgellm.requests: request id=... status=200`"""

    def format(self, record: logging.LogRecord) -> str:
        # A client that could begin a line, or a fact, could write into the log what never happened.
        message = _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}"
        line += "".join(f" {name}={_shown(value)}" for name, value in _facts(record).items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": ..., "logger": ..., "message": ..., ...facts}`, with `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=False, default=str)
        return _CONTROLS.sub(lambda found: json.dumps(found[0])[1:-1], text)


class LineHandler(logging.Handler):
    """Leaves lines to a writer, which tells in the same form how many of them nobody read."""

    def __init__(self, lines: LineWriter, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines = lines
        lines.tells_lost = lambda n: self.format(
            logging.LogRecord(__name__, logging.WARNING, __file__, 0, missing_lines(n), None, None)
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put(self.format(record))
        except Exception:
            self.handleError(record)


def set_up(level: str, form: str) -> None:
    """Log to standard error from `level` on, in one of `settings.LOG_FORMATS`."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    logging.basicConfig(level=level, handlers=[LineHandler(writer(STDERR), formatter)])


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(fact: object) -> str:
    text = str(fact)
    return json.dumps(text) if _NOT_A_WORD.search(text) else text


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts: dict[str, Any] = getattr(record, "facts", {})
    return facts

"""Files of rows that people write (TOML arrays of tables, JSON Lines); every error names file, row and field.

Trusts nothing: a file may come from a stranger. Values are checked by whoever reads them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from edgellm.errors import UsageError
from edgellm.files import read_regular, utf8_text

MAX_FILE_BYTES = 8 * 1024**2
MAX_KEY_PARTS = 64  # of a dotted key: tomllib's time and memory grow with their square
MAX_BITS = 64  # of a number: those of TOML have no more, and one with thousands of digits cannot be printed
MAX_MARKS = 100_000  # of those below, which each take tomllib up to a kilobyte; and values of a line of JSON
_SHOWN = 60  # characters of a name or value in an error
# Texts and comments, which hold no keys, and what ends a key; each reaches to its end or to where tomllib gives up.
_TEXT = re.compile(
    r'''"""(?:\\.|(?!""").)*+"{0,5}|"(?:\\.|[^"\\\n])*+"?'''
    r"""|'{3}(?:(?!'{3}).)*+'{0,5}|'[^'\n]*+'?|\#[^\n]*+""",
    re.DOTALL,
)
_KEY_ENDS = re.compile(r"[\n=,\[\]{}]")
_MARKS = re.compile(r"[.=,\[{]")  # what a key, a part of one, a table or a value begins or ends with

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands, for errors; `hint` says where the format is described."""

    path: str
    row: str = ""  # "line 12, house-model"; "" = the file as a whole
    hint: str = ""

    def refuse(self, problem: str, *, field: str = "", hint: str = "") -> NoReturn:
        where = ": ".join(filter(None, (self.path, self.row, field)))
        raise UsageError(f"{where}: {problem}", hint=hint or self.hint, param=field)

    @contextlib.contextmanager
    def located(self, field: str = "") -> Iterator[None]:
        """A UsageError of the block names this row; the field too, where the error does not name one itself."""
        try:
            yield
        except UsageError as error:
            self.refuse(error.message, field=error.param or field, hint=error.hint)


def read_text(path: Path, hint: str) -> str:
    """The file's text.

    Raises:
        UsageError: it cannot be read, is too large, or is no UTF-8.
    """
    place = Place(str(path), hint=hint)
    try:
        return utf8_text(read_regular(path, MAX_FILE_BYTES))
    except UnicodeDecodeError:
        place.refuse("no UTF-8 text")
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {path}: {reason}", hint="give a file that exists") from error


def parse_toml(text: str, path: Path, hint: str) -> dict[str, Any]:
    """The document.

    Raises:
        UsageError: it is not TOML, of which the message has the line, has a key of more than MAX_KEY_PARTS parts, more
            than MAX_MARKS of all keys, tables and values, or a number of more than MAX_BITS.
    """
    syntax = _TEXT.sub("", text)
    n_parts = max(key.count(".") for key in _KEY_ENDS.split(syntax)) + 1
    if n_parts > MAX_KEY_PARTS:
        Place(str(path), hint=hint).refuse(f"has a key of {n_parts} parts; {MAX_KEY_PARTS} are allowed")
    n_marks = len(_MARKS.findall(syntax))
    if n_marks > MAX_MARKS:
        Place(str(path), hint=hint).refuse(f"has {n_marks} keys, tables and values; {MAX_MARKS} are allowed")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        Place(str(path), hint=hint).refuse(f"no valid TOML: {error}")
    check_numbers(document, Place(str(path), hint=hint))
    return document


def check_numbers(document: object, place: Place) -> None:
    """What is read of a file, before it is shown or computed with.

    Raises:
        UsageError: a whole number has more than MAX_BITS.
    """
    left = [("", document)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}".lstrip("."), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            left += [(key, inner) for inner in value]
        elif isinstance(value, int) and value.bit_length() > MAX_BITS:
            place.refuse(f"a number of {value.bit_length()} bits is out of range", field=key[:500])


def toml_rows(text: str, document: dict[str, Any], key: str, path: Path, hint: str) -> Iterator[tuple[Place, Any]]:
    """Each table of the array `key`, with its place: the line of its header where the file writes it as `[[key]]`.

    Raises:
        UsageError: `key` is no array of tables.
    """
    rows = document.get(key, [])
    if not isinstance(rows, list):
        Place(str(path), hint=hint).refuse(f"must be tables, each under a line [[{key}]]", field=key)
    lines = _lines(text, rf"\[\[\s*{re.escape(key)}\s*\]\]")
    for index, row in enumerate(rows):
        at = f"line {lines[index]}" if len(lines) == len(rows) else f"{key}[{index}]"
        yield Place(str(path), _named(at, row), hint), row


def toml_table(text: str, key: str, path: Path, hint: str) -> Place:
    """Where the table `[key]` stands."""
    lines = _lines(text, rf"\[\s*{re.escape(key)}\s*\]")
    return Place(str(path), f"line {lines[0]}, {key}" if len(lines) == 1 else key, hint)


def _lines(text: str, header: str) -> list[int]:
    begins = re.compile(rf"\s*{header}")
    return [number for number, line in enumerate(text.splitlines(), 1) if begins.match(line)]


def json_rows(text: str, path: Path, hint: str) -> Iterator[tuple[Place, Any]]:
    """Each object of a JSON Lines file, with its line.

    Raises:
        UsageError: a line is no JSON, or holds too many values.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        at = Place(str(path), f"line {number}", hint)
        if (n_marks := sum(map(line.count, ",[{"))) > MAX_MARKS:
            at.refuse(f"has {n_marks} values; {MAX_MARKS} are allowed")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            at.refuse(f"no JSON: {error}")
        check_numbers(row, at)
        yield Place(str(path), _named(f"line {number}", row), hint), row


def convert(row: object, cls: type[T], place: Place) -> T:
    """The row as a dataclass.

    Raises:
        UsageError: an unknown or missing key, or a value of another type.
    """
    import msgspec

    for key in unknown_keys(row, cls):
        _refuse_unknown(key, cls, place)
    try:
        return msgspec.convert(row, cls)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at ")
        place.refuse(reason, field=where.strip("`").removeprefix("$").removeprefix("."))


def unknown_keys(data: object, cls: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys that the dataclass does not have; msgspec would ignore them."""
    if not isinstance(data, dict):
        return
    fields = {field.name for field in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in fields:
            yield f"{prefix}{key}"[:500]
        elif (inner := _nested(cls, key)) is not None:
            for item in value if isinstance(value, list) else [value]:
                yield from unknown_keys(item, inner, f"{prefix}{key}.")


def _nested(cls: type, name: str) -> type | None:
    """The dataclass in the annotation of a field, e.g. ModelFile in `tuple[ModelFile, ...]`."""
    annotation = typing.get_type_hints(cls)[name]
    candidates = (annotation, *typing.get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and dataclasses.is_dataclass(c)), None)


def _refuse_unknown(key: str, cls: type, place: Place) -> NoReturn:
    *parents, last = key.split(".")
    for parent in parents:
        cls = _nested(cls, parent) or cls
    fields = [field.name for field in dataclasses.fields(cls)]
    close = difflib.get_close_matches(last, fields, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(fields)}"
    place.refuse("unknown key", field=key, hint=hint)


def _named(at: str, row: object) -> str:
    """`"line 3"` -> `"line 3, house-model"`, by the row's id or name."""
    name = (row.get("id") or row.get("name")) if isinstance(row, dict) else None
    return f"{at}, {name[:_SHOWN]}" if isinstance(name, str) and name.isprintable() else at

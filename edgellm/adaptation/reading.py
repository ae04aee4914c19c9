"""Reads files of training data within bounds: JSON Lines, JSON, CSV, and Parquet where pyarrow is installed.

The file may be anything: a line or value that is too long is passed over without being held, and named.
"""

from __future__ import annotations

import csv
import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgellm.adaptation import parquet_rows
from edgellm.adaptation.findings import Findings
from edgellm.adaptation.held import Held, json_of
from edgellm.adaptation.records import record_of
from edgellm.errors import UsageError
from edgellm.files import open_named
from edgellm.types.json_counts import MAX_VALUES, check_counts
from edgellm.types.tuning_data import TrainingRecord
from edgellm.units import show_size

MAX_LINE_BYTES = 4 * 1024**2
MAX_FILE_BYTES = 512 * 1024**2
MAX_JSON_BYTES = 32 * 1024**2  # of a JSON file, which is held as a whole
MAX_JSON_VALUES = 4_000_000  # in it: they take some 70 bytes each
MAX_RECORDS = 1_000_000
MAX_HELD = 4_000_000  # values of all records together; at most some 250 bytes each
_BOM = b"\xef\xbb\xbf"
_SHOWN = 100  # characters of a name
_PARAM = "data"
_NUMBERED = tuple[int, object]


def is_data(path: Path) -> bool:
    """Whether a file is there of a kind that is read here."""
    return path.suffix.lower() in _READERS and path.is_file()


def read_records(path: Path, findings: Findings) -> list[TrainingRecord]:
    """All that can be learned. What cannot is among the findings.

    Raises:
        UsageError: it is no regular file, is too large, of a kind that is not read here, or broken as a whole.
    """
    read = _reader(path)
    records: list[TrainingRecord] = []
    held = Held()
    with data_file(path) as file:
        for line, row in read(file, findings):
            findings.n_lines += 1
            if findings.n_lines > MAX_RECORDS:
                hint = "tune with a part of it"
                raise UsageError(f"{path} has more than {MAX_RECORDS} examples", hint=hint, param=_PARAM)
            if not isinstance(row, _Refused) and (record := record_of(row, line, findings)) is not None:
                records.append(held.add(record))
                _check_held(path, held)
    return records


@contextmanager
def data_file(path: Path) -> Iterator[BufferedReader]:
    """A file of data.

    Raises:
        UsageError: it is no regular file, is too large, of a kind that is not read here, or cannot be read (in the
            block, too).
    """
    most = MAX_JSON_BYTES if _reader(path) is _json else MAX_FILE_BYTES
    try:
        with open_named(path) as file:
            _check_size(path, file, most)
            yield file
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a file of data", param=_PARAM) from None


def _reader(path: Path) -> Callable[[BinaryIO, Findings], Iterable[_NUMBERED]]:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        hint = f"write one of {', '.join(_READERS)}: a line of JSON for each example"
        raise UsageError(f"{path} is of no kind that is read here", hint=hint, param=_PARAM)
    return read


class _Refused:
    """In place of a row that is among the findings already."""


_REFUSED = _Refused()


def _check_held(path: Path, held: Held) -> None:
    if held.n_values > MAX_HELD:
        what = f"more than {MAX_HELD} messages, calls, and values in schemas of tools"
        raise UsageError(f"{path} holds {what}", hint="tune with a part of it", param=_PARAM)


def _check_size(path: Path, file: BinaryIO, most: int) -> None:
    n_bytes = os.fstat(file.fileno()).st_size
    if n_bytes > most:
        hint = f"tune with {show_size(most)} of it, or less; of JSON Lines {show_size(MAX_FILE_BYTES)} are read"
        raise UsageError(f"{path} has {show_size(n_bytes)}", hint=hint, param=_PARAM)


def _json_lines(file: BinaryIO, findings: Findings) -> Iterator[_NUMBERED]:
    for line, raw in _lines(file):
        if len(raw) > MAX_LINE_BYTES:
            findings.add(line, "too_long", value=_rest(file, len(raw)))
            yield line, _REFUSED
        elif raw.strip():
            yield line, _decoded(raw, line, findings)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered from 1 on, the mark of UTF-8 left out. One that is too long comes in part, and its rest is still to be
    read."""
    line = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        line += 1
        yield line, raw.removeprefix(_BOM) if line == 1 else raw


def _rest(file: BinaryIO, n_bytes: int) -> int:
    """Bytes of a line of which so many were read."""
    while part := file.readline(MAX_LINE_BYTES):
        n_bytes += len(part)
        if part.endswith(b"\n"):
            break
    return n_bytes


def _decoded(raw: bytes, line: int, findings: Findings, most: int = MAX_VALUES) -> object:
    try:
        raw.decode()
        row: object = json_of(raw, most)
    except UnicodeDecodeError as error:
        findings.add(line, "not_utf8", value=error.start)
    except msgspec.DecodeError as error:
        findings.add(line, "not_json", value=error)
    else:
        return row
    return _REFUSED


def _json(file: BinaryIO, findings: Findings) -> Iterator[_NUMBERED]:
    """A list of rows, which count as lines; JSON Lines under this name, too."""
    raw = (file.read(MAX_JSON_BYTES) or b"").removeprefix(_BOM)  # None = nothing yet, as in /proc/kmsg
    if not raw.lstrip().startswith(b"["):
        file.seek(0)
        yield from _json_lines(file, findings)
        return
    hint = "write each row on a line of its own, as JSON Lines"
    check_counts(raw, max_values=MAX_JSON_VALUES, max_parts=MAX_JSON_VALUES, what=file.name, param=_PARAM, hint=hint)
    rows = _decoded(raw, 1, findings, MAX_JSON_VALUES)
    if isinstance(rows, list):
        yield from enumerate(rows, start=1)
    else:
        yield 1, rows


def _separated(separator: str) -> Callable[[BinaryIO, Findings], Iterator[_NUMBERED]]:
    def read(file: BinaryIO, findings: Findings) -> Iterator[_NUMBERED]:
        row = _Row()
        reader = csv.reader(_texts(file, findings, row), delimiter=separator, strict=True)
        names: list[str] | None = None
        usual = csv.field_size_limit(MAX_LINE_BYTES)  # a value may be as long as a line of JSON; Python's own: 131,072
        try:
            for values in reader:
                line, row.begin, row.n_bytes = row.begin, reader.line_num + 1, 0
                if not values:
                    continue
                if names is None:
                    names = values
                    _check_names(Path(file.name), names)
                elif len(values) != len(names):
                    findings.add(line, "not_csv", value=f"{len(values)} values, {len(names)} columns")
                    yield line, _REFUSED
                else:
                    yield line, dict(zip(names, values, strict=True))
        except csv.Error as error:  # where one value is broken, nobody knows where the next begins
            findings.add(row.begin, "not_csv", value=error)
            yield row.begin, _REFUSED
        except _Unreadable:
            yield row.begin, _REFUSED
        finally:
            csv.field_size_limit(usual)

    return read


def _check_names(path: Path, names: Sequence[str]) -> None:
    """
    Raises:
        UsageError: two columns have one name, of which the last would count.
    """
    if twice := [name for name, n in Counter(names).items() if n > 1 and name.strip()]:
        what = f"{path} has two columns named {twice[0][:_SHOWN]!r}"
        raise UsageError(what, hint="rename one, or leave it out", param=_PARAM)


class _Unreadable(Exception):
    """The rest of the file; why is among the findings."""


class _Row:
    """One of CSV, which may have several lines: the first of them, and the bytes of those that were read."""

    begin = 1
    n_bytes = 0


def _texts(file: BinaryIO, findings: Findings, row: _Row) -> Iterator[str]:
    for line, raw in _lines(file):
        row.n_bytes += len(raw)
        if row.n_bytes > MAX_LINE_BYTES:
            n_bytes = row.n_bytes if raw.endswith(b"\n") else _rest(file, row.n_bytes)
            findings.add(row.begin, "too_long", value=n_bytes)
            raise _Unreadable
        try:
            yield raw.decode()
        except UnicodeDecodeError as error:
            findings.add(line, "not_utf8", value=error.start)
            raise _Unreadable from None


def _parquet(file: BinaryIO, findings: Findings) -> Iterator[_NUMBERED]:
    if importlib.util.find_spec("pyarrow") is None:
        what = "Parquet files are read with pyarrow, which is not installed"
        raise UsageError(what, hint="pip install pyarrow, or write JSON Lines", param=_PARAM)
    n_bytes = 0
    try:
        for line, raw in enumerate(parquet_rows.rows(Path(file.name), MAX_LINE_BYTES), start=1):
            n_bytes += raw if isinstance(raw, int) else len(raw)
            if n_bytes > MAX_FILE_BYTES:
                hint = "tune with a part of it"
                raise UsageError(
                    f"{file.name} has more than {show_size(MAX_FILE_BYTES)} unpacked", hint=hint, param=_PARAM
                )
            if isinstance(raw, int):
                findings.add(line, "too_long", value=raw)
                yield line, _REFUSED
            else:
                yield line, _decoded(raw, line, findings)
    except parquet_rows.Unreadable as error:
        raise UsageError(f"{file.name} cannot be read: {error}", hint="write it again", param=_PARAM) from None


_READERS: dict[str, Callable[[BinaryIO, Findings], Iterable[_NUMBERED]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}

"""Rows of a Parquet file, read in a process of its own with bounded memory.

The parser is native code, and a thousand bytes may say one text so often that it fills terabytes.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgellm.contract.child import Child
from edgellm.contract.own_python import python
from edgellm.contract.parent import connect
from edgellm.files import at_once

MEMORY_BYTES = 4 * 1024**3  # of addresses; Python and pyarrow take 1 GiB
_ROWS = 256  # that are held at a time
_SHOWN = 500  # characters of what the library says, which may name a column of any length


class Unreadable(Exception):
    """Why the file cannot be read any further."""


def rows(path: Path, most: int) -> Iterator[bytes | int]:
    """Each row as JSON; of one that is longer than `most` bytes how many they are.

    Raises:
        Unreadable.
    """
    problem = ""
    with Child(python(__name__, os.fspath(path)), question=str(most).encode()) as child:
        for line in child.lines():
            if line.startswith(b"{"):
                yield line
            elif line.strip().isdigit():
                yield int(line)
            else:
                problem = msgspec.json.decode(line, type=str | None) or ""
                break
        else:
            problem = f"its reader ended, which may use {MEMORY_BYTES >> 30} GiB"
    if problem:
        raise Unreadable(problem)


def main() -> None:
    most, tell = connect()
    from pyarrow import ArrowException, parquet

    _limit()
    try:
        with open(sys.argv[1], "rb", opener=at_once) as file:
            table = parquet.ParquetFile(file)
            if twice := [name for name, n in Counter(table.schema_arrow.names).items() if n > 1]:
                raise ValueError(f"it has two columns named {twice[0]!r}")
            for batch in table.iter_batches(batch_size=_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    raw = msgspec.json.encode(_plain(row))
                    tell(msgspec.Raw(raw) if len(raw) <= int(most) else len(raw))
    except MemoryError:
        tell(f"reading it takes more than {MEMORY_BYTES >> 30} GiB")
    except (ArrowException, OSError, ValueError, TypeError) as error:
        tell(str(error)[:_SHOWN] or type(error).__name__)
    else:
        tell(None)


def _plain(value: Any) -> Any:
    """What JSON has. Bytes, times and the like, which it would write as text, are objects: nobody learns those."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else {}


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    main()

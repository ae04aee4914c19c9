"""Fuzzes the readers of training data: `make fuzz FUZZ=data ARGS="--seconds 1800"`. The first byte says which one."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from attacks.fuzzing import MAX_INPUT_BYTES, instrumented, run

with instrumented("edgellm.adaptation"):
    from edgellm.adaptation.findings import Findings
    from edgellm.adaptation.reading import read_records

from attacks.hostile_data import LYING, SOUND

from edgellm.errors import UsageError

_SUFFIXES = sorted(SOUND)
_FOLDER = Path(tempfile.mkdtemp())


def read(data: bytes) -> None:
    """
    Raises:
        AssertionError: a line is neither learned nor named.
    """
    path = _FOLDER / f"data{_SUFFIXES[data[0] % len(_SUFFIXES) if data else 0]}"
    path.write_bytes(data[1:])
    findings = Findings()
    with contextlib.suppress(UsageError):
        records = read_records(path, findings)
        assert findings.n_lines - findings.report.n_refused == len(records)


def seeds() -> list[bytes]:
    files = [*SOUND.items(), *LYING.values()]
    return [bytes([_SUFFIXES.index(suffix)]) + raw for suffix, raw in files if len(raw) < MAX_INPUT_BYTES]


if __name__ == "__main__":
    run("data", read, seeds())

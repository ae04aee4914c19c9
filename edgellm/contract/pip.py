"""pip as a child process: the one place that says how it is run. What it reads comes from strangers' indexes.

It runs in `pip_runner`, which holds it to the limits and ends it with this process: start what `command` returns with
`Child(..., is_held=True)`, or use `run`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgellm import settings
from edgellm.contract import pip_runner
from edgellm.contract.child import Child, End
from edgellm.contract.own_python import interpreter
from edgellm.units import show_memory

# An index's page becomes objects in pip. docs/adr/096-limits-of-pip.md: one of 30,000 files takes 155 MB.
MEMORY_BYTES = 512 * 1024**2
OUT_OF_MEMORY = f"pip would need more than {show_memory(MEMORY_BYTES)} for what the package index sends, and was ended"
OUT_OF_MEMORY_HINT = "no honest index sends that much: `pip config list` says which one is asked"
FILE_LIMIT_STATUS = pip_runner.FILE_LIMIT_STATUS
_NO_MEMORY = re.compile(r"^MemoryError\b|[Oo]ut of memory|Cannot allocate memory", re.MULTILINE)
_POLL_S = 60.0


def command(arguments: Sequence[str], *, most_file_bytes: int = 0, python: str = "") -> list[str]:
    """The command line. pip ends with FILE_LIMIT_STATUS before a file is larger than `most_file_bytes`; 0 = any size.

    `python` is that of helpers where none is named, and raises as that (`own_python.interpreter`).
    """
    # -P: a folder named pip in the working directory must not be run instead.
    runner = [python or interpreter(), "-P", str(Path(pip_runner.__file__)), str(MEMORY_BYTES), str(most_file_bytes)]
    return [*runner, "--no-input", "--disable-pip-version-check", "--no-color", *arguments]


def environment(scratch: Path | None = None) -> dict[str, str]:
    """As other children get it, with pip's temporary files in `scratch`, on the disk that was checked for space."""
    # pip sets the user's locale, in whose language the system then says what failed.
    changed = {"PIP_REQUIRE_VIRTUALENV": "false", "PYTHONUTF8": "1", "LC_ALL": "C"}
    if scratch is not None:
        changed |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    return settings.variables() | changed


def run(command: Sequence[str], env: Mapping[str, str]) -> End:
    """Run to the end, however long it takes.

    Raises:
        OSError: it cannot be started.
    """
    with Child(command, env=env, is_held=True) as child:
        while not child.wait(_POLL_S):
            pass
    return child.end


def is_out_of_memory(output: str) -> bool:
    """Whether pip ended at MEMORY_BYTES, by what it said."""
    return _NO_MEMORY.search(output) is not None

"""What pip's output says of a failure.

The output is read because nothing else tells: pip ends with status 1 whatever failed, and its JSON report is of success
only. A client of our own for the index (PEP 691) would not know the user's settings of pip: indexes, proxies,
certificates, keyring. tests/store/test_pypi.py checks every sentence against the installed pip; one that a later pip
words differently becomes a SourceUnreachable with pip's own last line, never a wrong file.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import sys
from pathlib import Path

from edgellm.contract.pip import OUT_OF_MEMORY, OUT_OF_MEMORY_HINT, is_out_of_memory
from edgellm.errors import IntegrityError, SourceError, SourceUnreachable
from edgellm.files import FULL

MISSING = "pip is not installed in this Python"
MISSING_HINT = f"run `{Path(sys.executable).name} -m ensurepip --upgrade`"


def is_installed() -> bool:
    return importlib.util.find_spec("pip") is not None


def download_failure(what: str, sha256: str, output: str) -> SourceError | OSError:
    """The failure of `pip download` of `what`, which was promised to have this hash. OSError: pip could not write."""
    if "No module named pip" in output:
        return SourceUnreachable(f"{what} cannot be fetched: {MISSING}", hint=MISSING_HINT)
    if "DO NOT MATCH THE HASHES" in output or "Hashes are required" in output:
        return IntegrityError(f"the index offers another {what} than the catalog promises (sha256 {sha256})")
    if is_out_of_memory(output):
        return SourceUnreachable(f"{what} cannot be fetched: {OUT_OF_MEMORY}", hint=OUT_OF_MEMORY_HINT)
    for code in (*FULL, errno.EFBIG):
        if f"[Errno {code}]" in output or os.strerror(code) in output:
            return OSError(code, os.strerror(code))
    lines = [line for line in output.splitlines() if line.startswith(("ERROR:", "WARNING:", "pip._vendor"))]
    last = lines[-1][:300] if lines else f"pip said: {output[-300:].strip()!r}"
    return SourceUnreachable(
        f"{what} could not be fetched from the package index: {last}",
        hint="check the network and `pip config list`; `edgellm models` lists what is on this disk",
    )


def index_failure(output: str) -> str:
    """Why the index could not be asked, by the output of `pip index versions -vv`; "" where it has no such package."""
    if is_out_of_memory(output):
        return f"{OUT_OF_MEMORY} ({OUT_OF_MEMORY_HINT})"
    # pip ends in the same way for a dead index and for one without the package, but for this line of its log.
    failures = re.findall(r"^ *Could not fetch URL \S+ (.+)$", output, re.MULTILINE)
    dead = [failure for failure in failures if not failure.startswith("404 ")]
    return f"the package index could not be asked: {_cause(dead[-1])}" if dead else ""


def _cause(failure: str) -> str:
    """The system's words inside pip's ("[Errno 111] Connection refused"), else the beginning of pip's own."""
    inner = re.search(
        r"\[Errno [^\]]+\] [\w ]+|Read timed out|[Cc]onnection timed out|CERTIFICATE_VERIFY_FAILED", failure
    )
    proxy = "its proxy cannot be reached: " if "ProxyError" in failure else ""
    return proxy + (inner[0] if inner else failure[:200])

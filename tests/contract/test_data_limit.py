"""A process that may allocate so much gets no more, and what was before the limit does not count."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is mapped on Linux only")

SCRIPT = """
from edgellm.contract.data_limit import data_bytes, limit_data, limited_data
held = bytearray(300 << 20)
{}
try:
    more = bytearray(int({}) << 20)
except MemoryError:
    print("refused")
else:
    print("given")
"""


def answer(limit: str, asked_mib: int) -> str:
    command = [sys.executable, "-c", SCRIPT.format(limit, asked_mib)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_only_more_than_allowed_is_refused() -> None:
    assert answer("limit_data(200 << 20)", 100) == "given"
    assert answer("limit_data(200 << 20)", 300) == "refused"


def test_a_nearer_limit_stays_and_one_of_a_block_ends_with_it() -> None:
    assert answer("limit_data(200 << 20); limit_data(1 << 40)", 300) == "refused"
    assert answer("with limited_data(1 << 20): pass", 300) == "given"

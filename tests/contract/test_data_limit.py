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


def test_a_limit_of_its_own_is_lifted_for_a_while_and_ends() -> None:
    own = "from edgellm.contract.data_limit import end_own_limit, lifted, limit_own_data; limit_own_data(1 << 20)"
    assert answer(own, 300) == "refused"
    assert answer(f"{own}; block = lifted(); block.__enter__()", 300) == "given"
    assert answer(f"{own}\nwith lifted():\n    pass", 300) == "refused"
    assert answer(f"{own}; end_own_limit()", 300) == "given"


def test_what_is_started_meanwhile_has_no_limit_of_its_parent() -> None:
    """Also where it was being started when the limit came."""
    script = """
import resource, subprocess, sys
from edgellm.contract.data_limit import lifted, limit_own_data
ask = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_DATA))"]
before = resource.getrlimit(resource.RLIMIT_DATA)
with lifted():
    limit_own_data(1 << 30)
    subprocess.run(ask, check=True)
with lifted(), lifted():
    subprocess.run(ask, check=True)
print(*before, resource.getrlimit(resource.RLIMIT_DATA) == before)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    *children, own = done.stdout.splitlines()
    assert [f"{child} False" for child in children] == [own, own]


def test_a_nearer_limit_stays_and_one_of_a_block_ends_with_it() -> None:
    assert answer("limit_data(200 << 20); limit_data(1 << 40)", 300) == "refused"
    assert answer("with limited_data(1 << 20): pass", 300) == "given"

"""How commands that run until they are stopped end: the second signal, wherever it comes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

# `where` the second signal comes.
LEAVES = """
import os, signal, sys
import click
from edgellm.cli.stopping import ends_clean, leaves_at_once
from edgellm.contract.child import ended_with_us

where = sys.argv[1]

def again(place):
    if where == place:
        os.kill(os.getpid(), signal.SIGTERM)

class Late:
    def __del__(self):
        again("at the end of Python")

@click.command()
def command():
    with ends_clean(), ended_with_us():
        if where in ("while a server closes", "behind a server"):  # which was told to end, and did
            leaves_at_once()
            again("while a server closes")
        else:
            os.kill(os.getpid(), signal.SIGTERM)

late = Late()
assert not command([], standalone_mode=False)
again("behind the block")
again("behind a server")
"""


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("while a server closes", 130), ("behind a server", 130), ("behind the block", 130),
        ("at the end of Python", 0), ("never", 0),
    ],
)  # fmt: skip
def test_a_second_signal_ends_it_with_a_status_of_ours(where: str, status: int) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES, where], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")

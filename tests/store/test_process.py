"""A helper process never outlives its block."""

import contextlib
import os
import signal
import sys
import time

import psutil
import pytest
from store_server import wait_for

from edgellm.store.process import Process

# Starts a child, says both ids, and will not go at a polite request.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(60)
"""


def test_output_and_status():
    with Process([sys.executable, "-c", "print('out'); raise SystemExit(3)"], env=os.environ) as process:
        assert process.wait(10)

    assert process.returncode == 3
    assert process.output == "out\n"


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_the_whole_group_is_killed(tmp_path, error):
    told = tmp_path / "pids"
    start = time.monotonic()
    with (
        contextlib.suppress(error or ()),
        Process([sys.executable, "-c", STUBBORN, str(told)], env=os.environ) as process,
    ):
        assert wait_for(lambda: told.exists() and len(told.read_text().split()) == 2)
        assert not process.wait(0.01)
        if error is not None:
            raise error

    assert time.monotonic() - start < 6
    assert process.returncode == -signal.SIGKILL
    assert wait_for(lambda: not any(psutil.pid_exists(int(pid)) for pid in told.read_text().split()))

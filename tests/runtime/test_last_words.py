"""What a worker logs before it ends reaches whoever reads its log, however slowly."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from support import fake_plugins
from support.full_pipe import full_pipe
from support.waiting import PATIENCE_S

from edgellm.contract.child import End
from edgellm.runtime import supervisor, wire, worker_end, worker_process
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

ROTTEN = """
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

class Rotten(EchoBackend):
    name, formats = "rotten", frozenset({"rotten"})
    def open(self, plan):
        raise RuntimeError("weights are rotten")

@hookimpl
def register_backends(register):
    register(Rotten())
"""
SLOW_S = 0.1  # far less than a worker waits at its end


soon_or_late_or_never = pytest.mark.parametrize(
    ("again", "pause_s"), [(True, 0.0), (True, supervisor.LONG_PAUSE_S), (False, 0.0)]
)


@soon_or_late_or_never
@pytest.mark.parametrize("returncode", [1, 3, -signal.SIGSEGV, -signal.SIGILL])
def test_an_end_that_is_not_for_want_of_memory_names_the_backend(returncode: int, again: bool, pause_s: float) -> None:
    hint = supervisor._hint(again, pause_s, worker_end.ended(End(returncode), "odd").hint)

    assert "the odd backend" in hint
    assert "memory" not in hint


@soon_or_late_or_never
def test_an_end_by_hand_may_be_for_want_of_memory(again: bool, pause_s: float) -> None:
    """And is no fault of the file, which others can load."""
    hint = supervisor._hint(again, pause_s, worker_end.ended(End(-signal.SIGKILL), "odd").hint)

    assert "memory that is short (a smaller model" in hint
    assert "fault" not in hint


def test_a_worker_that_ends_waits_for_who_reads_its_log(tmp_path: Path) -> None:
    """Its parent answers the end of one pipe with the end of the other, which ends the worker at once."""
    fake_plugins.install(tmp_path, "rotten", ROTTEN)
    plan = LaunchPlan("rotten", Artifact("rotten", (), "rotten"), Settings(n_ctx=256, n_slots=1))
    reading, writing = full_pipe()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "EDGELLM_LOG": "DEBUG"}
    worker = subprocess.Popen(
        worker_process.worker_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing, env=environment
    )
    os.close(writing)
    assert worker.stdin
    assert worker.stdout
    log: list[bytes] = []
    ended = threading.Event()

    def read_log() -> None:
        ended.wait(SLOW_S)
        with open(reading, "rb") as pipe:
            log.append(pipe.read())

    with worker:
        worker.stdin.write(wire.encode(wire.Launch(plan)))
        worker.stdin.flush()
        assert wire.read_frame(worker.stdout)
        reader = threading.Thread(target=read_log)
        reader.start()
        assert wire.read_frame(worker.stdout) is None
        worker.stdin.close()
        worker.wait(PATIENCE_S)
        ended.set()
        reader.join()

    assert b"weights are rotten" in log[0]
    assert b"Traceback" in log[0]

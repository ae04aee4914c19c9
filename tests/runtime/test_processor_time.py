"""What a model's files make a worker compute has an end, whatever the worker holds meanwhile; honest work has not."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from edgellm.contract import manager
from edgellm.contract.child import End
from edgellm.contract.manager import PluginRow
from edgellm.errors import RunawayModel, WorkerCrashed
from edgellm.runtime import worker_end
from edgellm.runtime.worker_end import COMPUTES, READS_GRAMMAR, READS_TEXT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timers of a thread's processor time are Linux's")

# Seconds of processor time are small here, and what computes does so for ever. A loop of native code that keeps
# Python's lock is as long as it takes to end: no thread of Python could.
BEGINS = """
import threading, time
from edgellm.runtime import processor_time
from edgellm.runtime.processor_time import WorkTime
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
processor_time.LOAD_S = processor_time.TURN_S = processor_time.SPARE_S = processor_time.GRAMMAR_S = 0.1
processor_time.GRAMMAR_TOKEN_S = 0.0
work_time = WorkTime(LaunchPlan("m", Artifact("gguf", (), "m"), Settings(n_ctx=64)), ends=True)
def compute(seconds=3600.0):
    until = time.thread_time() + seconds
    while time.thread_time() < until: pass
def keep_the_lock():
    return sum(range(10**12))
def apart(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


def end_of(script: str) -> int:
    return subprocess.run([sys.executable, "-c", BEGINS + script], check=False, timeout=120).returncode


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("work_time.load(0); keep_the_lock()", COMPUTES),
        ("work_time.load(0); work_time.turn(); keep_the_lock()", COMPUTES),
        ("work_time.batch(8, 4); keep_the_lock()", COMPUTES),
        ("work_time.text(10, keep_the_lock)", READS_TEXT),
        ("apart(lambda: work_time.text(10, keep_the_lock))", READS_TEXT),
        ("apart(lambda: work_time.grammar(10, compute))", READS_GRAMMAR),
    ],
    ids=["load", "turn", "batch", "text", "text in another thread", "grammar"],
)
def test_what_computes_for_ever_ends_the_process(script: str, name: str) -> None:
    assert end_of(script) == -getattr(signal, name)


def test_texts_that_each_take_a_little_too_long_end_it_together() -> None:
    script = "\nfor _ in range(20): work_time.text(10, lambda: compute(0.05))"
    assert end_of(script) == -getattr(signal, READS_TEXT)


def test_what_texts_may_take_grows_with_their_letters_and_comes_back() -> None:
    script = """
processor_time.SPARE_S, processor_time.LETTER_S = 0.5, 0.02
for _ in range(4):
    work_time.text(20, lambda: compute(0.6))
    for _ in range(10): work_time.text(1, lambda: None)
"""
    assert end_of(script) == 0


def test_other_threads_and_waiting_do_not_count() -> None:
    script = """
import hashlib
threading.Thread(target=lambda: [hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**6) for _ in range(1)]).start()
work_time.load(0)
work_time.text(10, lambda: time.sleep(0.6))
"""
    assert end_of(script) == 0


def test_each_turn_begins_anew() -> None:
    """Where a host takes the processor away meanwhile, some kernels count that, too: there is room for it."""
    more = "\nprocessor_time.TURN_S = 0.8; work_time = WorkTime(ends=True)"
    assert end_of(more + "\nfor _ in range(10): work_time.turn(); compute(0.2)") == 0


def test_nothing_is_limited_where_a_process_is_not_ours_to_end() -> None:
    script = "\nfree = WorkTime()\nfree.load(0); free.turn(); free.batch(1, 1); free.text(1, lambda: compute(0.4))"
    assert end_of(script + "\nfree.grammar(1, lambda: compute(0.2))") == 0


@pytest.mark.parametrize(
    ("name", "kind"), [(COMPUTES, RunawayModel), (READS_TEXT, RunawayModel), (READS_GRAMMAR, WorkerCrashed)]
)
def test_the_error_says_who_is_at_fault(name: str, kind: type[WorkerCrashed]) -> None:
    error = worker_end.ended(End(-getattr(signal, name)), "odd")
    assert type(error) is kind
    assert name in error.reason
    is_of_model = kind is RunawayModel
    assert ("the model's files or the odd backend is at fault" in error.message) is is_of_model
    assert ("do without the odd backend" in error.hint) is is_of_model


@pytest.mark.parametrize("name", [COMPUTES, READS_TEXT, "SIGSEGV", "SIGILL", "SIGABRT"])
def test_where_a_backend_may_be_at_fault_its_plugin_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = PluginRow("mine", "edgellm-mine 0.3", "mine")
    monkeypatch.setattr(manager, "plugins", lambda: SimpleNamespace(owner=lambda hook, name: row))
    error = worker_end.ended(End(-getattr(signal, name)), "odd")
    assert "the odd backend of plugin mine (edgellm-mine 0.3)" in error.hint


@pytest.mark.parametrize(
    ("returncode", "cure"),
    [
        (-signal.SIGKILL, ""), (-signal.SIGSEGV, "another file of the model, or another backend"),
        (-signal.SIGILL, "a build of the odd backend for this processor"),
        (-signal.SIGFPE, "another file of the model, or another"),
        (-signal.SIGTERM, ""), (-signal.SIGINT, ""), (-signal.SIGHUP, ""),
        (1, "the odd backend or the model file may be"), (3, "the odd backend or the model file may be"),
    ],
)  # fmt: skip
def test_nothing_is_blamed_for_what_it_did_not_do(returncode: int, cure: str) -> None:
    hint = worker_end.ended(End(returncode), "odd").hint
    assert cure in hint
    assert bool(hint) == bool(cure)

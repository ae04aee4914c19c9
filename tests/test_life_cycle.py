"""A loaded model beside forks, garbage collection and the end of the interpreter: no worker stays, and nobody hangs."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys

import psutil
import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM

both = pytest.mark.parametrize("isolate", [True, False], ids=["process", "thread"])


def program(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """An app of its own: what it does at its end, and what a fork of it does, cannot be tried in a test's process."""
    command = [sys.executable, *options, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


FORK = """
import os, sys, warnings
from edgellm import EdgeLLM
from edgellm.errors import UsageError

warnings.simplefilter("ignore")  # newer Pythons warn of each fork
llm = EdgeLLM.load("echo", isolate=sys.argv[1] == "process")
child = os.fork()
if not child:
    calls = [lambda: llm.chat("hi"), lambda: llm.embed("hi"), lambda: llm.info]
    refused = llm.state == "closed"
    for call in calls:
        try:
            call()
        except UsageError as error:
            refused += str(os.getppid()) in str(error)
    llm.close()  # the model of the parent goes on
    os._exit(refused)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), llm.state, llm.chat("hello").text)
llm.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@both
def test_a_fork_is_told_to_load_its_own(isolate: bool) -> None:
    text = FORK.replace("sys.argv[1]", repr("process" if isolate else "thread"))
    ran = program(text)
    assert (ran.stdout.split(), ran.stderr) == (["4", "ready", "hello"], "")


BEGUN = """
import asyncio, os, signal, sys, warnings
from edgellm import EdgeLLM
from edgellm.errors import UsageError
from edgellm.types.event import Delta
from edgellm.types.request import GenerationRequest

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of each fork
os.environ["EDGELLM_ECHO_STEP_S"] = "0.02"
llm = EdgeLLM.load("echo", isolate=sys.argv[1] == "process", slots=8)
loop = asyncio.new_event_loop()
wait = loop.run_until_complete


def add(a: int) -> int:
    return a


def step(stream):
    return wait(anext(stream)) if hasattr(stream, "__anext__") else next(stream)


text, hour = "one two three", {"timeout": 3600}
streams = [
    llm.stream(text), llm.stream(text, **hour), llm.stream_tools(text, tools=[add]),
    llm.generate(GenerationRequest(text, max_tokens=20)),
    llm.astream(text), llm.astream(text, **hour), llm.astream_tools(text, tools=[add]),
]
first = [step(stream) for stream in streams]
child = os.fork()
if not child:
    signal.alarm(60)  # one that waits is ended
    calls = [lambda stream=stream: step(stream) for stream in streams[:4]]
    calls += [lambda stream=stream: [step(stream) for _ in text] for stream in streams[4:]]
    calls += [lambda: wait(llm.achat("hi")), llm.__enter__]
    refused = 0
    for call in calls:
        try:
            call()
        except UsageError as error:
            refused += f"process {os.getppid()}; this is process {os.getpid()}" in str(error)
        except StopIteration:
            pass
        except StopAsyncIteration:
            refused += 1  # on a busy machine all may have come in one piece, before the fork
    for stream in streams[:4]:
        stream.close()
    wait(llm.__aexit__())
    os._exit(refused)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
for stream, event in zip(streams, first):
    said = ""
    while isinstance(event, Delta):
        said += event.text
        event = step(stream)
    print(said.split()[-1])
llm.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@both
def test_what_began_before_a_fork_goes_on_in_the_parent_alone(isolate: bool) -> None:
    """And the pool of the event loop has no threads in a fork, which `achat` would wait for."""
    ran = program(BEGUN.replace("sys.argv[1]", repr("process" if isolate else "thread")))
    refused, *said = ran.stdout.splitlines()
    assert (refused, said, ran.stderr) == ("9", ["three"] * 7, "")


def test_an_object_that_nobody_holds_ends_its_worker() -> None:
    llm = EdgeLLM.load("echo")
    worker = psutil.Process(llm._session.pid)  # type: ignore[attr-defined]
    del llm
    gc.collect()
    wait_until(lambda: not worker.is_running())


def test_an_object_that_nobody_holds_ends_its_thread() -> None:
    llm = EdgeLLM.load("echo", isolate=False)
    thread = llm._session._thread  # type: ignore[attr-defined]
    del llm
    gc.collect()
    wait_until(lambda: not thread.is_alive())


def test_a_stream_that_is_read_holds_its_model() -> None:
    events = EdgeLLM.load("echo").stream("hello", temperature=0)
    gc.collect()
    assert "".join(event.text for event in events if hasattr(event, "text")) == "hello"


OPEN_AT_THE_END = """
from edgellm import EdgeLLM
llm = EdgeLLM.load("echo")
print(llm._session.pid, llm.chat("hello").text)
"""


def test_a_program_that_closes_nothing_leaves_nothing_and_says_nothing() -> None:
    ran = program(OPEN_AT_THE_END, "-X", "dev", "-W", "error")
    pid, text = ran.stdout.split()
    assert (text, ran.returncode, ran.stderr) == ("hello", 0, "")
    assert not psutil.pid_exists(int(pid))


WARNS = """
import logging
from edgellm import EdgeLLM
with EdgeLLM.load("echo") as llm:
    logging.getLogger("edgellm.app.verify").warning("not for the app's standard error")
"""


def test_an_app_without_logging_gets_nothing_on_its_standard_error() -> None:
    assert program(WARNS).stderr == ""
    assert "not for" in program("import logging; logging.basicConfig()" + WARNS).stderr


@both
def test_its_text_says_what_it_is(isolate: bool) -> None:
    with EdgeLLM.load("echo", isolate=isolate) as llm:
        assert repr(llm) == "<EdgeLLM echo on echo, ready>"
    assert repr(llm) == "<EdgeLLM echo on echo, closed>"


def test_it_is_neither_pickled_nor_copied() -> None:
    with EdgeLLM.load("echo") as llm:
        with refuses(UsageError):
            pickle.dumps(llm)
        for copied in (copy.copy, copy.deepcopy):
            with pytest.raises(UsageError):
                copied(llm)

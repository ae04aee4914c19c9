"""Opens each file that is named and lets it say four tokens, each in a process of its own; prints how each ended.

One process forks for all, after the library was loaded and before it started a thread: a start of Python and numpy for
each of hundreds of files would take minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile

from edgellm_gguf import engine  # noqa: F401 - loads the library

from edgellm.errors import EdgeLLMError
from edgellm.sdk.client import EdgeLLM
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest

MOST_PROCESSOR_S = 60
PATIENCE_S = 1200  # for what waits without computing
TEXT = "the tin is on " * 60  # more tokens than a batch of 512


def say(path: str) -> str:
    plan = LaunchPlan("gguf", Artifact("gguf", (path,), "mutant"), Settings(n_ctx=1024, n_threads=1, n_threads_batch=1))
    try:
        with EdgeLLM(plan, isolate=False) as llm:
            if llm.info.generates:
                list(llm.generate(GenerationRequest(TEXT, max_tokens=4, ignore_eos=True)))
            else:
                llm.embed("the tin is on")
    except EdgeLLMError as error:
        return f"{error.code}: {error.message}"
    return "said"


def apart(path: str) -> str:
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_PROF, MOST_PROCESSOR_S)
            signal.alarm(PATIENCE_S)
            os.dup2(log.fileno(), 2)
            with open(writing, "w") as pipe, contextlib.suppress(OSError):
                pipe.write(say(path))
                pipe.flush()
            os._exit(0)
        os.close(writing)
        with open(reading) as pipe:
            said = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return said
        log.seek(0)
        last = next((line for line in log if "GGML_" in line), "").strip()
    return (f"killed by {signal.Signals(-code).name}" if code < 0 else f"left with {code}") + f": {last}"


print(json.dumps({path: apart(path) for path in sys.stdin.read().split("\n") if path}))

"""A render that hangs holds up nobody but those who wait for a render."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from support.live_server import Servers
from support.waiting import PATIENCE_S, wait_until

from edgellm.text import template_process

# From the one file to the other.
HANGS = """
import os, sys, time
from edgellm.contract.helper import answer_all
from edgellm.text import template_jobs

def answer(question):
    if b"hostile" in question:
        open(sys.argv[1], "w").close()
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
    return template_jobs.answer(question)

answer_all(answer, seconds=600.0, memory_bytes=template_jobs.MEMORY_BYTES)
"""


@pytest.mark.usefixtures("own_templates")
def test_it_holds_up_no_stream_and_not_the_health(
    serve: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, over = tmp_path / "began", tmp_path / "over"
    monkeypatch.setattr(
        template_process, "_command", lambda: [sys.executable, "-P", "-c", HANGS, str(began), str(over)]
    )
    monkeypatch.setattr(template_process, "PATIENCE_S", PATIENCE_S)
    live = serve(step_s=0.01, slots=2)
    statuses: dict[str, int] = {}
    messages = [{"role": "user", "content": "x" * 30}]

    def ask(text: str) -> None:
        statuses[text] = live.chat(text, max_tokens=3).status_code

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("hostile", "honest")]
    with live.http.stream("POST", "/v1/chat/completions", json={"messages": messages, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        threads[0].start()
        wait_until(began.exists)
        rest = [line for line in lines if line]
        health = live.http.get("/health").status_code
        completion = live.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code
        threads[1].start()
        waiting = dict(statuses)
    over.touch()
    for thread in threads:
        thread.join()

    assert (rest[-1], health, completion, waiting) == ("data: [DONE]", 200, 200, {})
    assert statuses == {"hostile": 200, "honest": 200}

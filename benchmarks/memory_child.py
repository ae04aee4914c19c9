"""One combination of `memory.py`: serves the model over HTTP like `edgellm serve`, asks it once, prints what it took.

`python benchmarks/memory_child.py FILE SETTINGS-AS-JSON` prints one JSON object: peak resident bytes of the worker and
of this process, and the buffers that the library named.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from dataclasses import replace

import msgspec

from edgellm.app.launch import model_plan
from edgellm.sdk.client import EdgeLLM
from edgellm.server import listener
from edgellm.server.app import create_app
from edgellm.types.plan import Settings
from edgellm.types.request import SelectionRequest

PROMPT_TOKENS = 600  # more than a batch: what is touched by a longer one is its mask alone


def main() -> None:
    """Load, answer, measure, stop."""
    path, wanted = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Settings)
    plan = model_plan(path, SelectionRequest(ctx=wanted.n_ctx, slots=wanted.n_slots, backend="gguf"))
    found: dict[str, object] = {}
    with listener.bind("127.0.0.1", 0) as socket, EdgeLLM(replace(plan, settings=wanted)) as llm:
        server = listener.Listener(
            create_app(llm, api_key=None, host="127.0.0.1"),
            started=lambda: None,
            draining=lambda _: None,
            overdue=llm.close,
            drain_s=8.0,
        )

        def ask() -> None:
            try:
                found["prompt_tokens"] = _complete(listener.url(socket), min(PROMPT_TOKENS, wanted.n_ctx - 32))
                pid = llm._session.pid  # type: ignore[attr-defined]  # beside it is the process of the chat template
                found["worker_bytes"], found["parent_bytes"] = _peak_bytes(pid), _peak_bytes("self")
                found["buffers"] = llm.info.details["buffers"]
            finally:
                server.stop()

        _ = llm.info  # waits until it is loaded
        asking = threading.Thread(target=ask)
        asking.start()
        server.run(sockets=[socket])
        asking.join()
    print(json.dumps(found))


def _complete(url: str, n_tokens: int) -> int:
    """Tokens that the server counted."""
    body = {"prompt": "7 " * (n_tokens // 2), "max_tokens": 8}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=140) as answer:
        return int(json.load(answer)["usage"]["prompt_tokens"])


def _peak_bytes(pid: int | str) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()

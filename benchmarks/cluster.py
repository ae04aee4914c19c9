"""What a cluster of boxes on this machine costs, beside one box: start, memory, idle time, first token, aggregate,
affinity. Run with the Python of .venv-ray: `make bench-cluster` (ARGS="--model FILE.gguf").

Nodes are of `ray.cluster_utils.Cluster`; requests go over loopback. One process asks, so that rates count its own work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from edgellm.sdk.client import EdgeLLM
from edgellm.server.app import create_app
from edgellm.server.listener import Listener, bind

if TYPE_CHECKING:
    from support.ray_cluster import Boxes

TURNS = 8
NAMES = "abcdefgh"


def pss_bytes(root: psutil.Process) -> int:
    """Of all that a process started."""
    return sum(process.memory_full_info().pss for process in root.children(recursive=True))


def processor_s(root: psutil.Process) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in root.children(recursive=True))


def pss_mb_by_program(root: psutil.Process) -> dict[str, float]:
    """The parts of `pss_bytes`: how many processes there are of each program, and what they take together."""
    parts: dict[str, list[float]] = {}
    for process in root.children(recursive=True):
        command = process.cmdline() or ["?"]
        is_module = "-m" in command[:-1]  # the worker of a model
        name = command[command.index("-m") + 1] if is_module else command[0].rpartition("/")[2].partition(".")[0]
        parts.setdefault(name.strip(), []).append(process.memory_full_info().pss / 1e6)
    return {f"{len(sizes)} {name}": round(sum(sizes), 1) for name, sizes in sorted(parts.items())}


def first_token_ms(client: httpx.Client, number: int) -> float:
    body = {"messages": [{"role": "user", "content": f"Say {number}."}], "max_tokens": 8, "stream": True}
    began = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return (time.perf_counter() - began) * 1000
    raise AssertionError(f"no token: {answer.status_code}")


def tokens_per_s(url: str, n_streams: int, n_tokens: int) -> float:
    """Of all streams together."""

    def ask(number: int) -> int:
        text = f"{number} " + "word " * n_tokens
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": n_tokens, "temperature": 0}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600).json()
        return int(answer["usage"]["completion_tokens"])

    began = time.perf_counter()
    with ThreadPoolExecutor(n_streams) as pool:
        n = sum(pool.map(ask, range(n_streams)))
    return n / (time.perf_counter() - began)


def affinity(boxes: Boxes, n_conversations: int, n_at_a_time: int) -> dict[str, float]:
    """Conversations of several turns, over all boxes and after the loss of one: how many turns reach the box that has
    their beginning, how many conversations move, and how even boxes are loaded."""
    with boxes.client() as client, ThreadPoolExecutor(n_at_a_time) as pool:

        def places(turn: int) -> list[str]:
            return list(pool.map(lambda number: _place(client, number, turn), range(n_conversations)))

        turns = [places(turn) for turn in range(TURNS)]
        first, last = turns[0], turns[-1]
        kept = sum(place == before for turn in turns for place, before in zip(turn, first, strict=True))
        report = {
            "boxes_of_conversations": len(boxes.nodes),
            "kept": kept / (n_conversations * TURNS),
            "max_over_mean": _unevenness([place for turn in turns for place in turn], len(boxes.nodes)),
        }
        boxes.kill(last[0])
        boxes.wait_for(len(boxes.nodes))  # its replica may answer for a moment
        after = places(TURNS)
        moved = sum(place != before for place, before in zip(after, last, strict=True))
        report["moved_after_a_loss"] = moved / n_conversations
        report["max_over_mean_after_a_loss"] = _unevenness(after, len(boxes.nodes))
    return report


def _place(client: httpx.Client, number: int, turn: int) -> str:
    """Which box answers this turn of a conversation."""
    messages = [{"role": "user", "content": f"Conversation {number}."}]
    for _ in range(turn):
        messages += [{"role": "assistant", "content": "."}, {"role": "user", "content": "More."}]
    answer = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4})
    answer.raise_for_status()
    return answer.headers["x-edgellm-node"]


def _unevenness(places: Sequence[str], n_boxes: int) -> float:
    """Turns of the fullest box over those of the mean one."""
    return max(Counter(places).values()) * n_boxes / len(places)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="echo", help="echo, an id or a file")
    parser.add_argument("--boxes", type=int, default=2, help="while costs are measured; conversations have 3")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=40, help="of first tokens")
    parser.add_argument("--conversations", type=int, default=64, help="0: none")
    parser.add_argument("--at-a-time", type=int, default=8, help="of conversations")
    options = parser.parse_args(arguments)

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.ray_cluster import Boxes

    asked: dict[str, Any] = {"slots": 2, "ctx": 1024, "threads": 1}
    me = psutil.Process()
    report: dict[str, Any] = {"model": options.model, "boxes": options.boxes}

    def start(n_boxes: int) -> Boxes:
        boxes = Boxes(tempfile.mkdtemp(prefix="ray-bench-", dir="/tmp"), Path(os.environ["EDGELLM_HOME"]))
        boxes.add(*NAMES[:n_boxes])
        boxes.serve(options.model, **asked)
        return boxes

    began = time.perf_counter()
    boxes = start(options.boxes)
    try:
        report["start_s"] = time.perf_counter() - began
        report["pss_mb"] = pss_bytes(me) / 1e6
        report["pss_mb_by_program"] = pss_mb_by_program(me)
        before, since = processor_s(me), time.perf_counter()
        time.sleep(10)  # nothing happens: that is measured
        report["idle_percent_of_a_core"] = 100 * (processor_s(me) - before) / (time.perf_counter() - since)
        with EdgeLLM.load(options.model, **asked) as llm, bind("127.0.0.1", 0) as bound:
            server = Listener(
                create_app(llm), started=lambda: None, draining=lambda _: None, overdue=llm.close, drain_s=1
            )
            threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True).start()
            direct = f"http://127.0.0.1:{bound.getsockname()[1]}"
            with httpx.Client(base_url=direct, timeout=600) as one, boxes.client() as many:
                pairs = [(first_token_ms(one, n), first_token_ms(many, n)) for n in range(options.pairs)]
            report["first_token_direct_ms"] = statistics.median(alone for alone, _ in pairs)
            report["first_token_cluster_ms"] = statistics.median(through for _, through in pairs)
            report["first_token_difference_ms"] = statistics.median(through - alone for alone, through in pairs)
            rates = [
                tuple(tokens_per_s(url, options.streams, options.tokens) for url in (direct, boxes.url))
                for _ in range(3)
            ]
            report["tok_s_direct"], report["tok_s_cluster"] = map(statistics.median, zip(*rates, strict=True))
            report["tok_s_ratio"] = statistics.median(through / alone for alone, through in rates)
            server.stop()
        if options.conversations:
            boxes.close()  # what was asked until now counts as conversations of its boxes, too
            boxes = start(max(3, options.boxes))
            report |= affinity(boxes, options.conversations, options.at_a_time)
    finally:
        print(json.dumps(report, indent=1), flush=True)
        boxes.close()


if __name__ == "__main__":
    main()

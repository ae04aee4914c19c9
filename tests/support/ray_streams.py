"""Streams of a cluster under which its parts die: what each client saw, and the ways to kill."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from support.ray_cluster import Boxes, process_of, process_titled
from support.waiting import wait_until

if TYPE_CHECKING:
    from edgellm_ray.board import Row

PARTS = ("worker", "replica", "node", "proxy")
_PATIENCE_S = 240.0


@dataclass
class Stream:
    """One answer, read in a thread of its own.

    Attributes:
        error: the code of the error that it ended with; None = none.
        node: the box that began it.
        n_resumed: how often the front asked for it again.
        sent: its text when that happened first.
        longest_pause_s: between its request, pieces of its text, and its end.
        broke: what httpx said where it neither ended nor said why.
    """

    boxes: Boxes
    body: dict[str, object]
    session: str
    text: str = ""
    error: str | None = None
    node: str = ""
    ended: bool = False
    n_resumed: int = 0
    sent: str = ""
    longest_pause_s: float = 0.0
    broke: str = ""
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with httpx.stream(
                "POST",
                f"{self.boxes.url}/v1/chat/completions",
                json={**self.body, "stream": True},
                headers={"x-session-id": self.session, **self.boxes.headers},
                timeout=_PATIENCE_S,
            ) as answer:
                self.node = answer.headers.get("x-edgellm-node", "")
                if answer.status_code != 200:
                    self.error = json.loads(answer.read())["error"]["code"]
                    return
                for line in answer.iter_lines():
                    self._take(line)
        except httpx.HTTPError as error:
            self.broke = repr(error)
        finally:
            self._pause()

    def _take(self, line: str) -> None:
        if line == "data: [DONE]":
            self.ended = True
        elif line == ": resumes":
            self.sent = self.sent or self.text
            self.n_resumed += 1
        elif line.startswith("data: "):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                self.error = chunk["error"]["code"]
            for choice in chunk.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    self.text += piece
                    self._pause()

    def _pause(self) -> None:
        now = time.monotonic()
        self.longest_pause_s, self._last = max(self.longest_pause_s, now - self._last), now

    def over(self) -> bool:
        return not self._thread.is_alive()


def endless(streams: list[Stream]) -> list[Stream]:
    """Those that neither end nor say why not, once all others have."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: all(stream.over() for stream in streams), _PATIENCE_S)
    return [stream for stream in streams if stream.broke or not (stream.ended or stream.error)]


def kill(boxes: Boxes, part: str, row: Row) -> None:
    """One of PARTS, of the box with that row; there is one proxy."""
    match part:
        case "worker":
            for worker in process_of(row).children():
                if "edgellm.runtime.worker" in " ".join(worker.cmdline()):
                    worker.kill()
        case "replica":
            process_of(row).kill()
        case "node":
            boxes.kill(row.node)
        case "proxy":
            process_titled("ray::ProxyActor").kill()
        case _:
            raise ValueError(part)

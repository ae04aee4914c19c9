"""A download that a client of Ollama asked for: in a thread of its own, with progress as lines that can be awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Self

import msgspec
from msgspec import UNSET, UnsetType

from edgellm.app import launch
from edgellm.app.download import PlannedDownload
from edgellm.errors import UsageError
from edgellm.types.options import LaunchOptions

TOLD_EVERY = 1 << 20  # bytes: a source tells each of its blocks
DIGEST = "sha256:"


class OllamaProgress(msgspec.Struct, frozen=True):
    """A line of the answer to `/api/pull`. `digest`: of the file, once it is chosen; `total`: its bytes."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


BEGUN, DONE = OllamaProgress("pulling manifest"), OllamaProgress("success")


class Pull:
    """Of one model. Made in the event loop that awaits its lines. At the end of a `with` nobody waits any more: the
    thread ends at the next thing that it would tell.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._digest = ""
        self._told = -TOLD_EVERY
        self._is_wanted = True
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[OllamaProgress | Exception] = asyncio.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_wanted = False

    def start(self, at_end: Callable[[], object]) -> None:
        """Begin. `at_end` is called in the thread that fetches, before the last line is told."""
        # A daemon: a server that stops does not wait for it.
        threading.Thread(target=self._fetch, args=(at_end,), name="edgellm-pull", daemon=True).start()

    async def lines(self) -> AsyncGenerator[OllamaProgress, None]:
        """What happens, until the model is here.

        Raises:
            UnknownModel, NothingFits, SourceError, ArtifactError: as `edgellm pull`.
        """
        yield BEGUN
        line = BEGUN
        while line is not DONE:
            told = await self._queue.get()
            if isinstance(told, Exception):
                raise told
            line = told
            yield line

    def _fetch(self, at_end: Callable[[], object]) -> None:
        last: OllamaProgress | Exception = DONE
        try:
            launch.plan(self._model, LaunchOptions(), progress=self._report, approve=self._approve)
        except Exception as error:
            last = error
        finally:
            at_end()
        self._tell(last)

    def _approve(self, download: PlannedDownload) -> None:
        self._require_wanted()
        self._digest = f"{DIGEST}{download.file.sha256}" if download.file.sha256 else ""

    def _report(self, done_bytes: int, total_bytes: int | None, what: str) -> None:
        self._require_wanted()
        if not total_bytes:
            self._tell(OllamaProgress(what))
        elif done_bytes >= total_bytes or done_bytes - self._told >= TOLD_EVERY:
            self._told = done_bytes
            short = self._digest.removeprefix(DIGEST)[:12] or what
            self._tell(OllamaProgress(f"pulling {short}", self._digest or UNSET, total_bytes, done_bytes))

    def _require_wanted(self) -> None:
        if not self._is_wanted:
            raise UsageError(f"nobody waits for {self._model[:80]} any more")

    def _tell(self, told: OllamaProgress | Exception) -> None:
        if self._is_wanted:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, told)

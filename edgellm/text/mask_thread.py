"""Computes what a grammar allows next while the engine computes what is likely."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.text.matcher import Matcher


class MaskThread:
    """One thread, started for the first mask. Engines and the library of grammars both let go of Python's lock."""

    def __init__(self) -> None:
        self._matchers: queue.SimpleQueue[Matcher | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, matcher: Matcher) -> None:
        """Compute its next mask; whoever uses the matcher waits for that."""
        if not matcher.begin():
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="edgellm-masks", daemon=True)
            self._thread.start()
        self._matchers.put(matcher)

    def end(self) -> None:
        if self._thread is not None:
            self._matchers.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (matcher := self._matchers.get()) is not None:
            matcher.compute()

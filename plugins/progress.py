"""What a set-up shows while pip works.

Like `install.py`, it runs on a bare Python.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator


class Progress:
    """One moving line on a terminal; elsewhere a line for each tenth, and one where nothing was said for a while."""

    SILENCE_S = 20.0
    STEP = re.compile(r"\s*\[\s*(?:(\d+)/(\d+)|(\d+)%)\]")  # ninja's [12/133], make's [  9%]

    DETAIL = re.compile(r":\s|:$| \(")  # from where on pip names packages, sizes and who asks

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = time.monotonic()
        self.moving = sys.stdout.isatty()
        self.last_tenth = 0
        self.doing = "asking pip"

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """While the block runs, the seconds go on, whether pip says something or not."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(1.0 if self.moving else self.SILENCE_S):
                self._print()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._clear()

    def __call__(self, line: str) -> None:
        """Take one line of pip's output."""
        match = self.STEP.match(line)
        if match:
            percent = int(match[3]) if match[3] else 100 * int(match[1]) // int(match[2])
            self._show(f"compiling {percent} %", percent)
        elif line.startswith(("Collecting", "Downloading", "  Downloading", "Building", "Installing")):
            self._show(self.DETAIL.split(line.strip(), maxsplit=1)[0], 0)

    def _show(self, what: str, percent: int) -> None:
        self.doing = what
        if self.moving or percent // 10 > self.last_tenth:
            self.last_tenth = percent // 10
            self._print()

    def _print(self) -> None:
        text = f"{self.label}: {self.doing}, {time.monotonic() - self.started:.0f} s"
        if self.moving:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", flush=True)
        else:
            print(f"  {text}", flush=True)

    def _clear(self) -> None:
        if self.moving:
            print("\r\x1b[K", end="", flush=True)

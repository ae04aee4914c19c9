"""The parent as a child sees it: what it asks, where answers go, and that it is gone.

`connect` is for one question, `pipes` for a child that reads its own lines. `contract.child` is the other side.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import IO, Any

from edgellm.contract.confine import confine
from edgellm.contract.streams import open_streams

_READ_BYTES = 256 * 1024  # of the question, at once


def pipes() -> tuple[IO[bytes], IO[bytes]]:
    """For a child: what was stdout, and stdin. From now on stdout leads to stderr."""
    open_streams()
    up = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # Unbuffered: a buffered reader is locked by the thread that waits in it, and Python cannot leave then.
    return up, os.fdopen(0, "rb", buffering=0, closefd=False)


def connect(asked_to_end: Callable[[], None] | None = None) -> tuple[bytes, Callable[[Any], None]]:
    """For the child, first of all: the question, and a function that sends a value to the parent as a line of JSON.

    `asked_to_end` is called, in another thread, where the parent does `Child.ask_to_end`. From now on stdout leads to
    stderr, so that native code that prints cannot break a line. The end of stdin means that the parent is gone: the
    child leaves at once, whatever it is doing.
    """
    import msgspec

    confine()
    up, down = pipes()
    question = b""
    while not question.endswith(b"\n"):
        part = down.read(_READ_BYTES)
        if not part:
            os._exit(1)
        question += part
    threading.Thread(target=_leave_with_parent, args=(down, asked_to_end), name="parent", daemon=True).start()

    def tell(value: Any) -> None:
        try:
            up.write(msgspec.json.encode(value) + b"\n")
        except BrokenPipeError:
            os._exit(1)

    return question.strip(), tell


def _leave_with_parent(down: IO[bytes], asked_to_end: Callable[[], None] | None) -> None:
    while down.read(1) and asked_to_end is not None:
        asked_to_end()
    os._exit(1)

"""A call of a plugin cannot be ended from here. A person who waits for it is told whose it is, and can end it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

TOLD_AFTER_S = 10.0
_NOTICED_S = 1.0  # what comes back sooner is not what a person ended
log = logging.getLogger("edgellm.contract.slow")


@contextlib.contextmanager
def told_where_slow(what: str) -> Iterator[None]:
    """`what` is named where the block lasts, and where Ctrl-C ends it."""
    words = "%s has not come back after %.0f s; Ctrl-C ends this command, and EDGELLM_PLUGINS can leave the plugin out"
    timer = threading.Timer(TOLD_AFTER_S, log.warning, (words, what, TOLD_AFTER_S))
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # where no thread can be started, the call is made all the same
        timer.start()
    began = time.monotonic()
    try:
        yield
    except KeyboardInterrupt:
        if time.monotonic() - began >= _NOTICED_S:
            log.warning("ended while this was waited for: %s", what)
        raise
    finally:
        timer.cancel()

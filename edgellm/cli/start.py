"""Where the program starts: an interrupt ends it in one way, also while it is being imported."""

from __future__ import annotations

import os
import sys

# For threads of plugins to end in, once the command has.
PATIENCE_S = 1.0


def main() -> None:
    try:
        from edgellm.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Aborted.\n")
        _leave(130)
    except SystemExit as end:
        _leave(end.code)


def _leave(status: str | int | None) -> None:
    """End the program. Python would wait for threads that plugins have left, for ever where those do not end."""
    from edgellm.contract.left_threads import still_there

    if left := still_there(PATIENCE_S):
        sys.stderr.write(f"Note: ended without waiting for {', '.join(left)}; its author should make it a daemon\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)
    sys.exit(status)

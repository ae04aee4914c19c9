"""Where the program starts: an interrupt ends it in one way, also while it is being imported."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from edgellm.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Aborted.\n")
        sys.exit(130)

"""Loads one backend for GPUs beside libllama and prints what it sees: `python -m edgellm_gguf.device_build.check FILE`.

In a process of its own, as a driver may end it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path


def main() -> None:
    """Print one JSON object, or the reason on standard error."""
    from edgellm_gguf import ggml, inventory
    from edgellm_gguf.loading import LOG

    logging.disable(logging.ERROR)
    LOG.start()
    ggml.start()
    if not ggml.is_of_pinned_commit():
        raise SystemExit(
            "this libllama is of another commit than the backend: `make setup`, or unset LLAMA_CPP_LIB_PATH"
        )
    path = Path(sys.argv[1])
    complaints: list[str] = LOG.complaints
    if not ggml.library.ggml_backend_load(os.fsencode(path)):
        complaints = [inventory.why_not(path)]
        if not inventory.is_backend(path):
            raise SystemExit(complaints[0])
    print(json.dumps({"devices": inventory.devices(), "complaints": complaints[-3:]}))


if __name__ == "__main__":
    main()

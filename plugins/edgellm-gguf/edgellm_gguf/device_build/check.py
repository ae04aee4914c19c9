"""Loads one backend for GPUs beside libllama and prints what it sees: `python -m edgellm_gguf.device_build.check FILE`.

In a process of its own, as a driver may end it.
"""

from __future__ import annotations

import json
import logging
import os
import sys


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
    if not ggml.library.ggml_backend_load(os.fsencode(sys.argv[1])):
        raise SystemExit(LOG.last().removeprefix(": ") or "it is no backend of ggml")
    print(json.dumps({"devices": inventory.devices(), "complaints": LOG.complaints[-3:]}))


if __name__ == "__main__":
    main()

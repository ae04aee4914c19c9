"""Fuzzes the safetensors header reader: `python tests/attacks/fuzz_safetensors.py --seconds 1200`.

As `fuzz_gguf`: guided by paths, fails on anything but a typed error, a slow read or a large peak.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from attacks.fuzz_gguf import path_of, run
from attacks.safetensors.hostile import CORPUS, SOUND

from edgellm.errors import EdgeLLMError
from edgellm.formats.safetensors_header import parse


def outcome(data: bytes) -> str:
    """What reading came to."""
    try:
        header = parse(data, file_bytes=len(data), where="fuzz")
        assert sum(tensor.n_bytes for tensor in header.tensors) + header.data_offset == len(data)
    except EdgeLLMError as error:
        return path_of(error)
    return "accepted"


if __name__ == "__main__":
    made = (content() if callable(content) else content for content, _ in CORPUS.values())
    run(outcome, [SOUND, *(content for content in made if 0 < len(content) < 9000)], "fuzz-crash.safetensors")

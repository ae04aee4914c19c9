"""Fuzzes the safetensors header reader: `make fuzz FUZZ=safetensors ARGS="--seconds 1200"`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from attacks.fuzzing import MAX_INPUT_BYTES, instrumented, run

with instrumented("edgellm.formats"):
    from edgellm.formats.safetensors.header import parse_safetensors

from attacks.safetensors.hostile import CORPUS, SOUND

from edgellm.errors import EdgeLLMError


def read(data: bytes) -> None:
    """Raises AssertionError where tensors and header are not the whole file."""
    with contextlib.suppress(EdgeLLMError):
        header = parse_safetensors(data, file_bytes=len(data), where="fuzz")
        assert sum(tensor.n_bytes for tensor in header.tensors) + header.data_offset == len(data)


if __name__ == "__main__":
    made = [SOUND, *(content() if callable(content) else content for content in CORPUS.values())]
    run("safetensors", read, [data for data in made if 0 < len(data) <= MAX_INPUT_BYTES])

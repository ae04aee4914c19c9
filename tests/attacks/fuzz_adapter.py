"""Fuzzes the reader of GGUF adapters, and its check against a model: `make fuzz FUZZ=adapter ARGS="--seconds 1800"`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from attacks.fuzzing import MAX_INPUT_BYTES, instrumented, run

with instrumented("edgellm.formats"):
    from edgellm.formats.gguf import adapter
    from edgellm.formats.gguf.header import key_bytes, parse_gguf
    from edgellm.formats.gguf.reader import GgufModel

from attacks.gguf.hostile_adapters import EMBEDDING, EXPERTS, LYING, SOUND, STRANGE, base
from attacks.gguf.hostile_adapters import adapter as file_of

from edgellm.errors import EdgeLLMError

_BASE = base(experts=2).build()
_HEADER = parse_gguf(_BASE, file_bytes=len(_BASE), where="base")
MODEL = GgufModel(("base",), _HEADER, (_HEADER,))
_DIMS = {tensor.name: tensor.dims for tensor in MODEL.tensors}


def read(data: bytes) -> None:
    """
    Raises:
        AssertionError: what native code would abort on, or a matrix that the model does not have, was let through.
    """
    with contextlib.suppress(EdgeLLMError):
        said = adapter.of_header(parse_gguf(data, file_bytes=len(data), where="fuzz"), key_bytes(data, where="fuzz"))
        assert all(1 <= pair.rank <= adapter.MOST_RANK and said.scale(pair) == said.scale(pair) for pair in said.pairs)
        assert said.tensor_bytes <= len(data)
        adapter.check(said, MODEL)
        assert all(_DIMS[pair.name] == pair.base_dims for pair in said.pairs)


def seeds() -> list[bytes]:
    sound = [SOUND, file_of(EMBEDDING), file_of(EXPERTS)]
    files = [made.build() for made in [*sound, *LYING.values(), *STRANGE.values()]]
    return [data for data in files if len(data) <= MAX_INPUT_BYTES]


if __name__ == "__main__":
    run("adapter", read, seeds())

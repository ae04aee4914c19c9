"""Fuzzes the GGUF header reader for as long as you like: `make fuzz ARGS="--seconds 1800"`.

An input is a whole file, and the beginning of one that is larger: both is read, and everything that the header's keys
are asked for on the way to native code.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from attacks.fuzzing import MAX_INPUT_BYTES, instrumented, run

with instrumented("edgellm.formats", "edgellm.estimate.file_recipe"):
    from edgellm.estimate import file_recipe
    from edgellm.formats.gguf import reader
    from edgellm.formats.gguf.cursor import LongArray, elements
    from edgellm.formats.gguf.header import key_bytes, parse_gguf

from attacks.gguf.hostile import CORPUS, learned
from support.gguf_writer import ARRAY, BOOL, FLOAT32, STRING, model

from edgellm.errors import EdgeLLMError

REMOTE_BYTES = 2**40  # a file of which `data` is the beginning


def read(data: bytes) -> None:
    """Everything that a header is asked for.

    Raises:
        AssertionError: a tensor outside the file was let through.
    """
    for file_bytes in (len(data), REMOTE_BYTES):
        with contextlib.suppress(EdgeLLMError):
            header = parse_gguf(data, file_bytes=file_bytes, where="fuzz")
            assert all(t.offset >= 0 and t.offset + t.n_bytes <= file_bytes for t in header.tensors)
            assert set(key_bytes(data, where="fuzz")) == set(header.metadata)
            for value in header.metadata.values():
                if isinstance(value, LongArray):
                    assert len(elements(data, value, big_endian=header.big_endian)) == value.length
            reader.quant_name(header)
            reader.chat_template(header)
            reader.context_length(header)
            reader.vocab_size(header)
            reader.shape(header)
            model = reader.GgufModel(("fuzz",), header, (header,))
            for quant in ("Q4_K_M", "IQ2_M", "MXFP4"):
                planned = file_recipe.plan(model, quant)
                assert planned.tensor_bytes <= planned.data_bytes
                assert len({*planned.impossible, *planned.need_imatrix, *planned.requantized}) <= len(header.tensors)


def seeds() -> list[bytes]:
    sound = model(attention__sliding_window=8, rope__dimension_count=16)
    sound.keys += [("a.flag", BOOL, 1), ("a.rate", FLOAT32, 0.5), ("a.list", ARRAY, (STRING, ["x"] * 1030))]
    swapped = model()
    swapped.order = ">"
    known = [content() if callable(content) else content for content in CORPUS.values()]
    known += learned().values()
    known += [sound.build(), swapped.build(), model("gemma3", attention__sliding_window=8).build()]
    return [data for data in known if 0 < len(data) <= MAX_INPUT_BYTES]


if __name__ == "__main__":
    run("gguf", read, seeds())

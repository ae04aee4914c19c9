"""A smaller model of the same kind: the first layers of a GGUF file, with its tables and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from edgellm.formats.gguf.reader import read_key_bytes, read_model
from edgellm.formats.gguf.writer import Encoded, GgufWriter, TensorInfo, Value


def first_layers(path: Path, source: str | Path, count: int) -> Path:
    model = read_model(source)
    (part,) = model.parts
    keys: dict[str, Value] = {name: Encoded(data) for name, data in read_key_bytes(part).items()}
    keys[f"{part.architecture}.block_count"] = count
    kept = [
        tensor
        for tensor in part.tensors
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < count
    ]
    infos = [TensorInfo(tensor.name, tensor.dims, tensor.type) for tensor in kept]
    with open(source, "rb") as file, GgufWriter(path, keys, infos) as writer:
        for tensor in kept:
            file.seek(tensor.offset)
            writer.write(tensor.name, file.read(tensor.n_bytes))
    return path

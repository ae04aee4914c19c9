"""Factors from GGUF adapters, and into them. Equal factors give equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgellm.adaptation.lora import Floats, Lora, LoraFactors, sound
from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf.adapter import ALPHA, ARCHITECTURE, EMBEDDING, ENDS, KINDS, TOKENS
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.header import GgufTensor
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Typed, Value

WRITTEN = ("F32", "F16", "BF16")


def load(path: str | Path) -> Lora:
    """The factors of a GGUF adapter.

    Raises:
        BadArtifact, UnsupportedArtifact: as `formats.gguf.adapter.read`, or a value that is no finite number.
    """
    adapter = gguf_adapter.read(path, hashed=False)
    file = np.memmap(path, np.uint8, "r")
    factors = {}
    for pair in adapter.pairs:
        a, b = _values(file, pair.a), _values(file, pair.b)
        # The embedding's A has a row for each token, so it is our B.
        factors[pair.name] = LoraFactors(b.T, a) if pair.name == EMBEDDING else LoraFactors(a, b)
    kinds = {tensor.type.name for pair in adapter.pairs for tensor in (pair.a, pair.b)}
    stored = kinds.pop() if len(kinds) == 1 else "F32"
    lora = Lora(
        adapter.architecture, adapter.alpha, factors, stored if stored in WRITTEN else "F32", adapter.invocation_tokens
    )
    return sound(lora, str(path))


def write(path: Path, lora: Lora, *, stored: str = "", replace: bool = False) -> None:
    """The adapter as llama.cpp reads it, in tensors of type `stored` (the one that holds it exactly, unless given).

    Raises:
        UnsupportedArtifact: it is no adapter (DoRA), or values are too large for the type.
        UsageError, DiskFull: it cannot be written.
    """
    lora.require_adapter(str(path))
    kind = stored or lora.stored
    if kind not in WRITTEN:
        raise UsageError(f"{kind!r} is not a type for adapters", hint=f"one of {', '.join(WRITTEN)}", param="type")
    metadata: dict[str, Value] = {
        "general.type": KINDS["general.type"],
        ARCHITECTURE: lora.architecture,
        "adapter.type": KINDS["adapter.type"],
        **({ALPHA: float(lora.alpha)} if lora.alpha else {}),
        **({TOKENS: Typed("u32", lora.invocation_tokens)} if lora.invocation_tokens else {}),
    }
    arrays: dict[str, Floats] = {}
    for name, pair in lora.factors.items():
        a, b = (pair.b, pair.a.T) if name == EMBEDDING else (pair.a, pair.b)
        arrays |= {f"{name}{ENDS[0]}": a, f"{name}{ENDS[1]}": b}
    tensors = [TensorInfo(name, values.shape[::-1], BY_NAME[kind]) for name, values in arrays.items()]
    with GgufWriter(path, metadata, tensors, replace=replace) as writer:
        for name, values in arrays.items():
            writer.write(name, bytes_of(values, kind, name))


def _values(file: np.memmap[tuple[int, ...], np.dtype[np.uint8]], tensor: GgufTensor) -> Floats:
    """All of a tensor, slowest dimension first."""
    raw = np.asarray(file[tensor.offset : tensor.offset + tensor.n_bytes])
    values = floats_of(raw, tensor.type.name)
    return values.reshape(tensor.dims[::-1])


def floats_of(raw: np.typing.NDArray[np.uint8], kind: str) -> Floats:
    """float32 of the bytes of a tensor of type F32, F16, BF16 or Q8_0."""
    if kind == "BF16":
        return np.asarray(raw.view("<u2").astype("<u4") << 16).view("<f4").astype(np.float32)
    if kind == "Q8_0":
        blocks = raw.reshape(-1, 34)
        scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
        return np.asarray(blocks[:, 2:].view(np.int8) * scales, np.float32).ravel()
    return raw.view("<f4" if kind == "F32" else "<f2").astype(np.float32)


def bytes_of(values: Floats, kind: str, name: str) -> bytes:
    """The bytes of a tensor of type F32, F16 or BF16, rounded to nearest even.

    Raises:
        UnsupportedArtifact: a value that the type does not reach.
    """
    values = np.ascontiguousarray(values, "<f4")
    if kind == "F32":
        return values.tobytes()
    if kind == "BF16":
        bits = values.view("<u4")
        halves = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        finite = bool(((halves & 0x7F80) != 0x7F80).all())
        data = halves.astype("<u2").tobytes()
    else:
        with np.errstate(over="ignore"):
            small = values.astype("<f2")
        finite, data = bool(np.isfinite(small).all()), small.tobytes()
    if not finite:
        raise UnsupportedArtifact(f"{name} has values that are too large for {kind}", hint="write it as F32")
    return bytes(data)

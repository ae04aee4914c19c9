"""LoRA adapters with random weights for any GGUF model, and the same model with an adapter added to its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from bitnet import ggml

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.reader import GgufTensor, read_header
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Typed, Value
from support.gguf_decoders import Decoder

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
Factors = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]  # by tensor: A (rank, in), B (out, rank)


def random_factors(
    model: str | Path, *, rank: int = 4, seed: int = 0, size: float = 0.05, roles: Sequence[str] = LINEAR
) -> Factors:
    """For each linear of the model."""
    rng = np.random.default_rng(seed)
    adapted = [tensor for tensor in read_header(model).tensors if _role(tensor) in roles]
    return {
        tensor.name: (
            rng.normal(0, size, (rank, tensor.dims[0])).astype(np.float32),
            rng.normal(0, size, (tensor.dims[1], rank)).astype(np.float32),
        )
        for tensor in adapted
    }


def write_lora(
    path: Path,
    model: str | Path,
    factors: Factors,
    *,
    alpha: float | None = None,
    invocation_tokens: Sequence[int] = (),
    kind: str = "F32",
) -> Path:
    """The adapter of these factors, as llama.cpp reads it, in tensors of type `kind`. `alpha`: else the rank."""
    rank = next(iter(factors.values()))[0].shape[0]
    tensors, data = [], []
    for name, pair in factors.items():
        for end, matrix in zip(("a", "b"), pair, strict=True):
            tensors.append(TensorInfo(f"{name}.lora_{end}", matrix.shape[::-1], BY_NAME[kind]))
            data.append(np.ascontiguousarray(matrix).tobytes() if kind == "F32" else ggml.quantize(kind, matrix))
    keys: dict[str, Value] = {
        "general.type": "adapter",
        "general.architecture": read_header(model).metadata["general.architecture"],
        "adapter.type": "lora",
        "adapter.lora.alpha": float(rank if alpha is None else alpha),
    }
    if invocation_tokens:
        keys["adapter.alora.invocation_tokens"] = Typed("u32", invocation_tokens)
    with GgufWriter(path, keys, tensors, replace=True) as writer:
        for tensor, content in zip(tensors, data, strict=True):
            writer.write(tensor.name, content)
    return path


def random_lora(path: Path, model: str | Path, *, alpha: float | None = None, **how: object) -> Path:
    """See `random_factors` and `write_lora`."""
    return write_lora(path, model, random_factors(model, **how), alpha=alpha)  # type: ignore[arg-type]


def tiny_with(folder: Path, *names: str) -> tuple[Path, dict[str, Path]]:
    """A tiny model of F32 that chats, and an adapter for each name, which all change its answers."""
    model = Decoder(keys={"context_length": 256}).write(folder / "tiny.gguf")
    loras = {
        name: random_lora(folder / f"{name}.gguf", model, seed=number, size=0.3) for number, name in enumerate(names)
    }
    return model, loras


def merged(path: Path, model: str | Path, factors: Factors, scale: float) -> Path:
    """The model, of F32, with `scale` times the product of the factors added to its weights."""
    data = bytearray(Path(model).read_bytes())
    for tensor in read_header(model).tensors:
        if tensor.name in factors:
            a, b = factors[tensor.name]
            weights = np.frombuffer(data, np.float32, b.shape[0] * a.shape[1], tensor.offset)
            weights += scale * (b.astype(np.float64) @ a).astype(np.float32).ravel()
    path.write_bytes(data)
    return path


def _role(tensor: GgufTensor) -> str:
    parts = tensor.name.split(".")
    return parts[2] if parts[0] == "blk" and parts[-1] == "weight" and len(tensor.dims) == 2 else ""

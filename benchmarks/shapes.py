"""GGUF files of well-known shapes in any quantization, to measure speed and memory without a download.

    python benchmarks/shapes.py qwen3-0.6b Q4_K_M [MORE...]      prints the paths, makes what is not there

The weights of `SHAPES` are random and repeat every `ROWS` rows: llama.cpp's own quantizer works on a model of so few
rows (which type a tensor gets depends on its name, its layer and its row, never on the number of rows), and its blocks
are laid out again and again. Types and bytes are those of the full model, its answers mean nothing.
The models of `REAL` are requantized whole from the file on this disk: their quality is not what it should be either.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgellm_gguf.random_weights import random_weights

from edgellm import settings
from edgellm.formats.gguf.ggml_types import BY_NAME, FILE_TYPES
from edgellm.formats.gguf.reader import read_key_bytes, read_model
from edgellm.formats.gguf.writer import Encoded, GgufWriter, TensorInfo, Typed, Value

ROWS = 32  # of every matrix that the quantizer sees
BYTE_TOKENS = 256
FTYPES = {name: number for number, name in FILE_TYPES.items()}
# Files that llama.cpp does not write without an importance matrix (llama-quant.cpp, tensor_requires_imatrix): they get
# one of ones. The others get none, as its rules ask whether there is one.
NEED_IMATRIX = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"})


@dataclass(frozen=True, slots=True)
class Model:
    """Dimensions from the model's published config.json."""

    arch: str
    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    ctx: int
    theta: float
    pre: str  # tokenizer.ggml.pre
    qk_norm: bool = False
    rope_freqs: bool = False


SHAPES = {
    "qwen3-0.6b": Model("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, 1e6, "qwen2", qk_norm=True),
    "llama-3.2-1b": Model("llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5, "llama-bpe", rope_freqs=True),
}
REAL = {"smollm2-135m": "smollm2-135m-instruct", "gemma-3-270m": "gemma-3-270m"}
MODELS = (*SHAPES, *REAL)


def shape_path(model: str, quant: str) -> Path:
    """The file, made first where it is not there yet (seconds; F16 of 1B: half a minute of disk).

    Raises:
        KeyError: unknown model or quantization. RuntimeError: the quantizer failed, with what it said.
    """
    if model in REAL:
        source, stored_quant = stored(REAL[model])
        if stored_quant == quant:
            return source
    folder = settings.current().cache_dir / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}-{quant}.gguf"
    with locked(folder / f".{path.name}.lock"):
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as made:
            done = Path(made) / "done.gguf"
            if model in REAL:
                quantize(source, done, quant)
            else:
                thin, packed = Path(made) / "thin.gguf", Path(made) / "packed.gguf"
                _write_thin(SHAPES[model], model, thin)
                quantize(thin, packed, quant)
                _widen(SHAPES[model], packed, done)
            os.replace(done, path)
    return path


def stored(model_id: str) -> tuple[Path, str]:
    """The published file, whatever else was made of the model on this machine."""
    from edgellm.catalog import lookup
    from edgellm.store.library import Library

    published = {file.quant for file in lookup.find(model_id).files if file.source.startswith("pypi:")}
    for stored in Library().installed():
        if stored.model_id == model_id and stored.quant in published:
            return Path(stored.artifact().path), stored.quant
    raise RuntimeError(f"{model_id} is not on this disk: run `edgellm run {model_id}` once")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _matrices(m: Model) -> dict[str, tuple[int, int]]:
    """Name -> (row, rows) of everything that is quantized; the table is the head, as in both originals."""
    q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    found = {"token_embd.weight": (m.width, m.vocab)}
    for i in range(m.layers):
        found |= {
            f"blk.{i}.attn_q.weight": (m.width, q),
            f"blk.{i}.attn_k.weight": (m.width, kv),
            f"blk.{i}.attn_v.weight": (m.width, kv),
            f"blk.{i}.attn_output.weight": (q, m.width),
            f"blk.{i}.ffn_gate.weight": (m.width, m.ffn),
            f"blk.{i}.ffn_up.weight": (m.width, m.ffn),
            f"blk.{i}.ffn_down.weight": (m.ffn, m.width),
        }
    return found


def _vectors(m: Model) -> dict[str, int]:
    found = {"output_norm.weight": m.width} | ({"rope_freqs.weight": m.head_dim // 2} if m.rope_freqs else {})
    for i in range(m.layers):
        found |= {f"blk.{i}.attn_norm.weight": m.width, f"blk.{i}.ffn_norm.weight": m.width}
        if m.qk_norm:
            found |= {f"blk.{i}.attn_q_norm.weight": m.head_dim, f"blk.{i}.attn_k_norm.weight": m.head_dim}
    return found


def _metadata(m: Model, name: str) -> dict[str, Value]:
    tokens = [*_byte_texts(), *(f"t{i}" for i in range(BYTE_TOKENS, m.vocab - 2)), "<|bos|>", "<|eos|>"]
    a = m.arch
    return {
        "general.architecture": a,
        "general.name": f"{name} with random weights",
        "general.file_type": 1,
        "general.quantization_version": 2,
        f"{a}.context_length": m.ctx,
        f"{a}.block_count": m.layers,
        f"{a}.embedding_length": m.width,
        f"{a}.feed_forward_length": m.ffn,
        f"{a}.attention.head_count": m.heads,
        f"{a}.attention.head_count_kv": m.kv_heads,
        f"{a}.attention.key_length": m.head_dim,
        f"{a}.attention.value_length": m.head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{a}.rope.freq_base": m.theta,
        f"{a}.rope.dimension_count": m.head_dim,
        f"{a}.vocab_size": m.vocab,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": m.pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Typed("i32", [*[1] * (m.vocab - 2), 3, 3]),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.bos_token_id": m.vocab - 2,
        "tokenizer.ggml.eos_token_id": m.vocab - 1,
        "tokenizer.ggml.add_bos_token": False,
    }


def _byte_texts() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


def _write_thin(m: Model, name: str, path: Path) -> None:
    f16, f32 = BY_NAME["F16"], BY_NAME["F32"]
    matrices = [TensorInfo(key, (row, min(ROWS, rows)), f16) for key, (row, rows) in _matrices(m).items()]
    vectors = [TensorInfo(key, (width,), f32) for key, width in _vectors(m).items()]
    rng = np.random.default_rng(0)
    with GgufWriter(path, _metadata(m, name), [*matrices, *vectors]) as writer:
        for tensor in matrices:
            drawn = random_weights(math.prod(tensor.dims), rng)
            writer.write(tensor.name, drawn.astype(np.float16).tobytes())
        for tensor in vectors:
            writer.write(tensor.name, np.ones(tensor.dims, np.float32).tobytes())


def _widen(m: Model, packed: Path, path: Path) -> None:
    """Write `packed` with all its rows: its blocks, laid out again and again."""
    model, rows = read_model(packed), {name: count for name, (_, count) in _matrices(m).items()}
    metadata: dict[str, Value] = {key: Encoded(data) for key, data in read_key_bytes(model.header).items()}
    source = np.memmap(packed, np.uint8, "r")
    tensors = [
        TensorInfo(t.name, (t.dims[0], rows[t.name]) if t.name in rows else t.dims, t.type) for t in model.tensors
    ]
    with GgufWriter(path, metadata, tensors) as writer:
        for thin, tensor in zip(model.tensors, tensors, strict=True):
            data = source[thin.offset : thin.offset + thin.n_bytes].tobytes()
            whole, rest = divmod(tensor.n_bytes, len(data))
            writer.write(tensor.name, (*[data] * whole, data[:rest]))


def quantize(source: Path, target: Path, quant: str) -> None:
    """In a process of its own: native code that dies takes nobody along."""
    command = [sys.executable, __file__, "--quantize", str(source), str(target), str(FTYPES[quant])]
    run = subprocess.run([*command, *(["ones"] if quant in NEED_IMATRIX else [])], capture_output=True, check=False)
    if run.returncode:
        tail = run.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise RuntimeError(f"llama.cpp's quantizer ended with {run.returncode}: {' / '.join(tail)}")


def _quantize_here(source: str, target: str, ftype: int, *, ones: bool) -> int:
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = ftype, True, os.cpu_count() or 1
    if ones:
        rows = [(t.name, t.dims[0]) for t in read_model(source).tensors if len(t.dims) > 1]
        longest = (ctypes.c_float * max(row for _, row in rows))(*[1.0] * max(row for _, row in rows))
        matrix = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(rows) + 1))()
        for entry, (name, row) in zip(matrix, rows, strict=False):
            entry.name, entry.size = name.encode(), row
            entry.data = ctypes.cast(longest, ctypes.POINTER(ctypes.c_float))
        params.imatrix = matrix
    return int(llama_cpp.llama_model_quantize(source.encode(), target.encode(), params))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("quants", nargs="+", metavar="QUANT")
    arguments = parser.parse_args()
    for quant in arguments.quants:
        print(shape_path(arguments.model, quant))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--quantize"]:
        source, target, ftype, *ones = sys.argv[2:]
        raise SystemExit(_quantize_here(source, target, int(ftype), ones=bool(ones)))
    main()

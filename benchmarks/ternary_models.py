"""Ternary GGUF files of well-known shapes with random weights, to measure speed, memory and loading without a download.

    python benchmarks/ternary_models.py FOLDER [--shape 2B-4T] [--ternary i2_s] [--head q6_k] [--layers N]

One layer is drawn; the others are that one with its rows rotated, so that a 70B model needs little memory and as much
time as the disk takes. Ternary weights depend on shape and seed only: files of two types hold the same.
The vocabulary is `no_vocab`: token numbers, no text.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from edgellm_bitnet import i2s_layout
from edgellm_bitnet.codecs import i2_s, q2_0, tq1_0, tq2_0
from edgellm_bitnet.ternary import Ternary

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of one model; sizes count elements."""

    architecture: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = False  # the head is the embedding
    theta: float = 500000.0

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def ternary_weights(self) -> int:
        per_layer = 2 * self.hidden * (self.hidden + self.kv_heads * self.head_dim) + 3 * self.hidden * self.ffn
        return self.layers * per_layer


SHAPES = {
    "0.7B": Shape("bitnet", 24, 1536, 4096, 16, 16, 32002, tied=True, theta=10000.0),  # 1bitLLM/bitnet_b1_58-large
    "2B-4T": Shape("bitnet-b1.58", 30, 2560, 6912, 20, 5, 128256, tied=True),  # microsoft/bitnet-b1.58-2B-4T
    "8B": Shape("llama", 32, 4096, 14336, 32, 8, 128256),  # Llama3-8B-1.58
    "30B": Shape("llama", 60, 6656, 17920, 52, 52, 32000, theta=10000.0),  # Llama 1 30B
    "70B": Shape("llama", 80, 8192, 28672, 64, 8, 32000, theta=10000.0),  # Llama 2 70B
}
CODECS: dict[str, Callable[[Ternary], bytes]] = {
    "i2_s": i2_s.encode, "tq2_0": tq2_0.encode, "tq1_0": tq1_0.encode, "q2_0": q2_0.encode,
}  # fmt: skip
FILE_TYPES = {"i2_s": 40, "tq1_0": 36, "tq2_0": 37, "q2_0": 41}  # 40 as bitnet.cpp writes it
HEADS = ("f16", "q6_k", "q8_0")
HEAD_CHUNK = 4096  # rows of the head drawn at once


def metadata(shape: Shape, name: str, ternary: str) -> dict[str, str | int | float]:
    """llama.cpp knows bitnet-b1.58 only as `bitnet` (it computes SiLU there), bitnet.cpp knows I2_S only."""
    arch = "bitnet" if shape.architecture == "bitnet-b1.58" and ternary != "i2_s" else shape.architecture
    order = {i2s_layout.KEY: "x86"} if ternary == "i2_s" else {}  # random weights do not show it
    return order | {
        "general.architecture": arch,
        "general.name": f"{name} with random weights",
        "general.file_type": FILE_TYPES[ternary],
        "general.quantization_version": 2,
        # Random weights show no order of their own.
        "edgellm.i2_s_layout": "x86",
        f"{arch}.vocab_size": shape.vocab,
        f"{arch}.context_length": 4096,
        f"{arch}.embedding_length": shape.hidden,
        f"{arch}.block_count": shape.layers,
        f"{arch}.feed_forward_length": shape.ffn,
        f"{arch}.rope.dimension_count": shape.head_dim,
        f"{arch}.rope.freq_base": shape.theta,
        f"{arch}.attention.head_count": shape.heads,
        f"{arch}.attention.head_count_kv": shape.kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "no_vocab",
    }


def matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """(rows, cols) of the ternary matrices of a layer."""
    hidden, ffn, kv = shape.hidden, shape.ffn, shape.kv_heads * shape.head_dim
    return {
        "attn_q": (hidden, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden), "attn_output": (hidden, hidden),
        "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn),
    }  # fmt: skip


def norms(shape: Shape) -> dict[str, int]:
    found = {"attn_norm": shape.hidden, "ffn_norm": shape.hidden}
    if shape.architecture != "llama":
        found |= {"attn_sub_norm": shape.hidden, "ffn_sub_norm": shape.ffn}
    return found


def random_ternary(rng: np.random.Generator, rows: int, cols: int) -> Ternary:
    """As many -1, 0 and +1; products are as large as what is multiplied, and float16 holds the scale exactly."""
    codes = rng.integers(0, 3, (rows, cols), dtype=np.uint8)
    return Ternary(codes, np.asarray(np.float16((cols * 2 / 3) ** -0.5), np.float32))


def random_head(rng: np.random.Generator, rows: int, cols: int, kind: str) -> Bytes:
    """Valid blocks of random bits, standard deviation about 0.02. uint8 (rows, bytes of a row)."""
    if kind == "f16":
        return (rng.standard_normal((rows, cols), np.float32) * np.float32(0.02)).astype(np.float16).view(np.uint8)
    layout = BY_NAME[kind.upper()]
    blocks = rng.integers(0, 256, (rows * cols // layout.block_elems, layout.block_bytes), dtype=np.uint8)
    if kind == "q6_k":  # 128 bytes of low bits, 64 of high bits, 16 int8 scales, float16
        blocks[:, 192:208] = rng.integers(8, 25, (len(blocks), 16), dtype=np.uint8)
        blocks[:, 208:] = rng.uniform(6.2e-5, 8e-5, (len(blocks), 1)).astype("<f2").view(np.uint8)
    else:  # float16, 32 int8
        blocks[:, :2] = rng.uniform(2e-4, 3.4e-4, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


def head_chunks(rng: np.random.Generator, shape: Shape, kind: str) -> Iterator[memoryview]:
    for start in range(0, shape.vocab, HEAD_CHUNK):
        yield random_head(rng, min(HEAD_CHUNK, shape.vocab - start), shape.hidden, kind).data


def rotated(data: memoryview, rows: int, tail: int, by: int) -> tuple[memoryview, ...]:
    """A matrix with its first `by` rows moved behind the others; `tail` bytes after the rows stay where they are."""
    end = len(data) - tail
    at = end // rows * by
    return data[at:end], data[:at], data[end:]


def tensor_list(shape: Shape, ternary: str, head: str) -> list[TensorInfo]:
    head_type, matrix_type, f32 = BY_NAME[head.upper()], BY_NAME[ternary.upper()], BY_NAME["F32"]
    found = [TensorInfo("token_embd.weight", (shape.hidden, shape.vocab), head_type)]
    for i in range(shape.layers):
        found += [TensorInfo(f"blk.{i}.{name}.weight", (size,), f32) for name, size in norms(shape).items()]
        for name, (rows, cols) in matrices(shape).items():
            found.append(TensorInfo(f"blk.{i}.{name}.weight", (cols, rows), matrix_type))
    found.append(TensorInfo("output_norm.weight", (shape.hidden,), f32))
    if not shape.tied:
        found.append(TensorInfo("output.weight", (shape.hidden, shape.vocab), head_type))
    return found


def write(
    path: str | Path, name: str, *, ternary: str = "i2_s", head: str = "q6_k", layers: int = 0, seed: int = 1
) -> int:
    """A model of shape `name` at `path`, with all its layers where `layers` is 0. Returns the bytes of the file.

    It holds the packed head and one packed layer in memory, and a matrix at a byte a weight (70B: 0.64 GB in all).

    Raises:
        DiskFull: before the first byte. UsageError: the file exists or cannot be written.
    """
    shape = SHAPES[name]
    if layers:
        shape = replace(shape, layers=layers)
    weights, head_bits = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    tail = BY_NAME[ternary.upper()].tail_bytes
    tensors = tensor_list(shape, ternary, head)
    with GgufWriter(path, metadata(shape, name, ternary), tensors) as file:
        layer = {
            matrix: memoryview(CODECS[ternary](random_ternary(weights, rows, cols)))
            for matrix, (rows, cols) in matrices(shape).items()
        }
        for tensor in tensors:
            number, _, matrix = tensor.name.removeprefix("blk.").removesuffix(".weight").partition(".")
            if matrix in layer:
                rows = tensor.dims[1]
                file.write(tensor.name, rotated(layer[matrix], rows, tail, int(number) * rows // shape.layers))
            elif len(tensor.dims) == 1:
                norm = 1 + np.float32(0.1) * weights.standard_normal(tensor.dims[0], np.float32)
                file.write(tensor.name, norm.data.cast("B"))
            else:
                file.write(tensor.name, head_chunks(head_bits, shape, head))
    return file.size_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the file goes, named after what it is")
    parser.add_argument("--shape", choices=SHAPES, default="2B-4T", help="(default: %(default)s)")
    parser.add_argument("--ternary", choices=CODECS, default="i2_s", help="(default: %(default)s)")
    parser.add_argument("--head", choices=HEADS, default="q6_k", help="and embedding (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than the shape has")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args()
    parts = [options.shape, f"{options.layers}-layers" if options.layers else "", options.ternary, options.head]
    path = options.folder / ("-".join(filter(None, parts)).lower() + ".gguf")
    n_bytes = write(
        path,
        options.shape,
        ternary=options.ternary,
        head=options.head,
        layers=options.layers,
        seed=options.seed,
    )
    print(f"{path}  {n_bytes} bytes")


if __name__ == "__main__":
    main()

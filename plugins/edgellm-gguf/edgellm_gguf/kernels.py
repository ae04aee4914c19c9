"""Single operations of ggml on the CPU, with weights where a loaded model would have them. In a worker only.

Which buffer a type's weights go to (interleaved for the processor's kernels, AMX tiles, or as they are in the file) is
asked of the library, as llama.cpp asks when it loads (`select_weight_buft`, src/llama-model.cpp).
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm_gguf.ggml import CPU, F16, F32, InitParams, extra_buffer_types, library, new_threadpool
from edgellm_gguf.random_weights import random_weights

Bytes = npt.NDArray[np.uint8]

GRAPH_BYTES = 1 << 20  # of tensor descriptions, without data
SAMPLE_ROWS, SAMPLE_ROW = 64, 2048  # quantized once and laid out again and again
# Types with a scale in half precision for every 32 weights get real ones. Scales are looked up in a table of 65,536:
# with random ones Q8_0 was multiplied at 13e9 weights per second, with 700 of normally distributed weights at 22, with
# those of SmolLM2 and Gemma 3 at 17 to 18 (docs/adr/026). MXFP4 has no scale on an even place.
SAMPLED = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"})
# Of others: upper bytes of the 16-bit words that stand for weights, so that a scale is small and finite wherever a type
# has it.
_UPPER, _LOOSE = 0x20, 0x07


class Cpu:
    """ggml's CPU backend with threads of its own, as the engine has them."""

    def __init__(self) -> None:
        self._device = library.ggml_backend_dev_by_type(CPU)
        self._backend = library.ggml_backend_dev_init(self._device, None)
        self._extra = extra_buffer_types(self._device)
        self._pool: int | None = None

    def use(self, threads: int) -> None:
        """Compute with so many threads from now on."""
        self._free_pool()
        library.ggml_backend_cpu_set_n_threads(self._backend, threads)
        if threads > 1:
            self._pool = new_threadpool(threads)
            library.ggml_backend_cpu_set_threadpool(self._backend, self._pool)

    def buffer_type(self, type_id: int, row: int) -> int | None:
        """Where the library wants matrices of this type; None = as they are in the file."""
        for buffer in self._extra:
            weights, op = Tensors(), Tensors()
            matrix = library.ggml_new_tensor_2d(weights.ctx, type_id, row, 64)
            weights.allocate(buffer)
            inputs = library.ggml_new_tensor_2d(op.ctx, F32, row, 1)
            product = library.ggml_mul_mat(op.ctx, matrix, inputs)
            supported = library.ggml_backend_dev_supports_op(self._device, product)
            op.free()
            weights.free()
            if supported:
                return buffer
        return None

    def seconds(self, graph: int) -> float:
        """One computation of the graph. With one thread, of processor time: what others take is left out.

        Raises:
            RuntimeError: the library refused it.
        """
        clock = time.perf_counter if self._pool is not None else time.thread_time
        start = clock()
        status = library.ggml_backend_graph_compute(self._backend, graph)
        elapsed = clock() - start
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute returned {status}")
        return elapsed

    def close(self) -> None:
        self._free_pool()
        library.ggml_backend_free(self._backend)

    def _free_pool(self) -> None:
        if self._pool is not None:
            library.ggml_backend_cpu_set_threadpool(self._backend, None)
            library.ggml_threadpool_free(self._pool)
            self._pool = None


class Tensors:
    """A ggml context whose tensors lie in one buffer."""

    def __init__(self) -> None:
        self.ctx = library.ggml_init(InitParams(GRAPH_BYTES, None, True))
        self._buffer: int | None = None

    def allocate(self, buffer_type: int | None = None) -> None:
        self._buffer = library.ggml_backend_alloc_ctx_tensors_from_buft(
            self.ctx, buffer_type or library.ggml_backend_cpu_buffer_type()
        )
        if self._buffer is None:
            raise MemoryError("ggml could not allocate a buffer")

    def place(self, tensor: int, memory: Bytes) -> None:
        """Let the tensor lie in memory that is there already."""
        self._buffer = library.ggml_backend_cpu_buffer_from_ptr(memory.ctypes.data, memory.nbytes)
        library.ggml_backend_tensor_alloc(self._buffer, tensor, memory.ctypes.data)

    def graph(self, result: int) -> int:
        forward: int = library.ggml_new_graph(self.ctx)
        library.ggml_build_forward_expand(forward, result)
        return forward

    def free(self) -> None:
        if self._buffer is not None:
            library.ggml_backend_buffer_free(self._buffer)
        library.ggml_free(self.ctx)


class Pages:
    """Weights of any type, in small pages as a mapped model file is."""

    def __init__(self, n_bytes: int) -> None:
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        self._map = mmap.mmap(-1, n_bytes, **private)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.bytes: Bytes = np.frombuffer(self._map, np.uint8)
        self._block: Bytes = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
        self._block[1::2] = _UPPER | (self._block[1::2] & _LOOSE)
        self._held: str | None = None

    def hold(self, name: str) -> Bytes:
        """The whole memory, filled with weights of this type."""
        sampled = name if name in SAMPLED else ""
        if sampled != self._held:
            rows = sample(name, SAMPLE_ROW) if sampled else self._block
            block = np.tile(rows, max(1, len(self._block) // len(rows)))
            for start in range(0, len(self.bytes), len(block)):
                part = self.bytes[start : start + len(block)]
                part[:] = block[: len(part)]
            self._held = sampled
        return self.bytes


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix times some columns, ready to run."""

    weights: Tensors
    inputs: Tensors
    graph: int
    work: int  # weights times columns

    def free(self) -> None:
        self.inputs.free()
        self.weights.free()


def sample(name: str, row: int) -> Bytes:
    """SAMPLE_ROWS quantized rows of random weights; `row` is a multiple of 32.

    Not for types with big tables: they take seconds to make.
    """
    kind = BY_NAME[name]
    numbers = random_weights(SAMPLE_ROWS * row, np.random.default_rng(0))
    packed = np.zeros(kind.size_bytes(SAMPLE_ROWS * row), np.uint8)
    library.ggml_quantize_chunk(kind.id, numbers.ctypes.data, packed.ctypes.data, 0, SAMPLE_ROWS, row, None)
    return packed


def product(cpu: Cpu, name: str, size: tuple[int, int], columns: int, pages: Pages) -> Product:
    """A product with a matrix of `size` (weights in a row, rows), laid out as a loaded model's would be."""
    row, rows = size
    kind = BY_NAME[name]
    n_bytes = kind.size_bytes(row) * rows
    weights = Tensors()
    matrix = library.ggml_new_tensor_2d(weights.ctx, kind.id, row, rows)
    buffer_type = cpu.buffer_type(kind.id, row)
    memory = pages.hold(name)[:n_bytes]
    if buffer_type is None:
        weights.place(matrix, memory)
    else:
        weights.allocate(buffer_type)
        library.ggml_backend_tensor_set(matrix, memory.ctypes.data, 0, n_bytes)
    inputs, graph = multiply(matrix, row, columns)
    return Product(weights, inputs, graph, row * rows * columns)


def multiply(matrix: int, row: int, columns: int) -> tuple[Tensors, int]:
    """A graph of `matrix` times `columns` columns of random numbers."""
    tensors = Tensors()
    inputs = library.ggml_new_tensor_2d(tensors.ctx, F32, row, columns)
    graph = tensors.graph(library.ggml_mul_mat(tensors.ctx, matrix, inputs))
    tensors.allocate()
    numbers = np.random.default_rng(1).standard_normal((columns, row), np.float32)
    library.ggml_backend_tensor_set(inputs, numbers.ctypes.data, 0, numbers.nbytes)
    return tensors, graph


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention of one layer: sizes as in `edgellm.types.model.Shape`."""

    n_head: int
    n_head_kv: int
    head_dim: int


def attention(heads: Heads, kv_type: str, tokens: int, cached: int, layers: int = 1) -> tuple[Tensors, int]:
    """A graph of `tokens` tokens attending to `cached` ones in each layer, causally where there are as many of both.

    Keys and values lie as in llama.cpp's cache: all heads of a token, then those of the next.
    """
    kind, tensors = BY_NAME[kv_type.upper()], Tensors()
    ctx, dim = tensors.ctx, heads.head_dim
    query = library.ggml_new_tensor_4d(ctx, F32, dim, tokens, heads.n_head, 1)
    mask = library.ggml_new_tensor_4d(ctx, F16, cached, tokens, 1, 1)
    graph = library.ggml_new_graph(ctx)
    caches = [library.ggml_new_tensor_4d(ctx, kind.id, dim, heads.n_head_kv, cached, 1) for _ in range(2 * layers)]
    for keys, values in zip(caches[::2], caches[1::2], strict=True):
        by_head = [library.ggml_permute(ctx, cache, 0, 2, 1, 3) for cache in (keys, values)]
        result = library.ggml_flash_attn_ext(ctx, query, *by_head, mask, dim**-0.5, 0.0, 0.0)
        library.ggml_build_forward_expand(graph, result)
    tensors.allocate()
    hidden = np.triu(np.full((tokens, cached), -np.inf, np.float16), 1) if tokens == cached else 0
    _fill(mask, np.broadcast_to(hidden, (tokens, cached)).astype(np.float16).view(np.uint8))
    data = sample(kv_type.upper(), dim)
    whole = np.resize(data.reshape(-1), library.ggml_nbytes(caches[0]))
    for cache in caches:
        library.ggml_backend_tensor_set(cache, whole.ctypes.data, 0, whole.nbytes)
    _fill(query, np.random.default_rng(2).standard_normal((tokens, heads.n_head, dim), np.float32).view(np.uint8))
    return tensors, graph


def _fill(tensor: int, data: npt.NDArray[Any]) -> None:
    n_bytes = library.ggml_nbytes(tensor)
    whole = np.resize(data.reshape(-1), n_bytes)
    library.ggml_backend_tensor_set(tensor, whole.ctypes.data, 0, n_bytes)

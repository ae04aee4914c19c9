"""What a build of llama.cpp has: kernels that compute, backends, devices, architectures, types. In a probe only."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from pathlib import Path

from edgellm_gguf import device_backends, ggml
from edgellm_gguf.ggml import (
    ARCH_NAME,
    BUFFER_OFFSET,
    CPU,
    F32,
    IGPU,
    GgufParams,
    InitParams,
    extra_buffer_types,
    library,
)
from edgellm_gguf.kernels import Cpu, Tensors
from edgellm_gguf.library import DEVICE_VARIABLES, VULKAN_VARIABLES

# ggml type ids (ggml.h): F16, Q4_0, Q8_0, Q4_K, Q6_K, IQ4_NL: floats, legacy, K-quants, codebook.
TYPES = (1, 2, 8, 12, 14, 20)
ROWS, COLS = 64, 512
MOST_ARCHS, MOST_TYPES = 1024, 256  # numbers that are tried
_NAME = re.compile(r"(?:lib)?ggml-(.+?)\.(?:so|dylib|dll)(?:\..*)?")


def compute() -> None:
    """Matrix products of ones for one type of each kernel family, at one and at four columns, so that vector and matrix
    code both run. The process may die of it.

    Raises:
        SystemExit: a sum is wrong.
    """
    cpu = Cpu()
    cpu.use(1)
    for ggml_type in TYPES:
        for columns in (1, 4):
            value = _product(cpu, ggml_type, columns)
            if abs(value - COLS) > 0.02 * COLS:
                raise SystemExit(f"kernel of ggml type {ggml_type} gave {value} for a sum of {COLS} ones")
    cpu.close()


def _product(cpu: Cpu, ggml_type: int, columns: int) -> float:
    """First element of a (ROWS, COLS) x (COLS, columns) product of ones, weights in `ggml_type`."""
    tensors = Tensors()
    weights = library.ggml_new_tensor_2d(tensors.ctx, ggml_type, COLS, ROWS)
    inputs = library.ggml_new_tensor_2d(tensors.ctx, F32, COLS, columns)
    result = library.ggml_mul_mat(tensors.ctx, weights, inputs)
    graph = tensors.graph(result)
    tensors.allocate()
    ones = (ctypes.c_float * (ROWS * COLS))(*([1.0] * (ROWS * COLS)))
    library.ggml_quantize_chunk(ggml_type, ones, library.ggml_get_data(weights), 0, ROWS, COLS, None)
    ctypes.memmove(library.ggml_get_data(inputs), ones, COLS * columns * 4)
    cpu.seconds(graph)
    value = ctypes.cast(library.ggml_get_data(result), ctypes.POINTER(ctypes.c_float))[0]
    tensors.free()
    return float(value)


def scores(files: list[Path]) -> dict[str, int]:
    """Processor's code in a library of its own -> ggml's score of it here, 0 where it cannot run. Each is opened."""
    names = {path: _kind(path).removeprefix("cpu-") for path in files if _kind(path).startswith("cpu-")}
    return {name: _score(path) for path, name in names.items()}


def _kind(path: Path) -> str:
    """What ggml calls a library of its own: "cpu-haswell" of libggml-cpu-haswell.so; "" = it is none of ggml's."""
    match = _NAME.fullmatch(path.name)
    return match[1] if match else ""


def _score(path: Path) -> int:
    try:
        return int(ctypes.CDLL(str(path)).ggml_backend_score())
    except (OSError, AttributeError):
        return 0


def unloaded(files: list[Path], backends: list[str]) -> dict[str, str]:
    """Backends in these files that ggml did not load -> what the system says of the file."""
    loaded, failed = {name.lower() for name in backends}, {}
    for path in files:
        kind = _kind(path)
        if not kind or kind == "base" or kind.startswith("cpu") or device_backends.registered(kind) in loaded:
            continue
        failed[kind] = why_not(path)
    return failed


def why_not(path: Path) -> str:
    """Why ggml did not take a backend: what the system says of the file, or that it starts without a driver."""
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    if not hasattr(handle, "ggml_backend_init"):
        return "it is no backend of ggml"
    if "vulkan" in path.name:
        return f"no Vulkan driver answers, or not with the devices that were chosen{_set(VULKAN_VARIABLES)}"
    return f"its driver does not start{_set(DEVICE_VARIABLES)}"


def is_backend(path: Path) -> bool:
    """Whether the system loads a library, and it is one of ggml's backends, with a driver or without."""
    try:
        return hasattr(ctypes.CDLL(str(path)), "ggml_backend_init")
    except OSError:
        return False


def _set(names: tuple[str, ...]) -> str:
    values = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return f" ({', '.join(values)})" if values else ""


def devices() -> list[dict[str, object]]:
    """What the library can put layers on. What is free now says nothing tomorrow, so it is not kept."""
    rows: list[dict[str, object]] = []
    for device in ggml.devices():
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        description = library.ggml_backend_dev_description(device).decode(errors="replace")
        rows.append({
            "name": ggml.name_of(device),
            "description": description,
            "total_bytes": total.value,
            "unified": library.ggml_backend_dev_type(device) == IGPU or is_software(description),
            "slot": ggml.slot_of(device),
        })  # fmt: skip
    return rows


def is_software(description: str) -> bool:
    """Whether the processor plays the device, in the machine's memory. ggml takes one that is named for a GPU."""
    return any(name in description.lower() for name in ("llvmpipe", "swiftshader"))


def architectures() -> list[str] | None:
    """Every `general.architecture` that it has code for; None where it does not tell.

    The list is no part of the C API: `llm_arch_name` (src/llama-arch.h) is exported by libraries that export all.
    """
    if not hasattr(library, ARCH_NAME):
        return None
    names = {getattr(library, ARCH_NAME)(number).decode() for number in range(MOST_ARCHS)}
    # It names image encoders too, which it refuses to load as a model.
    return sorted(arch for arch in names if arch not in ("unknown", "(unknown)", "clip"))


def tensor_types() -> dict[str, int]:
    """Name as in GGUF tools ("Q4_K") -> number of every type that it opens in a file."""
    types = {}
    for number in range(MOST_TYPES):
        header = _one_tensor(number)
        opened = library.gguf_init_from_buffer(header, len(header), GgufParams(True, None))
        if opened:
            types[library.ggml_type_name(number).decode().upper()] = number
            library.gguf_free(opened)
    return types


def _one_tensor(ggml_type: int) -> bytes:
    """A GGUF file of one row of that type, without its data."""
    counts = struct.pack("<IQQ", 3, 1, 0)
    tensor = struct.pack("<Q1sIQIQ", 1, b"t", 1, COLS, ggml_type, 0)
    return (b"GGUF" + counts + tensor).ljust(96, b"\0") + bytes(COLS * 8)


def repacked(types: dict[str, int]) -> dict[str, float]:
    """Types whose matrices are copied into another layout while loading -> bytes of the copy for a byte of the file.

    Asked as llama.cpp asks before it puts a tensor there (`weight_buft_supported` in src/llama-model.cpp).
    """
    device = library.ggml_backend_dev_by_type(CPU)
    extra = extra_buffer_types(device)
    copies: dict[str, float] = {}
    ctx = library.ggml_init(InitParams(1024**2, None, True))
    for name, number in types.items():
        weights = library.ggml_new_tensor_2d(ctx, number, COLS, ROWS)
        product = library.ggml_mul_mat(ctx, weights, library.ggml_new_tensor_2d(ctx, F32, COLS, 1))
        place = ctypes.c_void_p.from_address(weights + BUFFER_OFFSET)
        for kind in extra:
            place.value = buffer = library.ggml_backend_buft_alloc_buffer(kind, 0)
            if library.ggml_backend_dev_supports_op(device, product):
                # The first that takes it is the one that gets it.
                copy_bytes = library.ggml_backend_buft_get_alloc_size(kind, weights)
                copies.setdefault(name, copy_bytes / library.ggml_nbytes(weights))
            place.value = None
            library.ggml_backend_buffer_free(buffer)
    library.ggml_free(ctx)
    return copies

"""Runs llama.cpp's real CPU kernels once, in a process that may die of it: `python -m edgellm_gguf.probe`.

Computes a matrix product for one type of each kernel family, at one and at four columns, so that vector and
matrix code paths both run, then asks which devices layers can go to, which architectures and tensor types it knows,
and which types it repacks. Prints one JSON object; any signal is the answer that the parent is looking for.
"""

from __future__ import annotations

import ctypes
import json
import struct

import llama_cpp

from edgellm_gguf.ggml import CPU, F32, GPU, IGPU, GgufParams, InitParams, extra_buffer_types, library

# ggml type ids (ggml.h): F16, Q4_0, Q8_0, Q4_K, Q6_K, IQ4_NL: floats, legacy, K-quants, codebook.
TYPES = (1, 2, 8, 12, 14, 20)
ROWS, COLS = 64, 512
MOST_ARCHS, MOST_TYPES = 1024, 256  # numbers that are tried
BUFFER_OFFSET = 8  # of `buffer` in struct ggml_tensor (ggml.h)


def _product(ggml_type: int, columns: int) -> float:
    """First element of a (ROWS, COLS) x (COLS, columns) product of ones, weights in `ggml_type`."""
    ctx = library.ggml_init(InitParams(16 * 1024**2, None, False))
    ones = (ctypes.c_float * (ROWS * COLS))(*([1.0] * (ROWS * COLS)))
    weights = library.ggml_new_tensor_2d(ctx, ggml_type, COLS, ROWS)
    library.ggml_quantize_chunk(ggml_type, ones, library.ggml_get_data(weights), 0, ROWS, COLS, None)
    inputs = library.ggml_new_tensor_2d(ctx, F32, COLS, columns)
    ctypes.memmove(library.ggml_get_data(inputs), ones, COLS * columns * 4)
    result = library.ggml_mul_mat(ctx, weights, inputs)
    graph = library.ggml_new_graph(ctx)
    library.ggml_build_forward_expand(graph, result)
    status = library.ggml_graph_compute_with_ctx(ctx, graph, 1)
    if status != 0:
        raise SystemExit(f"ggml_graph_compute_with_ctx returned {status}")
    value = ctypes.cast(library.ggml_get_data(result), ctypes.POINTER(ctypes.c_float))[0]
    library.ggml_free(ctx)
    return float(value)


def _devices() -> list[dict[str, object]]:
    """What the library can put layers on, in its own order: GPUs, and integrated ones only where there are no others.

    As `llama_prepare_model_devices` chooses (src/llama.cpp); a GPU that two backends see counts once there.
    """
    devices: dict[int, list[dict[str, object]]] = {GPU: [], IGPU: []}
    for i in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(i)
        kind = library.ggml_backend_dev_type(device)
        if kind not in devices:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        # What is free now says nothing tomorrow, so it is not kept.
        devices[kind].append({
            "name": library.ggml_backend_dev_name(device).decode(errors="replace"),
            "description": library.ggml_backend_dev_description(device).decode(errors="replace"),
            "total_bytes": total.value,
            "unified": kind == IGPU,
        })  # fmt: skip
    return devices[GPU] or devices[IGPU]


def _backends() -> list[str]:
    """Names of what the library was built with: "Vulkan", "CPU"."""
    backends = map(library.ggml_backend_reg_get, range(library.ggml_backend_reg_count()))
    return [library.ggml_backend_reg_name(backend).decode(errors="replace") for backend in backends]


def _architectures() -> list[str] | None:
    """Every `general.architecture` that it has code for; None where it does not tell.

    The list is no part of the C API: `llm_arch_name` (src/llama-arch.h) is exported by libraries that export all.
    """
    if not hasattr(library, "_Z13llm_arch_name8llm_arch"):
        return None
    names = {library._Z13llm_arch_name8llm_arch(number).decode() for number in range(MOST_ARCHS)}
    # It names image encoders too, which it refuses to load as a model.
    return sorted(arch for arch in names if arch not in ("unknown", "(unknown)", "clip"))


def _tensor_types() -> dict[str, int]:
    """Name as in GGUF tools ("Q4_K") -> number of every type that it opens in a file."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    types = {}
    for number in range(MOST_TYPES):
        header = _one_tensor(number)
        opened = library.gguf_init_from_buffer(header, len(header), GgufParams(True, None))
        if opened:
            types[library.ggml_type_name(number).decode().upper()] = number
            library.gguf_free(opened)
    llama_cpp.llama_log_set(ctypes.cast(0, llama_cpp.llama_log_callback), ctypes.c_void_p(0))
    return types


def _one_tensor(ggml_type: int) -> bytes:
    """A GGUF file of one row of that type, without its data."""
    counts = struct.pack("<IQQ", 3, 1, 0)
    tensor = struct.pack("<Q1sIQIQ", 1, b"t", 1, COLS, ggml_type, 0)
    return (b"GGUF" + counts + tensor).ljust(96, b"\0") + bytes(COLS * 8)


def _repacked(types: dict[str, int]) -> dict[str, float]:
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


def main() -> None:
    """Compute, check the sums, print what the library says of its build and of the devices it sees."""
    llama_cpp.llama_backend_init()
    for ggml_type in TYPES:
        for columns in (1, 4):
            value = _product(ggml_type, columns)
            if abs(value - COLS) > 0.02 * COLS:
                raise SystemExit(f"kernel of ggml type {ggml_type} gave {value} for a sum of {COLS} ones")
    types = _tensor_types()
    facts = {
        "system_info": llama_cpp.llama_print_system_info().decode(errors="replace"),
        "offload": bool(llama_cpp.llama_supports_gpu_offload()),
        "backends": _backends(),
        "devices": _devices(),
        "architectures": _architectures(),
        "tensor_types": list(types),
        "repacked": _repacked(types),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

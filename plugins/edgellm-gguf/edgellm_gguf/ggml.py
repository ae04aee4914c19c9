"""ggml's functions and structures that the binding has no names for. In a worker or a probe only.

Signatures are those of ggml.h, gguf.h, ggml-backend.h, ggml-cpu.h and llama.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import llama_cpp.llama_cpp as binding

from edgellm_gguf import device_backends
from edgellm_gguf.library import binding_release, is_of_wheel, library_dir
from edgellm_gguf.pinned import pinned

CPU, GPU, IGPU = 0, 1, 2  # enum ggml_backend_dev_type
F32, F16 = 0, 1  # enum ggml_type
BUFFER_OFFSET = 8  # of `buffer` in struct ggml_tensor
MAX_THREADS = 512  # GGML_MAX_N_THREADS


class InitParams(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class GgufParams(ctypes.Structure):
    """struct gguf_init_params"""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class ThreadPoolParams(ctypes.Structure):
    """struct ggml_threadpool_params"""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class DeviceProps(ctypes.Structure):
    """struct ggml_backend_dev_props"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),  # its address on the bus
        ("caps", ctypes.c_bool * 5),
    )


class _Symbol(ctypes.Structure):
    """Dl_info of dlfcn.h"""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


_process: Any = None if os.name == "nt" else ctypes.CDLL(None)
_BESIDE = ("ggml.dll", "ggml-base.dll")  # that llama.dll loads
ARCH_NAME = "_Z13llm_arch_name8llm_arch"  # of src/llama-arch.h, in libraries that export everything
_PTR, _INT, _I64, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
_BOOL, _FLOAT, _TEXT = ctypes.c_bool, ctypes.c_float, ctypes.c_char_p
# Name -> (result, arguments).
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (_PTR, [InitParams]),
    "ggml_free": (None, [_PTR]),
    "ggml_new_tensor_2d": (_PTR, [_PTR, _INT, _I64, _I64]),
    "ggml_new_tensor_4d": (_PTR, [_PTR, _INT, _I64, _I64, _I64, _I64]),
    "ggml_get_data": (_PTR, [_PTR]),
    "ggml_nbytes": (_SIZE, [_PTR]),
    "ggml_type_name": (_TEXT, [_INT]),
    "ggml_mul_mat": (_PTR, [_PTR] * 3),
    "ggml_permute": (_PTR, [_PTR] * 2 + [_INT] * 4),
    "ggml_flash_attn_ext": (_PTR, [_PTR] * 5 + [_FLOAT] * 3),
    "ggml_new_graph": (_PTR, [_PTR]),
    "ggml_build_forward_expand": (None, [_PTR, _PTR]),
    "ggml_quantize_chunk": (_SIZE, [_INT, _PTR, _PTR, _I64, _I64, _I64, _PTR]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_PTR, [_PTR, _PTR]),
    "ggml_backend_buffer_free": (None, [_PTR]),
    "ggml_backend_buft_alloc_buffer": (_PTR, [_PTR, _SIZE]),
    "ggml_backend_buft_get_alloc_size": (_SIZE, [_PTR, _PTR]),
    "ggml_backend_cpu_buffer_from_ptr": (_PTR, [_PTR, _SIZE]),
    "ggml_backend_cpu_buffer_type": (_PTR, []),
    "ggml_backend_cpu_set_n_threads": (None, [_PTR, _INT]),
    "ggml_backend_cpu_set_threadpool": (None, [_PTR, _PTR]),
    "ggml_backend_dev_backend_reg": (_PTR, [_PTR]),
    "ggml_backend_dev_by_type": (_PTR, [_INT]),
    "ggml_backend_dev_count": (_SIZE, []),
    "ggml_backend_dev_description": (_TEXT, [_PTR]),
    "ggml_backend_dev_get": (_PTR, [_SIZE]),
    "ggml_backend_dev_get_props": (None, [_PTR, _PTR]),
    "ggml_backend_dev_init": (_PTR, [_PTR, _TEXT]),
    "ggml_backend_dev_memory": (None, [_PTR] * 3),
    "ggml_backend_dev_name": (_TEXT, [_PTR]),
    "ggml_backend_dev_supports_op": (_BOOL, [_PTR, _PTR]),
    "ggml_backend_dev_type": (_INT, [_PTR]),
    "ggml_backend_free": (None, [_PTR]),
    "ggml_backend_graph_compute": (_INT, [_PTR, _PTR]),
    "ggml_backend_dev_by_name": (_PTR, [_TEXT]),
    "ggml_backend_load": (_PTR, [_TEXT]),
    "ggml_backend_load_all_from_path": (None, [_TEXT]),
    "ggml_backend_reg_count": (_SIZE, []),
    "ggml_backend_reg_get": (_PTR, [_SIZE]),
    "ggml_backend_reg_get_proc_address": (_PTR, [_PTR, _TEXT]),
    "ggml_backend_reg_name": (_TEXT, [_PTR]),
    "ggml_backend_tensor_alloc": (_INT, [_PTR] * 3),
    "ggml_backend_tensor_set": (None, [_PTR, _PTR, _SIZE, _SIZE]),
    "ggml_threadpool_free": (None, [_PTR]),
    "ggml_threadpool_new": (_PTR, [_PTR]),
    "ggml_threadpool_params_init": (None, [_PTR, _INT]),
    "gguf_free": (None, [_PTR]),
    "gguf_init_from_buffer": (_PTR, [_TEXT, _SIZE, GgufParams]),
    "llama_attach_threadpool": (None, [_PTR] * 3),
    ARCH_NAME: (_TEXT, [_INT]),
}


# Functions of the processor's backend -> their names in its registry.
_OF_CPU = {
    "ggml_backend_cpu_set_n_threads": b"ggml_backend_set_n_threads",
    "ggml_backend_cpu_set_threadpool": b"ggml_backend_cpu_set_threadpool",
    "ggml_threadpool_free": b"ggml_threadpool_free",
    "ggml_threadpool_new": b"ggml_threadpool_new",
}


class _Library:
    """ggml's functions: the very copies that libllama calls, found through its own handle.

    The wheel holds each library three times instead of links, so opening one by its path could bring a second copy with
    a state of its own. Functions of the processor's backend are asked of the registry, as the backend may be a library
    that was loaded later. A function gets its signature when it is first used: an older library may lack another one.
    """

    def __getattr__(self, name: str) -> Any:
        """Raises: AttributeError: the library has no such function, or its signature is not stated here."""
        if name not in _SIGNATURES:
            raise AttributeError(f"the signature of {name} is not stated")
        result, arguments = _SIGNATURES[name]
        if name in _OF_CPU:
            address = _of_cpu(_OF_CPU[name])
            if not address:
                raise AttributeError(f"the processor's backend has no {name}")
            function: Any = ctypes.CFUNCTYPE(result, *arguments)(address)
        else:
            function = getattr(next((handle for handle in _handles() if hasattr(handle, name)), binding._lib), name)
            function.restype, function.argtypes = result, arguments
        setattr(self, name, function)
        return function


library = _Library()


@functools.cache
def _handles() -> tuple[Any, ...]:
    """libllama, and on Windows what it loaded: there a handle tells of its own functions alone."""
    folder = library_dir()
    beside = [folder / name for name in _BESIDE] if os.name == "nt" and folder else []
    return (binding._lib, *(ctypes.CDLL(str(path)) for path in beside if path.is_file()))


def start(*, with_devices: bool = False) -> None:
    """Initialize the library. One whose backends are libraries of their own loads those that this machine can use.

    They are looked for in libllama's own folder (GGML_BACKEND_PATH may name one more): by itself ggml looks beside the
    interpreter and in the current folder, where a stranger's may lie.

    Args:
        with_devices: also those for GPUs that were built here, where they are of this library's commit. Otherwise no
            driver of a GPU is touched.

    Raises:
        RuntimeError: none of them computes on this processor.
    """
    binding.llama_backend_init()
    if not library.ggml_backend_dev_by_type(CPU):
        folder = library_dir()
        library.ggml_backend_load_all_from_path(os.fsencode(folder or ""))
        if not library.ggml_backend_dev_by_type(CPU):
            raise RuntimeError(f"no library in {folder} computes on this processor")
    if with_devices and is_of_pinned_commit():
        loaded = {name.lower() for name in backends()}
        for name, path in device_backends.libraries().items():
            if device_backends.registered(name) not in loaded and device_backends.is_as_built(name):
                library.ggml_backend_load(os.fsencode(path))


def backends() -> list[str]:
    """Names of what the library has: "Vulkan", "CPU"."""
    registries = map(library.ggml_backend_reg_get, range(library.ggml_backend_reg_count()))
    return [library.ggml_backend_reg_name(registry).decode(errors="replace") for registry in registries]


def devices() -> list[int]:
    """What the library puts layers on unasked, in its own order: GPUs, and integrated ones only where there are no
    others. As `llama_prepare_model_devices` chooses (src/llama.cpp): a GPU that two backends see counts once.
    """
    gpus: dict[object, int] = {}
    integrated: list[int] = []
    for device in map(library.ggml_backend_dev_get, range(library.ggml_backend_dev_count())):
        kind, props = library.ggml_backend_dev_type(device), DeviceProps()
        if kind == GPU:
            library.ggml_backend_dev_get_props(device, ctypes.byref(props))
            gpus.setdefault(props.device_id or device, device)
        elif kind == IGPU and _registry(device) == _registry((integrated or [device])[0]):
            integrated.append(device)
    return list(gpus.values()) or integrated


def _registry(device: int) -> int:
    registry: int = library.ggml_backend_dev_backend_reg(device)
    return registry


def name_of(device: int) -> str:
    """Of a device, as "Vulkan0"."""
    name: bytes = library.ggml_backend_dev_name(device)
    return name.decode(errors="replace")


def slot_of(device: int) -> str:
    """Of a device, where it is on the PCI bus: "0000:01:00.0"; "" = not told."""
    props = DeviceProps()
    library.ggml_backend_dev_get_props(device, ctypes.byref(props))
    told: bytes = props.device_id or b""
    return told.decode(errors="replace")


def is_of_pinned_commit() -> bool:
    """Whether libllama is of the commit that backends for GPUs are built of: it says so, or came with the binding."""
    pin = pinned()
    try:
        source = binding._lib.edgellm_source
    except AttributeError:
        return is_of_wheel() and binding_release() == pin.llama_cpp_python
    source.restype = ctypes.c_char_p
    return (source() or b"").decode(errors="replace") == pin.commit


def missing() -> list[str]:
    """Functions that the library should have and has not. Call `start` before."""
    return [name for name in _SIGNATURES if name != ARCH_NAME and not hasattr(library, name)]


def _of_cpu(name: bytes) -> int | None:
    """Address of a function of the processor's backend; None = it has none, or `start` was not called."""
    device = library.ggml_backend_dev_by_type(CPU)
    if not device:
        return None
    registry = library.ggml_backend_dev_backend_reg(device)
    address: int | None = library.ggml_backend_reg_get_proc_address(registry, name)
    return address


def cpu_library() -> str:
    """Path of the file that computes on the processor; "" where the system does not tell."""
    address = _of_cpu(b"ggml_backend_get_features")
    if address and os.name == "nt":
        return _module_of(address)
    if not address or not hasattr(_process, "dladdr"):
        return ""
    symbol = _Symbol()
    _process.dladdr(ctypes.c_void_p(address), ctypes.byref(symbol))
    return os.fsdecode(symbol.file or b"")


def _module_of(address: int) -> str:
    """Path of the DLL with that address; "" where Windows does not tell."""
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  (absent from the type stubs of other systems)
    module, path = ctypes.c_void_p(), ctypes.create_unicode_buffer(32768)
    from_address, uncounted = 4, 2  # GET_MODULE_HANDLE_EX_FLAG_...
    if not kernel32.GetModuleHandleExW(from_address | uncounted, ctypes.c_void_p(address), ctypes.byref(module)):
        return ""
    kernel32.GetModuleFileNameW(module, path, len(path))
    return path.value


def extra_buffer_types(device: int) -> list[int]:
    """Kinds of buffers in which a device keeps weights in another layout than the file's, the preferred ones first."""
    registry = library.ggml_backend_dev_backend_reg(device)
    address = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    # An array that ends with a null pointer.
    array = ctypes.CFUNCTYPE(ctypes.POINTER(_PTR), _PTR)(address)(device)
    types: list[int] = []
    while array and array[len(types)]:
        types.append(int(array[len(types)]))
    return types


def new_threadpool(n_threads: int) -> int | None:
    """Threads with ggml's defaults; None where it cannot start them."""
    params = ThreadPoolParams()
    library.ggml_threadpool_params_init(ctypes.byref(params), n_threads)
    pool: int | None = library.ggml_threadpool_new(ctypes.byref(params))
    return pool

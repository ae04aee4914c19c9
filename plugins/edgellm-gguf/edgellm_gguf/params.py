"""llama.cpp's parameters for a plan: the same where a model is loaded and where its memory is only measured."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp

from edgellm.contract.engine import SPARE_LOGITS
from edgellm.errors import BackendUnavailable, UnsupportedArtifact, option
from edgellm.types.model import Shape
from edgellm.types.plan import Settings
from edgellm_gguf import ggml

# ggml type ids of the cache types we offer (ggml.h).
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
# With weights of these in AMX tiles, the library ends at an assertion while it reserves memory (seen with b11434).
_NO_TILES = ("deepseek2",)
# Of routed experts in one block, with chunks as some models have them (llama.cpp's common.h, LLM_FFN_EXPS_REGEX).
_EXPERTS = r"blk\.%d\.ffn_(up|down|gate|gate_up)_(ch|)exps"


class _Override(ctypes.Structure):
    """struct llama_model_tensor_buft_override"""

    _fields_ = (("pattern", ctypes.c_char_p), ("kind", ctypes.c_void_p))


def model_params(settings: Settings, shape: Shape | None = None) -> Any:
    """llama_model_params, with the GPUs that the plan uses.

    Args:
        shape: of the model; None = its layers are all of its blocks.

    Raises:
        BackendUnavailable: the library does not see a device that is named.
    """
    params = llama_cpp.llama_model_default_params()
    if shape is not None and shape.arch in _NO_TILES and b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():
        params.use_extra_bufts = False
    # The library counts blocks that only draft tokens, behind the layers, and loads nothing of them.
    idle = 0 if shape is None else shape.draft_layers
    params.n_gpu_layers = settings.gpu_layers + (idle if settings.gpu_layers > 0 else 0)
    devices, overrides, split = _devices(settings), _overrides(settings), _split(settings, idle)
    if devices is not None:
        params.devices = ctypes.addressof(devices)
    if overrides is not None:
        params.tensor_buft_overrides = ctypes.addressof(overrides)
    if split is not None:
        params.tensor_split = split
    params.beside = (devices, overrides, split)  # arrays that must live as long
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if settings.mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
    return params


def _devices(settings: Settings) -> Any:
    """The named devices; None = all that the library sees.

    Without layers for them it is an empty list: a build for a GPU would compute long prompts there, with memory that
    nobody planned.
    """
    if settings.gpu_layers and not settings.devices:
        return None
    devices = []
    for name in settings.devices if settings.gpu_layers else ():
        device = ggml.library.ggml_backend_dev_by_name(name.encode())
        if not device:
            seen = ", ".join(map(ggml.name_of, ggml.devices())) or "none"
            raise BackendUnavailable(
                f"this libllama sees no device {name!r}", hint=f"{option('device')} is one of those it sees: {seen}"
            )
        devices.append(device)
    return (ctypes.c_void_p * (len(devices) + 1))(*devices, None)


def _split(settings: Settings, idle: int) -> Any:
    """How many layers each device holds; None = llama.cpp splits them by free memory.

    It takes shares: layer i of n is where the running sum of shares first exceeds i / n, so counts are met exactly.
    """
    if not settings.gpu_layers or len(settings.device_layers) < 2:
        return None
    *others, last = settings.device_layers
    return (ctypes.c_float * llama_cpp.llama_max_devices())(*others, last + idle)


def _overrides(settings: Settings) -> Any:
    """What keeps routed experts of the first blocks in RAM, as llama.cpp's `--n-cpu-moe`; None = nothing does."""
    if not (settings.gpu_layers and settings.experts_away):
        return None
    kind = ggml.library.ggml_backend_cpu_buffer_type()
    rows = [_Override((_EXPERTS % block).encode(), kind) for block in range(settings.experts_away)]
    return (_Override * (len(rows) + 1))(*rows, _Override(None, None))


def context_params(settings: Settings) -> Any:
    """llama_context_params.

    Raises:
        UnsupportedArtifact: an unknown cache type.
    """
    if settings.kv_type not in KV_TYPES:
        raise UnsupportedArtifact(f"cache type {settings.kv_type!r} is unknown", hint=f"one of {', '.join(KV_TYPES)}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = settings.n_ctx * settings.n_slots
    params.n_batch = settings.n_batch
    params.n_ubatch = settings.n_batch
    params.n_seq_max = settings.n_slots
    params.n_outputs_max = max_logits(settings)
    params.n_threads = settings.n_threads
    params.n_threads_batch = settings.n_threads_batch
    params.type_k = params.type_v = KV_TYPES[settings.kv_type]
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
    # The library's default reserves a sliding-window cache as large as the context: 5 times too much for Gemma 3.
    params.swa_full = False
    # A stream per slot: attention reads the slot's own cells, not everybody's.
    params.kv_unified = False
    params.offload_kqv = settings.gpu_layers != 0
    params.no_perf = True
    return params


def keep_flash_attention(params: Any, model: Any, gpu_layers: int) -> None:
    """Where the library would give it up for a reason that is none.

    It asks whether the attention of each layer is computed where that layer lies. Of a hybrid model (LFM2) that is
    split, the scheduler moves that of the last layer in RAM to the device, as the next block's state is read just
    before it; the library takes that for missing support, and no layer computes flash attention.
    """
    if llama_cpp.llama_model_is_hybrid(model) and 0 < gpu_layers <= llama_cpp.llama_model_n_layer(model):
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED


def max_logits(settings: Settings) -> int:
    """Most rows of logits in one step, over all slots."""
    return min(settings.n_batch, settings.n_slots + SPARE_LOGITS)

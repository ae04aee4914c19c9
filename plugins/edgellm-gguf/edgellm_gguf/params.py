"""llama.cpp's parameters for a plan: the same where a model is loaded and where its memory is only measured."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp

from edgellm.contract.engine import SPARE_LOGITS
from edgellm.errors import UnsupportedArtifact
from edgellm.types.plan import Settings

# ggml type ids of the cache types we offer (ggml.h).
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
# An empty list of devices.
_NO_DEVICES = (ctypes.c_void_p * 1)(None)


def model_params(settings: Settings) -> Any:
    """llama_model_params, with the GPUs that the plan uses."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = settings.gpu_layers
    if settings.gpu_layers == 0:
        # Otherwise a build for a GPU computes long prompts there, with memory that nobody planned.
        params.devices = ctypes.addressof(_NO_DEVICES)
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if settings.mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
    return params


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


def max_logits(settings: Settings) -> int:
    """Most rows of logits in one step, over all slots."""
    return min(settings.n_batch, settings.n_slots + SPARE_LOGITS)

"""Whether the library understands what Python writes, asked of a context on a tiny model. In a probe only.

Default values do not tell a field from a neighbour with the same one. So each field that the engine sets gets a value
of its own here, and is read back by a function of the library, or by what it does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as binding

from edgellm.contract.engine import SlotInput
from edgellm.types.plan import Settings
from edgellm_gguf import small_model
from edgellm_gguf.engine import Batch
from edgellm_gguf.kernels import Heads
from edgellm_gguf.loading import LOG
from edgellm_gguf.params import model_params
from edgellm_gguf.small_model import Small
from edgellm_gguf.verdict import Mismatch

MODEL = Small(1, 256, 256, Heads(4, 2, 64))
F16, Q8_0 = 1, 8  # ggml types (ggml.h)
PROMPT, SLOT = (1, 2, 3), 1
FIRST = 5  # its first position: not the one that the library takes where it is told none
WRITTEN = {
    "n_ctx": 1024, "n_batch": 64, "n_ubatch": 32, "n_seq_max": 2, "n_threads": 1, "n_threads_batch": 2,
    "pooling_type": binding.LLAMA_POOLING_TYPE_LAST, "flash_attn_type": binding.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "type_k": Q8_0, "type_v": F16, "embeddings": True, "no_perf": False, "kv_unified": False,
}  # fmt: skip
READ = {
    "n_ctx": binding.llama_n_ctx, "n_batch": binding.llama_n_batch, "n_ubatch": binding.llama_n_ubatch,
    "n_seq_max": binding.llama_n_seq_max, "n_threads": binding.llama_n_threads,
    "n_threads_batch": binding.llama_n_threads_batch, "pooling_type": binding.llama_pooling_type,
}  # fmt: skip
ABORTED = 2  # of llama_decode (llama.h)


def differences(folder: Path, doing: Callable[[str], None]) -> Iterator[Mismatch]:
    """What was not understood. The process may die of it.

    Args:
        folder: where the model is written.
        doing: told the struct that is tried next.
    """
    doing("llama_model_params")
    path = folder / "tiny.gguf"
    small_model.write(path, MODEL)
    model = binding.llama_model_load_from_file(str(path).encode(), model_params(Settings(0, mmap=False)))
    if model is None:
        yield Mismatch("llama_model_params", f"not understood: a tiny model does not load{LOG.last()}")
        return
    doing("llama_context_params")
    params = _params(WRITTEN)
    is_ended = ctypes.c_bool(False)
    params.abort_callback = binding.ggml_abort_callback(lambda _: is_ended.value)
    ctx = binding.llama_init_from_model(model, params)
    # Only without flash attention, and with f16 values: in the other order there is no such context.
    if ctx is None:
        yield Mismatch("llama_context_params.type_k", f"not understood: there is no context with q8_0 keys{LOG.last()}")
        return
    yield from _context(ctx)
    doing("llama_batch")
    yield from _batch(ctx)
    is_ended.value = True
    if (status := _decode(ctx, FIRST + len(PROMPT))) != ABORTED:
        yield Mismatch("llama_context_params.abort_callback", f"not called (llama_decode gives {status})")
    binding.llama_free(ctx)
    if binding.llama_init_from_model(model, _params(WRITTEN | {"type_k": F16, "type_v": Q8_0})) is not None:
        yield Mismatch("llama_context_params.flash_attn_type", "not understood: q8_0 values need it")
    binding.llama_model_free(model)


def _params(values: dict[str, Any]) -> Any:
    params = binding.llama_context_default_params()
    for field, value in values.items():
        setattr(params, field, value)
    return params


def _context(ctx: Any) -> Iterator[Mismatch]:
    for field, read in READ.items():
        if (value := read(ctx)) != WRITTEN[field]:
            yield Mismatch(f"llama_context_params.{field}", str(value), str(WRITTEN[field]))
    of_one = WRITTEN["n_ctx"] // WRITTEN["n_seq_max"]
    if (value := binding.llama_n_ctx_seq(ctx)) != of_one:
        yield Mismatch("llama_context_params.kv_unified", f"not understood: a slot has {value} tokens", str(of_one))


def _batch(ctx: Any) -> Iterator[Mismatch]:
    tokens = (ctypes.c_int32 * len(PROMPT))(*PROMPT)
    one = binding.llama_batch_get_one(tokens, len(PROMPT))
    if one.n_tokens != len(PROMPT) or ctypes.cast(one.token, ctypes.c_void_p).value != ctypes.addressof(tokens):
        yield Mismatch("llama_batch.token", "another address than was given")
    if status := _decode(ctx, FIRST):
        yield Mismatch("llama_batch", f"not understood: llama_decode gives {status}")
        return
    last = binding.llama_memory_seq_pos_max(binding.llama_get_memory(ctx), SLOT)
    if last != FIRST + len(PROMPT) - 1:
        yield Mismatch("llama_batch.pos", f"not understood: the cache ends with token {last}")
    if not binding.llama_get_embeddings_seq(ctx, SLOT):
        yield Mismatch("llama_context_params.embeddings", "not understood: there are none")
    if not binding.llama_perf_context(ctx).t_p_eval_ms:
        yield Mismatch("llama_context_params.no_perf", "not understood: no time is counted")


def _decode(ctx: Any, n_past: int) -> int:
    batch = Batch(64)
    batch.fill([SlotInput(SLOT, n_past, PROMPT, 1)])
    status: int = binding.llama_decode(ctx, batch.struct)
    return status

"""LoRA adapters that lie about themselves, or were made for another model. `BASE` is the model that they are for.

Not a test module: `test_hostile_adapters.py` reads every entry.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from support.gguf_writer import ARRAY, F16, F32, FLOAT32, FLOAT64, STRING, UINT32, Gguf, Tensor, model_keys

I32, Q4_0, NVFP4 = 26, 2, 40
_SIZES = {F32: (1, 4), F16: (1, 2), I32: (1, 4), Q4_0: (32, 18), NVFP4: (64, 36)}


def tensor(name: str, *dims: int, kind: int = F32) -> Tensor:
    block, n_bytes = _SIZES[kind]
    return Tensor(name, dims, kind, math.prod(dims) // block * n_bytes)


def pair(name: str, n_in: int, n_out: int, rank: int = 4, **how: Any) -> list[Tensor]:
    return [tensor(f"{name}.lora_a", n_in, rank, **how), tensor(f"{name}.lora_b", rank, n_out, **how)]


def adapter(tensors: list[Tensor], *, more: list[tuple[str, int, Any]] | None = None, **changed: Any) -> Gguf:
    """A sound file with these tensors. `changed` replaces keys (dots as `__`): (type, value), or None to leave out."""
    keys: dict[str, Any] = {
        "general.type": (STRING, "adapter"),
        "general.architecture": (STRING, "llama"),
        "adapter.type": (STRING, "lora"),
        "adapter.lora.alpha": (FLOAT32, 8.0),
    }
    keys |= {name.replace("__", "."): value for name, value in changed.items()}
    return Gguf([(key, *value) for key, value in keys.items() if value is not None] + (more or []), tensors)


def base(*, tied: bool = False, experts: int = 0) -> Gguf:
    """A llama of one layer as far as the names and dimensions of its tensors go."""
    tensors = [tensor("token_embd.weight", 64, 16), tensor("output_norm.weight", 64)]
    tensors += [] if tied else [tensor("output.weight", 64, 16)]
    for name, n_in, n_out in (("attn_q", 64, 64), ("attn_k", 64, 32), ("attn_v", 64, 32), ("attn_output", 64, 64)):
        tensors.append(tensor(f"blk.0.{name}.weight", n_in, n_out))
    tensors += [tensor("blk.0.attn_norm.weight", 64), tensor("blk.0.ffn_up.weight", 64, 128, kind=NVFP4)]
    tensors += [tensor("blk.0.shortconv.conv.weight", 3, 64)]
    tensors += [tensor("blk.0.ffn_down_exps.weight", 128, 64, experts)] if experts else []
    return Gguf(model_keys("llama", block_count=1), tensors)


Q, V = "blk.0.attn_q.weight", "blk.0.attn_v.weight"
SOUND = adapter(pair(Q, 64, 64) + pair(V, 64, 32, rank=2))
EMBEDDING = [tensor("token_embd.weight.lora_a", 4, 16), tensor("token_embd.weight.lora_b", 4, 64)]
EXPERTS = [
    tensor("blk.0.ffn_down_exps.weight.lora_a", 128, 4, 2),
    tensor("blk.0.ffn_down_exps.weight.lora_b", 4, 64, 2),
]
_A, _B = pair(Q, 64, 64)

# Refused where they are read, whatever the model.
LYING: dict[str, Gguf] = {
    "no-tensors": adapter([]),
    "type-is-missing": adapter(SOUND.tensors, general__type=None),
    "type-of-a-model": adapter(SOUND.tensors, general__type=(STRING, "model")),
    "type-is-a-number": adapter(SOUND.tensors, general__type=(UINT32, 1)),
    "of-another-kind": adapter(SOUND.tensors, adapter__type=(STRING, "control_vector")),
    "kind-is-missing": adapter(SOUND.tensors, adapter__type=None),
    "architecture-is-missing": adapter(SOUND.tensors, general__architecture=None),
    "architecture-is-a-number": adapter(SOUND.tensors, general__architecture=(UINT32, 7)),
    "architecture-is-empty": adapter(SOUND.tensors, general__architecture=(STRING, "")),
    "alpha-nan": adapter(SOUND.tensors, adapter__lora__alpha=(FLOAT32, math.nan)),
    "alpha-infinite": adapter(SOUND.tensors, adapter__lora__alpha=(FLOAT32, math.inf)),
    "alpha-float64": adapter(SOUND.tensors, adapter__lora__alpha=(FLOAT64, 8.0)),
    "alpha-whole-number": adapter(SOUND.tensors, adapter__lora__alpha=(UINT32, 8)),
    "alpha-array": adapter(SOUND.tensors, adapter__lora__alpha=(ARRAY, (FLOAT32, [8.0]))),
    "tokens-no-array": adapter(SOUND.tensors, adapter__alora__invocation_tokens=(UINT32, 3)),
    "tokens-signed": adapter(SOUND.tensors, adapter__alora__invocation_tokens=(ARRAY, (5, [1, 2]))),
    "tokens-too-many": adapter(SOUND.tensors, adapter__alora__invocation_tokens=(ARRAY, (UINT32, [1] * 1025))),
    "pair-without-a": adapter([_B]),
    "pair-without-b": adapter([_A]),
    "pair-twice": adapter([_A, _B, _B]),
    "rank-0": adapter([tensor(f"{Q}.lora_a", 64, 0), tensor(f"{Q}.lora_b", 0, 64)]),
    "rank-4097": adapter(pair(Q, 64, 64, rank=4097)),
    "ranks-differ": adapter([_A, tensor(f"{Q}.lora_b", 8, 64)]),
    "a-not-transposed": adapter([tensor(f"{Q}.lora_a", 4, 64), _B]),
    "vectors": adapter([tensor(f"{Q}.lora_a", 64), tensor(f"{Q}.lora_b", 64)]),
    "scalars": adapter([tensor(f"{Q}.lora_a"), tensor(f"{Q}.lora_b")]),
    "experts-of-a-only": adapter([tensor(f"{Q}.lora_a", 64, 4, 2), _B]),
    "experts-differ": adapter([tensor(f"{Q}.lora_a", 64, 4, 2), tensor(f"{Q}.lora_b", 4, 64, 3)]),
    "four-dimensions": adapter([tensor(f"{Q}.lora_a", 64, 4, 1, 2), tensor(f"{Q}.lora_b", 4, 64, 1, 2)]),
    "embedding-with-experts": adapter(
        [tensor("token_embd.weight.lora_a", 4, 16, 2), tensor("token_embd.weight.lora_b", 4, 64, 2)]
    ),
    "embedding-not-transposed": adapter(pair("token_embd.weight", 64, 16)),
    "whole-numbers": adapter(pair(Q, 64, 64, kind=I32)),
    "blocks-of-4-bits": adapter(pair(Q, 64, 64, rank=32, kind=Q4_0)),
    "a-norm": adapter([*SOUND.tensors, tensor("blk.0.attn_norm.weight", 64)]),
    "a-tensor-of-no-pair": adapter([*SOUND.tensors, tensor("blk.0.attn_q.weight", 64, 64)]),
    "a-pair-of-a-pair": adapter([tensor(f"{Q}.lora_a.lora_b", 64, 4), tensor(f"{Q}.lora_a.lora_a", 64, 4)]),
    "a-pair-of-no-name": adapter([tensor(".lora_a", 64, 4), tensor(".lora_b", 4, 64)]),
    "count-of-tensors-huge": replace(SOUND, n_tensors=2**63),
    "count-of-tensors-too-high": replace(SOUND, n_tensors=16_000),
    "dimension-huge": adapter([replace(_A, dims=(64, 2**62)), _B]),
    "big-endian": replace(SOUND, order=">"),
    "offset-outside": adapter([_A, replace(_B, offset=2**40)]),
}
# Sound, and for another model than `BASE`.
STRANGE: dict[str, Gguf] = {
    "another-architecture": adapter(SOUND.tensors, general__architecture=(STRING, "qwen2")),
    "no-such-tensor": adapter([*SOUND.tensors, *pair("blk.7.attn_q.weight", 64, 64)]),
    "another-width": adapter(pair(Q, 96, 64)),
    "another-height": adapter(pair(V, 64, 64)),
    "experts-of-a-dense-matrix": adapter([tensor(f"{Q}.lora_a", 64, 4, 2), tensor(f"{Q}.lora_b", 4, 64, 2)]),
    "a-matrix-for-a-norm": adapter(pair("blk.0.attn_norm.weight", 64, 1)),
    "a-convolution": adapter(pair("blk.0.shortconv.conv.weight", 3, 64)),
    "of-nvfp4": adapter(pair("blk.0.ffn_up.weight", 64, 128)),
    "embedding-of-a-tied-model": adapter(EMBEDDING),
}

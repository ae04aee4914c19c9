"""What a LoRA adapter takes beside the model, from its rank and the model's shape; of a file its header tells."""

from __future__ import annotations

from edgellm.estimate import architecture
from edgellm.types.model import Shape

# Every matrix of a layer that PEFT's "all-linear" adapts; the tables are left as they are.
ALL_LINEAR = frozenset({"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})


def lora_bytes(shape: Shape, rank: int, roles: frozenset[str] = ALL_LINEAR, *, element_bytes: int = 4) -> int | None:
    """Bytes of two matrices, `rank` x row and rows x `rank`, beside each matrix of `roles`; None = tensors not known.

    llama.cpp reads an adapter into memory of its own, so all of it is resident. `element_bytes` is 4 for the F32 that
    `convert_lora_to_gguf.py` writes by default.
    """
    parts = architecture.tensors(shape)
    if parts is None:
        return None
    adapted = (part for part in parts if part.role in roles)
    return rank * element_bytes * sum((part.row + part.rows) * len(part.layers) for part in adapted)

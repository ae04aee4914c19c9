"""Which storage type llama.cpp's quantizer gives to each tensor of a model, for each quantization name.

Transcribed from llama.cpp b11434, `src/llama-quant.cpp` (`llama_tensor_get_type_impl`, `llama_ftype_get_default_type`);
checked against its own snapshots in `tests/estimate/test_recipe.py`, and against the library that is installed in
`tests/gguf/test_recipe_oracle.py`. Knows nothing of sizes: a tensor here is a role ("attn_v", "ffn_down", ...) and a
layer number. Hand-made mixes ("UD-*") follow no rule and are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from edgellm.estimate.tensor_types import TYPES

BASE_TYPE = {
    **{name: name for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q1_0", "Q2_0", "F16", "BF16", "F32", "Q6_K")},
    **{name: name for name in ("TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS")},
    "Q2_K": "Q2_K", "Q2_K_S": "Q2_K",
    "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K",
    "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K",
    "IQ2_S": "IQ2_XS", "IQ2_M": "IQ2_S",
    "IQ3_XS": "IQ3_S", "IQ3_S": "IQ3_S", "IQ3_M": "IQ3_S",
    "MXFP4": "MXFP4",
    "I2_S": "I2_S",
}  # fmt: skip

FLOATS = ("F16", "BF16", "F32")
# Mixes whose ffn_down rule goes by how many such tensors came before, in every architecture.
COUNTING = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
# Roles that the quantizer leaves alone, and what converters write them as.
KEPT = {"never": "F32", "half": "F16"}
_TABLES = ("token_embd", "per_layer_token_embd")
_IQ2_SM = ("IQ2_S", "IQ2_M")


@dataclass(frozen=True, slots=True)
class Traits:
    """What the rules ask of a model."""

    gqa: int = 1  # query heads per key/value head of layer 0; 0 where that layer does not attend
    n_expert: int = 0
    is_70b: bool = False  # what llama.cpp calls LLM_TYPE_70B
    tied: bool = False  # no output.weight: the embedding table is the head
    imatrix: bool = False
    head_row: int = 0  # weights in a row of the embedding and output tables
    falcon: bool = False  # the architecture "falcon" of 2023 has rules of its own


def is_70b(arch: str, n_layer: int, gqa: int) -> bool:
    """Whether llama.cpp takes the model for a 70B (src/models/*.cpp, `load_arch_hparams`)."""
    layers = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
    return layers.get(arch) == n_layer and (arch != "llama" or gqa > 1)


def more_bits(i: int, n: int) -> bool:
    """Layers whose sensitive tensors an `_M` mix protects: the first and last eighth, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def tensor_type(role: str, i: int, n: int, quant: str, traits: Traits) -> str:
    """Type of the tensor `role` in layer `i` of `n`, before the fallback for short rows.

    Raises:
        KeyError: no rule set of that name.
    """
    base = BASE_TYPE[quant]
    if role in KEPT:
        return KEPT[role]
    if base in FLOATS or quant == "I2_S":
        # bitnet.cpp writes its ternary matrices as I2_S and leaves the tables at F16.
        return base if role not in ("output", "token_embd") or base in FLOATS else "F16"
    if role == "output" or (role in _TABLES and traits.tied):
        return _output(quant, base, traits)
    if quant == "MXFP4":
        return "MXFP4" if role.endswith("_exps") else "Q8_0"
    if role in _TABLES:
        return _token_embd(quant, base)
    rule = _rules(quant, traits).get(role)
    return rule(i, n, quant, base, traits) if rule else base


def _rules(quant: str, traits: Traits) -> dict[str, _Rule]:
    return _IQ12_RULES if quant in COUNTING else _FALCON_RULES if traits.falcon else _RULES


def _output(quant: str, base: str, traits: Traits) -> str:
    if quant == "MXFP4" or traits.falcon or traits.head_row % TYPES[base].block_elems:
        return "Q8_0"
    if quant in COUNTING or quant == "IQ3_XXS":
        return "Q5_K"
    return base if base == "Q8_0" else "Q6_K"


def _token_embd(quant: str, base: str) -> str:
    if quant in ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"):
        return "Q2_K"
    if quant in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
        return "IQ3_S"
    return "Q4_K" if quant in ("TQ1_0", "TQ2_0", "Q2_0") else base


def _iq12_attn_v(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    if traits.gqa >= 4 or traits.n_expert >= 4:
        return "Q4_K"
    return "IQ3_S" if quant in _IQ2_SM else "Q2_K"


def _iq12_attn_k(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    return "Q4_K" if traits.n_expert == 8 else base


def _iq12_ffn_down(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    # These mixes count such tensors where others count layers (`architecture.numbers`).
    if i >= n // 8:
        return base
    return "IQ3_S" if quant in _IQ2_SM else "Q2_K"


def _iq12_attn_output(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    if traits.n_expert == 8:
        return "Q5_K"
    if quant in ("IQ1_S", "IQ1_M"):
        return "IQ2_XXS"
    return "IQ3_S" if quant in _IQ2_SM else base


def _attn_v(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    chosen = _attn_v_by_mix(i, n, quant, base, traits)
    if traits.is_70b and chosen in ("Q3_K", "Q4_K"):
        chosen = "Q5_K"
    return "Q8_0" if traits.n_expert == 8 else chosen


def _attn_v_by_mix(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    grouped = traits.gqa >= 4
    if quant == "IQ3_XXS":
        return "Q4_K" if grouped else "IQ3_XXS" if traits.imatrix else "IQ3_S"
    if quant in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if more_bits(i, n) else base
    if quant == "Q4_K_S":
        return "Q5_K" if i < 4 else base
    if quant == "Q3_K_M":
        return "Q5_K" if i < 2 else "Q4_K"
    fixed = {"Q2_K": "Q4_K" if grouped else "Q3_K", "IQ3_M": "Q4_K", "Q3_K_L": "Q5_K"}
    if grouped:
        fixed |= {"Q2_K_S": "Q4_K", "IQ3_XS": "Q4_K", "IQ3_S": "Q4_K", "IQ4_NL": "Q5_K", "IQ4_XS": "Q5_K"}
    return fixed.get(quant, base)


def _attn_k(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    return "Q8_0" if traits.n_expert == 8 else _attn_q(i, n, quant, base, traits)


def _attn_q(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(quant, base)


def _ffn_down_falcon(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    if quant == "Q4_K_M":
        return "Q6_K" if i < n // 16 else "Q5_K" if more_bits(i, n) else base
    if quant == "Q3_K_M" and i >= n // 16:
        return "Q4_K" if more_bits(i, n) else base
    if quant == "Q3_K_L":
        return "Q4_K"
    return base if quant == "Q4_K_S" else _ffn_down(i, n, quant, base, traits)


def _attn_output_falcon(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    return "Q4_K" if quant == "Q3_K_L" else base


def _ffn_down(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    first = i < n // 8
    if quant in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if more_bits(i, n) else base
    if quant == "Q3_K_M":
        return "Q5_K" if i < n // 16 else "Q4_K"
    if quant == "IQ3_XXS" and not traits.imatrix:
        return "Q4_K" if first else "Q3_K"
    if quant == "IQ3_M":
        return "Q4_K" if first or (traits.n_expert == 8 and more_bits(i, n)) else base
    if quant in ("Q2_K", "Q3_K_L"):
        return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}[quant]
    early = {"Q2_K_S": "Q4_K", "Q4_K_S": "Q5_K"}
    early |= {"Q4_0": "Q4_1", "Q5_0": "Q5_1"} if traits.imatrix else {"IQ4_NL": "Q5_K", "IQ4_XS": "Q5_K"}
    return early.get(quant, base) if first else base


# Mixes that keep the attention output of a model with 8 experts at Q5_K.
_EIGHT_EXPERTS = frozenset(
    {"Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_XS", "IQ3_XXS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"}
)


def _attn_output(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    if traits.n_expert == 8:
        return "Q5_K" if quant in _EIGHT_EXPERTS else base
    return {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(quant, base)


def _ffn_up(i: int, n: int, quant: str, base: str, traits: Traits) -> str:
    return "IQ3_XXS" if quant == "IQ3_XS" and n // 8 <= i < 7 * n // 8 else base


_Rule = Callable[[int, int, str, str, Traits], str]
_DOWN = ("ffn_down", "ffn_down_exps", "ffn_down_shexp")
_UP = tuple(f"ffn_{side}{kind}" for side in ("up", "gate") for kind in ("", "_exps", "_shexp"))
_RULES: dict[str, _Rule] = {
    "attn_v": _attn_v, "attn_qkv": _attn_v,
    "attn_k": _attn_k, "attn_q": _attn_q, "attn_output": _attn_output,
    **dict.fromkeys(_DOWN, _ffn_down), **dict.fromkeys(_UP, _ffn_up),
}  # fmt: skip
_FALCON_RULES = _RULES | {"ffn_down": _ffn_down_falcon, "attn_output": _attn_output_falcon}
_IQ12_RULES: dict[str, _Rule] = {
    "attn_v": _iq12_attn_v, "attn_qkv": _iq12_attn_v, "attn_k": _iq12_attn_k, "attn_output": _iq12_attn_output,
    **dict.fromkeys(_DOWN, _iq12_ffn_down),
}  # fmt: skip


# The mixes whose answer depends on the layer, by role; everywhere else one layer speaks for all.
_BY_LAYER: dict[str, frozenset[str]] = {
    **dict.fromkeys(("attn_v", "attn_qkv"), frozenset({"Q4_K_M", "Q5_K_M", "Q4_K_S", "Q3_K_M"})),
    **dict.fromkeys(_UP, frozenset({"IQ3_XS"})),
    **dict.fromkeys(
        _DOWN,
        frozenset({"Q4_K_M", "Q5_K_M", "Q4_K_S", "Q3_K_M", "Q2_K_S", "IQ3_XXS", "IQ3_M", "IQ4_NL", "IQ4_XS"})
        | {"Q4_0", "Q5_0", *COUNTING},
    ),
}


def layer_types(role: str, layers: Sequence[int], n: int, quant: str, traits: Traits) -> tuple[tuple[str, int], ...]:
    """Types of the tensor `role` over `layers` (of `n` in the model) with how many layers get each."""
    if quant not in _BY_LAYER.get(role, ()):
        return ((tensor_type(role, 0, n, quant, traits), len(layers)),)
    # What the rules by layer ask of a model; the rest would only keep alike models from sharing an answer.
    relevant = replace(traits, tied=False, head_row=0)
    return _by_layer(role, layers, n, quant, relevant)


@lru_cache(maxsize=4096)
def _by_layer(role: str, layers: Sequence[int], n: int, quant: str, traits: Traits) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    rule, base = _rules(quant, traits)[role], BASE_TYPE[quant]
    for i in layers:
        kind = rule(i, n, quant, base, traits)
        counts[kind] = counts.get(kind, 0) + 1
    return tuple(counts.items())

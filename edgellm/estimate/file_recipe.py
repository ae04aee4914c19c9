"""Which type llama.cpp's quantizer gives to each tensor of one file: what would come of it, before it is made.

Transcribed from llama.cpp b11434, `src/llama-quant.cpp` (`tensor_allows_quantization`, `tensor_get_category`,
`tensor_requires_imatrix`) and `llama-model-loader.h` (the order of tensors). The rules themselves are in `recipe.py`;
here names become roles, and what is left alone keeps the type it has.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace

from edgellm.estimate import quants, recipe
from edgellm.estimate.tensor_types import ALIGNMENT, fits_row, for_row
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.reader import GgufHeader, GgufModel, GgufTensor

_LAYER = re.compile(r"blk\.(\d+)\.")
# Parts of the names of tensors that are never quantized, however many dimensions they have.
_LEFT_ALONE = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight",
    "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight",
    "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight",
    "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd",
    ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_LEFT_ALONE_BY_NAME = frozenset({"position_embd.weight", "token_types.weight"})
_TABLES = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
_ROLES = (
    ("attn_qkv.weight", "attn_qkv"), ("attn_kv_b.weight", "attn_v"), ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"), ("attn_q.weight", "attn_q"), ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"), ("ffn_gate", "ffn_gate"), ("ffn_down", "ffn_down"),
)  # fmt: skip
# Perplexity within 0.3 % of the unquantized model's at all sizes (docs/explain/quality.md).
NEARLY_LOSSLESS = frozenset({"Q8_0"})
_NEEDS_IMATRIX = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})
# Architectures for which the quantizer has rules that are not transcribed.
UNKNOWN_RULES = frozenset({"glm5-next", "bailingmoe3"})


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor as it is, and the type it gets."""

    tensor: GgufTensor
    type: str
    asked: str  # what the mix wanted, before the fallback for its row
    guessed: bool = False  # the rules are another mix's: it gets a type of about that size

    @property
    def row(self) -> int:
        """Weights in a row."""
        return self.tensor.dims[0] if self.tensor.dims else 1

    @property
    def n_bytes(self) -> int:
        return BY_NAME[self.type].size_bytes(math.prod(self.tensor.dims))

    @property
    def changes(self) -> bool:
        return self.guessed or self.type != self.tensor.type.name


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What the quantizer makes of one model, tensor by tensor in the order it writes them."""

    quant: str
    tensors: tuple[Planned, ...]
    like: str = ""  # whose rules were followed, where nobody knows those of `quant`

    @property
    def tensor_bytes(self) -> int:
        """Without padding, as `GgufModel.tensor_bytes`."""
        return sum(planned.n_bytes for planned in self.tensors)

    @property
    def data_bytes(self) -> int:
        """With every tensor padded: the file less its header."""
        return sum(-(-planned.n_bytes // ALIGNMENT) * ALIGNMENT for planned in self.tensors)

    @property
    def impossible(self) -> tuple[Planned, ...]:
        """Tensors whose rows no type of the mix divides and for which the quantizer knows no way out."""
        return tuple(p for p in self.tensors if not fits_row(p.asked, p.row))

    @property
    def need_imatrix(self) -> tuple[Planned, ...]:
        """Tensors that the quantizer refuses to write without an importance matrix."""
        return tuple(p for p in self.tensors if _needs_imatrix(p, self.quant))

    @property
    def lossy(self) -> tuple[Planned, ...]:
        """Those of `requantized` whose type had lost what counts."""
        return tuple(p for p in self.requantized if p.tensor.type.name not in NEARLY_LOSSLESS)

    @property
    def requantized(self) -> tuple[Planned, ...]:
        """Tensors that were quantized already and would be quantized again."""
        return tuple(p for p in self.tensors if p.changes and p.tensor.type.name not in recipe.FLOATS)


def plan(model: GgufModel, quant: str, *, imatrix: bool = False) -> FilePlan:
    """What llama.cpp's quantizer would write for `model`; of a plugin's quantization, what the nearest mix would be.

    Raises:
        KeyError: no quantization of that name. BadArtifact: the header's shape is impossible.
    """
    mix = quants.QUANTS[quant].recipe
    guessed = mix != quant
    facts = traits(model, imatrix=imatrix)
    tensors = sorted(model.tensors, key=_order)
    n_attn_v = sum(_family(role_of(tensor)) == "attn_v" for tensor in tensors)
    n_layer = int(_first(model.header, "block_count", 0))
    seen: Counter[str] = Counter()
    made = []
    for tensor in tensors:
        if not allows(tensor):
            made.append(Planned(tensor, tensor.type.name, tensor.type.name))
            continue
        role = role_of(tensor)
        family = _family(role)
        # Mixtures of experts go by the layer in the name, except in the mixes that count tensors.
        counts = family == "attn_v" or facts.n_expert < 2 or mix in recipe.COUNTING
        i = seen[family] if counts else _order(tensor)[0]
        seen[family] += 1
        of_row = replace(facts, head_row=tensor.dims[0])
        asked = recipe.tensor_type(role, i, n_attn_v if family == "attn_v" else n_layer, mix, of_row)
        floats = recipe.BASE_TYPE[mix] in recipe.FLOATS
        made.append(Planned(tensor, asked if floats else for_row(asked, tensor.dims[0]), asked, guessed))
    return FilePlan(quant, tuple(made), mix if guessed else "")


def traits(model: GgufModel, *, imatrix: bool = False) -> recipe.Traits:
    """What the recipe's rules ask of this file.

    Raises:
        BadArtifact: the header's shape is impossible.
    """
    header, shape = model.header, reader.shape(model.header, model.tensors)
    n_head = _first(header, "attention.head_count", 0)
    n_head_kv = _first(header, "attention.head_count_kv", n_head)
    gqa = n_head // n_head_kv if n_head_kv else 0
    return recipe.Traits(
        gqa,
        _first(header, "expert_count", 0),
        recipe.is_70b(shape.arch, _first(header, "block_count", 0), gqa),
        all(tensor.name != "output.weight" for tensor in model.tensors),
        imatrix,
        falcon=shape.arch == "falcon",
    )


def allows(tensor: GgufTensor) -> bool:
    """Whether the quantizer touches this tensor at all."""
    n_dims = max((i + 1 for i, dim in enumerate(tensor.dims) if dim > 1), default=1)
    name = tensor.name
    if n_dims < 2 or not name.endswith("weight") or name in _LEFT_ALONE_BY_NAME:
        return False
    return not any(part in name for part in _LEFT_ALONE)


def role_of(tensor: GgufTensor) -> str:
    """The role in `recipe.py`; with "_exps" where the tensor holds the matrices of several experts."""
    if tensor.name == "output.weight":
        return "output"
    if tensor.name in _TABLES:
        return "token_embd"
    role = next((role for part, role in _ROLES if part in tensor.name), "other")
    return f"{role}_exps" if len(tensor.dims) > 2 and tensor.dims[2] > 1 else role


def _family(role: str) -> str:
    """The tensors that are counted together."""
    name = role.removesuffix("_exps")
    return "attn_v" if name == "attn_qkv" else name


def _order(tensor: GgufTensor) -> tuple[int, str]:
    """As llama.cpp sorts: what belongs to no layer first, then by layer, in a layer by name."""
    layer = _LAYER.match(tensor.name)
    return (int(layer[1]) if layer else -1, tensor.name)


def _first(header: GgufHeader, key: str, default: int) -> int:
    """A value of the architecture, of layer 0 where each layer has its own."""
    value = header.of_architecture(key, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def _needs_imatrix(planned: Planned, quant: str) -> bool:
    name = planned.tensor.name
    if planned.guessed or name in _TABLES or name == "output.weight" or not allows(planned.tensor):
        return False
    return planned.type in _NEEDS_IMATRIX or (planned.type == "Q2_K" and quant == "Q2_K_S")

"""How many bytes a model's weights take in a quantization, and how many of them each token reads.

Exact for the architectures of `estimate/architecture.py`; elsewhere an estimate from the parameter count, which
`Weights.exact` says. A published or header-read size always wins over both (`with_tensor_bytes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from edgellm.estimate import architecture, recipe
from edgellm.estimate.layer_parts import Tensor
from edgellm.estimate.tensor_types import TYPES, for_row
from edgellm.types.model import Shape


@dataclass(frozen=True, slots=True)
class Weights:
    total_bytes: int  # tensor data, without the header
    streamed_bytes: int  # read for every generated token
    streamed_params: tuple[tuple[str, int], ...]  # (tensor type, weights read per token), largest first
    exact: bool

    def with_tensor_bytes(self, tensor_bytes: int) -> Weights:
        """The same with a size that was read from the file; what is streamed scales with it."""
        if self.total_bytes in (tensor_bytes, 0):
            return replace(self, total_bytes=tensor_bytes, exact=True)
        streamed = round(self.streamed_bytes * tensor_bytes / self.total_bytes)
        return replace(self, total_bytes=tensor_bytes, streamed_bytes=streamed, exact=True)


def traits(shape: Shape, *, imatrix: bool = False) -> recipe.Traits:
    """What the recipe's rules ask of this shape."""
    gqa = shape.n_head // shape.n_head_kv if shape.n_head_kv else 1
    is_70b = recipe.is_70b(shape.arch, shape.n_layer, gqa)
    return recipe.Traits(
        # The quantizer looks at layer 0, which is a convolution in these.
        0 if shape.arch in architecture.FIRST_LAYER_ATTENDS_NOT else gqa,
        shape.n_expert,
        is_70b,
        shape.tied_embeddings,
        imatrix,
        shape.n_embd,
    )


def weights(
    shape: Shape,
    params: int,
    params_active: int,
    quant: str,
    own_types: tuple[tuple[str, str], ...] = (),
    *,
    imatrix: bool = False,
) -> Weights:
    """Weights of a model in `quant`.

    `own_types` are pairs of a role and the type that its publisher gave it in all layers, whatever the rules say; an
    architecture that is only estimated does not know them.

    Raises:
        KeyError: no recipe of that name (a hand-made mix): only a file's own size can tell.
    """
    exact = _closed_form(shape, quant, own_types, imatrix)
    return _estimated(shape, params, params_active, quant) if exact is None else exact


@lru_cache(maxsize=4096)
def _closed_form(shape: Shape, quant: str, own_types: tuple[tuple[str, str], ...], imatrix: bool) -> Weights | None:
    matrices, total = matrices_of(shape)
    if not matrices:
        return None
    streamed = total
    by_type: dict[str, int] = {}
    for part, kind, layers in stored_types(shape, quant, own_types, imatrix=imatrix):
        used, of = _read_share(part.role, shape)
        elems = part.elems
        size = TYPES[kind].tensor_bytes(elems) * layers
        total += size
        if used:
            streamed += size * used // of
            by_type[kind] = by_type.get(kind, 0) + elems * layers * used // of
    return Weights(total, streamed, ranked(by_type), exact=True)


@lru_cache(maxsize=1024)
def matrices_of(shape: Shape) -> tuple[tuple[Tensor, ...], int]:
    """What quantization changes, and the bytes of what it leaves alone; nothing where the architecture is not known."""
    parts = architecture.tensors(shape) or ()
    kept = sum(TYPES[recipe.KEPT[t.role]].tensor_bytes(t.elems) * len(t.layers) for t in parts if t.role in recipe.KEPT)
    return tuple(t for t in parts if t.role not in recipe.KEPT), kept


def stored_types(
    shape: Shape, quant: str, own_types: tuple[tuple[str, str], ...] = (), *, imatrix: bool = False
) -> Iterator[tuple[Tensor, str, int]]:
    """Each matrix with its type in `quant`, that of `own_types` where its role is there, and the layers that have it.

    Raises:
        KeyError: no recipe of that name.
    """
    matrices, _ = matrices_of(shape)
    facts, own = traits(shape, imatrix=imatrix), dict(own_types)
    n_values = sum(len(t.layers) for t in matrices if t.role in architecture.VALUES)
    for part in matrices:
        if part.role in own:
            yield part, for_row(own[part.role], part.row), len(part.layers)
            continue
        n = n_values if part.role in architecture.VALUES else shape.n_layer
        layers = architecture.numbers(part, matrices, shape.n_expert, counted=quant in recipe.COUNTING)
        for wanted, count in recipe.layer_types(part.role, layers, n, quant, facts):
            yield part, for_row(wanted, part.row), count


def _read_share(role: str, shape: Shape) -> tuple[int, int]:
    """Which fraction of a tensor one token reads: k of E experts, one row of an embedding table that is no head."""
    if role.endswith("_exps") and shape.n_expert:
        return shape.n_expert_used, shape.n_expert
    if role == "per_layer_token_embd" or (role == "token_embd" and not shape.tied_embeddings):
        return 0, 1
    return 1, 1


def _stand_in(shape: Shape, body: int) -> Shape:
    """A plain llama with this model's width, depth, heads and number of weights in its layers."""
    per_layer = body // shape.n_layer
    attention = shape.n_embd * shape.head_dim * 2 * (shape.n_head + shape.n_head_kv)
    n_ff = max(256, (per_layer - attention) // (3 * shape.n_embd) // 256 * 256)
    return replace(shape, arch="llama", n_ff=n_ff, n_attn=None, n_expert=0, n_vocab=32, tied_embeddings=True)


def _estimated(shape: Shape, params: int, params_active: int, quant: str) -> Weights:
    facts = traits(shape)
    table = shape.n_embd * shape.n_vocab
    body = max(0, params - table * (1 if shape.tied_embeddings else 2))
    model = _stand_in(shape, body)
    typical = weights(model, 0, 0, quant)
    elems = sum(t.elems * len(t.layers) for t in architecture.tensors(model) or ())
    body_bytes = body * typical.total_bytes // elems
    head_role = "token_embd" if shape.tied_embeddings else "output"
    head_kind = for_row(recipe.tensor_type(head_role, 0, 1, quant, facts), shape.n_embd)
    embd_kind = for_row(recipe.tensor_type("token_embd", 0, 1, quant, facts), shape.n_embd)
    head = TYPES[head_kind].tensor_bytes(table)
    embd = 0 if shape.tied_embeddings else TYPES[embd_kind].tensor_bytes(table)
    # What a token does not read: idle experts, or a per-layer embedding table that is looked up row by row.
    read = min(body, max(0, params_active - table)) if params_active < params else body
    by_type = {name: n * read // elems for name, n in typical.streamed_params}
    by_type[head_kind] = by_type.get(head_kind, 0) + table
    streamed = head + (body_bytes * read // body if body else 0)
    return Weights(body_bytes + head + embd, streamed, ranked(by_type), exact=False)


def ranked(by_type: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """As `Weights.streamed_params`: most weights first."""
    return tuple(sorted(by_type.items(), key=lambda item: (-item[1], item[0])))

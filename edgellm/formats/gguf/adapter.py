"""LoRA adapters in GGUF: read from strangers' files, and checked against the model that they are to change.

    general.type "adapter" · general.architecture, that of the model · adapter.type "lora" · adapter.lora.alpha f32
    TENSOR.lora_a, TENSOR.lora_b    for each matrix TENSOR of the model: y = W x + alpha / rank * B (A x)

Dimensions, fastest first: W is (in, out), A (in, rank), B (rank, out), each with the model's number of experts behind
where it has them. Of token_embd.weight, (embedding, vocabulary), A is (rank, vocabulary) and B (rank, embedding).
Native code (llama.cpp b11434, `llama-adapter.cpp`, `llama-graph.cpp`) aborts on much of what is refused here: a key of
another type, matrices that cannot be multiplied. Of the rest it takes no notice: a pair that no product uses.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.cursor import LongArray, short
from edgellm.formats.gguf.header import GgufHeader, GgufTensor, key_bytes, parse_gguf
from edgellm.formats.gguf.reader import GgufModel
from edgellm.formats.mapped import map_file, sha256_of

ARCHITECTURE, ALPHA, TOKENS = "general.architecture", "adapter.lora.alpha", "adapter.alora.invocation_tokens"
KINDS = {"general.type": "adapter", "adapter.type": "lora"}
ENDS = (".lora_a", ".lora_b")
EMBEDDING = "token_embd.weight"
MOST_RANK = 4096
# What convert_lora_to_gguf.py writes. The product with an adapter takes others too, but nobody trains in them.
TYPES = frozenset({"F32", "F16", "BF16", "Q8_0"})
_F32, _U32 = struct.pack("<I", 6), struct.pack("<II", 9, 4)  # how a value begins: its type, an array's with elements'
_NOT_MULTIPLIED = ("_norm.weight", "conv.weight", "conv1d.weight")
_HINT = "the file is damaged or was made wrongly: export the adapter again"
_WRONG_BASE = "it was made for another model: name the base that it was tuned on"


@dataclass(frozen=True, slots=True)
class FactorPair:
    """The two factors of what is added to one matrix of the model."""

    name: str  # of the model's tensor, as "blk.0.attn_q.weight"
    a: GgufTensor
    b: GgufTensor

    @property
    def rank(self) -> int:
        return self.b.dims[0]

    @property
    def base_dims(self) -> tuple[int, ...]:
        """Of the matrix that it is added to, fastest first."""
        if self.name == EMBEDDING:
            return (self.b.dims[1], self.a.dims[1])
        return (self.a.dims[0], *self.b.dims[1:])


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file whose pairs are whole, of shapes that multiply. Whether a model has such tensors, `check` says."""

    header: GgufHeader
    pairs: tuple[FactorPair, ...]  # in file order
    alpha: float  # 0 = not said: the product of the factors is added as it is
    sha256: str  # of the whole file; "" = it was not asked for
    invocation_tokens: tuple[int, ...]  # it acts from these tokens on (aLoRA); () = on every token

    @property
    def architecture(self) -> str:
        return self.header.architecture

    @property
    def rank(self) -> int:
        """The largest: a pair may have a smaller one."""
        return max(pair.rank for pair in self.pairs)

    @property
    def tensor_bytes(self) -> int:
        return sum(pair.a.n_bytes + pair.b.n_bytes for pair in self.pairs)

    def scale(self, pair: FactorPair) -> float:
        """By which the product of the pair's factors is multiplied."""
        return self.alpha / pair.rank if self.alpha else 1.0


def read(path: str | Path, *, hashed: bool = True) -> Adapter:
    """The checked adapter of one file. `hashed`: with its SHA-256, which takes most of the time.

    Raises:
        BadArtifact: malformed; or a pair that is not whole, factors that do not multiply, a rank of 0, a key of
            another type or value than native code takes.
        UnsupportedArtifact: no LoRA adapter, big-endian, or a tensor type that adapters are not stored in.
    """
    where = str(path)
    with map_file(where, ".gguf") as view:
        header = parse_gguf(view, file_bytes=len(view), where=where)
        adapter = of_header(header, key_bytes(view, where=where))
        return replace(adapter, sha256=sha256_of(view)) if hashed else adapter


def of_header(header: GgufHeader, spelled: Mapping[str, bytes]) -> Adapter:
    """The adapter that a header describes. `spelled`: its keys as the file has them (`header.key_bytes`).

    Raises:
        BadArtifact, UnsupportedArtifact: as `read`.
    """
    for key, kind in KINDS.items():
        if header.metadata.get(key) != kind:
            message = f"{header.where} is not a LoRA adapter: key {key} is {_shown(header, key)}, {kind!r} is needed"
            raise UnsupportedArtifact(message, hint="name the .gguf file of an adapter")
    if header.big_endian:
        raise UnsupportedArtifact(f"{header.where} is big-endian", hint="export it on a little-endian machine")
    if not header.architecture or not isinstance(header.metadata.get(ARCHITECTURE), str):
        _refuse_key(header, ARCHITECTURE, "the name of the model's architecture is needed")
    return Adapter(header, _pairs(header), _alpha(header, spelled), "", _tokens(header, spelled))


def check(adapter: Adapter, model: GgufModel) -> None:
    """That each pair has a matrix of the model to change, of its dimensions, which the model multiplies by.

    Raises:
        UnsupportedArtifact: names the tensor, what it is and what the model has.
    """
    where, base = adapter.header.where, model.paths[0]
    check_architecture(adapter, model.header.architecture, base)
    tensors = {tensor.name: tensor for tensor in model.tensors}
    for pair in adapter.pairs:
        tensor = tensors.get(pair.name)
        if tensor is None:
            raise UnsupportedArtifact(f"{where} changes {pair.name}, {base} has no such tensor", hint=_WRONG_BASE)
        if tensor.dims != pair.base_dims:
            message = f"{where} changes {pair.name} of {pair.base_dims}, in {base} it is {tensor.dims}"
            raise UnsupportedArtifact(message, hint=_WRONG_BASE)
        if pair.name == EMBEDDING and "output.weight" not in tensors:
            message = f"{where} changes {pair.name}, which is the output of {base}, too"
            raise UnsupportedArtifact(message, hint="tune other matrices")
        if why := _not_adapted(tensor):
            message = f"{where} changes {pair.name}, which is {why} in {base}"
            raise UnsupportedArtifact(message, hint="merge the adapter into the model, or tune other matrices")


def check_architecture(adapter: Adapter, architecture: str, base: str) -> None:
    """All that can be checked where no tensor of the model is known. `base`: what the message calls the model.

    Raises:
        UnsupportedArtifact: it is for another architecture.
    """
    if adapter.architecture != architecture:
        message = f"{adapter.header.where} is for architecture {adapter.architecture}, {base} is of {architecture}"
        raise UnsupportedArtifact(message, hint=_WRONG_BASE)


def _not_adapted(tensor: GgufTensor) -> str:
    """Why native code does not add to a matrix, or aborts where it would."""
    if len(tensor.dims) < 2 or tensor.name.endswith(_NOT_MULTIPLIED):
        return "not a matrix of a product"
    return "stored as NVFP4" if tensor.type.name == "NVFP4" else ""


def _pairs(header: GgufHeader) -> tuple[FactorPair, ...]:
    factors: dict[str, list[GgufTensor | None]] = {}
    for tensor in header.tensors:
        name, end = tensor.name[:-7], tensor.name[-7:]
        if end in ENDS and name and not any(other in name for other in ENDS):
            factors.setdefault(name, [None, None])[ENDS.index(end)] = tensor
        elif tensor.name.endswith("_norm.weight"):
            message = f"{header.where}: tensor {tensor.name} replaces a norm, which native code leaves as it is"
            raise UnsupportedArtifact(message, hint="merge the adapter where it was trained")
        else:
            _refuse(header, f"tensor {tensor.name} is not one of a pair: names end in .lora_a and .lora_b")
    if not factors:
        _refuse(header, "there are no tensors")
    return tuple(_pair(header, name, a, b) for name, (a, b) in factors.items())


def _pair(header: GgufHeader, name: str, a: GgufTensor | None, b: GgufTensor | None) -> FactorPair:
    if a is None or b is None:
        _refuse(header, f"tensor {name}{ENDS[0] if a is None else ENDS[1]} is missing, its other half is there")
    for tensor in (a, b):
        if tensor.type.name not in TYPES:
            message = f"{header.where}: tensor {tensor.name} is of type {tensor.type.name}"
            raise UnsupportedArtifact(message, hint=f"export the adapter as {', '.join(sorted(TYPES))}")
    # The embedding's A has a row for each token: it is looked up, not multiplied.
    is_looked_up = name == EMBEDDING
    is_matrix = len(a.dims) == len(b.dims) and len(a.dims) in ((2,) if is_looked_up else (2, 3))
    if not is_matrix or a.dims[0 if is_looked_up else 1] != b.dims[0] or a.dims[2:] != b.dims[2:]:
        _refuse(header, f"the factors of {name} do not multiply: A is {a.dims}, B is {b.dims}")
    if b.dims[0] > MOST_RANK:
        _refuse(header, f"{name} has rank {b.dims[0]}, at most {MOST_RANK} are allowed")
    return FactorPair(name, a, b)


def _alpha(header: GgufHeader, spelled: Mapping[str, bytes]) -> float:
    if ALPHA not in header.metadata:
        return 0.0
    alpha = header.metadata[ALPHA]
    if not spelled[ALPHA].startswith(_F32) or not isinstance(alpha, float) or not math.isfinite(alpha):
        _refuse_key(header, ALPHA, "a finite float32 is needed")
    return alpha


def _tokens(header: GgufHeader, spelled: Mapping[str, bytes]) -> tuple[int, ...]:
    tokens = header.metadata.get(TOKENS, ())
    if not isinstance(tokens, tuple) or (TOKENS in spelled and not spelled[TOKENS].startswith(_U32)):
        _refuse_key(header, TOKENS, "a short array of uint32 is needed")
    return tokens


def _shown(header: GgufHeader, key: str) -> str:
    value = header.metadata.get(key)
    if value is None:
        return "missing"
    return f"an array of {value.length}" if isinstance(value, LongArray) else short(value)


def _refuse_key(header: GgufHeader, key: str, why: str) -> NoReturn:
    _refuse(header, f"key {key} is {_shown(header, key)}; {why}")


def _refuse(header: GgufHeader, why: str) -> NoReturn:
    raise BadArtifact(f"{header.where}: {why}", hint=_HINT)

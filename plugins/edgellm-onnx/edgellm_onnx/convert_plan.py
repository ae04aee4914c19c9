"""Which matrix gets how many bits, and the graph that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, TensorProto

from edgellm.formats.gguf.decoder import Decoder
from edgellm.formats.rope import RopeScaling, tables
from edgellm_onnx.convert_blocks import BLOCK, EXACT
from edgellm_onnx.convert_source import Floats, Source
from edgellm_onnx.graph import Graph, Layer
from edgellm_onnx.graph_matrix import Matrix, Part
from edgellm_onnx.graph_store import Store

BITS = (4, 8, 16)
ACCURACY = 4  # activations in blocks of int8, as llama.cpp multiplies: see docs/convert-onnx.md
_FLOATS = frozenset({"F32", "F16", "BF16", "F64"})


@dataclass(slots=True)
class Plan:
    """The graph, and what its initializers are made of."""

    model: ModelProto
    store: Store
    matrices: list[Matrix]
    vectors: dict[str, Floats]  # norms, biases and rotation tables, by initializer


@dataclass(slots=True)
class Planner:
    """Asks the source for every tensor, in the order of the layers."""

    source: Source
    decoder: Decoder
    bits: int  # of the layers' matrices; 0 = as many as each has
    table_bits: int  # of the embedding table and the head; 0 = chosen
    store: Store = field(default_factory=Store)
    matrices: list[Matrix] = field(default_factory=list)
    vectors: dict[str, Floats] = field(default_factory=dict)
    biases: set[str] = field(default_factory=set)
    odd_rows: list[str] = field(default_factory=list)  # matrices kept at 16 bits because rows are no whole blocks

    def plan(self) -> Plan:
        decoder = self.decoder
        table = self._table("token_embd", "model.embed_tokens" if not decoder.tied else "lm_head")
        layers = [self._layer(number) for number in range(decoder.n_layer)]
        self._norm("model.norm", "output_norm", decoder.hidden)
        head = table if decoder.tied else self._table("output", "lm_head")
        self._rotations()
        model = Graph(decoder, self.store, frozenset(self.biases), ACCURACY).build(table, layers, head)
        return Plan(model, self.store, self.matrices, self.vectors)

    def _layer(self, number: int) -> Layer:
        decoder, name = self.decoder, f"model.layers.{number}"
        q, kv = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
        self._norm(f"{name}.input_layernorm", f"blk.{number}.attn_norm", decoder.hidden)
        attention = self._attention_in(number, f"{name}.self_attn", q, kv)
        if decoder.qk_norm:
            for which in ("q", "k"):
                self._norm(f"{name}.self_attn.{which}_norm", f"blk.{number}.attn_{which}_norm", decoder.head_dim)
        out = self._matrix(f"{name}.self_attn.o_proj", [(f"blk.{number}.attn_output", decoder.hidden, 0)], q)
        before = "post_attention_layernorm"
        if decoder.post_norms:
            self._norm(f"{name}.{before}", f"blk.{number}.post_attention_norm", decoder.hidden)
            self._norm(f"{name}.post_feedforward_layernorm", f"blk.{number}.post_ffw_norm", decoder.hidden)
            before = "pre_feedforward_layernorm"
        self._norm(f"{name}.{before}", f"blk.{number}.ffn_norm", decoder.hidden)
        gate, up = (
            self._matrix(f"{name}.mlp.{what}_proj", [(f"blk.{number}.ffn_{what}", decoder.ffn, 0)], decoder.hidden)
            for what in ("gate", "up")
        )
        down = self._matrix(f"{name}.mlp.down_proj", [(f"blk.{number}.ffn_down", decoder.hidden, 0)], decoder.ffn)
        return Layer(attention, out, gate, up, down)

    def _attention_in(self, number: int, name: str, q: int, kv: int) -> tuple[Matrix, ...]:
        """One matrix of all three where nothing comes between it and the attention, and all get as many bits."""
        decoder, layer = self.decoder, f"blk.{number}"
        turned = (decoder.heads, decoder.kv_heads) if decoder.interleaved else (0, 0)
        parts = [(f"{layer}.attn_q", q, turned[0]), (f"{layer}.attn_k", kv, turned[1]), (f"{layer}.attn_v", kv, 0)]
        has_bias = {self.source.has(f"{tensor}.bias") for tensor, _, _ in parts}
        widths = {self._width(f"{tensor}.weight", rows, decoder.hidden) for tensor, rows, _ in parts}
        if not decoder.qk_norm and len(widths) == len(has_bias) == 1:
            return (self._matrix(f"{name}.qkv_proj", parts, decoder.hidden),)
        names = ("q_proj", "k_proj", "v_proj")
        return tuple(
            self._matrix(f"{name}.{which}", [part], decoder.hidden) for which, part in zip(names, parts, strict=True)
        )

    def _table(self, tensor: str, name: str) -> Matrix:
        """The embedding table or the head. With few bits asked for it keeps 8, unless the source has fewer."""
        decoder = self.decoder
        kind = self.source.tensor(f"{tensor}.weight", decoder.vocab, decoder.hidden).type.name
        own = _own_bits(kind)
        bits = self.table_bits or {0: own, 4: min(own, 8), 8: 8, 16: 16}[self.bits]
        return self._add(name, (Part(f"{tensor}.weight", kind, decoder.vocab),), decoder.hidden, bits)

    def _matrix(self, name: str, parts: Sequence[tuple[str, int, int]], cols: int) -> Matrix:
        """A matrix and, where the source has one, its bias."""
        split = tuple(
            Part(f"{tensor}.weight", self.source.tensor(f"{tensor}.weight", rows, cols).type.name, rows, heads)
            for tensor, rows, heads in parts
        )
        if self.source.has(f"{parts[0][0]}.bias"):
            self._bias(name, parts)
        return self._add(name, split, cols, self._width(split[0].tensor, split[0].rows, cols))

    def _add(self, name: str, parts: tuple[Part, ...], cols: int, bits: int) -> Matrix:
        if cols % BLOCK and bits != 16:
            self.odd_rows.append(name)
            bits = 16
        matrix = Matrix(name, parts, cols, bits)
        matrix.reserve(self.store)
        self.matrices.append(matrix)
        return matrix

    def _width(self, tensor: str, rows: int, cols: int) -> int:
        return self.bits or _own_bits(self.source.tensor(tensor, rows, cols).type.name)

    def _norm(self, name: str, tensor: str, size: int) -> None:
        self._vector(f"{name}.weight", self.source.vector(f"{tensor}.weight", size))

    def _bias(self, name: str, parts: Sequence[tuple[str, int, int]]) -> None:
        orders = [Part(tensor, "F32", rows, heads).order() for tensor, rows, heads in parts]
        values = [
            self.source.vector(f"{tensor}.bias", rows)[order]
            for (tensor, rows, _), order in zip(parts, orders, strict=True)
        ]
        self._vector(f"{name}.bias", np.concatenate(values))
        self.biases.add(name)

    def _rotations(self) -> None:
        """Tables of cosines and sines for every position."""
        decoder, divisors = self.decoder, None
        if self.source.has("rope_freqs.weight"):
            divisors = self.source.vector("rope_freqs.weight", decoder.head_dim // 2)
        kinds = {"local" if is_local else "global" for is_local in decoder.local}
        ropes = {
            "global": (decoder.rope_base, decoder.rope_scaling), "local": (decoder.local_base, RopeScaling()),
        }  # fmt: skip
        for kind in sorted(kinds):
            cos, sin = tables(decoder.ctx, decoder.head_dim, *ropes[kind], divisors)
            self._vector(f"cos_{kind}", cos)
            self._vector(f"sin_{kind}", sin)

    def _vector(self, name: str, values: Floats) -> None:
        self.vectors[name] = values
        self.store.reserve(name, TensorProto.FLOAT, *values.shape)


def _own_bits(kind: str) -> int:
    """4, 8 or 16: the least that keeps what a GGUF type holds. 4 is for the one type that fits without rounding."""
    if kind in _FLOATS:
        return 16
    return 4 if (kind, 4) in EXACT else 8

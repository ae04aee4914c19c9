"""A decoder as an ONNX graph, of onnxruntime's own operators (domain com.microsoft), with the inputs and outputs that
onnxruntime-genai expects.

    input_ids int64 (batch_size, sequence_length)          logits float32 (batch_size, rows asked for, vocab)
    attention_mask int64 (batch_size, total_sequence_length)
    past_key_values.N.key/value float32 (batch_size, kv_heads, past_sequence_length, head_dim)   present.N.key/value
    num_logits int64 (1), optional: logits of the last rows only

`num_logits` is an initializer that is an input too, so callers that do not know it get every row. Rows are left out
behind the last layer's attention, after which no row needs another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgellm.formats.gguf.decoder import Decoder
from edgellm_onnx.convert_blocks import BLOCK
from edgellm_onnx.graph_matrix import Matrix
from edgellm_onnx.graph_store import Store

OPSET, IR_VERSION = 21, 10  # onnxruntime 1.20 and newer read them
MICROSOFT = "com.microsoft"
ALL_ROWS = 2**31 - 1  # num_logits where nobody says


@dataclass(frozen=True, slots=True)
class Layer:
    """Matrices of one layer."""

    attention_in: tuple[Matrix, ...]  # one of q, k and v together, or three
    attention_out: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix


class Graph:
    """Collects nodes. Names of tensors follow Hugging Face's, those of nodes onnxruntime-genai's."""

    def __init__(self, decoder: Decoder, store: Store, biases: frozenset[str], accuracy: int) -> None:
        self._decoder = decoder
        self._store = store
        self._biases = biases  # names of matrices that have one, stored as NAME.bias
        self._accuracy = accuracy
        self._nodes: list[NodeProto] = []

    def build(self, table: Matrix, layers: Sequence[Layer], head: Matrix) -> ModelProto:
        """The model; `head` is `table` where they are tied."""
        self._preamble()
        self._embed(table)
        skip, added = "embedded", ""
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            skip, added = self._layer(number, layer, skip, added, last=last)
        normed, _ = self._norm("model.norm", skip, added)
        self._matmul(head, normed, output="logits")
        graph = GraphProto(name="decoder", node=self._nodes, initializer=self._store.protos)
        graph.input.extend(self._inputs())
        graph.output.extend(self._outputs())
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="edgellm")

    def _node(
        self, kind: str, name: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: Any
    ) -> str:
        """Name of the first output."""
        names = outputs or (f"{name}/output_0",)
        self._nodes.append(helper.make_node(kind, inputs, names, name, domain=domain, **attributes))
        return names[0]

    def _preamble(self) -> None:
        """Lengths from the mask, where the last rows start."""
        store = self._store
        store.small("num_logits", np.asarray([ALL_ROWS], np.int64))
        store.small("last", np.asarray([np.iinfo(np.int64).max], np.int64))
        store.small("one", np.asarray([1], np.int64))
        store.small("one_scalar", np.asarray(1, np.int64))
        counted = self._node("ReduceSum", "/model/mask/ReduceSum", ["attention_mask", "one"], keepdims=0)
        cached = self._node("Sub", "/model/mask/Sub", [counted, "one"])
        self._node("Cast", "/model/mask/Cast", [cached], "seqlens_k", to=TensorProto.INT32)
        shape = self._node("Shape", "/model/mask/Shape", ["attention_mask"])
        total = self._node("Gather", "/model/mask/Gather", [shape, "one_scalar"], axis=0)
        self._node("Cast", "/model/mask/Cast_total", [total], "total_sequence_length", to=TensorProto.INT32)
        self._node("Neg", "/model/num_logits/Neg", ["num_logits"], "first_row")

    def _embed(self, table: Matrix) -> None:
        store, scale = self._store, self._decoder.embedding_scale
        output = "embedded" if scale == 1.0 else "looked_up"
        name = "/model/embed_tokens"
        if table.bits == 16:
            rows = self._node("Gather", f"{name}/Gather", [table.weight, "input_ids"])
            self._node("Cast", f"{name}/Cast", [rows], output, to=TensorProto.FLOAT)
        else:
            flat = f"{table.weight}_rows"
            store.alias(flat, table.weight, TensorProto.UINT8, table.rows, table.cols * table.bits // 8)
            inputs = [flat, "input_ids", table.scales, *([table.zero_points] if table.zeros else [])]
            self._node(
                "GatherBlockQuantized", f"{name}/GatherBlockQuantized", inputs, output, domain=MICROSOFT,
                bits=table.bits, block_size=BLOCK, gather_axis=0, quantize_axis=1,
            )  # fmt: skip
        if scale != 1.0:
            store.small("embedding_scale", np.asarray(scale, np.float32))
            self._node("Mul", f"{name}/Mul", [output, "embedding_scale"], "embedded")

    def _layer(self, number: int, layer: Layer, skip: str, added: str, *, last: bool) -> tuple[str, str]:
        """(sum before the feed-forward part, what it adds): they are added in the norm that follows."""
        name, path = f"model.layers.{number}", f"/model/layers.{number}"
        normed, skip = self._norm(f"{name}.input_layernorm", skip, added)
        attended = self._matmul(layer.attention_out, self._attention(number, layer, normed))
        if last:
            skip, attended = (
                self._node("Slice", f"{path}/Slice_{what}", [value, "first_row", "last", "one"])
                for what, value in (("skip", skip), ("attention", attended))
            )
        if self._decoder.post_norms:
            attended, _ = self._norm(f"{name}.post_attention_layernorm", attended)
        before = "pre_feedforward" if self._decoder.post_norms else "post_attention"
        normed, skip = self._norm(f"{name}.{before}_layernorm", skip, attended)
        gate, up = self._matmul(layer.gate, normed), self._matmul(layer.up, normed)
        if self._decoder.gelu:
            active = self._node("Gelu", f"{path}/mlp/Gelu", [gate], approximate="tanh")
        else:
            active = self._node("QuickGelu", f"{path}/mlp/SiLU", [gate], domain=MICROSOFT, alpha=1.0)
        out = self._matmul(layer.down, self._node("Mul", f"{path}/mlp/Mul", [active, up]))
        if self._decoder.post_norms:
            out, _ = self._norm(f"{name}.post_feedforward_layernorm", out)
        return skip, out

    def _norm(self, name: str, value: str, added: str = "") -> tuple[str, str]:
        """(RMS norm of `value` + `added`, that sum)."""
        path, eps = "/" + name.replace(".", "/"), self._decoder.eps
        weight = f"{name}.weight"
        if not added:
            done = self._node(
                "SimplifiedLayerNormalization", f"{path}/Norm", [value, weight], axis=-1, epsilon=eps, stash_type=1
            )
            return done, value
        outputs = (f"{path}/output_0", "", "", f"{path}/output_3")
        self._node(
            "SkipSimplifiedLayerNormalization", f"{path}/Norm", [value, added, weight], *outputs, domain=MICROSOFT,
            epsilon=eps,
        )  # fmt: skip
        return outputs[0], outputs[3]

    def _attention(self, number: int, layer: Layer, normed: str) -> str:
        decoder, path = self._decoder, f"/model/layers.{number}/attn"
        projections = [self._matmul(matrix, normed) for matrix in layer.attention_in]
        if decoder.qk_norm:
            projections[0] = self._head_norm(number, "q", projections[0], decoder.heads)
            projections[1] = self._head_norm(number, "k", projections[1], decoder.kv_heads)
        is_local = decoder.local[number]
        kind = "local" if is_local else "global"
        past = [f"past_key_values.{number}.{what}" for what in ("key", "value")]
        present = [f"present.{number}.{what}" for what in ("key", "value")]
        lengths, angles = ("seqlens_k", "total_sequence_length"), (f"cos_{kind}", f"sin_{kind}")
        inputs = [*projections, *[""] * (3 - len(projections)), *past, *lengths, *angles]
        return self._node(
            "GroupQueryAttention", f"{path}/GroupQueryAttention", inputs, f"{path}/output_0", *present,
            domain=MICROSOFT, num_heads=decoder.heads, kv_num_heads=decoder.kv_heads, scale=decoder.attention_scale,
            local_window_size=decoder.window if is_local else -1, do_rotary=1, rotary_interleaved=0,
        )  # fmt: skip

    def _head_norm(self, number: int, which: str, value: str, heads: int) -> str:
        """RMS norm of each head."""
        path, size = f"/model/layers.{number}/attn/{which}_norm", self._decoder.head_dim
        apart = self._node("Reshape", f"{path}/Reshape_in", [value, self._shape(0, 0, heads, size)])
        weight = f"model.layers.{number}.self_attn.{which}_norm.weight"
        normed = self._node(
            "SimplifiedLayerNormalization", f"{path}/Norm", [apart, weight], axis=-1, epsilon=self._decoder.eps,
            stash_type=1,
        )  # fmt: skip
        return self._node("Reshape", f"{path}/Reshape_out", [normed, self._shape(0, 0, heads * size)])

    def _shape(self, *dims: int) -> str:
        name = "shape_" + "_".join(map(str, dims))
        if all(proto.name != name for proto in self._store.protos):
            self._store.small(name, np.asarray(dims, np.int64))
        return name

    def _matmul(self, matrix: Matrix, value: str, *, output: str = "") -> str:
        path = "/" + matrix.name.replace(".", "/")
        done = output or f"{path}/output_0"
        bias = f"{matrix.name}.bias" if matrix.name in self._biases else ""
        if matrix.bits == 16:
            weight = self._node("Cast", f"{path}/Cast", [matrix.weight], to=TensorProto.FLOAT)
            product = f"{path}/product" if bias else done
            self._node("FusedMatMul", f"{path}/MatMul", [value, weight], product, domain=MICROSOFT, transB=1)
            return self._node("Add", f"{path}/Add", [product, bias], done) if bias else done
        inputs = [value, matrix.weight, matrix.scales, matrix.zero_points, "", bias]
        while not inputs[-1]:
            inputs.pop()
        return self._node(
            "MatMulNBits", f"{path}/MatMulNBits", inputs, done, domain=MICROSOFT, K=matrix.cols, N=matrix.rows,
            bits=matrix.bits, block_size=BLOCK, accuracy_level=self._accuracy,
        )  # fmt: skip

    def _inputs(self) -> list[ValueInfoProto]:
        return [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("batch_size", "sequence_length")),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ("batch_size", "total_sequence_length")),
            *self._cache("past_key_values", "past_sequence_length"),
            helper.make_tensor_value_info("num_logits", TensorProto.INT64, (1,)),
        ]

    def _outputs(self) -> list[ValueInfoProto]:
        rows = ("batch_size", "logits_length", self._decoder.vocab)
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, rows)
        return [logits, *self._cache("present", "total_sequence_length")]

    def _cache(self, name: str, length: str) -> list[ValueInfoProto]:
        decoder = self._decoder
        dims = ("batch_size", decoder.kv_heads, length, decoder.head_dim)
        return [
            helper.make_tensor_value_info(f"{name}.{layer}.{what}", TensorProto.FLOAT, dims)
            for layer in range(decoder.n_layer)
            for what in ("key", "value")
        ]

"""Tiny llama-like decoders as ONNX folders of every common shape, and the same forward in numpy.

SHARED     onnxruntime-genai's shape: GroupQueryAttention, one buffer for past and present
GROWING    Optimum's: past_key_values in, a longer present out, plain ONNX operators
MERGED     one graph with a branch for the first step; SEPARATE: two graphs
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bitnet.folders import tokenizer_json
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 17, 9
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
BLOCK = 32
END = 1  # the token that ends a text


@dataclass(frozen=True)
class Tiny:
    """Sizes of a model, and what its graph looks like."""

    layers: int = 2
    hidden: int = 64
    ffn: int = 96
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 304
    positions: int = 512
    dtype: str = "float32"
    bits: int = 0  # of MatMulNBits; 0 = plain MatMul
    num_logits: bool = False
    external: bool = False
    seed: int = 0
    ends: bool = True  # False = only where nothing else is allowed

    @property
    def dim(self) -> int:
        return self.hidden // self.heads

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """By name; matrices are [inputs, outputs]. Quantized ones are what their codes stand for."""
        rng = np.random.default_rng(self.seed)
        kv = self.kv_heads * self.dim
        shapes = {"embed": (self.vocab, self.hidden), "norm": (self.hidden,), "head": (self.hidden, self.vocab)}
        for n in range(self.layers):
            shapes |= {
                f"{n}.norm1": (self.hidden,), f"{n}.norm2": (self.hidden,), f"{n}.q": (self.hidden, self.hidden),
                f"{n}.k": (self.hidden, kv), f"{n}.v": (self.hidden, kv), f"{n}.o": (self.hidden, self.hidden),
                f"{n}.gate": (self.hidden, self.ffn), f"{n}.up": (self.hidden, self.ffn),
                f"{n}.down": (self.ffn, self.hidden),
            }  # fmt: skip
        made = {}
        for name, shape in shapes.items():
            norm = "norm" in name
            value = 1 + 0.1 * rng.standard_normal(shape) if norm else rng.standard_normal(shape) / np.sqrt(shape[0])
            made[name] = (value if name != "embed" else rng.standard_normal(shape)).astype(np.float32)
        if not self.ends:  # the first number is the same in each token, no layer changes it, and END reads nothing else
            made["embed"][:, 0] = 2
            for n in range(self.layers):
                made[f"{n}.o"][:, 0] = made[f"{n}.down"][:, 0] = 0
            made["head"][:, END] = 0
            made["head"][0, END] = -40
        if self.bits:
            matrices = [name for name in made if made[name].ndim == 2 and name != "embed"]
            made |= {name: dequantized(*quantized(made[name])) for name in matrices}
        return made

    @functools.cached_property
    def angles(self) -> tuple[np.ndarray, np.ndarray]:
        steps = 10000.0 ** (-np.arange(0, self.dim, 2) / self.dim)
        angle = np.arange(self.positions)[:, None] * steps[None, :]
        return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def logits(self, tokens: list[int]) -> np.ndarray:
        """float32 [tokens, vocab]: the whole text at once, in double precision."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        cos, sin = (table[: len(tokens)].astype(np.float64)[:, None, :] for table in self.angles)
        x = w["embed"][tokens]
        for n in range(self.layers):
            h = _norm(x, w[f"{n}.norm1"])
            q, k, v = ((h @ w[f"{n}.{name}"]).reshape(len(tokens), -1, self.dim) for name in "qkv")
            q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
            k, v = (np.repeat(part, self.heads // self.kv_heads, axis=1) for part in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.dim)
            scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
            share = np.exp(scores - scores.max(-1, keepdims=True))
            share /= share.sum(-1, keepdims=True)
            x = x + np.einsum("hqk,khd->qhd", share, v).reshape(len(tokens), -1) @ w[f"{n}.o"]
            h = _norm(x, w[f"{n}.norm2"])
            gate = h @ w[f"{n}.gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"{n}.up"])) @ w[f"{n}.down"]
        return (_norm(x, w["norm"]) @ w["head"]).astype(np.float32)


def _norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def _rotated(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def quantized(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes uint8 [outputs, blocks, BLOCK], scales float32 [outputs, blocks]) of 4 bits around 8."""
    blocks = matrix.T.reshape(matrix.shape[1], -1, BLOCK)
    scales = np.abs(blocks).max(-1) / 7
    return np.clip(np.rint(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8), scales.astype(np.float32)


def dequantized(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return ((codes.astype(np.float32) - 8) * scales[..., None]).reshape(codes.shape[0], -1).T.copy()


@dataclass
class Graph:
    """Nodes and constants while they are put together."""

    tiny: Tiny
    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        names = [f"{self.prefix}{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0]

    def to(self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, name: str, value: Any) -> str:
        return self.constant(name, np.array(value))

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def real(self, name: str, value: np.ndarray) -> str:
        return self.constant(name, value.astype(self.tiny.dtype))

    def norm(self, x: str, name: str) -> str:
        weight = self.real(name, self.tiny.weights[name])
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.real("eps", np.array(1e-5))))
        return self.op("Mul", self.op("Div", x, root), weight)

    def product(self, x: str, name: str) -> str:
        matrix = self.tiny.weights[name]
        if not self.tiny.bits:
            return self.op("MatMul", x, self.real(name, matrix))
        codes, scales = quantized(matrix)
        packed = self.constant(f"{name}.codes", (codes[..., ::2] | codes[..., 1::2] << 4))
        return self.op(
            "MatMulNBits", x, packed, self.constant(f"{name}.scales", scales.reshape(-1)), domain="com.microsoft",
            K=matrix.shape[0], N=matrix.shape[1], bits=4, block_size=BLOCK, accuracy_level=0,
        )  # fmt: skip

    def feed_forward(self, x: str, n: int) -> str:
        h = self.norm(x, f"{n}.norm2")
        gate = self.product(h, f"{n}.gate")
        mixed = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), self.product(h, f"{n}.up"))
        return self.op("Add", x, self.product(mixed, f"{n}.down"))


def _value(name: str, dtype: int, dims: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def _cache_values(tiny: Tiny, name: str, cells: str) -> list[onnx.ValueInfoProto]:
    dims = ["batch", tiny.kv_heads, cells, tiny.dim]
    return [
        _value(f"{name}.{n}.{part}", TYPES[tiny.dtype], dims) for n in range(tiny.layers) for part in ("key", "value")
    ]


def shared_graph(tiny: Tiny) -> onnx.ModelProto:
    """GroupQueryAttention with rotation inside, as onnxruntime-genai's builder has it."""
    g = Graph(tiny)
    lengths = g.op("Sub", g.op("ReduceSum", "attention_mask", g.ints(1), keepdims=0), g.ints(1))
    lengths = g.op("Cast", lengths, to=TensorProto.INT32)
    total = g.op("Gather", g.op("Shape", "attention_mask"), g.scalar("one", np.int64(1)), axis=0)
    total = g.op("Cast", total, to=TensorProto.INT32)
    cos, sin = (g.real(name, table) for name, table in zip(("cos", "sin"), tiny.angles, strict=True))
    x = g.op("Gather", g.real("embed", tiny.weights["embed"]), "input_ids")
    for n in range(tiny.layers):
        h = g.norm(x, f"{n}.norm1")
        q, k, v = (g.product(h, f"{n}.{name}") for name in "qkv")
        past = [f"past_key_values.{n}.{part}" for part in ("key", "value")]
        attention = f"attention.{n}"
        g.to(
            "GroupQueryAttention", [q, k, v, *past, lengths, total, cos, sin],
            [attention, f"present.{n}.key", f"present.{n}.value"], domain="com.microsoft", num_heads=tiny.heads,
            kv_num_heads=tiny.kv_heads, do_rotary=1, rotary_interleaved=0, scale=tiny.dim**-0.5,
        )  # fmt: skip
        x = g.feed_forward(g.op("Add", x, g.product(attention, f"{n}.o")), n)
    inputs = [
        _value("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        _value("attention_mask", TensorProto.INT64, ["batch", "total"]),
        *_cache_values(tiny, "past_key_values", "past"),
    ]
    if tiny.num_logits:
        g.constant("num_logits", np.array([2**31], np.int64))
        inputs.append(_value("num_logits", TensorProto.INT64, [1]))
        x = g.op("Slice", x, g.op("Neg", "num_logits"), g.ints(2**31), g.ints(1))
    g.to("Identity", [g.product(g.norm(x, "norm"), "head")], ["logits"])
    return _model(g, inputs, _outputs(tiny))


def growing_body(g: Graph, *, has_past: bool) -> None:
    """Plain operators; adds `logits` and `present.*` under the graph's prefix."""
    tiny = g.tiny
    x = g.op("Gather", g.real("embed", tiny.weights["embed"]), "input_ids")
    cos, sin = (
        g.op("Unsqueeze", g.op("Gather", g.real(name, table), "position_ids"), g.ints(1))
        for name, table in zip(("cos", "sin"), tiny.angles, strict=True)
    )
    bias = _bias(g)
    for n in range(tiny.layers):
        h = g.norm(x, f"{n}.norm1")
        parts = {}
        for name, heads in (("q", tiny.heads), ("k", tiny.kv_heads), ("v", tiny.kv_heads)):
            split = g.op("Reshape", g.product(h, f"{n}.{name}"), g.ints(0, 0, heads, tiny.dim))
            parts[name] = g.op("Transpose", split, perm=[0, 2, 1, 3])
        parts["q"], parts["k"] = _turned(g, parts["q"], cos, sin), _turned(g, parts["k"], cos, sin)
        for name, part in (("k", "key"), ("v", "value")):
            now = f"{g.prefix}present.{n}.{part}"
            if has_past:
                g.to("Concat", [f"past_key_values.{n}.{part}", parts[name]], [now], axis=2)
            else:
                g.to("Identity", [parts[name]], [now])
            parts[name] = _repeated(g, now)
        keys = g.op("Transpose", parts["k"], perm=[0, 1, 3, 2])
        scores = g.op("Mul", g.op("MatMul", parts["q"], keys), g.real("scale", np.array(tiny.dim**-0.5)))
        share = g.op("Softmax", g.op("Add", scores, bias), axis=-1)
        mixed = g.op("Transpose", g.op("MatMul", share, parts["v"]), perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", mixed, g.ints(0, 0, tiny.hidden))
        x = g.feed_forward(g.op("Add", x, g.product(mixed, f"{n}.o")), n)
    g.to("Identity", [g.product(g.norm(x, "norm"), "head")], [f"{g.prefix}logits"])


def _bias(g: Graph) -> str:
    """[batch, 1, tokens, cells]: 0 where a token may look, very negative elsewhere."""
    cells = g.op("Gather", g.op("Shape", "attention_mask"), g.scalar("one", np.int64(1)), axis=0)
    index = g.op("Range", g.scalar("zero", np.int64(0)), cells, g.scalar("one", np.int64(1)))
    seen = g.op("LessOrEqual", index, g.op("Unsqueeze", "position_ids", g.ints(2)))
    there = g.op("Unsqueeze", g.op("Cast", "attention_mask", to=TensorProto.BOOL), g.ints(1))
    far = g.real("far", np.array(-60000.0)), g.real("near", np.array(0.0))
    return g.op("Unsqueeze", g.op("Where", g.op("And", seen, there), far[1], far[0]), g.ints(1))


def _turned(g: Graph, x: str, cos: str, sin: str) -> str:
    half = g.tiny.dim // 2
    a = g.op("Slice", x, g.ints(0), g.ints(half), g.ints(3))
    b = g.op("Slice", x, g.ints(half), g.ints(g.tiny.dim), g.ints(3))
    one = g.op("Sub", g.op("Mul", a, cos), g.op("Mul", b, sin))
    other = g.op("Add", g.op("Mul", b, cos), g.op("Mul", a, sin))
    return g.op("Concat", one, other, axis=3)


def _repeated(g: Graph, x: str) -> str:
    tiny = g.tiny
    wide = g.op("Tile", g.op("Unsqueeze", x, g.ints(2)), g.ints(1, 1, tiny.heads // tiny.kv_heads, 1, 1))
    return g.op("Reshape", wide, g.ints(0, tiny.heads, -1, tiny.dim))


def growing_graph(tiny: Tiny, *, has_past: bool = True) -> onnx.ModelProto:
    g = Graph(tiny)
    growing_body(g, has_past=has_past)
    past = _cache_values(tiny, "past_key_values", "past") if has_past else []
    return _model(g, [*_text_inputs(), *past], _outputs(tiny))


def merged_graph(tiny: Tiny) -> onnx.ModelProto:
    """Both bodies as branches of an If, with the weights outside."""
    constants: dict[str, onnx.TensorProto] = {}
    branches = {}
    for name, has_past in (("then_branch", True), ("else_branch", False)):
        g = Graph(tiny, prefix=f"{name}/", constants=constants)
        growing_body(g, has_past=has_past)
        outputs = [_value(f"{g.prefix}{value.name}", TYPES[tiny.dtype], _dims(value)) for value in _outputs(tiny)]
        branches[name] = helper.make_graph(g.nodes, name, [], outputs)
    outer = Graph(tiny, constants=constants)
    outer.to("If", ["use_cache_branch"], [value.name for value in _outputs(tiny)], **branches)
    flag = _value("use_cache_branch", TensorProto.BOOL, [1])
    return _model(outer, [*_text_inputs(), *_cache_values(tiny, "past_key_values", "past"), flag], _outputs(tiny))


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _text_inputs() -> list[onnx.ValueInfoProto]:
    return [
        _value("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        _value("attention_mask", TensorProto.INT64, ["batch", "total"]),
        _value("position_ids", TensorProto.INT64, ["batch", "tokens"]),
    ]


def _outputs(tiny: Tiny) -> list[onnx.ValueInfoProto]:
    logits = _value("logits", TYPES[tiny.dtype], ["batch", "rows", tiny.vocab])
    return [logits, *_cache_values(tiny, "present", "total")]


def _model(g: Graph, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    graph = helper.make_graph(g.nodes, "tiny", inputs, outputs, initializer=list(g.constants.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="edgellm tests")


def write(folder: Path, models: dict[str, onnx.ModelProto], tiny: Tiny, *, genai: bool = False) -> Path:
    """A folder with graphs, configuration, tokenizer and template."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        data = (
            {"save_as_external_data": True, "location": f"{name}.data", "size_threshold": 1024} if tiny.external else {}
        )
        onnx.save_model(model, folder / name, **data)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": tiny.layers,
        "hidden_size": tiny.hidden, "intermediate_size": tiny.ffn, "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads, "vocab_size": tiny.vocab, "max_position_embeddings": tiny.positions,
        "eos_token_id": END,
    }  # fmt: skip
    if genai:
        (folder / "genai_config.json").write_text(json.dumps(_genai_config(tiny, next(iter(models)))))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder


def _genai_config(tiny: Tiny, graph: str) -> dict[str, Any]:
    parts = {f"{when}_{part}_names": f"{prefix}.%d.{part}" for part in ("key", "value")
             for when, prefix in (("past", "past_key_values"), ("present", "present"))}  # fmt: skip
    decoder = {
        "filename": graph, "head_size": tiny.dim, "hidden_size": tiny.hidden, "num_attention_heads": tiny.heads,
        "num_hidden_layers": tiny.layers, "num_key_value_heads": tiny.kv_heads,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask"}
        | {name: text for name, text in parts.items() if name.startswith("past")},
        "outputs": {"logits": "logits"} | {name: text for name, text in parts.items() if name.startswith("present")},
    }  # fmt: skip
    return {
        "model": {"type": "llama", "context_length": tiny.positions, "vocab_size": tiny.vocab, "bos_token_id": 0,
                  "eos_token_id": [END], "pad_token_id": END, "decoder": decoder},
        "search": {"past_present_share_buffer": True},
    }  # fmt: skip


def shared(folder: Path, tiny: Tiny | None = None) -> Path:
    tiny = tiny or Tiny()
    return write(folder, {"model.onnx": shared_graph(tiny)}, tiny, genai=True)


def growing(folder: Path, tiny: Tiny | None = None) -> Path:
    tiny = tiny or Tiny()
    return write(folder, {"model.onnx": growing_graph(tiny)}, tiny)


def merged(folder: Path, tiny: Tiny | None = None) -> Path:
    tiny = tiny or Tiny()
    return write(folder, {"decoder_model_merged.onnx": merged_graph(tiny)}, tiny)


def separate(folder: Path, tiny: Tiny | None = None) -> Path:
    tiny = tiny or Tiny()
    graphs = {
        "decoder_model.onnx": growing_graph(tiny, has_past=False), "decoder_with_past_model.onnx": growing_graph(tiny)
    }  # fmt: skip
    return write(folder, graphs, tiny)


KINDS = {"shared": shared, "growing": growing, "merged": merged, "separate": separate}

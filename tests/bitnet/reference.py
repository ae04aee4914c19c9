"""The forward pass of a ternary model in numpy: slow, plain, the oracle of the engine.

Written from the papers and from how llama.cpp and transformers compute, not from the native code. Everything is float64
but what the engine's definition rounds: activations to int8 (one scale a token, or one for 256), keys and values to
half precision or int8, head activations to int8 where the head is quantized. Integer products are exact: they are
sums of integers far below 2**53, which float64 holds.
"""

from __future__ import annotations

import numpy as np
from bitnet import ggml
from edgellm_bitnet.codecs import floats, i2_s, packed, q1_0, q2_0, tq1_0, tq2_0
from edgellm_bitnet.ternary import Ternary

BLOCK_CODECS = {"TQ2_0": tq2_0, "TQ1_0": tq1_0, "Q2_0": q2_0, "Q1_0": q1_0}
REAL = ("F32", "F16", "BF16")
INPUTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


class Reference:
    """One sequence through the model of `weights` (an edgellm_bitnet.weights.Weights)."""

    def __init__(self, weights, *, act_block=0, head="", kv_type="f16"):
        self.weights, self.arch = weights, weights.architecture
        self.act_block, self.head, self.kv_type = act_block, head, kv_type
        self.products = {
            (layer, name): ternary_of(weights.matrix(f"blk.{layer}.{name}.weight"))
            for layer in range(self.arch.layers)
            for name in INPUTS
        }
        self.embedding = dense_of(weights.matrix("token_embd.weight"))

    def logits(self, tokens):
        """float64 (len(tokens), vocab)."""
        x = self.hidden(tokens)
        raw = self.weights.matrix("output.weight") or self.weights.matrix("token_embd.weight")
        table = self.embedding if raw.name == "token_embd.weight" else dense_of(raw)
        if not self.head and raw.type in REAL:
            return x @ table.T
        if self.head:
            table = requantized(table, self.head)
        q, unit = quantized(x, 256 if self.arch.hidden % 256 == 0 else 0)
        return (q * unit) @ table.T

    def hidden(self, tokens):
        """float64 (len(tokens), hidden), after the last norm."""
        x = self.embedding[np.asarray(tokens)] * self.arch.embed_scale
        for layer in range(self.arch.layers):
            y = self.attention(layer, self.norm(x, layer, "attn_norm"))
            x = x + self.optional_norm(y, layer, "post_attention_norm")
            y = self.feed_forward(layer, self.norm(x, layer, "ffn_norm"))
            x = x + self.optional_norm(y, layer, "post_ffw_norm")
        return rms_norm(x, self.weights.vector("output_norm.weight", self.arch.hidden), self.arch.eps)

    def attention(self, layer, x):
        arch, n = self.arch, len(x)
        q = self.product(layer, "attn_q", x).reshape(n, arch.heads, arch.head_dim)
        k = self.product(layer, "attn_k", x).reshape(n, arch.kv_heads, arch.head_dim)
        v = self.product(layer, "attn_v", x).reshape(n, arch.kv_heads, arch.head_dim)
        q, k = (self.optional_norm(a, layer, name) for a, name in ((q, "attn_q_norm"), (k, "attn_k_norm")))
        q, k = self.rotated(layer, q), self.rotated(layer, k)
        k, v = stored(k, self.kv_type), stored(v, self.kv_type)
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        seen = distance >= 0
        if arch.is_local(layer):
            seen &= distance < arch.window
        out = np.empty((n, arch.heads, arch.head_dim))
        for head in range(arch.heads):
            kv = head // (arch.heads // arch.kv_heads)
            query = q[:, head] if self.kv_type != "q8_0" else as_bytes(q[:, head])
            scores = np.where(seen, query @ k[:, kv].T / np.sqrt(arch.head_dim), -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, kv]
        out = self.optional_norm(out.reshape(n, -1), layer, "attn_sub_norm")
        return self.product(layer, "attn_output", out)

    def feed_forward(self, layer, x):
        gate, up = self.product(layer, "ffn_gate", x), self.product(layer, "ffn_up", x)
        kind = self.arch.family.gate
        if kind == "relu2":
            y = np.maximum(gate, 0) ** 2
        elif kind == "silu":
            y = gate / (1 + np.exp(-gate))
        else:
            y = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return self.product(layer, "ffn_down", self.optional_norm(y * up, layer, "ffn_sub_norm"))

    def product(self, layer, name, x):
        x = self.optional_norm(x, layer, f"{name}_norm_in")
        q, unit = quantized(x, self.act_block)
        integers, scale = self.products[layer, name]
        if self.act_block:
            return (q * unit) @ integers.T * scale
        return (q @ integers.T) * scale * unit[:, :1]

    def rotated(self, layer, x):
        """RoPE of (n, heads, head_dim): pairs (i, i + half) or (2i, 2i + 1), given back as the former: what an int8
        cache rounds together is 32 components in that order."""
        arch = self.arch
        half = arch.rope_dim // 2
        local = arch.is_local(layer)
        frequency = (10000.0 if local else arch.rope_theta) ** (-np.arange(half) * 2.0 / arch.rope_dim)
        factors = self.weights.vector("rope_freqs.weight", half)
        if factors is not None and not local:
            frequency = frequency / factors
        if arch.rope_scaling.kind == "linear" and not local:
            frequency = frequency / arch.rope_scaling.factor
        angle = np.arange(len(x))[:, None, None] * frequency
        turn = np.cos(angle) + 1j * np.sin(angle)
        first, second = (
            (slice(0, half), slice(half, 2 * half))
            if arch.family.rope_neox
            else (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        )
        turned = (x[..., first] + 1j * x[..., second]) * turn
        y = x.copy()
        y[..., :half], y[..., half : 2 * half] = turned.real, turned.imag
        return y

    def norm(self, x, layer, name):
        return rms_norm(x, self.weights.vector(f"blk.{layer}.{name}.weight", x.shape[-1]), self.arch.eps)

    def optional_norm(self, x, layer, name):
        gain = self.weights.vector(f"blk.{layer}.{name}.weight", x.shape[-1])
        return x if gain is None else rms_norm(x, gain, self.arch.eps)


def rms_norm(x, gain, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * gain


def quantized(x, block=0):
    """(integers, what one is worth at each column): round half to even, per token or per `block` columns."""
    found, unit = np.empty_like(x), np.empty_like(x)
    for start in range(0, x.shape[1], block or x.shape[1]):
        part = slice(start, start + (block or x.shape[1]))
        peak = np.abs(x[:, part]).max(axis=1, keepdims=True)
        peak = peak if block else np.maximum(peak, 1e-5)
        scale = np.divide(127.0, peak, out=np.zeros_like(peak), where=peak > 0)
        found[:, part] = np.clip(np.rint(x[:, part] * scale), -128, 127)
        unit[:, part] = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return found, unit


def stored(x, kv_type):
    """Keys or values as the cache gives them back; "exact": as they are."""
    if kv_type == "exact":
        return x
    if kv_type == "f32":
        return x.astype(np.float32).astype(np.float64)
    if kv_type == "f16":
        return x.astype(np.float32).astype(np.float16).astype(np.float64)
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)) * scale


def as_bytes(query):
    """Queries as an int8 cache multiplies them: rounded to 8 bits, a scale for 32 components."""
    found = np.empty_like(query)
    for start in range(0, query.shape[1], 32):
        part = slice(start, start + 32)
        scale = np.abs(query[:, part]).max(axis=1, keepdims=True) / 127
        found[:, part] = (
            np.rint(np.divide(query[:, part], scale, out=np.zeros_like(query[:, part]), where=scale > 0)) * scale
        )
    return found


def ternary_of(raw):
    """(integers -1..1 as float64, their one scale); with scales for blocks, the weights themselves and 1."""
    if raw.type in ("I2_S", "I2_S_ARM"):
        found = i2_s.decode(raw.data, 1, raw.rows * raw.cols, layout="arm" if raw.type == "I2_S_ARM" else "x86")
        found = Ternary(found.codes.reshape(raw.rows, raw.cols), found.scales)
    elif raw.type == "PACKED":
        found = packed.decode(raw.data, raw.rows, raw.cols, weight_scale=raw.scale, linear_class="autobitlinear")
    else:
        found = BLOCK_CODECS[raw.type].decode(raw.data, raw.rows, raw.cols)
    if found.group:
        return found.dense().astype(np.float64), 1.0
    return found.codes.astype(np.float64) - 1, float(found.scales)


def dense_of(raw):
    """float64 (rows, cols) of a head or an embedding."""
    if raw.type in REAL:
        values = floats.decode(raw.data, raw.rows * raw.cols, raw.type).reshape(raw.rows, raw.cols)
    else:
        values = ggml.dequantize(raw.type, raw.data.tobytes(), raw.rows, raw.cols)
    return values.astype(np.float64)


def requantized(table, head):
    """A real head in int8 (one scale a row), 4 bits (Q4_0) or 6 bits (Q6_K), rounded in float32 as the engine does."""
    if head == "q6":
        return six_bits(table)
    group, low, high = {"q8": (table.shape[1], -128, 127), "q4": (32, -8, 7)}[head]
    parts = table.astype(np.float32).reshape(len(table), -1, group)
    scale = largest(parts) / np.float32(-8) if head == "q4" else np.abs(largest(parts)) / np.float32(127)
    codes = np.clip(np.rint(parts * reciprocal(scale)), low, high)
    scale = scale.astype(np.float16) if head == "q4" else scale
    return (codes.astype(np.float64) * scale).reshape(table.shape)


def six_bits(table):
    """Sixteen columns share an int8 multiple of a half for 256: their largest value / -32, to the nearest multiple."""
    rows, cols = table.shape
    parts = table.astype(np.float32).reshape(rows, cols // 256, 16, 16)
    wanted = largest(parts) / np.float32(-32)
    unit = (largest(wanted[..., 0]) / np.float32(-128)).astype(np.float16).astype(np.float32)
    factor = np.clip(np.rint(wanted * reciprocal(unit)[..., None]), -128, 127)
    scale = unit[..., None] * factor
    codes = np.clip(np.rint(parts * reciprocal(scale)), -32, 31)
    return (codes.astype(np.float64) * scale).reshape(rows, cols)


def largest(parts):
    """Of the last axis, the value of largest magnitude; kept as an axis."""
    return np.take_along_axis(parts, np.abs(parts).argmax(axis=-1)[..., None], axis=-1)


def reciprocal(scale):
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def row_errors(found, wanted):
    """|found - wanted| / |wanted| of each row, in the Euclidean norm."""
    return np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)

"""A decoder's logits in numpy float32, straight from its GGUF file as another library reads it: the slow oracle.

Heads are rotated in the order in which the file has their rows (neighbours in llama files, halves in others), and
windows are masks, so nothing of the converter's ways of doing it is shared.
"""

from __future__ import annotations

import math

import gguf
import numpy as np


class Forward:
    """One sequence without a cache: `logits(tokens)` gives every row. `half` rounds matrices first."""

    def __init__(self, path, *, half=False):
        reader = gguf.GGUFReader(path)
        self.keys = {
            name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer")
        }
        self.arch = self.keys["general.architecture"]
        self.tensors = {
            tensor.name: np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
            for tensor in reader.tensors
        }
        if half:
            self.tensors = {
                name: values.astype(np.float16).astype(np.float32) if values.ndim == 2 else values
                for name, values in self.tensors.items()
            }
        self.heads, self.kv_heads = self.key("attention.head_count"), self.key("attention.head_count_kv")
        self.hidden = self.key("embedding_length")
        self.head_dim = self.key("attention.key_length", self.hidden // self.heads)
        self.eps = self.key("attention.layer_norm_rms_epsilon")

    def key(self, name, default=None):
        return self.keys.get(f"{self.arch}.{name}", default)

    def logits(self, tokens):
        x = self.tensors["token_embd.weight"][list(tokens)]
        if self.arch == "gemma3":
            x = x * np.float32(math.sqrt(self.hidden))
        for layer in range(self.key("block_count")):
            x = self._layer(layer, x)
        head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        return self._norm(x, "output_norm.weight") @ head.T

    def _layer(self, layer, x):
        def matmul(name, value):
            bias = self.tensors.get(f"blk.{layer}.{name}.bias", np.float32(0))
            return value @ self.tensors[f"blk.{layer}.{name}.weight"].T + bias

        def normed(name, value):
            return self._norm(value, f"blk.{layer}.{name}.weight")

        h = normed("attn_norm", x)
        local = self.arch == "gemma3" and layer % 6 != 5
        q = matmul("attn_q", h).reshape(len(x), self.heads, -1)
        k = matmul("attn_k", h).reshape(len(x), self.kv_heads, -1)
        v = matmul("attn_v", h).reshape(len(x), self.kv_heads, -1)
        if f"blk.{layer}.attn_q_norm.weight" in self.tensors:
            q, k = normed("attn_q_norm", q), normed("attn_k_norm", k)
        q, k = self._rotate(q, local), self._rotate(k, local)
        attended = matmul("attn_output", self._attend(q, k, v, self.key("attention.sliding_window") if local else None))
        if self.arch == "gemma3":
            attended = normed("post_attention_norm", attended)
        x = x + attended
        h = normed("ffn_norm", x)
        gate = matmul("ffn_gate", h)
        if self.arch == "gemma3":
            gate = gate * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        out = matmul("ffn_down", (gate * matmul("ffn_up", h)).astype(np.float32))
        return x + (normed("post_ffw_norm", out) if self.arch == "gemma3" else out)

    def _attend(self, q, k, v, window):
        n, each = len(q), self.heads // self.kv_heads
        at = np.arange(n)
        seen = at[None, :] <= at[:, None]
        if window:
            seen &= at[:, None] - at[None, :] < window
        k, v = np.repeat(k, each, axis=1), np.repeat(v, each, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.float32(math.sqrt(self.head_dim))
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)

    def _rotate(self, x, local):
        half = self.head_dim // 2
        base = 10000.0 if local else self.key("rope.freq_base", 10000.0)
        frequency = base ** (-np.arange(half) / half)
        if "rope_freqs.weight" in self.tensors:
            frequency = frequency / self.tensors["rope_freqs.weight"]
        kind, factor = self.key("rope.scaling.type"), self.key("rope.scaling.factor", 1.0)
        magnitude = 1.0
        if kind == "linear" and not local:
            frequency = frequency / factor
        if kind == "yarn":
            original = self.key("rope.scaling.original_context_length")
            where = [half * math.log(original / (turns * 2 * math.pi)) / math.log(base) for turns in (32, 1)]
            low, high = max(math.floor(where[0]), 0), min(math.ceil(where[1]), self.head_dim - 1)
            stretched = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0, 1)
            frequency = frequency * (1 - stretched) + frequency / factor * stretched
            magnitude = 1 + 0.1 * math.log(factor)
        angle = np.arange(len(x))[:, None, None] * frequency
        cos, sin = np.float32(np.cos(angle) * magnitude), np.float32(np.sin(angle) * magnitude)
        if self.arch == "llama":
            a, b = x[..., 0::2], x[..., 1::2]
            return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def _norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps)) * self.tensors[name]

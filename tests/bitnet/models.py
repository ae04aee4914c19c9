"""Small ternary GGUF models with random weights, of every family and type, and engines over them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np
from bitnet import ggml
from edgellm_bitnet import i2s_layout
from edgellm_bitnet.architecture import FAMILIES
from edgellm_bitnet.codecs import floats, i2_s, q1_0, q2_0, tq1_0, tq2_0
from edgellm_bitnet.engine import BitnetEngine
from edgellm_bitnet.layout import INPUT_NORMS
from edgellm_bitnet.models import TINY_TERNARY
from edgellm_bitnet.options import Options
from edgellm_bitnet.ternary import Ternary
from edgellm_bitnet.weights import GgufWeights

from edgellm.contract.engine import SlotInput
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import Encoded, GgufWriter, TensorInfo
from edgellm.types.plan import Settings


def flat_i2_s(ternary, layout="x86"):
    """Of the whole tensor as one row, so a row may start inside a block."""
    return i2_s.encode(Ternary(ternary.codes.reshape(1, -1), ternary.scales), layout=layout)


CODECS = {
    "I2_S": flat_i2_s, "I2_S of Arm": lambda ternary: flat_i2_s(ternary, "arm"),
    "TQ2_0": tq2_0.encode, "TQ1_0": tq1_0.encode, "Q2_0": q2_0.encode, "Q1_0": q1_0.encode,
}  # fmt: skip
BLOCKS = {"TQ2_0": 256, "TQ1_0": 256, "Q2_0": 64, "Q1_0": 128}
LAST = 3  # llama.cpp's number of the pooling type
REAL = ("F32", "F16", "BF16")
# Large, so that a wrong one shows.
EPS = 0.01
# What a layer adds is small beside what it is added to: an activation that the oracle rounds the other way (it is at a
# half, give or take a float's rounding) changes few others.
DAMPING = 0.05


@dataclass(frozen=True, slots=True)
class Tiny:
    """What a model is made of; sizes count elements."""

    family: str = "bitnet-b1.58"
    ternary: str = "I2_S"
    varying: bool = False  # a scale of its own for each block
    head: str = "F16"
    tied: bool = True
    embed: str = ""  # type of the embedding where it is not the head's
    layers: int = 2
    hidden: int = 256
    ffn: int = 512
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 301
    input_norms: bool = False
    keys: dict = field(default_factory=dict)  # without the architecture's name before them
    vocabulary: dict = field(default_factory=dict)  # tokenizer keys; none: token numbers, no text
    seed: int = 7

    def matrices(self):
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "attn_q": (q, self.hidden), "attn_k": (kv, self.hidden), "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, q), "ffn_gate": (self.ffn, self.hidden), "ffn_up": (self.ffn, self.hidden),
            "ffn_down": (self.hidden, self.ffn),
        }  # fmt: skip

    def vectors(self):
        family, q = FAMILIES[self.family], self.heads * self.head_dim
        found = {"attn_norm": self.hidden, "ffn_norm": self.hidden}
        if family.sub_norms:
            found |= {"attn_sub_norm": q, "ffn_sub_norm": self.ffn}
        if family.head_norms:
            found |= {"attn_q_norm": self.head_dim, "attn_k_norm": self.head_dim}
        if family.post_norms:
            found |= {"post_attention_norm": self.hidden, "post_ffw_norm": self.hidden}
        if self.input_norms:
            found |= {name: self.matrices()[name.removesuffix("_norm_in")][1] for name in INPUT_NORMS.values()}
        return found

    def metadata(self):
        given = {
            "context_length": 4096, "embedding_length": self.hidden, "block_count": self.layers,
            "feed_forward_length": self.ffn, "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads, "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim, "rope.dimension_count": self.head_dim,
            "rope.freq_base": 10000.0, "attention.layer_norm_rms_epsilon": EPS, **self.keys,
        }  # fmt: skip
        return {
            "general.architecture": self.family,
            **(self.vocabulary or {"tokenizer.ggml.model": "no_vocab"}),
            i2s_layout.KEY: "arm" if self.ternary == "I2_S of Arm" else "x86",  # random weights do not show it
            **{f"{self.family}.{key}": value for key, value in given.items() if value is not None},
        }

    def tensors(self):
        """Name -> (TensorInfo, data), in the order of a file."""
        rng = np.random.default_rng(self.seed)
        found = {}

        def put(name, dims, kind, data):
            found[name] = (TensorInfo(name, dims, BY_NAME[kind]), data)

        def table(name, kind):
            values = rng.normal(0, 1, (self.vocab, self.hidden)).astype(np.float32)
            data = floats.encode(values, kind) if kind in REAL else ggml.quantize(kind, values)
            put(name, (self.hidden, self.vocab), kind, data)

        table("token_embd.weight", self.embed or self.head)
        for layer in range(self.layers):
            for name, (rows, cols) in self.matrices().items():
                damped = DAMPING if name in ("attn_output", "ffn_down") else 1
                data = CODECS[self.ternary](self.random(rng, rows, cols, damped))
                put(f"blk.{layer}.{name}.weight", (cols, rows), self.ternary.split()[0], data)
            for name, size in self.vectors().items():
                gain = rng.normal(1, 0.25, size).astype(np.float32)
                gain *= np.float32(DAMPING if name.startswith("post_") else 1)
                put(f"blk.{layer}.{name}.weight", (size,), "F32", gain.tobytes())
        put("output_norm.weight", (self.hidden,), "F32", rng.normal(1, 0.25, self.hidden).astype("<f4").tobytes())
        if not self.tied:
            table("output.weight", self.head)
        return found

    def random(self, rng, rows, cols, damped=1):
        codes = rng.integers(0, 3, (rows, cols), dtype=np.uint8)
        codes = codes // 2 * 2 if self.ternary == "Q1_0" else codes
        base, block = damped * (cols * 2 / 3) ** -0.5, BLOCKS.get(self.ternary, 0)
        if self.varying and block:
            scales = base * rng.uniform(0.5, 1.5, (rows, cols // block))
            return Ternary(codes, scales.astype(np.float16).astype(np.float32), block)
        return Ternary(codes, np.asarray(np.float16(base * rng.uniform(0.8, 1.2)), np.float32))

    def write(self, path, **changed):
        """The file; `changed`: TensorInfo and data (None leaves the tensor out) by name with "__" for a dot."""
        tensors = self.tensors()
        for name, value in changed.items():
            name = name.replace("__", ".")
            tensors.pop(name, None) if value is None else tensors.__setitem__(name, value)
        with GgufWriter(path, self.metadata(), [info for info, _ in tensors.values()], replace=True) as file:
            for name, (_, data) in tensors.items():
                file.write(name, data)
        return path


def settings_of(n_ctx=128, n_slots=3, threads=1, kv_type="f16", **given):
    return Settings(n_ctx, n_slots, threads, threads, kv_type, **given)


def engine_of(path, settings=None, **options):
    """An engine over token numbers: these files have no vocabulary. Nothing is kept on disk unless asked for."""
    return engine_over(GgufWeights(str(path)), settings, **options)


@contextlib.contextmanager
def engine_over(weights, settings=None, **options):
    given = Options(**{"keep_packed": False, **options})
    engine = BitnetEngine(weights, None, settings or settings_of(), given)
    try:
        yield engine
    finally:
        engine.close()


def feed(engine, slot, tokens, *, n_past=0, step=64, rows=16):
    """Logits of the last `rows` tokens, copied; what lies before goes in chunks of `step`."""
    tokens, found = [int(token) for token in tokens], []
    first = max(0, len(tokens) - rows)
    for start in range(0, len(tokens), step):
        chunk = tokens[start : start + step]
        wanted = max(0, min(len(chunk), start + len(chunk) - first))
        got = engine.step([SlotInput(slot, n_past + start, tuple(chunk), wanted)])
        found += [got[0].copy()] if wanted else []
    return np.concatenate(found)


def tokens_of(model, count, seed=1):
    return [int(token) for token in np.random.default_rng(seed).integers(0, model.vocab, count)]


def embedding_model():
    """A random qwen3-like model with the trained tiny model's vocabulary; its last token's state is the vector."""
    keys = reader.read_key_bytes(reader.read_header(TINY_TERNARY.files[0].source.removeprefix("file:")))
    vocabulary = {key: Encoded(data) for key, data in keys.items() if key.startswith("tokenizer.ggml")}
    asked = {"pooling_type": LAST, "vocab_size": 2048}
    return Tiny("qwen3", vocab=2048, input_norms=True, vocabulary=vocabulary, keys=asked)

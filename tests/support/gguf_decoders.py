"""Small whole GGUF decoders with random weights and a tokenizer: for tests of what converts them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from bitnet import ggml

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Typed
from edgellm.formats.tokenizer.tokenizer import BYTE_OF

LETTERS = sorted(BYTE_OF, key=BYTE_OF.__getitem__)
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "Ġ a", "o n", "Ġ Ġ", "ĠĠ ĠĠ", "e r"]
SPECIAL = ["<|end|>", "<tool>"]  # a control token, and one of the user's
PIECES = ["▁", "t", "h", "e", "▁t", "he", "▁the", "a", "▁a", "n", "in", "i", "▁▁", "▁▁▁▁", "on", "o", "er", "r", "é"]
EPS = 1e-5


def byte_level(vocab):
    """Tokenizer keys of GPT-2's kind."""
    tokens = [*LETTERS, *(merge.replace(" ", "") for merge in MERGES), *SPECIAL]
    kinds = [1] * (len(tokens) - 2) + [3, 4]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab)]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Typed("i32", kinds + [5] * (vocab - len(kinds))),
        "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.eos_token_id": tokens.index("<|end|>"),
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip


def sentence_piece(vocab, *, prefix=False, scores=None):
    """Tokenizer keys of SentencePiece's kind, with the token of the beginning before each text."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, "<tool>"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(PIECES), 4]
    ranks = [0.0] * 259 + [-float(i) for i in range(len(PIECES))] + [0.0] if scores is None else scores
    tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab)]
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Typed("i32", kinds + [5] * (vocab - len(kinds))),
        "tokenizer.ggml.scores": Typed("f32", ranks + [-1e4] * (vocab - len(ranks))),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.add_bos_token": True,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoder:
    """What a model is made of. Weights are exact in half precision."""

    arch: str = "llama"
    kind: str = "F32"  # type of the matrices
    kinds: dict = field(default_factory=dict)  # of single ones, by the end of their name
    tied: bool = True
    biases: tuple = ()  # of "attn_q", "attn_output", ...
    layers: int = 2
    hidden: int = 64
    ffn: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int = 288
    rope_freqs: bool = False
    keys: dict = field(default_factory=dict)  # without the architecture's name before them; None leaves one out
    vocabulary: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)  # more vectors, by name
    seed: int = 3

    def metadata(self):
        given = {
            "context_length": 128, "embedding_length": self.hidden, "block_count": self.layers,
            "feed_forward_length": self.ffn, "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads, "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim, "rope.dimension_count": self.head_dim,
            "rope.freq_base": 10000.0, "attention.layer_norm_rms_epsilon": EPS, **self.keys,
        }  # fmt: skip
        return {
            "general.architecture": self.arch, **(self.vocabulary or byte_level(self.vocab)),
            **{f"{self.arch}.{key}": value for key, value in given.items() if value is not None},
        }  # fmt: skip

    def matrices(self):
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "attn_q": (q, self.hidden), "attn_k": (kv, self.hidden), "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, q), "ffn_gate": (self.ffn, self.hidden), "ffn_up": (self.ffn, self.hidden),
            "ffn_down": (self.hidden, self.ffn),
        }  # fmt: skip

    def vectors(self):
        found = {"attn_norm.weight": self.hidden, "ffn_norm.weight": self.hidden}
        found |= {f"{name}.bias": self.matrices()[name][0] for name in self.biases}
        if self.arch in ("qwen3", "gemma3"):
            found |= {"attn_q_norm.weight": self.head_dim, "attn_k_norm.weight": self.head_dim}
        if self.arch == "gemma3":
            found |= {"post_attention_norm.weight": self.hidden, "post_ffw_norm.weight": self.hidden}
        return found

    def tensors(self):
        """(TensorInfo, data) of each, in the order of a file."""
        rng = np.random.default_rng(self.seed)

        def matrix(name, rows, cols, spread):
            kind = next((kind for end, kind in self.kinds.items() if name.endswith(f"{end}.weight")), self.kind)
            values = rng.normal(0, spread, (rows, cols)).astype(np.float16).astype(np.float32)
            data = values.tobytes() if kind == "F32" else ggml.quantize(kind, values)
            return TensorInfo(name, (cols, rows), BY_NAME[kind]), data

        def vector(name, size, middle):
            values = rng.normal(middle, 0.2, size).astype(np.float32)
            return TensorInfo(name, (size,), BY_NAME["F32"]), values.tobytes()

        yield matrix("token_embd.weight", self.vocab, self.hidden, 1.0 if self.arch != "gemma3" else 0.1)
        for layer in range(self.layers):
            for name, (rows, cols) in self.matrices().items():
                yield matrix(f"blk.{layer}.{name}.weight", rows, cols, cols**-0.5)
            for name, size in self.vectors().items():
                yield vector(f"blk.{layer}.{name}", size, 0.0 if name.endswith("bias") else 1.0)
        yield vector("output_norm.weight", self.hidden, 1.0)
        if self.rope_freqs:
            factors = np.geomspace(1, 8, self.head_dim // 2).astype(np.float32)
            yield TensorInfo("rope_freqs.weight", (self.head_dim // 2,), BY_NAME["F32"]), factors.tobytes()
        for name, size in self.extra.items():
            yield vector(name, size, 1.0)
        if not self.tied:
            yield matrix("output.weight", self.vocab, self.hidden, self.hidden**-0.5)

    def write(self, path, **changed):
        """The file; `changed`: (TensorInfo, data) by name with "__" for a dot, None leaves the tensor out."""
        tensors = {info.name: (info, data) for info, data in self.tensors()}
        for name, value in changed.items():
            name = name.replace("__", ".")
            tensors.pop(name) if value is None else tensors.__setitem__(name, value)
        with GgufWriter(path, self.metadata(), [info for info, _ in tensors.values()], replace=True) as file:
            for name, (_, data) in tensors.items():
                file.write(name, data)
        return path


FAMILIES = {
    "llama": Decoder(),
    "llama untied, one head of keys, biases": Decoder(
        tied=False, kv_heads=1, biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down", "ffn_gate")
    ),
    "llama 3.1": Decoder(rope_freqs=True, keys={"rope.freq_base": 500000.0}),
    "llama stretched": Decoder(keys={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "qwen2": Decoder("qwen2", head_dim=16, biases=("attn_q", "attn_k", "attn_v"), tied=False),
    "qwen2 with yarn": Decoder(
        "qwen2", head_dim=16, biases=("attn_q", "attn_k", "attn_v"),
        keys={"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.freq_base": 1e4,
              "rope.scaling.original_context_length": 32},
    ),
    "qwen3": Decoder("qwen3"),
    "gemma3": Decoder(
        "gemma3", layers=7, keys={"attention.sliding_window": 8, "rope.freq_base": 1e6},
        vocabulary=sentence_piece(288),
    ),
    "gemma3 stretched": Decoder(
        "gemma3", layers=6, keys={"attention.sliding_window": 8, "rope.freq_base": 1e6, "rope.scaling.type": "linear",
                                  "rope.scaling.factor": 8.0},
        vocabulary=sentence_piece(288),
    ),
}  # fmt: skip

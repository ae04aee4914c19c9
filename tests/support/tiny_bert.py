"""Small BERT folders with random weights, as Hugging Face and sentence-transformers store them, and what they compute.

`hidden` and `score` are the slow path: one text at a time, in float64, without a mask.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from support import safetensors_writer

WORDS = (
    *"abcdefghijklmnopqrstuvwxyzäöüß0123456789.,;:!?()'",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyzäöüß0123456789"),
    "the", "quick", "brown", "fox", "dog", "harbour", "rain", "fell", "on", "all", "night", "by", "morning", "and",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
CLS, SEP = 2, 3


@dataclass
class TinyBert:
    layers: int = 2
    width: int = 32
    heads: int = 4
    n_ff: int = 64
    positions: int = 128
    scores: int = 0  # of a cross-encoder; 0 = a sentence model
    dtype: str = "F32"
    seed: int = 5
    vocab: int = len(SPECIAL) + len(WORDS)
    config: dict[str, Any] = field(default_factory=dict)
    pooling: dict[str, Any] | None = field(default_factory=lambda: {"pooling_mode_mean_tokens": True})
    modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize")
    files: dict[str, Any] = field(default_factory=dict)  # more JSON, or other content

    def __post_init__(self) -> None:
        self.prefix = "bert." if self.scores else ""
        rng = np.random.default_rng(self.seed)
        self.weights = {name: self._rounded(rng, shape) for name, shape in self.shapes().items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        w, p = self.width, self.prefix
        found: dict[str, tuple[int, ...]] = {
            f"{p}embeddings.word_embeddings.weight": (self.vocab, w),
            f"{p}embeddings.position_embeddings.weight": (self.positions, w),
            f"{p}embeddings.token_type_embeddings.weight": (2, w),
        }
        names = ["embeddings.LayerNorm"]
        for layer in range(self.layers):
            at = f"encoder.layer.{layer}"
            names += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
            products = {f"attention.self.{part}": (w, w) for part in ("query", "key", "value")}
            products |= {
                "attention.output.dense": (w, w),
                "intermediate.dense": (self.n_ff, w),
                "output.dense": (w, self.n_ff),
            }
            for name, shape in products.items():
                found |= {f"{p}{at}.{name}.weight": shape, f"{p}{at}.{name}.bias": shape[:1]}
        found |= {f"{p}{name}.{part}": (w,) for name in names for part in ("weight", "bias")}
        found |= {f"{p}pooler.dense.weight": (w, w), f"{p}pooler.dense.bias": (w,)}
        if self.scores:
            found |= {"classifier.weight": (self.scores, w), "classifier.bias": (self.scores,)}
        return found

    def _rounded(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.normal(0, 0.4, shape).astype(np.float32)
        if self.dtype == "F16":
            return values.astype(np.float16).astype(np.float32)
        return (values.view(np.uint32) & 0xFFFF0000).view(np.float32) if self.dtype == "BF16" else values

    def _raw(self, values: np.ndarray) -> bytes:
        if self.dtype == "F16":
            return values.astype("<f2").tobytes()
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes() if self.dtype == "BF16" else values.tobytes()

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: (self.dtype, values.shape, self._raw(values)) for name, values in self.weights.items()}
        safetensors_writer.write(folder / "model.safetensors", tensors)
        kind = "BertForSequenceClassification" if self.scores else "BertModel"
        config = {
            "model_type": "bert", "architectures": [kind], "num_hidden_layers": self.layers, "hidden_size": self.width,
            "num_attention_heads": self.heads, "intermediate_size": self.n_ff, "vocab_size": self.vocab,
            "max_position_embeddings": self.positions, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "pad_token_id": 0,
            **self.config,
        }  # fmt: skip
        files: dict[str, Any] = {"config.json": config}
        if not self.scores and self.modules:
            kinds = [
                {"type": f"sentence_transformers.models.{kind}", "path": f"{n}_{kind}" if n else ""}
                for n, kind in enumerate(self.modules)
            ]
            files["modules.json"] = kinds
        if not self.scores and self.pooling is not None:
            files["1_Pooling/config.json"] = self.pooling
        for name, content in (files | self.files).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        tokenizer().save(str(folder / "tokenizer.json"))
        return folder

    def hidden(self, tokens: list[int], n_first: int | None = None) -> np.ndarray:
        """float64 (tokens, width)."""
        w = {name.removeprefix("bert."): values.astype(np.float64) for name, values in self.weights.items()}
        kinds = np.arange(len(tokens)) >= (len(tokens) if n_first is None else n_first)
        x = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.position_embeddings.weight"][: len(tokens)]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][kinds.astype(int)], w, "embeddings.LayerNorm")
        for layer in range(self.layers):
            at = f"encoder.layer.{layer}"
            q, k, v = (
                linear(x, w, f"{at}.attention.self.{part}").reshape(len(tokens), self.heads, -1).swapaxes(0, 1)
                for part in ("query", "key", "value")
            )
            weights = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(self.width // self.heads))
            mixed = ((weights / weights.sum(-1, keepdims=True)) @ v).swapaxes(0, 1).reshape(x.shape)
            x = norm(x + linear(mixed, w, f"{at}.attention.output.dense"), w, f"{at}.attention.output.LayerNorm")
            wide = linear(x, w, f"{at}.intermediate.dense")
            wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
            x = norm(x + linear(wide, w, f"{at}.output.dense"), w, f"{at}.output.LayerNorm")
        return x

    def score(self, tokens: list[int], n_first: int) -> float:
        """The logit of a cross-encoder."""
        w = {name: values.astype(np.float64) for name, values in self.weights.items()}
        pooled = np.tanh(linear(self.hidden(tokens, n_first)[0], w, "bert.pooler.dense"))
        return float(linear(pooled, w, "classifier")[0])


def linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]


def tokenizer() -> Tokenizer:
    vocab = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    # As published tokenizers have them: cutting and padding are the caller's.
    made.enable_truncation(8)
    made.enable_padding(length=8)
    return made

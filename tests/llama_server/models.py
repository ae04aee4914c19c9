"""The models that llama.cpp's server tests are run with: small, made here, the same for both servers.

A language model with Llama's vocabulary and random weights, which says words of plain ASCII and never ends of itself;
a sentence model and a cross-encoder with BERT's. Each encoder lies twice: as a folder for EdgeLLM, and as a GGUF file
of the same name for llama-server.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from support.gguf_writer import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Gguf, Tensor
from support.tiny_bert import TinyBert
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgellm.formats.gguf.reader import read_array, read_header

WIDTH, LAYERS, HEADS, N_FF, CONTEXT = 64, 2, 4, 128, 8192
F32 = 0
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
POSITIONS = 512
# llama.cpp's names of a BERT's tensors, by the folder's.
BERT_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
INFILL = {"pre": 31997, "suf": 31998, "mid": 31999}  # its last tokens stand for the markers
RANK = 4  # llama.cpp's pooling of a cross-encoder; 1: the mean


def make(vocabularies: Path, folder: Path) -> None:
    """All three in `folder`: tiny.gguf, sentence-model.gguf and cross-encoder.gguf."""
    if not (folder / "tiny.gguf").exists():
        language_model(vocabularies, folder).replace(folder / "tiny.gguf")
    encoder(vocabularies, folder)
    encoder(vocabularies, folder, scores=1)


def language_model(vocabularies: Path, folder: Path, template: str = CHATML) -> Path:
    """The language model with this chat template."""
    path = folder / f"tiny-{hashlib.sha256(template.encode()).hexdigest()[:16]}.gguf"
    if path.exists():
        return path
    vocab = vocabularies / "ggml-vocab-llama-spm.gguf"
    tokens = _tokens(vocab)
    rng = np.random.default_rng(0)
    drawn: dict[str, np.ndarray] = {"token_embd.weight": rng.normal(0, 1, (len(tokens), WIDTH))}
    output = rng.normal(0, 0.25, (len(tokens), WIDTH))
    output[[not _is_word(token) for token in tokens]] = 0
    drawn |= {"output.weight": output, "output_norm.weight": np.ones(WIDTH)}
    products = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH), "attn_v": (WIDTH, WIDTH)}
    products |= {"attn_output": (WIDTH, WIDTH), "ffn_gate": (N_FF, WIDTH), "ffn_up": (N_FF, WIDTH)}
    products |= {"ffn_down": (WIDTH, N_FF)}
    for layer in range(LAYERS):
        drawn |= {f"blk.{layer}.{name}.weight": rng.normal(0, 0.2, shape) for name, shape in products.items()}
        drawn |= {f"blk.{layer}.{name}.weight": np.ones(WIDTH) for name in ("attn_norm", "ffn_norm")}
    sizes = {"block_count": LAYERS, "context_length": CONTEXT, "embedding_length": WIDTH, "feed_forward_length": N_FF}
    sizes |= {"attention.head_count": HEADS, "attention.head_count_kv": HEADS, "vocab_size": len(tokens)}
    sizes |= {"rope.dimension_count": WIDTH // HEADS}
    keys = [*_keys("llama", sizes), ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5)]
    keys += [(f"tokenizer.ggml.fim_{part}_token_id", UINT32, token) for part, token in INFILL.items()]
    return _write(path, [*keys, *_vocabulary(vocab), ("tokenizer.chat_template", STRING, template)], drawn)


def encoder(vocabularies: Path, folder: Path, scores: int = 0) -> Path:
    """The folder of the sentence model, or of the cross-encoder (`scores` = 1); `<folder>.gguf` is the same model."""
    place = folder / ("cross-encoder" if scores else "sentence-model")
    if place.exists():
        return place
    vocab = vocabularies / "ggml-vocab-bert-bge.gguf"
    tokens = _tokens(vocab)
    bert = TinyBert(positions=POSITIONS, scores=scores, vocab=len(tokens))
    sizes = {"block_count": bert.layers, "context_length": POSITIONS, "embedding_length": bert.width}
    sizes |= {"feed_forward_length": bert.n_ff, "attention.head_count": bert.heads}
    sizes |= {"pooling_type": RANK if scores else 1}
    keys = [*_keys("bert", sizes), ("bert.attention.layer_norm_epsilon", FLOAT32, 1e-12)]
    keys += [("bert.attention.causal", BOOL, False), *_vocabulary(vocab)]
    if scores:
        keys.append(("bert.classifier.output_labels", ARRAY, (STRING, ["LABEL_0"])))
    named = {_bert_name(name.removeprefix("bert.")): values for name, values in bert.weights.items()}
    if not scores:
        named = {name: values for name, values in named.items() if not name.startswith("cls.")}
    _write(place.with_suffix(".gguf"), keys, named)
    scratch = bert.write(folder / f".{place.name}.{os.getpid()}")
    _tokenizer(tokens).save(str(scratch / "tokenizer.json"))
    return scratch.rename(place)


def _tokens(vocabulary: Path) -> list[str]:
    return [token.decode() for token in read_array(read_header(vocabulary), "tokenizer.ggml.tokens")]


def _is_word(token: str) -> bool:
    letters = token.removeprefix("▁")
    return letters.isascii() and letters.isalnum()


def _keys(arch: str, sizes: dict[str, int]) -> list[tuple[str, int, Any]]:
    kind = [("general.architecture", STRING, arch), ("general.file_type", UINT32, 0)]
    return kind + [(f"{arch}.{name}", UINT32, size) for name, size in sizes.items()]


def _vocabulary(path: Path) -> list[tuple[str, int, Any]]:
    """The keys of a vocabulary, as they are in its file."""
    header = read_header(path)
    keys: list[tuple[str, int, Any]] = []
    for name, value in header.metadata.items():
        if not name.startswith("tokenizer."):
            continue
        if name.endswith(".tokens"):
            keys.append((name, ARRAY, (STRING, _tokens(path))))
        elif name.endswith((".scores", ".token_type")):
            kind = FLOAT32 if name.endswith(".scores") else INT32
            keys.append((name, ARRAY, (kind, read_array(header, name))))
        else:
            kind = STRING if isinstance(value, str) else BOOL if isinstance(value, bool) else UINT32
            keys.append((name, kind, value))
    return keys


def _write(path: Path, keys: list[tuple[str, int, Any]], weights: dict[str, np.ndarray]) -> Path:
    tensors = [Tensor(name, values.shape[::-1], F32, values.size * 4) for name, values in weights.items()]
    head = Gguf(keys, tensors).header()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for values in weights.values():
            data = values.astype("<f4").tobytes()
            file.write(data + bytes(-len(data) % 32))
    return scratch.rename(path)


def _bert_name(name: str) -> str:
    stem, part = name.rsplit(".", 1)
    if stem.startswith("encoder.layer."):
        _, _, layer, stem = stem.split(".", 3)
        return f"blk.{layer}.{BERT_NAMES[stem]}.{part}"
    return f"{BERT_NAMES[stem]}.{part}"


def _tokenizer(tokens: list[str]) -> Tokenizer:
    """BERT's, from a GGUF's vocabulary: there words begin with a bar, and what goes on in one does not."""
    words = [token[1:] if token[:1] == "▁" else token if token[:1] == "[" else f"##{token}" for token in tokens]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    special = [(name, words.index(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    return made

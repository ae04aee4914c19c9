"""Small Hugging Face folders of every kind that converts: random ternary weights, a real tokenizer, true metadata."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from edgellm_bitnet.codecs import floats, master, packed
from edgellm_bitnet.ternary import Ternary
from support import safetensors_writer

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 256, 512, 2, 4, 2, 64
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN),
}  # fmt: skip
NORMS = {
    "bitnet": {"self_attn.attn_sub_norm": HIDDEN, "mlp.ffn_sub_norm": FFN},
    "1bitllm": {"self_attn.inner_attn_ln": HIDDEN, "mlp.ffn_layernorm": FFN},
    "llama": {},
    "qwen3": {"self_attn.q_norm": HEAD_DIM, "self_attn.k_norm": HEAD_DIM},
}
TEXT = "the quick brown fox jumps over the lazy dog; don't they'll 123 4567 naïve café こんにちは \n\n  def f(x):\r\n"


@functools.cache
def tokenizer_json(spm: bool = False) -> str:
    """A byte-level BPE tokenizer with Llama 3's words, or a SentencePiece-like one with bytes to fall back on."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    from edgellm.formats.tokenizer.pretokenizers import PRE_TOKENIZERS

    special = ["<s>", "</s>"]
    if spm:
        special = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
        trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.BPE(ignore_merges=True))
        words = Regex(PRE_TOKENIZERS["llama-bpe"].patterns[0])
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    made.train_from_iterator([TEXT] * 3, trainer)
    text = json.loads(made.to_str())
    if spm:  # byte tokens are no added tokens in a real file
        text["added_tokens"] = [token for token in text["added_tokens"] if not token["content"].startswith("<0x")]
    else:
        made.add_special_tokens([AddedToken("<|eot_id|>", special=True)])
        text = json.loads(made.to_str())
    return json.dumps(text)


@dataclass
class Folder:
    """What was written, for comparison."""

    path: Path
    weights: dict[str, Ternary] = field(default_factory=dict)  # by Hugging Face's name, without the prefix
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)

    def write(self) -> Folder:
        self.path.mkdir(parents=True, exist_ok=True)
        safetensors_writer.write(self.path / "model.safetensors", self.tensors)
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self


def make(
    path: Path, family: str = "bitnet", kind: str = "autobitlinear", *, spm: bool = False, seed: int = 0
) -> Folder:
    """`kind`: autobitlinear or bitlinear (packed), master (BF16, to be quantized), exact-N (ternary in groups of N)."""
    rng = np.random.default_rng(seed)
    folder = Folder(path)
    path.mkdir(parents=True, exist_ok=True)
    text = tokenizer_json(spm)
    vocab = -(-(max(_ids(text).values()) + 1) // 32) * 32  # some rows without a token, as usual
    folder.config = _config(family, kind, vocab)
    (path / "tokenizer.json").write_text(text)
    special = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True}
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (path / "tokenizer_config.json").write_text(json.dumps(special | {"chat_template": template}))

    def real(name: str, *shape: int, dtype: str = "BF16", spread: float = 0.1) -> None:
        raw = floats.encode((rng.standard_normal(shape) * spread + (len(shape) == 1)).astype(np.float32), dtype)
        folder.vectors[name] = floats.decode(raw, int(np.prod(shape)), dtype).reshape(shape)
        folder.tensors[f"model.{name}" if name != "lm_head.weight" else name] = (dtype, shape, raw)

    real("embed_tokens.weight", vocab, HIDDEN, spread=1)
    for layer in range(LAYERS):
        for name, size in {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN, **NORMS[family]}.items():
            real(f"layers.{layer}.{name}.weight", size)
        for name, shape in SHAPES.items():
            _linear(folder, f"layers.{layer}.{name}.weight", shape, kind, rng)
    real("norm.weight", HIDDEN)
    if family in ("llama", "qwen3"):
        real("lm_head.weight", vocab, HIDDEN)
    return folder.write()


def _linear(folder: Folder, name: str, shape: tuple[int, int], kind: str, rng: np.random.Generator) -> None:
    rows, cols = shape
    full = f"model.{name}"
    if kind == "master":
        raw = floats.encode((rng.standard_normal(shape) * 0.05).astype(np.float32), "BF16")
        folder.weights[name] = master.quantize(floats.decode(raw, rows * cols, "BF16").reshape(shape), trained=True)
        folder.tensors[full] = ("BF16", shape, raw)
        return
    group = int(kind.partition("-")[2] or 0)
    scales = np.exp2(rng.integers(-8, -4, (rows, cols // group) if group else ()))  # exact in every type
    ternary = Ternary(rng.integers(0, 3, shape, np.uint8), np.asarray(scales, np.float32), group)
    folder.weights[name] = ternary
    if group:
        folder.tensors[full] = ("BF16", shape, master.encode(ternary, dtype="BF16"))
        return
    raw, scale = packed.encode(ternary, linear_class=kind)
    folder.tensors[full] = ("U8", (rows // 4, cols), raw)
    folder.tensors[f"{full}_scale"] = ("BF16", (1,), floats.encode(scale, "BF16"))


def _config(family: str, kind: str, vocab: int) -> dict[str, object]:
    found: dict[str, object] = {
        "architectures": ["BitnetForCausalLM" if family == "1bitllm" else "CausalLM"],
        "model_type": {"1bitllm": "llama"}.get(family, family), "hidden_act": "relu2" if family == "bitnet" else "silu",
        "vocab_size": vocab, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": family in ("bitnet", "1bitllm"),
    }  # fmt: skip
    if kind in ("autobitlinear", "bitlinear", "master"):
        found["quantization_config"] = {
            "quant_method": "bitnet",
            "linear_class": kind.replace("master", "autobitlinear"),
        }
    return found


def _ids(text: str) -> dict[str, int]:
    whole = json.loads(text)
    return whole["model"]["vocab"] | {token["content"]: token["id"] for token in whole["added_tokens"]}

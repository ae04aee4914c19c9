"""A small decoder, and a few hundred ways to make one key or tensor of it wrong in a header that stays well-formed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import pack
from typing import Any

from support.gguf_decoders import Decoder
from support.gguf_writer import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Gguf, Tensor

from edgellm.formats.gguf.writer import Typed

Entry = tuple[int, Any]
FEW_INTEGERS = (0, 1, 3, 17, 513, 2**31 - 1, 2**32 - 1)
FEW_FLOATS = (0.0, -1.0, 1e38, -1e-3, 1e-45, math.inf, -math.inf)
INTEGERS = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
)  # fmt: skip
FLOATS = (
    "rope.freq_base", "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.scale",
    "rope.scaling.factor", "attention.clamp_kqv", "logit_scale",
)  # fmt: skip
OTHERS: dict[str, list[Entry]] = {
    "expert_count": [(UINT32, 8), (UINT32, 2000)],
    "expert_used_count": [(UINT32, 1), (UINT32, 2**32 - 1)],
    "expert_group_count": [(UINT32, 1), (UINT32, 3)],
    "attention.causal": [(BOOL, False)],
    "pooling_type": [(UINT32, kind) for kind in (0, 1, 2, 3, 4, 5, 99, 2**32 - 1)],
    "rope.scaling.type": [(STRING, name) for name in ("yarn", "longrope", "none", "cubic", "")],
    "rope.scaling.original_context_length": [(UINT32, 0), (UINT32, 2**32 - 1)],
    "attention.sliding_window": [(UINT32, size) for size in (0, 1, 2**31)],
    "vocab_size": [(UINT32, 5), (UINT32, 2**31)],
    "nextn_predict_layers": [(UINT32, 1), (UINT32, 2), (UINT32, 3)],
    "embedding_length_out": [(UINT32, 1), (UINT32, 2**31)],
    "rope.dimension_sections": [(ARRAY, (UINT32, [1, 2, 3, 4]))],
    "classifier.output_labels": [(ARRAY, (STRING, ["a", "b"]))],
    "tensor_data_layout": [(STRING, "Meta AI original pth")],
}
ARCHITECTURES = (
    "qwen2", "qwen3", "gemma", "gemma3", "gemma3n", "phi3", "bert", "nomic-bert", "mamba", "rwkv7", "t5", "clip",
    "falcon", "gpt2", "bloom", "deepseek2", "gpt-oss", "granite", "jamba", "lfm2", "olmo2", "starcoder2", "llama4",
    "mpt", "unheard-of", "",
)  # fmt: skip
KINDS = (
    "no_vocab", "none", "test", "llama", "bert", "t5", "rwkv", "plamo2", "hybriddna", "whitespace", "gemma4", "",
    "unheard-of",
)  # fmt: skip
IDS = ("bos", "eos", "eot", "unknown", "padding", "mask", "seperator")


@dataclass
class Model:
    """What a file is made of."""

    keys: dict[str, Entry]
    tensors: dict[str, tuple[tuple[int, ...], int, bytes]]  # dims, type, data
    changed: dict[str, Any] = field(default_factory=dict)  # of the header as a whole

    def build(self) -> bytes:
        rows = [(key, *entry) for key, entry in self.keys.items()]
        tensors = [Tensor(name, dims, kind, len(data)) for name, (dims, kind, data) in self.tensors.items()]
        header = Gguf(rows, tensors, **self.changed)
        content = bytearray(header.header())
        for _, _, data in self.tensors.values():
            content += bytes(-len(content) % header.alignment)
            content += data
        return bytes(content)


def sound() -> Model:
    """A llama of two layers, with a byte-level vocabulary."""
    decoder = Decoder()
    tensors = {info.name: (tuple(info.dims), info.type.id, data) for info, data in decoder.tensors()}
    return Model({key: entry_of(value) for key, value in decoder.metadata().items()}, tensors)


def entry_of(value: Any) -> Entry:
    match value:
        case Typed("i32", list(values)):
            return ARRAY, (INT32, values)
        case list(values):
            return ARRAY, (STRING, values)
        case bool():
            return BOOL, value
        case int():
            return UINT32, value
        case float():
            return FLOAT32, value
    return STRING, value


Mutation = Callable[[Model], None]


def mutations() -> dict[str, Mutation]:
    """Name -> what makes it wrong. The order is the same every time."""
    made: dict[str, Mutation] = {}
    for name in INTEGERS:
        made |= {f"{name}={value}": _set(f"llama.{name}", (UINT32, value)) for value in FEW_INTEGERS}
        made[f"{name} is a text"] = _set(f"llama.{name}", (STRING, "64"))
        made[f"{name} is gone"] = _drop(f"llama.{name}")
    made |= {f"{name}={value}": _set(f"llama.{name}", (FLOAT32, value)) for name in FLOATS for value in FEW_FLOATS}
    for name, entries in OTHERS.items():
        made |= {f"{name}={entry[1]}": _set(f"llama.{name}", entry) for entry in entries}
    made["nine of eight experts"] = _all(
        _set("llama.expert_count", (UINT32, 8)), _set("llama.expert_used_count", (UINT32, 9))
    )
    made["two of eight experts"] = _all(
        _set("llama.expert_count", (UINT32, 8)), _set("llama.expert_used_count", (UINT32, 2))
    )
    made |= {f"alignment={n}": _align(n) for n in (0, 1, 8, 16, 64, 4096, 48)}
    made |= {f"architecture {name!r}": _rename(name) for name in ARCHITECTURES}
    return made | _of_the_tokenizer() | _of_the_tensors()


def _of_the_tokenizer() -> dict[str, Mutation]:
    t = "tokenizer.ggml."
    made = {f"tokenizer {kind!r}": _set(f"{t}model", (STRING, kind)) for kind in KINDS}
    made |= {f"pre-tokenizer {pre!r}": _set(f"{t}pre", (STRING, pre)) for pre in ("", "x", "kimi-k2", "llama-bpe")}
    made |= {f"{n}_token_id={v}": _set(f"{t}{n}_token_id", (UINT32, v)) for n in IDS for v in (288, 2**31, 2**32 - 1)}
    wrong: dict[str, Entry] = {
        "tokens": (ARRAY, (STRING, ["same"] * 288)), "tokens of nothing": (ARRAY, (STRING, [""] * 288)),
        "tokens of one letter": (ARRAY, (STRING, ["a"])), "tokens that are none": (ARRAY, (STRING, [])),
        "tokens of numbers": (ARRAY, (UINT32, list(range(288)))),
        "tokens of noise": (ARRAY, (STRING, [pack("<Q4B", 4, 255, n & 255, n >> 8, 128) for n in range(288)])),
        "more tokens": (ARRAY, (STRING, [f"t{n}" for n in range(289)])),
        "token_type": (ARRAY, (INT32, [77] * 288)), "token_type below": (ARRAY, (INT32, [-(2**31)] * 288)),
        "token_type cut": (ARRAY, (INT32, [1] * 10)), "token_type unsigned": (ARRAY, (UINT32, [1] * 288)),
        "token_type all bytes": (ARRAY, (INT32, [6] * 288)), "token_type all control": (ARRAY, (INT32, [3] * 288)),
        "merges": (ARRAY, (STRING, ["\xff\x00", "", " ", "x", "  "])), "merges of none": (ARRAY, (STRING, [])),
        "merges of numbers": (ARRAY, (INT32, [1, 2])), "merges long": (ARRAY, (STRING, ["a " + "b" * 100_000])),
        "scores": (ARRAY, (FLOAT32, [math.inf] * 288)), "scores cut": (ARRAY, (FLOAT32, [0.0])),
        "add_bos_token": (BOOL, True), "add_eos_token": (BOOL, True), "add_space_prefix": (BOOL, True),
        "precompiled_charsmap": (ARRAY, (INT32, [1, 2])), "suppress_tokens": (ARRAY, (INT32, [-1, 999])),
    }  # fmt: skip
    made |= {name: _set(t + name.split()[0].replace("more", "tokens"), entry) for name, entry in wrong.items()}
    made["scores without kind"] = _all(
        _set(f"{t}model", (STRING, "llama")), _set(f"{t}scores", (ARRAY, (FLOAT32, [0.0] * 288)))
    )
    made["charsmap of t5"] = _all(
        _set(f"{t}model", (STRING, "t5")), _set(f"{t}scores", (ARRAY, (FLOAT32, [0.0] * 288))),
        _set(f"{t}precompiled_charsmap", (ARRAY, (0, [255] * 64))),
    )  # fmt: skip
    made |= {f"{name} is gone": _drop(t + name) for name in ("model", "pre", "tokens", "token_type", "merges")}
    return made


def _of_the_tensors() -> dict[str, Mutation]:
    made: dict[str, Mutation] = {}
    for name in ("token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"):
        made[f"{name} is gone"] = _tensor(name, lambda dims, kind, data: None)
        made[f"{name} turned"] = _tensor(name, lambda dims, kind, data: (dims[::-1], kind, data))
        made[f"{name} flat"] = _tensor(name, lambda dims, kind, data: ((math.prod(dims),), kind, data))
        made[f"{name} deep"] = _tensor(name, lambda dims, kind, data: ((*dims, 1, 1)[:4], kind, data))
        made[f"{name} halved"] = _tensor(name, lambda dims, kind, data: ((*dims[:-1], dims[-1] // 2), kind, data))
        made[f"{name} in halves"] = _tensor(name, lambda dims, kind, data: (dims, 1, data[: len(data) // 2]))
        made[f"{name} as integers"] = _tensor(name, lambda dims, kind, data: (dims, 26, data))
        made[f"{name} as doubles"] = _tensor(name, lambda dims, kind, data: (dims, 28, data * 2))
        made[f"{name} of noise"] = _tensor(
            name, lambda dims, kind, data: (dims, kind, random.Random(1).randbytes(len(data)))
        )
        made[f"{name} of zeros"] = _tensor(name, lambda dims, kind, data: (dims, kind, bytes(len(data))))
    return made


def _set(key: str, entry: Entry) -> Mutation:
    return lambda model: model.keys.__setitem__(key, entry)


def _drop(key: str) -> Mutation:
    return lambda model: model.keys.__delitem__(key)


def _all(*steps: Mutation) -> Mutation:
    def mutate(model: Model) -> None:
        for step in steps:
            step(model)

    return mutate


def _align(number: int) -> Mutation:
    def mutate(model: Model) -> None:
        model.keys["general.alignment"] = (UINT32, number)
        model.changed["alignment"] = max(1, number)

    return mutate


def _rename(name: str) -> Mutation:
    def mutate(model: Model) -> None:
        model.keys["general.architecture"] = (STRING, name)
        for key in [key for key in model.keys if key.startswith("llama.")]:
            model.keys[name + key.removeprefix("llama")] = model.keys.pop(key)

    return mutate


def _tensor(name: str, change: Callable[..., Any]) -> Mutation:
    def mutate(model: Model) -> None:
        model.tensors[name] = change(*model.tensors[name])
        if model.tensors[name] is None:
            del model.tensors[name]

    return mutate


def flips(content: bytes, header_bytes: int, count: int) -> dict[str, bytes]:
    """The file with one place of its header changed: a bit, a byte, or a number of four or eight bytes."""
    rng = random.Random(20261126)
    made = {}
    while len(made) < count:
        at, width = rng.randrange(4, header_bytes - 8), rng.choice((0, 1, 4, 8))
        changed = bytearray(content)
        if width == 0:
            changed[at] ^= 1 << rng.randrange(8)
        else:
            changed[at : at + width] = rng.choice((rng.randbytes(width), bytes(width), b"\xff" * width))
        if changed != content:
            made[f"{width or 'bit'} at {at}"] = bytes(changed)
    return made

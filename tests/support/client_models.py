"""Writes the small models that official clients are run against, and prints by backend what `edgellm serve` is given.

    PYTHONPATH=tests .venv/bin/python -m support.client_models FOLDER

Behind a backend stands the task of models that do nothing else: `onnx rerank`. Echo does all of them.
All but SmolLM2 know nothing: what a client reads does not depend on what a model knows. What they draw
must not end before its first character, as chance would have it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bitnet.models import embedding_model
from edgellm_bitnet.models import TINY_TERNARY
from edgellm_onnx.convert_bert import convert

from edgellm.contract.converter import Conversion
from edgellm.types.model import Artifact
from support import bert_gguf, onnx_models
from support.tiny_bert import TinyBert

CTX = 4096  # clients send long prompts: their own instructions, and the schemas of tools
TRAINED_CTX = b"bitnet-b1.58.context_length"  # a key of GGUF: its type and value follow


def models(folder: Path) -> dict[str, str]:
    """What to serve, by backend. SmolLM2 is a catalog id, and has to be in the store."""
    ternary = folder / "ternary.gguf"
    ternary.write_bytes(_lengthened(Path(TINY_TERNARY.files[0].source.removeprefix("file:")).read_bytes()))
    made = onnx_models.shared(folder / "onnx", onnx_models.Tiny(positions=CTX, ends=False))
    served = {"echo": "echo", "gguf": "smollm2-135m-instruct", "bitnet": str(ternary), "onnx": str(made)}
    return served | {name: str(path) for name, path in _encoders(folder).items()}


def _encoders(folder: Path) -> dict[str, Path]:
    sentences, pairs = TinyBert(positions=CTX), TinyBert(positions=CTX, scores=1)
    return {
        "gguf embed": bert_gguf.write(sentences, folder / "sentences.gguf", "mean"),
        "bitnet embed": embedding_model().write(folder / "ternary-embed.gguf"),
        "onnx embed": _as_onnx(sentences.write(folder / "sentences")),
        "onnx rerank": _as_onnx(pairs.write(folder / "pairs")),
    }


def _as_onnx(bert: Path) -> Path:
    source = Artifact("safetensors", (str(bert),), bert.name)
    return convert(Conversion(source, bert.with_name(f"onnx-{bert.name}"), "onnx"), lambda *_: None).path


def _lengthened(gguf: bytes) -> bytes:
    """The same model with a context of CTX tokens."""
    value = gguf.index(TRAINED_CTX) + len(TRAINED_CTX) + 4
    return gguf[:value] + CTX.to_bytes(4, "little") + gguf[value + 4 :]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(models(Path(sys.argv[1]))))

"""Which files of a repository an ONNX model is: its graph, the graph's data files, and what lies beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

SUFFIX = ".onnx"
# As Optimum, transformers.js, onnxruntime-genai and sentence-transformers name what a model is used with.
_BESIDE = (
    "genai_config.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip


def onnx_files(names: Sequence[str], model: str) -> list[str]:
    """`model` first, then its external data in order, then the files beside it, of those that `names` has.

    A graph in a folder of graphs (`onnx/model_q4.onnx`) has its tokenizer one folder up; one nearer goes first. The
    second graph of a pair (`decoder_with_past_model.onnx`) belongs to the first.

        onnx_files(["config.json", "onnx/m.onnx", "onnx/m.onnx_data"], "onnx/m.onnx")
            -> ["onnx/m.onnx", "onnx/m.onnx_data", "config.json"]
    """
    folder = PurePosixPath(model).parent
    graphs = [model, *(name for name in names if name == _with_past(model))]
    # m.onnx_data, m.onnx_data_1 (Optimum); m.onnx.data (onnx, onnxruntime-genai).
    data = re.compile("|".join(rf"{re.escape(graph)}[._]data(_\d+)?" for graph in graphs))
    found = graphs + sorted(name for name in names if data.fullmatch(name))
    for wanted in _BESIDE:
        near = [str(place / wanted) for place in (folder, folder.parent)]
        found += [name for name in dict.fromkeys(near) if name in names][:1]
    return found


def _with_past(model: str) -> str:
    """The graph for later tokens, of an export that has two: decoder_model_int8 -> decoder_with_past_model_int8."""
    place = PurePosixPath(model)
    pair = place.name.replace("decoder_model", "decoder_with_past_model", 1)
    return "" if pair == place.name or "merged" in pair else str(place.with_name(pair))

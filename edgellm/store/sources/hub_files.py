"""What a `hf://` URI names, and which of a repository's files that is: parts of a GGUF model, or an ONNX graph with its
data files and what lies beside it. Makes no request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgellm.errors import SourceError, UnknownModel
from edgellm.store.names import can_be, first_of, parts_of, stem_of

_URI = re.compile(
    r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*?)(?:@(?P<revision>\w[\w.-]*))?(?::(?P<quant>[\w-]+)|/(?P<file>[^:#?\\]+))?"
)
_NOT_MODELS = re.compile(r"(^|[-._/])(mmproj|imatrix|mtp|draft)([-._]|$)", re.IGNORECASE)
ONNX = ".onnx"
# As Optimum, transformers.js, onnxruntime-genai and sentence-transformers name what a model is used with.
_BESIDE = (
    "genai_config.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HubUri:
    """What a `hf://` URI names: a file, a quantization, or, with neither, all that the repository has."""

    repo: str
    revision: str | None
    file: str
    quant: str


def parse_hub_uri(uri: str) -> HubUri:
    """
    Raises:
        SourceError: not a `hf://` URI of a file or a quantization.
    """
    match = _URI.fullmatch(uri)
    if match is None or not all(part.strip(".") for part in (match["file"] or "_").split("/")):
        raise SourceError(
            f"{uri!r} is not a hub source", hint="write hf://OWNER/REPO/FILE.gguf or hf://OWNER/REPO:QUANT"
        )
    return HubUri(match["repo"], match["revision"], match["file"] or "", match["quant"] or "")


def choose_files(names: Sequence[str], where: HubUri) -> list[str]:
    """The repository's files of one quantization, or of one ONNX graph: all parts, in order.

    Where several models match (a plain one and a hand-made mix), the one with the shortest name.

    Raises:
        UnknownModel: no file of that quantization; says which there are.
    """
    if where.file.endswith(ONNX):
        if where.file not in names:
            have = ", ".join(sorted(name for name in names if name.endswith(ONNX))[:12]) or "no ONNX file at all"
            raise UnknownModel(f"{where.repo} has no {where.file}", hint=f"it has: {have}")
        return onnx_files(names, where.file)
    models = _models(names)
    if not where.quant:
        choices = firsts(names)
        if len(choices) == 1:
            return parts_of(choices[0])
        have = ", ".join(PurePosixPath(name).name for name in choices[:12]) or "no GGUF file at all"
        raise UnknownModel(f"{where.repo} has {len(choices)} models", hint=f"name a quantization or one of: {have}")
    of_quant = re.compile(rf"(^|[-._/]){re.escape(where.quant)}(?=[-.]|$)", re.IGNORECASE)
    matching = [name for name in models if of_quant.search(stem_of(name))]
    if not matching:
        have = ", ".join(sorted(PurePosixPath(name).name for name in models)[:12]) or "no GGUF file at all"
        raise UnknownModel(f"{where.repo} has no file of quantization {where.quant}", hint=f"it has: {have}")
    parts = parts_of(min(matching, key=lambda name: (len(stem_of(name)), name)))
    listed = set(names)
    missing = [part for part in parts if part not in listed]
    if missing:
        raise SourceError(f"{where.repo} lacks {len(missing)} of {len(parts)} parts: {', '.join(missing[:3])}")
    return parts


def firsts(names: Sequence[str]) -> list[str]:
    """Names of models, of a split one its first part, where all its parts are there."""
    # A listing may have a million names, and each of them may say that it is one of a thousand parts.
    n_there = Counter(map(first_of, set(_models(names))))
    return sorted(first for (first, n_parts), n in n_there.items() if n == n_parts)


def _models(names: Sequence[str]) -> list[str]:
    """A name with numbers that no part has spoils none of the others: it is left out."""
    ggufs = (name for name in names if name.lower().endswith(".gguf") and can_be(name))
    return [name for name in ggufs if not _NOT_MODELS.search(name)]


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
    files = graphs + sorted(name for name in names if data.fullmatch(name))
    for beside in _BESIDE:
        near = [str(place / beside) for place in (folder, folder.parent)]
        files += [name for name in dict.fromkeys(near) if name in names][:1]
    return files


def _with_past(model: str) -> str:
    """The graph for later tokens, of an export that has two: decoder_model_int8 -> decoder_with_past_model_int8."""
    place = PurePosixPath(model)
    pair = place.name.replace("decoder_model", "decoder_with_past_model", 1)
    return "" if pair == place.name or "merged" in pair else str(place.with_name(pair))

"""Which row of the catalog a model file is: by its hash, by the repository it comes from, or by shape and name.

A row adds what a header does not say: scores, licence, the type it was trained in. What is not recognized stays what
its header says, and is judged with the wide prior of the unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from edgellm.types.model import ModelCard, ModelFile, Shape


def recognize(card: ModelCard, rows: Iterable[ModelCard]) -> ModelCard:
    """`card` under the row it is found to be, with its own files, shape and context; `card` itself where it is none."""
    row = _row_of(card, list(rows))
    if row is None:
        return card
    kind = row.kind if row.kind != "base" or card.kind != "chat" else card.kind
    return replace(row, kind=kind, files=card.files, repos=(), shape=card.shape, ctx_train=card.ctx_train)


def joined(rows: Iterable[ModelCard], found: Iterable[ModelCard]) -> list[ModelCard]:
    """The rows with the files of what was found: added to the row they are of, else as rows of their own."""
    merged = {row.id: row for row in rows}
    known = list(merged.values())
    for card in found:
        named = recognize(card, known)
        row = merged.get(named.id)
        if row is None:
            merged[named.id] = named
        else:
            sources = {file.source for file in row.files}
            fresh = tuple(file for file in named.files if file.source not in sources)
            # A size that was read beats one that follows from the quantization's name.
            merged[named.id] = replace(row, files=(*fresh, *row.files))
    return list(merged.values())


def _row_of(card: ModelCard, rows: list[ModelCard]) -> ModelCard | None:
    hashes = {file.sha256 for file in card.files if file.sha256}
    for row in rows:
        if hashes & {file.sha256 for file in row.files if file.sha256}:
            return row
    alike = [
        row
        for row in rows
        if row.shape is not None and card.shape is not None and _core(row.shape) == _core(card.shape)
    ]
    repos = {_repo(file) for file in card.files} - {""}
    for row in alike:
        if repos & {row.hf_repo, *row.repos, *(_repo(file) for file in row.files)}:
            return row
    name = _letters(card.id)
    same_kind = [row for row in alike if row.kind == card.kind] or alike
    same = [row for row in same_kind if _same_name(name, _letters(row.id)) or _same_name(_letters(row.id), name)]
    return min(same, key=lambda row: abs(len(_letters(row.id)) - len(name))) if same else None


def _same_name(long: str, short: str) -> bool:
    """Whether one is the other and words that name no other model: a fine-tune's own name is one."""
    return (
        long.startswith(short)
        and re.fullmatch(r"(instruct|it|chat|hf|qat|latest|\d{4})*", long[len(short) :]) is not None
    )


def _core(shape: Shape) -> tuple[str, int, int, int, int, int]:
    """What tells one size of a family from another. Vocabularies are padded differently, so theirs is left out."""
    return shape.arch, shape.n_layer, shape.n_embd, shape.n_ff, shape.n_head, shape.n_expert


def _repo(file: ModelFile) -> str:
    match = re.match(r"hf://([^/]+/[^/:@]+)", file.source)
    return match[1] if match else ""


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())

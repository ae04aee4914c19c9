"""Finds the catalog's card of a model file: by its hash, by the repository it comes from, or by shape and name.

The card adds what a header does not say: scores, licence, the type that the model was trained in. A file without a card
keeps what its header says, and its quality is predicted with the wide prior of unknown models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from edgellm.types.model import ModelCard, ModelFile, Shape


def recognize(card: ModelCard, catalog: Iterable[ModelCard]) -> ModelCard:
    """The catalog's card of the same model, with the files, shape and context of `card`; else `card` itself."""
    match = _match(card, list(catalog))
    if match is None:
        return card
    kind = match.kind if match.kind != "base" or card.kind != "chat" else card.kind
    ctx_train = card.ctx_train or match.ctx_train
    return replace(match, kind=kind, files=card.files, repos=(), shape=card.shape, ctx_train=ctx_train)


def joined(catalog: Iterable[ModelCard], local_cards: Iterable[ModelCard]) -> list[ModelCard]:
    """The catalog with the files of other cards: added to the card of the same model, else as cards of their own."""
    merged = {card.id: card for card in catalog}
    published = list(merged.values())
    for local in local_cards:
        recognized = recognize(local, published)
        card = merged.get(recognized.id)
        if card is None:
            merged[recognized.id] = recognized
        else:
            sources = {file.source for file in card.files}
            fresh = tuple(file for file in recognized.files if file.source not in sources)
            # A size that was read beats one that follows from the quantization's name.
            merged[recognized.id] = replace(card, files=(*fresh, *card.files))
    return list(merged.values())


def _match(card: ModelCard, catalog: list[ModelCard]) -> ModelCard | None:
    hashes = {file.sha256 for file in card.files if file.sha256}
    for other in catalog:
        if hashes & {file.sha256 for file in other.files if file.sha256}:
            return other
    same_shape = [
        other
        for other in catalog
        if other.shape is not None and card.shape is not None and _core(other.shape) == _core(card.shape)
    ]
    repos = {_repo(file) for file in card.files} - {""}
    for other in same_shape:
        if repos & {other.hf_repo, *other.repos, *(_repo(file) for file in other.files)}:
            return other
    name = _letters(card.id)
    same_kind = [other for other in same_shape if other.kind == card.kind] or same_shape
    namesakes = [o for o in same_kind if _same_name(name, _letters(o.id)) or _same_name(_letters(o.id), name)]
    return min(namesakes, key=lambda other: abs(len(_letters(other.id)) - len(name)), default=None)


def _same_name(long: str, short: str) -> bool:
    """Whether `long` is `short` and words that do not name another model, as the name of a fine-tune does."""
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

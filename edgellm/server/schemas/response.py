"""Response bodies beside those of answers, as they are sent and as /docs shows them."""

from __future__ import annotations

import msgspec


class ReadUsage(msgspec.Struct, frozen=True):
    """Of requests that generate no text."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True):
    object: str
    index: int
    embedding: list[float] | str  # str: base64 of float32, little-endian


class EmbeddingList(msgspec.Struct, frozen=True):
    object: str
    data: list[Embedding]
    model: str
    usage: ReadUsage


class ModelMeta(msgspec.Struct, frozen=True):
    """As llama-server says it."""

    n_ctx: int  # tokens that a slot holds


class Model(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    owned_by: str
    context_length: int  # extension: tokens that a slot holds
    meta: ModelMeta  # extension


class ModelList(msgspec.Struct, frozen=True):
    object: str
    data: list[Model]


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(msgspec.Struct, frozen=True):
    error: ErrorDetail


class Health(msgspec.Struct, frozen=True):
    status: str  # "ok", "loading", "hung", "reloading", "failed" or "closed"
    reason: str = ""  # what ended the model

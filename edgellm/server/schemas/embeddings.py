"""Bodies of `/v1/embeddings` and `/v1/rerank`; rules as in `fields`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from edgellm.errors import UsageError
from edgellm.server.schemas.request import Inert, Unused, Whole
from edgellm.types.request import MAX_COUNT, EmbeddingRequest, RerankRequest


class Input:
    """Type of `input`: a text, texts, the token ids of one, or of several."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(_inputs)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        ids = {"type": "array", "items": {"type": "integer"}}
        texts = {"type": "array", "items": {"type": "string"}}
        return {
            "anyOf": [{"type": "string"}, texts, ids, {"type": "array", "items": ids}],
            "description": "Texts, or token ids with the special tokens that the model wants; 2048 at most.",
        }


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        if all(isinstance(one, str) for one in value):
            return tuple(value)
        if _are_ids(value):
            return (tuple(value),)
        if all(isinstance(one, list) and _are_ids(one) for one in value):
            return tuple(tuple(one) for one in value)
    raise PydanticCustomError("no_input", "it is no text, list of texts, list of token ids, or list of such lists")


def _are_ids(value: list[Any]) -> bool:
    return all(type(one) is int and 0 <= one < MAX_COUNT for one in value)


class EmbeddingBody(Whole):
    """POST /v1/embeddings."""

    text_field = "input"
    shown = '{"input": "..."}'

    input: Annotated[Any, Input()]
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: of float32 numbers, little-endian."
    )
    dimensions: int | None = Field(None, description="Fewer numbers a vector; of models that were trained for it.")
    user: Annotated[Any, Unused()] = None

    def noun(self) -> EmbeddingRequest:
        return EmbeddingRequest(self.input, self.dimensions)


class RerankBody(Whole):
    """POST /v1/rerank."""

    text_field = "documents"
    shown = '{"query": "...", "documents": ["..."]}'

    query: str
    documents: list[str]
    top_n: int | None = Field(None, description="Only the best so many; absent: all.")
    return_documents: bool | None = Field(None, description="Repeat each document in its result.")
    max_chunks_per_doc: Annotated[Any, Inert()] = None
    max_tokens_per_doc: Annotated[Any, Inert()] = None
    rank_fields: Annotated[Any, Inert()] = None
    truncation: Annotated[Any, Inert(False)] = None
    user: Annotated[Any, Unused()] = None

    def noun(self) -> RerankRequest:
        if self.top_n is not None and self.top_n < 1:
            raise UsageError(f"top_n={self.top_n} is out of range", hint="allowed: 1 or more", param="top_n")
        return RerankRequest(self.query, tuple(self.documents))

"""Bodies of `/v1/embeddings` and `/v1/rerank`, and the requests that they become."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import NeutralValues, RequestBody
from edgellm.server.schemas.inputs import Inputs, inputs_of
from edgellm.types.request import MAX_INPUTS, EmbeddingRequest, RerankRequest


class EmbeddingBody(RequestBody, kw_only=True):
    """POST /v1/embeddings."""

    text_field = "input"
    example = '{"input": "..."}'
    IGNORED = ("user",)
    max_values = 1_100_000  # as many texts as are allowed, of as many ids as most such models read, and some

    input: Inputs
    encoding_format: Annotated[
        Literal["float", "base64"] | None, Meta(description="base64: of float32 numbers, little-endian.")
    ] = None
    dimensions: Annotated[
        int | None, Meta(description="Fewer numbers in each vector; for models that were trained for it.")
    ] = None

    def to_request(self) -> EmbeddingRequest:
        return EmbeddingRequest(inputs_of(self.input, "input"), self.dimensions)


class RerankBody(RequestBody, kw_only=True):
    """POST /v1/rerank."""

    text_field = "documents"
    example = '{"query": "...", "documents": ["..."]}'
    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "max_chunks_per_doc": (),
        "max_tokens_per_doc": (),
        "rank_fields": (),
        "truncation": (False,),
    }
    IGNORED = ("user",)

    query: str
    documents: Annotated[list[str], Meta(max_length=MAX_INPUTS)]
    top_n: Annotated[int | None, Meta(description="Only this many of the best; absent: all.")] = None
    return_documents: Annotated[bool | None, Meta(description="Repeat each document in its result.")] = None

    def to_request(self) -> RerankRequest:
        if self.top_n is not None and self.top_n < 1:
            raise UsageError(f"top_n={self.top_n} is out of range", hint="allowed: 1 or more", param="top_n")
        return RerankRequest(self.query, tuple(self.documents))

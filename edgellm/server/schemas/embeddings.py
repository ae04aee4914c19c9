"""The body of `/v1/embeddings`, and the request that it becomes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edgellm.server.schemas.fields import RequestBody
from edgellm.server.schemas.inputs import Inputs, inputs_of
from edgellm.types.request import EmbeddingRequest


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

"""A long conversation made short: what the user said, and a summary of the rest by the model itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.responses.answer import ResponsesUsage
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.dialects.responses.items import ResponsesItem
from edgellm.server.dialects.responses.output import new_id
from edgellm.server.dialects.responses.sealed import sealed
from edgellm.server.dialects.responses.stored import listed, with_id
from edgellm.types.event import Completion
from edgellm.types.message import Message
from edgellm.types.request import GenerationRequest

MAX_SUMMARY = 1024  # tokens, unless the request says otherwise
ASKED = """Summarize our conversation until here, for somebody who goes on with it and sees nothing else: what was \
asked for, what was done and found out, with names, paths and numbers, and what is still to be done. Write nothing \
but the summary."""


class ResponsesCompactBody(ResponsesBody, kw_only=True):
    """POST /v1/responses/compact. The fields of /v1/responses; tools are not used."""

    def without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super().without_effect()
        if self.stream:
            yield "stream", ""

    def to_requests(self, llm: EdgeLLM, earlier: Sequence[ResponsesItem] = ()) -> list[GenerationRequest]:
        """The conversation, with the wish for a summary behind it. Raises as `ResponsesBody` does."""
        said = self.messages(earlier)
        request = llm.request(
            [*said, Message("user", ASKED)] if said else [],  # nothing is refused as elsewhere
            reasoning_effort="none",
            max_tokens=MAX_SUMMARY if self.max_output_tokens is None else self.max_output_tokens,
            sampling=self.sampling(),
            truncate=self.truncation == "auto",
        )
        return [request]


class ResponsesCompaction(msgspec.Struct, frozen=True):
    """`output`: to be sent as the input of the next request, in place of the conversation."""

    id: str
    created_at: int
    output: list[Any]
    usage: ResponsesUsage
    object: str = "response.compaction"


def compacted(body: ResponsesCompactBody, earlier: Sequence[ResponsesItem], answer: Completion) -> ResponsesCompaction:
    items = (item for item in (*earlier, *body.items) if item is not None)
    said = [item for item in items if item.type in (None, "message") and item.role == "user"]
    summary = {"type": "compaction", "id": new_id("cmp"), "encrypted_content": sealed(answer.text)}
    output = [*(listed(with_id(item)) for item in said), summary]
    return ResponsesCompaction(new_id("resp"), int(time.time()), output, ResponsesUsage.of(answer.usage))

"""OpenAI's Responses: `/v1/responses`."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from edgellm.errors import UsageError
from edgellm.sdk.answer import whole
from edgellm.server import intake, request_log, sse
from edgellm.server.answers import EventLists
from edgellm.server.beside import beside
from edgellm.server.dialects.responses import answer, listing
from edgellm.server.dialects.responses.answer import ResponsesAnswer
from edgellm.server.dialects.responses.body import ResponsesBody, ResponsesCountBody
from edgellm.server.dialects.responses.chunks import ResponsesChunks
from edgellm.server.dialects.responses.compaction import ResponsesCompactBody, ResponsesCompaction, compacted
from edgellm.server.dialects.responses.stored import KeptItem, ReferredTo, StoredResponses, kept_items, owner_of
from edgellm.server.openapi import EVENTS, REFUSALS, Operation
from edgellm.server.responses import NO_STORE, JSONResponse, client_closed
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.server.turns import Turns
from edgellm.types.request import GenerationRequest

TAG = "OpenAI Responses"
ONE = "/v1/responses/{response_id}"
AnyBodyT = TypeVar("AnyBodyT", bound=ResponsesBody)


class Asked(NamedTuple):
    """What a body names of what is kept, what is kept of what came with it, and what is asked of the model."""

    named: ReferredTo
    sent: list[KeptItem]
    generation: GenerationRequest


def operations(served: ServedModel) -> list[Operation]:
    """The operations of this dialect."""
    stored = StoredResponses()
    listing_turns = Turns(1)

    async def receive(request: Request, body_type: type[AnyBodyT]) -> tuple[AnyBodyT, Asked]:
        owner, n_body_bytes = owner_of(request), len(await request.body())

        def asked(body: AnyBodyT) -> Asked:
            named = stored.fill_in(owner, body, n_body_bytes)
            (generation,) = body.to_requests(served.llm, named.earlier.read())
            keeps = body_type is ResponsesBody and body.store is not False
            return Asked(named, kept_items(body.items, named.items) if keeps else [], generation)

        received = await served.receive(request, body_type, asked, has_more=True)
        intake.incoming_of(request.scope).names(received[1].named.json_bytes)
        return received

    async def create(request: Request) -> ASGIApp:
        """Answer a conversation. With `stream: true`, events that end with the whole response."""
        with overflow_names(ResponsesBody.text_field):
            body, (named, sent, generation) = await receive(request, ResponsesBody)
            body.input = None  # what is needed of it was made
            record = request_log.of_scope(request.scope)

            def keep(response: ResponsesAnswer) -> bool:
                return stored.keep(owner_of(request), record.counts_as, response, named.earlier, sent)

            chunks = ResponsesChunks(served, body, record, generation.notes, keep)
            event_lists = served.events(request, [generation])
            return await (sse.stream if body.stream else _whole)(request, chunks, event_lists)

    async def count_input_tokens(request: Request) -> ASGIApp:
        """How many tokens the model would read before it answers."""
        with overflow_names(ResponsesBody.text_field):
            _, asked = await receive(request, ResponsesCountBody)
            n_tokens = await sse.unless_gone(request.receive, served.count_tokens(request, asked.generation))
        return client_closed(request) if n_tokens is None else JSONResponse(answer.ResponsesInputTokens(n_tokens))

    async def compact(request: Request) -> ASGIApp:
        """Make a conversation short. The model writes a summary of it, which takes the place of the rest."""
        with overflow_names(ResponsesBody.text_field):
            body, asked = await receive(request, ResponsesCompactBody)
            events = await sse.whole(request, served.events(request, [asked.generation]))
        if events is None:
            return client_closed(request)
        return await beside(lambda: JSONResponse(compacted(body, asked.named.earlier.read(), whole(events))))

    async def retrieve(request: Request) -> ASGIApp:
        """A response that was stored."""
        if request.query_params.get("stream", "false") != "false":
            raise UsageError("a stored response is not streamed again", hint="leave out stream", param="stream")
        found = stored.require(owner_of(request), request.path_params["response_id"])
        return Response(found.answer, media_type="application/json", headers=NO_STORE)

    async def delete(request: Request) -> ASGIApp:
        """Forget a response that was stored."""
        response_id = request.path_params["response_id"]
        stored.delete(owner_of(request), response_id)
        return JSONResponse(answer.ResponsesDeleted(response_id))

    async def cancel(request: Request) -> ASGIApp:
        """Only responses in the background are cancelled this way, and there are none: close the connection instead."""
        stored.require(owner_of(request), request.path_params["response_id"])
        hint = "it has ended; one that is being written is cancelled by closing its connection"
        raise UsageError("this response is not written in the background", hint=hint, param="response_id")

    async def input_items(request: Request) -> ASGIApp:
        """What a stored response is the answer to, the newest first unless `order=asc`."""
        found = stored.require(owner_of(request), request.path_params["response_id"])
        # Python's lock is shared: of threads that write pages, several would keep the event loop from it.
        async with listing_turns.turn(request_log.of_scope(request.scope).counts_as):
            return await beside(lambda: JSONResponse(listing.page(found.input, request.query_params)))

    return [
        Operation(
            "POST",
            "/v1/responses",
            create,
            TAG,
            ResponsesAnswer,
            ResponsesBody,
            REFUSALS,
            streams=EVENTS,
        ),
        Operation(
            "POST",
            "/v1/responses/input_tokens",
            count_input_tokens,
            TAG,
            answer.ResponsesInputTokens,
            ResponsesCountBody,
            REFUSALS,
        ),
        Operation("POST", "/v1/responses/compact", compact, TAG, ResponsesCompaction, ResponsesCompactBody, REFUSALS),
        Operation("GET", ONE, retrieve, TAG, ResponsesAnswer, other_replies=REFUSALS),
        Operation("DELETE", ONE, delete, TAG, answer.ResponsesDeleted, other_replies=REFUSALS),
        Operation("POST", f"{ONE}/cancel", cancel, TAG, ResponsesAnswer, other_replies=REFUSALS),
        Operation("GET", f"{ONE}/input_items", input_items, TAG, listing.ResponsesItemList, other_replies=REFUSALS),
    ]


async def _whole(request: Request, chunks: ResponsesChunks, event_lists: EventLists) -> ASGIApp:
    events = await sse.whole(request, event_lists)
    if events is None:
        return client_closed(request)
    # A long conversation takes a while to keep: not in the event loop that all streams share.
    return await beside(lambda: JSONResponse(chunks.whole(events)))

"""The model behind the routes: its names, and whether it accepts requests now."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from edgellm import __version__
from edgellm.errors import ContextOverflow, UnknownModel
from edgellm.sdk.asking import AsksModel, without_asking
from edgellm.sdk.client import EdgeLLM
from edgellm.server import continued, request_log, sse
from edgellm.server.activity import Activity, ActivityReport
from edgellm.server.answers import Answers, EventLists
from edgellm.server.beside import beside
from edgellm.server.counting_places import CountingPlaces
from edgellm.server.errors import HttpError
from edgellm.server.intake import LARGE_BYTES
from edgellm.server.names import ALWAYS, TAG, ModelNames
from edgellm.server.reading_places import SHORT_BYTES, ReadingPlaces, is_short
from edgellm.server.schemas.fields import Body
from edgellm.server.schemas.unknown import STRICT_HEADER, UnknownFields
from edgellm.server.turns import Turns
from edgellm.server.unsent import room_for_unsent
from edgellm.types.adapter import AdapterSet
from edgellm.types.event import Vectors
from edgellm.types.request import EmbeddingRequest, GenerationRequest, RerankRequest

MadeT = TypeVar("MadeT")
# Requests for vectors that the model has at a time: enough to fill its batches, and few enough that the next client's
# is soon among them. Each holds its place until all its vectors are there, so no client has them all.
EMBEDDING_PLACES = 16


class ServedModel:
    """A model and what every dialect needs to know of it.

    Attributes:
        names: by which clients ask for it.
        created: when it was put behind the routes, in seconds since 1970.
        n_ignored: unknown fields in bodies until now.
        activity: what it generates now.
        node: the machine, where several answer together; otherwise "".
    """

    def __init__(
        self, llm: EdgeLLM, *, strict_fields: bool = False, names: ModelNames | None = None, node: str = ""
    ) -> None:
        """`strict_fields`: unknown fields are refused, whether or not a request asks for that."""
        self.llm = llm
        self.node = node
        self.names = names or ModelNames()
        self.n_ignored = 0
        self._strict_fields = strict_fields
        self.created = int(time.time())
        self._reading_large = asyncio.Lock()
        self._reading = ReadingPlaces()
        self._turns = Turns(2 * llm.plan.settings.n_slots, keeps_room=True)  # one client alone has one for each slot
        self._embedding_turns = Turns(EMBEDDING_PLACES, keeps_room=True)
        self._counting = CountingPlaces()
        self._unsent = room_for_unsent()
        self.activity = Activity(llm.plan.settings.n_slots)

    @property
    def id(self) -> str:
        return self.llm.plan.artifact.name

    @property
    def fingerprint(self) -> str:
        """The same for as long as the same request with the same seed has the same answer."""
        plan = self.llm.plan
        facts = f"{__version__} {plan.artifact.name} {plan.artifact.quant} {plan.backend} {plan.settings}"
        facts += "".join(f" {file.name}={file.sha256}" for file in self.llm.adapters)
        return f"fp_{hashlib.sha256(facts.encode()).hexdigest()[:12]}"

    async def receive(
        self, request: Request, body_type: type[Body], make: Callable[[Body], MadeT], *, has_more: bool = False
    ) -> tuple[Body, MadeT]:
        """The body of a request for this model, and what `make` makes of it: with `has_more` of more than the body.

        Raises:
            UsageError, UnsupportedField: the body is wrong; UnknownModel, HttpError: as `require`; what `make` raises;
            ClientDisconnect: nobody waits for the answer any more; TooManyRequests: as `Turns.turn`.
        """
        raw, unknown = await request.body(), self._unknown_fields(request)
        body: Body | None = None

        def read() -> Body:
            nonlocal body
            body = body or body_type.read(raw, unknown)
            self.require(body.model)
            request.state.adapters = self.adapters_named(body.model)
            return body

        def read_and_make() -> tuple[Body, MadeT]:
            body = read()
            return body, make_of(body)

        def make_of(body: Body) -> MadeT:
            with body.naming():
                return make(body)

        def read_short() -> tuple[Body, MadeT]:
            with without_asking():
                return read_and_make()

        async def read_long() -> tuple[Body, MadeT]:
            if len(raw) <= LARGE_BYTES:
                return await beside(read_and_make)
            async with self._reading_large:
                body = await beside(read)
            # What is made of it may take half a minute, most of which waits for tokens: others read theirs.
            return body, await beside(make_of, body)

        try:
            # A model's own template takes time: not in the event loop that all streams share. Threads share one lock
            # of the interpreter, and many of them would keep the event loop from it in turn.
            if is_short(len(raw), has_more=has_more):
                with contextlib.suppress(AsksModel):
                    return await self._in_reading_place(request, lambda: beside(read_short), short=True)
            return await self._in_reading_place(request, read_long, short=False)
        finally:
            self._note_ignored(request, unknown)

    async def receive_names(self, request: Request, body_type: type[Body]) -> Body:
        """The body of a request that is not for this model: of a few names, and read whoever sends it.

        Raises:
            HttpError: 413, it is longer than any; UsageError, UnsupportedField: it is wrong; ClientDisconnect;
            TooManyRequests.
        """
        raw, unknown = await request.body(), self._unknown_fields(request)
        if len(raw) > SHORT_BYTES:
            what = f"the body is larger than {SHORT_BYTES} bytes"
            raise HttpError(413, what, code="body_too_large", hint="it holds names only")
        try:
            return await self._in_reading_place(request, lambda: beside(body_type.read, raw, unknown), short=True)
        finally:
            self._note_ignored(request, unknown)

    async def _in_reading_place(
        self, request: Request, read: Callable[[], Coroutine[Any, Any, MadeT]], *, short: bool
    ) -> MadeT:
        async with self._reading.turn(request_log.of_scope(request.scope).counts_as, short=short):
            if await request.is_disconnected():
                raise ClientDisconnect
            made = await sse.unless_gone(request.receive, read())
            if made is None:
                raise ClientDisconnect
            return made

    def _unknown_fields(self, request: Request) -> UnknownFields:
        return UnknownFields(strict=self._strict_fields or request.headers.get(STRICT_HEADER) == "1")

    def _note_ignored(self, request: Request, unknown: UnknownFields) -> None:
        self.n_ignored += unknown.n
        request_log.of_scope(request.scope).ignored = unknown.text

    async def events(self, request: Request, generations: Sequence[GenerationRequest]) -> EventLists:
        """The answers to `request`: `n` to each prompt, numbered through. All have the same `n`."""
        record, places = request_log.of_scope(request.scope), self.llm.plan.settings.n_slots
        generations = [with_adapters(one, request.state.adapters) for one in generations]
        generations = [msgspec.structs.replace(one, client=record.counts_as) for one in generations]
        generations = continued.applied(request.scope, generations)
        run, n = functools.partial(self._in_turn, record.counts_as), generations[0].n
        answers = Answers(record.counts_as, self._unsent, are_whole=sse.are_whole(request))
        async with aclosing(answers.together(generations, places, run)) as event_lists:
            async for events in event_lists:
                record.sees(events, n)
                yield events

    async def _in_turn(self, client: str, generation: GenerationRequest) -> EventLists:
        has_grammar = generation.grammar is not None  # a worker reads one at a time, and each may take seconds
        turns = self._turns.turn(client, generation.n, single=has_grammar)
        async with aclosing(self.llm.aevents(generation)) as event_lists, turns as turn:
            with self.activity.generation(generation.n):
                async for events in event_lists:
                    turn.is_read()
                    if not events:
                        continue  # the grammar was read
                    turn.begins()
                    self.activity.sees(events)
                    yield events

    def activity_report(self) -> ActivityReport:
        """What the model does now."""
        return self.activity.report(self._turns.n_waiting, self.llm.resident_bytes)

    async def vectors(self, request: Request, to_compute: EmbeddingRequest | RerankRequest) -> Vectors:
        """The vectors or scores for `request`, once it is its client's turn."""
        record = request_log.of_scope(request.scope)
        async with self._embedding_turns.turn(record.counts_as):
            vectors = await self.llm.avectors(msgspec.structs.replace(to_compute, client=record.counts_as))
        record.usage = vectors.usage
        self.activity.saw(vectors)
        return vectors

    def token_turn(self, request: Request, length: int) -> AbstractAsyncContextManager[object]:
        """As `CountingPlaces.turn`, for the client of `request`."""
        return self._counting.turn(request_log.of_scope(request.scope).counts_as, length)

    async def count_tokens(self, request: Request, generation: GenerationRequest) -> int:
        """Tokens of the prompt of `generation`, once it is its client's turn."""
        async with self.token_turn(request, len(generation.prompt)):
            return await self.llm.acount_tokens(generation)

    def require(self, name: str | None) -> None:
        """Check that requests for `name` can be answered now.

        After a crash or a hang the model is loaded again, and it is known to load: requests wait until it has.

        Raises:
            HttpError: 503, the model is loading or failed; UnknownModel: another model is served.
        """
        state = self.llm.state
        if state == "loading" and not self.llm.was_ready:
            raise HttpError(503, "the model is loading", code="model_loading", hint="try again in a moment")
        if state in ("failed", "closed"):
            raise HttpError(503, f"the model is not running: {self.reason()}", code=f"model_{state}")
        if name is not None and not self.is_named(name):
            raise self.unknown(name)

    @property
    def all_names(self) -> tuple[str, ...]:
        """What answers where a request does not say, then its id, its aliases, and its id with each adapter."""
        adapted = (self.adapted_id(file.name) for file in self.llm.adapters)
        return tuple(dict.fromkeys((self.llm.plan.served_as, self.id, *self.names.aliases, *adapted)))

    def adapted_id(self, adapter: str) -> str:
        """The name by which requests ask for one adapter."""
        return f"{self.id}:{adapter}"

    def is_named(self, name: str) -> bool:
        return self.names.include(name, self.id) or bool(self.adapters_named(name))

    def adapters_named(self, name: str | None) -> AdapterSet | None:
        """Those that a request for `name` is answered with; None = those that the model is served with."""
        if name is None:
            return None
        name = name.removesuffix(TAG)
        base, _, adapter = name.rpartition(":")
        is_loaded = any(file.name == adapter for file in self.llm.adapters)
        if is_loaded and self.names.include(base, self.id):
            return ((adapter, 1.0),)
        return () if name == self.id else None

    def id_for(self, name: str | None, *, chooses: bool = False) -> str:
        """What an answer to a request for `name` calls the model. `chooses`: the request has adapters of its own."""
        named = self.adapters_named(name)
        if named is None:
            return self.id if chooses else self.llm.plan.served_as
        return self.adapted_id(named[0][0]) if named else self.id

    def unknown(self, name: str) -> UnknownModel:
        """The error for a request for another model."""
        shown = repr(name if len(name) <= 80 else f"{name[:77]}...")
        served = self.llm.plan.served_as
        own = [self.id, *(self.adapted_id(file.name) for file in self.llm.adapters[:3])]
        also = " or ".join((*ALWAYS, *self.names.aliases[:3], *(other for other in own if other != served)))
        hint = f"served: {served} (also as {also}); start the server with --any-model to take every name"
        return UnknownModel(f"{shown} is not served here", hint=hint, param="model")

    def reason(self) -> str:
        """Why the model is not running; "" while it runs, and while it loads for the first time."""
        if self.llm.outage is not None:
            return str(self.llm.outage)
        return "it was closed" if self.llm.state == "closed" else ""


def with_adapters(generation: GenerationRequest, named: AdapterSet | None) -> GenerationRequest:
    """The request with the adapters of its model's name, too; None = it names none. A scale of the request's own counts
    before that of the name."""
    if named is None:
        return generation
    adapters = tuple((dict(named) | dict(generation.adapters or ())).items())
    return generation if generation.adapters == adapters else msgspec.structs.replace(generation, adapters=adapters)


@contextmanager
def overflow_names(field: str) -> Iterator[None]:
    """A text that is too long is named as the body calls it: `messages`, `prompt`, `input`."""
    try:
        yield
    except ContextOverflow as error:
        error.param = field
        raise

"""Conversations with a loaded model: `EdgeLLM.chat` and its siblings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, Literal, TypeVar, Unpack, overload

from edgellm.errors import UsageError
from edgellm.sdk.answer import parsed, whole
from edgellm.sdk.chat_arguments import asked_conversation
from edgellm.sdk.chat_request import RequestMethods
from edgellm.sdk.conversation import Messages
from edgellm.sdk.deadline import seconds
from edgellm.sdk.json_type import JsonAdapter, JsonType, json_type
from edgellm.types.event import Completion, Delta, Done, Event
from edgellm.types.grammar import Grammar
from edgellm.types.request import ChatKeywords

T = TypeVar("T")
Schema = type[T] | JsonAdapter[T] | Mapping[str, Any]


class ChatMethods(RequestMethods):
    """The methods of `EdgeLLM` that answer messages. Thread-safe."""

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        schema: None = None,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Completion: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        schema: type[T] | JsonAdapter[T],
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> T: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        schema: Mapping[str, Any],
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Any: ...

    def chat(
        self,
        messages: Messages,
        *,
        schema: Schema[Any] | None = None,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Any:
        """The whole answer to a conversation (text = one user message).

        Args:
            schema: a pydantic model, a dataclass, another type of JSON, or a JSON schema as a dictionary. The answer is
                kept to it, and comes as an object of that type (of a schema: as dictionaries, lists, ...), not as a
                `Completion`.
            timeout: seconds from sending the request within which the whole answer must come. What is too late is
                ended, and its place is free for other requests.
            options: the fields of `edgellm.types.request.ChatKeywords`:
                max_tokens and stop (texts before which the answer ends);
                grammar: what the answer has to look like, for example `Grammar.of_schema(...)`. One that is cut off
                by `max_tokens` is incomplete: its finish_reason is "length";
                logprobs: with the logprob of each token;
                top_logprobs: and of so many likely ones in its place (0 to 20);
                n: how many answers (`choices`);
                tools: what the model may call (`calls`): functions, `Tool`s, or dictionaries; `use_tools` also makes
                the calls;
                tool_choice, parallel_tool_calls, thinking, reasoning_effort, template_kwargs, truncate and adapters, as
                of `request`;
                and those of `edgellm.Sampling` (temperature, top_p, seed, ...). The model's defaults
                (`plan.sampling`) hold for the others.

        Raises:
            BadTemplate: the model cannot chat; ContextOverflow: the conversation is too long; UsageError: a grammar
            that cannot be used, a value out of range; GrammarFailed; TimedOut; WorkerCrashed;
            Closed: by `close` meanwhile.
        """
        kind = None if schema is None else _asked_for(schema, options)
        request = self._asked(messages, options, "schema", "timeout")
        answer = whole(list(self.generate(request, timeout=timeout)), request.notes)
        return answer if kind is None else parsed(answer, kind)

    @overload
    def stream(
        self,
        messages: Messages,
        *,
        progress: Literal[False] = False,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Generator[Delta | Done, None, None]: ...

    @overload
    def stream(
        self, messages: Messages, *, progress: bool, timeout: float | None = None, **options: Unpack[ChatKeywords]
    ) -> Generator[Event, None, None]: ...

    def stream(
        self,
        messages: Messages,
        *,
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Generator[Event, None, None]:
        """As `chat`, event by event: `Delta`s, then one `Done`. Closing the iterator cancels the request.

        What is wrong with the arguments is raised at once, all else when the next event is asked for.

        Args:
            progress: with a `Prefill` each time that a part of the prompt has been read, before the first `Delta`.
        """
        timeout = seconds(timeout)
        return self.generate(self._asked(messages, options, "progress", "timeout", progress=progress), timeout=timeout)

    @overload
    async def achat(
        self,
        messages: Messages,
        *,
        schema: None = None,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Completion: ...

    @overload
    async def achat(
        self,
        messages: Messages,
        *,
        schema: type[T] | JsonAdapter[T],
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> T: ...

    @overload
    async def achat(
        self,
        messages: Messages,
        *,
        schema: Mapping[str, Any],
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Any: ...

    async def achat(
        self,
        messages: Messages,
        *,
        schema: Schema[Any] | None = None,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> Any:
        """As `chat`, for coroutines."""
        kind = None if schema is None else _asked_for(schema, options)
        request = await self._aasked(messages, options, "schema", "timeout")
        answer = whole([event async for event in self.agenerate(request, timeout=timeout)], request.notes)
        return answer if kind is None else parsed(answer, kind)

    @overload
    def astream(
        self,
        messages: Messages,
        *,
        progress: Literal[False] = False,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> AsyncGenerator[Delta | Done, None]: ...

    @overload
    def astream(
        self, messages: Messages, *, progress: bool, timeout: float | None = None, **options: Unpack[ChatKeywords]
    ) -> AsyncGenerator[Event, None]: ...

    def astream(
        self,
        messages: Messages,
        *,
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> AsyncGenerator[Event, None]:
        """As `stream`, for coroutines. What only the model's template refuses is raised with the first event."""
        conversation, options = asked_conversation(messages, options, "progress", "timeout")
        return self._astream(conversation, options, progress, seconds(timeout))

    async def _astream(
        self, messages: Messages, options: ChatKeywords, progress: bool, timeout: float | None
    ) -> AsyncGenerator[Event, None]:
        request = await self._aasked(messages, options, "progress", "timeout", progress=progress)
        async with contextlib.aclosing(self.agenerate(request, timeout=timeout)) as events:
            async for event in events:
                yield event


def _asked_for(schema: Schema[T], options: ChatKeywords) -> JsonType[T]:
    """Its type; the options ask for a grammar that keeps the answer to it from now on."""
    kind = json_type(schema)
    if rival := next((name for name in ("grammar", "tools") if options.get(name)), None):
        what = f"schema and {rival} both say what the answer looks like"
        raise UsageError(what, hint="give one of them", param=rival)
    if options.get("n", 1) != 1:
        raise UsageError("schema gives one object, and n asks for several", hint="leave n out", param="n")
    options["grammar"] = Grammar.of_schema(kind.schema, "schema")
    return kind

"""Answers for which a model may call functions of the app: `EdgeLLM.use_tools` and its siblings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import Any, Unpack

from edgellm.errors import IncompleteAnswer, TooManyRounds, UsageError, option
from edgellm.sdk.answer import whole
from edgellm.sdk.chat_arguments import asked_conversation
from edgellm.sdk.chat_request import RequestMethods
from edgellm.sdk.conversation import Messages
from edgellm.sdk.deadline import Deadline, seconds
from edgellm.sdk.toolbox import Toolbox
from edgellm.types.checks import plain_numbers
from edgellm.types.event import Completion, Delta, Done, Event, Prefill
from edgellm.types.message import ToolCall
from edgellm.types.request import AnswerKeywords
from edgellm.types.tool_use import ToolResult, ToolUse

MAX_ROUNDS = 8
_OWN = ("rounds", "timeout")
Functions = Sequence[Callable[..., Any]]


class ToolLoopMethods(RequestMethods):
    """The methods of `EdgeLLM` that call functions for a model. Thread-safe."""

    def use_tools(
        self,
        messages: Messages,
        *,
        tools: Functions,
        rounds: int = MAX_ROUNDS,
        timeout: float | None = None,
        **options: Unpack[AnswerKeywords],
    ) -> ToolUse:
        """The answer to a conversation, for which the model may call these functions, as often as it wants.

        A function's name, docstring and annotations are what the model is told of it. Arguments are checked before
        the call. Wrong ones, an exception, and a name that is none of these are told to the model, which may try
        again; no other function is called.

        Args:
            rounds: most answers of the model, the last included.
            timeout: seconds for all of it. A function that is no coroutine is not interrupted.
            options: as of `chat`. `tool_choice` holds for the first answer.

        Raises:
            TooManyRounds, with the messages and results so far; IncompleteAnswer: a call was cut off by `max_tokens`;
            UsageError: a function that cannot be a tool; what `chat` raises. `stream_tools` shows what came before an
            error.
        """
        loop = _ToolLoop(messages, tools, rounds, options)
        loop.refuse_coroutines()
        for _ in self._run(loop, Deadline(timeout, instead=_INSTEAD)):
            pass
        return loop.use

    def stream_tools(
        self,
        messages: Messages,
        *,
        tools: Functions,
        rounds: int = MAX_ROUNDS,
        timeout: float | None = None,
        **options: Unpack[AnswerKeywords],
    ) -> Generator[Delta | Done | ToolResult, None, None]:
        """As `use_tools`, step by step: the events of each answer, and a `ToolResult` after each call.

        What is wrong with the arguments is raised at once, all else when the next step is asked for.
        """
        loop, timeout = _ToolLoop(messages, tools, rounds, options), seconds(timeout)
        loop.refuse_coroutines()
        return self._steps(loop, timeout)

    def _steps(self, loop: _ToolLoop, timeout: float | None) -> Generator[Delta | Done | ToolResult, None, None]:
        yield from self._run(loop, Deadline(timeout, instead=_INSTEAD))

    async def ause_tools(
        self,
        messages: Messages,
        *,
        tools: Functions,
        rounds: int = MAX_ROUNDS,
        timeout: float | None = None,
        **options: Unpack[AnswerKeywords],
    ) -> ToolUse:
        """As `use_tools`, for coroutines, which the functions may be, too; others run in a thread."""
        loop = _ToolLoop(messages, tools, rounds, options)
        async with contextlib.aclosing(self._arun(loop, Deadline(timeout, instead=_INSTEAD))) as steps:
            async for _ in steps:
                pass
        return loop.use

    def astream_tools(
        self,
        messages: Messages,
        *,
        tools: Functions,
        rounds: int = MAX_ROUNDS,
        timeout: float | None = None,
        **options: Unpack[AnswerKeywords],
    ) -> AsyncGenerator[Delta | Done | ToolResult, None]:
        """As `stream_tools`, for coroutines."""
        return self._asteps(_ToolLoop(messages, tools, rounds, options), seconds(timeout))

    async def _asteps(self, loop: _ToolLoop, timeout: float | None) -> AsyncGenerator[Delta | Done | ToolResult, None]:
        async with contextlib.aclosing(self._arun(loop, Deadline(timeout, instead=_INSTEAD))) as steps:
            async for step in steps:
                yield step

    def _run(self, loop: _ToolLoop, deadline: Deadline) -> Generator[Delta | Done | ToolResult, None, None]:
        while loop.goes_on:
            request = self._asked(loop.messages, loop.options, *_OWN)
            with contextlib.closing(self._events_by(request, deadline)) as events:
                for event in events:
                    assert not isinstance(event, Prefill)  # it is not asked for
                    loop.events.append(event)
                    yield event
            for call in loop.take_answer(request.notes):
                deadline.check()
                yield loop.take(loop.toolbox.call(call))

    async def _arun(self, loop: _ToolLoop, deadline: Deadline) -> AsyncGenerator[Delta | Done | ToolResult, None]:
        while loop.goes_on:
            request = await self._aasked(loop.messages, loop.options, *_OWN)
            async with contextlib.aclosing(self._event_lists_by(request, deadline)) as event_lists:
                async for events in event_lists:
                    loop.events += events
                    for event in events:
                        assert not isinstance(event, Prefill)
                        yield event
            for call in loop.take_answer(request.notes):
                yield loop.take(await deadline.keep(loop.toolbox.acall(call)))


_INSTEAD = "stream_tools() gives what came so far"


class _ToolLoop:
    """What was said so far, and whether the model is asked again."""

    def __init__(self, messages: Messages, tools: Functions, rounds: int, options: AnswerKeywords) -> None:
        rounds = plain_numbers(rounds)
        if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
            raise UsageError(f"rounds={rounds!r:.60} is out of range", hint="allowed: 1 or more", param="rounds")
        if options.get("n", 1) != 1:
            raise UsageError("tools are used for one answer, and n asks for several", hint="leave n out", param="n")
        self.toolbox = Toolbox(tools)
        self.messages, self.options = asked_conversation(messages, {**options, "tools": self.toolbox.tools}, *_OWN)
        self.events: list[Event] = []  # of the answer that is being written
        self._results: list[ToolResult] = []
        self._answer: Completion | None = None
        self._left, self._rounds = rounds, rounds

    def refuse_coroutines(self) -> None:
        if names := self.toolbox.coroutines:
            what = f"{', '.join(names)} cannot be waited for here"
            raise UsageError(what, hint="use ause_tools, or pass functions that are no coroutines", param="tools")

    @property
    def goes_on(self) -> bool:
        return self._answer is None or bool(self._answer.calls)

    @property
    def use(self) -> ToolUse:
        assert self._answer is not None
        return ToolUse(self._answer, tuple(self.messages), tuple(self._results))

    def take_answer(self, notes: tuple[str, ...]) -> tuple[ToolCall, ...]:
        """The calls of the answer whose events are there. `notes`: those of its request."""
        answer, self.events = whole(self.events, notes), []
        self._answer, self._left = answer, self._left - 1
        self.messages.append(answer.message)
        is_forced = self.options.get("tool_choice", "auto") not in ("auto", "none")
        # What forces a call would do so for ever.
        self.options["tool_choice"] = "auto"
        if (answer.calls or is_forced) and answer.finish_reason == "length":
            fewer = ", or one call in each answer: parallel_tool_calls=False" if answer.calls[1:] else ""
            raise IncompleteAnswer(
                f"a call of {answer.calls[-1].name[:60] if answer.calls else 'a tool'} was cut off",
                hint=f"give it more {option('max_tokens')}{fewer}",
                text=answer.text,
            )
        if answer.calls and not self._left:
            raise TooManyRounds(
                f"the model called tools in each of {self._rounds} answers",
                hint="allow more rounds, or say when it knows enough; the error has the messages and results so far",
                rounds=self._rounds,
                messages=tuple(self.messages),
                results=tuple(self._results),
            )
        return answer.calls

    def take(self, result: ToolResult) -> ToolResult:
        self._results.append(result)
        self.messages.append(result.message)
        return result

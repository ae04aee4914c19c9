"""A conversation with a loaded model on the terminal: what was said so far, and the next answer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from edgellm.cli.page import say
from edgellm.cli.screen import Screen
from edgellm.errors import ContextOverflow, EdgeLLMError, UsageError
from edgellm.text.truncation import room, truncated
from edgellm.units import counted

if TYPE_CHECKING:
    from edgellm.sdk.client import EdgeLLM
    from edgellm.types.event import Done, Event
    from edgellm.types.grammar import Grammar
    from edgellm.types.message import Message
    from edgellm.types.sampling_defaults import SamplingDefaults
    from edgellm.types.tool_use import ToolResult


class Talk:
    """Answers are drawn as the plan says."""

    def __init__(
        self,
        llm: EdgeLLM,
        *,
        raw: bool = False,
        system: str | None = None,
        schema: Grammar | None = None,
        tools: Sequence[Callable[..., Any]] = (),
        max_tokens: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> None:
        """`schema`: answers are this JSON. `tools`: functions that the model may call."""
        from edgellm.types.message import Message
        from edgellm.types.sampling import Sampling

        self.llm = llm
        self.last: Done | None = None  # of the last answer; None = none yet, or it was cut off
        self.was_cut = False
        self._raw = raw
        self._schema = schema
        self._tools = tools
        self._start = [] if system is None else [Message("system", system)]
        self._messages: list[Message] = list(self._start)
        self._was_full = False  # and it was said that the oldest messages are left out
        self._drawn_by = Sampling()
        self._options: dict[str, Any] = {"max_tokens": max_tokens, "stop": stop, "grammar": schema}
        if raw:
            _require_text(llm)
        else:
            # A model without a template is refused before anyone types a question.
            llm.request("hello", tools=tools)

    @property
    def sampling(self) -> SamplingDefaults:
        """What answers are drawn by."""
        from edgellm.types.sampling_defaults import SamplingDefaults, SamplingPart, by_rank

        planned = self.llm.plan.sampling
        return SamplingDefaults(by_rank([SamplingPart("operator", self._drawn_by), *planned.parts]), planned.unused)

    def draw_by(self, name: str, value: str | None = None) -> None:
        """Draw answers by this from now on; None = as the plan says.

        Raises:
            UsageError: there is no such parameter, or it is no number in its range.
        """
        import msgspec

        from edgellm.types.checks import check_names
        from edgellm.types.sampling import ALLOWED

        check_names([name], ALLOWED)
        try:
            number = None if value is None else float(value)
        except ValueError:
            raise UsageError(f"{name}={value} is no number", hint=f"allowed: {ALLOWED[name]}", param=name) from None
        if number is not None and number.is_integer():
            number = int(number)
        self._drawn_by = msgspec.structs.replace(self._drawn_by, **{name: number})
        self._options["sampling"] = self._drawn_by

    def reset(self) -> None:
        self._messages = list(self._start)
        self.last, self.was_cut, self._was_full = None, False, False

    def say(self, text: str) -> bool:
        """Print the answer to `text` as it comes; False where Ctrl-C cut it off. What was said is kept either way, but
        for its beginning where the context does not hold it.

        Raises:
            IncompleteAnswer: it should be JSON, and was cut off by `max_tokens` or a full context.
            EdgeLLMError: the turn failed, and nothing of it is kept: the next one would fail by it, too.
        """
        from edgellm.sdk.answer import check_complete, whole
        from edgellm.types.event import Delta, Done
        from edgellm.types.message import Message
        from edgellm.types.tool_use import ToolResult

        before = self._messages
        self._messages = [*before, Message("user", text)]
        screen = Screen(wrap=self._schema is None)
        events: list[Event] = []
        try:
            self._make_room()
            with contextlib.closing(self._steps(text)) as steps:
                for step in steps:
                    if isinstance(step, ToolResult):
                        screen.show_result(step)
                        self._messages.append(step.message)
                    elif isinstance(step, Delta):
                        screen.show(step)
                        events.append(step)
                    elif isinstance(step, Done):
                        answer, self.last, events = whole([*events, step]), step, []
                        self._messages.append(answer.message)
        except KeyboardInterrupt:
            screen.end(cut=True)
            said = (event.text for event in events if isinstance(event, Delta) and event.kind == "text")
            self._messages.append(Message("assistant", "".join(said)))
            self.last, self.was_cut = None, True
            return False
        except EdgeLLMError:
            screen.end()
            self._messages = before
            raise
        screen.end()
        if self._schema is not None:
            check_complete(answer)
        elif answer.finish_reason == "length" and not self._raw:
            most, n_tokens = self._options["max_tokens"], answer.usage.completion_tokens
            why = "that is --max-tokens" if n_tokens == most else "the context is full"
            say(f"The answer was cut off after {counted(n_tokens, 'token')}: {why}.", err=True)
        return True

    def _make_room(self) -> None:
        """Leave the oldest turns out where the context does not hold all of them and an answer.

        Half of it is freed at a time: what stays is read anew, which takes long on a small machine.
        """
        if self._raw:
            return
        n_ctx, n_tokens = self.llm.info.n_ctx, self._count(self._messages)
        if n_tokens <= n_ctx - room(self._options["max_tokens"], n_ctx):
            return
        whole, self._messages = self._messages, truncated(self._messages, self._count, n_ctx // 2, n_tokens)
        if self._was_full or len(self._messages) == len(whole) or self._count(self._messages) >= n_ctx:
            return
        self._was_full = True
        say("The context is full: the oldest turns are left out from now on.", err=True)

    def _count(self, messages: Sequence[Message]) -> float:
        try:
            return self.llm.count_tokens(messages, tools=self._tools)
        except ContextOverflow:
            return math.inf

    def _steps(self, text: str) -> Generator[Event | ToolResult, None, None]:
        from edgellm.types.request import GenerationRequest

        if self._tools:
            yield from self.llm.stream_tools(self._messages, tools=self._tools, truncate=True, **self._options)
            return
        request = (
            GenerationRequest(text, **self._options) if self._raw else self.llm.request(self._messages, **self._options)
        )
        yield from self.llm.generate(request)


def _require_text(llm: EdgeLLM) -> None:
    """Raises UnsupportedTask: the model that was loaded only reads."""
    from edgellm.app import asked

    if not llm.info.generates:
        artifact = llm.plan.artifact
        asked.refuse_chat(artifact.path if artifact.shown_as else artifact.name)


def thoughtless(llm: EdgeLLM) -> str:
    """Why `--think` changes nothing with this model; "" where it can think."""
    from edgellm.errors import EdgeLLMError

    try:
        reading = llm.request("hello", thinking=True).reading
    except EdgeLLMError:  # a model that does not chat
        reading = None
    if llm.plan.thinking and reading is not None and reading.markup.reasoning is not None:
        return ""
    return f"{llm.plan.artifact.name} cannot think before it answers: --think changes nothing."

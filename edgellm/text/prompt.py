"""Builds the prompt of a chat: messages and tools, as the model's template takes them, with nobody else's markup."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from edgellm.errors import BadTemplate, ContextOverflow, UsageError
from edgellm.text.chat import PROTECTED, UNDEFINED
from edgellm.text.conversation import PromptNote, adapted, message_texts, tool_spec
from edgellm.text.cuts import Marker, SpecialTexts, texts_in
from edgellm.text.response_template import declared_markup
from edgellm.text.template_caps import TemplateCaps, tools_value
from edgellm.text.template_jobs import CapsJob, MarkupJob, RenderJob, RunJob, TemplateSource, run
from edgellm.types.markup import JsonCalls, Markup, Reading
from edgellm.types.message import Message, Tool
from edgellm.types.sampling_defaults import UnusedKey

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo

MAX_VARIABLES = 64
MAX_VARIABLE_CHARS = 64 * 1024  # of all texts in them
MAX_VARIABLE_DEPTH = 16
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a conversation became. `text`, `cuts` and `add_bos` are those of a `GenerationRequest`."""

    text: str
    cuts: tuple[int, ...] = ()
    add_bos: bool = True
    opened: str = ""  # the part of `text` that the answer continues: what the template opens it with
    notes: frozenset[PromptNote] = frozenset()  # what the template does not take as it came

    @property
    def prompts_tools(self) -> bool:
        """The template describes no tools. They are asked for as JSON (`JsonCalls()`), and read so."""
        return self.notes >= {"tools_prompted"}


class PromptBuilder:
    """For one loaded model. Thread-safe."""

    def __init__(self, info: EngineInfo, run_job: RunJob = run) -> None:
        """`run_job` runs the template: that of a `TemplateProcess`, or in this process, which nothing can then keep
        from a hostile template.

        Raises:
            BadTemplate: there is no chat template. One that is broken is refused when it is used.
        """
        if info.chat_template is None:
            raise BadTemplate("there is no chat template", hint="use completions: /v1/completions, EdgeLLM.generate")
        self._info = info
        self._template = TemplateSource(info.chat_template, info.bos_text, info.eos_text)
        self._run = run_job

    @functools.cached_property
    def caps(self) -> TemplateCaps:
        """Found out by some 30 renders, 10 ms in all."""
        return self._run(CapsJob(self._template)).caps

    @functools.cached_property
    def markup(self) -> Markup:
        """How the model marks thoughts and calls by itself."""
        declared = self._declared if isinstance(self._declared, Markup) else None
        return self._run(MarkupJob(self._template, declared)).markup

    @property
    def unused_template(self) -> UnusedKey | None:
        """What of the model's `response_template` cannot be read, so that none of it is."""
        return self._declared if isinstance(self._declared, UnusedKey) else None

    @functools.cached_property
    def _declared(self) -> Markup | UnusedKey | None:
        return declared_markup(self._info.response_template) if self._info.response_template else None

    def markup_after(self, prompt: ChatPrompt) -> Markup:
        """What the answer to `prompt` is marked with, for `call_grammar`. Where the prompt asks for calls, it knows no
        other, whatever the template writes.
        """
        return msgspec.structs.replace(self.markup, calls=None) if prompt.prompts_tools else self.markup

    def reading(self, prompt: ChatPrompt, tools: Sequence[Tool] = ()) -> Reading:
        """How the answer to `prompt` is read. `tools`: those that it may call."""
        markup = self.markup_after(prompt)
        if tools and markup.calls is None:
            markup = msgspec.structs.replace(markup, calls=JsonCalls())
        return Reading(markup, prompt.opened, tuple(tools))

    @functools.cached_property
    def _special(self) -> SpecialTexts:
        return SpecialTexts(self._info)

    def build(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        thinking: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> ChatPrompt:
        """The prompt of a conversation.

        Args:
            thinking: whether the model is to think, where its template has a switch for it (`caps.switch`).
            kwargs: further variables of the template, which go before those that are set here.
            add_generation_prompt: whether the template opens the answer.
            continue_final_message: whether the answer goes on in the last message, an assistant's.

        Raises:
            BadTemplate: the template refuses these messages, or fails.
            UsageError: variables that a template cannot have; nothing to continue; values nested too deeply.
            ContextOverflow: more cuts than the context has tokens.
        """
        if continue_final_message and (not messages or messages[-1].role != "assistant" or messages[-1].calls):
            what = "continue_final_message: the last message is not an assistant's text"
            raise UsageError(what, hint="end with a message of role assistant", param="continue_final_message")
        _check_variables(kwargs or {})
        try:
            return self._build(
                messages,
                tools,
                {**self.caps.variables(thinking=thinking), **(kwargs or {})},
                add_generation_prompt and not continue_final_message,
                continue_final_message,
            )
        except RecursionError:
            what = "the messages or tools have values that are nested too deeply"
            raise UsageError(what, hint="nest less", param="messages") from None

    def _build(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        variables: dict[str, Any],
        opens: bool,
        continues: bool,
    ) -> ChatPrompt:
        specs = [tool_spec(tool) for tool in tools]
        if tools and self.caps.tools:
            name, form = self.caps.tools
            variables[name] = tools_value(specs, form)
        marker = Marker(self._special, texts_in([*message_texts(messages), specs, variables]))
        conversation = adapted(messages, tools, self.caps, mark=marker.mark, markup=lambda: self.markup)
        marked = conversation.messages
        if continues:
            marked[-1] = _ended(marked[-1], marker.end)
        own = {name: marker.mark(value) for name, value in variables.items()}
        rendered = self._rendered(marked, own, opens)
        if continues:
            rendered = _until(rendered, marker.end)
            opened = messages[-1].content
        else:
            opened = self._opened(rendered, marked, own) if opens else ""
        self._check(marker.count(rendered))
        text, cuts = marker.unmark(rendered)
        return ChatPrompt(text, cuts, not self._writes_bos(text, cuts), opened, frozenset(conversation.notes))

    def _rendered(self, messages: list[dict[str, Any]], variables: Mapping[str, Any], opens: bool) -> str:
        given = {name: value for name, value in variables.items() if value is not UNDEFINED}
        unset = [name for name in variables if name not in given]
        return self._run(RenderJob(self._template, messages, given, unset, opens)).text

    def _opened(self, rendered: str, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
        """What the template adds for the answer, behind the messages."""
        usual = max((text for text in self.caps.openings if rendered.endswith(text)), key=len, default="")
        if usual:
            return usual
        try:
            before = self._rendered(messages, variables, opens=False)
        except BadTemplate:
            return ""
        return rendered[len(before) :] if rendered.startswith(before) else ""

    def _writes_bos(self, text: str, cuts: tuple[int, ...]) -> bool:
        """Templates often write the BOS token themselves; a second one would spoil the answer."""
        bos = self._info.bos_text
        return bool(bos) and text.startswith(bos) and not (cuts and cuts[0] < len(bos))

    def _check(self, n_marks: int) -> None:
        """Each part between marks has a token at least, and is looked through for special tokens by itself."""
        n_ctx = self._info.n_ctx
        if n_marks >= n_ctx:
            raise ContextOverflow.of_prompt(
                f"the prompt has more than {n_marks:,} tokens, the context holds {n_ctx:,}",
                n_prompt=n_marks + 1,
                n_ctx=n_ctx,
            )


def _ended(message: dict[str, Any], end: str) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, list):
        last = content[-1] if content[-1]["type"] == "text" else {"type": "text", "text": ""}
        before = content[:-1] if content[-1] is last else content
        return message | {"content": [*before, last | {"text": last["text"] + end}]}
    return message | {"content": content + end}


def _until(rendered: str, end: str) -> str:
    before, mark, _ = rendered.rpartition(end)
    if not mark:
        what = "the chat template does not write the last message as it is, so that it cannot be continued"
        raise BadTemplate(what, hint="leave out continue_final_message")
    return before


def _check_variables(kwargs: Mapping[str, Any]) -> None:
    """
    Raises:
        UsageError: a name that is taken or none, a value that is not JSON, or too much of it.
    """
    param = "chat_template_kwargs"
    wrong = next((name for name in kwargs if name in PROTECTED or not _VARIABLE.fullmatch(str(name))), None)
    if wrong is not None:
        what = f"the template's variable {str(wrong)[:60]!r} cannot be set"
        raise UsageError(what, hint="messages and tools have fields of their own; names are letters", param=param)
    if len(kwargs) > MAX_VARIABLES or not _is_small(list(kwargs.values())):
        hint = (
            f"JSON values only, {MAX_VARIABLES} variables, {MAX_VARIABLE_CHARS} characters and "
            f"{MAX_VARIABLE_DEPTH} levels at most"
        )
        raise UsageError("these variables are not for a template", hint=hint, param=param)


def _is_small(value: Any) -> bool:
    """JSON, and no more of it than is allowed. Each value counts as a character."""
    pending, n_chars = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        n_chars += len(item) if isinstance(item, str) else 1
        if depth > MAX_VARIABLE_DEPTH or n_chars > MAX_VARIABLE_CHARS:
            return False
        if isinstance(item, dict):
            pending += [(part, depth + 1) for pair in item.items() for part in pair]
            if not all(isinstance(key, str) for key in item):
                return False
        elif isinstance(item, list | tuple):
            pending += [(part, depth + 1) for part in item]
        elif (isinstance(item, int) and abs(item) >= 2**63) or (
            item is not None and not isinstance(item, str | int | float)
        ):
            return False
    return True

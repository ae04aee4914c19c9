"""What a chat template can do, found out by rendering small conversations and looking for what was put in.

Names and versions of models say little about it, and templates are edited after they were published. A probe that
fails is an answer, too: the template cannot do that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from edgellm.text.chat import UNDEFINED, ChatTemplate

ArgumentsForm = Literal["object", "text"]
REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")
REASONING_PARTS = "parts"  # of the content, as Mistral has it
SWITCHES = ("enable_thinking", "thinking")
# Variable for tools -> how it wants them: {"type": "function", "function": {..}}, the inner object alone, or JSON text.
_TOOL_FORMS = (("tools", "wrapped"), ("tools", "bare"), ("xml_tools", "wrapped"), ("functions", "text"))

_USER, _SYSTEM, _ANSWER, _THOUGHT, _RESULT = "pl1user", "pl2system", "pl3answer", "pl4thought", "pl5result"
_NAMES, _KEY, _VALUE = ("pl6first", "pl7second"), "pl8key", "pl9value"


@dataclass(frozen=True, slots=True)
class TemplateCaps:
    """What one template takes. Conversations are converted to that by `edgellm.text.prompt`."""

    content: Literal["text", "parts"] = "text"
    tools_unset: bool = False  # fails where `tools` is there and None
    functions_set: bool = False  # fails without `functions`, a text
    roles: bool = True  # it writes who says what
    system: bool = False  # a system message at the beginning
    late_system: bool = False  # also later
    repeated_roles: bool = False  # two messages of one role in a row
    tools: tuple[str, str] | None = None  # variable, and "wrapped", "bare" or "text"; None = it describes none
    arguments: ArgumentsForm | None = None  # of calls in history; None = it writes none
    null_content: bool = False  # a message with calls has to have the content None
    parallel_calls: bool = False  # several calls in one message
    tool_role: bool = False  # results of calls
    short_ids: bool = False  # ids of calls have to be nine letters and digits
    reasoning: str = ""  # how it takes what was thought: one of REASONING_NAMES, or REASONING_PARTS; "" = not at all
    switch: str = ""  # variable that turns thinking on and off; "" = none does
    # What it opens an answer with, without and with thinking.
    openings: tuple[str, str] = ("", "")

    def variables(self, *, thinking: bool) -> dict[str, Any]:
        """Those for a conversation without tools."""
        without = {"tools": UNDEFINED} if self.tools_unset else {"functions": "[]"} if self.functions_set else {}
        return {"enable_thinking": thinking, **({self.switch: thinking} if self.switch else {}), **without}


@lru_cache(maxsize=16)
def caps_of(template: ChatTemplate) -> TemplateCaps:
    """Some 30 renders, each ended after `chat.PROBE_S`."""
    caps = TemplateCaps()
    for finding in _FINDINGS:
        caps = finding(_Probe(template, caps), caps)
    return caps


class _Probe:
    """Renders with what is known of the template so far."""

    def __init__(self, template: ChatTemplate, caps: TemplateCaps) -> None:
        self._template = template
        self._caps = caps

    def __call__(
        self, *messages: Mapping[str, Any], opens: bool = False, thinks: bool = False, **variables: Any
    ) -> str:
        """The prompt; "" where the template fails."""
        known = {**self._caps.variables(thinking=thinks), **variables}
        shaped = [shaped_content(message, self._caps.content) for message in messages]
        return self._template.probe(shaped, add_generation_prompt=opens, **known) or ""


def shaped_content(message: Mapping[str, Any], form: str) -> dict[str, Any]:
    """The message, with its content as the template takes it."""
    content = message["content"]
    is_shaped = form == "parts" and isinstance(content, str)
    return {**message, "content": [{"type": "text", "text": content}]} if is_shaped else dict(message)


def thought_parts(thought: str, answer: str) -> list[dict[str, str]]:
    """The content of a message that thought before it answered, or called a tool."""
    said = [{"type": "text", "text": answer}] if answer else []
    return [{"type": "thinking", "thinking": thought}, *said]


def tools_value(tools: Sequence[Mapping[str, Any]], form: str) -> Any:
    """Functions (name, description, parameters) as the template takes them."""
    wrapped = [{"type": "function", "function": dict(tool)} for tool in tools]
    if form == "text":
        return json.dumps(wrapped, ensure_ascii=False, indent=4)
    return wrapped if form == "wrapped" else [dict(tool) for tool in tools]


def _user(text: str = _USER) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str | list[dict[str, str]] | None = _ANSWER, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def _calls(form: ArgumentsForm, n_calls: int) -> list[dict[str, Any]]:
    arguments: Any = {_KEY: _VALUE} if form == "object" else json.dumps({_KEY: _VALUE})
    functions = [{"name": name, "arguments": arguments} for name in _NAMES[:n_calls]]
    return [{"id": f"call0000{i}", "type": "function", "function": f} for i, f in enumerate(functions)]


def _result(index: int = 0) -> dict[str, Any]:
    return {"role": "tool", "content": _RESULT, "tool_call_id": f"call0000{index}", "name": _NAMES[index]}


def _find_content(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    forms: list[TemplateCaps] = [replace(caps, content=content) for content in ("text", "parts")]
    unset = [replace(form, tools_unset=True) for form in forms]
    for form in (*forms, *unset, replace(caps, functions_set=True)):
        if _USER in _Probe(probe._template, form)(_user()):
            return form
    return caps


def _find_roles(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    said = probe(_user(), _assistant(), _user(_RESULT), opens=True)
    own = said.partition(_USER)[2].replace(_ANSWER, "", 1).replace(_RESULT, "", 1)
    is_joined = _ANSWER in said and _RESULT in said and not any(letter.isalnum() for letter in own)
    return replace(caps, roles=not is_joined)


def _find_system(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    system = {"role": "system", "content": _SYSTEM}
    return replace(
        caps,
        system=_SYSTEM in probe(system, _user()),
        late_system=_SYSTEM in probe(_user(), _assistant(), system, _user()),
        repeated_roles=_ANSWER in probe(_user(), _user(_ANSWER)),
    )


def _find_tools(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    schema = {"type": "object", "properties": {_KEY: {"type": "string", "description": _VALUE}}, "required": [_KEY]}
    tool = {"name": _NAMES[0], "description": _ANSWER, "parameters": schema}
    for name, form in _TOOL_FORMS:
        prompt = probe(_user(), opens=True, **{name: tools_value([tool], form)})
        if all(text in prompt for text in (_NAMES[0], _ANSWER, _KEY)):
            return replace(caps, tools=(name, form))
    return caps


def _find_calls(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    forms: tuple[ArgumentsForm, ...] = ("object", "text")
    for form in forms:
        for content in ("", None):
            one, two = (
                probe(_user(), _assistant(content, tool_calls=_calls(form, n)), *map(_result, range(n))) for n in (1, 2)
            )
            # Python's own spelling of an object, or JSON inside of JSON, is not what a model was trained on.
            is_foreign = f"{{'{_KEY}'" in one or f'\\"{_KEY}' in one
            if is_foreign or not all(text in one for text in (_NAMES[0], _KEY, _VALUE)):
                continue
            long_ids = [call | {"id": f"call_{call['id']}"} for call in _calls(form, 1)]
            return replace(
                caps,
                short_ids=_KEY not in probe(_user(), _assistant(content, tool_calls=long_ids)),
                arguments=form,
                null_content=content is None,
                parallel_calls=all(name in two for name in _NAMES),
            )
    return caps


def _find_results(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    calls = {"tool_calls": _calls(caps.arguments, 1)} if caps.arguments else {}
    called = _assistant(None if caps.null_content else "", **calls) if calls else _assistant()
    return replace(caps, tool_role=_RESULT in probe(_user(), called, _result(), opens=True))


def _find_reasoning(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    calls = _calls(caps.arguments, 1) if caps.arguments else []
    for name in REASONING_NAMES:
        thought = {name: _THOUGHT}
        said = probe(_user(), _assistant(**thought), thinks=True)
        called = probe(_user(), _assistant("", tool_calls=calls, **thought), _result(), thinks=True) if calls else ""
        if _THOUGHT in said or _THOUGHT in called:
            return replace(caps, reasoning=name)
    said = probe(_user(), _assistant(thought_parts(_THOUGHT, _ANSWER)), thinks=True)
    # What is no text may come out as JSON, or as Python writes it.
    is_taken = _THOUGHT in said and _ANSWER in said and "thinking" not in said.partition(_USER)[2]
    return replace(caps, reasoning=REASONING_PARTS) if is_taken else caps


def _find_switch(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    for name in SWITCHES:
        off, on = (probe(_user(), opens=True, **{name: value}) for value in (False, True))
        if off and on and off != on:
            return replace(caps, switch=name)
    return caps


def _find_openings(probe: _Probe, caps: TemplateCaps) -> TemplateCaps:
    off, on = (
        _beyond(probe(_user(), opens=True, thinks=thinks), probe(_user(), thinks=thinks)) for thinks in (False, True)
    )
    return replace(caps, openings=(off, on))


def _beyond(whole: str, beginning: str) -> str:
    return whole[len(beginning) :] if whole.startswith(beginning) else ""


_FINDINGS = (
    _find_content, _find_roles, _find_system, _find_tools, _find_calls, _find_results, _find_reasoning, _find_switch,
    _find_openings,
)  # fmt: skip

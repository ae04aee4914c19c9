"""What is asked of the answer to a conversation, checked as far as neither a model nor its template is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgellm.errors import UsageError
from edgellm.sdk.conversation import Messages, messages_of
from edgellm.sdk.toolbox import check_choice, tools_of
from edgellm.types.adapter import adapters_of
from edgellm.types.checks import check_names
from edgellm.types.message import Message
from edgellm.types.reasoning import ReasoningEffort, thinks_first
from edgellm.types.request import ChatKeywords, GenerationRequest
from edgellm.types.sampling import Sampling, SamplingKeywords

_ELSEWHERE = {
    "schema": "chat and achat take it, whose answer comes whole",
    "progress": "stream and astream take it",
    "rounds": "use_tools and its siblings take it",
    "response_format": "schema takes a type or a JSON schema, grammar other forms: chat(..., schema={...})",
    "stream": "chat gives the whole answer, stream and astream give it event by event",
    "model": "the model was named when it was loaded",
    "sampling": "write its fields as options, as temperature=0.7",
    **{
        name: f"request takes it: llm.generate(llm.request(messages, {name}=...))"
        for name in ("add_generation_prompt", "continue_final_message", "ignore_eos", "reuse")
    },
}
_OF_ANSWER = ChatKeywords.__annotations__.keys() - SamplingKeywords.__annotations__.keys()
_KINDS: dict[str, tuple[type, str]] = {
    "template_kwargs": (Mapping, 'a dictionary, as {"name": value}'),
    "thinking": (bool, "True or False"),
    "parallel_tool_calls": (bool, "True or False"),
    "logprobs": (bool, "True or False; top_logprobs is a number"),
    "stop": (Iterable, 'a text or several, as ["\\n"]'),
}
_OF_REQUEST = ("max_tokens", "grammar", "top_logprobs", "n")


def drawn_apart(options: ChatKeywords, *own_names: str) -> tuple[dict[str, Any], Sampling]:
    """What is asked of the answer, and how its tokens are drawn.

    Args:
        own_names: what the method takes besides these options, for errors.

    Raises:
        UsageError: one is no option, or a value of sampling is out of range.
    """
    check_names(options, (*own_names, *ChatKeywords.__annotations__), _ELSEWHERE)
    own: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_ANSWER}
    drawn: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_ANSWER}
    return own, Sampling.of(**drawn)


def asked_conversation(
    messages: Messages, options: ChatKeywords, *own_names: str
) -> tuple[list[Message], ChatKeywords]:
    """The same arguments, which may be looked at again. Waits for nothing, so that an event loop may call it.

    Raises:
        UsageError: what is wrong with them, whatever the model is.
    """
    own, sampling = drawn_apart(options, *own_names)
    check_kinds(**{name: value for name, value in own.items() if name in _KINDS})
    tools, effort = tools_of(own.get("tools")), own.get("reasoning_effort")
    check_choice(own.get("tool_choice", "auto"), tools)
    stop, adapters = stops_of(own.get("stop")), adapters_of(own.get("adapters"))
    thinks_first(own.get("thinking"), effort, variables_of(effort, own.get("template_kwargs")), served=False)
    of_request = {name: own[name] for name in _OF_REQUEST if name in own}
    GenerationRequest("", sampling, stop=stop, adapters=adapters, **of_request)
    return messages_of(messages), {**options, "tools": tools, "stop": stop, "adapters": adapters}


def variables_of(effort: ReasoningEffort | None, template_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of the template that a request sets."""
    return {**({"reasoning_effort": effort} if effort else {}), **(template_kwargs or {})}


def check_kinds(**values: object) -> None:
    """
    Raises:
        UsageError: one is neither of its kind nor None.
    """
    for name, value in values.items():
        kind, words = _KINDS[name]
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"{name}={value!r:.60} has the wrong type", hint=f"pass {words}", param=name)


def stops_of(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """None = none. What is in them is checked by the request."""
    check_kinds(stop=stop)
    return (stop,) if isinstance(stop, str) else tuple(stop or ())

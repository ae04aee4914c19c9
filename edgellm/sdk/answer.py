"""The events of a request as one answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from edgellm.errors import Closed, IncompleteAnswer, InvalidAnswer, option
from edgellm.sdk.json_type import JsonType, mismatch
from edgellm.types.event import Choice, Completion, Delta, Done, Event, Usage
from edgellm.types.message import ToolCall

T = TypeVar("T")


def whole(events: Sequence[Event], notes: tuple[str, ...] = ()) -> Completion:
    """`notes`: those of the request. Raises Closed, where one of the choices has no end."""
    ends = {event.choice: event for event in events if isinstance(event, Done)}
    if any(end.finish_reason == "cancelled" for end in ends.values()):
        raise Closed.of_model()  # a stream shows that it has no end; half an answer in one piece would not
    deltas: dict[int, list[Delta]] = {choice: [] for choice in sorted(ends)}
    for event in events:
        if isinstance(event, Delta):
            deltas[event.choice].append(event)
    choices = tuple(_choice(deltas[number], ends[number]) for number in deltas)
    return Completion(
        **msgspec.structs.asdict(choices[0]),
        usage=_together([end.usage for _, end in sorted(ends.items())]),
        timings=ends[0].timings,
        choices=choices if len(choices) > 1 else (),
        notes=notes,
    )


def parsed(answer: Completion, kind: JsonType[T]) -> T:
    """The object that the answer is the JSON of.

    Raises:
        IncompleteAnswer: it was cut off; InvalidAnswer: the type has a rule that no grammar holds to.
    """
    check_complete(answer)
    try:
        return kind.read(answer.text)
    except (ValueError, RecursionError) as error:
        hint = "ask again, or keep to rules that a JSON schema can express"
        raise InvalidAnswer(
            f"the answer is not what was asked for: {mismatch(error)}"[:500], hint=hint, text=answer.text
        ) from error


def check_complete(answer: Completion) -> None:
    """Raises IncompleteAnswer, where an answer in JSON was cut off."""
    if answer.finish_reason == "length":
        raise IncompleteAnswer(
            f"the answer was cut off after {answer.usage.completion_tokens} tokens, in the middle of its JSON",
            hint=f"give it more {option('max_tokens')}, or bound what the schema leaves open: texts, numbers, lists, "
            "additionalProperties",
            text=answer.text,
        )
    if answer.stop and not _is_json(answer.text):
        raise IncompleteAnswer(
            f"the stop text {answer.stop[:60]!r} ended the answer in the middle of its JSON",
            hint=f"leave {option('stop')} out: what keeps to a schema ends by itself",
            text=answer.text,
        )


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _choice(deltas: Sequence[Delta], end: Done) -> Choice:
    return Choice(
        _text(deltas, "text"),
        end.finish_reason,
        _text(deltas, "reasoning"),
        _calls(deltas),
        tuple(token for delta in deltas for token in delta.logprobs),
        end.stop,
    )


def _text(deltas: Sequence[Delta], kind: str) -> str:
    return "".join(delta.text for delta in deltas if delta.kind == kind)


def _calls(deltas: Sequence[Delta]) -> tuple[ToolCall, ...]:
    numbers = sorted({delta.call for delta in deltas if delta.kind == "call_name"})
    of_each = [[delta for delta in deltas if delta.call == number] for number in numbers]
    return tuple(
        _call(number, _text(own, "call_name"), _text(own, "call_arguments"))
        for number, own in zip(numbers, of_each, strict=True)
    )


def _call(number: int, name: str, arguments: str) -> ToolCall:
    """Its id is the same whenever the model says the same: templates write it into the prompt. Some ask for nine
    letters and digits (Mistral's)."""
    said = f"{number} {name} {arguments}".encode(errors="replace")
    return ToolCall(name, arguments, hashlib.blake2b(said, digest_size=5).hexdigest()[:9])


def _together(usages: Sequence[Usage]) -> Usage:
    """The prompt is computed once for all choices."""
    return msgspec.structs.replace(
        usages[0],
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )

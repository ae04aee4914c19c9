"""The events of a request as one answer."""

from __future__ import annotations

from edgellm.runtime.session import closed
from edgellm.types.event import Completion, Delta, Done, Event


def whole(events: list[Event]) -> Completion:
    done = events[-1]
    assert isinstance(done, Done)
    if done.finish_reason == "cancelled":
        raise closed()  # a stream shows that it has no end; half an answer in one piece would not
    deltas = [event for event in events if isinstance(event, Delta)]
    text = "".join(delta.text for delta in deltas)
    logprobs = tuple(token for delta in deltas for token in delta.logprobs)
    return Completion(text, done.finish_reason, logprobs=logprobs, usage=done.usage, timings=done.timings)

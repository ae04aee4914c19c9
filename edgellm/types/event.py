"""Events of a running request, in order: any number of `Delta`, then one `Done` for each choice; errors are raised.

Where the request wants to know how its prompt is read, each `Prefill` comes before the first `Delta`. Before both,
those who forward events hear of a request with a grammar that this was read (`GrammarRead`). A request to
embed or to rerank has one event, `Vectors`; one for tokens or for their texts has `Tokens` or `Pieces`, one to load or
to drop an adapter has `Adapters`. The same structs cross the wire between worker and parent.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edgellm.types.adapter import AdapterFile
from edgellm.types.logprob import TokenLogprob
from edgellm.types.message import Message, ToolCall
from edgellm.types.sampling_defaults import SamplingPart

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
DeltaKind = Literal["text", "reasoning", "call_name", "call_arguments", "prompt"]


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, reused from an earlier request
    reasoning_tokens: int = 0  # of the completion


class Timings(msgspec.Struct, frozen=True):
    """Seconds, measured in the worker, and what the answer was drawn by."""

    queued_s: float
    prefill_s: float
    decode_s: float
    sampling: tuple[SamplingPart, ...] = ()  # each value with the row that it is from
    n_begun: int = 0  # tokens of the answer that were there before, and were read with the prompt

    def decoded(self, completion_tokens: int) -> int:
        """Tokens after the first, which prefill brought."""
        return max(completion_tokens - self.n_begun - 1, 0)

    def decode_tok_s(self, completion_tokens: int) -> float:
        """Rate over these."""
        return self.decoded(completion_tokens) / self.decode_s if self.decode_s > 0 else 0.0


class Delta(msgspec.Struct, frozen=True, tag=True):
    """New text: whole characters, no part of a stop string. `n_tokens` were generated since the previous delta.

    Stop strings are looked for in the answer's own text, not in what it thinks and calls. Of kind "call_name" it is a
    whole name, of "call_arguments" a part of JSON. Of kind "prompt", which comes first and once for all choices, it is
    what was asked (`GenerationRequest.echo`), with the logprobs of its tokens; that of the first is 0, as nothing is
    before it.
    """

    text: str
    n_tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()  # of these tokens, where the request asked for them
    kind: DeltaKind = "text"
    call: int = 0  # of a call's name and arguments: which of the choice's calls, from 0 on
    choice: int = 0
    tokens: tuple[int, ...] = ()  # their ids, where the request has a `continuation`


class Done(msgspec.Struct, frozen=True, tag=True):
    """The end of a choice.

    `finish_reason` is "stop" at the model's own end or before a stop text, "tool_calls" where it called tools, "length"
    where `max_tokens` or a full context cut it, and "cancelled" where the model was closed meanwhile.
    """

    finish_reason: FinishReason
    usage: Usage  # of this choice
    timings: Timings
    choice: int = 0
    n_open: int = 0  # other choices of the request that have not ended
    stop: str = ""  # the stop text that ended it; "" = none did


class Prefill(msgspec.Struct, frozen=True, tag=True):
    """How much of a prompt has been read: once it has a place, and then after each part that was computed.

    Only where the request asked for it (`GenerationRequest.progress`). In tokens: `total` of the prompt, of which
    `processed` are in the cache, and `cached` of these were there before.
    """

    total: int
    cached: int
    processed: int
    seconds: float  # since it has a place
    choice: int = 0  # the first of those that share the prompt


class GrammarRead(msgspec.Struct, frozen=True, tag=True):
    """The model has read a request's text and grammar, which one request after the other is: now it waits for a slot.

    For servers, which let the next grammar come then. Nobody else is told.
    """


Event = Delta | Done | Prefill


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """What a text is for the model."""

    ids: tuple[int, ...]


class Pieces(msgspec.Struct, frozen=True, tag=True):
    """What each token adds to a text, control tokens as a template writes them. May end within a character."""

    pieces: tuple[bytes, ...]


class Adapters(msgspec.Struct, frozen=True, tag=True):
    """One was loaded or dropped: all that are there now."""

    loaded: tuple[AdapterFile, ...]


class Vectors(msgspec.Struct, frozen=True, tag=True):
    """`n` rows of float32, little-endian, in the order of the inputs: embeddings, or scores (one number a row)."""

    data: bytes
    n: int
    usage: Usage
    timings: Timings
    n_cut: int = 0  # texts that were too long, and were cut (`EmbeddingRequest.truncate`)


class Choice(msgspec.Struct, frozen=True):
    """One answer of those that were asked for."""

    text: str
    finish_reason: FinishReason  # not "cancelled": closed meanwhile, it raises Closed
    reasoning: str = ""  # what the model thought before it answered
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()  # of each token, where the request asked for them
    stop: str = ""  # the stop text that ended it; "" = none did

    @property
    def message(self) -> Message:
        """It as the next message of the conversation."""
        return Message("assistant", self.text, self.reasoning, self.calls)


class Completion(Choice, frozen=True, kw_only=True):
    """A whole answer. Where more than one was asked for, the first of them."""

    usage: Usage  # the prompt once, and the tokens of all choices
    timings: Timings  # of the first choice, which computed the prompt
    choices: tuple[Choice, ...] = ()  # all of them, the first too, where `n` was over 1
    notes: tuple[str, ...] = ()  # of the request: what the template does not take as it came

"""Requests: to selection (`SelectionRequest`) and to a running model (`GenerationRequest`, `EmbeddingRequest`,
`RerankRequest`, `TokenizeRequest`, `DetokenizeRequest`).

A request is checked here and nowhere else, when it is made: types, ranges, and whether its text can be sent. So the
CLI, HTTP and the SDK refuse the same values with the same words, and a worker never meets what it cannot read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec

from edgellm.errors import ContextOverflow, UsageError
from edgellm.types.adapter import AdapterNeed, AdapterSet, AskedAdapters, DropAdapter, LoadAdapter, check_adapters
from edgellm.types.checks import MAX_COUNT, cannot_be_sent, check_ids, check_range, check_types
from edgellm.types.continuation import Continuation
from edgellm.types.grammar import Grammar
from edgellm.types.logprob import MAX_TOP
from edgellm.types.markup import Reading
from edgellm.types.message import AnyTool, ToolChoice
from edgellm.types.reasoning import ReasoningEffort
from edgellm.types.sampling import Sampling, SamplingKeywords
from edgellm.types.text_bytes import inked_bytes, too_many_bytes, utf8_length

Task = Literal["chat", "code", "agent", "embed"]
TASKS: tuple[Task, ...] = ("chat", "code", "agent", "embed")
KV_TYPES = ("f32", "f16", "q8_0", "q4_0")  # of the cache, the most exact first
MAX_CTX = 2**24  # 16 times what the catalog's models were trained for at most
MAX_THREADS = 1024  # more than any machine that runs models has
ALL_LAYERS = -1
MAX_LAYERS = 9999  # the deepest model of the catalog has 80 blocks
MAX_INPUTS = 2048  # texts of one request to embed or to rerank, as OpenAI's API allows
MAX_STOPS = 16
MAX_CHOICES = 128  # answers to one prompt, as OpenAI's API allows
# The longest tokens of the vocabularies in use are runs of 128 blanks; other text has 2 to 5 bytes a token.
MAX_TOKEN_BYTES = 128
MAX_REQUEST_BYTES = 64 * 1024**2  # no context holds so much text
TOKEN_BYTES = 5  # of an id on the wire, at most (MessagePack)
MAX_IDS = 8192  # to turn into text: in the thread that steps the engine, for some 10 ms
LEAST_TO_READ = 8192  # tokens that may be counted in a text, however short the context is


@dataclass(frozen=True, slots=True)
class SelectionRequest:
    """What the user needs a model for. None = EdgeLLM decides."""

    task: Task = "chat"
    ctx: int | None = None  # tokens per slot
    min_tps: float | None = None  # decode tokens per second (embed: of text read); None = the task's speed floor
    max_memory_bytes: int | None = None
    max_download_bytes: int | None = None  # of a file that is not on this disk; None = as large as it is
    backend: str | None = None
    slots: int | None = 1  # None = as many conversations at once as memory and the speed floor allow, up to four
    offline: bool = False  # only models that need no network
    thinking: bool = False  # models that can think before they answer, or not, do
    threads: int | None = None  # to decode and to read prompts with; None = what fits the machine
    gpu_layers: int | None = None  # as in Settings: 0 = none, -1 = all; None = as many as fit
    kv_type: str | None = (
        None  # one of KV_TYPES; None = f16 (f32 where a backend has no other), lower only where that buys something
    )
    adapter_bytes: int = 0  # that adapters take beside the model, of the memory that it may take
    adapters: tuple[AdapterNeed, ...] = ()  # that it must be able to answer with

    def __post_init__(self) -> None:
        task_of(self.task)
        check_types(self, "this cannot be asked for")
        check_range(self.ctx is None or 256 <= self.ctx <= MAX_CTX, f"ctx={self.ctx}", f"256 to {MAX_CTX} tokens")
        check_range(self.min_tps is None or self.min_tps > 0, f"min_tps={self.min_tps}", "a positive rate")
        memory, download = self.max_memory_bytes, self.max_download_bytes
        check_range(memory is None or memory > 0, f"max_memory={memory}", "a positive size")
        check_range(download is None or download >= 0, f"max_download={download}", "a size")
        check_range(self.slots is None or 1 <= self.slots <= 256, f"slots={self.slots}", "1 to 256")
        threads = self.threads
        check_range(threads is None or 1 <= threads <= MAX_THREADS, f"threads={threads}", f"1 to {MAX_THREADS}")
        layers = self.gpu_layers
        check_range(
            layers is None or -1 <= layers <= MAX_LAYERS, f"gpu_layers={layers}", f"0 to {MAX_LAYERS}, all or auto"
        )
        if self.kv_type is not None and self.kv_type not in KV_TYPES:
            raise UsageError(
                f"unknown cache type {self.kv_type!r}", hint=f"one of: {', '.join(KV_TYPES)}, auto", param="kv"
            )


def task_of(value: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: there is none.
    """
    for task in TASKS:
        if task == value:
            return task
    raise UsageError(f"unknown task {value!r}", hint=f"one of: {', '.join(TASKS)}", param="task")


def cache_type(value: str) -> str | None:
    """The `SelectionRequest.kv_type` of a name of `--kv`; "auto" = None. The request refuses unknown names."""
    return None if value.lower() == "auto" else value.lower()


def slot_count(value: int | str) -> int | None:
    """The `SelectionRequest.slots` of a number or "auto" (None).

    Raises:
        UsageError: something else.
    """
    if isinstance(value, str) and value.lower() == "auto":
        return None
    number = _whole_number(value)
    if number is None:
        raise UsageError(
            f"slots={value!r} is not a number of conversations", hint="a number from 1 on, or auto", param="slots"
        )
    return number


def layers_on_gpu(value: int | str) -> int | None:
    """The `SelectionRequest.gpu_layers` of a number, "all" (-1) or "auto" (None).

    Raises:
        UsageError: something else.
    """
    if isinstance(value, str) and value.lower() in ("all", "auto"):
        return -1 if value.lower() == "all" else None
    number = _whole_number(value)
    if number is None or number < 0:
        raise UsageError(
            f"gpu_layers={value!r} is not a number of layers",
            hint="a number from 0 on, all or auto",
            param="gpu_layers",
        )
    return number


def _whole_number(value: object) -> int | None:
    """None for what is not one, 2.7 and True among it."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d{1,9}", value, re.ASCII) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class GenerationRequest(msgspec.Struct, frozen=True, tag=True):
    """Text to continue: plain, or as the chat template rendered the messages. Token ids are used as they are."""

    prompt: str | tuple[int, ...]
    sampling: Sampling = Sampling()  # nothing said = the model's defaults
    max_tokens: int | None = None  # None = until the context is full or the model stops
    stop: tuple[str, ...] = ()
    parse_special: bool = True  # special tokens written in the prompt are tokens (chat) or text
    add_bos: bool = True  # False where the template already wrote it
    ignore_eos: bool = False
    grammar: Grammar | None = None  # what the answer has to look like
    top_logprobs: int | None = None  # with the logprob of each token, and of so many likely ones; None = without
    # Places in the text that no token spans: what looks like a special token in somebody's message stays text.
    cuts: tuple[int, ...] = ()  # in ascending order
    thinking: bool = False  # drawn by the values for answers that think first, which they may under a grammar, too
    # The prompt comes before its answers, with the logprobs of its tokens where `top_logprobs` asks for them. All of it
    # is computed then, whatever a slot holds of it.
    echo: bool = False
    reading: Reading | None = None  # how thoughts and calls are told from text; None = all of it is text
    reasoning_budget: int | None = None  # tokens of a thought, which is then ended; None = as many as it wants
    # What the template does not take as it came (`text.conversation.PromptNote`), and "messages_dropped: 3".
    notes: tuple[str, ...] = ()
    n: int = 1  # answers, which share the prompt's computation; of a seed each next one gets the next number
    progress: bool = False  # with a `types.event.Prefill` after each part of the prompt
    reuse: bool = True  # what an earlier request left in the cache is used; the prompt is computed whole otherwise
    # That the prompt and its answers are computed with: () = the model as it is, None = those that it is served with.
    adapters: AdapterSet | None = None
    continuation: Continuation | None = None  # it may go on elsewhere, or began elsewhere; None = neither
    client: str = ""  # who asks, where several share the model: each has its part of it, and sees none of others' cache

    def __post_init__(self) -> None:
        check_types(self)
        begun = () if self.continuation is None else self.continuation.tokens
        _check_size(self, (self.prompt, *self.stop, begun))
        if not isinstance(self.prompt, str):
            check_ids(self.prompt, "prompt")
        limit = self.max_tokens
        least = 0 if self.echo else 1
        check_range(limit is None or least <= limit < MAX_COUNT, f"max_tokens={limit}", f"{least} to {MAX_COUNT - 1}")
        top = self.top_logprobs
        check_range(top is None or 0 <= top <= MAX_TOP, f"top_logprobs={top}", f"0 to {MAX_TOP}")
        budget = self.reasoning_budget
        check_range(budget is None or 0 <= budget < MAX_COUNT, f"reasoning_budget={budget}", f"0 to {MAX_COUNT - 1}")
        check_range(1 <= self.n <= MAX_CHOICES, f"n={self.n}", f"1 to {MAX_CHOICES}")
        check_range(len(self.stop) <= MAX_STOPS, "stop", f"at most {MAX_STOPS} strings")
        check_range(all(0 < len(s) <= 1024 for s in self.stop), "stop", "strings of 1 to 1024 characters")
        check_adapters(self.adapters or ())
        if self.continuation is not None:
            self.continuation.check(alone=self.n == 1 and self.top_logprobs is None and not self.echo)


class AnswerKeywords(SamplingKeywords, total=False):
    """What an answer has to be, and how its tokens are drawn, as keyword arguments."""

    max_tokens: int | None
    stop: str | Sequence[str] | None
    grammar: Grammar | None
    logprobs: bool
    top_logprobs: int | None
    n: int
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    thinking: bool | None
    reasoning_effort: ReasoningEffort | None
    template_kwargs: Mapping[str, Any] | None
    truncate: bool
    adapters: AskedAdapters | None


class ChatKeywords(AnswerKeywords, total=False):
    """And which tools the model may call in it."""

    tools: Sequence[AnyTool] | None


class EmbeddingRequest(msgspec.Struct, frozen=True, tag=True):
    """Texts to turn into vectors. Token ids are used as they are: the caller adds the special tokens."""

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None  # the first so many of each vector; only of models trained for it
    truncate: bool = False  # what is too long for the context is cut at its end; False = it is refused
    client: str = ""  # as of a GenerationRequest
    called: str = "input"  # what errors call the inputs
    first: int = 0  # number of the first one there

    def __post_init__(self) -> None:
        check_types(self)
        _check_size(self, self.inputs)
        _check_texts(self.inputs, self.called, self.first)
        check_range(self.dimensions is None or self.dimensions >= 1, f"dimensions={self.dimensions}", "1 or more")


class RerankRequest(msgspec.Struct, frozen=True, tag=True):
    """Texts to score by how well each answers a query."""

    query: str
    documents: tuple[str, ...]
    client: str = ""  # as of a GenerationRequest

    def __post_init__(self) -> None:
        check_types(self)
        _check_size(self, (self.query, *self.documents))
        if not self.query:
            raise UsageError("the query is empty", hint="send at least one character", param="query")
        _check_texts(self.documents, "documents")


class TokenizeRequest(msgspec.Struct, frozen=True, tag=True):
    """A text to turn into tokens, as those of a `GenerationRequest` with the same four values are."""

    text: str
    cuts: tuple[int, ...] = ()
    parse_special: bool = False
    add_bos: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        _check_size(self, (self.text,))

    @classmethod
    def of_prompt(cls, text: str, generation: GenerationRequest) -> Self:
        """For the tokens that `generation` has where its prompt is this text."""
        return cls(text, generation.cuts, generation.parse_special, generation.add_bos)


class DetokenizeRequest(msgspec.Struct, frozen=True, tag=True):
    """Tokens to turn into text, at most MAX_IDS of them."""

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        check_types(self)
        check_range(len(self.ids) <= MAX_IDS, "ids", f"at most {MAX_IDS}")
        check_ids(self.ids, "ids")


TokenRequest = TokenizeRequest | DetokenizeRequest
AdapterRequest = LoadAdapter | DropAdapter
Request = GenerationRequest | EmbeddingRequest | RerankRequest | TokenRequest | AdapterRequest


def check_context(request: Request, n_ctx: int) -> None:
    """Refuse what is too long for a context of `n_ctx` tokens however it is cut: cutting takes a second a megabyte.

    Raises:
        ContextOverflow; UsageError: a text to count is longer than any.
    """
    if isinstance(request, GenerationRequest):
        if isinstance(request.prompt, str):
            check_prompt((request.prompt,), n_ctx)
        return
    if isinstance(request, TokenizeRequest):
        most = max(n_ctx, LEAST_TO_READ) * MAX_TOKEN_BYTES
        if n_bytes := too_many_bytes([request.text], most):
            what = f"the text has {n_bytes} bytes besides up to 1 MiB of blanks, {most} are read at a time"
            raise UsageError(what, hint="send it in parts", param="text")
        return
    if isinstance(request, DetokenizeRequest | LoadAdapter | DropAdapter):
        return
    if isinstance(request, EmbeddingRequest) and request.truncate:
        return
    texts = request.inputs if isinstance(request, EmbeddingRequest) else request.documents
    name, first, query = (
        (request.called, request.first, "")
        if isinstance(request, EmbeddingRequest)
        else ("documents", 0, request.query)
    )
    if (n_bytes := utf8_length(query)) > n_ctx * MAX_TOKEN_BYTES:  # it is cut anew beside each document
        raise ContextOverflow.of_text("query", None, n_bytes // MAX_TOKEN_BYTES, n_ctx, n_bytes=n_bytes)
    beside = inked_bytes(query)
    for index, text in enumerate(texts, first):
        if not isinstance(text, str):
            if len(text) > n_ctx:
                raise ContextOverflow.of_text(name, index, len(text), n_ctx)
        elif n_bytes := too_many_bytes([text], n_ctx * MAX_TOKEN_BYTES - beside):
            n_bytes += beside
            where = ", with the query," if beside else ""
            raise ContextOverflow.of_text(name, index, n_bytes // MAX_TOKEN_BYTES, n_ctx, beside=where, n_bytes=n_bytes)


def check_prompt(texts: Sequence[str], n_ctx: int) -> None:
    """`check_context` for a prompt that will hold all of these.

    Raises:
        ContextOverflow
    """
    n_bytes = too_many_bytes(texts, (n_ctx - 1) * MAX_TOKEN_BYTES)  # the answer needs one, too
    if n_bytes:
        raise ContextOverflow.of_prompt(
            f"the prompt has {n_bytes:,} bytes besides up to 1 MiB of blanks, the context holds {n_ctx:,} tokens",
            n_prompt=n_bytes // MAX_TOKEN_BYTES,
            n_ctx=n_ctx,
        )


def _check_size(request: msgspec.Struct, texts: Sequence[str | Sequence[int]]) -> None:
    """No lone surrogates, which UTF-8 does not have, and no more than fits a frame."""
    try:
        size = sum(_bytes_of(text) if isinstance(text, str) else TOKEN_BYTES * len(text) for text in texts)
    except UnicodeEncodeError as error:
        raise cannot_be_sent(request, error) from None
    if size > MAX_REQUEST_BYTES:
        raise UsageError(f"the request has {size} bytes, {MAX_REQUEST_BYTES} are allowed", hint="send less text")


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _check_texts(texts: tuple[str | tuple[int, ...], ...], param: str, first: int = 0) -> None:
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise UsageError(f"{param} holds {len(texts)} texts", hint=f"send 1 to {MAX_INPUTS}", param=param)
    empty = next((index for index, text in enumerate(texts, first) if not text), None)
    if empty is not None:
        raise UsageError(f"{param}[{empty}] is empty", hint="send at least one character", param=param)
    for text in texts:
        if not isinstance(text, str):
            check_ids(text, param)

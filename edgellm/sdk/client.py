"""The one object an app needs: it holds a model, chosen or named, and answers from any thread or event loop.

    with EdgeLLM.auto() as llm:
        print(llm.chat("Why is the sky blue?").text)
        for event in llm.stream("Tell me more."):
            ...

Wires the verbs together (probe, decide, fetch, run); each of them stays usable on its own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from edgellm import explain
from edgellm.app import launch
from edgellm.app.verify import Verification
from edgellm.contract.manager import plugins
from edgellm.errors import BadTemplate, EdgeLLMError, UnsupportedTask, UsageError
from edgellm.runtime.session import AsyncSink, QueueSink, Session, SessionState, closed
from edgellm.sdk.conversation import Messages, messages_of
from edgellm.sdk.deadline import Deadline
from edgellm.sdk.embeddings import EmbeddingMethods, submit
from edgellm.store.library import silent
from edgellm.types.event import Completion, Delta, Done, Event, Vectors
from edgellm.types.grammar import Grammar
from edgellm.types.options import LaunchKeywords, LaunchOptions, SelectionKeywords
from edgellm.types.plan import Decision, LaunchPlan
from edgellm.types.request import AnswerKeywords, GenerationRequest, check_prompt
from edgellm.types.sampling import Sampling, SamplingKeywords

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo
    from edgellm.contract.source import Progress
    from edgellm.text.chat import ChatTemplate

_OF_ANSWER = AnswerKeywords.__annotations__.keys() - SamplingKeywords.__annotations__.keys()
# An app that sets up no logging gets none of ours on its standard error.
logging.getLogger("edgellm").addHandler(logging.NullHandler())


class EdgeLLM(EmbeddingMethods):
    """A loaded model.

    Make one with `EdgeLLM.auto()` or `EdgeLLM.load(model)`. All methods may be called from any thread at once;
    requests are batched. Use it as a context manager (`with` or `async with`), or call `close()`.

    Attributes:
        plan: what runs, with the reasons.
        decision: how it was chosen; None where the model was named.
    """

    def __init__(self, plan: LaunchPlan, *, decision: Decision | None = None, isolate: bool = True) -> None:
        """Start loading `plan` and return at once; the first use waits, or raises what loading raised."""
        self.plan = plan
        self.decision = decision
        self._session = _open(plan, isolate=isolate)
        self._verification = Verification(plan, self._session)
        # Without close(), an object that nobody holds any more would keep its worker until this process ends.
        weakref.finalize(self, _abandon, self._verification, self._session).atexit = False

    @classmethod
    def auto(cls, *, isolate: bool = True, progress: Progress = silent, **options: Unpack[SelectionKeywords]) -> Self:
        """Choose the best model that this machine runs well, fetch it where needed, load it.

        Args:
            options: the fields of `edgellm.types.options.SelectionOptions` (task, ctx, min_tps, max_memory, ...).
            isolate: run native code in a process of its own; False = in a thread of this one.
            progress: called with (bytes so far, bytes in all or None, what) while the model is fetched.

        Raises:
            NothingFits, SourceError, BackendError, UsageError.
        """
        plan, decision = launch.plan(None, LaunchOptions.of(**options), progress=progress)
        return cls(plan, decision=decision, isolate=isolate)._loaded()

    @classmethod
    def load(
        cls, model: str, *, isolate: bool = True, progress: Progress = silent, **options: Unpack[LaunchKeywords]
    ) -> Self:
        """Load a named model: a catalog id, a path, an address, or a backend that needs no file, such as "echo".

        Arguments as in `auto` (ctx, max_memory, ...), and the fields of `edgellm.types.options.LaunchOptions` (quant,
        threads, options, sampling).

        Raises:
            UnknownModel, NothingFits, ArtifactError, SourceError, BackendError, UsageError.
        """
        if not model:
            what = f"{model!r} names no model"
            raise UsageError(what, hint="name one, or let EdgeLLM.auto() choose", param="model")
        plan, _ = launch.plan(model, LaunchOptions.of(**options), progress=progress)
        return cls(plan, isolate=isolate)._loaded()

    @property
    def info(self) -> EngineInfo:
        """What is loaded: context, vocabulary, template. Waits for loading to end."""
        return self._session.info

    def __repr__(self) -> str:
        artifact = self.plan.artifact
        quant = f" {artifact.quant}" if artifact.quant else ""
        return f"<EdgeLLM {artifact.name}{quant} on {self.plan.backend}, {self.state}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a loaded model cannot be pickled or copied: it belongs to this process",
            hint="send the name of the model, and load it in the other process with EdgeLLM.load",
        )

    @property
    def state(self) -> SessionState:
        """Only a model that is "ready" answers. Requests wait while it is "loading", and while it is "reloading" after
        its process died; they are refused while it is "hung", "failed" or "closed"."""
        return self._session.state

    @property
    def outage(self) -> EdgeLLMError | None:
        """What ended the model; None while it runs, while it loads for the first time, and after `close`."""
        return self._session.outage

    @property
    def was_ready(self) -> bool:
        """Whether it ever loaded. A worker that died is started again, and requests wait for it."""
        return self._session.was_ready

    @property
    def verification(self) -> Verification:
        """What was predicted of this load and, after the first measured request, what was measured."""
        return self._verification

    def chat(
        self, messages: Messages, *, timeout: float | None = None, **options: Unpack[AnswerKeywords]
    ) -> Completion:
        """The whole answer to a conversation (text = one user message).

        Args:
            timeout: seconds from sending the request within which the whole answer must come. What is too late is
                ended, and its place is free for other requests.
            options: the fields of `edgellm.types.request.AnswerKeywords`:
                max_tokens and stop (texts before which the answer ends);
                grammar: what the answer has to look like, for example `Grammar.of_schema(...)`. One that is cut off
                by `max_tokens` is incomplete: its finish_reason is "length";
                top_logprobs: with the logprob of each token, and of so many likely ones in its place (0 to 20);
                and those of `edgellm.Sampling` (temperature, top_p, seed, ...). The model's defaults
                (`plan.sampling`) hold for the others.

        Raises:
            BadTemplate: the model cannot chat; ContextOverflow: the conversation is too long; UsageError: a grammar
            that cannot be used, a value out of range; GrammarFailed; TimedOut; WorkerCrashed;
            Closed: by `close` meanwhile.
        """
        return _whole(list(self.stream(messages, timeout=timeout, **options)))

    def stream(
        self, messages: Messages, *, timeout: float | None = None, **options: Unpack[AnswerKeywords]
    ) -> Generator[Event, None, None]:
        """As `chat`, event by event: `Delta`s, then one `Done`. Closing the iterator cancels the request."""
        return self.generate(self._asked(messages, options), timeout=timeout)

    async def achat(
        self, messages: Messages, *, timeout: float | None = None, **options: Unpack[AnswerKeywords]
    ) -> Completion:
        """As `chat`, for coroutines."""
        return _whole([event async for event in self.astream(messages, timeout=timeout, **options)])

    async def astream(
        self, messages: Messages, *, timeout: float | None = None, **options: Unpack[AnswerKeywords]
    ) -> AsyncGenerator[Event, None]:
        """As `stream`, for coroutines."""
        request = self._asked(messages, options)
        async with contextlib.aclosing(self.agenerate(request, timeout=timeout)) as events:
            async for event in events:
                yield event

    def request(
        self,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        ignore_eos: bool = False,
        grammar: Grammar | None = None,
        top_logprobs: int | None = None,
    ) -> GenerationRequest:
        """What the model's chat template makes of a conversation.

        Raises:
            BadTemplate: the model has no template, or it is broken; UsageError: no messages, or an unknown role;
            UnsupportedTask: the model writes no text.
        """
        info = self.info
        if not info.generates:
            raise UnsupportedTask(
                f"{self.plan.artifact.name} answers no chat: it turns texts into vectors or scores",
                hint="use EdgeLLM.embed or rerank, or /v1/embeddings of `edgellm serve`; name a chat model to chat",
            )
        conversation = messages_of(messages)
        check_prompt([message.content for message in conversation], info.n_ctx)
        # Models that can think or not are chosen and scored as not thinking (docs/selection.md).
        prompt = self._template.render(conversation, add_generation_prompt=True, enable_thinking=False)
        # Templates often write the BOS token themselves; a second one would spoil the answer.
        has_bos = bool(info.bos_text) and prompt.startswith(info.bos_text)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return GenerationRequest(
            prompt,
            sampling,
            max_tokens,
            stops,
            add_bos=not has_bos,
            ignore_eos=ignore_eos,
            grammar=grammar,
            top_logprobs=top_logprobs,
        )

    def _asked(self, messages: Messages, options: AnswerKeywords) -> GenerationRequest:
        names = AnswerKeywords.__annotations__
        if unknown := sorted(options.keys() - names.keys()):
            hint = f"options are: {', '.join(names)}"
            raise UsageError(f"unknown option: {', '.join(unknown)}", hint=hint, param=unknown[0])
        own: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_ANSWER}
        drawn: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_ANSWER}
        return self.request(messages, sampling=Sampling.of(**drawn), **own)

    def generate(self, request: GenerationRequest, *, timeout: float | None = None) -> Generator[Event, None, None]:
        """Continue a prompt as it stands. Raises as `chat` does."""
        deadline, sink = Deadline(timeout), QueueSink()
        request_id = submit(self._session, request, sink)
        try:
            while True:
                outcome = deadline.next_of(sink)
                if isinstance(outcome, EdgeLLMError):
                    raise outcome
                assert not isinstance(outcome, Vectors)
                yield outcome
                if isinstance(outcome, Done):
                    return
        finally:
            self._session.cancel(request_id)

    async def agenerate(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """As `generate`, for coroutines. Cancelling the task frees the slot."""
        async with contextlib.aclosing(self.aevents(request, timeout=timeout)) as event_lists:
            async for events in event_lists:
                for event in events:
                    yield event

    async def aevents(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[list[Event], None]:
        """As `agenerate`, with the events that are there at the same time in one list, for code that forwards them."""
        deadline, sink = Deadline(timeout), AsyncSink()
        request_id = submit(self._session, request, sink)
        try:
            while True:
                outcomes = await deadline.keep(sink.get_all())
                events = [outcome for outcome in outcomes if isinstance(outcome, (Delta, Done))]
                if events:
                    yield events
                if isinstance(outcomes[-1], EdgeLLMError):
                    raise outcomes[-1]
                if isinstance(outcomes[-1], Done):
                    return
        finally:
            self._session.cancel(request_id)

    def explain(self) -> str:
        """Why this model runs and how, in plain text, one reason a line."""
        return "\n".join(map(explain.sentence, self.plan.reasons))

    def close(self, *, drain: bool = False) -> None:
        """Stop the model; with `drain`, after the requests at hand. Twice is fine."""
        measurements = self._verification.end() if self._session.is_ours else None
        self._session.close(drain=drain)
        if measurements is not None:
            self._verification.record(measurements)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        from edgellm.text.chat import ChatTemplate

        info = self.info
        if info.chat_template is None:
            raise BadTemplate(
                f"{self.plan.artifact.name} has no chat template: it is a base model that continues text",
                hint="use completions (/v1/completions, EdgeLLM.generate, `edgellm run --raw`), or choose a chat model",
            )
        return ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)

    def _loaded(self) -> Self:
        try:
            _ = self.info
        except BaseException:
            self.close()
            raise
        return self


def _open(plan: LaunchPlan, *, isolate: bool) -> Session:
    if isolate:
        from edgellm.runtime.supervisor import WorkerSession

        return WorkerSession(plan)
    from edgellm.runtime.thread import ThreadSession

    return ThreadSession(plan, plugins().backend(plan.backend))


def _abandon(verification: Verification, session: Session) -> None:
    verification.abandon()
    session.abandon()


def _whole(events: list[Event]) -> Completion:
    done = events[-1]
    assert isinstance(done, Done)
    if done.finish_reason == "cancelled":
        raise closed()  # a stream shows that it has no end; half an answer in one piece would not
    deltas = [event for event in events if isinstance(event, Delta)]
    text = "".join(delta.text for delta in deltas)
    logprobs = tuple(token for delta in deltas for token in delta.logprobs)
    return Completion(text, done.finish_reason, logprobs=logprobs, usage=done.usage, timings=done.timings)

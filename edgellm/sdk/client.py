"""The one object an app needs: it holds a model, chosen or named, and answers from any thread or event loop.

    with EdgeLLM.auto() as llm:
        print(llm.chat("Why is the sky blue?").text)
        for event in llm.stream("Tell me more."):
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)

Wires the verbs together (probe, decide, fetch, run); each of them stays usable on its own.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
import weakref
from typing import TYPE_CHECKING, NoReturn, Self, Unpack

from edgellm import explain, settings
from edgellm.app import launch
from edgellm.app.download import PlannedDownload
from edgellm.app.verify import Verification
from edgellm.contract.manager import plugins
from edgellm.contract.own_python import interpreter
from edgellm.errors import Closed, EdgeLLMError, PluginFailed, SecondBest, UsageError
from edgellm.runtime.session import Session, SessionState, check_process
from edgellm.sdk.adapters import AdapterMethods
from edgellm.sdk.chat import ChatMethods
from edgellm.sdk.embeddings import EmbeddingMethods
from edgellm.sdk.tokens import TokenMethods
from edgellm.sdk.tool_loop import ToolLoopMethods
from edgellm.store.address import redacted
from edgellm.store.library import silent
from edgellm.text.template_process import TemplateProcess
from edgellm.types.options import LaunchKeywords, LaunchOptions, SelectionKeywords
from edgellm.types.plan import Decision, LaunchPlan
from edgellm.types.reason import RulesUnasked, SourceSilent
from edgellm.units import show_size

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo
    from edgellm.contract.source import Progress

_log = logging.getLogger("edgellm.download")
# An app that sets up no logging gets none of ours on its standard error.
logging.getLogger("edgellm").addHandler(logging.NullHandler())


class EdgeLLM(ChatMethods, ToolLoopMethods, EmbeddingMethods, TokenMethods, AdapterMethods):
    """A loaded model.

    Make one with `EdgeLLM.auto()` or `EdgeLLM.load(model)`. All methods may be called from any thread at once;
    requests are batched. `auto` and `load` plan one conversation at a time (`slots=1`), and other requests wait for it,
    unless `slots=` says more. Use it as a context manager (`with` or `async with`), or call `close()`.

    Attributes:
        plan: what runs, with the reasons.
        decision: how it was chosen; None where the model was named.
    """

    def __init__(
        self, plan: LaunchPlan | None = None, *, decision: Decision | None = None, isolate: bool = True
    ) -> None:
        """Start loading `plan` and return at once; the first use waits, or raises what loading raised."""
        if not isinstance(plan, LaunchPlan):
            name = "qwen3-4b" if plan is None else plan
            hint = f"EdgeLLM.load({name!r:.60}) loads a named model, EdgeLLM.auto() chooses one"
            raise UsageError(f"plan={plan!r:.60} is no LaunchPlan", hint=hint, param="plan")
        _check_isolate(isolate)
        interpreter()
        self.plan = plan
        self.decision = decision
        self._session = _open(plan, isolate=isolate)
        self._templates = TemplateProcess(functools.partial(_has_template, self._session))
        self._verification = Verification(plan, self._session)
        # Without close(), an object that nobody holds any more would keep its processes until this one ends.
        weakref.finalize(self, _abandon, self._verification, self._session, self._templates).atexit = False

    @classmethod
    def auto(cls, *, isolate: bool = True, progress: Progress = silent, **options: Unpack[SelectionKeywords]) -> Self:
        """Choose the best model that this machine runs well, fetch it where needed, load it.

        Args:
            options: the fields of `edgellm.types.options.SelectionOptions` (task, ctx, min_tps, max_memory, ...).
            isolate: run native code in a process of its own; False = in a thread of this one.
            progress: called with (bytes so far, bytes in all or None, what) while the model is fetched. Before its
                first byte, the logger `edgellm.download` tells model, size and source at level INFO;
                max_download="2GB" keeps to what is here or no larger.

        Raises:
            NothingFits, SourceError, BackendError, UsageError.

        Warns:
            SecondBest: a better model would be chosen, but its source does not answer, and offline was not asked for.
            PluginFailed: a plugin failed, and selection rules that it may bring were not asked.
        """
        settings.check(os.environ)
        interpreter()  # before anything is started
        _check_isolate(isolate)
        _check_progress(progress)
        plan, decision = launch.plan(None, LaunchOptions.of(**options), progress=progress, approve=_announced)
        _warn_unasked(plan)
        if why := _second_best(decision):
            warnings.warn(why, SecondBest, stacklevel=2)
        return cls(plan, decision=decision, isolate=isolate)._loaded()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        isolate: bool = True,
        progress: Progress = silent,
        **options: Unpack[LaunchKeywords],
    ) -> Self:
        """Load a named model: a catalog id, a path, an address, or a backend that needs no file, such as "echo".

        The beginning of an id is enough where only one begins so (of a base model and a chat model, the latter is
        taken); `plan.artifact.name` says which it is.

        Arguments as in `auto` (ctx, max_memory, ...), and the fields of `edgellm.types.options.LaunchOptions` (quant,
        threads, options, sampling, adapters).

        Raises:
            UnknownModel, NothingFits, ArtifactError, SourceError, BackendError, UsageError; UnsupportedTask: it is
            named for a task that it is not for.

        Warns:
            PluginFailed: as in `auto`.
        """
        name = os.fspath(model) if isinstance(model, str | os.PathLike) else model
        if not isinstance(name, str) or not name:
            what = f"{model!r} names no model"
            raise UsageError(what, hint="name one, or let EdgeLLM.auto() choose", param="model")
        settings.check(os.environ)
        interpreter()
        _check_isolate(isolate)
        _check_progress(progress)
        asked = LaunchOptions.of(**options)
        to_chat = asked.task not in (None, "embed")  # which only says it where it is named
        plan, _ = launch.plan(name, asked, to_chat=to_chat, progress=progress, approve=_announced)
        _warn_unasked(plan)
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
        """Only a model that is "ready" answers. Requests wait while it is "loading", and while it is "hung" or
        "reloading": its process is replaced. They are refused while it is "failed" or "closed". A fork has none that
        is ready."""
        return self._session.state if self._session.is_ours else "closed"

    @property
    def outage(self) -> EdgeLLMError | None:
        """What ended the model; None while it runs, while it loads for the first time, and after `close`."""
        return self._session.outage

    @property
    def was_ready(self) -> bool:
        """Whether it ever loaded. A worker that died is started again, and requests wait for it."""
        return self._session.was_ready

    @property
    def restarts(self) -> int:
        """How often a worker took the place of one that died."""
        return max(self._session.restarts, 0)

    @property
    def resident_bytes(self) -> int | None:
        """What the process of the model has in memory now; None where nothing tells, as with `isolate=False`."""
        _, now = self._session.process_usage()
        return None if now is None else now.resident_bytes

    @property
    def verification(self) -> Verification:
        """What was predicted of this load and, after the first measured request, what was measured."""
        return self._verification

    def explain(self) -> str:
        """Why this model runs and how, in plain text, one reason a line."""
        return "\n".join(map(explain.sentence, self.plan.reasons))

    def close(self, *, drain: bool = False) -> None:
        """Stop the model; with `drain`, after the requests at hand. Twice is fine."""
        measurements = self._verification.end() if self._session.is_ours else None
        self._session.close(drain=drain)
        self._templates.close()
        if measurements is not None:
            self._verification.record(measurements)

    def __enter__(self) -> Self:
        check_process(self._session.made_in)
        if self.state == "closed":
            raise Closed.of_model()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        if not self._session.is_ours:
            self.close()  # waits for nothing
            return
        import asyncio

        await asyncio.to_thread(self.close)

    def _loaded(self) -> Self:
        try:
            _ = self.info
        except BaseException:
            self.close()
            raise
        return self


def _warn_unasked(plan: LaunchPlan) -> None:
    for fact in plan.reasons:
        if isinstance(fact, RulesUnasked):
            warnings.warn(explain.sentence(fact), PluginFailed, stacklevel=3)


def _second_best(decision: Decision | None) -> str:
    if decision is None or not any(isinstance(fact, SourceSilent) for fact in decision.reasons):
        return ""
    return explain.second_best(decision)


def _announced(download: PlannedDownload) -> None:
    choice, source = download.choice, redacted(download.file.source.split()[0])
    _log.info("fetching %s %s: %s from %s", choice.model, choice.quant, show_size(download.bytes), source)


def _open(plan: LaunchPlan, *, isolate: bool) -> Session:
    if isolate:
        from edgellm.runtime.supervisor import WorkerSession

        return WorkerSession(plan)
    from edgellm.runtime.thread import ThreadSession

    return ThreadSession(plan, plugins().backend(plan.backend))


def _has_template(session: Session) -> bool:
    """Waits for the model. One that did not load needs nothing, and one that broke later is loaded again."""
    try:
        return session.info.chat_template is not None
    except EdgeLLMError:
        return session.was_ready


def _abandon(verification: Verification, session: Session, templates: TemplateProcess) -> None:
    verification.abandon()
    session.abandon()
    templates.abandon()


def _check_isolate(isolate: object) -> None:
    """
    Raises:
        UsageError: it would be taken as true or false, and "no" as true.
    """
    if not isinstance(isolate, bool):
        raise UsageError(f"isolate={isolate!r:.60} has the wrong type", hint="pass True or False", param="isolate")


def _check_progress(progress: object) -> None:
    """
    Raises:
        UsageError: it would only be called, and fail, once something is fetched.
    """
    if not callable(progress):
        hint = "pass a function of bytes so far, bytes in all and what is fetched, or leave it out"
        raise UsageError(f"progress={progress!r:.60} is no function", hint=hint, param="progress")

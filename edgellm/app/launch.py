"""From what is wanted to a plan that a worker can load: probe, decide, fetch. Wires verbs; decides nothing itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from edgellm import settings
from edgellm.app import context
from edgellm.app.file_plan import file_plan, with_own_footprint
from edgellm.catalog import lookup
from edgellm.catalog.recognize import recognize
from edgellm.contract.backend import Configurable
from edgellm.contract.manager import plugins
from edgellm.contract.source import Resolver, scheme_of
from edgellm.errors import (
    ArtifactError,
    SourceError,
    SourceUnreachable,
    UnknownModel,
    UnsupportedArtifact,
    UnsupportedTask,
    UsageError,
)
from edgellm.history import run_log
from edgellm.history.corrections import Corrections
from edgellm.selection.decide import decide
from edgellm.selection.scenario import BackendFacts, backend_facts
from edgellm.store.card import card_of, undescribed, verified
from edgellm.store.http import shown
from edgellm.store.library import Library, silent
from edgellm.store.sources.local_file import LocalFile
from edgellm.store.sources.registry import source_for, sources, unreachable
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact, ModelCard, ModelFile
from edgellm.types.plan import Candidate, Decision, LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

Progress = Callable[[int, int | None, str], None]

ECHO_CTX = 4096
# Long enough for a slow link's first answer, short enough that a dead network is not mistaken for a hang.
REACH_TIMEOUT_S = 5.0
MODEL_SUFFIXES = (".gguf", ".onnx", ".safetensors")
# Each may have cost a download, so not the whole catalog is tried.
SPARE_MODELS = 3


def auto_plan(request: SelectionRequest, *, progress: Progress = silent) -> tuple[LaunchPlan, Decision]:
    """The plan for the best model that this machine runs well and that can be had now.

    Raises:
        NothingFits, SourceError, BackendUnavailable.
    """
    return _Launch.here(request, context.cards(), spare_models=SPARE_MODELS).run(progress)


def model_plan(
    model: str,
    request: SelectionRequest,
    *,
    quant: str | None = None,
    threads: int | None = None,
    to_chat: bool = False,
    progress: Progress = silent,
) -> LaunchPlan:
    """The plan for a named model: "echo", a path, a catalog id (`id` or `id:QUANT`), or a URI (`hf://owner/repo`).

    Args:
        to_chat: the model is to write text; one that the catalog knows to only read is refused before it is fetched.

    Raises:
        UnknownModel, NothingFits, ArtifactError, SourceError, BackendUnavailable, UnsupportedTask.
    """
    if model == "echo":
        other = request.backend not in (None, "echo")
        asked = {"max_memory": request.max_memory_bytes, "gpu_layers": request.gpu_layers, "kv": request.kv_type}
        _refuse(model, quant=quant, backend=other, **asked)
        plan = _echo_plan(request)
    elif scheme_of(model) in sources():
        plan = _uri_plan(model, request, quant, progress)
    elif _is_path(model):
        _refuse(model, quant=quant, min_tps=request.min_tps)
        plan = file_plan(model, request)
    else:
        name, _, suffix = model.partition(":")
        card = _named(name, quant or suffix or None)
        if to_chat and card.kind == "embedding":
            refuse_chat(card.id)
        plan, _ = _Launch.here(_reading(request, card), [card]).run(progress)
        if _exists(model):
            note = f"Model: {card.id} of the catalog; ./{model}, which is here too, would name what lies there."
            plan = replace(plan, reasons=(note, *plan.reasons))
    return plan if threads is None else with_threads(plan, threads)


def refuse_chat(model: str) -> NoReturn:
    """Raises UnsupportedTask: what was to chat only reads."""
    raise UnsupportedTask(
        f"{model} answers no chat: it turns texts into vectors or scores",
        hint=f"`edgellm serve {model}` answers /v1/embeddings or /v1/rerank; EdgeLLM.embed does in Python",
    )


def _reading(request: SelectionRequest, card: ModelCard) -> SelectionRequest:
    """What is asked of a model that only reads is how fast it does."""
    return replace(request, task="embed") if card.kind == "embedding" else request


def _refuse(model: str, **asked: object) -> None:
    """A flag that a named file or backend leaves no choice for is refused, not ignored."""
    for name, value in asked.items():
        if value:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} has no meaning for {model}", hint=f"leave {flag} out", param=name)


def _is_path(model: str) -> bool:
    """Whether a model file is meant: it looks like a path, or lies there and is no id of the catalog."""
    if any(mark and mark in model for mark in (os.sep, os.altsep)) or model.endswith(MODEL_SUFFIXES):
        return True
    return _exists(model) and model.lower() not in {card.id for card in context.cards()}


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        # Too long or with a NUL: no file has such a name.
        return False


def with_threads(plan: LaunchPlan, threads: int) -> LaunchPlan:
    """The plan with a number of threads that the user knows better.

    Raises:
        UsageError: out of range.
    """
    if not 1 <= threads <= 1024:
        raise UsageError(f"threads={threads} is out of range", hint="allowed: 1 to 1024")
    reasons = (*plan.reasons, f"Threads: {threads}, as asked.")
    return replace(plan, settings=replace(plan.settings, n_threads=threads, n_threads_batch=threads), reasons=reasons)


def with_options(plan: LaunchPlan, options: Mapping[str, str]) -> LaunchPlan:
    """The plan with settings that its backend defines.

    Raises:
        UsageError: the backend has none, or not these.
    """
    if not options:
        return plan
    backend = plugins().backend(plan.backend)
    pairs = tuple(sorted(options.items()))
    if not isinstance(backend, Configurable):
        raise UsageError(f"the {plan.backend} backend has no options of its own", hint="leave --option out")
    backend.check_options(pairs)
    settings = replace(plan.settings, options=pairs)
    reasons = (*plan.reasons, f"Options, as asked: {', '.join(f'{name}={value}' for name, value in pairs)}.")
    footprint = backend.footprint(plan.artifact, settings) or plan.footprint
    return replace(plan, settings=settings, reasons=reasons, footprint=footprint)


@dataclass(frozen=True, slots=True)
class _Launch:
    """One launch's circumstances."""

    machine: Machine
    request: SelectionRequest
    cards: list[ModelCard]
    backends: tuple[BackendFacts, ...]
    corrections: Corrections
    vetoes: Mapping[tuple[str, str, str], str]
    divergences: Mapping[tuple[str, str, str], float]
    spare_models: int = 0  # models that may turn out not to be had before it is an error

    @classmethod
    def here(cls, request: SelectionRequest, rows: Iterable[ModelCard], *, spare_models: int = 0) -> _Launch:
        from edgellm.hardware.probe import probe

        machine = probe(refine=True)
        wanted = replace(request, offline=request.offline or settings.offline())
        facts = backend_facts(plugins().backends().values(), machine)
        learned = context.corrections(machine, facts), run_log.vetoes(machine), context.divergences(machine)
        return cls(machine, wanted, list(rows), facts, *learned, spare_models)

    def run(self, progress: Progress) -> tuple[LaunchPlan, Decision]:
        """Decide; where the choice must be fetched, find out what answers; decide again without what does not."""
        library = Library()
        reachable: tuple[str, ...] | None = None
        notes: tuple[str, ...] = ()
        dropped: frozenset[str] = frozenset()
        stored = library.local_keys()
        decision = self._decide(stored, reachable)
        if self._needs_network(decision.choice, library):
            reachable = _reachable(decision.choice)
            decision = self._decide(stored, reachable)
        while (choice := decision.choice) is not None:
            card, file = self._find(choice)
            try:
                if self._reads_header(card, file, library, progress):
                    decision = self._decide(stored, reachable, dropped)
                    continue
                artifact = self._bring(library, card, file, progress)
            except SourceUnreachable as error:
                dead = scheme_of(file.source)
                reachable = tuple(s for s in (sources() if reachable is None else reachable) if s != dead)
                # Where it counted as stored, its bytes have changed.
                stored -= {file.source, file.sha256}
                notes = (*notes, f"Source {dead} does not answer: {error.message}.")
                decision = self._decide(stored, reachable, dropped)
                continue
            except (SourceError, UnknownModel, ArtifactError) as error:
                # A gated or missing repository, a file that is not what it should be: the next best model, loudly.
                dropped |= {card.id}
                if len(dropped) > self.spare_models:
                    raise
                notes = (*notes, f"{card.id} {file.quant} cannot be had: {error.message}.")
                decision = self._decide(stored, reachable, dropped)
                continue
            decision = replace(decision, reasons=(*notes, *decision.reasons))
            return _candidate_plan(decision, choice, artifact), decision
        wish = decision.would_choose
        raise SourceUnreachable(
            "no model can be had now" + (f"; {wish.model} {wish.quant} would be chosen" if wish else ""),
            hint="connect to a network, or name a model file: edgellm serve PATH.gguf",
        )

    def _reads_header(self, card: ModelCard, file: ModelFile, library: Library, progress: Progress) -> bool:
        """Whether the header of the choice was read now, before it is fetched: then it is to be decided again."""
        if self.request.offline or library.has(file):
            return False
        progress(0, None, f"reading the header of {card.id} {file.quant}")
        read = verified(card, file)
        self.cards[self.cards.index(card)] = read
        return read is not card

    def _bring(self, library: Library, card: ModelCard, file: ModelFile, progress: Progress) -> Artifact:
        if not self.request.offline or scheme_of(file.source) == "file":
            return library.fetch(card, file, progress)
        found = library.locate(file, card.id)
        if found is None and settings.offline() and isinstance(source_for(file.source), Resolver):
            return library.fetch(card, file, progress)  # it may have a store on this disk
        if found is None:
            raise SourceUnreachable(f"{card.id} {file.quant} is damaged or not stored, and offline was asked for")
        return found

    def _decide(
        self, stored: frozenset[str], reachable: tuple[str, ...] | None, dropped: frozenset[str] = frozenset()
    ) -> Decision:
        request = replace(self.request, reachable=reachable)
        rows = [card for card in self.cards if card.id not in dropped]
        return decide(
            self.machine,
            request,
            rows,
            self.backends,
            stored,
            corrections=self.corrections,
            vetoes=self.vetoes,
            divergences=self.divergences,
            extra_rules=context.rules(),
        )

    def _needs_network(self, choice: Candidate | None, library: Library) -> bool:
        if choice is None or self.request.offline:
            return False
        _, file = self._find(choice)
        return scheme_of(file.source) != "file" and not library.has(file)

    def _find(self, choice: Candidate) -> tuple[ModelCard, ModelFile]:
        card = next(card for card in self.cards if card.id == choice.model)
        file = next(f for f in card.files if f.source == choice.source and f.quant == choice.quant)
        return card, file


def _reachable(choice: Candidate | None) -> tuple[str, ...]:
    examples = {scheme_of(choice.source): choice.source} if choice else {}
    dead = unreachable(REACH_TIMEOUT_S, examples)
    return tuple(scheme for scheme in sorted(sources()) if scheme not in dead)


def _candidate_plan(decision: Decision, choice: Candidate, artifact: Artifact) -> LaunchPlan:
    problems = plugins().backend(choice.backend).supports(artifact)
    if problems:
        raise UnsupportedArtifact(f"{choice.backend} cannot open {artifact.path}: {'; '.join(problems)}")
    run = Settings(
        n_ctx=choice.ctx,
        n_slots=choice.slots,
        n_threads=choice.threads,
        n_threads_batch=choice.threads_batch,
        kv_type=choice.kv_type,
        gpu_layers=choice.gpu_layers,
    )
    return with_own_footprint(LaunchPlan(choice.backend, artifact, run, decision.reasons, choice.footprint))


def _uri_plan(uri: str, request: SelectionRequest, quant: str | None, progress: Progress) -> LaunchPlan:
    """The plan for what a URI names: its header is read, and must fit, before it is fetched."""
    if scheme_of(uri) == "file":
        _refuse(uri, quant=quant, min_tps=request.min_tps)
        return file_plan(str(LocalFile.path_of(uri)), request)
    rows = context.cards()
    card = next((row for row in rows if any(file.source == uri for file in row.files)), None)
    if card is not None:
        card = replace(card, files=tuple(file for file in card.files if file.source == uri))
    elif not isinstance(source_for(uri), Resolver):
        artifact = Library().fetch(undescribed(uri), ModelFile(uri, ""), progress)
        return file_plan(artifact.path, request)
    else:
        progress(0, None, "reading the header")
        card = recognize(card_of(uri), rows)
    narrowed = _narrowed(card, quant)
    plan, _ = _Launch.here(_reading(request, narrowed), [narrowed]).run(progress)
    return replace(plan, reasons=(f"Model: {card.id}, by its header, from {shown(uri)}.", *plan.reasons))


def _named(name: str, quant: str | None) -> ModelCard:
    """The catalog row to choose from, narrowed to one quantization where one is asked for."""
    return _narrowed(lookup.find(name, context.cards(twice=True)), quant)


def _narrowed(card: ModelCard, quant: str | None) -> ModelCard:
    if quant is not None:
        files = tuple(file for file in card.files if file.quant.lower() == quant.lower())
        if not files:
            context = ", ".join(sorted({file.quant for file in card.files})) or "none"
            raise UsageError(f"{card.id} has no file in {quant}", hint=f"known: {context}")
        card = replace(card, files=files)
    # Named by the user: a base model may continue text, and a reranker read, so they take part like any other.
    return replace(card, kind="embedding" if card.kind in ("embedding", "reranker") else "chat")


def _echo_plan(request: SelectionRequest) -> LaunchPlan:
    run = Settings(n_ctx=request.ctx or ECHO_CTX, n_slots=request.slots)
    return LaunchPlan("echo", Artifact("echo", (), "echo"), run, ("Model: echo, as named: it says the prompt back.",))

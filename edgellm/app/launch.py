"""From a request to a plan that a worker can load: decide, fetch, and decide again without what cannot be fetched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgellm import explain, settings
from edgellm.app import adapters, file_card, file_plan, own_format
from edgellm.app import context as app_context
from edgellm.app.asked import as_asked, refuse_chat, refuse_embed, refuse_options
from edgellm.app.download import Approve, PlannedDownload, approved
from edgellm.app.reserved import Reserved
from edgellm.app.resolve import Reference, ReferenceKind, refer, require_shape, resolve
from edgellm.app.unavailable import missed, not_in_slot, unavailable
from edgellm.contract import answers
from edgellm.contract.manager import plugins
from edgellm.contract.source import Progress, Resolver, scheme_of
from edgellm.errors import (
    ArtifactError,
    DiskFull,
    SourceError,
    SourceUnreachable,
    StoreUnwritable,
    UnknownModel,
    UnsupportedArtifact,
)
from edgellm.selection.context import SelectionContext
from edgellm.selection.decide import decide, usable_backends
from edgellm.store.address import redacted
from edgellm.store.card import undescribed, verified
from edgellm.store.library import Library, silent
from edgellm.store.sealed import slot_of
from edgellm.store.sources.registry import source_for, sources, unreachable
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact, ModelCard, ModelFile
from edgellm.types.model_reason import CouldBeMade, ModelNamed, ModelSkipped, NameShadowsFile, NameTaken
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import Candidate, Decision, LaunchPlan
from edgellm.types.reason import Reason
from edgellm.types.refusal import SchemeUnknown
from edgellm.types.request import SelectionRequest

REACH_TIMEOUT_S = 5.0
# Each may have cost a download, so not the whole catalog is tried.
SPARE_MODELS = 3


def plan(
    model: str | None,
    options: LaunchOptions,
    *,
    to_chat: bool = False,
    progress: Progress = silent,
    approve: Approve = approved,
    context: SelectionContext | None = None,
) -> tuple[LaunchPlan, Decision | None]:
    """The plan for a named model, or for the best one where none is named; how it was chosen then.

    Args:
        context: what is known of the machine to plan for; None = this one, as it is now.

    Raises:
        As `model_plan` and `auto_plan`; UsageError: an option has no meaning for the model or its backend;
        ArtifactError: an adapter is damaged, or was made for another model.
    """
    decision, tuned = None, None
    if options.backend is not None and options.backend not in plugins().backends():
        usable_backends(app_context.here().backends, options.request())  # raises, before a model is looked for
    if model is not None:
        tuned = adapters.tuned(model, options)
        model, options = tuned.model, tuned.options
    beside = adapters.asked(options.adapters, stored=tuned.answering if tuned else "")
    request = replace(options.request(), adapter_bytes=sum(one.file.bytes for one in beside))
    if model is None and own_format.artifact(request.backend) is not None:
        model = request.backend
    if model is None:
        request = replace(request, adapters=adapters.needs(beside))
        launch_plan, decision = auto_plan(request, progress=progress, approve=approve, context=context)
    else:
        launch_plan = model_plan(
            model, request, quant=options.quant, to_chat=to_chat, progress=progress, approve=approve, context=context
        )
    may_use = _measured_again().memory_budget_bytes
    if request.max_memory_bytes is not None:
        may_use = min(may_use, request.max_memory_bytes)
    launch_plan = replace(as_asked(launch_plan, options), may_use_bytes=may_use)
    if tuned is not None and tuned.shown_as:
        launch_plan = replace(launch_plan, artifact=replace(launch_plan.artifact, shown_as=tuned.shown_as))
    return adapters.beside(launch_plan, beside, answering=tuned.answering if tuned else ""), decision


def _measured_again() -> Machine:
    """Improves the measurement of memory bandwidth for later plans. This plan uses the one that its preview used."""
    from edgellm.hardware.probe import probe

    return probe(refine=True)


def auto_plan(
    request: SelectionRequest, *, progress: Progress = silent, approve: Approve = approved,
    context: SelectionContext | None = None,
) -> tuple[LaunchPlan, Decision]:  # fmt: skip
    """The plan for the best model that this machine runs well and that can be fetched now.

    Raises:
        NothingFits, SourceError, BackendUnavailable.
    """
    return _launch(context or app_context.here(), request, progress, approve, spare_models=SPARE_MODELS)


def model_plan(
    model: str,
    request: SelectionRequest,
    *,
    quant: str | None = None,
    to_chat: bool = False,
    to_check: bool = False,
    progress: Progress = silent,
    approve: Approve = approved,
    context: SelectionContext | None = None,
) -> LaunchPlan:
    """The plan for a named model: a path, a catalog id (`id` or `id:QUANT`), a URI (`hf://owner/repo`), or a backend
    that needs no file ("echo").

    Args:
        to_chat: the model must write text; the catalog's embedding models and rerankers are refused unfetched.
        to_check: one file that failed its quality check may be run, as only another check lifts its veto.

    Raises:
        UnknownModel, NothingFits, ArtifactError, SourceError, BackendUnavailable, UnsupportedTask.
    """
    if model == "echo":
        other = request.backend not in (None, "echo")
        options = {"max_memory": request.max_memory_bytes, "gpu_layers": request.gpu_layers, "kv": request.kv_type}
        refuse_options(model, quant=quant, backend=other, **options)
        return own_format.echo_plan(request)
    if (artifact := own_format.artifact(model)) is not None:
        refuse_options(model, quant=quant, backend=request.backend not in (None, model))
        return own_format.plan(artifact, model, request)
    context = context or app_context.here()
    return _named_plan(
        model, request, context, quant, progress=progress, approve=approve, to_chat=to_chat, to_check=to_check
    )


def _named_plan(
    model: str, request: SelectionRequest, context: SelectionContext, quant: str | None, *, progress: Progress,
    approve: Approve, to_chat: bool, to_check: bool,
) -> LaunchPlan:  # fmt: skip
    unvetoed = replace(context, vetoes={}) if to_check else context
    reference = refer(model, context.cards)
    if reference.kind is ReferenceKind.FILE:
        refuse_options(model, quant=quant)
        return _file_plan(reference.name, request, unvetoed, named=model, to_chat=to_chat)
    if _is_undescribed(reference, context):
        with own_format.told_of_address():
            artifact = Library().fetch(undescribed(model), ModelFile(model, ""), progress)
        plan = _file_plan(artifact.path, request, unvetoed, named=model, to_chat=to_chat)
        return replace(plan, artifact=replace(plan.artifact, shown_as=artifact.model_id))
    if reference.kind is ReferenceKind.ADDRESS:
        progress(0, None, "reading the header")
    resolved = resolve(model, context, quant=quant, offline=request.offline)
    card, request = as_named(resolved.card, request, named=model, to_chat=to_chat)
    _refuse_absent(card, context)
    require_shape(card)
    if len({file.quant for file in card.files}) == 1:  # among several the one that failed is still not taken
        context = unvetoed
    plan, _ = _launch(context.narrowed([card]), request, progress, approve)
    artifact = replace(plan.artifact, shown_as=resolved.shown_as)
    return replace(plan, artifact=artifact, reasons=(*_notes(reference, card), *plan.reasons))


def _file_plan(
    path: str, request: SelectionRequest, context: SelectionContext, *, named: str, to_chat: bool
) -> LaunchPlan:
    """The plan for a file or folder on this disk, decided on its card as for a model of the catalog that is named.

    `named` is what the user called it.
    """
    artifact = own_format.identified(path, request.backend)
    context = file_plan.opened(context, artifact, request)
    try:
        card, _ = file_card.of(artifact, context.cards)
    except UnsupportedArtifact:
        plan, known_as = file_plan.unpredicted_plan(artifact, context, request), artifact
    else:
        card, request = as_named(card, request, named=named, to_chat=to_chat)
        plan = _plan_of_file(context.narrowed([card]), request, artifact)
        # What is learned of it is looked up by its card; users go on to see the name that they gave the file.
        known_as = replace(artifact, model_id=card.id, quant=card.files[0].quant)
    about = ModelNamed(artifact.model_id, "file", artifact.quant)
    # How to quantize it is said of the file: its card may have a name that no command knows.
    reasons = tuple(r for r in plan.reasons if not isinstance(r, CouldBeMade))
    reasons = (about, *reasons, *file_plan.not_quantized(artifact))
    return replace(plan, artifact=replace(known_as, shown_as=artifact.model_id), reasons=reasons)


def _plan_of_file(context: SelectionContext, request: SelectionRequest, artifact: Artifact) -> LaunchPlan:
    """Of the only file of the context, which is `artifact`."""
    reserved = Reserved()
    while True:
        decision = decide(context, request)
        assert decision.choice is not None, "a file on this disk can be had"
        if reserved.holds(decision.choice, artifact):
            return reserved.planned(_candidate_plan(reserved.told(decision), decision.choice, artifact))
        context = reserved.in_room(context)


def as_named(
    card: ModelCard, request: SelectionRequest, *, named: str, to_chat: bool
) -> tuple[ModelCard, SelectionRequest]:
    """The card as one that takes part, and the request. Whoever names a base model or a reranker wants exactly that.

    Raises:
        UnsupportedTask: it only reads, and was asked to chat; or it writes, and was asked to embed.
    """
    if card.kind not in ("embedding", "reranker"):
        if request.task == "embed":
            refuse_embed(named)
        return replace(card, kind="chat"), request
    if to_chat:
        refuse_chat(named)
    # A model that only reads is judged by how fast it reads.
    return replace(card, kind="embedding"), replace(request, task="embed")


def _is_undescribed(reference: Reference, context: SelectionContext) -> bool:
    """Whether neither the source nor a card describes the file at an address before it is fetched."""
    if reference.kind is not ReferenceKind.ADDRESS or isinstance(source_for(reference.name), Resolver):
        return False
    return not any(file.source == reference.name for card in context.cards for file in card.files)


def _refuse_absent(card: ModelCard, context: SelectionContext) -> None:
    """
    Raises:
        UnknownModel: no file of the card can be had, whichever source answers; says why of the first.
    """
    reasons = [context.absent[file.source] for file in card.files if file.source in context.absent]
    if not reasons or len(reasons) < len(card.files) or any(map(Library().has, card.files)):
        return
    brought = app_context.rows(here=False).get(card.id)  # the user's own file may have a row of that name
    of_plugin = answers.plugin_of(card.id, "register_models", unknown="")
    if of_plugin and brought is not None and {file.source for file in brought.files} & context.absent.keys():
        hint = f"its row is of {of_plugin}, whose author mends it"
    else:
        hint = "mend its row: `edgellm doctor` names file and line"
    if isinstance(reasons[0], SchemeUnknown) and reasons[0].scheme:
        hint += f", or install the plugin that brings the scheme{plugins().suspects('register_sources')}"
    raise UnknownModel(f"{card.id} cannot be had: {explain.refusal(reasons[0])}", hint=hint)


def _notes(reference: Reference, card: ModelCard) -> tuple[Reason, ...]:
    if reference.kind is ReferenceKind.ADDRESS:
        return (ModelNamed(card.id, "address", source=redacted(reference.name)),)
    if reference.hides_path:
        return (NameShadowsFile(card.id, reference.name),)
    return (NameTaken(card.id, typed),) if (typed := reference.taken_as(card)) else ()


@dataclass(slots=True)
class _Search:
    """From a decision to a file on this disk; each `step` that finds none leaves a context in which another is chosen.

    `spare_models`: how many models may fail to be fetched before that is an error.
    """

    context: SelectionContext
    request: SelectionRequest
    progress: Progress
    approve: Approve
    spare_models: int
    library: Library = field(default_factory=Library)
    skipped: list[Reason] = field(default_factory=list)  # models that failed to be fetched
    unanswered: dict[str, str] = field(default_factory=dict)  # by scheme, why a source does not answer
    failures: list[SourceError] = field(default_factory=list)  # of downloads that were begun
    reserved: Reserved = field(default_factory=Reserved)

    def decide(self) -> Decision:
        return decide(self.context, self.request)

    def without_silent_sources(self, choice: Candidate | None) -> bool:
        """Find out which sources answer, where the choice must be fetched; whether that was looked at."""
        if not _needs_network(choice, self.context, self.request, self.library):
            return False
        self.unanswered = _silent(choice)
        answering = tuple(scheme for scheme in sorted(sources()) if scheme not in self.unanswered)
        self.context = replace(self.context, reachable=answering)
        return True

    def step(self, choice: Candidate) -> Artifact | None:
        """The chosen file on this disk; None where it is time to decide again."""
        card, file = self.context.chosen(choice)
        try:
            described = _described(card, file, self.request, self.library, self.progress)
            if described is not card:
                self.context = self.context.narrowed(described if row is card else row for row in self.context.cards)
                return None
            if not (self.request.offline or scheme_of(file.source) == "file" or self.library.has(file)):
                instead = self.approve(PlannedDownload(card, file, choice, self.context, self.request))
                if instead is not None:
                    card, file = self.context.chosen(instead)
                    self.context = self.context.narrowed([replace(card, files=(file,))])
                    return None
            artifact = _artifact(self.library, card, file, self.request, self.progress)
            if self.reserved.holds(choice, artifact):
                return artifact
            self.context = self.reserved.in_room(self.context)
        except SourceUnreachable as error:
            self.context = _without_source(self.context, file)
            self.unanswered[scheme_of(file.source)] = error.message
            self.failures.append(error)
        except StoreUnwritable:  # no other model can be stored either
            raise
        except (SourceError, UnknownModel, ArtifactError) as error:
            # A gated or missing repository, a file that is not what it should be: take the next best model, and say so.
            if len(self.skipped) == self.spare_models:
                raise
            self.context = self.context.narrowed(row for row in self.context.cards if row.id != card.id)
            self.skipped.append(ModelSkipped(card.id, file.quant, error.message))
            self.failures += [error] if isinstance(error, DiskFull) else []
        return None


def _launch(
    context: SelectionContext, request: SelectionRequest, progress: Progress, approve: Approve, *, spare_models: int = 0
) -> tuple[LaunchPlan, Decision]:
    """Decide; where the choice must be fetched, find out which sources answer, and decide again without the others."""
    is_sealed = slot_of(Library().root) is not None  # nothing is fetched into what is served
    request = replace(request, offline=request.offline or settings.current().offline or is_sealed)
    search = _Search(context, request, progress, approve, spare_models)
    decision = search.decide()
    if search.without_silent_sources(decision.choice):
        decision = search.decide()
    while (choice := decision.choice) is not None:
        artifact = search.step(choice)
        if artifact is not None:
            missing = missed(decision, search.unanswered)
            decision = replace(decision, reasons=(*search.skipped, *missing, *decision.reasons))
            decision = search.reserved.told(decision)
            return search.reserved.planned(_candidate_plan(decision, choice, artifact)), decision
        decision = search.decide()
    for failure in search.failures:
        if isinstance(failure, DiskFull):  # no network would help
            raise failure
    assert decision.would_choose is not None, "something fits, or `decide` had raised"
    began = [] if request.offline else [failure.message for failure in search.failures]
    # Only of a choice that EdgeLLM makes itself, others may take its place.
    wish = decision.would_choose
    cards = search.context.cards
    raise unavailable(
        wish, search.unanswered, began, offline=request.offline, named=not spare_models,
        quants={file.quant for card in cards if card.id == wish.model for file in card.files},
        schemes={scheme_of(part) for card in cards for file in card.files for part in file.source.split()},
    )  # fmt: skip


def _needs_network(
    choice: Candidate | None, context: SelectionContext, request: SelectionRequest, library: Library
) -> bool:
    if choice is None or request.offline:
        return False
    _, file = context.chosen(choice)
    return scheme_of(file.source) != "file" and not library.has(file)


def _silent(choice: Candidate | None) -> dict[str, str]:
    """By scheme, why a source does not answer now; those that answer are not in it."""
    return unreachable(REACH_TIMEOUT_S, {scheme_of(choice.source): choice.source} if choice else {})


def _without_source(context: SelectionContext, file: ModelFile) -> SelectionContext:
    """The context in which the source of `file` does not answer."""
    dead = scheme_of(file.source)
    answering = tuple(s for s in (sources() if context.reachable is None else context.reachable) if s != dead)
    # Where it counted as stored, its bytes have changed.
    return replace(context, reachable=answering, stored=context.stored - {file.source, file.sha256 or ""})


def _described(
    card: ModelCard, file: ModelFile, request: SelectionRequest, library: Library, progress: Progress
) -> ModelCard:
    """The card with what the file's own header says, read before it is fetched; the same card where nothing is new."""
    if request.offline or library.has(file):
        return card
    progress(0, None, f"reading the header of {card.id} {file.quant}")
    return verified(card, file)


def _artifact(
    library: Library, card: ModelCard, file: ModelFile, request: SelectionRequest, progress: Progress
) -> Artifact:
    """The file on this disk, fetched where that is allowed."""
    artifact = library.locate(file, card.id)
    if artifact is None and (error := not_in_slot(card.id, file.quant)) is not None:
        raise error
    if not request.offline or scheme_of(file.source) == "file":
        return artifact or library.fetch(card, file, progress)
    if artifact is None and settings.current().offline and isinstance(source_for(file.source), Resolver):
        return library.fetch(card, file, progress)  # it may have a store on this disk
    if artifact is None:
        raise SourceUnreachable(f"{card.id} {file.quant} is damaged or not stored, and offline was asked for")
    return artifact


def _candidate_plan(decision: Decision, choice: Candidate, artifact: Artifact) -> LaunchPlan:
    problems = answers.supports(plugins().backend(choice.backend), artifact)
    if problems:
        raise UnsupportedArtifact(
            f"{choice.backend} cannot open {artifact.path or artifact.name}: {'; '.join(problems)}"
        )
    run = choice.settings
    step_s = run.n_batch / choice.prefill.tok_s
    plan = LaunchPlan(choice.backend, artifact, run, decision.reasons, choice.footprint, step_s)
    return file_plan.with_own_footprint(plan)

"""The plan for a model file on this disk: who opens it, and how it is run where nothing of it can be predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from msgspec import structs

from edgellm import explain
from edgellm.catalog import lookup
from edgellm.contract import answers
from edgellm.contract.manager import plugins
from edgellm.contract.quantizer import Quantizer
from edgellm.errors import NothingFits, UnsupportedArtifact, UsageError, option
from edgellm.estimate import footprint, quants
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.context import SelectionContext
from edgellm.selection.context_length import longest
from edgellm.selection.decide import usable_backends
from edgellm.selection.offload import unused
from edgellm.selection.reasons import unproven
from edgellm.selection.scenario import CTX_UNKNOWN, SHORTEST_CTX, Scenario
from edgellm.types import model_reason, reason, refusal
from edgellm.types.backend_reason import BackendOpens
from edgellm.types.model import Artifact, ModelCard
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest


def opened(context: SelectionContext, artifact: Artifact, request: SelectionRequest) -> SelectionContext:
    """The context with the backends that open the file itself, which holds more than its card tells.

    Raises:
        UnsupportedArtifact: no backend that may be used does. UsageError: none of them has the cache that is asked for.
    """
    openers, refusals = [], []
    for facts in context.backends:
        if request.backend not in (None, facts.name):
            continue
        problems = (
            answers.supports(plugins().backend(facts.name), artifact) or facts.problems or _not_loaded(facts, artifact)
        )
        if problems:
            refusals.append(f"{facts.name}: {'; '.join(problems)}")
        else:
            openers.append(facts)
    if not openers:
        what = f"backend {request.backend!r} cannot" if request.backend else "no installed backend can"
        raise UnsupportedArtifact(
            f"{what} open {artifact.path or artifact.name} ({'; '.join(refusals) or 'it is not installed'})",
            hint="see `edgellm plugins` and `edgellm doctor`",
        )
    return replace(context, backends=_holding(request.kv_type, openers, artifact))


def _holding(kv_type: str | None, openers: Sequence[BackendFacts], artifact: Artifact) -> tuple[BackendFacts, ...]:
    """Those that hold a cache of the type that is asked for.

    Raises:
        UsageError: none does.
    """
    if kv_type is None:
        return tuple(openers)
    by_backend = {facts.name: facts.refuses_cache(kv_type, artifact.shape) for facts in openers}
    if all(by_backend.values()):
        why = "; ".join(explain.refusal(why) for why in by_backend.values() if why is not None)
        raise UsageError(why, hint=f"leave {option('kv')} out", param="kv")
    return tuple(facts for facts in openers if by_backend[facts.name] is None)


def judged(
    context: SelectionContext, artifact: Artifact, card: ModelCard, request: SelectionRequest
) -> SelectionContext:
    """As `opened`. Where nobody opens the file, what a backend says of more than its card is the backend's problem."""
    try:
        return opened(context, artifact, request)
    except (UnsupportedArtifact, UsageError):
        (file,) = card.files
        arch = "" if card.shape is None else card.shape.arch

    def with_own(facts: BackendFacts) -> BackendFacts:
        if facts.problems or facts.refuses(file, arch) is not None:
            return facts
        return replace(facts, problems=tuple(answers.supports(plugins().backend(facts.name), artifact)))

    return replace(context, backends=tuple(map(with_own, context.backends)))


def _not_loaded(facts: BackendFacts, artifact: Artifact) -> list[str]:
    """Why this build does not load a model that its format would allow; empty = it does, or does not know."""
    if facts.archs is None or artifact.shape is None or artifact.shape.arch in facts.archs:
        return []
    return [explain.refusal(refusal.ArchNotLoaded(facts.name, artifact.shape.arch))]


def unpredicted_plan(artifact: Artifact, context: SelectionContext, request: SelectionRequest) -> LaunchPlan:
    """The plan for a file without a card: the first backend that opens it, with its usual settings.

    No speed is predicted; of memory, what the backend itself says of the file.

    Raises:
        BackendUnavailable: no backend that opens it puts layers on a GPU, and some were asked for.
        NothingFits: it needs more than may be used. UsageError: a speed was asked for.
    """
    if request.min_tps is not None:
        flag = option("min_tps")
        what = f"no speed of {artifact.path} is predicted, so {flag} cannot be kept"
        raise UsageError(what, hint=f"leave {flag} out", param="min_tps")
    usable, _ = usable_backends(context.backends, request)
    facts, machine = usable[0], context.machine
    scenario = Scenario.of(machine, request)
    slots, kv_type, threads = request.slots or 1, request.kv_type or facts.usual_cache, scenario.threads

    on = tuple(device.name for device in facts.offload.devices) if facts.offload and request.gpu_layers else ()

    def planned(ctx: int) -> LaunchPlan:
        run = Settings(ctx, slots, threads, threads, kv_type, request.gpu_layers or 0, devices=on)
        return with_own_footprint(LaunchPlan(facts.name, artifact, run))

    def needed(ctx: int) -> int:
        memory = planned(ctx).footprint
        return 0 if memory is None else footprint.counted_bytes(memory, machine)

    ctx, why = _unpredicted_length(artifact, request, lambda ctx: needed(ctx) <= scenario.budget_bytes)
    if needed(ctx) > scenario.budget_bytes:
        too_big = refusal.NeedsMemory(needed(ctx), scenario.budget_bytes, ctx, kv_type)
        raise NothingFits(
            f"{artifact.name} {explain.refusal(too_big)}",
            hint=f"{explain.more_memory(scenario.budget)}, ask for less with {option('ctx')} or {option('slots')}, "
            "or see `edgellm auto-select`",
        )
    plan = planned(ctx)
    gpu = unused(machine, facts.name, facts.offload, request.gpu_layers)
    about = (BackendOpens(facts.name, artifact.format), *unproven(facts), why, *([gpu] if gpu is not None else []))
    return replace(plan, reasons=(*about, reason.Threads(threads, asked=request.threads is not None), *plan.reasons))


def _unpredicted_length(
    artifact: Artifact, request: SelectionRequest, holds: Callable[[int], bool]
) -> tuple[int, reason.Reason]:
    """Tokens per slot, and why. Unasked never many, as no speed is predicted; fewer where memory is short."""
    if request.ctx is not None:
        return request.ctx, reason.ContextLength(request.ctx, "asked")
    limit = min(artifact.ctx_train or CTX_UNKNOWN, CTX_UNKNOWN)
    # Where not even the shortest is held, that is what is refused.
    ctx = longest(limit, holds) or min(SHORTEST_CTX, limit)
    if ctx < limit:
        return ctx, reason.ContextLength(ctx, "memory")
    if limit == artifact.ctx_train:
        return ctx, reason.ContextLength(ctx, "trained")
    return ctx, reason.ContextUnknown(ctx, is_shape_known=artifact.shape is not None)


def with_own_footprint(plan: LaunchPlan) -> LaunchPlan:
    """The plan with the backend's own footprint of the file, if it has one, and with the memory of the parent process.

    A file is read instead of mapped where most of it is copied into another layout: the map would only keep pages
    that are never read again.
    """
    backend = plugins().backend(plan.backend)
    own = answers.footprint(backend, plan.artifact, plan.settings)
    if own is None:
        return plan
    run, reasons = plan.settings, plan.reasons
    if own.reclaimable_bytes > own.weights_bytes // 2:
        reasons = (*reasons, reason.WeightsRead(own.reclaimable_bytes, own.weights_bytes))
        run = replace(run, mmap=False)
        own = answers.footprint(backend, plan.artifact, run) or own
    tables = footprint.grammar_bytes(plan.artifact.shape) if plan.artifact.shape is not None else 0
    own = structs.replace(own, parent_bytes=footprint.PARENT_BYTES, grammar_bytes=tables)
    return replace(plan, settings=run, reasons=reasons, footprint=own)


def not_quantized(artifact: Artifact) -> tuple[model_reason.NotQuantized, ...]:
    """How to quantize a named file that is not quantized yet. For models of the catalog, selection says so."""
    floats = quants.QUANTS.get(artifact.quant)
    if artifact.format != "gguf" or floats is None or floats.kind != "float":
        return ()
    if not any(isinstance(backend, Quantizer) for backend in plugins().backends().values()):
        return ()
    name = artifact.model_id if artifact.model_id in lookup.catalog() else artifact.path
    return (model_reason.NotQuantized(name),)

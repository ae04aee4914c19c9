"""The plan for a model file on this disk: who opens it, and how it is run where nothing of it can be predicted."""

from __future__ import annotations

from dataclasses import replace

from edgellm import explain
from edgellm.catalog import lookup
from edgellm.contract.manager import plugins
from edgellm.contract.quantizer import Quantizer
from edgellm.errors import NothingFits, UnsupportedArtifact, UsageError, option
from edgellm.estimate import footprint, quants
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.context import SelectionContext
from edgellm.selection.offload import require, unused
from edgellm.selection.scenario import Scenario
from edgellm.types import reason
from edgellm.types.backend_reason import BackendOpens
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest
from edgellm.units import show_memory

CTX_UNKNOWN = 4096  # tokens, where a file does not tell its shape


def opened(context: SelectionContext, artifact: Artifact, request: SelectionRequest) -> SelectionContext:
    """The context with the backends that open the file itself, which holds more than its card tells.

    Raises:
        UnsupportedArtifact: no backend that may be used does. UsageError: none of them has the cache that is asked for.
    """
    openers, refusals = [], []
    for facts in context.backends:
        if request.backend not in (None, facts.name):
            continue
        problems = plugins().backend(facts.name).supports(artifact) or facts.problems or _not_loaded(facts, artifact)
        if problems:
            refusals.append(f"{facts.name}: {'; '.join(problems)}")
        else:
            openers.append(facts)
    if not openers:
        what = f"backend {request.backend!r} cannot" if request.backend else "no installed backend can"
        raise UnsupportedArtifact(
            f"{what} open {artifact.path} ({'; '.join(refusals) or 'it is not installed'})",
            hint="see `edgellm plugins` and `edgellm doctor`",
        )
    if request.kv_type is not None:
        cache_refusals = [facts.refuses_cache(request.kv_type, artifact.shape) for facts in openers]
        if all(cache_refusals) and (refusal := cache_refusals[0]) is not None:
            raise UsageError(explain.refusal(refusal), hint=f"leave {option('kv')} out", param="kv")
    return replace(context, backends=tuple(openers))


def _not_loaded(facts: BackendFacts, artifact: Artifact) -> list[str]:
    """Why this build does not load a model that its format would allow; empty = it does, or does not know."""
    if facts.archs is None or artifact.shape is None or artifact.shape.arch in facts.archs:
        return []
    return [f"this build does not load architecture {artifact.shape.arch}"]


def unpredicted_plan(artifact: Artifact, context: SelectionContext, request: SelectionRequest) -> LaunchPlan:
    """The plan for a file without a card: the first backend that opens it, with its usual settings.

    No speed is predicted; of memory, what the backend itself says of the file.

    Raises:
        BackendUnavailable: the backend puts no layers on a GPU, and some were asked for.
        NothingFits: it needs more than may be used.
    """
    facts, machine = context.backends[0], context.machine
    require(facts.name, facts.offload, request.gpu_layers)
    ctx, why = _unpredicted_length(artifact, request)
    threads = machine.compute_threads
    slots, kv_type = request.slots or 1, request.kv_type or facts.usual_cache
    run = Settings(ctx, slots, threads, threads, kv_type, request.gpu_layers or 0)
    reasons = (
        BackendOpens(facts.name, artifact.format),
        why,
        unused(machine, facts.name, facts.offload, request.gpu_layers),
        reason.Threads(threads),
    )
    plan = with_own_footprint(LaunchPlan(facts.name, artifact, run, tuple(r for r in reasons if r is not None)))
    scenario = Scenario.of(machine, request)
    needed = 0 if plan.footprint is None else footprint.counted_bytes(plan.footprint, machine)
    if needed > scenario.budget_bytes:
        raise NothingFits(
            f"the model needs {show_memory(needed)} with {ctx:,} tokens of context and {slots} "
            f"slots, and may use {explain.budget(scenario.budget)}",
            hint=f"close other programs, ask for less with {option('ctx')} or {option('slots')}, "
            "or see `edgellm auto-select`",
        )
    return plan


def _unpredicted_length(artifact: Artifact, request: SelectionRequest) -> tuple[int, reason.Reason]:
    """Tokens per slot, and why."""
    if request.ctx is not None:
        return request.ctx, reason.ContextLength(request.ctx, "asked")
    if 0 < artifact.ctx_train <= CTX_UNKNOWN:
        return artifact.ctx_train, reason.ContextLength(artifact.ctx_train, "trained")
    return CTX_UNKNOWN, reason.ContextUnknown(CTX_UNKNOWN)


def with_own_footprint(plan: LaunchPlan) -> LaunchPlan:
    """The plan with the backend's own footprint of the file, if it has one, and with the memory of the parent process.

    A file is read instead of mapped where most of it is copied into another layout: the map would only keep pages
    that are never read again.
    """
    backend = plugins().backend(plan.backend)
    own = backend.footprint(plan.artifact, plan.settings)
    if own is None:
        return plan
    run, reasons = plan.settings, plan.reasons
    if own.reclaimable_bytes > own.weights_bytes // 2:
        reasons = (*reasons, reason.WeightsRead(own.reclaimable_bytes, own.weights_bytes))
        run = replace(run, mmap=False)
        own = backend.footprint(plan.artifact, run) or own
    return replace(plan, settings=run, reasons=reasons, footprint=replace(own, parent_bytes=footprint.PARENT_BYTES))


def not_quantized(artifact: Artifact) -> tuple[reason.NotQuantized, ...]:
    """How to quantize a named file that is not quantized yet. For models of the catalog, selection says so."""
    floats = quants.QUANTS.get(artifact.quant)
    if artifact.format != "gguf" or floats is None or floats.kind != "float":
        return ()
    if not any(isinstance(backend, Quantizer) for backend in plugins().backends().values()):
        return ()
    name = artifact.model_id if artifact.model_id in lookup.catalog() else artifact.path
    return (reason.NotQuantized(name),)

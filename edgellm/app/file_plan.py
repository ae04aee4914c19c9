"""The plan for a model file on this disk: which backend opens it, and with which settings it fits."""

from __future__ import annotations

from dataclasses import replace

from edgellm import explain
from edgellm.catalog import lookup
from edgellm.contract.backend import Backend, Loader, Offload
from edgellm.contract.manager import plugins
from edgellm.contract.quantizer import Quantizer
from edgellm.errors import NothingFits, UnsupportedArtifact, UsageError
from edgellm.estimate import footprint, quants
from edgellm.selection.backend_facts import cache_types, offload_facts
from edgellm.selection.context_length import fit_cache
from edgellm.selection.offload import Placement, place, require, unused
from edgellm.types import reason
from edgellm.types.backend_reason import BackendOpens
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact, Shape
from edgellm.types.plan import Footprint, LaunchPlan, Settings
from edgellm.types.request import KV_TYPES, SelectionRequest

CTX_UNKNOWN = 4096  # tokens, where a file does not tell its shape


def file_plan(path: str, request: SelectionRequest, machine: Machine) -> LaunchPlan:
    """The plan for a file or folder that is named, without a choice of model.

    Raises:
        ArtifactError, UnsupportedArtifact, NothingFits; UsageError: a cache or layers that no backend has.
    """
    from edgellm.catalog.identify import identify

    artifact = identify(path)
    backend = _backend_for(artifact, request, machine)
    offload = offload_facts(plugins().backend(backend), machine)
    require(backend, offload, request.gpu_layers)
    threads = machine.compute_threads
    kv_types = _cache_types(backend, artifact.shape, request)
    if artifact.shape is None:
        why: tuple[reason.Reason | None, ...] = (reason.ContextUnknown(CTX_UNKNOWN),)
        ctx, kv_type, gpu_layers = request.ctx or CTX_UNKNOWN, kv_types[0], request.gpu_layers or 0
        memory, gpu = None, None
    else:
        context, kv_type, cache, placed = _fit(artifact, artifact.shape, request, machine, kv_types, offload)
        ctx, why = context.ctx, (context, cache)
        gpu_layers, memory, gpu = placed.gpu_layers, placed.footprint, placed.reason
    run = Settings(ctx, request.slots, threads, threads, kv_type, gpu_layers)
    model_reason = reason.ModelNamed(artifact.model_id, "file", artifact.quant)
    device = gpu or unused(machine, backend, offload, request.gpu_layers)
    reasons = (
        model_reason,
        BackendOpens(backend, artifact.format),
        *why,
        device,
        reason.Threads(threads),
        *_smaller(artifact),
    )
    plan = LaunchPlan(backend, artifact, run, tuple(r for r in reasons if r is not None), memory)
    return with_own_footprint(plan)


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


def _smaller(artifact: Artifact) -> tuple[reason.NotQuantized, ...]:
    """How to quantize a named file that is not quantized yet. For models of the catalog, selection says so."""
    floats = quants.QUANTS.get(artifact.quant)
    if artifact.format != "gguf" or floats is None or floats.kind != "float":
        return ()
    if not any(isinstance(backend, Quantizer) for backend in plugins().backends().values()):
        return ()
    name = artifact.model_id if artifact.model_id in lookup.catalog() else artifact.path
    return (reason.NotQuantized(name),)


def _cache_types(name: str, shape: Shape | None, request: SelectionRequest) -> tuple[str, ...]:
    """Types of cache to try for a named file: the one asked for, else the backend's usual one and all that are smaller.

    Raises:
        UsageError: the requested type is not possible.
    """
    facts = cache_types(plugins().backend(name))
    usual = KV_TYPES[KV_TYPES.index(facts.usual_cache) :]
    kinds = usual if request.kv_type is None else (request.kv_type,)
    refusals = {kind: facts.refuses_cache(kind, shape) for kind in kinds}
    if request.kv_type is not None and (refusal := refusals[request.kv_type]) is not None:
        raise UsageError(explain.refusal(refusal), hint="leave --kv out", param="kv")
    return tuple(kind for kind, refusal in refusals.items() if refusal is None)


def _fit(  # noqa: PLR0917
    artifact: Artifact,
    shape: Shape,
    request: SelectionRequest,
    machine: Machine,
    kv_types: tuple[str, ...],
    offload: Offload | None,
) -> tuple[reason.ContextLength, str, reason.CacheType | None, Placement]:
    """Context and type of cache of a named file, why, and where its layers go."""

    def placed(whole: Footprint) -> Placement:
        return place(whole, shape, artifact.bytes, artifact.quant, offload, request.gpu_layers)

    def in_ram(whole: Footprint) -> Footprint:
        return placed(whole).footprint

    context, kv_type, cache = fit_cache(machine, shape, artifact.ctx_train, artifact.bytes, request, kv_types, in_ram)
    placement = placed(footprint.footprint(shape, artifact.bytes, context.ctx, request.slots, kv_type))
    if placement.problem is not None:
        problem = explain.refusal(placement.problem)
        hint = "--gpu-layers auto puts as many there as fit; --ctx, --slots ask for less"
        raise NothingFits(f"{artifact.model_id} with {context.ctx:,} tokens of context: {problem}", hint=hint)
    return context, kv_type, cache, placement


def _backend_for(artifact: Artifact, request: SelectionRequest, machine: Machine) -> str:
    """The first backend, by name, that runs here and opens the artifact; what the others said otherwise."""
    refusals = []
    for name, backend in plugins().backends().items():
        if request.backend not in (None, name):
            continue
        problems = backend.supports(artifact) or backend.check(machine) or _not_loaded(backend, artifact, machine)
        if not problems:
            return name
        refusals.append(f"{name}: {'; '.join(problems)}")
    what = f"backend {request.backend!r}" if request.backend else "no installed backend"
    raise UnsupportedArtifact(
        f"{what} can open {artifact.path} ({'; '.join(refusals) or 'it is not installed'})",
        hint="see `edgellm plugins` and `edgellm doctor`",
    )


def _not_loaded(backend: Backend, artifact: Artifact, machine: Machine) -> list[str]:
    """Why this build does not load a model that its format would allow; empty = it does, or does not know."""
    architectures = backend.architectures(machine) if isinstance(backend, Loader) else None
    if architectures is None or artifact.shape is None or artifact.shape.arch in architectures:
        return []
    return [f"this build does not load architecture {artifact.shape.arch}"]

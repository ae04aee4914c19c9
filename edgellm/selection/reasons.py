"""What a person should know of a choice: the reasons that no rule gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from edgellm.estimate import quality
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.busy import cpu_share
from edgellm.selection.choices import better_backend
from edgellm.selection.offload import unused
from edgellm.selection.option import NEARLY_ALL, Option
from edgellm.types import model_reason, reason
from edgellm.types.backend_reason import (
    BackendPreferred,
    BackendUnproven,
    FilesCompared,
    GpuLayers,
    GpuReason,
    GpuUnused,
    RatesSetAside,
)
from edgellm.types.calibration import nearest
from edgellm.types.plan import Candidate, Rate
from edgellm.types.request import KV_TYPES

NOTABLY = 1.05  # a difference in score that is worth a word
FREE_LICENSES = ("apache-2.0", "mit")


def evidence(chosen: Option, low: Sequence[Option]) -> list[model_reason.FewerBitsScoreMore]:
    """Where predictions speak against preferring 4 bits: the best of the files that were dropped for few bits."""
    scenario = chosen.scenario
    best: Option | None = None
    floor = min(scenario.floor_tps, chosen.useful_tps)
    for o in sorted(low, key=lambda o: o.most_score, reverse=True):
        least = chosen.score * NOTABLY if best is None else best.score
        if o.most_score < least:
            break
        would_do = o.score > chosen.score * NOTABLY and o.fits_at(o.needed_ctx) and o.useful_tps >= floor
        if would_do and (best is None or (o.score, o.model, o.quant) > (best.score, best.model, best.quant)):
            best = o
    if best is None:
        return []
    low_end, high_end = best.ability.low * best.kept.low, best.ability.high * best.kept.high
    return [model_reason.FewerBitsScoreMore(best.model, best.quant, best.score, chosen.score, low_end, high_end)]


def _cache(chosen: Option) -> list[reason.CacheType]:
    """Why the cache is not held as exactly as it could be, and what that costs."""
    kind, request = chosen.kv_type, chosen.scenario.request
    if kind == "f16" and request.kv_type is None:
        return []
    if request.kv_type is None and kind == chosen.facts.usual_cache:
        return [reason.CacheType(kind, "only_type", chosen.backend)]
    left = quality.cache_retention(kind, chosen.card.params, chosen.card.family)
    kept = None if kind in ("f32", "f16") else (left.mid, left.low, left.high)
    if request.kv_type is not None:
        return [reason.CacheType(kind, "asked", kept=kept)]
    higher = replace(chosen, kv_type=KV_TYPES[KV_TYPES.index(kind) - 1])
    ctx, budget = chosen.needed_ctx, chosen.scenario.budget_bytes
    needed = higher.counted_at(ctx)
    if needed <= budget:
        return [reason.CacheType(kind, "speed", higher=higher.kv_type, higher_tps=higher.rate.tok_s, kept=kept)]
    return [
        reason.CacheType(
            kind, "memory", higher=higher.kv_type, higher_bytes=needed, ctx=ctx, budget_bytes=budget, kept=kept
        )
    ]


def _backend(chosen: Option, possible: Sequence[Option]) -> list[BackendPreferred]:
    """Why this backend, where another one runs the model, too: the same kind of file, or its best of another."""
    elsewhere = [o for o in possible if o.model == chosen.model and o.backend != chosen.backend]
    others = {o.backend: o for o in sorted(elsewhere, key=lambda o: (o.quant == chosen.quant, o.score, o.rate.tok_s))}
    return [
        BackendPreferred(chosen.backend, o.backend, better_backend(chosen, o))
        if o.quant == chosen.quant
        else BackendPreferred(chosen.backend, o.backend, _compared(chosen, o), o.quant)
        for _, o in sorted(others.items())
    ]


def _compared(chosen: Option, o: Option) -> FilesCompared:
    return FilesCompared(
        chosen.rate.tok_s, o.rate.tok_s, chosen.tensor_bytes, o.tensor_bytes, chosen.kept.mid, o.kept.mid
    )


def gpu_reason(option: Option, ctx: int) -> GpuReason | None:
    """What GPUs compute of an option with a context, and why, or why they compute nothing."""
    placed, request = option.placed_at(ctx), option.scenario.request
    if placed.parts:
        return _placed(option, ctx)
    idle = unused(option.scenario.machine, option.backend, option.facts.offload, request.gpu_layers)
    if idle is None or not option.gpus or request.gpu_layers == 0:
        return idle
    suited = [gpu for gpu in option.gpus if gpu.is_suited]
    names, memory = ", ".join(gpu.description for gpu in suited or option.gpus), idle.vram_bytes
    if not suited:
        return _unsuited(option, names, memory)
    other = next((o for o in option.candidate(ctx).other_placements if o.parts and o.lost != "memory"), None)
    if other is None:
        return GpuUnused(names, memory, "too_small")
    if other.decode is None:
        return GpuUnused(names, memory, "unknown")
    cpu = option.rates_at(ctx).decode
    return GpuUnused(names, memory, "slower", tok_s=other.decode.tok_s, cpu_tok_s=cpu.tok_s)


def _unsuited(option: Option, names: str, memory: int) -> GpuUnused:
    """Why none of its devices is used unless it is asked for."""
    providers = [gpu.provider for gpu in option.gpus if gpu.provider is not None and gpu.provider.rate is None]
    if providers:
        return GpuUnused(names, memory, "unpublished", option.backend, providers[0].unpredicted)
    return GpuUnused(names, memory, "unsuited" if any(gpu.gpu for gpu in option.gpus) else "unknown")


def _placed(option: Option, ctx: int) -> GpuLayers:
    placed, asked = option.placed_at(ctx), option.scenario.request.gpu_layers is not None
    names = ", ".join(part.device.description for part in placed.parts)
    total = placed.n_blocks + 1
    ubatch = placed.ubatch if placed.experts_away else None
    if placed.is_unified:
        return GpuLayers(placed.layers, total, names, "unified_asked" if asked else "unified")
    needed = sum(part.n_bytes for part in placed.parts)
    usable = sum(part.device.room_bytes for part in placed.parts)
    cause: Literal["asked", "all_fit", "some_fit"] = "all_fit" if placed.layers == total else "some_fit"
    return GpuLayers(
        placed.layers, total, names, "asked" if asked else cause, needed, usable, placed.experts_away, ubatch
    )


def other_placements(choice: Candidate, option: Option) -> tuple[reason.OtherPlacements, ...]:
    """The next best places for it, as a reason; () where there are no GPUs."""
    placed, places = option.placed_at(choice.ctx), option.places
    rows = tuple(
        reason.PlacementRow(
            sum(part.layers for part in other.parts), placed.n_blocks + 1,
            ", ".join(part.description for part in other.parts), other.experts_away,
            other.decode.tok_s if other.decode else None, other.prefill.tok_s if other.prefill else None,
            other.lost, other.request_s, other.needed_bytes,
        )
        for other in choice.other_placements
    )  # fmt: skip
    if not rows:
        return ()
    least, budget = places.worth_at(choice.ctx), option.scenario.budget_bytes
    return (reason.OtherPlacements(rows, places.request_s(placed), least, budget),)


def unproven(facts: BackendFacts) -> list[BackendUnproven]:
    return [BackendUnproven(facts.name, facts.unproven)] if facts.unproven else []


def set_aside(facts: BackendFacts, threads: int) -> list[RatesSetAside]:
    """What was measured with as many threads beside other programs, and does not count."""
    if facts.set_aside is None:
        return []
    count = nearest(facts.set_aside.counts, threads)
    when = facts.set_aside.occasions[count]
    return [RatesSetAside(facts.name, count, when.date, when.taken, when.waited, when.of_one)]


def rates_set_aside(chosen: Option, rate: Rate) -> list[RatesSetAside]:
    """The same of an option, where the processor has a part in its rate."""
    return set_aside(chosen.facts, chosen.scenario.machine.compute_threads) if cpu_share(rate) else []


def _floor_when_alone(beside: Option, alone: Option) -> list[reason.FloorWhenAlone]:
    """Where the floor is reached with all threads, and not with those that compute beside other programs."""
    floor = alone.scenario.floor_tps
    if beside.answers_at(floor) or not alone.answers_at(floor):
        return []
    threads, fewer = (o.scenario.threads if o.scenario.request.task == "embed" else o.threads for o in (alone, beside))
    return [reason.FloorWhenAlone(floor, threads, fewer, beside.useful_tps)]


def about(alone: Option, choice: Candidate, possible: Sequence[Option]) -> list[reason.Reason]:
    """What a person should know of the choice: memory, speed, where it comes from, what its licence restricts.

    `alone` is chosen as if no other programs ran; what is said is of the threads that it gets beside them.
    """
    chosen = alone.beside()
    run, request = chosen.with_slots(choice.slots), chosen.scenario.request
    placed = run.placed_at(choice.ctx)
    rate = choice.prefill if request.task == "embed" else choice.decode
    gpu, prompts = gpu_reason(run, choice.ctx), choice.prefill
    is_unknown = placed.parts and not run.rates_at(choice.ctx).on_gpu
    most = chosen.scenario.threads
    factor = chosen.correction.resident
    runs = None if factor == 1.0 else chosen.correction.basis
    reasons: list[reason.Reason] = [
        *_cache(chosen),
        *_backend(chosen, possible),
        *unproven(chosen.facts),
        *([gpu] if gpu is not None else []),
        reason.MemoryNeeded(choice.counted_bytes, chosen.scenario.budget_bytes, factor, runs),
        *([reason.Threads(request.threads, asked=True)] if request.threads is not None else []),
        *([reason.FewerThreads(chosen.threads, most, 1 - NEARLY_ALL)] if chosen.threads < most else []),
        reason.Speed(rate.tok_s, rate.low, rate.high, rate.basis),
        *_floor_when_alone(chosen, alone),
        *rates_set_aside(chosen, rate),
    ]
    if is_unknown:
        reasons.append(reason.GpuSpeedUnknown())
    elif placed.parts and request.task != "embed":
        reasons.append(reason.Prompts(prompts.tok_s, prompts.low, prompts.high, prompts.basis))
    reasons += other_placements(choice, run)
    if not chosen.weights.exact:
        reasons.append(model_reason.SizeEstimated())
    if chosen.file.trust == "convention":
        reasons.append(model_reason.NameConvention())
    if chosen.card.license not in FREE_LICENSES:
        reasons.append(model_reason.LicenseRestricts(chosen.card.license))
    return reasons

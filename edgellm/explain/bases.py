"""Where a number comes from, in words."""

from __future__ import annotations

from edgellm.types.basis import (
    AbilityBasis,
    Bandwidth,
    Basis,
    CacheLoss,
    Corrected,
    Imputed,
    LossBasis,
    Losses,
    Measured,
    MeasuredDivergence,
    NativeType,
    OtherCaches,
    OwnRuns,
    PerplexityIncrease,
    Predicted,
    PublishedScore,
    RateBasis,
    Runs,
    SameBackend,
    SameFamily,
    SameModel,
    TrainedForCode,
    Unquantized,
)


def basis(of: Basis) -> str:
    """What a number rests on; for a rate the first word is `predicted`, `measured` or `corrected`."""
    match of:
        case Predicted() | Measured() | Corrected():
            return _rate(of)
        case OwnRuns() | OtherCaches() | SameModel() | SameFamily() | SameBackend():
            return _runs(of)
        case Bandwidth():
            return _bandwidth(of)
        case Losses():
            return "; ".join(map(_loss, of.losses))
        case PublishedScore() | Imputed() | TrainedForCode():
            return _ability(of)
        case _:
            return _loss(of)


def _rate(of: RateBasis) -> str:
    match of:
        case Predicted():
            bound = f"{of.bound}-bound, " if of.bound else ""
            memory = f"{_bandwidth(of.bandwidth)}, " if of.bandwidth is not None else ""
            return f"predicted: {bound}{memory}{of.threads} threads, {of.isa_class}{_cached(of.depth)}"
        case Measured():
            when = f" {of.date}" if of.date else ""
            build = f" with {of.build}" if of.build else ""
            others = f" from the rates of {of.measured_threads}" if of.measured_threads != of.threads else ""
            borrowed = "".join(f", {kind} scaled as {like}" for kind, like in of.borrowed)
            return f"measured: calibrated{when}{build}, {of.threads} threads{others}{borrowed}{_cached(of.depth)}"
        case Corrected():
            return f"corrected: x{of.factor:g}, {_runs(of.runs)}; {_rate(of.of)}"


def _cached(depth: int | None) -> str:
    return f", {depth} tokens cached" if depth is not None else ""


def _bandwidth(of: Bandwidth) -> str:
    match of.source:
        case "measured":
            return f"{of.gb_s:.1f} GB/s measured{' beside other programs' if of.contended else ''}"
        case "theoretical":
            return f"{of.reached_gb_s:.1f} of {of.gb_s:.1f} GB/s theoretical"
        case "assumed":
            return f"bandwidth unknown, {of.gb_s:g} GB/s assumed"


def _runs(of: Runs) -> str:
    match of:
        case OwnRuns():
            times = "1 run" if of.runs == 1 else f"{of.runs} runs"
            cache = "" if of.kv_type == "f16" else f" with a cache of {of.kv_type}"
            return f"corrected by {times} of {of.model} {of.quant}{cache} here"
        case OtherCaches():
            caches = " and ".join(of.kv_types)
            return f"corrected by runs of {of.model} {of.quant} with a cache of {caches} here"
        case SameModel():
            return f"corrected by runs of {of.model} in {_others(of.files)} here; never run itself"
        case SameFamily():
            types = f"{_others(of.files)} of the {of.family} types"
            return f"corrected by runs of {types} on {of.backend} here; never run itself"
        case SameBackend():
            return f"corrected by runs of {_others(of.files)} on {of.backend} here; never run itself"


def _others(files: int) -> str:
    return "1 other" if files == 1 else f"{files} others"


def _loss(of: LossBasis) -> str:
    match of:
        case NativeType():
            return "trained in this type: no loss"
        case Unquantized():
            return "not quantized"
        case PerplexityIncrease():
            types = ", by the types that its rows allow" if of.by_types else ""
            family = f", {of.family} losing x{of.family_factor:g}" if of.family else ""
            return f"about +{of.percent:.1f} % perplexity at this size{types}{family}"
        case CacheLoss():
            return f"a {of.kv_type} cache about +{of.percent:.2g} %"
        case MeasuredDivergence():
            return f"measured here: KL divergence {of.nats:.3g} nats"


def _ability(of: AbilityBasis) -> str:
    match of:
        case PublishedScore():
            return _published(of)
        case Imputed():
            return f"no published score: imputed from its size {f'and {of.sibling}' if of.sibling else 'alone'}"
        case TrainedForCode():
            return f"{_ability(of.of)}; trained for code: x{of.factor}"


def _published(of: PublishedScore) -> str:
    match of.conversion:
        case "none":
            return f"{of.benchmark} {of.score:g} published"
        case "without_thinking":
            return f"{of.benchmark} {of.score:g} published with thinking, taken as {of.mid:.0f} without"
        case "line":
            return f"{of.benchmark} {of.score:g} published, converted"
        case "one_anchor":
            return f"vendor's 6-task mean {of.score:g}, converted from one anchor"

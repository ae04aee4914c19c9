"""Where a number comes from, in words."""

from __future__ import annotations

from edgellm.types import basis as bases
from edgellm.units import counted, show_memory


def basis(of: bases.Basis) -> str:
    """What a number rests on; for a rate the first word is `predicted`, `measured` or `corrected`."""
    if isinstance(of, bases.RateBasis):
        return _rate(of)
    if isinstance(of, bases.Runs):
        return f"corrected {_runs(of)}"
    if isinstance(of, bases.AbilityBasis):
        return _ability(of)
    if isinstance(of, bases.Bandwidth):
        return _bandwidth(of)
    return "; ".join(map(_loss, of.losses)) if isinstance(of, bases.Losses) else _loss(of)


def _rate(of: bases.RateBasis) -> str:
    match of:
        case bases.Predicted():
            bound = f"{of.bound}-bound, " if of.bound else ""
            memory = f"{_bandwidth(of.bandwidth)}, " if of.bandwidth is not None else ""
            return f"predicted: {bound}{memory}{counted(of.threads, 'thread')}, {of.isa_class}{_cached(of.depth)}"
        case bases.PredictedOnGpu():
            known = _known(of)
            return f"predicted: {of.bound}-bound, {of.gpu} with {of.api}{known}, {of.gb_s:g} GB/s{_cached(of.depth)}"
        case bases.PredictedSplit():
            times = [f"{name} {ms:.3g} ms a token" for name, ms in zip(of.gpus, of.gpu_ms, strict=True)]
            if of.cpu_ms:
                times.append(f"the processor {of.cpu_ms:.3g} ms with {counted(of.threads, 'thread')}")
            return f"predicted: {', '.join(times)}{_cached(of.depth)}"
        case bases.PredictedStream():
            copied = f"{show_memory(of.host_bytes)} in RAM copied to {of.gpu} for every {of.ubatch:,} tokens"
            return f"predicted: {copied}, at {of.link_gb_s:g} GB/s"
        case bases.PredictedByProvider():
            source = f"by {of.source}" if of.source else "a guess, as nothing is published"
            factor = f"x{of.factor:g} ({of.low:g} to {of.high:g}) for {of.provider}, {source}"
            copied = ""
            if of.link_gb_s is not None:
                copied = f"; {show_memory(of.copied_bytes)} of cache copied in each step at {of.link_gb_s:g} GB/s"
            return f"{_rate(of.of)}, {factor}{copied}"
        case bases.Measured():
            when = f" {of.date}" if of.date else ""
            when += f" ({of.taken:.0%} other work)" if of.taken is not None else ""
            build = f" with {of.build}" if of.build else ""
            others = f" from the rates of {of.measured_threads}" if of.measured_threads != of.threads else ""
            threads = f"{counted(of.threads, 'thread')}{others}"
            borrowed = "".join(f", {kind} scaled as {like}" for kind, like in of.borrowed)
            return f"measured: calibrated{when}{build}, {threads}{borrowed}{_cached(of.depth)}"
        case bases.Corrected():
            return f"corrected: x{of.factor:g}, {_runs(of.runs)}; {_rate(of.of)}"


def _known(of: bases.PredictedOnGpu) -> str:
    match of.known:
        case "device":
            return ""
        case "variant":
            return " (the slowest of that name)"
        case "family":
            return " (as others of its family)"
        case "bandwidth":
            return " (known by its bandwidth only)"
        case "nothing":
            return " (known by its runs only), as if it had"


def when_alone(said: bool, threads: int | None) -> str:
    """Of rates as they are without the programs that run beside. `threads`: they are with, None = as with them."""
    return f"{_with_threads(threads)} when nothing else runs" if said else ""


def _with_threads(threads: int | None) -> str:
    return "" if threads is None else f" with {counted(threads, 'thread')}"


def _cached(depth: int | None) -> str:
    return f", {depth} tokens cached" if depth is not None else ""


def _bandwidth(of: bases.Bandwidth) -> str:
    match of.source:
        case "measured":
            return f"{of.gb_s:.1f} GB/s measured{' beside other programs' if of.contended else ''}"
        case "theoretical":
            return f"{of.reached_gb_s:.1f} of {of.gb_s:.1f} GB/s theoretical"
        case "assumed":
            return f"bandwidth unknown, {of.gb_s:g} GB/s assumed"


def _runs(of: bases.Runs) -> str:
    """Whose runs a number was corrected by."""
    match of:
        case bases.OwnRuns():
            cache = "" if of.kv_type == "f16" else f" with a cache of {of.kv_type}"
            return f"by {counted(of.runs, 'run')} of {of.model} {of.quant}{cache} here"
        case bases.OtherCaches():
            caches = " and ".join(of.kv_types)
            return f"by runs of {of.model} {of.quant} with a cache of {caches} here"
        case bases.SameModel():
            return f"by runs of {of.model} in {counted(of.files, 'other')} here; never run itself"
        case bases.SameFamily():
            types = f"{counted(of.files, 'other')} of the {of.family} types"
            return f"by runs of {types} on {_where(of)} here; never run itself"
        case bases.SameBackend():
            return f"by runs of {counted(of.files, 'other')} on {_where(of)} here; never run itself"


def _where(of: bases.SameFamily | bases.SameBackend) -> str:
    return f"{' and '.join(of.gpus)} with {of.backend}" if of.gpus else of.backend


def _loss(of: bases.LossBasis) -> str:
    match of:
        case bases.NativeType():
            return "trained in this type: no loss"
        case bases.Unquantized():
            return "not quantized"
        case bases.PerplexityIncrease():
            types = ", by the types that its rows allow" if of.by_types else ""
            family = f", {of.family} losing x{of.family_factor:g}" if of.family else ""
            return f"about +{of.percent:.1f}% perplexity at this size{types}{family}"
        case bases.CacheLoss():
            return f"a {of.kv_type} cache about +{of.percent:.2g}%"
        case bases.MeasuredDivergence():
            return f"measured here: KL divergence {of.nats:.3g} nats"


def _ability(of: bases.AbilityBasis) -> str:
    match of:
        case bases.PublishedScore():
            return _published(of)
        case bases.Imputed():
            return f"no published score: imputed from its size {f'and {of.sibling}' if of.sibling else 'alone'}"
        case bases.TrainedForCode():
            return f"{_ability(of.of)}; trained for code: x{of.factor}"


def _published(of: bases.PublishedScore) -> str:
    match of.conversion:
        case "none":
            return f"{of.benchmark} {of.score:g} published"
        case "without_thinking":
            return f"{of.benchmark} {of.score:g} published with thinking, taken as {of.mid:.0f} without"
        case "line":
            return f"{of.benchmark} {of.score:g} published, converted"
        case "one_anchor":
            return f"vendor's 6-task mean {of.score:g}, converted from one anchor"

"""What a person should know of a choice, as lines of text with the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgellm.estimate import quality
from edgellm.selection.offload import unused
from edgellm.selection.option import NEARLY_ALL, Option
from edgellm.selection.rules import better_backend
from edgellm.types.request import KV_TYPES
from edgellm.units import show_memory, show_rate, show_size

NOTABLY = 1.05  # a difference in score that is worth a word
FREE_LICENSES = ("apache-2.0", "mit")


def evidence(chosen: Option, low: Sequence[Option]) -> list[str]:
    """Where predictions speak against preferring 4 bits: the best of the files that were dropped for few bits."""
    setting = chosen.setting
    would_do = (
        o
        for o in low
        # No score is higher than what is kept of the ability, which is known without a rate.
        if o.ability.mid * o.kept.mid > chosen.score * NOTABLY
        and o.score > chosen.score * NOTABLY
        and o.fits_at(o.needed_ctx)
        and o.useful_tps >= min(setting.floor_tps, chosen.useful_tps)
    )
    best = max(would_do, key=lambda o: (o.score, o.model, o.quant), default=None)
    if best is None:
        return []
    low_end, high_end = best.ability.low * best.kept.low, best.ability.high * best.kept.high
    return [
        f"Fewer bits: {best.model} {best.quant} would fit, too, and scores {best.score:.1f} by the table against "
        f"{chosen.score:.1f}; its quality may be {low_end:.0f} to {high_end:.0f}, so 4 bits are preferred."
    ]


def _cache(chosen: Option) -> list[str]:
    """Why the cache is not held as exactly as it could be, and what that costs."""
    kind, request = chosen.kv_type, chosen.setting.request
    if kind == "f16" and request.kv_type is None:
        return []
    if request.kv_type is None and kind == chosen.facts.usual_cache:
        return [f"Cache: {kind}: {chosen.backend} holds it in no smaller type."]
    if request.kv_type is not None:
        why = "as asked"
    else:
        higher = replace(chosen, kv_type=KV_TYPES[KV_TYPES.index(kind) - 1])
        needed, have = higher.counted_at(chosen.needed_ctx), chosen.setting.budget_bytes
        what = f"{higher.kv_type} would take {show_memory(needed)} with {chosen.needed_ctx:,} tokens"
        slow = f"{higher.kv_type} would give {show_rate(higher.rate.tok_s)} tok/s"
        why = f"{what}, {show_memory(have)} may be used" if needed > have else f"{slow}, less than the floor"
    cost = quality.cache_retention(kind, chosen.card.params, chosen.card.family)
    lost = (
        ""
        if kind in ("f32", "f16")
        else f"; it keeps {cost.mid:.1%} ({cost.low:.1%} to {cost.high:.1%}) of the ability"
    )
    return [f"Cache: {kind}, {why}{lost}."]


def _backend(chosen: Option, possible: Sequence[Option]) -> list[str]:
    """Why this backend, where another one runs the model, too: the same kind of file, or its best of another."""
    elsewhere = [o for o in possible if o.model == chosen.model and o.backend != chosen.backend]
    others = {o.backend: o for o in sorted(elsewhere, key=lambda o: (o.quant == chosen.quant, o.score, o.rate.tok_s))}
    return [
        f"Backend: {chosen.backend} rather than {o.backend}: {better_backend(chosen, o)}."
        if o.quant == chosen.quant
        else f"Backend: {chosen.backend} rather than {o.backend} with {o.quant}: {_beside(chosen, o)}."
        for _, o in sorted(others.items())
    ]


def _beside(chosen: Option, o: Option) -> str:
    """Two kinds of file of one model, in the numbers that count."""
    return (
        f"{show_rate(chosen.rate.tok_s)} against {show_rate(o.rate.tok_s)} tok/s, "
        f"{show_size(chosen.tensor_bytes)} against {show_size(o.tensor_bytes)}, "
        f"{chosen.kept.mid:.1%} against {o.kept.mid:.1%} of the ability kept"
    )


def about(chosen: Option, ctx: int, possible: Sequence[Option]) -> list[str]:
    """What a person should know of the choice: memory, speed, where it comes from, what its licence restricts."""
    needed = chosen.counted_at(ctx)
    rate = chosen.rate
    placed = chosen.placed_at(ctx)
    request = chosen.setting.request
    gpu = placed.reason or unused(chosen.setting.machine, chosen.backend, chosen.offload, request.gpu_layers)
    most = chosen.setting.threads
    fewer = f"Threads: {chosen.threads} of {most} to decode, as more were measured to gain under {1 - NEARLY_ALL:.0%}."
    lines = [
        *_cache(chosen),
        *_backend(chosen, possible),
        *([gpu] if gpu else []),
        f"Memory: {show_memory(needed)} of {show_memory(chosen.setting.budget_bytes)}{_corrected(chosen)}.",
        *([fewer] if chosen.threads < most else []),
        f"Speed: {show_rate(rate.tok_s)} tok/s ({show_rate(rate.low)} to {show_rate(rate.high)}); {rate.basis}.",
    ]
    if placed.gpu_layers:
        lines.append("That is the speed of the CPU, by which the model was chosen; a GPU's is not predicted yet.")
    if not chosen.weights.exact:
        lines.append("Size: estimated, as the parts of this architecture are not known one by one.")
    if chosen.file.trust == "convention":
        lines.append(
            "Source: the repository carries this file by habit; its name and size are checked before the download."
        )
    if chosen.card.license not in FREE_LICENSES:
        lines.append(f"Licence: {chosen.card.license} restricts use; read it before you build on it.")
    return lines


def _corrected(chosen: Option) -> str:
    factor = chosen.correction.resident
    return "" if factor == 1.0 else f"; x{factor:g}, {chosen.correction.basis}"

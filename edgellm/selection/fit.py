"""What a named model takes on a machine, term by term, whether it fits, and which flag would make it fit.

Pure, as `decide` is: the same options and settings give the same appraisal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgellm.errors import BackendUnavailable, NothingFits
from edgellm.estimate import quality
from edgellm.history.corrections import Corrections
from edgellm.selection.context_length import STEPS
from edgellm.selection.decide import decide
from edgellm.selection.expand import NO_CORRECTIONS, NO_DIVERGENCES, NO_VETOES, expand, export_rule
from edgellm.selection.option import Option
from edgellm.selection.rules import LOW_SHARE, rank_models
from edgellm.selection.scenario import BackendFacts, Setting
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate, Rejection
from edgellm.types.priors import Priors
from edgellm.types.request import KV_TYPES
from edgellm.units import show_memory, show_rate

# Of the ability, that half the context or half the slots are worth: a choice of ours, to rank changes by.
GIVEN_UP_PER_HALF = 0.05
_NOBODY = ""  # name of the backend where none opens the file


@dataclass(frozen=True, slots=True)
class Remedy:
    """Flags that make it fit, and what it counts then."""

    flags: tuple[str, ...]
    counted_bytes: int


@dataclass(frozen=True, slots=True)
class Appraisal:
    """One model in one quantization on one machine."""

    candidate: Candidate  # backend "" = none opens it
    exact_size: bool  # its weights are known to the byte
    ctx_reason: str
    kept: quality.Estimate  # share of the ability left in this quantization and cache
    ability: str  # where the quality comes from
    counted_bytes: int  # against the budget
    budget_bytes: int
    floor_tps: float
    rate_tps: float  # what the floor is compared with
    problems: tuple[str, ...] = ()  # beside memory: no backend, more context than it was trained for
    remedies: tuple[Remedy, ...] = ()
    device_reason: str = ""  # what a GPU takes, and why

    @property
    def fits(self) -> bool:
        return self.counted_bytes <= self.budget_bytes and not self.problems

    @property
    def is_fast_enough(self) -> bool:
        return self.rate_tps >= self.floor_tps


def appraise(
    card: ModelCard,
    catalog: Iterable[ModelCard],
    backends: Sequence[BackendFacts],
    given: Setting,
    *,
    corrections: Corrections = NO_CORRECTIONS,
    vetoes: Mapping[tuple[str, str, str], str] = NO_VETOES,
    divergences: Mapping[tuple[str, str, str], float] = NO_DIVERGENCES,
    adapter_bytes: int = 0,
    others: Sequence[ModelFile] = (),
) -> tuple[list[Appraisal], list[Rejection]]:
    """One appraisal for each file of `card`, in their order, and why the rest have none.

    `catalog` is what an unknown ability is imputed from, `others` are files of the model that could be taken instead.
    A file that no backend opens is appraised all the same, as far as memory and speed go.
    """
    room = replace(given, budget_bytes=given.budget_bytes - adapter_bytes)
    named = replace(card, kind=given.needs.kind)
    known = [replace(other, files=()) for other in catalog if other.scores and other.id != card.id]
    usable = [b for b in backends if not b.problems and given.request.backend in (None, b.name)]
    every = replace(named, files=(*named.files, *others))
    options, rejected = expand([every, *known], usable, room, frozenset(), corrections, vetoes, divergences)
    mine = [r for r in rejected if r.model == card.id]
    refused = {r.quant: r.reason for r in mine if r.rule != "has_known_size"}
    broken = "; ".join(f"{b.name} cannot run here: {', '.join(b.problems)}" for b in backends if b.problems)
    found: list[Appraisal] = []
    for file in named.files:
        same = [o for o in options if o.file is file]
        problem = ""
        if not same:
            problem = refused.get(file.quant, "") or broken or "no backend is installed that opens it"
            nobody = BackendFacts(
                _NOBODY,
                frozenset({file.format}),
                frozenset({file.quant}),
                kv_types=frozenset(KV_TYPES),
                priors=Priors(export=export_rule(backends, file.format)),
            )
            same, _ = expand([replace(named, files=(file,)), *known], [nobody], room, frozenset())
        if same:
            siblings = [o for o in options if o.file is not file]
            run = _as_selected(same, usable, corrections) if not problem else None
            found.append(_appraisal(run or _as_wished(same), siblings, adapter_bytes, problem))
    missing = {file.quant for file in named.files} - {a.candidate.quant for a in found}
    return found, [r for r in mine if r.quant in missing]


@dataclass(frozen=True, slots=True)
class _Run:
    option: Option
    ctx: int
    why: str


def _as_selected(same: Sequence[Option], backends: Sequence[BackendFacts], corrections: Corrections) -> _Run | None:
    """Backend, cache and context as selection takes them for this one file; None where it would not take it."""
    first = same[0]
    setting = first.setting
    # The budget may be less than the machine's own: adapters take their part.
    request = replace(setting.request, max_memory_bytes=setting.budget_bytes)
    row = replace(first.card, files=(first.file,))
    try:
        decision = decide(setting.machine, request, [row], backends, corrections=corrections)
    except (NothingFits, BackendUnavailable):
        return None
    choice = decision.choice
    if choice is None:
        return None
    why = next(reason for reason in decision.reasons if reason.startswith("Context: "))
    option = next(o for o in same if o.backend == choice.backend)
    return _Run(replace(option, kv_type=choice.kv_type), choice.ctx, why)


def _as_wished(same: Sequence[Option]) -> _Run:
    """The file as it would be run if there were room."""
    best = rank_models(same)[0]
    ctx, task = best.needed_ctx, best.setting.request.task
    asked = best.setting.request.ctx is not None
    return _Run(best, ctx, f"Context: {ctx:,} tokens per slot, {'as asked' if asked else f'what {task} needs'}.")


def _appraisal(run: _Run, siblings: Sequence[Option], adapter_bytes: int, problem: str) -> Appraisal:
    chosen, ctx = run.option, run.ctx
    setting, request = chosen.setting, chosen.setting.request
    placed = chosen.placed_at(ctx)
    problems = [problem, placed.problem, chosen.veto]
    if ctx > chosen.card.ctx_train:
        problems.append(f"it was trained for {chosen.card.ctx_train:,} tokens, {ctx:,} are asked for")
    if request.kv_type is not None and chosen.backend:
        problems.append(chosen.facts.refuses_cache(chosen.kv_type, chosen.shape))
    whole = chosen.candidate(ctx)
    memory = replace(whole.footprint, adapter_bytes=adapter_bytes)
    others = [o for o in siblings if o.backend == chosen.backend]
    return Appraisal(
        candidate=replace(whole, footprint=memory),
        exact_size=chosen.weights.exact,
        ctx_reason=run.why,
        kept=chosen.kept,
        ability=chosen.ability.basis,
        counted_bytes=chosen.counted_at(ctx) + adapter_bytes,
        budget_bytes=setting.budget_bytes + adapter_bytes,
        floor_tps=setting.floor_tps,
        rate_tps=chosen.useful_tps,
        problems=tuple(filter(None, problems)),
        remedies=() if chosen.fits_at(ctx) else _remedies(chosen, ctx, others, adapter_bytes),
        device_reason=placed.reason,
    )


def _remedies(option: Option, ctx: int, siblings: Sequence[Option], adapter_bytes: int) -> tuple[Remedy, ...]:
    """Single flags that make it fit, those that cost least first; where none does, several together."""
    single = [*_with_cache(option, ctx), *_with_context(option, ctx), *_with_slots(option, ctx)]
    single += [*_with_quant(siblings, option, ctx), *_with_layers(option, ctx), *_with_budget(option, ctx)]
    found = single or _together(option, ctx, siblings)
    return tuple(replace(r, counted_bytes=r.counted_bytes + adapter_bytes) for r in found)


def _with_cache(option: Option, ctx: int) -> list[Remedy]:
    smaller = KV_TYPES[KV_TYPES.index(option.kv_type) + 1 :]
    tried = [replace(option, kv_type=k) for k in smaller if not option.facts.refuses_cache(k, option.shape)]
    return [Remedy((f"--kv {o.kv_type}",), o.counted_at(ctx)) for o in tried if o.fits_at(ctx)][:1]


def _with_context(option: Option, ctx: int) -> list[Remedy]:
    shorter = next((n for n in STEPS if n < ctx and option.fits_at(n)), None)
    return [] if shorter is None else [Remedy((f"--ctx {shorter}",), option.counted_at(shorter))]


def _with_slots(option: Option, ctx: int) -> list[Remedy]:
    for slots in range(option.setting.request.slots - 1, 0, -1):
        fewer = replace(option, setting=_asking(option.setting, slots=slots))
        if fewer.fits_at(ctx):
            return [Remedy((f"--slots {slots}",), fewer.counted_at(ctx))]
    return []


def _with_quant(siblings: Sequence[Option], option: Option, ctx: int) -> list[Remedy]:
    """The best other quantization that fits as it is asked for; one in 2 or 3 bits is no cure by itself."""
    coherent = [o for o in siblings if o.is_native or o.low_bit_share <= LOW_SHARE]
    tried = [replace(o, kv_type=option.kv_type) for o in coherent]
    fitting = [o for o in tried if o.fits_at(ctx)]
    best = max(fitting, key=lambda o: (o.kept.mid, -o.tensor_bytes), default=None)
    return [] if best is None else [Remedy((f"--quant {best.quant}",), best.counted_at(ctx))]


def _with_layers(option: Option, ctx: int) -> list[Remedy]:
    """As many layers on GPUs as fit there, instead of the number that was asked for."""
    request = replace(option.setting.request, gpu_layers=None)
    fewer = replace(option, setting=replace(option.setting, request=request))
    if option.setting.request.gpu_layers is None or not fewer.fits_at(ctx):
        return []
    return [Remedy(("--gpu-layers auto",), fewer.counted_at(ctx))]


def _with_budget(option: Option, ctx: int) -> list[Remedy]:
    """More than was asked for, where the machine has it."""
    needed = option.counted_at(ctx)
    if option.placed_at(ctx).problem:
        return []
    if option.setting.request.max_memory_bytes is None or needed > option.setting.machine.memory_budget_bytes:
        return []
    return [Remedy((f"--max-memory {needed // 1024**2 + 1}MiB",), needed)]


def _together(option: Option, ctx: int, siblings: Sequence[Option]) -> list[Remedy]:
    """The change of several flags that gives least up, where any makes it fit."""
    kinds = [k for k in KV_TYPES if not option.facts.refuses_cache(k, option.shape)] or [option.kv_type]
    slots = option.setting.request.slots
    best: tuple[float, Remedy] | None = None
    for file, kind, n_slots in itertools.product((option, *siblings), kinds, sorted({slots, 1})):
        tried = replace(file, setting=_asking(option.setting, slots=n_slots), kv_type=kind)
        n = next((n for n in (ctx, *(step for step in STEPS if step < ctx)) if tried.fits_at(n)), None)
        if n is not None:
            left = tried.kept.mid - GIVEN_UP_PER_HALF * (math.log2(ctx / n) + math.log2(slots / n_slots))
            if best is None or left > best[0]:
                best = left, Remedy(_flags(option, tried, ctx, n), tried.counted_at(n))
    return [] if best is None else [best[1]]


def _flags(option: Option, tried: Option, ctx: int, n: int) -> tuple[str, ...]:
    changed = (
        (f"--quant {tried.quant}", tried.quant != option.quant),
        (f"--kv {tried.kv_type}", tried.kv_type != option.kv_type),
        (f"--ctx {n}", n != ctx),
        ("--slots 1", tried.setting.request.slots != option.setting.request.slots),
    )
    return tuple(flag for flag, differs in changed if differs)


def _asking(setting: Setting, *, slots: int) -> Setting:
    return replace(setting, request=replace(setting.request, slots=slots))


def verdict(a: Appraisal) -> str:
    """Whether it fits, in one sentence with the numbers."""
    short = a.counted_bytes - a.budget_bytes
    if short > 0:
        memory = f"it needs {show_memory(a.counted_bytes)}, {show_memory(short)} more than may be used"
        return f"Does not fit: {'; '.join((memory, *a.problems))}."
    if a.problems:
        return f"Cannot be run so: {'; '.join(a.problems)}."
    free = show_memory(-short)
    if not a.is_fast_enough:
        slow = f"{show_rate(a.rate_tps)} tok/s stay below the {show_rate(a.floor_tps)} of its task"
        return f"Fits, {free} stay free; slow: {slow}."
    return f"Fits: {free} stay free."

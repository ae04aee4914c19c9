"""How a model is run, in sentences that begin with their noun: memory, context, cache, backend, GPU, speed."""

from __future__ import annotations

from edgellm.errors import option
from edgellm.explain.bases import basis, when_alone
from edgellm.types import backend_reason, reason
from edgellm.units import counted, show_memory, show_rate, show_size

WHEN_QUIET = "when the machine has nothing else to do"


def budget(of: reason.BudgetReason) -> str:
    """What a model may use, and why: `"5.1 GiB: 6.2 GiB available of 7.8 GiB, less a reserve"`."""
    if isinstance(of, reason.RequestedBudget):
        return f"{show_memory(of.budget_bytes)}: as asked; the machine would allow {show_memory(of.machine_bytes)}"
    available, total = of.available_bytes, show_memory(of.total_bytes)
    room = "planned as if nothing else ran" if available is None else f"{show_memory(available)} available"
    words = f"{show_memory(of.budget_bytes)}: {room} of {total}, less a reserve{' for a desktop' if of.desktop else ''}"
    if of.limit_bytes is not None:
        used = f", {show_memory(of.limit_used_bytes)} of it used" if of.limit_used_bytes else ""
        words += f"; {of.limit_source or 'a limit'} allows {show_memory(of.limit_bytes)}{used}"
    return f"{words}; {of.cap}" if of.cap else words


def more_memory(of: reason.BudgetReason) -> str:
    """What would leave a model more, by what binds."""
    if isinstance(of, reason.RequestedBudget):
        return f"raise {option('max_memory')}"
    available = of.total_bytes if of.available_bytes is None else of.available_bytes
    if of.limit_bytes is not None and of.limit_bytes - (of.limit_used_bytes or 0) <= available:
        if "ulimit -v" in of.limit_source:
            return "`ulimit -v` binds: raise it (`ulimit -v unlimited`; LimitAS= of a service)"
        if "cgroup" in of.limit_source:
            return "the limit of the cgroup binds: raise it (`docker run --memory`; MemoryMax= of a service)"
        return "raise the limit that binds"
    return "take a machine with more memory" if of.available_bytes is None or of.cap else "close other programs"


def gpu(fact: backend_reason.GpuReason) -> str:
    """What GPUs compute, and why, without the noun."""
    match fact:
        case backend_reason.GpuUnused():
            return _gpu_unused(fact)
        case backend_reason.GpuWouldGive():
            return would_give(fact)
        case backend_reason.BuildNeeded():
            return f"a build with {fact.api} is assumed for {fact.devices}; there, `{fact.command}` makes it"
        case backend_reason.GpuLayers():
            return _gpu_layers(fact)


def _gpu_layers(fact: backend_reason.GpuLayers) -> str:
    count = f"{placed_layers(fact.layers, fact.total, fact.experts_away)} on {fact.devices}"
    batch = f"; prompts in batches of {fact.ubatch:,}" if fact.ubatch else ""
    match fact.cause:
        case "unified":
            return f"{count}, which shares the machine's memory"
        case "unified_asked":
            return f"{count}, which shares the machine's memory, as asked"
    usable = f"{show_memory(fact.needed_bytes or 0)} of {show_memory(fact.usable_bytes or 0)} usable"
    if fact.cause == "asked":
        return f"{count}, as asked: {usable}{batch}"
    rest = "" if fact.cause == "all_fit" else "; the rest stays on the processor, as no more fits"
    return f"{count}: {usable}{rest}{batch}"


def placed_layers(n: int, total: int, experts_away: int) -> str:
    """`"all 37 layers, but for the experts of 26,"`."""
    count = layers(n, total)
    return f"{count}, but for the experts of {experts_away}," if experts_away else count


def would_give(fact: backend_reason.GpuWouldGive) -> str:
    """What a machine leaves unused, and how to use it."""
    memory = f" ({show_memory(fact.vram_bytes)})" if fact.vram_bytes else ""
    rate = f"{show_rate(fact.tok_s)} tok/s ({show_rate(fact.low)} to {show_rate(fact.high)})"
    instead = f" instead of {show_rate(fact.instead_tok_s)}" if fact.instead_tok_s is not None else ""
    given = f"with it, {fact.model} {fact.quant} would decode at a predicted {rate}{instead}"
    return f"No build for {fact.devices}{memory} is installed: {given}. {fact.remedy}"


def layers(n: int, total: int) -> str:
    """`"all 33 layers"`, `"12 of 33 layers"`."""
    return f"all {total} layers" if n == total else f"{n} of {total} layers"


def _gpu_unused(fact: backend_reason.GpuUnused) -> str:
    memory = f"{show_memory(fact.vram_bytes)} of " if fact.vram_bytes else ""
    idle = f"{memory}{fact.devices} unused"
    match fact.cause:
        case "asked":
            return f"0 layers, as asked; {idle}"
        case "cpu_backend":
            return f"0 layers: {fact.backend} computes on the CPU; {idle}"
        case "missing":
            remedy = f": {fact.remedy}" if fact.remedy else ""
            return f"0 layers: {fact.missing}; {idle}{remedy}"
        case "slower":
            rates = f"{show_rate(fact.tok_s or 0)} tok/s predicted against {show_rate(fact.cpu_tok_s or 0)}"
            return f"{fact.devices} stays idle: {rates} on the processor, whole requests and uncertainty counted"
        case "unsuited":
            return f"{fact.devices} stays idle: GPUs of its kind are slower than the processor beside them"
        case "unknown":
            asks = f"{option('gpu_layers', 'all')} uses it"
            return f"{fact.devices} stays idle: nothing tells its bandwidth, so no speed is predicted; {asks}"
        case "unpublished":
            asks = f"{option('gpu_layers', 'all')} uses it"
            return f"{fact.devices} stays idle: its speed is not predicted, as {fact.missing}; {asks}"
        case "too_small":
            return f"{fact.devices} stays idle: no part of the model that is worth it fits its memory"
        case "unreachable":
            return f"{fact.devices} stays idle: no program of this user reaches it; `edgellm doctor` says why"


def why_better(why: backend_reason.Faster | backend_reason.OwnKernels) -> str:
    """What speaks for a backend against another one on the same kind of file."""
    if isinstance(why, backend_reason.Faster):
        return f"{show_rate(why.tok_s)} against {show_rate(why.other_tok_s)} tok/s, {why.basis}"
    return "the same speed is predicted, and it has kernels of its own for these types"


def memory(fact: reason.MemoryReason) -> str:
    match fact:
        case reason.MachineBudget() | reason.RequestedBudget():
            return f"Memory budget {budget(fact)}."
        case reason.MemoryNeeded():
            corrected = "" if fact.runs is None else f"; x{fact.factor:g}, {basis(fact.runs)}"
            return f"Memory: {show_memory(fact.needed_bytes)} of {show_memory(fact.budget_bytes)}{corrected}."
        case reason.WeightsRead():
            parts = f"{show_memory(fact.copied_bytes)} of {show_memory(fact.weights_bytes)}"
            return f"Weights: read, not mapped: {parts} are copied into another layout for this processor."
        case reason.AdaptersBeside():
            return f"Adapters: {', '.join(fact.names)}, {show_memory(fact.needed_bytes)} beside the model."


def context(fact: reason.ContextReason) -> str:
    match fact:
        case reason.ContextLength():
            words = f"Context: {fact.ctx:,} tokens per slot"
            return f"{words}, as asked." if fact.bound == "asked" else f"{words}: {_bound(fact)}."
        case reason.SlotCount():
            return f"Slots: {_slots(fact)}."
        case reason.ContextUnknown():
            unknown_kind = "its weights are of no known kind"
            cause = unknown_kind if fact.is_shape_known else "the file does not tell its shape"
            return f"Context: {fact.ctx_default:,} tokens per slot, as {cause}; {option('ctx')} asks for more."
        case reason.ShorterContext():
            return f"Nothing holds the {fact.ctx:,} tokens that {fact.task} needs: a shorter context is planned."
        case reason.CacheType():
            return f"Cache: {_cache(fact)}."


def short_context(fact: reason.ContextLength) -> str:
    """A warning to whoever named the model."""
    asks = "" if fact.bound == "memory" else f"; {option('ctx')} asks for more"
    return f"The context is short, {fact.ctx:,} tokens of the {fact.most:,} that it could have{asks}. {context(fact)}"


def _slots(fact: reason.SlotCount) -> str:
    """How many conversations at once, and why not more."""
    if fact.bound == "reads":
        return "1, as texts that are only read take turns"
    each = (
        f"each decodes at {show_rate(fact.tok_s or 0.0)} tok/s while {'both' if fact.n_slots == 2 else 'all'} are busy"
    )
    quiet = when_alone(fact.alone, fact.alone_threads)
    words = f"{fact.n_slots} conversations at once; {each}{quiet}" if fact.n_slots > 1 else "1 conversation at a time"
    match fact.bound:
        case "memory":
            return f"{words}; the memory budget holds no further one of {fact.ctx:,} tokens"
        case "gpu":
            return f"{words}; a further one of {fact.ctx:,} tokens would push layers off the GPU"
        case "speed":
            slower = f"{show_rate(fact.next_tok_s or 0.0)} tok/s, less than {show_rate(fact.floor_tps or 0.0)}"
            return f"{words}; with one more each would decode at {slower}{'' if fact.n_slots > 1 else quiet}"
        case _:
            return f"{words}; {option('slots')} asks for more"


def _bound(fact: reason.ContextLength) -> str:
    """What keeps the context from being longer."""
    rate = None if fact.tok_s is None else f"{show_rate(fact.tok_s)} tok/s{when_alone(fact.alone, fact.alone_threads)}"
    half = f"half full it decodes at {rate}" if rate is not None else ""
    match fact.bound:
        case "gpu":
            words = "the longest that leaves the model where it is on the GPU"
        case "encoder":
            return "the longest text that it reads at once"
        case "encoder_memory":
            return "the longest text that it reads at once within the memory budget"
        case "speed":
            return f"{half}; a longer one would fall below {show_rate(fact.floor_tps or 0.0)}"
        case "task":
            words = f"the least that is useful for {fact.task}"
        case "memory":
            amount = f" of {budget(fact.budget)}" if fact.budget is not None else ""
            words = f"the longest that the memory budget{amount} allows"
        case "trained":
            words = "all that the model was trained for"
        case "unknown":
            words = f"nothing tells what the model was trained for; {option('ctx')} asks for more"
        case _:
            asks = f"; {option('ctx')} asks for more, it was trained for {fact.ctx_train:,}" if fact.ctx_train else ""
            return f"unasked, no more is reserved for {fact.task}{asks}"
    return f"{words}; {half}" if half else words


def _cache(fact: reason.CacheType) -> str:
    kept = ""
    if fact.kept is not None:
        mid, low, high = fact.kept
        kept = f"; it keeps {mid:.1%} ({low:.1%} to {high:.1%}) of the ability"
    match fact.cause:
        case "asked":
            return f"{fact.kv_type}, as asked{kept}"
        case "only_type":
            return f"{fact.kv_type}: {fact.backend} holds it in no smaller type"
        case "memory":
            needed, have = show_memory(fact.higher_bytes or 0), show_memory(fact.budget_bytes or 0)
            would = f"{fact.higher} would take {needed} with {fact.ctx:,} tokens"
            return f"{fact.kv_type}, {would}, {have} may be used{kept}"
        case "speed":
            rate = show_rate(fact.higher_tps or 0.0)
            return f"{fact.kv_type}, {fact.higher} would give {rate} tok/s, less than the floor{kept}"


def backend(fact: backend_reason.BackendReason) -> str:
    match fact:
        case backend_reason.BackendPreferred():
            other = f"{fact.other} with {fact.other_quant}" if fact.other_quant else fact.other
            return f"Backend: {fact.backend} rather than {other}: {_preferred(fact.why)}."
        case backend_reason.BackendOpens():
            return f"Backend: {fact.backend} opens {fact.format} files."
        case backend_reason.BackendCannotRun():
            return f"Backend {fact.backend} cannot run here: {'; '.join(fact.problems)}."
        case backend_reason.BackendUnproven():
            return f"Backend {fact.backend} is unproven: {fact.why}."
        case backend_reason.RatesSetAside():
            measured = f"what `edgellm calibrate` measured of {fact.backend}{f' on {fact.date}' if fact.date else ''}"
            return f"Rates: predicted; {measured} does not count: {measured_beside(fact)}. Run it again {WHEN_QUIET}."
        case backend_reason.OptionsAsked():
            return f"Options, as asked: {', '.join(f'{name}={value}' for name, value in fact.options)}."
        case backend_reason.ScratchAsked():
            sizes = f"{show_memory(fact.reserved_bytes)} on GPUs, as {fact.backend}'s library says before it loads"
            return f"Scratch: {sizes}; {show_memory(fact.predicted_bytes)} predicted."
        case backend_reason.ScratchNotTold():
            return f"Scratch: as predicted, as {fact.backend}'s library was not asked: {fact.why}."


def measured_beside(fact: backend_reason.RatesSetAside) -> str:
    """What a calibration had beside it: `"other programs took 63% of the processors' time"`, and what came of it."""
    clauses = [f"other programs took {fact.taken:.0%} of the processors' time"] if fact.taken is not None else []
    clauses += [f"measuring waited for them {fact.waited:.0%} of its own"] if fact.waited is not None else []
    if fact.of_one is not None:
        clauses += [f"{counted(fact.threads, 'thread')} reached {fact.of_one:.0%} of what one does"]
    return f"{', '.join(clauses[:-1])} and {clauses[-1]}" if len(clauses) > 1 else "".join(clauses)


def _preferred(why: backend_reason.Faster | backend_reason.OwnKernels | backend_reason.FilesCompared) -> str:
    if not isinstance(why, backend_reason.FilesCompared):
        return why_better(why)
    return (
        f"{show_rate(why.tok_s)} against {show_rate(why.other_tok_s)} tok/s, "
        f"{show_size(why.tensor_bytes)} against {show_size(why.other_tensor_bytes)}, "
        f"{why.kept:.1%} against {why.other_kept:.1%} of the ability kept"
    )


def busy(fact: reason.ProcessorsBusy) -> str:
    """What other programs may make of the speed."""
    processors, load = counted(fact.processors, "processor"), f"(a load of {fact.load:.1f})"
    if (most := fact.instead_of) is not None:
        return (
            f"Busy: other programs have kept the {processors} busy for five minutes {load}, so one thread computes, as "
            f"several would wait for each other; it may be as slow as {show_rate(fact.least_tok_s)} tok/s until they "
            f"are done; {option('threads', most)} asks for {'both' if most == 2 else 'all'}."
        )
    who = f"other programs keep the {processors} busy {load}"
    cure = f"; {option('threads', 1)} is often many times faster then" if fact.threads > 1 else ""
    return f"Busy: {who}; it may be as slow as {show_rate(fact.least_tok_s)} tok/s until they are done{cure}."


def all_busy(load: float, processors: int) -> str:
    """What other programs may make of the speeds in a table."""
    who = f"other programs keep the {counted(processors, 'processor')} busy (a load of {load:.1f})"
    return f"Busy: tok/s are those when nothing else runs; now {who}, and a model may be far slower."


def speed(fact: reason.SpeedReason) -> str:
    match fact:
        case reason.Speed():
            span = f"{show_rate(fact.low)} to {show_rate(fact.high)}"
            return f"Speed: {show_rate(fact.tok_s)} tok/s ({span}); {basis(fact.basis)}."
        case reason.ProcessorsBusy():
            return busy(fact)
        case reason.Threads():
            wait = f"; more than the {fact.processors} processors here, so they wait for each other"
            return f"Threads: {fact.threads}{', as asked' if fact.asked else ''}{wait if fact.processors else ''}."
        case reason.Thinks():
            why = "always" if fact.always else "as asked"
            return f"Thinking: {why}, before it answers; about {fact.tokens:g} tokens for each token of the answer."
        case reason.FewerThreads():
            more = f"more were measured to gain under {fact.gain:.0%}"
            return f"Threads: {fact.threads} of {fact.most} to decode, as {more}."
        case reason.GpuSpeedUnknown():
            return "That is the speed of the processor, by which the model was chosen; this GPU's is not predicted."
        case reason.Slow():
            rate = f"at a predicted {show_rate(fact.tok_s)}"
            return f"Slow: nothing reaches {show_rate(fact.floor_tps)} tok/s here; the fastest is taken, {rate}."
        case reason.FloorWhenAlone():
            now = f"now, with {counted(fact.beside_threads, 'thread')}, it is {show_rate(fact.tok_s)}"
            alone = f"with {counted(fact.threads, 'thread')} when nothing else runs"
            return f"Not kept now: {show_rate(fact.floor_tps)} tok/s is reached {alone}; {now}."


def placement(fact: reason.PlacementReason) -> str:
    match fact:
        case reason.Prompts():
            span = f"{show_rate(fact.low)} to {show_rate(fact.high)}"
            return f"Prompts: {show_rate(fact.tok_s)} tok/s ({span}); {basis(fact.basis)}."
        case reason.OtherPlacements():
            return f"Other placements: {'; '.join(_row(row, fact) for row in fact.rows)}."


def _row(row: reason.PlacementRow, fact: reason.OtherPlacements) -> str:
    where = f"{placed_layers(row.layers, row.total, row.experts_away)} on {row.devices}" if row.devices else "no GPU"
    if row.tok_s is None:
        where = f"{where}, not predicted"
    else:
        where = f"{where}, {show_rate(row.tok_s)} tok/s, prompts at {show_rate(row.prompt_tok_s or 0)}"
    return f"{where}{_lost(row, fact)}"


def _lost(row: reason.PlacementRow, fact: reason.OtherPlacements) -> str:
    """Why it is not planned; nothing where that is said already."""
    match row.lost:
        case "memory":
            return f" (needs {show_memory(row.needed_bytes)} of RAM, {show_memory(fact.budget_bytes)} usable)"
        case "answers":
            return f" (the choice of the model counts on {show_rate(fact.least_tok_s)} tok/s)"
        case "request":
            assert row.request_s is not None, "its speed is predicted"
            return f" (a usual request takes {show_rate(row.request_s)} s instead of {show_rate(fact.request_s)})"
        case "asked" | "unsuited" | "unknown":
            return ""

"""How a model is run, in sentences that begin with their noun: memory, context, cache, backend, GPU, speed."""

from __future__ import annotations

from edgellm.explain.bases import basis
from edgellm.types.backend_reason import (
    BackendCannotRun,
    BackendOpens,
    BackendPreferred,
    BackendReason,
    Faster,
    FilesCompared,
    GpuReason,
    GpuUnused,
    OptionsAsked,
    OwnKernels,
)
from edgellm.types.reason import (
    Budget,
    CacheType,
    ContextLength,
    ContextReason,
    ContextUnknown,
    FewerThreads,
    GpuSpeedUnknown,
    MachineBudget,
    MemoryNeeded,
    MemoryReason,
    RequestedBudget,
    ShorterContext,
    Slow,
    Speed,
    SpeedReason,
    Threads,
    WeightsRead,
)
from edgellm.units import show_memory, show_rate, show_size


def budget(of: Budget) -> str:
    """What a model may use, and why: `"5.1 GiB: 6.2 GiB available of 7.8 GiB, less a reserve"`."""
    if isinstance(of, RequestedBudget):
        return f"{show_memory(of.budget_bytes)}: as asked; the machine would allow {show_memory(of.machine_bytes)}"
    available, total = of.available_bytes, show_memory(of.total_bytes)
    room = "planned as if nothing else ran" if available is None else f"{show_memory(available)} available"
    words = f"{show_memory(of.budget_bytes)}: {room} of {total}, less a reserve"
    if of.limit_bytes is not None:
        used = f", {show_memory(of.limit_used_bytes)} of it used" if of.limit_used_bytes else ""
        words += f"; {of.limit_source or 'a limit'} allows {show_memory(of.limit_bytes)}{used}"
    return f"{words}; {of.cap}" if of.cap else words


def gpu(reason: GpuReason) -> str:
    """What GPUs compute, and why, without the noun."""
    if isinstance(reason, GpuUnused):
        return _gpu_unused(reason)
    count = layers(reason.layers, reason.total)
    match reason.cause:
        case "asked":
            return f"{count} on {reason.devices}, as asked"
        case "unified":
            return f"{count} on {reason.devices}, which shares the machine's memory"
        case "unified_asked":
            return f"{count} on {reason.devices}, which shares the machine's memory, as asked"
    needed, usable = show_memory(reason.needed_bytes or 0), f"{show_memory(reason.usable_bytes or 0)} usable"
    if reason.cause == "all_fit":
        return f"{count} on {reason.devices}: {needed} of {usable}"
    return f"{count} on {reason.devices}, {usable}; all would need {needed}"


def layers(n: int, total: int) -> str:
    """`"all 33 layers"`, `"12 of 33 layers"`."""
    return f"all {total} layers" if n == total else f"{n} of {total} layers"


def _gpu_unused(reason: GpuUnused) -> str:
    memory = f"{show_memory(reason.vram_bytes)} of " if reason.vram_bytes else ""
    idle = f"{memory}{reason.devices} unused"
    match reason.cause:
        case "asked":
            return f"0 layers, as asked; {idle}"
        case "cpu_backend":
            return f"0 layers: {reason.backend} computes on the CPU; {idle}"
        case "missing":
            remedy = f": {reason.remedy}" if reason.remedy else ""
            return f"0 layers: {reason.missing}; {idle}{remedy}"


def why_better(why: Faster | OwnKernels) -> str:
    """What speaks for a backend against another one on the same kind of file."""
    if isinstance(why, Faster):
        return f"{show_rate(why.tok_s)} against {show_rate(why.other_tok_s)} tok/s, {why.basis}"
    return "the same speed is predicted, and it has kernels of its own for these types"


def memory(reason: MemoryReason) -> str:
    match reason:
        case MachineBudget() | RequestedBudget():
            return f"Memory budget {budget(reason)}."
        case MemoryNeeded():
            corrected = "" if reason.runs is None else f"; x{reason.factor:g}, {basis(reason.runs)}"
            return f"Memory: {show_memory(reason.needed_bytes)} of {show_memory(reason.budget_bytes)}{corrected}."
        case WeightsRead():
            parts = f"{show_memory(reason.copied_bytes)} of {show_memory(reason.weights_bytes)}"
            return f"Weights: read, not mapped: {parts} are copied into another layout for this processor."


def context(reason: ContextReason) -> str:
    match reason:
        case ContextLength():
            words = f"Context: {reason.ctx:,} tokens per slot"
            if reason.bound == "asked":
                return f"{words}, as asked."
            return f"{words}, what {reason.task} needs." if reason.bound == "task" else f"{words}: {_bound(reason)}."
        case ContextUnknown():
            return f"Context: the file does not tell its shape; taken as asked or {reason.ctx_default:,}."
        case ShorterContext():
            return f"Nothing holds the {reason.ctx:,} tokens that {reason.task} needs: a shorter context is planned."
        case CacheType():
            return f"Cache: {_cache(reason)}."


def _bound(reason: ContextLength) -> str:
    """What keeps the context from being longer."""
    half = f"half full it decodes at {show_rate(reason.tok_s)} tok/s" if reason.tok_s is not None else ""
    match reason.bound:
        case "encoder":
            return "the longest text that it reads at once"
        case "encoder_memory":
            return "the longest text that it reads at once within the memory budget"
        case "speed":
            return f"{half}; a longer one would fall below {show_rate(reason.floor_tps or 0.0)}"
        case "memory":
            amount = f" of {budget(reason.budget)}" if reason.budget is not None else ""
            words = f"the longest that the memory budget{amount} allows"
        case "trained":
            words = "all that the model was trained for"
        case _:
            asks = f"; --ctx asks for more, it was trained for {reason.ctx_train:,}" if reason.ctx_train else ""
            return f"unasked, no more is reserved for {reason.task}{asks}"
    return f"{words}; {half}" if half else words


def _cache(reason: CacheType) -> str:
    kept = ""
    if reason.kept is not None:
        mid, low, high = reason.kept
        kept = f"; it keeps {mid:.1%} ({low:.1%} to {high:.1%}) of the ability"
    match reason.cause:
        case "asked":
            return f"{reason.kv_type}, as asked{kept}"
        case "only_type":
            return f"{reason.kv_type}: {reason.backend} holds it in no smaller type"
        case "context":
            fewer = f"fewer than {reason.ctx:,} tokens fit the memory budget"
            return f"{reason.kv_type}, as with {reason.higher} {fewer}"
        case "memory":
            needed, have = show_memory(reason.higher_bytes or 0), show_memory(reason.budget_bytes or 0)
            would = f"{reason.higher} would take {needed} with {reason.ctx:,} tokens"
            return f"{reason.kv_type}, {would}, {have} may be used{kept}"
        case "speed":
            rate = show_rate(reason.higher_tps or 0.0)
            return f"{reason.kv_type}, {reason.higher} would give {rate} tok/s, less than the floor{kept}"


def backend(reason: BackendReason) -> str:
    match reason:
        case BackendPreferred():
            other = f"{reason.other} with {reason.other_quant}" if reason.other_quant else reason.other
            return f"Backend: {reason.backend} rather than {other}: {_preferred(reason.why)}."
        case BackendOpens():
            return f"Backend: {reason.backend} opens {reason.format} files."
        case BackendCannotRun():
            return f"Backend {reason.backend} cannot run here: {'; '.join(reason.problems)}."
        case OptionsAsked():
            return f"Options, as asked: {', '.join(f'{name}={value}' for name, value in reason.options)}."


def _preferred(why: Faster | OwnKernels | FilesCompared) -> str:
    if not isinstance(why, FilesCompared):
        return why_better(why)
    return (
        f"{show_rate(why.tok_s)} against {show_rate(why.other_tok_s)} tok/s, "
        f"{show_size(why.tensor_bytes)} against {show_size(why.other_tensor_bytes)}, "
        f"{why.kept:.1%} against {why.other_kept:.1%} of the ability kept"
    )


def speed(reason: SpeedReason) -> str:
    match reason:
        case Speed():
            span = f"{show_rate(reason.low)} to {show_rate(reason.high)}"
            return f"Speed: {show_rate(reason.tok_s)} tok/s ({span}); {basis(reason.basis)}."
        case Threads():
            return f"Threads: {reason.threads}{', as asked' if reason.asked else ''}."
        case FewerThreads():
            more = f"more were measured to gain under {reason.gain:.0%}"
            return f"Threads: {reason.threads} of {reason.most} to decode, as {more}."
        case GpuSpeedUnknown():
            return "That is the speed of the CPU, by which the model was chosen; a GPU's is not predicted yet."
        case Slow():
            rate = f"at a predicted {show_rate(reason.tok_s)}"
            return f"Slow: nothing reaches {show_rate(reason.floor_tps)} tok/s here; the fastest is taken, {rate}."

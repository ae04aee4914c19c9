"""What a prediction says and what became of it: whether a model fits, and what was measured to be otherwise."""

from __future__ import annotations

from edgellm.errors import option
from edgellm.explain.refusals import problem
from edgellm.types.drift import Drift
from edgellm.types.verdict import CannotRun, DoesNotFit, Fits, FitsSlowly, Verdict
from edgellm.units import show_memory, show_rate


def verdict(of: Verdict) -> str:
    """Whether it fits, in one sentence with the numbers."""
    match of:
        case DoesNotFit():
            memory = f"it needs {show_memory(of.needed_bytes)}, {show_memory(of.missing_bytes)} more than may be used"
            return f"Does not fit: {'; '.join((memory, *map(problem, of.problems)))}."
        case CannotRun():
            return f"Cannot be run so: {'; '.join(map(problem, of.problems))}."
        case FitsSlowly():
            slow = f"{show_rate(of.tok_s)} tok/s stay below the {show_rate(of.floor_tps)} of its task"
            return f"Fits, {show_memory(of.free_bytes)} stay free; slow: {slow}."
        case Fits():
            return f"Fits: {show_memory(of.free_bytes)} stay free."


def drift(of: Drift) -> str:
    """`"decode of m Q4_K_M: 8.1 tok/s, 12.4 tok/s were predicted (35% less)"`."""
    measured, predicted = (
        show_memory(number) if of.quantity == "memory" else f"{show_rate(number)} tok/s"
        for number in (of.measured, of.predicted)
    )
    change = f"{abs(of.measured / of.predicted - 1):.0%} {'more' if of.measured > of.predicted else 'less'}"
    return f"{of.quantity} of {of.model} {of.quant}: {measured}, {predicted} were predicted ({change})"


def drift_remedy(of: Drift) -> str:
    """What to do about it."""
    more = of.measured > of.predicted
    if of.quantity == "memory":
        remedy = (
            f"ask for less with {option('ctx')} or {option('slots')} where memory is short"
            if more
            else "a longer context may fit"
        )
        return f"{remedy}; the next plan is made with what was measured"
    calibrate = "`edgellm calibrate` measures the kernels, and the next plan corrects itself"
    if more:
        return f"the plan may be too modest: {calibrate}"
    if of.waited is not None:
        return f"other programs had the processors for {of.waited:.0%} of the time: stop them, or plan for less"
    if of.gpu_busy is not None:
        return f"other programs computed on the GPU for {of.gpu_busy:.0%} of the time: stop them, or plan for less"
    return f"is there a power-saving mode, or is the machine too hot? Otherwise {calibrate}"

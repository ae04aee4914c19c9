"""Where other programs keep this machine's processors busy: what is said of speeds, and how many threads compute.

No model is chosen by it: they may be done at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from msgspec import structs

from edgellm.selection.context import SelectionContext
from edgellm.selection.scenario import Scenario
from edgellm.types.basis import Corrected, PredictedOnGpu, PredictedSplit, PredictedStream, RateBasis
from edgellm.types.criterion import SurelyKeepsFloor
from edgellm.types.model_reason import ChosenQuant
from edgellm.types.plan import Candidate, Decision, Rate
from edgellm.types.reason import ContextLength, ProcessorsBusy, Reason, SlotCount, Speed
from edgellm.types.request import ALL_LAYERS, SelectionRequest

R = TypeVar("R", bound=Reason)

# Threads wait for each other at every operation, and one that is not given a processor holds up all. Of SmolLM2-135M's
# predicted 276 tok/s (low end 207) two threads reached 1.04 at a load of 11 on 2 processors (EPYC, 2026-11-27), and one
# thread 23 of 201; in llama.cpp's own programs steps with two threads took 20 to 200 times as long (docs/limits.md).
LEAST_SHARE = 1 / 200


def scenario_of(context: SelectionContext, request: SelectionRequest) -> Scenario:
    """The circumstances of a request, with the threads that are left by other programs.

    Raises:
        UsageError: more threads are asked for than the machine has processors.
    """
    scenario = Scenario.of(context.machine, request, context.gpus)
    return replace(scenario, threads_beside=_threads_beside(scenario, context))


def _threads_beside(scenario: Scenario, context: SelectionContext) -> int | None:
    """Threads to compute with beside other programs, if not as many as otherwise; None = as many.

    One, where they have been there for five minutes, as it never waits for another. llama.cpp on 2 processors (EPYC,
    SmolLM2-135M in Q4_1, 2026-11-27), tok/s of one thread and of two: alone 79 and 122; beside two busy loops of other
    sessions 52 and 8, of its own session 52 and 13; beside four 31 and 2. Prompts were 1.5 to 2.9 times as fast.
    """
    if context.load is None or not context.load_lasts or scenario.request.threads is not None:
        return None
    return 1 if scenario.threads > 1 else None


def under_load(decision: Decision, context: SelectionContext, scenario: Scenario) -> Decision:
    """The same decision; the low ends of its rates are what they may fall to."""
    choice = decision.choice
    if context.load is None or choice is None or (slow := slowed(choice, context.load, scenario)) is None:
        return decision
    beside, told = slow
    reasons: list[Reason] = []
    for reason in decision.reasons:
        if isinstance(reason, Speed):
            reasons += [structs.replace(reason, low=told.least_tok_s), told]
        else:
            reasons.append(as_if_alone(reason, told.instead_of))
    return replace(decision, choice=beside, reasons=tuple(reasons))


def as_if_alone(reason: R, threads: int | None = None) -> R:
    """The reason, which speaks of rates as they are without the other programs, with `threads`, and says so."""
    if isinstance(reason, SlotCount | ContextLength):
        return structs.replace(reason, alone=True, alone_threads=threads)
    if isinstance(reason, ChosenQuant) and isinstance(reason.why, SurelyKeepsFloor):
        return structs.replace(reason, why=structs.replace(reason.why, alone=True, alone_threads=threads))
    return reason


def slowed(choice: Candidate, load: float, scenario: Scenario) -> tuple[Candidate, ProcessorsBusy] | None:
    """The choice with rates whose low ends are what they may fall to, and what is said of the one that counts; None
    where GPUs compute everything, which do not wait for processors."""
    if choice.gpu_layers == ALL_LAYERS and not choice.experts_away:
        return None
    processors = scenario.machine.cpu.threads

    def beside(rate: Rate, threads: int) -> Rate:
        return structs.replace(rate, low=rate.low * _left(least_share(load, processors, threads), cpu_share(rate)))

    decode, prefill = beside(choice.decode, choice.threads), beside(choice.prefill, choice.threads_batch)
    counts, before = (prefill, choice.prefill) if scenario.request.task == "embed" else (decode, choice.decode)
    instead_of = scenario.threads if scenario.threads_beside is not None else None
    told = ProcessorsBusy(load, processors, choice.threads, counts.low, instead_of, cpu_share(before))
    return replace(choice, decode=decode, prefill=prefill), told


def cpu_share(rate: Rate) -> float:
    """Of the time at the low end, what the processor computes: only that waits for other programs."""
    basis: RateBasis = rate.basis
    factor = 1.0
    if isinstance(basis, Corrected):
        factor, basis = basis.factor, basis.of
    if isinstance(basis, PredictedOnGpu | PredictedStream):  # a copy to a GPU takes no threads that wait for each other
        return 0.0
    if not isinstance(basis, PredictedSplit):
        return 1.0
    return min(1.0, basis.cpu_ms / 1000 / factor * rate.low)


def _left(share: float, cpu: float) -> float:
    """Of a rate, where the processor has `share` of its speed and takes `cpu` of the time."""
    return 1 / (1 - cpu + cpu / share)


def least_share(load: float, processors: int, threads: int) -> float:
    """Of the low end on a quiet machine, what is left at worst.

    A single thread has its turn among the others; half of that, as its caches and the memory bus are theirs, too.
    """
    return LEAST_SHARE if threads > 1 else min(1.0, processors / (load + 1)) / 2


def with_threads(reasons: Sequence[Reason], threads: int) -> tuple[Reason, ...]:
    """The reasons where the user asks for so many threads."""
    busy = next((reason for reason in reasons if isinstance(reason, ProcessorsBusy)), None)
    if busy is None:
        return tuple(reasons)
    before, after = (_left(least_share(busy.load, busy.processors, n), busy.cpu_share) for n in (busy.threads, threads))
    told: list[Reason] = []
    for reason in reasons:
        if isinstance(reason, ProcessorsBusy):
            told.append(
                structs.replace(
                    reason, threads=threads, least_tok_s=reason.least_tok_s * after / before, instead_of=None
                )
            )
        elif isinstance(reason, Speed):
            told.append(structs.replace(reason, low=reason.low * after / before))
        else:
            told.append(reason)
    return tuple(told)

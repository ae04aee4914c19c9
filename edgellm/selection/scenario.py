"""One request on one machine: what its task expects, and the memory budget.

Everything here is plain data, so that a decision depends on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from edgellm.errors import UsageError
from edgellm.types.gpu import Gpu
from edgellm.types.machine import Machine
from edgellm.types.reason import BudgetReason, MachineBudget, RequestedBudget
from edgellm.types.request import SelectionRequest, Task
from edgellm.units import counted


@dataclass(frozen=True, slots=True)
class TaskNeeds:
    """What makes an answer usable for a task, where the user does not say."""

    floor_tps: float  # slower is not usable
    comfort_tps: float  # faster is worth little more
    min_ctx: int  # tokens a conversation of the kind needs
    max_ctx: int  # longer is not planned for unasked: the cache is resident from the start
    kind: str = "chat"  # of the models that are for it


# Floors: 5 tok/s is silent reading (about 225 words a minute); code is skimmed while it appears; an agent's step waits
# for the whole answer, several times in a row. Reasons for 5 and 15: docs/explain/quality.md.
TASK_NEEDS: dict[Task, TaskNeeds] = {
    "chat": TaskNeeds(5.0, 15.0, 4096, 32768),
    "code": TaskNeeds(8.0, 25.0, 16384, 32768),
    "agent": TaskNeeds(15.0, 40.0, 16384, 32768),
    # Rates of reading, as nothing is written. Ours: a page of 500 tokens in five seconds, and two pages in one.
    "embed": TaskNeeds(100.0, 1000.0, 512, 8192, "embedding"),
}

# Tokens that a model spends thinking for each token of answer: 5 to 20, an estimate (docs/explain/quality.md).
THINKING_TOKENS = 8.0
SHORTEST_CTX = 512  # less holds no conversation
CTX_UNKNOWN = 4096  # planned unasked where nothing tells what a model was trained for


@dataclass(frozen=True, slots=True)
class Scenario:
    """One decision's fixed circumstances: a request on a machine."""

    machine: Machine
    request: SelectionRequest
    budget_bytes: int
    budget: BudgetReason  # and where it comes from
    threads: int
    threads_beside: int | None = None  # to run with beside other programs, if not with `threads`
    gpus: tuple[Gpu | None, ...] = ()  # of machine.accelerators, what is known of each

    @property
    def needs(self) -> TaskNeeds:
        return TASK_NEEDS[self.request.task]

    @property
    def slots(self) -> int:
        """Conversations at the same time; one until their number is chosen."""
        return self.request.slots or 1

    @property
    def floor_tps(self) -> float:
        return self.request.min_tps if self.request.min_tps is not None else self.needs.floor_tps

    def needed_ctx(self, ctx_train: int) -> int:
        """Tokens per slot that a model trained on `ctx_train` (0 = not known) must hold to count as usable."""
        usual = min(self.needs.min_ctx, ctx_train or CTX_UNKNOWN)
        return self.request.ctx if self.request.ctx is not None else usual

    @classmethod
    def of(cls, machine: Machine, request: SelectionRequest, gpus: tuple[Gpu | None, ...] = ()) -> Scenario:
        """The circumstances of a request on a machine, with the memory budget and where it comes from.

        Raises:
            UsageError: more threads are asked for than the machine has processors.
        """
        own = machine.memory_budget_bytes
        memory, limits = machine.memory, machine.limits
        budget: BudgetReason
        if request.max_memory_bytes is not None and request.max_memory_bytes < own:
            budget = RequestedBudget(request.max_memory_bytes, own)
        else:
            cap = machine.memory_cap
            rule = cap[1] if cap is not None and own == cap[0] else ""
            budget = MachineBudget(
                own, memory.total_bytes, memory.available_bytes, cap=rule, desktop=machine.has_session
            )
            if limits.memory_bytes is not None and limits.memory_bytes < memory.total_bytes:
                budget = replace(
                    budget,
                    limit_bytes=limits.memory_bytes,
                    limit_used_bytes=limits.memory_used_bytes,
                    limit_source=limits.source,
                )
        room = budget.budget_bytes - request.adapter_bytes
        return cls(machine, request, room, budget, threads_of(machine, request), gpus=gpus)


def threads_of(machine: Machine, request: SelectionRequest) -> int:
    """Threads to compute with, as asked or as they fit the machine.

    Raises:
        UsageError: more are asked for than it has processors; they would wait for each other at every step.
    """
    if request.threads is None:
        return machine.compute_threads
    most = max(machine.cpu.threads, machine.cpu.cores)
    if request.threads > most:
        what = f"threads={request.threads}, and {machine.name} has {counted(most, 'processor')}"
        raise UsageError(what, hint=f"allowed: 1 to {most}", param="threads")
    return request.threads

"""Which boxes have room for a model: by the memory that selection predicts there, beside the models that they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from edgellm.errors import EdgeLLMError, NothingFits
from edgellm.units import show_memory
from edgellm_ray import node
from edgellm_ray.config import ModelConfig
from edgellm_ray.ledger import Entry, Ledger

if TYPE_CHECKING:
    from edgellm.app.download import PlannedDownload
    from edgellm.selection.context import SelectionContext
    from edgellm.types.options import LaunchOptions
    from edgellm.types.plan import Decision, Footprint, LaunchPlan


@dataclass(frozen=True, slots=True)
class Planned:
    """What a replica loads. `preview`: what `edgellm auto-select --json` prints, where the model was chosen."""

    plan: LaunchPlan
    decision: Decision | None
    preview: str | None
    memory_bytes: int  # predicted; 0 = nothing is


class Room(Struct, frozen=True, kw_only=True):
    """What a box has for a model."""

    node: str
    node_id: str
    budget_bytes: int  # that models may take, all together
    others: tuple[Entry, ...]
    needed_bytes: int = 0  # predicted, where it fits
    problem: str = ""  # why it does not run there
    is_full: bool = False  # as it needs more memory than is left

    @property
    def free_bytes(self) -> int:
        return max(0, self.budget_bytes - sum(entry.n_bytes for entry in self.others))

    def text(self) -> str:
        """For people."""
        others = ", ".join(f"{show_memory(entry.n_bytes)} {entry.name}" for entry in self.others if entry.n_bytes)
        told = (
            f"{show_memory(self.free_bytes)} of {show_memory(self.budget_bytes)} are free beside {others or 'nothing'}"
        )
        return f"{self.node}: {told}: {self.problem}"


class NoRoom(NothingFits):
    """No box can take the model beside what it has. `rooms`: what each has."""

    def __init__(self, message: str, *, hint: str, rooms: tuple[Room, ...]) -> None:
        super().__init__(message, hint=hint)
        self.rooms = rooms


class _NotFetched(Exception):
    """What would be fetched is known, and that is enough."""

    def __init__(self, footprint: Footprint) -> None:
        self.footprint = footprint


def planned(config: ModelConfig) -> Planned:
    """The plan of the replica of this process for what the others on its box leave, which counts from now on.

    Raises:
        EdgeLLMError: as `launch.plan`.
    """
    import msgspec
    import ray

    from edgellm.app import launch
    from edgellm.app.context import request_for
    from edgellm.selection import decision_json
    from edgellm.selection.decide import decide

    ledger = Ledger(ray.get_runtime_context().get_node_id())
    with ledger.turn():
        context, preview = node.context(), None
        options = _beside(ledger.others(config.name), config, context)
        if config.model is None:
            decision = decide(context, request_for(context, options))
            preview = msgspec.json.encode(decision_json.to_dict(decision)).decode()
        plan, chosen = launch.plan(config.model, options, context=context)
        n_bytes = _counted(plan.footprint, context)
        ledger.put(config.name, n_bytes)
    return Planned(plan, chosen, preview, n_bytes)


def room(fields: dict[str, Any], node_id: str) -> Room:
    """What the box of this process has for a model, of which nothing is fetched. `fields`: an encoded `ModelConfig`."""
    from edgellm.app import launch

    config, context = ModelConfig.decoded(fields), node.context()
    others = Ledger(node_id).others(config.name)
    told = Room(node=node.name(), node_id=node_id, budget_bytes=node.budget_bytes(context), others=others)
    try:
        plan, _ = launch.plan(config.model, _beside(others, config, context), context=context, approve=_not_fetched)
        footprint = plan.footprint
    except _NotFetched as known:
        footprint = known.footprint
    except EdgeLLMError as error:
        return replace(told, problem=error.message, is_full=isinstance(error, NothingFits))
    return replace(told, needed_bytes=_counted(footprint, context))


def rooms(config: ModelConfig) -> tuple[Room, ...]:
    """What each box has for the model, by node. The process must be in the cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ids = [one["NodeID"] for one in ray.nodes() if one["Alive"] and one["Resources"].get(node.BOX, 0) > 0]
    ask = ray.remote(room)
    asked = [
        ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
            config.encoded(), node_id
        )
        for node_id in ids
    ]
    told: list[Room] = ray.get(asked)
    return tuple(sorted(told, key=lambda one: (one.node, one.node_id)))


def without(config: ModelConfig) -> tuple[str, ...]:
    """Ids of the nodes that have no room for the model.

    Raises:
        NoRoom: none has.
    """
    told = rooms(config)
    full = tuple(one for one in told if one.problem)
    if len(full) == len(told):
        boxes = "; ".join(one.text() for one in full)
        hint = "each box must have it: a model of the catalog, an address, or a file at the same path everywhere"
        if any(one.is_full for one in full):
            hint = "give others less (--max-memory, --ctx), take one away (edgellm cluster down MODEL), or add a box"
        raise NoRoom(f"no box can take {config.name}: {boxes}", hint=hint, rooms=told)
    return tuple(one.node_id for one in full)


def _beside(others: tuple[Entry, ...], config: ModelConfig, context: SelectionContext) -> LaunchOptions:
    """What is asked for, within what the others leave. Where there are none, the machine's own limit is enough."""
    from edgellm.contract.manager import plugins

    taken = sum(entry.n_bytes for entry in others)
    if not taken or config.model in plugins().backends():  # of a backend without a file no memory is predicted
        return config.options
    left = max(1, node.budget_bytes(context) - taken)
    asked = config.options.request().max_memory_bytes
    return replace(config.options, max_memory=left if asked is None else min(left, asked))


def _counted(footprint: Footprint | None, context: SelectionContext) -> int:
    from edgellm.estimate.footprint import counted_bytes

    return 0 if footprint is None else counted_bytes(footprint, context.machine)


def _not_fetched(download: PlannedDownload) -> None:
    raise _NotFetched(download.choice.footprint)

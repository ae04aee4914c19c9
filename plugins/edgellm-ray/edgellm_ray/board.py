"""What the replicas of a cluster last said of themselves. It is kept by one actor, and told again every second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from edgellm.errors import EdgeLLMError, UnknownModel
from edgellm.server.names import ALWAYS, TAG
from edgellm_ray.config import NAME, ModelConfig, app_of

if TYPE_CHECKING:
    from edgellm.server.served_model import ServedModel

ACTOR = "edgellm-front"  # it has a `put` and a `rows`
FAILED_S = 600.0  # Ray tries again within a minute or so, and then it is told again
LEARNED_TOKENS = 10_000  # of answers: by those of 2,000, one of three equal boxes got a quarter more than its share
STALE_S = 10.0  # a replica that said nothing for so long is gone


class Service(Struct, frozen=True, kw_only=True):
    """What a replica is one of, and by which names clients ask for it."""

    name: str = NAME
    order: int = 0  # the first one gets the requests that name no model
    names: tuple[str, ...] = ()  # its model's id first
    any_name: bool = False  # it answers to every other name, too
    lists: dict[str, dict[str, Any]] = {}

    @property
    def app(self) -> str:
        """Of Ray Serve; paths of Ray's proxy begin with it."""
        return app_of(self.name)


class Row(Struct, frozen=True, kw_only=True):
    """One replica."""

    replica: str
    service: Service = Service()
    node: str
    node_id: str
    ip: str
    plan: dict[str, Any]  # as /edgellm/plan has it
    preview: str | None  # what `edgellm auto-select --json` says there; None = the model was named
    fingerprint: str  # equal where the same request with the same seed has the same answer
    decode_tok_s: float  # measured, or else predicted; 0 = neither
    n_slots: int
    n_busy: int
    n_waiting: int
    n_answered: int
    metrics: str  # as /metrics has them
    asked: str = ""  # `mark` of what it was asked to run
    memory_bytes: int = 0  # predicted; 0 = nothing is


class Failure(Struct, frozen=True, kw_only=True):
    """A box on which what is asked for does not run."""

    service: str = NAME  # its name
    node: str
    node_id: str
    asked: str  # `mark` of that
    code: str  # of the error
    reason: str


class Board:
    """Rows by replica, and failures by box."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[float, Row]] = {}
        self._failures: dict[tuple[str, str], tuple[float, Failure]] = {}  # by box and service
        self._services: dict[str, dict[str, Service]] = {}  # by name and box; they outlive their rows

    def put(self, row: Row) -> None:
        now = time.monotonic()
        self._rows = {name: kept for name, kept in self._rows.items() if now - kept[0] < STALE_S}
        self._rows[row.replica] = (now, row)
        self._services.setdefault(row.service.name, {})[row.node_id] = row.service
        key = (row.node_id, row.service.name)
        failed = self._failures.get(key)
        if failed is not None and failed[1].asked == row.asked:
            del self._failures[key]

    def fail(self, failure: Failure) -> None:
        self._failures[failure.node_id, failure.service] = (time.monotonic(), failure)

    def forget(self, name: str) -> None:
        """That service is taken away."""
        self._services.pop(name, None)
        self._rows = {replica: kept for replica, kept in self._rows.items() if kept[1].service.name != name}
        self.asks_anew(name)

    def asks_anew(self, name: str) -> None:
        """That service is to run something: what failed before is past."""
        self._failures = {key: kept for key, kept in self._failures.items() if key[1] != name}

    def services(self) -> list[Service]:
        """As the boxes that live told them, the first service first; where none of its boxes lives, as all last did."""
        alive = {(row.service.name, row.node_id) for row in self.rows()}
        told: list[Service] = []
        for name, by_box in self._services.items():
            told += [one for box, one in by_box.items() if (name, box) in alive] or by_box.values()
        return sorted(told, key=_order)

    def app(self, model: str | None) -> str:
        """The application that answers to the name of a model; "" where nobody said what there is.

        Raises:
            UnknownModel: there are several, and it is none of them.
        """
        # Also of boxes that are gone for a moment.
        every = sorted((one for by_box in self._services.values() for one in by_box.values()), key=_order)
        if not every:
            return ""
        if model is None or (name := model.removesuffix(TAG)) in ALWAYS:
            return every[0].app
        named = next((one for one in every if name in one.names), None)
        taking = named or next((one for one in every if one.any_name), None)
        if taking is None and len({one.name for one in every}) > 1:
            names = ", ".join(dict.fromkeys(name for one in every for name in one.names))
            raise UnknownModel(f"{model[:80]!r} is not served here", hint=f"served: {names}", param="model")
        return (taking or every[0]).app  # a box says by which names it is served

    def failures(self) -> list[Failure]:
        """The last of each box where nothing else came since, by node."""
        now = time.monotonic()
        lasting = [failure for seen, failure in self._failures.values() if now - seen < FAILED_S]
        return sorted(lasting, key=lambda failure: (failure.node, failure.node_id))

    def rows(self) -> list[Row]:
        """Of replicas that live, by node and service."""
        now = time.monotonic()
        alive = [row for seen, row in self._rows.values() if now - seen < STALE_S]
        return sorted(alive, key=lambda row: (row.node, row.service.order, row.replica))


def _order(service: Service) -> tuple[int, str]:
    return service.order, service.name


def speed(served: ServedModel) -> float:
    """Tokens of answers per second of the one who asks alone: measured, or else predicted, or else 0."""
    return served.activity.totals.answer_tok_s or _predicted(served)


def weight(served: ServedModel) -> float:
    """The speed by which conversations are shared out: measured over LEARNED_TOKENS or more, before that predicted,
    or 0 where nothing is."""
    totals = served.activity.totals
    return totals.answer_tok_s if totals.n_steps >= LEARNED_TOKENS else _predicted(served)


def _predicted(served: ServedModel) -> float:
    choice = served.llm.decision and served.llm.decision.choice
    return choice.decode.tok_s if choice else 0.0


def service(served: ServedModel, config: ModelConfig) -> Service:
    """What the model of this process is one of."""
    from edgellm_ray import lists

    names = (*served.all_names, config.name)
    every = served.names.any
    return Service(name=config.name, order=config.order, names=names, any_name=every, lists=lists.of(served))


def row(served: ServedModel, config: ModelConfig, *, preview: str | None, memory_bytes: int) -> Row:
    """What the replica in this process says of itself."""
    import ray
    from ray import serve

    from edgellm.server import metrics, state

    now = served.activity_report()
    where = ray.get_runtime_context()
    return Row(
        replica=serve.get_replica_context().replica_id.unique_id,
        service=service(served, config),
        node=served.node,
        node_id=where.get_node_id(),
        ip=ray.util.get_node_ip_address(),
        plan=state.describe(served),
        preview=preview,
        fingerprint=served.fingerprint,
        decode_tok_s=speed(served),
        n_slots=now.n_slots,
        n_busy=now.n_busy,
        n_waiting=now.n_waiting,
        n_answered=served.activity.requests.by_status.total(),
        metrics=metrics.metrics(served, config.name),
        asked=config.mark,
        memory_bytes=memory_bytes,
    )


def failure(error: Exception, config: ModelConfig) -> Failure:
    """What the box of this process says of a model that it could not load."""
    import ray

    from edgellm.server.errors import code_of
    from edgellm_ray import node

    reason = f"{type(error).__name__}: {error}" if not isinstance(error, EdgeLLMError) else str(error)
    where = ray.get_runtime_context().get_node_id()
    code, asked = code_of(error), config.mark
    return Failure(service=config.name, node=node.name(), node_id=where, asked=asked, code=code, reason=reason)


async def fail(failure: Failure) -> None:
    """Tell the board of the cluster. Raises ValueError where there is none."""
    import ray

    from edgellm_ray.ray_library import NAMESPACE

    await ray.get_actor(ACTOR, namespace=NAMESPACE).fail.remote(failure)


async def put(row: Row) -> None:
    """Tell the board of the cluster. Raises ValueError where there is none."""
    import ray

    from edgellm_ray.ray_library import NAMESPACE

    await ray.get_actor(ACTOR, namespace=NAMESPACE).put.remote(row)

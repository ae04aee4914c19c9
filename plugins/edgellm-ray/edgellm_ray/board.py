"""What the replicas of a cluster last said of themselves. It is kept by one actor, and told again every second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from edgellm.errors import EdgeLLMError

if TYPE_CHECKING:
    from edgellm.server.served_model import ServedModel

NAME = "edgellm-front"  # the actor that has a `put` and a `rows`
FAILED_S = 600.0  # Ray tries again within a minute or so, and then it is told again
STALE_S = 10.0  # a replica that said nothing for so long is gone


class Row(Struct, frozen=True, kw_only=True):
    """One replica."""

    replica: str
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


class Failure(Struct, frozen=True, kw_only=True):
    """A box on which what is asked for does not run."""

    node: str
    node_id: str
    asked: str  # `mark` of that
    code: str  # of the error
    reason: str


class Board:
    """Rows by replica, and failures by box."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[float, Row]] = {}
        self._failures: dict[str, tuple[float, Failure]] = {}

    def put(self, row: Row) -> None:
        now = time.monotonic()
        self._rows = {name: kept for name, kept in self._rows.items() if now - kept[0] < STALE_S}
        self._rows[row.replica] = (now, row)
        failed = self._failures.get(row.node_id)
        if failed is not None and failed[1].asked == row.asked:
            del self._failures[row.node_id]

    def fail(self, failure: Failure) -> None:
        self._failures[failure.node_id] = (time.monotonic(), failure)

    def failures(self) -> list[Failure]:
        """The last of each box where nothing else came since, by node."""
        now = time.monotonic()
        lasting = [failure for seen, failure in self._failures.values() if now - seen < FAILED_S]
        return sorted(lasting, key=lambda failure: (failure.node, failure.node_id))

    def rows(self) -> list[Row]:
        """Of replicas that live, by node."""
        now = time.monotonic()
        alive = [row for seen, row in self._rows.values() if now - seen < STALE_S]
        return sorted(alive, key=lambda row: (row.node, row.replica))


def speed(served: ServedModel) -> float:
    """Tokens of answers per second of the one who asks alone: measured, or else predicted, or else 0."""
    choice = served.llm.decision and served.llm.decision.choice
    return served.activity.totals.answer_tok_s or (choice.decode.tok_s if choice else 0.0)


def row(served: ServedModel, *, preview: str | None, asked: str) -> Row:
    """What the replica in this process says of itself."""
    import ray
    from ray import serve

    from edgellm.server import metrics, state

    now = served.activity_report()
    where = ray.get_runtime_context()
    return Row(
        replica=serve.get_replica_context().replica_id.unique_id,
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
        metrics=metrics.metrics(served),
        asked=asked,
    )


def failure(error: Exception, *, asked: str) -> Failure:
    """What the box of this process says of a model that it could not load."""
    import ray

    from edgellm.server.errors import code_of
    from edgellm_ray import node

    reason = f"{type(error).__name__}: {error}" if not isinstance(error, EdgeLLMError) else str(error)
    where = ray.get_runtime_context().get_node_id()
    return Failure(node=node.name(), node_id=where, asked=asked, code=code_of(error), reason=reason)


async def fail(failure: Failure) -> None:
    """Tell the board of the cluster. Raises ValueError where there is none."""
    import ray

    from edgellm_ray.ray_library import NAMESPACE

    await ray.get_actor(NAME, namespace=NAMESPACE).fail.remote(failure)


async def put(row: Row) -> None:
    """Tell the board of the cluster. Raises ValueError where there is none."""
    import ray

    from edgellm_ray.ray_library import NAMESPACE

    await ray.get_actor(NAME, namespace=NAMESPACE).put.remote(row)

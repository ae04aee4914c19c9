"""Ray Serve's router of this deployment: conversations go where `affinity.Placement` says.

An alpha interface of Ray, so its minor is pinned. The loop that asks one replica after the other is that of Ray's own
consistent-hash router.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from edgellm_ray.affinity import Placement, Wish

if TYPE_CHECKING:
    from ray.serve.request_router import PendingRequest, ReplicaID


class PrefixRouter(ConsistentHashRouter):
    """Ranks the replicas for a session; those with the plan that is wished for come first."""

    def initialize_state(self, **options: object) -> None:
        super().initialize_state()
        self._placement = Placement()

    def _routing_key(self, pending_request: PendingRequest | None) -> str | None:
        key = super()._routing_key(pending_request)
        # Without a session, the least busy one would do; each such request is a conversation of its own.
        return key and str(key)

    def _lookup_ranked_replicas(self, routing_key: str) -> list[ReplicaID]:
        wish = Wish.of(routing_key)
        stats = {replica_id.unique_id: replica.routing_stats for replica_id, replica in self._replicas.items()}
        if not stats:
            return []
        speeds = {name: float(of.get("decode_tok_s") or 0.0) for name, of in stats.items()}
        ranks = self._placement.ranked(wish.session, speeds)
        if wish.plan:
            ranks.sort(key=lambda name: stats[name].get("plan") != wish.plan)  # the order is kept otherwise
        by_name = {replica_id.unique_id: replica_id for replica_id in self._replicas}
        return [by_name[name] for name in ranks]

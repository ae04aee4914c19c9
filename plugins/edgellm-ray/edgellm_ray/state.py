"""What a cluster is made of now: its boxes, the replicas on them, and what Ray Serve says of the deployment."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from edgellm_ray import front
from edgellm_ray.board import Failure, Row
from edgellm_ray.deployment import NAME
from edgellm_ray.node import BOX, MEMORY
from edgellm_ray.ray_library import APP


class BoxReport(Struct, frozen=True):
    """One machine."""

    name: str  # as its replica calls it; the host name before there is one
    node_id: str
    ip: str
    alive: bool
    memory_mib: int  # what models may take
    replicas: tuple[Row, ...]
    failure: str = ""  # why what is asked for does not run there


class ClusterReport(Struct, frozen=True):
    """The whole cluster.

    Attributes:
        deployment: as Ray Serve calls its state: HEALTHY, UPDATING, UNHEALTHY, ...; "NOT SERVED" where there is none.
        problem: its words where something is wrong.
    """

    deployment: str
    problem: str
    boxes: tuple[BoxReport, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON. Metrics have a page of their own."""
        import msgspec

        fields: dict[str, Any] = msgspec.to_builtins(self)
        for box in fields["boxes"]:
            for replica in box["replicas"]:
                del replica["metrics"], replica["preview"]
        return fields


def report() -> ClusterReport:
    """The process must be in the cluster."""
    import ray

    rows, failures = front.rows(), front.failures()
    boxes = tuple(_box(node, rows, failures) for node in ray.nodes() if node["Resources"].get(BOX) or not node["Alive"])
    return ClusterReport(*_deployment(), tuple(sorted(boxes, key=lambda box: (not box.alive, box.name))))


def _box(node: dict[str, Any], rows: list[Row], failures: list[Failure]) -> BoxReport:
    here = tuple(row for row in rows if row.node_id == node["NodeID"]) if node["Alive"] else ()
    failed = [failure for failure in failures if failure.node_id == node["NodeID"] and node["Alive"]]
    names = [*(row.node for row in here), *(failure.node for failure in failed), node["NodeManagerHostname"]]
    memory = int(node["Resources"].get(MEMORY, 0))
    return BoxReport(
        names[0],
        node["NodeID"],
        node["NodeManagerAddress"],
        node["Alive"],
        memory,
        here,
        failed[0].reason if failed else "",
    )


def _deployment() -> tuple[str, str]:
    from ray import serve

    app = serve.status().applications.get(APP)
    if app is None:
        return "NOT SERVED", ""
    deployed = app.deployments.get(NAME)
    if deployed is None:
        return app.status.value, app.message
    return deployed.status.value, deployed.message or app.message

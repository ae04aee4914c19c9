"""What a cluster is made of now: its boxes, the replicas on them, and what Ray Serve says of the deployment."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from edgellm_ray import front
from edgellm_ray.board import Failure, Row
from edgellm_ray.deployment import BOX_NAME, last_line
from edgellm_ray.node import BOX, MEMORY

_WELL = "HEALTHY"


class BoxReport(Struct, frozen=True):
    """One machine."""

    name: str  # as its replica calls it; the host name before there is one
    node_id: str
    ip: str
    alive: bool
    memory_mib: int  # what models may take
    replicas: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()  # what is asked for and does not run there


class ServiceReport(Struct, frozen=True):
    """What is served under one name.

    Attributes:
        state: as Ray Serve calls it: HEALTHY, UPDATING, UNHEALTHY, ...
        problem: its words where something is wrong.
    """

    name: str
    state: str
    problem: str


class ClusterReport(Struct, frozen=True):
    """The whole cluster.

    Attributes:
        deployment: of all that is served, the worst state; "NOT SERVED" where there is nothing.
        services: each of them, the first one gets the requests that name no model.
    """

    deployment: str
    services: tuple[ServiceReport, ...]
    boxes: tuple[BoxReport, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON. Metrics have a page of their own."""
        import msgspec

        fields: dict[str, Any] = msgspec.to_builtins(self)
        for box in fields["boxes"]:
            for replica in box["replicas"]:
                del replica["metrics"], replica["preview"], replica["service"]["lists"]
        return fields


def report() -> ClusterReport:
    """The process must be in the cluster."""
    import ray

    rows, failures = front.rows(), front.failures()
    boxes = tuple(_box(node, rows, failures) for node in ray.nodes() if node["Resources"].get(BOX) or not node["Alive"])
    services = _services()
    states = [service.state for service in services if service.state != _WELL] or [_WELL]
    whole = states[0] if services else "NOT SERVED"
    return ClusterReport(whole, services, tuple(sorted(boxes, key=lambda box: (not box.alive, box.name))))


def _box(node: dict[str, Any], rows: list[Row], failures: list[Failure]) -> BoxReport:
    here = tuple(row for row in rows if row.node_id == node["NodeID"]) if node["Alive"] else ()
    failed = tuple(failure for failure in failures if failure.node_id == node["NodeID"] and node["Alive"])
    names = [*(row.node for row in here), *(failure.node for failure in failed), node["NodeManagerHostname"]]
    memory = int(node["Resources"].get(MEMORY, 0))
    return BoxReport(
        names[0],
        node["NodeID"],
        node["NodeManagerAddress"],
        node["Alive"],
        memory,
        here,
        failed,
    )


def _services() -> tuple[ServiceReport, ...]:
    from ray import serve

    names = {service.app: service.name for service in front.services()}  # the first one first
    apps = serve.status().applications
    return tuple(_service(names.get(app, app), apps[app]) for app in sorted(apps, key=[*names, *apps].index))


def _service(name: str, app: Any) -> ServiceReport:
    deployed = app.deployments.get(BOX_NAME)
    if deployed is None:
        return ServiceReport(name, app.status.value, last_line(app.message))
    return ServiceReport(name, deployed.status.value, last_line(deployed.message or app.message))

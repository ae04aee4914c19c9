"""Nodes of Ray without the programs that nothing here uses: on each a dashboard's agent and one that makes environments
for workers, on the head the dashboard and a server for clients that are no part of the cluster.

They are most of what Ray takes, and a node dies where one is slow to start. Run as a program, this is `ray start`.
Parts of Ray that are not public are replaced, one more reason why its minor is pinned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
_NO_COMMAND = " "  # nothing is started; without a character the node refuses to start
_NONE = -1  # as a port: by this sign Ray itself tells that there is no such service


def lighten() -> None:
    """From now on, nodes that this process starts are so."""
    from ray._private import services
    from ray._private.node import Node

    if services.start_ray_process.__module__ == __name__:
        return
    services.start_ray_process = _without_agents(services.start_ray_process)
    Node.start_api_server = _nothing
    Node.start_ray_client_server = _nothing


def _without_agents(start: Callable[..., Any]) -> Callable[..., Any]:
    def started(command: list[str], process_type: str, **options: Any) -> Any:
        from ray._private.ray_constants import PROCESS_TYPE_RAYLET

        if process_type == PROCESS_TYPE_RAYLET:
            _tell_ports(command)
            command = [
                next((f"{flag}{_NO_COMMAND}" for flag in _AGENTS if part.startswith(flag)), part) for part in command
            ]
        return start(command, process_type, **options)

    return started


def _tell_ports(command: list[str]) -> None:
    """The node waits for files in which the agents would tell theirs."""
    import ray._raylet as raylet

    flags = dict(part.removeprefix("--").split("=", 1) for part in command if part.startswith("--") and "=" in part)
    for name in (
        raylet.METRICS_AGENT_PORT_NAME,
        raylet.METRICS_EXPORT_PORT_NAME,
        raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
        raylet.RUNTIME_ENV_AGENT_PORT_NAME,
    ):
        raylet.persist_port(flags["session_dir"], flags["node_id"], name, _NONE)


def _nothing(*_: object, **__: object) -> None:
    pass


if __name__ == "__main__":
    from ray.scripts.scripts import main

    lighten()
    main()

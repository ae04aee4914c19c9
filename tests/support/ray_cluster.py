"""A Ray cluster of several nodes on this machine, and EdgeLLM served on it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
from edgellm_ray import deployment, front, node
from edgellm_ray.board import Row
from edgellm_ray.config import ModelConfig, ServiceConfig
from edgellm_ray.ray_library import NAMESPACE
from edgellm_ray.scaling import Replicas
from ray import serve
from ray.cluster_utils import Cluster

from edgellm.types.options import LaunchOptions
from support.waiting import wait_until


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 s to start, which a busy machine may not have: then again."""
    for _ in range(5):
        try:
            return start()
        except Exception as error:
            if "timed out" not in str(error):
                raise
            last = error
    raise last


class Boxes:
    """Nodes by name. This process is the driver."""

    def __init__(self, folder: str, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.port, self.proxy_port = free_port(), free_port()
        self.nodes: dict[str, Any] = {}
        self.told: list[str] = []  # by Ray, of deployments
        # As `edgellm cluster up` has it.
        without = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
        head = {"num_cpus": 0, "temp_dir": folder, **without}
        self._cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        ray.init(address=self._cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        self._start_front(ServiceConfig())

    def _start_front(self, service: ServiceConfig) -> None:
        upstream = f"http://127.0.0.1:{self.proxy_port}"
        front.start(
            front.FrontConfig(
                host="127.0.0.1",
                port=self.port,
                upstream=upstream,
                api_key=service.api_key,
                public_name=service.public_name,
            )
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, *names: str, **variables: str) -> None:
        """Nodes with a box each, with environment variables of their own."""
        for name in names:
            own = {"EDGELLM_HOME": str(self.home), node.NAME_VARIABLE: name, **variables}
            fixed = {"num_cpus": 0, "resources": {node.BOX: 1}, "temp_dir": self.folder, "env_vars": own}
            self.nodes[name] = _patiently(lambda fixed=fixed: self._cluster.add_node(**fixed))

    def kill(self, name: str) -> None:
        """As if its plug were pulled."""
        self._cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def serve(
        self,
        model: str | None = "echo",
        *,
        service: ServiceConfig | None = None,
        replicas: str = "boxes",
        golden: tuple[tuple[str, str], ...] = (),
        queue: int = deployment.MOST_QUEUED,
        ongoing: int = deployment.ONGOING,
        min_speed: float = 0.0,
        **options: Any,
    ) -> None:
        """Deploy, and wait until as many replicas answer as there are boxes."""
        wanted = deployment.Deployment(
            model=ModelConfig(model=model, options=LaunchOptions.of(**options), golden=golden, min_speed=min_speed),
            service=service or ServiceConfig(),
            replicas=Replicas.of(replicas),
            queue=queue,
            ongoing=ongoing,
        )
        self._start_front(wanted.service)
        deployment.deploy(wanted, port=self.proxy_port, tell=self.told.append)
        if replicas == "boxes":
            self.wait_for(len(self.nodes))

    def wait_for(self, n_replicas: int) -> dict[str, Row]:
        """The rows, by name of the node, once there are so many and Ray Serve runs all of them."""

        def is_there() -> bool:
            deployed = serve.status().applications["edgellm"].deployments["box"]
            running = deployed.replica_states.get("RUNNING", 0)
            return running == n_replicas == len({row.node for row in front.rows()}) and deployed.status == "HEALTHY"

        wait_until(is_there, 240, lambda: f"{serve.status()} {[(r.node, r.replica) for r in front.rows()]}")
        return self.rows()

    def rows(self) -> dict[str, Row]:
        return {row.node: row for row in front.rows()}

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=240)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            serve.shutdown()
        with contextlib.suppress(Exception):
            front.stop()
        ray.shutdown()
        self._cluster.shutdown()


def process_of(row: Row) -> psutil.Process:
    """The replica's."""
    (process,) = (
        process
        for process in _processes_titled("ray::ServeReplica:edgellm:box")
        if process.environ().get(node.NAME_VARIABLE) == row.node
    )
    return process


def process_titled(title: str) -> psutil.Process:
    """That of the only actor whose class is so called."""
    (process,) = _processes_titled(title)
    return process


def _processes_titled(title: str) -> list[psutil.Process]:
    """Ray adds the method that runs now."""
    running = psutil.process_iter(["cmdline"])
    return [process for process in running if (process.info["cmdline"] or [""])[0].startswith(title)]

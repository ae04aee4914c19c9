"""A Ray cluster of several nodes on this machine, and EdgeLLM served on it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
from edgellm_ray import deployment, front, lean, node, ray_library, scaling
from edgellm_ray.board import Row
from edgellm_ray.config import ModelConfig, ServiceConfig
from edgellm_ray.ray_library import NAMESPACE
from edgellm_ray.scaling import Replicas
from edgellm_ray.token import make_token
from ray import serve
from ray.cluster_utils import Cluster

from edgellm.types.options import LaunchOptions
from support.waiting import wait_until

# Three boxes of all tests, told to be other machines.
PROFILES = {"small": "raspberry-pi-4-4gb", "middle": "raspberry-pi-5-8gb", "large": "intel-n100-16gb"}

DRAIN_S = 5.0  # Ray waits as long for a replica whose node is gone


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

    def __init__(self, folder: str, home: Path, key: str | None = None) -> None:
        """`key`: the API key that clients need."""
        self.folder = folder
        self.home = home
        self.key = key
        self.port, self.proxy_port = free_port(), free_port()
        self.nodes: dict[str, Any] = {}
        self._variables: dict[str, dict[str, str]] = {}  # of every node that ever was
        self.told: list[str] = []  # by Ray, of deployments
        self.asked = ""  # `mark` of what was last deployed
        # Without a token replicas do not believe the front. Ray itself would have had to read of it before its import.
        os.environ["RAY_AUTH_MODE"] = "disabled"
        make_token()
        ray_library.require()
        # Where Ray notes the newest cluster, which it takes for granted: /tmp/ray, where nothing else is said.
        os.environ["RAY_TMPDIR"] = folder
        (Path(folder) / "ray").mkdir()
        # As `edgellm cluster up` has it.
        without = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
        head = {"num_cpus": 0, "temp_dir": folder, **without}
        lean.lighten()
        self._cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        ray.init(address=self._cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        upstream = f"http://127.0.0.1:{self.proxy_port}"
        self.front = front.FrontConfig(host="127.0.0.1", port=self.port, upstream=upstream, api_key=key)
        front.start(self.front)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, *names: str, memory_mib: int = 0, **variables: str) -> None:
        """Nodes with a box each, with environment variables of their own. `memory_mib`: what they tell that their
        models may take; 0 = nothing is told."""
        for name in names:
            self._variables[name] = variables
            own = {"EDGELLM_HOME": str(self.home), node.NAME_VARIABLE: name, **variables}
            resources = {node.BOX: 1} | ({node.MEMORY: memory_mib} if memory_mib else {})
            fixed = {"num_cpus": 0, "resources": resources, "temp_dir": self.folder, "env_vars": own}
            self.nodes[name] = _patiently(lambda fixed=fixed: self._cluster.add_node(**fixed))

    def kill(self, name: str) -> None:
        """As if its plug were pulled."""
        self._cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def restore(self, names: Iterable[str]) -> None:
        """Exactly these nodes live, each with the variables that it had."""
        for name in self.nodes.keys() - set(names):
            self.kill(name)
        for name in names:
            if name not in self.nodes:
                self.add(name, **self._variables[name])

    def clear(self) -> None:
        """Nothing is served."""
        deployment.end()
        front.start(self.front)

    def serve(
        self,
        model: str | None = "echo",
        *,
        replicas: str = "boxes",
        golden: tuple[tuple[str, str], ...] = (),
        queue: int = deployment.MOST_QUEUED,
        ongoing: int = deployment.ONGOING,
        min_speed: float = 0.0,
        downscale_s: float = scaling.DOWNSCALE_S,
        **options: Any,
    ) -> None:
        """Deploy, and wait until as many replicas answer as there are boxes."""
        wanted = deployment.Deployment(
            model=ModelConfig(model=model, options=LaunchOptions.of(**options), golden=golden, min_speed=min_speed),
            service=ServiceConfig(api_key=self.key),
            replicas=Replicas.of(replicas),
            queue=queue,
            ongoing=ongoing,
            downscale_s=downscale_s,
            drain_s=DRAIN_S,
        )
        self.asked = wanted.model.mark
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

    @property
    def headers(self) -> dict[str, str]:
        """Of a client that may ask."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=240)

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
        for process in _processes_titled(f"ray::ServeReplica:{row.service.app}:box")
        if process.environ().get(node.NAME_VARIABLE) == row.node
    )
    return process


def process_titled(title: str) -> psutil.Process:
    """That of the only actor whose class is so called."""
    (process,) = _processes_titled(title)
    return process


def _processes_titled(title: str) -> list[psutil.Process]:
    """Of this process's cluster: others may run beside. Ray adds the method that runs now."""
    running = psutil.Process().children(recursive=True)
    return [process for process in running if (_command(process) or [""])[0].startswith(title)]


def _command(process: psutil.Process) -> list[str]:
    """Empty where it ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []

"""The deployment that Ray Serve keeps running: what a replica asks for, and how it is watched, drained and replaced."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from edgellm.errors import RuntimeFailure, UsageError
from edgellm.types.options import LaunchOptions
from edgellm_ray import front, proxy
from edgellm_ray.box import DRAIN_S
from edgellm_ray.config import ModelConfig, ServiceConfig, app_of
from edgellm_ray.node import BOX, SHARE
from edgellm_ray.scaling import DOWNSCALE_S, Replicas

BOX_NAME = "box"
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 15.0  # a box that swaps is slow, not dead
STATS_PERIOD_S = 2.0  # how often the router hears how fast a replica is
MOST_QUEUED = 64
RETRY_AFTER_S = 2
ONGOING = 8  # requests that a replica has at a time: those that it answers, and some that wait in its own queue
_POLL_S = 0.2
_NODE_LABEL = "ray.io/node-id"  # Ray gives it to every node
_STARTS = 3  # of a replica that does not come up, before the rollout stops


class DeployFailed(RuntimeFailure):
    """Ray Serve could not bring the deployment up; what served before goes on."""


class BoxFailed(RuntimeFailure):
    """A box cannot load what is asked for; the others serve it. `node`: what the box is called."""

    def __init__(self, message: str, *, hint: str, node: str) -> None:
        super().__init__(message, hint=hint)
        self.node = node


class Deployment(Struct, frozen=True, kw_only=True):
    """What `edgellm cluster serve` was asked for."""

    model: ModelConfig
    service: ServiceConfig
    without: tuple[str, ...] = ()  # ids of nodes that have no room for it
    replicas: Replicas = Replicas(0, 0)
    queue: int = MOST_QUEUED
    ongoing: int = ONGOING
    drain_s: float = DRAIN_S
    downscale_s: float = DOWNSCALE_S  # without need, until a replica of MIN:MAX leaves


def options(deployment: Deployment) -> dict[str, Any]:
    """The options of Ray Serve's deployment."""
    from ray.serve.config import BackpressureConfig, RequestRouterConfig

    router = RequestRouterConfig(
        request_router_class="edgellm_ray.router.PrefixRouter", request_routing_stats_period_s=STATS_PERIOD_S
    )
    actor: dict[str, Any] = {"num_cpus": 0, "resources": {BOX: SHARE}}
    if deployment.without:
        actor["label_selector"] = {_NODE_LABEL: f"!in({','.join(deployment.without)})"}
    return {
        "name": BOX_NAME,
        "max_replicas_per_node": 1,
        "ray_actor_options": actor,
        "logging_config": {"enable_access_log": False},
        "user_config": deployment.model.encoded(),
        "max_ongoing_requests": deployment.ongoing,
        "max_queued_requests": deployment.queue,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": deployment.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "max_constructor_retry_count": _STARTS,
        "request_router_config": router,
        **deployment.replicas.options(deployment.downscale_s, deployment.without),
    }


def build(arguments: dict[str, Any]) -> Any:
    """The application, for configuration files of Ray Serve (`import_path`): its `args` are `model`, `replicas` and
    fields of `ServiceConfig`. The key comes from EDGELLM_API_KEY.

    Raises:
        UsageError: an argument is wrong.
    """
    from edgellm import settings

    service = dict(arguments)
    model, replicas = service.pop("model", None), service.pop("replicas", "boxes")
    wanted = Deployment(
        model=ModelConfig(model=model, options=LaunchOptions(slots="auto")),
        service=ServiceConfig(**{"api_key": settings.current().api_key, **service}),
        replicas=Replicas.of(str(replicas)),
    )
    return application(wanted)


def application(deployment: Deployment) -> Any:
    """What Ray Serve runs."""
    import msgspec
    from ray import serve

    from edgellm import __version__
    from edgellm_ray.box import Box

    service = msgspec.to_builtins(deployment.service)
    version = hashlib.sha256(msgspec.json.encode([__version__, service])).hexdigest()[:16]
    box = serve.deployment(**options(deployment))(serve.ingress()(Box))
    # Without one, Ray takes every deployment for new code, and replaces processes where another model would do.
    return box.options(version=version, _internal=True).bind(service)


def deploy(deployment: Deployment, *, port: int, tell: Callable[[str], None]) -> None:
    """Bring it up, or change what runs; returns when all replicas answer. The process must be in the cluster.

    Args:
        port: of Ray's proxy, on the head.
        tell: gets what Ray says of replicas that take long or fail, while it tries again.

    Raises:
        DeployFailed: no replica came up, or a rollout was stopped. BoxFailed: one box cannot load it.
    """
    from ray import serve
    from ray.serve.api import RunTarget

    proxy.start(port)
    name = deployment.model.app
    target = RunTarget(application(deployment), name=name, route_prefix=f"/{name}")
    serve.run_many([target], wait_for_applications_running=False)
    told = ""
    while True:
        # The state of the application: that of its deployment may still be that of before.
        app = serve.status().applications[name]
        box = app.deployments.get(BOX_NAME)
        if app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            why = last_line((box and box.message) or app.message) or app.status.value
            raise DeployFailed(f"the rollout was stopped: {why}", hint="edgellm cluster status shows what serves now")
        _check_boxes(deployment)
        if app.status == "RUNNING":
            return
        if box and box.message not in ("", told):
            told = str(box.message)
            tell(last_line(told))
        time.sleep(_POLL_S)


def last_line(message: str) -> str:
    """With what was raised Ray ends its words, which begin with where."""
    lines = message.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _check_boxes(deployment: Deployment) -> None:
    """End the waiting where every box has either loaded what is asked for, or told why it cannot.

    Raises:
        BoxFailed: one cannot. DeployFailed: none can.
    """
    import ray

    asked = deployment.model.mark
    failures = {failure.node_id: failure for failure in front.failures() if failure.asked == asked}
    serving = {row.node_id for row in front.rows() if row.asked == asked}
    alive = (node for node in ray.nodes() if node["Alive"] and node["Resources"].get(BOX, 0) > 0)
    boxes = {node["NodeID"] for node in alive} - {*deployment.without}
    if failures and boxes <= failures.keys() | serving:
        if not serving:
            told = "; ".join(f"{failure.node}: {failure.reason}" for failure in failures.values())
            raise DeployFailed(f"no box can load it: {told}", hint="edgellm cluster status shows what serves now")
        first, *others = failures.values()
        nodes = ", ".join(failure.node for failure in (first, *others))
        hint = "the other boxes serve it, and Ray tries again there; edgellm cluster status shows what runs"
        raise BoxFailed(f"it cannot be loaded on {nodes}: {first.reason}", hint=hint, node=first.node)


def take_away(name: str) -> bool:
    """End the service of that name, once its answers have ended. With the last one Ray Serve and the front end.

    Returns whether others go on. The process must be in the cluster.

    Raises:
        UsageError: there is none.
    """
    from ray import serve

    apps = serve.status().applications
    app = app_of(name)
    if app not in apps:
        names = ", ".join(dict.fromkeys(service.name for service in front.services())) or "nothing"
        raise UsageError(f"{name!r} is not served", hint=f"served: {names}", param="model")
    if apps.keys() == {app}:
        end()
        return False
    serve.delete(app)
    front.forget(name)
    return True


def end() -> None:
    """Serve nothing any more. The process must be in the cluster."""
    from ray import serve

    serve.shutdown()
    front.stop()

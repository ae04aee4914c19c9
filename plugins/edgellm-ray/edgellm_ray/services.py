"""What a cluster serves: one model after the other, each beside those that are there, behind one front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from edgellm.errors import UsageError
from edgellm_ray import proxy
from edgellm_ray.config import ModelConfig, ServiceConfig
from edgellm_ray.scaling import Replicas

if TYPE_CHECKING:
    from edgellm_ray.front import FrontConfig

HOST = "127.0.0.1"
PORT = 8642  # as of `edgellm serve`


class Where(NamedTuple):
    """Where clients ask, as far as it was said; None = as it is, or else what is usual."""

    host: str | None = None
    port: int | None = None
    proxy_port: int | None = None  # of Ray's proxy
    public_name: str | None = None
    api_key: str | None = None


def serve(
    wanted: Sequence[ModelConfig],
    where: Where,
    *,
    replicas: Replicas,
    queue: int,
    aliases: tuple[str, ...],
    any_model: bool,
    tell: Callable[[str], None],
) -> FrontConfig:
    """Serve each of them, or change what has its name. Returns how the front listens, once all answer. The process must
    be in the cluster.

    Args:
        tell: gets what Ray says of replicas that take long or fail, while it tries again.

    Raises:
        UsageError: the address, or the key, is not that of what is served already. NoRoom: no box can take a model.
        DeployFailed, BoxFailed: as `deployment.deploy`.
    """
    from edgellm.server.access import check_bind
    from edgellm_ray import deployment, front, placement

    there = {service.name: service.order for service in front.services()}
    config = _config(where, front.config(), beside=there.keys() - {one.name for one in wanted})
    check_bind(config.host, config.api_key)
    service = ServiceConfig(
        api_key=config.api_key, public_name=config.public_name, aliases=aliases, any_model=any_model
    )
    for one in wanted:
        last = max(there.values(), default=-1)
        is_new = one.name not in there
        model = replace(one, order=there.setdefault(one.name, last + 1))
        # The first needs no look at the boxes: each plans for the whole of itself, and tells why where it cannot.
        without = placement.without(model) if there.keys() > {one.name} else ()
        before = _start(config)
        front.asks_anew(one.name)
        target = deployment.Deployment(model=model, service=service, without=without, replicas=replicas, queue=queue)
        try:
            deployment.deploy(target, port=_port(config), tell=tell)
        except deployment.DeployFailed:
            if is_new:
                deployment.take_away(one.name)
            else:
                front.start(before)  # what served goes on, with the key that it knows
            raise
    return config


def _start(config: FrontConfig) -> FrontConfig:
    """Start the front, and Ray's proxy beside it. Returns how the front listened before.

    Raises:
        UsageError: as `front.start`.
    """
    from edgellm_ray import front

    with ThreadPoolExecutor(1) as aside:
        proxy_started = aside.submit(proxy.start, _port(config))
        before = front.start(config)
        proxy_started.result()
    return before


def _config(where: Where, running: FrontConfig | None, *, beside: set[str]) -> FrontConfig:
    """How the front is to listen. `beside`: names of what is served and stays as it is.

    Raises:
        UsageError: those are reached otherwise.
    """
    from edgellm_ray.front import FrontConfig

    host = where.host or (running.host if running else HOST)
    port = where.port or (running.port if running else PORT)
    proxy_port = where.proxy_port or (_port(running) if running else proxy.PORT)
    public_name = where.public_name or (running.public_name if running and not where.host else host)
    key = where.api_key or (running.api_key if running else None)
    config = FrontConfig(
        host=host, port=port, upstream=f"http://127.0.0.1:{proxy_port}", api_key=key, public_name=public_name
    )
    if running and beside and config != running:
        names = ", ".join(sorted(beside))
        hint = "leave out --host, --port, --proxy-port, --public-name and the key, or take those away first"
        raise UsageError(f"{names}: served at {running.host}:{running.port}, with one key for all", hint=hint)
    return config


def _port(config: FrontConfig) -> int:
    return int(config.upstream.rpartition(":")[2])

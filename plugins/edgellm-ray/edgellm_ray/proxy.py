"""What all services share of Ray Serve: its controller, and the proxy on the head, which listens on loopback alone.

They take as long to start as a box takes to join, so `edgellm cluster up` has the head start them meanwhile: run as
a program, `python -m edgellm_ray.proxy HOST:PORT`. What keeps that from happening, `edgellm cluster serve` meets, too.
"""

from __future__ import annotations

import logging
import time

from edgellm.errors import UsageError

PORT = 8641
_TRIES = 3
_PAUSE_S = 0.5
_START_S = 60.0


def start(port: int) -> None:
    """Start both, where they are not there, or listen to another port. The process must be in the cluster.

    Raises:
        UsageError: the proxy does not come up.
    """
    from ray import serve
    from ray.exceptions import RayError

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if _port() not in (None, port):
        serve.shutdown()
    try:
        _start(port)
    except (RayError, TimeoutError) as error:
        why = f"Ray's proxy does not listen to 127.0.0.1:{port}"
        raise UsageError(why, hint="name another port: --proxy-port", param="proxy_port") from error


def _start(port: int) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client

    for left in reversed(range(_TRIES)):
        try:
            serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port, location="HeadOnly"))
            break
        except ValueError:  # another process starts them at this moment, and has their name already
            if not left:
                raise
            time.sleep(_PAUSE_S)
    proxies = ray.get(_get_global_client()._controller.get_proxies.remote(), timeout=_START_S)
    ray.get([one.ready.remote() for one in proxies.values()], timeout=_START_S)


def _port() -> int | None:
    """To which a proxy listens; None = there is none."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return client and client.http_config.port


if __name__ == "__main__":
    import sys

    from edgellm_ray import ray_library

    with ray_library.connected(sys.argv[1]):
        start(PORT)

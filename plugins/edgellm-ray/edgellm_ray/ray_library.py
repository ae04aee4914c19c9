"""Ray itself: whether it is installed, with which settings it is imported, and how a command reaches a cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator

from edgellm.errors import BackendUnavailable, UsageError
from edgellm_ray.token import token_environment

NAMESPACE = "edgellm"
# Ray would otherwise tell its makers who uses it, and retitle nothing of that can be undone on a box without network.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
# Ray's proxy is started again after three failed looks at it, 10 s apart: all streams would wait for half a minute.
_WATCHFUL = {"RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.3"}


def require() -> None:
    """Make Ray importable as this plugin needs it.

    Raises:
        BackendUnavailable: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise BackendUnavailable("Ray is not installed", hint="pip install 'edgellm-ray[ray]', or make setup-ray")
    for name, value in (_QUIET | _WATCHFUL | token_environment()).items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """This process takes part in the cluster at `address` while the block runs.

    Raises:
        BackendUnavailable: Ray is not installed. UsageError: there is no cluster, or it knows another token.
    """
    require()
    import ray

    if ray.is_initialized():  # a test, or a program, is in the cluster already
        yield
        return
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "edgellm cluster up starts one; join needs the token file of the head"
        raise UsageError(f"no cluster answers at {address}: {why}", hint=hint, param="address") from None
    try:
        yield
    finally:
        ray.shutdown()

"""The config of an image: who runs what, with which variables, and how its health is asked.

Source: config.md of opencontainers/image-spec 1.1. `Healthcheck` is reserved there for what Docker understands by it;
Docker and Podman (in its own format) run it, Kubernetes has probes of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.bundle.layout import MTIME
from edgellm.errors import UsageError
from edgellm.formats.oci.layout import Descriptor, ImagePlatform
from edgellm.image.environment import PREFIX, PYTHON

TYPE = "application/vnd.oci.image.config.v1+json"
HOME = f"{PREFIX}/home"
_CACHE = f"{HOME}/cache"
WRITTEN = (_CACHE, f"{HOME}/data/history")  # measurements, and what ran
USER = 10001  # of nobody else's on the machines that run it
PORT = 8642
_GO = {"x86_64": ("amd64", ""), "aarch64": ("arm64", "v8")}
_HEALTH = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=5)"
_SECOND_NS = 10**9


def platform(arch: str) -> ImagePlatform:
    """In Go's words, as OCI has them.

    Raises:
        UsageError: images are not made for it.
    """
    if arch not in _GO:
        hint = f"there are images for {', '.join(_GO)}"
        raise UsageError(f"no image is made for {arch}", hint=hint, param="for")
    architecture, variant = _GO[arch]
    return ImagePlatform(architecture=architecture, os="linux", variant=variant)


def created(epoch: int | None) -> str:
    """When the image was made, as it says: a time of one's own would make every image another one."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(MTIME if epoch is None else epoch))


def config(
    machine: ImagePlatform,
    layers: Sequence[tuple[Descriptor, str]],
    *,
    serve: Sequence[str],
    labels: Mapping[str, str],
    at: str,
) -> bytes:
    """`layers`: each with what it is; `serve`: arguments of `edgellm serve`."""
    runs: dict[str, Any] = {
        "User": f"{USER}:{USER}",
        "Env": [
            f"PATH=/{PREFIX}/bin:/usr/local/bin:/usr/bin:/bin", f"HOME=/{HOME}", "LANG=C.UTF-8",
            f"EDGELLM_HOME=/{HOME}", "EDGELLM_HOST=0.0.0.0", f"EDGELLM_PORT={PORT}",
            f"PYTHONPYCACHEPREFIX=/{_CACHE}/bytecode", f"TMPDIR=/{_CACHE}",  # /tmp may be read-only
        ],
        "Entrypoint": [PYTHON, "-P", "-m", "edgellm", "serve"],
        "Cmd": list(serve),
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "Volumes": {f"/{path}": {} for path in WRITTEN},
        "WorkingDir": "/",
        "StopSignal": "SIGTERM",
        "Labels": dict(labels),
        "Healthcheck": {
            "Test": ["CMD", PYTHON, "-I", "-c", _HEALTH], "Interval": 30 * _SECOND_NS, "Timeout": 6 * _SECOND_NS,
            "StartPeriod": 120 * _SECOND_NS, "Retries": 3,
        },
    }  # fmt: skip
    document = {
        "created": at,
        "architecture": machine.architecture,
        "os": machine.os,
        **({"variant": machine.variant} if machine.variant else {}),
        "config": runs,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer, _ in layers]},
        "history": [{"created": at, "created_by": "edgellm image create", "comment": what} for _, what in layers],
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"

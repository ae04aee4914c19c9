"""Files under /dev that programs reach a GPU by, and what bars this user from them."""

from __future__ import annotations

import os
import re

from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.gpu_problem import GpuProblem

# Of runtimes that leave no such file, the process's control group tells.
_FILES = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
_GROUPS = re.compile(r"docker|kubepods|containerd|libpod|/lxc")


def in_container(tree: SysRoot) -> bool:
    return any(map(tree.exists, _FILES)) or _GROUPS.search(tree.text("/proc/self/cgroup") or "") is not None


def problem(tree: SysRoot, path: str, device: str) -> GpuProblem | None:
    """Why this user cannot open `path`; None where nothing bars it."""
    if not tree.exists(path):
        return GpuProblem("node_missing", device, path, container=in_container(tree))
    real, container = tree.locate(path) or path, in_container(tree)
    if not os.access(real, os.R_OK | os.W_OK):
        return GpuProblem("node_closed", device, path, group=os.stat(real).st_gid, container=container)
    if container:  # whose rules may deny what the file's mode allows. Elsewhere, opening would wake the GPU in vain.
        try:
            os.close(os.open(real, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return GpuProblem("node_denied", device, path, detail=error.strerror or "", container=True)
    return None

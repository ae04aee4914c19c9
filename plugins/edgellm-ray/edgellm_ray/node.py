"""This machine as a node of a cluster: what it tells Ray that it has, and for which machine its replica plans."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.selection.context import SelectionContext

BOX = "edgellm_box"  # one of each machine
SHARE = 1 / 64  # of a box, that a replica takes: so many models share one
MEMORY = "edgellm_mem_mib"  # what models may take there
# A machine to plan for in place of the one that it is: to rehearse a fleet of unequal boxes.
PROFILE_VARIABLE = "EDGELLM_RAY_PROFILE"
NAME_VARIABLE = "EDGELLM_RAY_NODE"  # what the node is called in status, plan and metrics, instead of its host name


def name() -> str:
    """What this node is called."""
    return os.environ.get(NAME_VARIABLE) or socket.gethostname()


def context() -> SelectionContext:
    """What is known of the machine that the replica here plans for.

    Raises:
        UnknownProfile, UsageError: the profile is none.
    """
    from edgellm.app.context import of

    return of(os.environ.get(PROFILE_VARIABLE) or None)


def budget_bytes(context: SelectionContext) -> int:
    """What models may take here, all together: as the node told when it joined, before there were any."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    told = next((of["Resources"].get(MEMORY, 0) for of in ray.nodes() if of["NodeID"] == here), 0)
    return int(told) * 1024**2 or context.machine.memory_budget_bytes


def resources() -> dict[str, float]:
    """What a node tells of itself when it joins: that it takes replicas, and how much memory their models may take."""
    return {BOX: 1, MEMORY: context().machine.memory_budget_bytes // 1024**2}

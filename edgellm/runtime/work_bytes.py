"""How many bytes of a model's files a worker may be given time for. A file's header says what its author likes."""

from __future__ import annotations

from edgellm.types.plan import LaunchPlan


def work_bytes(plan: LaunchPlan) -> int:
    """Of the model: as many as its files have, and no more than the plan puts into memory; where it does not say, than
    the machine has."""
    if plan.footprint is not None:
        most = plan.footprint.allocated_bytes + plan.footprint.device_bytes
    else:
        import psutil

        most = psutil.virtual_memory().total
    return min(plan.artifact.bytes, most)

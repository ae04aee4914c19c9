"""The GPUs that were named (`--device`, EDGELLM_DEVICE), of those that a backend sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from edgellm import settings
from edgellm.contract.backend import Offload
from edgellm.errors import UsageError
from edgellm.selection.offload import not_kept


def only_named(offload: Offload, names: Sequence[str], elsewhere: Collection[str] = ()) -> Offload:
    """Only those, in the order in which they were named. Where no GPU is seen, that is the reason, not the names.

    Args:
        elsewhere: names that other backends see.

    Raises:
        UsageError: GPUs are seen, and one that was named is not among them.
    """
    wanted = {name.lower(): name for name in names}
    if not wanted or not offload.devices:
        return offload
    seen = {device.name.lower(): device for device in offload.devices}
    others_see = {name.lower() for name in elsewhere}
    if strange := [name for key, name in wanted.items() if key not in seen and key not in others_see]:
        others = ", ".join(dict.fromkeys((*(device.name for device in offload.devices), *elsewhere)))
        raise UsageError(f"no GPU {strange[0]!r} is seen", hint=f"seen are {others}", param="device")
    if own := tuple(seen[key] for key in wanted if key in seen):
        return replace(offload, devices=own)
    return Offload(missing=f"it does not see {', '.join(names)}")


def require_seen(names: Sequence[str], offloads: Mapping[str, Offload | None]) -> None:
    """`offloads`: of each backend that can run.

    Raises:
        BackendUnavailable: GPUs are named, and no backend sees any.
    """
    if not names or any(offload is not None and offload.devices for offload in offloads.values()):
        return
    # One that could with another build says how; one that never can is no help.
    able = [name for name, offload in offloads.items() if offload is not None]
    if backend := next(iter(able or offloads), ""):
        variable = "" if settings.flag("devices") else "EDGELLM_DEVICE"
        raise not_kept("device", ",".join(names), backend, offloads[backend], variable)

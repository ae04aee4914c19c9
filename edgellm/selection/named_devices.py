"""The GPUs that were named (`--device`, EDGELLM_DEVICE), of those that a backend sees."""

from __future__ import annotations

from dataclasses import replace

from edgellm import settings
from edgellm.contract.backend import Offload
from edgellm.errors import UsageError


def only_named(offload: Offload) -> Offload:
    """Only those, in the order in which they were named. Where no GPU is seen, that is the reason, not the names.

    Raises:
        UsageError: GPUs are seen, and one that was named is not among them.
    """
    wanted = settings.current().devices
    if not wanted or not offload.devices:
        return offload
    seen = {device.name.lower(): device for device in offload.devices}
    if strange := [name for name in wanted if name.lower() not in seen]:
        names = ", ".join(device.name for device in offload.devices)
        raise UsageError(f"no GPU {strange[0]!r} is seen", hint=f"seen are {names}", param="device")
    return replace(offload, devices=tuple(seen[name.lower()] for name in wanted))

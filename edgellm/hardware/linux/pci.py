"""Display controllers on the PCI bus, and which driver has them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.gpu import Vendor

VENDORS: dict[str, Vendor] = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
WRITTEN = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}  # as names of what has none of its own begin
_SLOT = re.compile(r"[\da-f]{4}:[\da-f]{2}:[\da-f]{2}\.[\da-f]")
_DEVICES = "/sys/bus/pci/devices"


@dataclass(frozen=True, slots=True)
class Controller:
    slot: str  # "0000:01:00.0"
    vendor: Vendor
    name: str  # "NVIDIA GPU 2684", by the number of the device
    driver: str | None  # "" = none has it; None = the record does not tell


def controllers(tree: SysRoot) -> Iterator[Controller]:
    """Of vendors whose GPUs compute. Class 03 only: sound and network functions of a vendor are no GPUs."""
    for slot in filter(_SLOT.fullmatch, tree.names(_DEVICES)):
        device = f"{_DEVICES}/{slot}"
        if (tree.line(f"{device}/class") or "").startswith("0x03"):
            vendor = VENDORS.get(tree.line(f"{device}/vendor") or "")
            if vendor is not None:
                yield Controller(slot, vendor, numbered(tree, device, vendor), driver(tree, device))


def numbered(tree: SysRoot, device: str, vendor: Vendor) -> str:
    number = re.fullmatch(r"0x([\da-f]{4})", tree.line(f"{device}/device") or "")
    return f"{WRITTEN[vendor]} GPU {number[1] if number else '????'}"


def driver(tree: SysRoot, device: str) -> str | None:
    """Its name by the `uevent` or the `driver` link of a device's folder."""
    uevent = tree.text(f"{device}/uevent")
    match = re.search(r"^DRIVER=([\w-]{1,40})$", uevent or "", re.MULTILINE)
    if match is not None:
        return match[1]
    if tree.exists(f"{device}/driver"):
        return os.path.basename(os.path.realpath(tree.locate(f"{device}/driver") or ""))
    return None if uevent is None else ""

"""Cards that the kernel's graphics drivers list, whoever made them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.hardware import gpu_table
from edgellm.hardware.linux import device_nodes, pci
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.printable import clean
from edgellm.types.gpu import Vendor
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator

_SLOT = re.compile(r"^PCI_SLOT_NAME=([\da-f]{4}:[\da-f]{2}:[\da-f]{2}\.[\da-f])$", re.MULTILINE)
_DRM = "/sys/class/drm"
_AMD_NAMES = "/usr/share/libdrm/amdgpu.ids"


@dataclass(frozen=True, slots=True)
class Card:
    path: str  # "/sys/class/drm/card0"
    vendor: Vendor
    name: str
    slot: str  # on the PCI bus; "" = not told
    driver: str  # "amdgpu", "i915", ...; "" = not told
    display: bool | None  # a screen is connected; None = not told

    @property
    def device(self) -> str:
        return f"{self.path}/device"


def cards(tree: SysRoot) -> Iterator[Card]:
    entries = tree.names(_DRM)
    for entry in entries:
        path = f"{_DRM}/{entry}"
        vendor = pci.VENDORS.get(tree.line(f"{path}/device/vendor") or "") if re.fullmatch(r"card\d+", entry) else None
        if vendor is not None:
            name = _name(tree, f"{path}/device", vendor)
            slot = _SLOT.search(tree.text(f"{path}/device/uevent") or "")
            screens = [tree.line(f"{_DRM}/{other}/status") for other in entries if other.startswith(f"{entry}-")]
            told = [state == "connected" for state in screens if state is not None]
            driver = pci.driver(tree, f"{path}/device") or ""
            yield Card(path, vendor, name, slot[1] if slot else "", driver, any(told) if told else None)


def _name(tree: SysRoot, device: str, vendor: Vendor) -> str:
    """The first of its names that the table of GPUs knows: firmware's, that of libdrm's list, its number."""
    names = [clean(tree.line(f"{device}/product_name") or ""), pci.numbered(tree, device, vendor)]
    if vendor == "amd":
        number, revision = (tree.line(f"{device}/{what}") or "0x?" for what in ("device", "revision"))
        line = rf"^{re.escape(number[2:])},\s*{re.escape(revision[2:])},\s*(\S.*)$"
        listed = re.search(line, tree.text(_AMD_NAMES) or "", re.MULTILINE | re.IGNORECASE)
        names.insert(1, clean(listed[1]) if listed else "")
    named = list(filter(None, names))
    return next((name for name in named if gpu_table.find(Accelerator("vulkan", name)) is not None), named[0])


def render_nodes(tree: SysRoot, card: Card) -> list[str]:
    """Files by which programs compute on it; those of every card where its own are not recorded."""
    entries = tree.names(f"{card.device}/drm") or tree.names("/dev/dri")
    return [f"/dev/dri/{entry}" for entry in entries if re.fullmatch(r"renderD\d{1,4}", entry)]


def barred(tree: SysRoot, card: Card) -> GpuProblem | None:
    """Why this user cannot compute on it, though the kernel lists it: the usual fate of containers."""
    for path in render_nodes(tree, card) or ["/dev/dri/renderD*"]:
        if problem := device_nodes.problem(tree, path, card.name):
            return problem
    return None

"""Cards that the kernel's graphics drivers list, whoever made them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.hardware.linux import device_nodes, pci
from edgellm.hardware.linux.cpu import clean
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.gpu import Vendor
from edgellm.types.gpu_problem import GpuProblem

_DRM = "/sys/class/drm"


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
            name = clean(tree.line(f"{path}/device/product_name") or "") or pci.numbered(tree, f"{path}/device", vendor)
            slot = re.search(r"^PCI_SLOT_NAME=(\S+)$", tree.text(f"{path}/device/uevent") or "", re.MULTILINE)
            screens = [tree.line(f"{_DRM}/{other}/status") for other in entries if other.startswith(f"{entry}-")]
            told = [state == "connected" for state in screens if state is not None]
            driver = pci.driver(tree, f"{path}/device") or ""
            yield Card(path, vendor, name, slot[1] if slot else "", driver, any(told) if told else None)


def render_nodes(tree: SysRoot, card: Card) -> list[str]:
    """Files by which programs compute on it; those of every card where its own are not recorded."""
    entries = tree.names(f"{card.device}/drm") or tree.names("/dev/dri")
    return [f"/dev/dri/{entry}" for entry in entries if entry.startswith("renderD")]


def barred(tree: SysRoot, card: Card) -> GpuProblem | None:
    """Why this user cannot compute on it, though the kernel lists it: the usual fate of containers."""
    for path in render_nodes(tree, card) or ["/dev/dri/renderD*"]:
        if problem := device_nodes.problem(tree, path, card.name):
            return problem
    return None

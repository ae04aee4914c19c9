"""How busy GPUs were lately, whoever used them, where drivers tell it: Intel's only of this user's programs."""

from __future__ import annotations

from collections.abc import Collection

from edgellm.hardware import nvml
from edgellm.hardware.linux import drm, drm_clients
from edgellm.hardware.linux.drm_clients import Clients
from edgellm.hardware.linux.sysfs import SysRoot

SETTLES_S = 1.2  # NVML's share is of up to the last second


def begin(tree: SysRoot | None = None) -> Clients:
    """What `busiest` compares with, `SETTLES_S` before it is asked."""
    return drm_clients.read(tree or SysRoot())


def busiest(slots: Collection[str], since: Clients, tree: SysRoot | None = None) -> float | None:
    """The largest share of the last second in which one of these GPUs computed; None where nothing tells.

    `slots`: on the PCI bus; "" = which one is not known, so any counts.
    """
    tree = tree or SysRoot()
    # A driver's own count is of everybody's programs.
    shares = drm_clients.shares(since, drm_clients.read(tree)) | _shares(tree)
    counted = [share for slot, share in shares.items() if slot in slots or "" in slots]
    return max(counted, default=None)


def _shares(tree: SysRoot) -> dict[str, float]:
    """By slot, as drivers count it themselves."""
    shares = nvml.busy() if tree.live else {}
    for card in drm.cards(tree):
        percent = tree.integer(f"{card.device}/gpu_busy_percent") if card.driver == "amdgpu" else None
        if percent is not None and 0 <= percent <= 100:
            shares[card.slot] = percent / 100
    return shares

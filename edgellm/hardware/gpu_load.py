"""How busy GPUs were lately, whoever used them: where their drivers tell it. Intel's tell administrators only."""

from __future__ import annotations

from collections.abc import Collection

from edgellm.hardware import nvml
from edgellm.hardware.linux import drm
from edgellm.hardware.linux.sysfs import SysRoot

SETTLES_S = 1.2  # NVML's share is of up to the last second


def busiest(slots: Collection[str], tree: SysRoot | None = None) -> float | None:
    """The largest share of the last second in which one of these GPUs computed; None where nothing tells.

    `slots`: on the PCI bus; "" = which one is not known, so any counts.
    """
    shares = _shares(tree or SysRoot())
    counted = [share for slot, share in shares.items() if slot in slots or "" in slots]
    return max(counted, default=None)


def _shares(tree: SysRoot) -> dict[str, float]:
    """By slot."""
    shares = nvml.busy() if tree.live else {}
    for card in drm.cards(tree):
        percent = tree.integer(f"{card.device}/gpu_busy_percent") if card.driver == "amdgpu" else None
        if percent is not None and 0 <= percent <= 100:
            shares[card.slot] = percent / 100
    return shares

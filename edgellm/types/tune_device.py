"""Where a tuning computes: the names that torch has for it, and what is known of a GPU before anything runs there."""

from __future__ import annotations

import re
from typing import Literal, get_args

import msgspec

from edgellm.errors import UsageError

CPU = "cpu"
DeviceKind = Literal["cpu", "cuda", "mps", "xpu"]
DEVICE_KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
# As backends that serve name the same devices (`edgellm doctor`): ggml's words.
_SERVED: dict[str, DeviceKind] = {"cuda": "cuda", "rocm": "cuda", "sycl": "xpu", "metal": "mps", "mtl": "mps"}
_NAME = re.compile(r"([a-z]+)(?::?(\d{1,3}))?", re.ASCII)


class TuneDevice(msgspec.Struct, frozen=True):
    """A GPU with its memory, in bytes."""

    name: str  # "cuda:0", "mps", "xpu:0"
    description: str  # "NVIDIA GeForce RTX 4090"
    total_bytes: int
    free_bytes: int  # now, beside what other programs hold there
    room_bytes: int  # of them, what may be used: less a reserve and what a process's context takes
    unified: bool = False  # its memory is the machine's


def device_kind(name: str) -> str:
    """Of "cuda:1": "cuda"."""
    return name.partition(":")[0]


def device_name(text: str) -> str:
    """The one that is meant: "CUDA", "cuda:0" and "CUDA0" are "cuda:0".

    Raises:
        UsageError: torch has no such name.
    """
    match = _NAME.fullmatch(text.strip().lower())
    kind = _SERVED.get(match[1], match[1]) if match else ""
    if match and kind in (CPU, "mps") and match[2] in (None, "0"):
        return kind
    if match and kind in ("cuda", "xpu"):
        return f"{kind}:{int(match[2] or 0)}"
    hint = "name one as cpu, cuda, cuda:1, mps or xpu, or leave it out: then it is chosen"
    raise UsageError(f"a tuning computes on no device {text[:80]!r}", hint=hint, param="device")

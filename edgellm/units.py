"""Bytes and durations, to and from what a person writes.

`KiB MiB GiB` are powers of 1024, `KB MB GB` powers of 1000; a bare number is bytes. File sizes are shown in
powers of 1000 (as hubs and disks do), memory in powers of 1024 (as operating systems do).
"""

from __future__ import annotations

import re
from datetime import datetime

from edgellm.errors import UsageError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_FACTORS = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB, "t": 1024**4, "tib": 1024**4,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d{1,20})(?:\.(\d{1,20}))?\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)

# A comma or an underscore parts thousands only: half of Europe writes 1,5k for one and a half.
_WHOLE = r"\d{1,20}|\d{1,3}(?:[,_]\d{3}){1,6}"
_TOKENS = re.compile(rf"\s*(?:({_WHOLE})\s*([km]?)|(\d{{1,6}})\.(\d{{1,6}})\s*([km]))\s*", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str, param: str = "") -> int:
    """`"700MiB"` -> 734003200. `param`: the option that it is of, for the error.

    Raises:
        UsageError: not a number with one of the known suffixes.
    """
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[3].lower()) if match else None
    if match is None or factor is None:
        hint = "write it as 700MiB, 2GiB, 1.5GB or a number of bytes"
        raise UsageError(f"{text!r} is not a size", hint=hint, param=param)
    decimals = match[2] or ""
    # Integers, because a float is off beyond 2**53.
    n_bytes: int = int(match[1] + decimals) * factor // 10 ** len(decimals)
    return n_bytes


def parse_rate(text: str) -> int:
    """`"2MB/s"` or `"2MB"` -> 2000000 bytes a second.

    Raises:
        UsageError: not a size, or none at all.
    """
    try:
        rate = parse_bytes(text.strip().removesuffix("/s"))
    except UsageError:
        rate = 0
    if rate <= 0:
        raise UsageError(f"{text!r} is not a rate", hint="write it as 2MB/s, 500kB/s or a number of bytes a second")
    return rate


def parse_tokens(text: str) -> int:
    """`"32k"` -> 32768, `"8,192"` -> 8192, `"1.5k"` -> 1536.

    Raises:
        UsageError: not a whole number, nor a number with k or m behind it.
    """
    match = _TOKENS.fullmatch(text)
    if match is None:
        hint = "write it as 8192 or 8k, which is the same"
        raise UsageError(f"{text!r} is not a number of tokens", hint=hint, param="ctx")
    digits, decimals, unit = match[1] or match[3] + match[4], match[4] or "", match[2] or match[5] or ""
    factor = {"": 1, "k": KIB, "m": MIB}[unit.lower()]
    n_tokens: int = int(digits.replace(",", "").replace("_", "")) * factor // 10 ** len(decimals)
    return n_tokens


def show_memory(n_bytes: float, *, exact: bool = False) -> str:
    """`1073741824` -> `"1.00 GiB"`; exact, in the largest unit that divides it, `1310720` -> `"1280 KiB"`."""
    units = (("GiB", GIB), ("MiB", MIB), ("KiB", KIB))
    if exact:
        unit, factor = next((pair for pair in units if n_bytes and n_bytes % pair[1] == 0), ("B", 1))
        return f"{n_bytes / factor:.0f} {unit}"
    for unit, factor in units:
        if abs(n_bytes) >= factor:
            return f"{n_bytes / factor:.2f} {unit}" if factor == GIB else f"{n_bytes / factor:.0f} {unit}"
    return f"{n_bytes:.0f} B"


def show_size(n_bytes: float) -> str:
    """`98362432` -> `"98.4 MB"`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(n_bytes) >= factor:
            return f"{n_bytes / factor:.2f} {unit}" if factor == 10**9 else f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def show_moment(iso: str) -> str:
    """`"2026-11-28T22:39:35+00:00"` -> `"2026-11-28 23:39"` on the clock here; what is no such text as it is."""
    try:
        return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return iso


def counted(n: int, noun: str) -> str:
    """`1, "thread"` -> `"1 thread"`, `1024, "thread"` -> `"1,024 threads"`."""
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s"


def show_params(n_params: float) -> str:
    """`40000` -> `"40K"`, `134515008` -> `"135M"`, `8030261248` -> `"8.0B"`."""
    if n_params >= 999.5e6:
        return f"{n_params / 1e9:.1f}B"
    unit, factor = next(
        ((unit, factor) for unit, factor in (("M", 1e6), ("K", 1e3)) if n_params >= 0.9995 * factor), ("", 1)
    )
    return f"{n_params / factor:.0f}{unit}"


def show_rate(per_second: float) -> str:
    """Three significant digits, below 1 one: `0.07`, `10.4`, `212`, `2,710`."""
    digits = 1 if per_second < 0.95 else 3
    return f"{per_second:.{digits}g}" if per_second < 999.5 else f"{float(f'{per_second:.3g}'):,.0f}"

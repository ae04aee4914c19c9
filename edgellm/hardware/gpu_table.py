"""From the name of a GPU, or its PCI id, to the facts of `gpus.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from statistics import median

import msgspec

from edgellm.files import package_data
from edgellm.hardware import gpu_names
from edgellm.types.gpu import Gpu, Known, Vendor
from edgellm.types.machine import Accelerator, SourceTrust
from edgellm.units import GIB

_BY_KIND: dict[str, Vendor] = {"cuda": "nvidia", "rocm": "amd", "xe": "intel", "metal": "apple"}
# Where only vendor and bandwidth are known, it is taken as one of the newest of its vendor.
_NEWEST = {"nvidia": "blackwell", "amd": "rdna4", "intel": "battlemage", "apple": "m5", "qualcomm": "adreno-8"}
_ALIKE = 0.12  # sizes and bandwidths that differ by less are the same: drivers keep some of both
_PCI_VENDOR: dict[Vendor, str] = {"nvidia": "10de", "amd": "1002", "intel": "8086"}


class GpuSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: str
    trust: SourceTrust


class GpuGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An architecture. `match` finds its devices by their names, `pci` by the numbers of the nameless; the first group
    that matches counts."""

    name: str
    vendor: Vendor
    match: str
    overhead_mib: tuple[int, int]
    pci: str = ""
    units: str = ""  # the architecture whose matrix units it has; "" = its own
    dual_issue: bool = False  # the data sheet counts two instructions at once, which these kernels do not reach


class GpuRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device as its data sheet describes it."""

    name: str
    group: str
    vram_gib: tuple[float, ...]
    gb_s: float
    fp32: float
    matrix: float
    source: str
    watts: float | None = None  # that the card may take
    link_gb_s: float | None = None
    unified: bool = False
    pci: str = ""  # "10de:2684", several with blanks between them
    also: tuple[str, ...] = ()  # other names of it


class GpuTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: str
    sources: dict[str, GpuSource]
    groups: tuple[GpuGroup, ...]
    rows: tuple[GpuRow, ...]


@lru_cache(maxsize=1)
def table() -> GpuTable:
    """Every known GPU, the groups in the order in which names are compared with them."""
    text = package_data("edgellm.hardware", "gpus.json")
    return msgspec.json.decode(text, type=GpuTable)


def find(accelerator: Accelerator, ram_bytes: int | None = None) -> Gpu | None:
    """What is known of it; None where neither its name nor a bandwidth says anything.

    A bandwidth that the driver or the profile states counts before the table's. `ram_bytes` of the machine tells
    devices apart that share it.
    """
    own = ram_bytes if accelerator.unified and ram_bytes else accelerator.vram_bytes
    return _find(accelerator.kind, accelerator.name, own, accelerator.bandwidth_gb_s)


@lru_cache(maxsize=512)
def _find(kind: str, text: str, vram_bytes: int | None, gb_s: float | None) -> Gpu | None:
    name = gpu_names.read(text)
    gib = vram_bytes / GIB if vram_bytes else name.gib
    number = re.fullmatch(r"(?:nvidia|amd|intel) gpu ([\da-f]{4})", text.strip().lower())
    if rows := _by_pci(text, number[1]) if number else _by_name(name):
        row, sure = _choose(rows, name, gib, gb_s)
        return _gpu(row, "device" if sure else "variant", gb_s)
    brand = gpu_names.vendor(text)
    vendor = _BY_KIND.get(kind, "unknown") if brand == "unknown" else brand
    for group in table().groups:
        matching = re.fullmatch(group.pci, number[1]) if number else re.search(group.match, name.text)
        if vendor in (group.vendor, "unknown") and matching:
            return _relative(group, name, text, gb_s, "family")
    if gb_s is None or vendor not in _NEWEST:
        return None
    newest = next(group for group in table().groups if group.name == _NEWEST[vendor])
    return _relative(newest, name, text, gb_s, "bandwidth")


def _by_pci(text: str, number: str) -> list[GpuRow]:
    """Of a name that only gives the vendor and the number: `"AMD GPU 744c"`."""
    wanted = f"{_PCI_VENDOR[gpu_names.vendor(text)]}:{number}"
    return [row for row in table().rows if wanted in row.pci.split()]


@lru_cache(maxsize=1)
def _names() -> tuple[tuple[gpu_names.GpuName, GpuRow], ...]:
    return tuple((gpu_names.read(text), row) for row in table().rows for text in (row.name, *row.also))


def _by_name(name: gpu_names.GpuName) -> list[GpuRow]:
    """Rows with the longest of the names that `name` contains; of equally long ones the first."""
    best, rows = (0, 0), list[GpuRow]()
    if "mig" in name.words:
        return rows  # an instance has a part of its device's arithmetic, as others of its family have for its bandwidth
    for known, row in _names():
        start = gpu_names.position(known.words, name.words) if known.words else None
        if start is None:
            continue
        rank = (len(known.words), -start)
        if rank > best:
            best, rows = rank, []
        if rank == best and row not in rows:
            rows.append(row)
    return rows


def _choose(
    rows: Sequence[GpuRow], name: gpu_names.GpuName, gib: float | None, gb_s: float | None
) -> tuple[GpuRow, bool]:
    """The one that memory, bandwidth and cores fit; the slowest, and not surely that one, where several do."""
    fits = list(rows)
    for matching in (
        [row for row in fits if name.cores is not None and gpu_names.read(row.name).cores == name.cores],
        [row for row in fits if gb_s is not None and _alike(row.gb_s, gb_s)],
        [row for row in fits if gib is not None and any(_alike(size, gib) for size in row.vram_gib)],
        [row for row in fits if gpu_names.read(row.name) == name],
    ):
        both = [row for row in fits if row in matching]
        fits = both or fits
    slowest = min(fits, key=lambda row: (row.gb_s, row.matrix))
    return slowest, len({(row.gb_s, row.matrix) for row in fits}) == 1


def _alike(size: float, other: float) -> bool:
    return abs(size - other) <= _ALIKE * size


def _gpu(row: GpuRow, known: Known, gb_s: float | None) -> Gpu:
    group = next(group for group in table().groups if group.name == row.group)
    source = table().sources[row.source]
    return Gpu(
        name=row.name, group=group.name, vendor=group.vendor, known=known, bandwidth_gb_s=gb_s or row.gb_s,
        fp32_tflops=row.fp32 / (2 if group.dual_issue else 1), matrix_tflops=row.matrix, power=_power(row),
        vram_bytes=tuple(round(size * GIB) for size in row.vram_gib), unified=row.unified,
        overhead_mib=group.overhead_mib, link_gb_s=row.link_gb_s, source=source.about, trust=source.trust,
    )  # fmt: skip


def _power(row: GpuRow) -> float:
    """1 where its watts are not known, as those of laptops, which their makers set."""
    return row.watts / row.matrix / _usual_power(row.group) if row.watts else 1.0


@lru_cache
def _usual_power(name: str) -> float:
    """Watts for each 1e12 flop/s of the cards with the same units."""
    group = next(group for group in table().groups if group.name == name)
    wanted = group.units or name
    return median(row.watts / row.matrix for row in table().rows if row.group == wanted and row.watts)


def _relative(group: GpuGroup, name: gpu_names.GpuName, text: str, gb_s: float | None, known: Known) -> Gpu:
    """A device of `group` that is not in the table: as its relatives are for their bandwidth."""
    rows = [row for row in table().rows if row.group == group.name]
    near = [row for row in rows if name.numbers & gpu_names.read(row.name).numbers] or rows
    rates = [row.gb_s for row in near]
    # Without a bandwidth, the geometric mean of its relatives': half and twice are equally likely to be wrong.
    middle = gb_s or math.sqrt(min(rates) * max(rates))
    fp32 = middle * median(row.fp32 / row.gb_s for row in rows)
    links = [row.link_gb_s for row in near if row.link_gb_s is not None]
    return Gpu(
        name=text, group=group.name, vendor=group.vendor, known=known, bandwidth_gb_s=middle,
        fp32_tflops=fp32 / (2 if group.dual_issue else 1),
        matrix_tflops=middle * median(row.matrix / row.gb_s for row in rows),
        unified=all(row.unified for row in rows), overhead_mib=group.overhead_mib,
        link_gb_s=min(links) if links else None,
        bandwidth_range=None if gb_s else (min(rates), max(rates)), source="relatives in the table",
    )  # fmt: skip

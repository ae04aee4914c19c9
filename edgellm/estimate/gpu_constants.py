"""The constants of `gpu_terms`: fitted on published rates, by architecture and library, never by device."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from edgellm.files import package_data
from edgellm.types.gpu import Api, Gpu


class GpuCell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """GPUs with one share of their peaks."""

    api: Api
    groups: tuple[str, ...]  # as in hardware/gpus.json
    devices: int = 0  # whose published prompts made its constants


class GpuConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`values` by name, as terms name them; bands as factors of the middle, by class (`gpu_speed`)."""

    about: str
    source: str
    decode_cells: dict[str, GpuCell]
    prefill_cells: dict[str, GpuCell]
    values: dict[str, float]
    decode_bands: dict[str, tuple[float, float]]
    prefill_bands: dict[str, tuple[float, float]]

    def decode_cell(self, gpu: Gpu, api: Api) -> str | None:
        """None: nobody knows how fast that library is on such a GPU."""
        return _cell(self.decode_cells, gpu.group, api)

    def prefill_cell(self, gpu: Gpu, api: Api) -> str | None:
        return _cell(self.prefill_cells, gpu.group, api)


@lru_cache(maxsize=1)
def constants() -> GpuConstants:
    """Those that ship."""
    text = package_data("edgellm.estimate", "gpu_constants.json")
    return msgspec.json.decode(text, type=GpuConstants)


@lru_cache
def shipped_cells(group: str, api: Api) -> tuple[str | None, str | None]:
    """Of those that ship, the cells of decode and of prompts."""
    return _cell(constants().decode_cells, group, api), _cell(constants().prefill_cells, group, api)


def _cell(cells: dict[str, GpuCell], group: str, api: Api) -> str | None:
    return next((name for name, cell in cells.items() if cell.api == api and group in cell.groups), None)

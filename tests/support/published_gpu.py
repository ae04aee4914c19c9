"""Published rates of llama.cpp on GPUs (`tests/estimate/published_gpu.json`), each with what predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import msgspec

from edgellm.catalog.lookup import catalog
from edgellm.estimate.weights import Weights, weights
from edgellm.hardware import gpu_table
from edgellm.types.gpu import Api, Gpu
from edgellm.types.machine import Accelerator
from edgellm.types.model import Shape
from edgellm.units import GIB

DATA = Path(__file__).parents[1] / "estimate" / "published_gpu.json"
# Mixes by hand, and what most of their tensors are; their sizes are the files'.
_LIKE = {
    "UD-Q4_K_XL": "Q4_K_M", "Q4_K_XL": "Q4_K_M", "Q8_K_XL": "Q8_0", "UD-Q3_K_XL": "Q3_K_M", "UD-IQ2_M": "IQ2_M",
    "UD-IQ2_XXS": "IQ2_XXS", "APEX-MTP-I-Mini": "IQ4_XS",
}  # fmt: skip
_ANSWER = 1024  # tokens of a long answer whose mean depth counts, where the source does not give it


@dataclass(frozen=True, slots=True)
class Row:
    """One published measurement. Rates in tokens per second."""

    gpu: Gpu
    api: Api
    model: str
    quant: str
    shape: Shape
    weights: Weights
    params: int
    params_active: int
    decode: float | None
    depth: int  # tokens cached in the middle of the answer
    prefill: float | None
    tokens: int | None  # of the prompt
    ubatch: int
    prompt_depth: int
    build: str
    trust: str
    n_devices: int
    layers: int  # on GPUs; 99 = all
    experts_away: int  # layers whose experts stay on the CPU
    host: str
    flash: bool | None  # flash attention; None: the source does not say
    source: str
    held: bool  # no constant is fitted to it

    @property
    def whole(self) -> bool:
        """One GPU holds all of it, on a host that is not known to be weak; which library ran is known."""
        alone = self.n_devices == 1 and self.layers == 99 and not self.experts_away
        return alone and not self.host.startswith("weak") and self.fits

    @property
    def fits(self) -> bool:
        own = self.gpu.vram_bytes
        return self.gpu.unified or not own or self.weights.total_bytes < max(own)

    @property
    def trusted(self) -> bool:
        return self.trust != "low"

    @property
    def old(self) -> bool:
        """Of builds whose kernels were replaced since."""
        return self.build.startswith(("2023", "2024"))


@lru_cache(maxsize=1)
def rows() -> tuple[Row, ...]:
    """Every row whose library is named."""
    data = msgspec.json.decode(DATA.read_bytes())
    named = (dict(zip(data["columns"], values, strict=True)) for values in data["rows"])
    return tuple(_row(row, data) for row in named if row["backend"] != "unknown")


def _row(row: dict[str, Any], data: dict[str, Any]) -> Row:
    shape, params, active = _model(data["same"].get(row["model"], row["model"]), data)
    size = weights(shape, params, active, _LIKE.get(row["quant"], row["quant"]))
    if row["size_gib"]:
        size = size.with_tensor_bytes(round(row["size_gib"] * GIB))
    gpu = gpu_table.find(Accelerator("unknown", row["device"]))
    assert gpu is not None, row["device"]
    answer = min(row["tg_n"] or 128, _ANSWER)
    return Row(
        gpu=gpu, api=cast(Api, row["backend"]), model=row["model"], quant=row["quant"], shape=shape, weights=size,
        params=params, params_active=active, decode=row["tg_tps"],
        depth=row["depth_mean"] or row["depth"] + answer // 2, prefill=row["pp_tps"], tokens=row["pp_n"],
        ubatch=row["n_ubatch"] or 512, prompt_depth=row["depth"], build=row["build"] or "", trust=row["trust"],
        n_devices=row["n_devices"], layers=row["ngl"], experts_away=row["n_cpu_moe"], host=row["host"] or "",
        flash=row["flash_attn"], source=data["sources"][row["source"]], held=row["source"] in data["held"],
    )  # fmt: skip


def _model(name: str, data: dict[str, Any]) -> tuple[Shape, int, int]:
    if name not in data["shapes"]:
        card = catalog()[name]
        assert card.shape is not None
        return card.shape, card.params, card.params_active
    shape = Shape(**data["shapes"][name])
    if name in data["params"]:
        return (shape, *data["params"][name])
    n = sum(count for _, count in weights(shape, 0, 0, "F16").streamed_params)
    return shape, n, n


def by_device(these: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each device."""
    devices: dict[str, list[Row]] = {}
    for row in these:
        devices.setdefault(row.gpu.name, []).append(row)
    return devices

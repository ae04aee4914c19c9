"""The placement that a plan's settings mean, to predict what a load has measured."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.selection.load import sums_of
from edgellm.selection.placement import DevicePart, Placement
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.layers import Layers
from edgellm.types.model import Shape
from edgellm.types.plan import Footprint, Settings
from edgellm.types.request import ALL_LAYERS


def placed_by(
    settings: Settings, shape: Shape, layers: Layers, gpus: Sequence[UsableGpu], memory: Footprint
) -> Placement | None:
    """None where no GPU computes, or not all of them are known: one is not among `gpus`, or several have layers and
    nothing says how many each."""
    total = shape.n_layer + 1
    count = total if settings.gpu_layers == ALL_LAYERS else min(settings.gpu_layers, total)
    by_name = {gpu.name: gpu for gpu in gpus}
    names = settings.devices or tuple(by_name)
    held = settings.device_layers or (count,)
    if count < 1 or len(names) != len(held) or sum(held) != count or not by_name.keys() >= set(names):
        return None
    first = start = total - count
    parts: list[DevicePart] = []
    for name, n in zip(names, held, strict=True):
        is_last = len(parts) == len(names) - 1
        away = max(0, min(start + n - is_last, settings.experts_away) - start)
        parts.append(DevicePart(by_name[name], start, n - is_last, is_last, away, 0))
        start += n
    sums = sums_of(layers)
    in_ram = sums.experts[max(first, settings.experts_away)] - sums.experts[first] + sums.blocks[first]
    return Placement(
        memory, shape.n_layer, tuple(parts), settings.experts_away, settings.n_batch, in_ram,
        copied_bytes=parts[0].device.copied_bytes(memory.kv_bytes, settings.n_slots),
    )  # fmt: skip

"""The placements of a model that are worth comparing, and the one with as many layers on GPUs as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from msgspec import structs

from edgellm.estimate.footprint import COMPUTE_TOUCHED_BYTES, UBATCH
from edgellm.selection.load import Load
from edgellm.selection.placement import DevicePart, Placement
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.layers import Layers
from edgellm.types.plan import Footprint
from edgellm.types.refusal import LayersDoNotFit, WholeModelOnly
from edgellm.types.request import ALL_LAYERS

# Weights in RAM are copied to the GPU once for each batch of a prompt: with four times as many tokens in it prompts are
# read three times as fast (gpt-oss-120b on an RTX 3090: 380 and 1,112 tok/s; research notes on GPUs, section 2).
LARGE_UBATCH = 2048


def asked(load: Load, gpus: Sequence[UsableGpu], count: int) -> Placement:
    """As many layers as are asked for (-1 = all), on discrete devices where there are any, the fastest filled first."""
    count = load.total if count == ALL_LAYERS else min(count, load.total)
    devices = _together(gpus) or tuple(gpus[:1])
    if not devices or count == 0:
        return load.alone()
    if devices[0].provider is not None:
        devices = devices[-1:]
        if count < load.total:
            return structs.replace(load.alone(), problem=WholeModelOnly(count, load.total, devices[0].description))
    placed = _placed(load, devices, count)
    if placed is not None:
        return placed
    fitting = 0 if devices[0].provider is not None else _most(load, devices)
    # Shown as it would be if there were room.
    roomy = (replace(devices[-1], room_bytes=1 << 60),)
    wished, parts = _placed(load, roomy, count), _filled(load, roomy, count, 0, UBATCH)
    assert wished is not None
    assert parts is not None
    names, usable = ", ".join(gpu.description for gpu in devices), sum(gpu.room_bytes for gpu in devices)
    needed = sum(part.n_bytes for part in parts)
    return structs.replace(wished, problem=LayersDoNotFit(count, load.total, needed, usable, names, fitting))


def possible(load: Load, gpus: Sequence[UsableGpu]) -> Iterator[Placement]:
    """Every placement worth comparing: the processor alone, and of each set of devices the most that it holds.

    A larger memory never takes one away or makes one slower, so that it never makes a plan worse.
    """
    yield load.alone()
    for devices in _sets(gpus):
        whole = _placed(load, devices, load.total)
        if whole is not None:
            yield whole
        if whole is not None or devices[0].provider is not None:
            continue
        if load.has_experts and not devices[0].unified:
            for ubatch in (UBATCH, LARGE_UBATCH):
                if (away := _with_experts_away(load, devices, ubatch)) is not None:
                    yield away
        n = _most(load, devices)
        if n > 1 and (part := _placed(load, devices, n)) is not None:
            yield part


def others(load: Load, devices: Sequence[UsableGpu], experts_away: int) -> Iterator[Placement]:
    """What to compare a placement on these devices with: without them, and with more of the model off them."""
    yield load.alone()
    used = tuple(devices)
    if not used or used[0].provider is not None:
        return
    blocks = load.n_blocks
    for ubatch in (UBATCH, LARGE_UBATCH) if load.has_experts and not used[0].unified else ():
        for experts in ((experts_away + blocks) // 2, blocks):
            if (away := _placed(load, used, load.total, experts=experts, ubatch=ubatch)) is not None:
                yield away
    if (half := _placed(load, used, min(_most(load, used), load.total // 2))) is not None:
        yield half


def _sets(gpus: Sequence[UsableGpu]) -> Iterator[tuple[UsableGpu, ...]]:
    """Each device alone, and all that have a memory of their own together."""
    for gpu in gpus:
        yield (gpu,)
    if len(discrete := _together([gpu for gpu in gpus if gpu.provider is None])) > 1:
        yield discrete


def _together(gpus: Sequence[UsableGpu]) -> tuple[UsableGpu, ...]:
    """All that have a memory of their own, the fastest last: that one holds the output table and is filled first."""
    discrete = [gpu for gpu in gpus if not gpu.unified]
    return tuple(sorted(discrete, key=lambda gpu: gpu.gpu.bandwidth_gb_s if gpu.gpu is not None else 0.0))


def _with_experts_away(load: Load, devices: tuple[UsableGpu, ...], ubatch: int) -> Placement | None:
    """All layers there, with the routed experts of as few blocks in RAM as fits; None where not even all of them do."""
    low, high = 1, load.n_blocks
    fits = _fitting(load, devices, ubatch)
    if not fits(load.total, high):
        return None
    while low < high:
        middle = (low + high) // 2
        if fits(load.total, middle):
            high = middle
        else:
            low = middle + 1
    return _placed(load, devices, load.total, experts=low, ubatch=ubatch)


def _most(load: Load, devices: tuple[UsableGpu, ...]) -> int:
    """The most layers that fit, 0 where none does."""
    low, high = 0, load.total
    fits = _fitting(load, devices, UBATCH)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle, 0):
            low = middle
        else:
            high = middle - 1
    return low


def _fitting(load: Load, devices: tuple[UsableGpu, ...], ubatch: int) -> Callable[[int, int], bool]:
    """`fits(count, experts)`: whether `_placed` places them. For one device without making rows: this is asked most."""
    if len(devices) > 1:
        return lambda count, experts: _placed(load, devices, count, experts=experts, ubatch=ubatch) is not None
    needed, total = load.needs(ubatch), load.total
    room = load.room(devices[0], 0, ubatch)
    return lambda count, experts: needed(total - count, experts) <= room


def _first_held(load: Load, first: int, end: int, experts: int, ubatch: int, *, room: int) -> int:
    """Of the blocks from `first` on, the first from which on they fit together; `end` where none does."""
    if load.held_bytes(first, end, experts, ubatch) <= room:
        return first
    low, high = first + 1, end
    while low < high:
        middle = (low + high) // 2
        if load.held_bytes(middle, end, experts, ubatch) <= room:
            high = middle
        else:
            low = middle + 1
    return min(low, end)


def _placed(
    load: Load, devices: tuple[UsableGpu, ...], count: int, *, experts: int = 0, ubatch: int = UBATCH
) -> Placement | None:
    """`count` layers, the last ones, on `devices`, filled from the last one on; None where they do not fit.

    `experts`: of how many of the first blocks the routed ones stay in RAM.
    """
    n_blocks, first = load.n_blocks, load.total - count
    if count < 1:
        return None
    cpu = load.on_cpu(ubatch)
    parts = _filled(load, devices, count, experts, ubatch)
    if parts is None:
        return None
    if devices[0].unified:
        # It may map so much of the machine's memory, and what it maps is counted there.
        shared = tuple(structs.replace(part, n_bytes=0) for part in parts)
        footprint = _shared(cpu, devices[0], count, load)
        return Placement(
            footprint, n_blocks, shared, host_weight_bytes=load.sums.blocks[first],
            copied_bytes=load.copied_bytes(devices[0]),
        )  # fmt: skip
    away, before = load.away_bytes(first, n_blocks, experts), load.sums.blocks
    gone = before[n_blocks] - before[first] - away
    kv_bytes = cpu.kv_bytes if first == 0 else load.kv_bytes(first, n_blocks, ubatch)
    copied = load.copied_bytes(devices[0])
    held = _rest(
        cpu, load.sizes, gone, 0 if copied else kv_bytes, idle=count > n_blocks and not experts,
        on_gpus=sum(p.n_bytes for p in parts),
    )  # fmt: skip
    return Placement(held, n_blocks, parts, experts, ubatch, before[first] + away, copied_bytes=copied)


def _filled(
    load: Load, devices: tuple[UsableGpu, ...], count: int, experts: int, ubatch: int
) -> tuple[DevicePart, ...] | None:
    """What each device holds, in their order; None where they do not hold all."""
    parts: list[DevicePart] = []
    first, end, has_table = load.total - count, load.n_blocks, True
    scratch = load.scratch_bytes(first, experts, ubatch)
    if len(devices) == 1:
        (device,) = devices
        free = load.room(device, first, ubatch) - load.needs(ubatch)(first, experts)
        n_bytes = device.room_bytes - free
        return None if free < 0 else (_part(device, first, end, experts, True, n_bytes, scratch),)
    for device in reversed(devices):
        room = load.room_for_blocks(device, first, experts, ubatch) - (load.sizes.output if has_table else 0)
        if room < 0 and has_table:
            return None
        start = _first_held(load, first, end, experts, ubatch, room=room)
        if start < end or has_table:
            n_bytes = device.room_bytes - room + load.held_bytes(start, end, experts, ubatch)
            parts.append(_part(device, start, end, experts, has_table, n_bytes, scratch))
            end, has_table = start, False
        if end == first:
            return tuple(reversed(parts))
    return None


def _part(  # noqa: PLR0917
    device: UsableGpu, first: int, end: int, experts: int, table: bool, n_bytes: int, scratch_bytes: int
) -> DevicePart:
    away = max(0, min(end, experts) - first)
    return DevicePart(device, first, end - first, table, away, n_bytes, scratch_bytes)


def _rest(cpu: Footprint, sizes: Layers, gone: int, kv_bytes: int, *, idle: bool, on_gpus: int) -> Footprint:
    """What stays in RAM without `gone` bytes of blocks and the output table. `idle`: only embeddings are computed."""
    compute_bytes, resident_bytes = cpu.compute_bytes, cpu.compute_resident_bytes
    if idle:
        compute_bytes = min(compute_bytes, COMPUTE_TOUCHED_BYTES)
    resident_bytes = compute_bytes if resident_bytes is None else min(compute_bytes, resident_bytes)
    weights_bytes = max(0, cpu.weights_bytes - gone - (0 if sizes.tied else sizes.output))
    kept = weights_bytes / max(1, cpu.weights_bytes)
    return structs.replace(
        cpu,
        weights_bytes=weights_bytes,
        repack_bytes=round(cpu.repack_bytes * kept),
        reclaimable_bytes=round(cpu.reclaimable_bytes * kept),
        kv_bytes=max(0, cpu.kv_bytes - kv_bytes),
        compute_bytes=compute_bytes,
        compute_resident_bytes=resident_bytes,
        device_bytes=on_gpus,
    )


def _shared(cpu: Footprint, device: UsableGpu, count: int, load: Load) -> Footprint:
    """Its memory is the machine's: everything counts once, and nothing is copied into a layout for the processor."""
    left = 1 - (count - 1) / max(1, load.n_blocks)
    return structs.replace(
        cpu,
        process_bytes=cpu.process_bytes + device.context_bytes,
        repack_bytes=round(cpu.repack_bytes * left),
        reclaimable_bytes=round(cpu.reclaimable_bytes * left),
    )

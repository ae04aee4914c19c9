"""Where a model's layers may lie, and what each place takes of every memory.

Layers are counted as llama.cpp does (`load_tensors` in src/llama-model.cpp, b11434): from the end, the output table
first, then the last block; the embedding table stays in RAM, and where it is the output table too, the GPU has a copy.
The cache of a block lies with its weights. Routed experts of the first blocks may stay in RAM. Each device takes
scratch of its own for one batch, and the context of its driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate

from edgellm.estimate.footprint import COMPUTE_TOUCHED_BYTES, UBATCH
from edgellm.estimate.layer_bytes import Layers
from edgellm.estimate.model_share import ModelShare
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.plan import Footprint, PlacedPart
from edgellm.types.refusal import LayersDoNotFit
from edgellm.types.request import ALL_LAYERS

# Weights in RAM are copied to the GPU once for each batch of a prompt: with four times as many tokens in it prompts are
# read three times as fast (gpt-oss-120b on an RTX 3090: 380 and 1,112 tok/s; research notes on GPUs, section 2).
LARGE_UBATCH = 2048


@dataclass(frozen=True, slots=True)
class DevicePart:
    """What one GPU holds."""

    device: UsableGpu
    first: int  # block; it holds `blocks` of them from there on
    blocks: int
    table: bool  # the output table
    experts_away: int  # of how many of its blocks the routed experts stay in RAM
    n_bytes: int  # all that it takes of its memory; 0 where that is the machine's


@dataclass(frozen=True)
class Placement:
    """One way to run a model: `parts` on GPUs, the rest on the processor, which takes `footprint` of RAM."""

    footprint: Footprint
    n_blocks: int
    parts: tuple[DevicePart, ...] = ()
    experts_away: int = 0  # of how many of the first blocks the routed experts stay in RAM
    ubatch: int = UBATCH
    host_weight_bytes: int = 0  # of weights that a batch of a prompt reads from RAM; without the input embedding
    problem: LayersDoNotFit | None = None  # of layers that were asked for

    @property
    def layers(self) -> int:
        """On GPUs, the output table among them."""
        return sum(part.blocks + part.table for part in self.parts)

    @property
    def gpu_layers(self) -> int:
        """As in `Settings.gpu_layers`."""
        return ALL_LAYERS if self.layers == self.n_blocks + 1 else self.layers

    @property
    def is_whole(self) -> bool:
        """Whether GPUs compute everything."""
        return self.gpu_layers == ALL_LAYERS and not self.experts_away

    @cached_property
    def is_unified(self) -> bool:
        return any(part.device.unified for part in self.parts)

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for placements that differ in bytes only."""
        held = tuple((part.device.name, part.blocks, part.experts_away) for part in self.parts)
        return (held, self.experts_away, self.ubatch)

    @property
    def on_gpus(self) -> tuple[PlacedPart, ...]:
        """As a plan tells it."""
        return tuple(
            PlacedPart(p.device.name, p.device.description, p.blocks + p.table, p.n_bytes, p.device.unified)
            for p in self.parts
        )

    def share(self, part: DevicePart) -> ModelShare:
        experts = 1 - part.experts_away / part.blocks if part.blocks else 1.0
        return ModelShare(part.blocks / max(1, self.n_blocks), part.table, experts)


@dataclass(frozen=True)
class Load:
    """What is to be placed: a model with its cache. `on_cpu(ubatch)` is what it takes where no GPU takes part."""

    sizes: Layers
    on_cpu: Callable[[int], Footprint]

    @property
    def total(self) -> int:
        return len(self.sizes.blocks) + 1

    @cached_property
    def sums(self) -> _Sums:
        return _sums(self.sizes)

    @property
    def has_experts(self) -> bool:
        return any(self.sizes.experts)

    def alone(self) -> Placement:
        return Placement(self.on_cpu(UBATCH), len(self.sizes.blocks))


def asked(load: Load, gpus: Sequence[UsableGpu], count: int) -> Placement:
    """As many layers as are asked for (-1 = all), on discrete devices where there are any."""
    count = load.total if count == ALL_LAYERS else min(count, load.total)
    devices = tuple(gpu for gpu in gpus if not gpu.unified) or tuple(gpus[:1])
    if not devices or count == 0:
        return load.alone()
    placed = _placed(load, devices, count)
    if placed is not None:
        return placed
    fitting = _most(load, devices)
    # Shown as it would be if there were room.
    roomy = tuple(replace(gpu, room_bytes=1 << 60) for gpu in devices)
    wished = _placed(load, roomy[:1], count)
    assert wished is not None
    names, usable = ", ".join(gpu.description for gpu in devices), sum(gpu.room_bytes for gpu in devices)
    needed = sum(part.n_bytes for part in wished.parts)
    return replace(wished, problem=LayersDoNotFit(count, load.total, needed, usable, names, fitting))


def possible(load: Load, gpus: Sequence[UsableGpu]) -> Iterator[Placement]:
    """Every placement worth comparing: the processor alone, and of each set of devices the most that it holds.

    A larger memory never takes one away or makes one slower, so that it never makes a plan worse.
    """
    yield load.alone()
    for devices in _sets(gpus):
        whole = _placed(load, devices, load.total)
        if whole is not None:
            yield whole
            continue
        if load.has_experts:
            for ubatch in (UBATCH, LARGE_UBATCH):
                if (away := _with_experts_away(load, devices, ubatch)) is not None:
                    yield away
        n = _most(load, devices)
        if n > 1 and (part := _placed(load, devices, n)) is not None:
            yield part


def others(load: Load, devices: Sequence[UsableGpu], experts_away: int) -> Iterator[Placement]:
    """What to compare a placement on these devices with: without them, and with more of the model off them."""
    yield load.alone()
    discrete = tuple(devices)
    if not discrete:
        return
    blocks = len(load.sizes.blocks)
    for ubatch in (UBATCH, LARGE_UBATCH) if load.has_experts and not discrete[0].unified else ():
        for experts in ((experts_away + blocks) // 2, blocks):
            if (away := _placed(load, discrete, load.total, experts=experts, ubatch=ubatch)) is not None:
                yield away
    if (half := _placed(load, discrete, min(_most(load, discrete), load.total // 2))) is not None:
        yield half


def _sets(gpus: Sequence[UsableGpu]) -> Iterator[tuple[UsableGpu, ...]]:
    """Each device alone, and all that have a memory of their own together, the fastest last."""
    for gpu in gpus:
        yield (gpu,)
    discrete = [gpu for gpu in gpus if not gpu.unified]
    if len(discrete) > 1:
        # The last one holds the output table and is filled first.
        yield tuple(sorted(discrete, key=lambda gpu: gpu.gpu.bandwidth_gb_s if gpu.gpu is not None else 0.0))


def _with_experts_away(load: Load, devices: tuple[UsableGpu, ...], ubatch: int) -> Placement | None:
    """All layers there, with the routed experts of as few blocks in RAM as fits; None where not even all of them do."""
    low, high = 1, len(load.sizes.blocks)
    if not _fits(load, devices, load.total, high, ubatch):
        return None
    while low < high:
        middle = (low + high) // 2
        if _fits(load, devices, load.total, middle, ubatch):
            high = middle
        else:
            low = middle + 1
    return _placed(load, devices, load.total, experts=low, ubatch=ubatch)


def _most(load: Load, devices: tuple[UsableGpu, ...]) -> int:
    """The most layers that fit, 0 where none does."""
    low, high = 0, load.total
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(load, devices, middle, 0, UBATCH):
            low = middle
        else:
            high = middle - 1
    return low


def _fits(load: Load, devices: tuple[UsableGpu, ...], count: int, experts: int, ubatch: int) -> bool:
    """Whether `_placed` places them. For one device without looking at each block: this is asked most."""
    if len(devices) > 1 or devices[0].unified:
        return _placed(load, devices, count, experts=experts, ubatch=ubatch) is not None
    if count < 1:
        return False
    return _free_of_blocks(load, devices[0], count, experts, ubatch) - load.sizes.output >= _held_bytes(
        load, len(load.sizes.blocks) - (count - 1), len(load.sizes.blocks), experts, ubatch
    )


def _held_bytes(load: Load, first: int, end: int, experts: int, ubatch: int) -> int:
    """Weights and cache of blocks on a device."""
    sums = load.sums
    away = sums.experts[max(first, min(end, experts))] - sums.experts[first]
    return sums.blocks[end] - sums.blocks[first] - away + _kv_of_block(load, ubatch) * (end - first)


def _first_held(load: Load, first: int, end: int, experts: int, ubatch: int, *, room: int) -> int:
    """Of the blocks from `first` on, the first from which on they fit together; `end` where none does."""
    if _held_bytes(load, first, end, experts, ubatch) <= room:
        return first
    low, high = first + 1, end
    while low < high:
        middle = (low + high) // 2
        if _held_bytes(load, middle, end, experts, ubatch) <= room:
            high = middle
        else:
            low = middle + 1
    return min(low, end)


def _kv_of_block(load: Load, ubatch: int) -> int:
    # Blocks without a cache count like those with one, so that what is planned does not depend on which they are.
    return -(-load.on_cpu(ubatch).kv_bytes // max(1, len(load.sizes.blocks)))


def _free_of_blocks(load: Load, device: UsableGpu, count: int, experts: int, ubatch: int) -> int:
    """Room for blocks and output table, beside scratch and the driver's context."""
    sums = load.sums
    # A batch of a prompt copies weights that lie in RAM to the GPU, one matrix at a time: half of a block is more.
    left = sums.largest_block if count <= len(load.sizes.blocks) else sums.largest_experts if experts else 0
    # Or the cache of a block in RAM, with the keys of the next.
    cached = 3 * _kv_of_block(load, ubatch) if count <= len(load.sizes.blocks) else 0
    return device.room_bytes - device.context_bytes - load.on_cpu(ubatch).compute_bytes - max(left, cached) // 2


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of blocks and their routed experts, what those before each take together; and the largest of each."""

    blocks: tuple[int, ...]
    experts: tuple[int, ...]
    largest_block: int
    largest_experts: int


@lru_cache(maxsize=4096)
def _sums(sizes: Layers) -> _Sums:
    return _Sums(
        tuple(accumulate(sizes.blocks, initial=0)), tuple(accumulate(sizes.experts, initial=0)),
        max(sizes.blocks, default=0), max(sizes.experts, default=0),
    )  # fmt: skip


def _placed(
    load: Load, devices: tuple[UsableGpu, ...], count: int, *, experts: int = 0, ubatch: int = UBATCH
) -> Placement | None:
    """`count` layers, the last ones, on `devices`, filled from the last one on; None where they do not fit.

    `experts`: of how many of the first blocks the routed ones stay in RAM.
    """
    n_blocks = len(load.sizes.blocks)
    if count < 1:
        return None
    cpu = load.on_cpu(ubatch)
    first = n_blocks - (count - 1)
    if devices[0].unified:
        return Placement(
            _shared(cpu, devices[0], count, load), n_blocks, (_part(devices[0], first, n_blocks, experts),)
        )
    parts: list[DevicePart] = []
    end, has_table = n_blocks, True
    for device in reversed(devices):
        room = _free_of_blocks(load, device, count, experts, ubatch) - (load.sizes.output if has_table else 0)
        if room < 0 and has_table:
            return None
        start = _first_held(load, first, end, experts, ubatch, room=room)
        if start < end or has_table:
            n_bytes = device.room_bytes - room + _held_bytes(load, start, end, experts, ubatch)
            parts.append(replace(_part(device, start, end, experts), table=has_table, n_bytes=n_bytes))
            end, has_table = start, False
        if end == first:
            break
    if end > first:
        return None
    sums = load.sums
    away = sums.experts[max(first, experts)] - sums.experts[first]
    gone = sums.blocks[n_blocks] - sums.blocks[first] - away
    kv_bytes = cpu.kv_bytes if count > n_blocks else _kv_of_block(load, ubatch) * (count - 1)
    left = _rest(cpu, load.sizes, gone, kv_bytes, idle=count > n_blocks and not experts)
    held = replace(left, device_bytes=sum(part.n_bytes for part in parts))
    return Placement(held, n_blocks, tuple(reversed(parts)), experts, ubatch, sums.blocks[first] + away)


def _part(device: UsableGpu, first: int, end: int, experts: int) -> DevicePart:
    return DevicePart(device, first, end - first, True, max(0, min(end, experts) - first), 0)


def _rest(cpu: Footprint, sizes: Layers, gone: int, kv_bytes: int, *, idle: bool) -> Footprint:
    """What stays in RAM without `gone` bytes of blocks and the output table. `idle`: only embeddings are computed."""
    compute_bytes, resident_bytes = cpu.compute_bytes, cpu.compute_resident_bytes
    if idle:
        compute_bytes = min(compute_bytes, COMPUTE_TOUCHED_BYTES)
    resident_bytes = compute_bytes if resident_bytes is None else min(compute_bytes, resident_bytes)
    weights_bytes = max(0, cpu.weights_bytes - gone - (0 if sizes.tied else sizes.output))
    kept = weights_bytes / max(1, cpu.weights_bytes)
    return replace(
        cpu,
        weights_bytes=weights_bytes,
        repack_bytes=round(cpu.repack_bytes * kept),
        reclaimable_bytes=round(cpu.reclaimable_bytes * kept),
        kv_bytes=max(0, cpu.kv_bytes - kv_bytes),
        compute_bytes=compute_bytes,
        compute_resident_bytes=resident_bytes,
    )


def _shared(cpu: Footprint, device: UsableGpu, count: int, load: Load) -> Footprint:
    """Its memory is the machine's: everything counts once, and nothing is copied into a layout for the processor."""
    left = 1 - (count - 1) / max(1, len(load.sizes.blocks))
    return replace(
        cpu,
        process_bytes=cpu.process_bytes + device.context_bytes,
        repack_bytes=round(cpu.repack_bytes * left),
        reclaimable_bytes=round(cpu.reclaimable_bytes * left),
    )

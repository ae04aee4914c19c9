"""The GPUs that a backend can put layers on, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgellm.contract.backend import Offload
from edgellm.estimate.device_memory import context_bytes, reserve_bytes
from edgellm.estimate.gpu_constants import shipped_cells
from edgellm.estimate.gpu_speed import api_of
from edgellm.estimate.stranger import stranger
from edgellm.selection.offload import matches
from edgellm.types.gpu import Api, Gpu
from edgellm.types.machine import Machine
from edgellm.types.priors import NO_PRIORS, ProviderPrior
from edgellm.units import MIB

# Where nothing is known of the device; the most that any context takes (gpus.json).
UNKNOWN_CONTEXT_BYTES = 700 * MIB
# Slower than the processor beside them wherever both were measured, or unable to compute a model: Mali-G610 5.7 against
# 25.7 tok/s, V3D has neither 8-bit nor half-precision arithmetic (research notes on GPUs, section 5).
_UNSUITED_VENDORS = frozenset({"arm", "broadcom"})
_UNSUITED_GROUPS = frozenset({"adreno-6", "gen9"})
LEAST_TFLOPS = 0.8  # FP32: with less, an AVX2 processor of four cores has more arithmetic


@dataclass(frozen=True, slots=True)
class UsableGpu:
    """One device. `gpu` and `api` are None where nothing tells how fast it is."""

    name: str  # as the library calls it: "CUDA0"
    description: str
    room_bytes: int  # that may be used: what is free, less a reserve
    context_bytes: int  # of them, what the driver's context takes
    unified: bool
    gpu: Gpu | None = None
    api: Api | None = None
    provider: ProviderPrior | None = None  # the library that computes all of a model there, or nothing

    @property
    def identity(self) -> str:
        """What runs on it are kept under."""
        return identity(self.name, self.description)

    def copied_bytes(self, kv_bytes: int, slots: int) -> int:
        """Of a slot's cache, in each step: there and back, where a library keeps the cache of all in RAM."""
        copies = self.provider is not None and self.provider.copies_cache
        return 2 * kv_bytes // slots if copies else 0

    @property
    def is_suited(self) -> bool:
        """False for what is never used unless it is asked for."""
        if self.gpu is None:
            return not self.unified and self.provider is None
        slow = self.gpu.vendor in _UNSUITED_VENDORS or self.gpu.group in _UNSUITED_GROUPS
        return not slow and self.gpu.fp32_tflops >= LEAST_TFLOPS


def identity(name: str, description: str) -> str:
    """`("CUDA0", "NVIDIA GeForce RTX 4090")` -> `"cuda NVIDIA GeForce RTX 4090"`."""
    return f"{api_of(name) or name.lower().rstrip('0123456789')} {description}"


def no_stranger(identity: str) -> bool:
    return False


def usable_gpus(
    offload: Offload | None,
    machine: Machine,
    gpus: Sequence[Gpu | None],
    ran: Callable[[str], bool] = no_stranger,
    providers: Mapping[str, ProviderPrior] = NO_PRIORS.providers,
) -> tuple[UsableGpu, ...]:
    """The devices of `offload`.

    Args:
        gpus: of the machine's accelerators, what is known of each.
        ran: whether speeds were measured on a device of that identity, so that one can be predicted for strangers.
        providers: as `Priors.providers`; devices of others take layers one by one.
    """
    if offload is None:
        return ()
    usable = []
    for device, index in zip(offload.devices, matches(offload, machine), strict=True):
        gpu = gpus[index] if index is not None and index < len(gpus) else None
        provider = providers.get(device.name.rstrip("0123456789"))
        api = api_of(device.name)
        if provider is not None:
            api = None if provider.rate is None else provider.rate.api
        if not _is_predicted(gpu, api):
            gpu, api = None, None
        context = UNKNOWN_CONTEXT_BYTES if gpu is None or api is None else context_bytes(gpu, api)
        lib = api_of(device.name)
        if gpu is None and lib is not None and ran(identity(device.name, device.description)):
            gpu, api = stranger(device.description, lib, unified=device.unified), lib
        free = device.total_bytes if device.free_bytes is None else device.free_bytes
        display = index is not None and machine.accelerators[index].display is True
        reserve = reserve_bytes(
            device.total_bytes, unified=device.unified, display=display, windows=machine.os == "windows"
        )
        # Of a small memory no more than a quarter is kept free, as of the machine's own.
        room = max(0, free - min(reserve, device.total_bytes // 4))
        usable.append(UsableGpu(device.name, device.description, room, context, device.unified, gpu, api, provider))
    return tuple(usable)


def _is_predicted(gpu: Gpu | None, api: Api | None) -> bool:
    """Whether anybody knows how fast that library is on such a GPU."""
    if gpu is None or api is None:
        return False
    return None not in shipped_cells(gpu.group, api)

"""The GPUs of a machine that a tuner may compute on, by the hardware's profile and without the tuner's library."""

from __future__ import annotations

from collections import Counter

from edgellm import settings
from edgellm.adaptation.devices import SeenDevices
from edgellm.contract.backend import Advice
from edgellm.contract.tuner import Tuner, lacking
from edgellm.errors import BackendUnavailable, UsageError
from edgellm.estimate.device_memory import context_bytes, reserve_bytes
from edgellm.estimate.gpu_speed import api_of
from edgellm.hardware import gpu_table
from edgellm.selection.usable_gpu import UNKNOWN_CONTEXT_BYTES
from edgellm.types.gpu import Gpu
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.tune_device import TuneDevice, device_kind, device_name
from edgellm.types.tune_reason import TuneDevicePassed

# What torch calls a machine's kinds of GPU: code for AMD answers to NVIDIA's name.
_KINDS = {"cuda": "cuda", "rocm": "cuda", "xe": "xpu", "metal": "mps"}
# Whose they are that answer to that name; a build of torch has code for one maker's.
_MAKERS = {"cuda": "nvidia", "rocm": "amd"}


class MachineDevices:
    """By name: all of them, and what is known of each."""

    def __init__(self, machine: Machine, tuner: Tuner) -> None:
        self.facts: dict[str, Gpu | None] = {}
        self._machine, self._tuner = machine, tuner
        self._seen: dict[str, TuneDevice] = {}
        self._problems: dict[str, TuneDevicePassed] = {}
        counts, served, foreign = Counter[str](), _named_for_all(), self._foreign
        for gpu in machine.accelerators:
            if (kind := _KINDS.get(gpu.kind)) is None:
                continue
            if gpu.usable and gpu.kind == foreign:
                self._add(foreign, gpu, served, lacking(tuner, _MAKERS[foreign]))
                continue
            name = kind if kind == "mps" else f"{kind}:{counts[kind]}"
            counts[kind] += gpu.usable  # what no program reaches has no number
            self._add(name if gpu.usable else kind, gpu, served, lacking(tuner, kind))

    @property
    def _foreign(self) -> str:
        """Of NVIDIA's and AMD's GPUs in one machine those that the tuner's build has no code for, so does not count."""
        both = {gpu.kind for gpu in self._machine.accelerators if gpu.usable} >= _MAKERS.keys()
        return ("cuda" if lacking(self._tuner, _MAKERS["rocm"]) is None else "rocm") if both else ""

    @property
    def devices(self) -> SeenDevices:
        usable = tuple(device for name, device in self._seen.items() if name not in self._problems)
        return SeenDevices(usable, tuple(self._problems.values()), lambda device: self.facts[device.name] is not None)

    def named(self, name: str) -> TuneDevice:
        """
        Raises:
            UsageError: it is not here. BackendUnavailable: no program reaches it.
        """
        device = self._seen.get(name)
        # One that no program reaches has no number, and is kept by its kind.
        problem = self._problems.get(name if device is not None else device_kind(name))
        if device is None and problem is None:
            seen = ", ".join(f"{one.name} ({one.description})" for one in self._seen.values())
            hint = (
                f"seen are {seen}" if seen else "no GPU is seen that a tuning computes on; `edgellm doctor` says more"
            )
            raise UsageError(f"no device {name} is seen", hint=hint, param="device")
        if device is None or (problem is not None and problem.why == "unusable"):
            described = problem.description if problem is not None else name
            raise BackendUnavailable(f"no program here reaches {name} ({described})", hint="see `edgellm doctor`")
        return device

    def _add(self, name: str, gpu: Accelerator, served: frozenset[str] | None, lacks: Advice | None) -> None:
        machine = self._machine
        facts = gpu_table.find(gpu, machine.memory.total_bytes)
        self.facts[name] = facts
        self._seen[name] = _device(name, gpu, facts, machine)
        if not gpu.usable:
            self._problems[name] = TuneDevicePassed(name, gpu.name, "unusable")
        elif served is not None and name not in served:
            self._problems[name] = TuneDevicePassed(name, gpu.name, "not_named")
        elif lacks is not None:
            self._problems[name] = TuneDevicePassed(name, gpu.name, "no_code", lacks=lacks.text, remedy=lacks.fix)


def _device(name: str, gpu: Accelerator, facts: Gpu | None, machine: Machine) -> TuneDevice:
    """With the room that `selection.usable_gpu` counts for models that are served."""
    total = gpu.vram_bytes or (machine.memory.total_bytes if gpu.unified else 0)
    free = total if gpu.free_bytes is None else gpu.free_bytes
    if gpu.unified:
        free = min(free, machine.memory_budget_bytes)
    windows = machine.os == "windows"
    reserve = reserve_bytes(total, unified=gpu.unified, display=gpu.display is True, windows=windows)
    api = api_of(gpu.kind)
    context = UNKNOWN_CONTEXT_BYTES if facts is None or api is None else context_bytes(facts, api)
    room = max(0, free - min(reserve, total // 4) - context)
    return TuneDevice(name, gpu.name, total, free, room, gpu.unified)


def _named_for_all() -> frozenset[str] | None:
    """That EDGELLM_DEVICE leaves; None = it leaves all."""
    names = settings.current().devices
    if not names:
        return None
    known = set()
    for name in names:
        try:
            known.add(device_name(name))
        except UsageError:  # of a library that nothing is tuned with, as Vulkan
            continue
    return frozenset(known)

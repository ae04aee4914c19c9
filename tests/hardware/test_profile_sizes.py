"""One profile for each memory size that a device comes in, and nothing else differs between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgellm.hardware import profiles
from edgellm.types.machine import Machine
from edgellm.units import GIB

# Gigabytes that each is sold with.
SIZES = {
    "raspberry-pi-4": (1, 2, 4, 8),
    "raspberry-pi-5": (2, 4, 8, 16),
    "orange-pi-5": (4, 8, 16, 32),
    "radxa-orion-o6": (8, 16, 32, 64),
    "jetson-orin-nano": (4, 8),
    "jetson-agx-orin": (32, 64),
    "jetson-agx-thor": (128,),
    "nvidia-dgx-spark": (128,),
    "intel-n100": (8, 16),
    "intel-core-i3-n305": (8, 16, 32),
    "steam-deck": (16,),
    "ryzen-7-7840hs": (16, 32, 64),
    "ryzen-ai-max-395": (32, 64, 96, 128),
    "intel-core-ultra-7-155h": (16, 32, 64),
    "intel-core-ultra-7-258v": (32,),
    "apple-m1": (8, 16),
    "apple-m1-pro": (16, 32),
    "apple-m1-max": (32, 64),
    "apple-m2": (8, 16, 24),
    "apple-m2-pro": (16, 32),
    "apple-m2-max": (32, 64, 96),
    "apple-m2-ultra": (64, 128, 192),
    "apple-m3": (8, 16, 24),
    "apple-m3-pro": (18, 36),
    "apple-m3-max": (36, 48, 64, 96, 128),
    "apple-m3-ultra": (96, 256, 512),
    "apple-m4": (16, 24, 32),
    "apple-m4-pro": (24, 48, 64),
    "apple-m4-max": (36, 48, 64, 128),
    "apple-m5": (16, 24, 32),
    "snapdragon-x-elite": (16, 32, 64),
    "snapdragon-8-gen-3": (8, 12, 16),
    "snapdragon-888": (8, 12),
    "dimensity-9000": (8, 12, 16),
    "intel-core-i5-8250u": (8, 16),
    "intel-core-i7-10750h": (16, 32),
    "intel-core-i5-1135g7": (8, 16),
    "intel-core-i7-1165g7": (16,),
    "intel-core-i5-1235u": (8, 16),
    "intel-core-i7-1260p": (16, 32),
    "intel-core-i7-1360p": (16, 32),
    "intel-core-i5-2500": (4, 8, 16),
    "intel-core-2-quad-q8400": (4, 8),
    "sifive-hifive-premier-p550": (16, 32),
    "aws-graviton4-96vcpu": (192, 1536),
}
# Sizes that come with fewer cores or less bandwidth than another one.
VARIANTS = {
    "apple-m3-max-36gb": "apple-m3-max-64gb",
    "apple-m3-max-96gb": "apple-m3-max-64gb",
    "apple-m4-max-36gb": "apple-m4-max-64gb",
    "jetson-agx-orin-32gb": "jetson-agx-orin-64gb",
    "jetson-orin-nano-4gb": "jetson-orin-nano-8gb",
}


def devices() -> Iterator[tuple[str, list[str]]]:
    for device, sizes in SIZES.items():
        yield device, [f"{device}-{size}gb" for size in sizes]


def test_every_size_of_every_device_is_there() -> None:
    profile_names = {name for _, names in devices() for name in names}

    assert profile_names <= set(profiles.names())
    assert len(profiles.names()) >= 120
    for device, sizes in SIZES.items():
        for size in sizes:
            assert profiles.load(f"{device}-{size}gb").memory.total_bytes == size * GIB
            assert profiles.load(f"{device}-{size}gb").name.endswith(f", {size} GB")


def test_no_size_is_there_that_the_device_does_not_come_in() -> None:
    for name in profiles.names():
        match = re.fullmatch(r"(.+)-(\d+)gb", name)
        if match and match[1] in SIZES:
            assert int(match[2]) in SIZES[match[1]], name


@pytest.mark.parametrize(("device", "names"), list(devices()), ids=list(SIZES))
def test_sizes_of_a_device_differ_in_memory_only(device: str, names: list[str]) -> None:
    alike = {_without_memory(profiles.load(name)) for name in names if name not in VARIANTS}

    assert len(alike) <= 1


def test_the_smaller_variants_are_smaller() -> None:
    for name, larger in VARIANTS.items():
        part, whole = profiles.load(name), profiles.load(larger)
        few = (part.cpu.cores, part.memory.bandwidth_gb_s or 0)
        many = (whole.cpu.cores, whole.memory.bandwidth_gb_s or 0)

        assert few != many
        assert few[0] <= many[0]
        assert few[1] <= many[1]


def _without_memory(machine: Machine) -> Machine:
    memory = replace(machine.memory, total_bytes=0, available_bytes=None)
    gpus = tuple(replace(gpu, vram_bytes=None, free_bytes=None) if gpu.unified else gpu for gpu in machine.accelerators)
    name = machine.name.rpartition(",")[0].replace("x8g", "c8g")
    return replace(machine, id="", name=name, memory=memory, accelerators=gpus)

"""No kernel can run where its instructions are missing: what is in each object file, and processors that lack them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bitnet.packed import library
from edgellm_bitnet import native

SOURCES = Path(__file__).parents[2] / "plugins/edgellm-bitnet/native"
X86 = {"sse41", "avx2", "avxvnni", "avx512vnni"}
ARM = {"neon", "dotprod", "i8mm"}
COMMON = {path.stem for path in SOURCES.glob("*.c")} - {f"isa_{name}" for name in X86 | ARM}
# Instruction of AVX or later, by its operands or by its name; the {vex} and {evex} that objdump puts before it is none.
V_PREFIXED, YMM, ZMM = r"\tv[a-z]", r"%ymm\d", r"%zmm\d"
UPPER = r"%[xyz]mm(1[6-9]|2\d|3[01])|%k[0-7]"  # what only EVEX encodings reach
VEX_VNNI, EVEX_VNNI = r"\{vex\} vpdpbusd", r"\tvpdpbusd"
SDOT, MATRIX = r"\t[su]s?dot\t", r"\t[su]s?u?mmla\t"
HALVES = r"\tf(add|mul|mla|sub|cvt[a-z]*)\tv\d+\.[48]h, v\d+\.[48]h, v"  # arithmetic of +fp16, which nothing asks for

EXPECTED = {  # object -> (what must be in it, what must not)
    "isa_sse41": ((r"\tpmaddubsw", r"\tpmovzx|\tpmovsx"), (V_PREFIXED, YMM, ZMM)),
    "isa_avx2": ((r"\tvpmaddubsw.*%ymm", r"\tvfmadd"), (ZMM, UPPER, VEX_VNNI, EVEX_VNNI)),
    "isa_avxvnni": ((VEX_VNNI + ".*%ymm",), (ZMM, UPPER, EVEX_VNNI)),
    "isa_avx512vnni": ((EVEX_VNNI + ".*%zmm",), (VEX_VNNI,)),
    "isa_neon": ((r"\tsmlal2?\t", r"\tsadalp\t"), (SDOT, MATRIX, HALVES)),
    "isa_dotprod": ((r"\tsdot\tv\d+\.4s, v\d+\.16b, v\d+\.4b\[3\]",), (MATRIX, HALVES)),
    "isa_i8mm": ((r"\tsmmla\t", SDOT), (HALVES,)),
}
BASE = {"x86_64": (V_PREFIXED, YMM, ZMM), "aarch64": (SDOT, MATRIX, HALVES)}


def flags_of(stem):
    """The flags that CMakeLists.txt gives one file by default: the last line that names it."""
    found = re.findall(rf"isa\({stem}\.c ([^)]*)\)", (SOURCES / "CMakeLists.txt").read_text())
    return [flag for flag in found[-1].split() if flag.startswith("-")] if found else []


def tools(arch):
    """Compiler, nm and objdump for an architecture."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    prefix = "" if machine == arch else f"{arch}-linux-gnu-"
    names = ["cc" if not prefix else f"{prefix}gcc", f"{prefix}nm", f"{prefix}objdump"]
    if missing := [name for name in names if not shutil.which(name)]:
        pytest.skip(f"compiler: no {', '.join(missing)} to look into {arch} objects with")
    return names


@pytest.fixture(
    scope="module", params=[pytest.param(arch, marks=pytest.mark.slow(10)) for arch in ("x86_64", "aarch64")]
)
def objects(request, tmp_path_factory):
    """(architecture, {file stem: (symbols, disassembly)}), compiled with the instruction sets of CMakeLists.txt."""
    compiler, nm, objdump = tools(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    # Which instructions may appear follows from the other flags; -O3 takes twice as long to say so.
    base = ["-O1", "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]

    def output(*command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def build(stem):
        made = f"{folder}/{stem}.o"
        output(compiler, *base, *flags_of(stem), "-c", str(SOURCES / f"{stem}.c"), "-o", made)
        return stem, (output(nm, made), output(objdump, "-d", "--no-show-raw-insn", made))

    stems = COMMON | {f"isa_{name}" for name in (X86 if request.param == "x86_64" else ARM)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return request.param, dict(pool.map(build, sorted(stems)))


def test_an_isa_object_defines_its_kernels_and_nothing_that_another_could_be_linked_to(objects):
    _, built = objects
    for stem, (symbols, _) in built.items():
        if not stem.startswith("isa_"):
            continue
        kinds = re.findall(r"^\s*[0-9a-f]*\s+([A-Za-z]) (\S+)$", symbols, re.MULTILINE)
        shared = [name for kind, name in kinds if kind in "WVwvu" or (kind.isupper() and kind != "U")]
        assert shared == [f"{stem.removeprefix('isa_')}_kernels"]


def test_an_object_has_the_instructions_of_its_set_and_no_others(objects):
    _, built = objects
    for stem in built.keys() & EXPECTED.keys():
        present, absent = EXPECTED[stem]
        for pattern in present:
            assert re.search(pattern, built[stem][1]), f"{stem} has no {pattern}"
        for pattern in absent:
            assert not (found := re.search(f".*(?:{pattern}).*", built[stem][1])), f"{stem}: {found[0]}"


def test_what_every_processor_runs_has_base_instructions_only(objects):
    arch, built = objects
    assert {"dispatch", "forward", "isa_scalar", "pack", "pool"} <= built.keys()
    for stem in built.keys() - EXPECTED.keys():
        for pattern in BASE[arch]:
            assert not (found := re.search(f".*(?:{pattern}).*", built[stem][1])), f"{stem}: {found[0]}"


# qemu's own processor models. None of them has AVX-512 or AVX-VNNI, which qemu does not emulate.
PROCESSORS = {
    "core2duo": "scalar",  # SSSE3, no SSE4.1
    "Nehalem": "sse41 scalar",
    "Westmere": "sse41 scalar",
    "SandyBridge": "sse41 scalar",  # AVX without AVX2
    "Haswell": "avx2 sse41 scalar",
    "EPYC": "avx2 sse41 scalar",
    "Nehalem,-sse4.1": "scalar",
    "Haswell,-fma": "sse41 scalar",
    "Haswell,-f16c": "sse41 scalar",
    "Haswell,-xsave": "sse41 scalar",  # the operating system saves no wide registers
}


ALWAYS = ("core2duo", "Haswell", "Haswell,-xsave")  # each set of kernels once


@pytest.mark.parametrize(
    "processor", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow(2)) for name in PROCESSORS]
)
def test_a_processor_without_an_instruction_set_runs_the_others(processor):
    library()
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the emulator would need an x86-64 Python")
    if not shutil.which("qemu-x86_64"):
        pytest.skip("qemu: no qemu-x86_64: apt-get install qemu-user")
    driver = Path(__file__).with_name("on_processor.py")
    command = ["qemu-x86_64", "-cpu", processor, sys.executable, str(driver), native.__file__]
    environment = os.environ | {"EDGELLM_BITNET_LIBRARY": str(native.path())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, PROCESSORS[processor]), done.stderr

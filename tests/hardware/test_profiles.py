from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusals import refuses

from edgellm.errors import UnknownProfile, UsageError
from edgellm.hardware import profiles
from edgellm.types.machine import Accelerator, Cluster, Cpu, Disk, Limits, Machine, Memory, Provenance
from edgellm.units import GIB, MIB

WHOLE = Machine(
    id="all-of-it",
    name='A "machine" with [everything] \\ and ümlauts',
    os="linux",
    cpu=Cpu(
        "aarch64", "Some", 8, 8, ("dotprod", "neon"), 4,
        (Cluster("performance", 4, 1024, 2400), Cluster("efficiency", 4, 414)), 65536, 524288, 3 * MIB,
    ),
    memory=Memory(8 * GIB, 7 * GIB, GIB, 17.125, "measured: 4 threads, 2 MiB pages", "measured"),
    accelerators=(Accelerator("cuda", "One", GIB, MIB, 100.5), Accelerator("vulkan", "Two", unified=True)),
    limits=Limits(700 * MIB, 50 * MIB, 1.5, 3, 2, "cgroup v2 /app"),
    disk=Disk("/data", 10**11),
    provenance=Provenance("measured", "edgellm profile", "2026-11-24", "0.1.0", "verified"),
    notes=("one", "two"),
)  # fmt: skip
SMALL = 'schema = 1\nid = "x"\nname = "X"\n[cpu]\narch = "x86_64"\n[memory]\ntotal_bytes = 1073741824\n'


def test_there_are_forty_and_every_one_is_valid() -> None:
    names = profiles.names()

    assert len(names) >= 40
    assert "raspberry-pi-5-8gb" in names


@pytest.mark.parametrize("name", profiles.names())
def test_a_profile_that_comes_with_edgellm(name: str) -> None:
    machine = profiles.load(name)

    assert machine.id == name
    assert machine.provenance is not None
    assert machine.provenance.source
    assert machine.provenance.date
    # What was written from memory says so, and what was looked up says where.
    assert (machine.source_trust == "unverified") == ("from memory" in machine.provenance.source)
    assert (machine.source_trust == "verified") == ("https://" in machine.provenance.source)
    assert machine.memory.bandwidth_gb_s
    assert machine.memory.bandwidth_basis
    assert machine.memory_budget_bytes > 0
    assert machine.compute_threads >= 1
    assert machine.cpu.isa or machine.cpu.arch == "riscv64"
    assert profiles.parse(profiles.dump(machine), Path(name)).machine == machine


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("raspberry-pi-4-4gb", "neon", "dotprod fp16 i8mm"),
        ("raspberry-pi-5-8gb", "neon dotprod fp16", "i8mm bf16 sve"),
        ("intel-n100-8gb", "avx2 f16c fma avx_vnni", "avx512f avx512vnni"),
        ("intel-core-i5-2500-8gb", "avx sse42", "avx2 f16c fma"),
        ("intel-core-2-quad-q8400-4gb", "ssse3 sse41", "sse42 avx"),
        ("ryzen-7-7840hs-32gb", "avx512vnni avx512bf16", "avx512fp16 avx_vnni"),
        ("apple-m1-8gb", "neon dotprod fp16", "i8mm bf16"),
        ("apple-m2-8gb", "i8mm bf16", "sve"),
        ("aws-graviton3-64vcpu-128gb", "sve i8mm bf16", "sve2"),
        ("intel-core-i5-1135g7-16gb", "avx512vnni avx512vbmi", "avx_vnni avx512bf16"),
        ("intel-core-i7-1260p-16gb", "avx_vnni", "avx512f"),
    ],
)
def test_instruction_sets_are_those_of_the_core(name: str, has: str, lacks: str) -> None:
    isa = set(profiles.load(name).cpu.isa)

    assert set(has.split()) <= isa
    assert not set(lacks.split()) & isa


@pytest.mark.parametrize(
    ("name", "threads"),
    [
        ("orange-pi-5-8gb", 4),
        ("apple-m4-16gb", 4),
        ("snapdragon-8-gen-3-8gb", 6),
        ("nvidia-dgx-spark-128gb", 20),
        ("intel-core-ultra-7-155h-16gb", 6),
        ("intel-core-i5-1235u-16gb", 2),
        ("container-2cpu-2gb", 2),
    ],
)
def test_threads_are_the_cores_worth_using(name: str, threads: int) -> None:
    assert profiles.load(name).compute_threads == threads


@pytest.mark.parametrize("machine", [WHOLE, Machine("x", "X", Cpu("x86_64"), Memory(GIB))], ids=["whole", "least"])
def test_round_trip(machine: Machine) -> None:
    assert profiles.parse(profiles.dump(machine), Path("x")).machine == machine


@settings(max_examples=30)
@given(st.text(st.characters(codec="utf-8"), max_size=60), st.floats(0.01, 1e6), st.integers(0, 1024 * 1024**4))
def test_round_trip_of_any_value(text: str, rate: float, size: int) -> None:
    machine = Machine("x", text, Cpu("x86_64", text), Memory(size, bandwidth_gb_s=rate, bandwidth_basis=text))
    if text.isprintable():
        assert profiles.parse(profiles.dump(machine), Path("x")).machine == machine
    else:
        with pytest.raises(UsageError) as caught:  # of many examples; what it says is on record above
            profiles.parse(profiles.dump(machine), Path("x"))
        assert caught.value.param == "name"


def test_an_unknown_name_has_close_ones() -> None:
    with refuses(UnknownProfile, varies=r"(?<=all )\d+") as caught:
        profiles.load("raspbery-pi5-8gb")
    assert caught.value.http_status == 404


@pytest.mark.parametrize("name", ["", "..", "nothing-like-it", "/nowhere/x.toml", "x.toml", "../x", "a\0/b"])
def test_names_that_are_nothing(name: str) -> None:
    with pytest.raises(UsageError):
        profiles.load(name)


def test_threads_are_as_many_as_cores_where_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALL.replace("[memory]", "cores = 6\n[memory]"))

    assert profiles.load(str(path)).cpu.threads == 6
    assert profiles.parse(SMALL, path).machine.cpu.threads == 1


def test_a_file_of_ones_own_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALL)

    assert profiles.load(str(path)).id == "x"


def test_a_file_that_comes_with_edgellm_has_the_name_of_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "y.toml").write_text(SMALL)
    monkeypatch.setattr(profiles, "folder", lambda: tmp_path)

    with refuses(UsageError, param="id"):
        profiles.load("y")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        pytest.param(("[memory]", "cores = 4\n[memory]\nspeed = 3"), "memory.speed", id="an unknown key"),
        pytest.param(("[memory]", 'ISA = ["avx2"]\n[memory]'), "cpu.ISA", id="a key in capitals"),
        pytest.param(
            ("[cpu]", "[[accelerators]]\nkind='cuda'\nname='A'\nvram=1\n[cpu]"),
            "accelerators.vram",
            id="an unknown key of a GPU",
        ),
        pytest.param(("1073741824", '"8 GB"'), "memory.total_bytes", id="a text of bytes"),
        pytest.param(("1073741824", "1.5"), "memory.total_bytes", id="half a byte"),
        pytest.param(("1073741824", "true"), "memory.total_bytes", id="a bool of bytes"),
        pytest.param(("1073741824", "-1"), "memory.total_bytes", id="negative bytes"),
        pytest.param(("1073741824", "9" * 18), "memory.total_bytes", id="too many bytes"),
        pytest.param(("1073741824", "9" * 400), "memory.total_bytes", id="a long number"),
        pytest.param(("1073741824", "9" * 5000), "", id="a number of 5000 digits"),
        pytest.param(("1073741824", "0x" + "f" * 6000), "memory.total_bytes", id="a number of 6000 digits of 16"),
        pytest.param(("1073741824", "1\nbandwidth_gb_s = nan"), "memory.bandwidth_gb_s", id="no number"),
        pytest.param(("1073741824", "1\nbandwidth_gb_s = inf"), "memory.bandwidth_gb_s", id="infinite"),
        pytest.param(
            ("1073741824", "1\navailable_bytes = 2"), "memory.available_bytes", id="more available than there are"
        ),
        pytest.param(("[memory]", "cores = 0\n[memory]"), "cpu.cores", id="no cores"),
        pytest.param(("[memory]", 'cores = "4"\n[memory]'), "cpu.cores", id="a text of cores"),
        pytest.param(("[memory]", "cores = 4\nthreads = 2\n[memory]"), "cpu.threads", id="fewer threads than cores"),
        pytest.param(
            ("[memory]", "performance_cores = 2\n[memory]"), "cpu.performance_cores", id="more fast cores than cores"
        ),
        pytest.param(("[memory]", 'isa = ["avx512_vnni"]\n[memory]'), "cpu.isa", id="an unknown instruction set"),
        pytest.param(
            ("[memory]", 'clusters = [{kind = "performance", cores = 3}]\n[memory]'),
            "cpu.clusters",
            id="clusters of more cores",
        ),
        pytest.param(
            ("[memory]", "[provenance]\nkind = 'datasheet'\ntrust = 'high'\n[memory]"),
            "provenance.trust",
            id="an unknown trust",
        ),
        pytest.param(("[memory]", "[limits]\ncpus = 0.0\n[memory]"), "limits.cpus", id="a limit of nothing"),
        pytest.param(('name = "X"', 'name = "a\\u001b[2J"'), "name", id="control characters"),
        pytest.param(('name = "X"', f'name = "{"x" * 501}"'), "name", id="a long name"),
        pytest.param(('name = "X"', 'name = "X"\nnotes = [' + '"n",' * 300 + "]"), "notes", id="many notes"),
        pytest.param(('id = "x"', 'id = "../x"'), "id", id="an id that climbs"),
        pytest.param(("schema = 1", "schema = 2"), "schema", id="a schema of the future"),
        pytest.param(('arch = "x86_64"', ""), "cpu", id="no architecture"),
        pytest.param(('arch = "x86_64"', "arch ="), "", id="no value"),
        pytest.param(('name = "X"', 'name = "X"\nnotes = ' + "[" * 5000), "", id="nested"),
    ],
)
def test_a_hostile_or_mistaken_profile_is_refused_by_file_and_key(
    tmp_path: Path, change: tuple[str, str], param: str
) -> None:
    path = tmp_path / "bad.toml"
    assert change[0] in SMALL
    path.write_text(SMALL.replace(*change))

    with refuses(UsageError, param=param) as caught:
        profiles.load(str(path))
    assert caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(SMALL.encode() + b"#" * 1024**2, id="too large"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b"\0", id="a zero byte"),
    ],
)
def test_what_is_no_small_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)

    with refuses(UsageError):
        profiles.load(str(path))


def test_a_device_is_no_profile() -> None:
    with refuses(UnknownProfile, varies=os.devnull):
        profiles.load(os.devnull)


def test_a_folder_is_no_profile(tmp_path: Path) -> None:
    with refuses(UnknownProfile):
        profiles.load(f"{tmp_path}/")

"""Weights from the packed file: the same bits, never a damaged one, and what cannot be kept costs a note. Memory, by
formula and measured."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from bitnet.models import Tiny, engine_of, feed, settings_of, tokens_of
from bitnet.packed import library
from edgellm_bitnet import loading, packed_file
from edgellm_bitnet.footprint import BATCH, TOKEN_BYTES
from edgellm_bitnet.matrix import CACHE_ALIGN, padded
from edgellm_bitnet.plugin import BitnetBackend

from edgellm.hardware.probe import probe
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan

MODEL = Tiny("llama", ternary="TQ2_0", varying=True, head="Q6_K", vocab=4000)


@pytest.fixture(autouse=True)
def built():
    library()


@pytest.fixture
def path(tmp_path):
    return MODEL.write(tmp_path / "model.gguf")


def run(path, **options):
    """(logits, how the weights came) of an engine that keeps its packed form."""
    with engine_of(path, **{"keep_packed": True, **options}) as engine:
        return feed(engine, 0, tokens_of(Tiny(), 20)), engine.info.details


def packed_files(home):
    return sorted((home / "cache" / "bitnet").glob("*"))


def test_the_second_load_reads_the_packed_file_and_gives_the_same_bits(path, own_home):
    first, details = run(path)
    (file,) = packed_files(own_home)
    assert "packed in" in details["weights"]
    assert f"kept in {file}" in details["weights"]
    second, details = run(path)
    assert f"read from {file}" in details["weights"]
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(run(path, keep_packed=False)[0], first)


@pytest.mark.parametrize("head", ["F16", "Q6_K"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_comes_back_too(tmp_path, head, tied):
    path = Tiny(head=head, embed="Q8_0" if not tied else "", tied=tied).write(tmp_path / "model.gguf")
    first = run(path)[0]
    second, details = run(path)
    assert "read from" in details["weights"]
    np.testing.assert_array_equal(second, first)


def test_another_file_under_the_same_name_is_packed_again(path, own_home):
    first = run(path)[0]
    Tiny("llama", ternary="TQ2_0", varying=True, head="Q6_K", vocab=4000, seed=8).write(path)
    second, details = run(path)
    assert "packed in" in details["weights"]
    assert not np.array_equal(first, second)
    assert len(packed_files(own_home)) == 1  # the form of a file that is gone is dropped


def flip(file, at):
    with file.open("r+b") as handle:
        handle.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte[0] ^ 1]))


def rewrite_header(file, **changed):
    head = file.read_bytes()[: packed_file.DATA_OFFSET]
    said = json.loads(head.removeprefix(packed_file.MAGIC).rstrip(b"\0"))
    with file.open("r+b") as handle:
        handle.write((packed_file.MAGIC + json.dumps(said | changed).encode()).ljust(packed_file.DATA_OFFSET, b"\0"))


DAMAGE = {
    "cut": lambda file: os.truncate(file, file.stat().st_size - 1),
    "cut in its header": lambda file: os.truncate(file, 100),
    "empty": lambda file: os.truncate(file, 0),
    "longer": lambda file: os.truncate(file, file.stat().st_size + 1),
    "one bit of its weights": lambda file: flip(file, packed_file.DATA_OFFSET + 12_345),
    "its last bit": lambda file: flip(file, -1),
    "zeros as after a power failure": lambda file: (
        os.truncate(file, packed_file.DATA_OFFSET),
        os.truncate(file, packed_file.DATA_OFFSET + 5_000_000),
    ),
    "zeros of the right length": lambda file: (
        (size := file.stat().st_size),
        os.truncate(file, packed_file.DATA_OFFSET),
        os.truncate(file, size),
    ),
    "another magic": lambda file: flip(file, 0),
    "no JSON": lambda file: flip(file, len(packed_file.MAGIC)),
    "deep JSON": lambda file: file.write_bytes((packed_file.MAGIC + b"[" * 100_000).ljust(3 << 20, b"\0")),
    "other groups": lambda file: rewrite_header(file, groups={f"{i}.{key}": 64 for i in range(2) for key in GROUPED}),
    "no groups": lambda file: rewrite_header(file, groups={}),
    "groups that are none": lambda file: rewrite_header(file, groups=7),
    "a sum without an end": lambda file: rewrite_header(file, sum=float("inf")),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}
GROUPED = ("qkv", "output", "gate_up", "down")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_packed_file_is_not_believed_and_written_again(path, own_home, damage):
    first = run(path)[0]
    (file,) = packed_files(own_home)
    DAMAGE[damage](file)
    second, details = run(path)
    assert "packed in" in details["weights"]
    np.testing.assert_array_equal(second, first)
    if damage == "a folder":
        assert "cannot be kept" in details["weights"]
        return
    third, details = run(path)
    assert "read from" in details["weights"]
    np.testing.assert_array_equal(third, first)


@pytest.mark.parametrize("place", ["a file", "no permission"])
def test_a_folder_that_cannot_be_written_costs_a_note(path, own_home, monkeypatch, place):
    if place == "a file":
        shutil.rmtree(own_home / "cache")
        (own_home / "cache").write_bytes(b"")
    elif os.geteuid():
        own_home.chmod(0o555)
    elif sys.platform == "linux":  # root may write in every folder but this one
        monkeypatch.setenv("EDGELLM_HOME", "/proc/edgellm")
    first, details = run(path)
    own_home.chmod(0o755)
    assert "packed in" in details["weights"]
    assert "the packed form cannot be kept: [Errno" in details["weights"]
    np.testing.assert_array_equal(run(path, keep_packed=False)[0], first)


def test_a_disk_that_is_full_costs_a_note_and_leaves_nothing(path, own_home):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = run(path, keep_packed=False)[0]
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, limits[1]))  # Python ignores SIGXFSZ: a write fails with EFBIG
    try:
        second, details = run(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the packed form cannot be kept: [Errno 27] File too large" in details["weights"]
    np.testing.assert_array_equal(second, first)
    assert packed_files(own_home) == []


def test_what_nobody_finished_is_dropped_after_a_day(path, own_home):
    folder = own_home / "cache" / "bitnet"
    folder.mkdir(parents=True)
    for name, age_s in (("old.part", 2 * packed_file.ABANDONED_S), ("new.part", 0)):
        (folder / name).write_bytes(b"x")
        changed = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (changed, changed))
    run(path)
    assert [file.name for file in packed_files(own_home) if file.suffix == ".part"] == ["new.part"]


IN_A_PROCESS = """
import json, sys
import numpy as np
from bitnet.models import engine_of, feed, settings_of
def high_water():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024
with engine_of(sys.argv[1], settings_of(n_ctx=1024, n_slots=2), keep_packed=True) as engine:
    tokens = np.random.default_rng(1).integers(0, engine.info.vocab_size, 1000)
    rows = [feed(engine, slot, tokens, step=500) for slot in range(2)]
    print(json.dumps({
        "weights": engine.info.details["weights"], "peak": high_water(), "rows": rows[0].sum(axis=1).tolist(),
    }))
"""


def environment(home, tmp_path):
    return os.environ | {
        "EDGELLM_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip


def test_two_processes_that_load_at_once_agree(path, own_home, tmp_path):
    command = [sys.executable, "-c", IN_A_PROCESS, str(path)]
    env = environment(own_home, tmp_path)
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    answers = [json.loads(process.communicate()[0]) for process in started]
    assert len(packed_files(own_home)) == 1
    assert all(answer["rows"] == answers[0]["rows"] for answer in answers)
    after = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)
    assert "read from" in after["weights"]
    assert after["rows"] == answers[0]["rows"]


def test_where_memory_is_short_the_packed_file_is_mapped_and_that_is_said(path, own_home, monkeypatch):
    first = run(path)[0]
    little = psutil.virtual_memory()._replace(available=100_000)
    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: little)
    second, details = run(path)
    assert "mapped from" in details["weights"]
    assert "memory is short" in details["weights"]
    assert "4 KiB pages" in details["pages"]
    np.testing.assert_array_equal(second, first)
    with engine_of(path, settings_of(mmap=False), keep_packed=True) as engine:
        assert "read from" in engine.info.details["weights"]
    flip(packed_files(own_home)[0], -1)
    third, details = run(path)
    assert "packed in" in details["weights"]
    np.testing.assert_array_equal(third, first)


SHAPES = {
    "block scales, a window": Tiny("gemma3", ternary="TQ2_0", varying=True, keys={"attention.sliding_window": 8}),
    "one scale, no whole panels": Tiny("bitnet", hidden=288, ffn=352, heads=9, kv_heads=3, head_dim=32, vocab=67),
    "an embedding beside the head": Tiny(head="Q6_K", embed="Q8_0", tied=False),
    "norms for products, pooled": Tiny("qwen3", input_norms=True, head_dim=100, heads=8, keys={"pooling_type": 3}),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kv_type", "threads", "n_ctx"), [("f16", 1, 100), ("q8_0", 3, 1030)])
def test_the_footprint_is_what_is_allocated(tmp_path, shape, kv_type, threads, n_ctx):
    model = SHAPES[shape]
    path = model.write(tmp_path / "model.gguf")
    settings = settings_of(n_ctx=n_ctx, n_slots=3, threads=threads, kv_type=kv_type)
    said = BitnetBackend().footprint(Artifact("gguf", (str(path),), "test"), settings)
    with engine_of(path, settings) as engine:
        lib, context = library(), padded(n_ctx, CACHE_ALIGN)
        slots = settings.n_slots + ("pooling_type" in model.keys)
        kind = 1 if kv_type == "q8_0" else 0
        cache = lib.bn_cache_bytes(engine._model, kind, slots, context)
        scratch = lib.bn_scratch_bytes(engine._model, BATCH, threads, context)
        tables = sum(table.nbytes for table in engine._rope if table is not None)
        assert said.weights_bytes == engine._loaded.arena.n_bytes
        assert said.kv_bytes == cache == engine._memory[1]
        assert said.compute_bytes == scratch + tables + engine._logits.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(("head", "ternary"), [("Q8_0", "I2_S"), ("F16", "TQ2_0")])
@pytest.mark.slow(7)
def test_peak_memory_is_within_five_percent_of_the_footprint(tmp_path, own_home, head, ternary, kept):
    """150 MiB of weights and cache, from the model's own file and from the packed one."""
    model = Tiny(
        "llama", layers=8, hidden=1024, ffn=4096, heads=16, kv_heads=8, vocab=32_000, head=head, ternary=ternary,
        varying=True,
    )  # fmt: skip
    path = model.write(tmp_path / "model.gguf")
    command = [sys.executable, "-c", IN_A_PROCESS, str(path)]
    for _ in range(1 + kept):
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment(own_home, tmp_path)
        )
    found = json.loads(answer.stdout)
    assert ("read from" if kept else "packed in") in found["weights"]
    said = BitnetBackend().footprint(
        Artifact("gguf", (str(path),), "test"), settings_of(n_ctx=1024, n_slots=2)
    ).resident_bytes - TOKEN_BYTES * model.vocab  # these files have no tokenizer  # fmt: skip
    assert abs(found["peak"] - said) <= 0.05 * said, f"{found['peak']} bytes, {said} said"


def test_a_disk_that_fails_is_no_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    path = str(Tiny("llama", ternary="TQ2_0").write(tmp_path / "tiny.gguf"))
    monkeypatch.setattr("edgellm_bitnet.engine.open_engine", fail)
    with pytest.raises(OSError) as caught:
        BitnetBackend().open(LaunchPlan("bitnet", Artifact("gguf", (path,), "tiny"), settings_of()))
    assert caught.value.errno == 5


@pytest.mark.parametrize(
    ("name", "value"), [("EDGELLM_BITNET_LIBRARY", "/no/such/library.so"), ("EDGELLM_BITNET_ISA", "mmx")]
)
def test_a_variable_that_names_what_is_not_there_is_why_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    library()
    monkeypatch.setenv(name, value)
    backend, machine = BitnetBackend(), probe(measure=False)
    (problem,) = backend.check(machine)

    assert name in problem
    assert value in problem
    assert [advice.text for advice in backend.advise(machine)] == [problem]

"""Predicted memory of real models: against what a worker takes, and against what llama.cpp says it would reserve."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from edgellm_gguf import library
from edgellm_gguf.footprint import TABLES
from edgellm_gguf.plugin import GgufBackend
from edgellm_gguf.verdict import Verdict
from support.processes import workers
from support.refusals import refuses
from support.reserved_buffers import reserved_buffers

from edgellm.catalog.identify import identify
from edgellm.formats.gguf.reader import read_model
from edgellm.hardware.probe import probe
from edgellm.sdk.client import EdgeLLM
from edgellm.types.event import Done
from edgellm.types.plan import Footprint, LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.units import MIB

BATCH = 128  # a prompt of this length touches all that is ever touched, and takes less time than 512
PROMPT = "7 " * (BATCH // 2 + 4)  # two tokens each


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    found = library.verdict(probe())
    if found.problem or library.missing():
        pytest.skip("cpu: libllama does not run here")
    return found


@pytest.fixture
def backend(verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> GgufBackend:
    """With the answer of one probe for all tests: each has a cache folder of its own, where none is kept."""
    monkeypatch.setattr(library, "last_verdict", lambda: verdict)
    return GgufBackend()


def predicted(backend: GgufBackend, path: str, settings: Settings) -> Footprint:
    found = backend.footprint(identify(path), settings)
    assert found is not None
    return found


def peak_bytes(path: str, settings: Settings) -> int:
    """The worker's largest resident set, after it has read a prompt. Caches are filled with zeros from the start."""
    before = workers()
    with EdgeLLM(LaunchPlan("gguf", identify(path), settings)) as llm:
        done = list(llm.generate(GenerationRequest(PROMPT, max_tokens=4, ignore_eos=True)))[-1]
        assert isinstance(done, Done)
        assert done.usage.prompt_tokens >= BATCH
        (worker,) = workers() - before
        status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("smollm2", Settings(512, n_batch=BATCH)),
        ("smollm2", Settings(2048, n_slots=4, kv_type="q8_0", n_batch=BATCH, mmap=False)),
        ("gemma3", Settings(4096, n_slots=2, n_batch=BATCH)),
    ],
    ids=["one slot", "four slots, q8_0, read", "sliding window"],
)
@pytest.mark.slow(10)
def test_a_worker_takes_what_was_predicted(
    backend: GgufBackend, model: str, settings: Settings, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    found = predicted(backend, path, settings)

    measured = peak_bytes(path, settings)

    expected = found.resident_bytes - found.parent_bytes - found.grammar_bytes
    assert abs(expected - measured) < max(0.05 * measured, 12 * MIB), f"{expected / MIB:.1f}, {measured / MIB:.1f} MiB"


@pytest.mark.model
@pytest.mark.parametrize("settings", [Settings(600), Settings(2048, n_slots=3, kv_type="q4_0"), Settings(8192)])
@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
@pytest.mark.slow(1)
def test_the_library_would_reserve_what_the_formulas_say(
    backend: GgufBackend, model: str, settings: Settings, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    formula = predicted(backend, path, settings)

    reserved = reserved_buffers(identify(path).paths, settings)

    # It prints sizes in MiB with two decimals, twice for a cache with a window.
    assert abs(reserved["kv"] - formula.kv_bytes) < 0.02 * MIB
    assert abs(reserved["output"] - formula.output_bytes) < 0.02 * MIB
    assert -MIB < formula.compute_bytes - reserved["compute"] < 3 * MIB


@pytest.mark.model
def test_what_a_build_repacks_is_a_copy_beside_the_file(smollm2: str) -> None:
    from edgellm_gguf.footprint import of_file

    tensors = read_model(smollm2).tensors
    matrices = [t for t in tensors if t.type.name == "Q4_1" and t.name not in TABLES]
    table = next(t for t in tensors if t.name == "token_embd.weight")
    assert (table.type.name, len(matrices)) == ("Q8_0", 210)

    plain = of_file(identify(smollm2), Settings(512), {})
    found = of_file(identify(smollm2), Settings(512), {"Q4_1": 1.0, "Q8_0": 1.25})

    copies = sum(t.n_bytes for t in matrices)
    assert found.repack_bytes == copies + round(table.n_bytes * 1.25)
    # The table is the output table too: rows of it are looked up in the file, whatever is copied.
    assert found.reclaimable_bytes == copies
    assert found.resident_bytes - plain.resident_bytes == found.repack_bytes


@pytest.mark.model
def test_a_library_that_does_not_answer_is_an_error_with_its_words(smollm2: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(Path(smollm2).read_bytes()[:4096])

    with refuses(RuntimeError, varies="(?<=not opened).*"):
        reserved_buffers([str(damaged)], Settings(512))


@pytest.mark.model
def test_without_an_answer_of_the_library_nothing_is_said_until_it_is_asked(smollm2: str, own_home: Path) -> None:
    if library.missing():
        pytest.skip("cpu: libllama is missing")
    shutil.rmtree(own_home / "cache" / "gguf-probe")
    assert GgufBackend().footprint(identify(smollm2), Settings(512)) is None
    assert GgufBackend().check(probe()) == []
    assert GgufBackend().footprint(identify(smollm2), Settings(512)) is not None
    assert GgufBackend().footprint(identify(smollm2), Settings(512, gpu_layers=3)) is None

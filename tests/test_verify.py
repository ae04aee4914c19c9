"""After a load: what was measured is recorded beside its prediction, warned of where they part, and learned from."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support import contexts
from support.waiting import wait_until

from edgellm import EdgeLLM, explain
from edgellm.app import context, launch, verify
from edgellm.catalog import lookup
from edgellm.catalog.identify import identify
from edgellm.contract.backend import Device, Offload
from edgellm.contract.manager import plugins
from edgellm.estimate import weights
from edgellm.hardware.probe import probe
from edgellm.history import fingerprint, run_log
from edgellm.history.corrections import NONE, Correction
from edgellm.history.run_log import Numbers, Row, Run
from edgellm.runtime.metrics import MeasuredRates
from edgellm.runtime.supervisor import WorkerSession
from edgellm.selection.backend_facts import backend_facts
from edgellm.selection.decide import decide
from edgellm.types.drift import Drift
from edgellm.types.gpu_place import GpuPlace
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.plan import Candidate
from edgellm.types.request import GenerationRequest, SelectionRequest

MIB = 1024**2


def run(*, waited: float | None = 0.0, whole_batch: bool = True, **measured: float | int | None) -> Run:
    numbers = {"decode": 10.0, "prefill": 100.0, "resident_bytes": 1000 * MIB} | measured
    return Run(
        id="1", time="", backend="gguf", model="m", quant="Q4_K_M", build="", basis="", threads=2, ctx=4096, slots=1,
        kv_type="f16", requests=3, waited=waited, whole_batch=whole_batch,
        predicted=Numbers(decode=10.0, prefill=100.0, resident_bytes=1000 * MIB), measured=Numbers(**numbers),
    )  # fmt: skip


def texts(found: tuple[Drift, ...]) -> list[str]:
    return [f"{explain.drift(drift)}; {explain.drift_remedy(drift)}" for drift in found]


@pytest.mark.parametrize("factor", [0.76, 1.0, 1.24])
def test_within_a_quarter_nothing_is_said(factor: float) -> None:
    near = run(decode=10 * factor, prefill=100 * factor, resident_bytes=int(1000 * MIB * factor))
    assert verify.drifts(near, NONE) == ()


def test_a_drift_says_numbers_and_what_to_do() -> None:
    slow, prompts, memory = texts(verify.drifts(run(decode=6.0, prefill=150.0, resident_bytes=1300 * MIB), NONE))
    assert slow.startswith("decode of m Q4_K_M: 6 tok/s, 10 tok/s were predicted (40% less); ")
    assert "power-saving" in slow
    assert "`edgellm calibrate`" in slow
    assert prompts.startswith("prompts of m Q4_K_M: 150 tok/s, 100 tok/s were predicted (50% more); ")
    assert memory.startswith("memory of m Q4_K_M: 1.27 GiB, 1000 MiB were predicted (30% more); ask for less")


def test_other_programs_are_named_where_they_had_the_processors() -> None:
    (slow,) = texts(verify.drifts(run(decode=4.0, waited=0.52), NONE))
    assert "other programs had the processors for 52% of the time" in slow
    assert "calibrate" not in slow


def test_a_run_whose_worker_died_is_no_drift_and_teaches_nothing() -> None:
    crashed = msgspec.structs.replace(run(decode=4.0, prefill=20.0, resident_bytes=1500 * MIB), restarts=1)
    assert verify.drifts(crashed, NONE) == ()
    assert run_log.of_runs([crashed]).of("gguf", "m", "Q4_K_M") == NONE


@pytest.mark.model
def test_a_death_is_recorded_with_what_was_measured(smollm2: str) -> None:
    with EdgeLLM.load(smollm2, ctx=1024, threads=1) as llm:
        assert isinstance(llm._session, WorkerSession)
        os.kill(llm._session.pid, signal.SIGKILL)
        wait_until(lambda: llm._session.restarts == 1 and llm._session.state == "ready")
        llm.chat("Hello. " * 12, max_tokens=18, temperature=0)
    (kept,) = run_log.read(probe(measure=False)).runs
    assert (kept.restarts, kept.measured.decode is not None) == (1, True)


def test_less_memory_of_a_short_answer_is_no_drift() -> None:
    assert verify.drifts(run(resident_bytes=500 * MIB, whole_batch=False), NONE) == ()
    assert "50% less" in texts(verify.drifts(run(resident_bytes=500 * MIB), NONE))[0]


def test_what_was_learned_is_no_drift_any_more() -> None:
    assert verify.drifts(run(decode=6.0), Correction(decode=0.62)) == ()
    (again,) = texts(verify.drifts(run(decode=10.0), Correction(decode=0.62)))
    assert "6.2 tok/s were predicted (61% more)" in again


def test_what_was_not_measured_is_no_drift() -> None:
    assert verify.drifts(run(decode=None, prefill=None, resident_bytes=None), NONE) == ()


def test_streamed_weights_of_a_file_are_those_of_its_header(smollm2: str) -> None:
    """Tied: the table is the head and read whole. The closed form of the shape says the same, type by type."""
    artifact = identify(smollm2)
    found = verify.weights_of(artifact)
    assert found is not None
    assert artifact.shape is not None
    formula = weights.weights(artifact.shape, 0, 0, artifact.quant)
    assert abs(found.total_bytes / formula.total_bytes - 1) < 0.001
    assert abs(found.streamed_bytes / formula.streamed_bytes - 1) < 0.001
    assert sum(n for _, n in found.streamed_params) == pytest.approx(134.5e6, rel=0.001)


def test_a_prediction_is_made_for_the_depth_that_was_measured(smollm2: str) -> None:
    plan = launch.model_plan(smollm2, SelectionRequest(ctx=2048))
    machine = probe(measure=False)
    facts = verify.facts_of("gguf", machine)
    shallow, deep = (verify.predicted(plan, machine, MeasuredRates(decode_depth=d), facts) for d in (16, 2000))
    assert shallow.decode is not None
    assert deep.decode is not None
    assert shallow.decode > deep.decode * 1.05
    assert shallow.resident_bytes == deep.resident_bytes
    on_gpu = replace(plan, settings=replace(plan.settings, gpu_layers=3))
    assert verify.predicted(on_gpu, machine, MeasuredRates(), facts) == Numbers(), "which GPU, nothing tells"


def test_a_run_with_layers_on_gpus_is_predicted_as_its_plan_was(smollm2: str) -> None:
    """At the usual depth; for all layers, some of them, and two GPUs of which one is not in the table."""
    cards = (Accelerator("cuda", "RTX 3060", 12 << 30), Accelerator("cuda", "Strange 9000", 8 << 30))
    machine = replace(probe(measure=False), accelerators=cards)
    devices = tuple(Device(f"CUDA{i}", gpu.name, gpu.vram_bytes or 0, None, False) for i, gpu in enumerate(cards))
    plain = replace(verify.facts_of("gguf", machine), offload=Offload(devices[:1]), problems=(), calibration=None)
    plan = launch.model_plan(smollm2, SelectionRequest(ctx=2048))
    card = lookup.find(plan.artifact.model_id)
    files = tuple(file for file in card.files if file.quant == plan.artifact.quant)
    for layers, split in ((-1, "whole"), (16, "part")):
        request = SelectionRequest(ctx=2048, gpu_layers=layers)
        on = replace(machine, accelerators=cards[:1])
        choice = decide(contexts.context(on, [replace(card, files=files)], [plain]), request).choice
        assert choice is not None
        placed = replace(plan, settings=choice.settings)
        place = verify.place_of(placed, on, plain)
        assert place == GpuPlace(("cuda RTX 3060",), split)  # type: ignore[arg-type]
        numbers = verify.predicted(placed, on, MeasuredRates(decode_depth=1024, prefill_tokens=512), plain)
        assert numbers.decode == pytest.approx(choice.decode.tok_s, rel=0.02)
        assert numbers.prefill == pytest.approx(choice.prefill.tok_s, rel=0.02)
        assert numbers.resident_bytes is None
    both = replace(plain, offload=Offload(devices))
    settings = replace(plan.settings, gpu_layers=31, devices=("CUDA0", "CUDA1"), device_layers=(20, 11))
    place = verify.place_of(replace(plan, settings=settings), machine, both)
    assert place == GpuPlace(("cuda RTX 3060", "cuda Strange 9000"), "whole", strange=True)
    for wrong in (replace(settings, device_layers=()), replace(settings, devices=("CUDA0", "CUDA7"))):
        assert verify.place_of(replace(plan, settings=wrong), machine, both) is None


def test_a_slower_gpu_than_before_is_a_drift_and_the_processors_runs_are_not_asked() -> None:
    place = GpuPlace(("cuda A",), "whole")
    on_gpu = [msgspec.structs.replace(run(decode=4.0), id=str(i), gpu_layers=-1, place=place) for i in range(6)]
    on_cpu = msgspec.structs.replace(run(decode=10.0), id="cpu")
    bases = {"gguf": "", "gguf on GPUs": ""}
    assert [d.quantity for d in verify.latest_drifts((on_cpu, on_gpu[0]), bases)] == ["decode"]
    assert verify.latest_drifts((on_cpu, *on_gpu), bases) == ()


def test_a_load_is_recorded_warned_of_and_learned_from(smollm2: str, caplog: pytest.LogCaptureFixture) -> None:
    machine = probe(measure=False)
    with EdgeLLM.load(smollm2, ctx=1024, threads=1) as llm:
        assert llm.verification.summary() is None
        for topic in ("rain", "snow", "hail"):
            llm.chat(f"Tell me about {topic}. " * 8, max_tokens=18, temperature=0)
        wait_until(lambda: llm.verification.run is not None)
    (kept,) = run_log.read(machine).runs
    assert kept == llm.verification.run
    assert (kept.requests, kept.threads, kept.ctx, kept.slots, kept.kv_type) == (3, 1, 1024, 1, "f16")
    for name in ("decode", "prefill", "first_token_s", "resident_bytes", "allocated_bytes"):
        assert getattr(kept.measured, name) > 0, name
        assert getattr(kept.predicted, name) > 0, name
    assert kept.measured.loaded_bytes <= kept.measured.resident_bytes
    assert kept.measured.resident_bytes == pytest.approx(kept.predicted.resident_bytes, rel=0.5)
    assert kept.waited is not None
    summary = llm.verification.summary()
    assert summary is not None
    assert summary["measured"]["decode"] == kept.measured.decode
    assert len(summary["drift"]) == len(summary["drift_facts"]) == len(llm.verification.drifts)
    quiet = msgspec.structs.replace(kept, waited=0.0)
    learned = run_log.of_runs((quiet,), {"gguf": kept.basis}).of("gguf", kept.model, kept.quant)
    ratio = kept.measured.decode / kept.predicted.decode
    assert abs(learned.decode - ratio) < abs(1 - ratio) or learned.decode == 0.25


def test_a_drift_is_logged_once_a_load_and_warned_of_never(
    smollm2: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "edgellm.app.verify")
    monkeypatch.setattr(verify, "DRIFT", -1.0)  # whatever was measured drifted
    with EdgeLLM.load(smollm2, ctx=1024, threads=1) as llm:
        for _ in range(2):
            llm.chat("Hello. " * 12, max_tokens=18, temperature=0)
            llm.verification.record(llm.verification._measurements())
    said = [record.getMessage() for record in caplog.records if record.name == "edgellm.app.verify"]
    assert len([text for text in said if text.startswith("decode of")]) == 1
    assert "were predicted" in said[0]
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_what_another_type_of_cache_taught_is_not_expected_of_this_one(
    smollm2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "DRIFT", -1.0)  # whatever was measured drifted
    with EdgeLLM.load(smollm2, ctx=1024, threads=1, kv="q8_0") as llm:
        llm.chat("Hello. " * 12, max_tokens=18, temperature=0)
        wait_until(lambda: llm.verification.run is not None)
        own = llm.verification.run
        assert own is not None
        assert own.predicted.decode is not None
        as_predicted = msgspec.structs.replace(own, id="2", waited=0.0, measured=Numbers(decode=own.predicted.decode))
        other_cache = msgspec.structs.replace(
            as_predicted, id="3", kv_type="f16", measured=Numbers(decode=3 * own.predicted.decode)
        )
        monkeypatch.setattr(llm.verification, "_earlier", (other_cache, as_predicted))
        monkeypatch.setattr(llm.verification, "_recorded", -1)
        llm.verification.record(llm.verification._measurements())
    (decode,) = (drift for drift in llm.verification.drifts if drift.quantity == "decode")

    assert decode.predicted < 1.5 * own.predicted.decode


def test_a_history_that_cannot_be_written_costs_no_answer(smollm2: str, own_home, caplog) -> None:
    (own_home / "data").mkdir(exist_ok=True)
    (own_home / "data" / "history").write_text("in the way")
    with EdgeLLM.load(smollm2, ctx=1024, threads=1) as llm:
        assert llm.chat("Hello. " * 10, max_tokens=20, temperature=0).text
    assert any("could not be recorded" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_data_folder_that_is_read_only_is_not_complained_of(number: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), verify._harmless():
        raise OSError(number, os.strerror(number), "runs.jsonl")
    assert len(caplog.records) == (number != errno.EROFS)


def test_a_model_whose_file_was_deleted_meanwhile_records_nothing_and_says_nothing(
    smollm2: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / Path(smollm2).name
    own.symlink_to(smollm2)
    with EdgeLLM.load(str(own), ctx=1024, threads=1) as llm:
        own.unlink()
        assert llm.chat("Hello. " * 10, max_tokens=20, temperature=0).text
    assert llm.verification.run is None
    assert [record.getMessage() for record in caplog.records if record.name == "edgellm.app.verify"] == []


def test_what_came_last_is_recorded_when_the_model_is_closed(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes it must not wait for a slow disk, or for a lock that another process holds."""
    states: list[str] = []
    record = run_log.record

    def watched(machine: Machine, row: Row) -> None:
        states.append(llm.state)
        record(machine, row)

    monkeypatch.setattr(run_log, "record", watched)
    with EdgeLLM.load(smollm2, ctx=512) as llm:
        llm._session.meter.on_sample = None
        assert list(llm.generate(GenerationRequest("Once upon a time", max_tokens=18, ignore_eos=True)))
    assert states == ["closed"]
    assert llm.verification.run is not None
    assert llm.verification.run.measured.resident_bytes


def test_where_no_thread_can_be_started_nothing_is_recorded_and_the_answer_comes(
    smollm2: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "edgellm-verify":
            raise RuntimeError("can't start new thread")
        start(thread)

    with EdgeLLM.load(smollm2, ctx=512) as llm:
        monkeypatch.setattr(threading.Thread, "start", refused)
        for _ in range(2):
            assert list(llm.generate(GenerationRequest("Once upon a time", max_tokens=18, ignore_eos=True)))
        assert llm.state == "ready"
    assert "can't start new thread" in caplog.text


def test_echo_tells_nothing() -> None:
    with EdgeLLM.load("echo") as llm:
        llm.chat("x" * 100)
    assert llm.verification.run is None
    assert run_log.read(probe(measure=False)).rows == ()


def test_the_next_plan_on_this_machine_is_made_with_what_ran() -> None:
    machine = probe(measure=False)
    facts = [f for f in backend_facts(plugins().backends().values(), machine) if f.name == "gguf" and not f.problems]
    request, rows = SelectionRequest(gpu_layers=0), [lookup.find("smollm2-135m-instruct")]

    def choice() -> Candidate:
        found = decide(
            contexts.context(machine, rows, facts, corrections=context.corrections(machine, facts)), request
        ).choice
        assert found is not None
        return found

    before = choice()
    slow = msgspec.structs.replace(
        run(decode=5.0, prefill=None, resident_bytes=None), model=before.model, quant=before.quant,
        threads=machine.compute_threads, basis=fingerprint.basis(plugins().backend("gguf"), facts[0].calibration),
    )  # fmt: skip
    run_log.record(machine, slow)
    after = choice()
    assert after.decode.tok_s == pytest.approx(before.decode.tok_s * 0.5 ** (1 / 1.2), rel=0.01)
    assert f", by 1 run of {before.model} {before.quant} here" in explain.basis(after.decode.basis)
    run_log.record(machine, msgspec.structs.replace(slow, basis="another build"))
    assert choice().decode == before.decode


def test_a_record_waits_for_the_requests_that_run(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAUSE_S", 0.02)
    looks: list[bool] = []
    idle = WorkerSession.idle.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(WorkerSession, "idle", property(lambda session: looks.append(True) or idle(session)))
    with EdgeLLM.load(smollm2, ctx=1024, slots=2, threads=1) as llm:
        running = llm.generate(GenerationRequest("One, two, three", max_tokens=900, ignore_eos=True))
        next(running)
        # As many tokens as tell a rate: a chat might end before.
        list(llm.generate(GenerationRequest("Hello. " * 12, max_tokens=20, ignore_eos=True)))
        assert llm._session.meter.measured().requests == 1
        assert not llm._session.idle
        looks.clear()
        wait_until(lambda: len(looks) >= 3)  # it found the session at work as often
        assert llm.verification.run is None
        running.close()
        wait_until(lambda: llm.verification.run is not None)


def test_a_drift_beside_a_busy_gpu_says_so() -> None:
    beside = msgspec.structs.replace(run(decode=2.0), gpu_busy=0.6)
    (drift,) = (one for one in verify.drifts(beside, NONE) if one.quantity == "decode")
    assert (drift.gpu_busy, drift.waited) == (0.6, None)
    assert "60%" in explain.drift_remedy(drift)

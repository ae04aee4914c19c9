"""Verify after load: compares predictions with measurements, and keeps both for the next plan.

Where they differ is told by `edgellm doctor`, /stats of `edgellm run` and /edgellm/plan. Whoever waits for an answer
can do nothing about it, so it is logged at level INFO only.

Requests are not delayed: the worker's memory is read from outside, and the record is written while no request runs. It
is written after the first request that can be measured, each time the number of such requests doubles, and at the end.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgellm import explain
from edgellm.app import gpu_run
from edgellm.contract import answers
from edgellm.contract.backend import priors_of
from edgellm.contract.manager import plugins
from edgellm.errors import ArtifactError
from edgellm.estimate import footprint, speed, weights
from edgellm.history import fingerprint, run_log
from edgellm.history.corrections import Correction
from edgellm.history.run_log import Numbers, Run
from edgellm.runtime.metrics import MeasuredRates
from edgellm.runtime.process_usage import waited_share
from edgellm.runtime.session import Session
from edgellm.selection.backend_facts import BackendFacts
from edgellm.types.drift import Drift
from edgellm.types.gpu_place import GpuPlace
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan

log = logging.getLogger("edgellm.app.verify")

DRIFT = 0.25  # of what was predicted
WHOLE_BATCH = 0.9  # of a batch: what the rest would touch is a tenth of the scratch, which is small beside the weights
PAUSE_S, PATIENCE_S = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a load has measured so far. Of its process, it can be asked only while that lives."""

    rates: MeasuredRates
    numbers: Numbers
    restarts: int
    waited: float | None


class Verification:
    """Of one load. `run` is what was recorded last, None = nothing yet."""

    def __init__(self, plan: LaunchPlan, session: Session) -> None:
        self._plan = plan
        self._session = session
        self._id = run_log.new_id()
        self._lock = threading.Lock()  # one record at a time
        self._recorded = -1  # requests in the last record
        self._told: set[str] = set()
        self._ending = False
        self._gpu_busy: float | None = None  # the most that was seen while this load computed nothing
        self.run: Run | None = None
        self.drifts: tuple[Drift, ...] = ()
        session.meter.on_sample = self._on_sample

    def __repr__(self) -> str:
        return f"<Verification of {self._plan.artifact.name}: run={self.run}, drifts={self.drifts}>"

    def abandon(self) -> None:
        """Record nothing more. Takes no lock, as a garbage collector may call it anywhere."""
        self._session.meter.on_sample = None
        self._ending = True

    def end(self) -> Measurements | None:
        """Record nothing more but what this returns, by `record` when the session is closed: what came since the last
        time. Whoever closes it must not wait for a disk."""
        self.abandon()
        with _harmless():
            if self._session.state == "ready":
                return self._measurements()
        return None

    def record(self, measurements: Measurements) -> None:
        """Keep it for the next plan, unless it is on record already."""
        with _harmless(), self._lock:
            self._record_now(measurements)

    def summary(self) -> dict[str, Any] | None:
        """For programs: numbers predicted and measured, and what drifted; None where nothing was recorded yet."""
        if self.run is None:
            return None
        numbers = {"predicted": self.run.predicted, "measured": self.run.measured}
        drift = [{"text": explain.drift(drift), "fix": explain.drift_remedy(drift)} for drift in self.drifts]
        drift_facts = list(map(explain.facts, self.drifts))
        return {
            **msgspec.to_builtins(numbers),
            "requests": self.run.requests,
            "drift": drift,
            "drift_facts": drift_facts,
        }

    def _on_sample(self, requests: int) -> None:
        if requests & (requests - 1) == 0:  # 1, 2, 4, 8, ...
            recording = threading.Thread(target=self._record_when_idle, name="edgellm-verify", daemon=True)
            try:
                recording.start()
            except RuntimeError as error:  # there are as many threads as are allowed
                log.warning("what was measured could not be recorded: %s", error)

    def _record_when_idle(self) -> None:
        """Waits until no request runs, up to PATIENCE_S: recording takes a tenth of a second."""
        for _ in range(round(PATIENCE_S / PAUSE_S)):
            time.sleep(PAUSE_S)
            if self._ending:
                return
            if self._session.idle:
                break
        with _harmless():
            self._look_at_gpus()
            self.record(self._measurements())

    def _look_at_gpus(self) -> None:
        """Who computes on its GPUs while nobody asks it anything: others."""
        if not self._plan.settings.gpu_layers or not self._session.idle:
            return
        share = gpu_run.busy_share(self._plan.settings, facts_of(self._plan.backend, self._machine))
        if share is not None and self._session.idle:  # a request that came meanwhile would count as others'
            self._gpu_busy = max(self._gpu_busy or 0.0, share)

    def _measurements(self) -> Measurements:
        session, measured = self._session, self._session.meter.measured()
        loaded, now = session.process_usage()
        numbers = Numbers(
            decode=measured.decode,
            prefill=measured.prefill,
            first_token_s=measured.first_token_s,
            batched=measured.batched,
            resident_bytes=None if now is None else now.peak_bytes or now.resident_bytes,
            loaded_bytes=None if loaded is None else loaded.resident_bytes,
            allocated_bytes=session.info.allocated_bytes,
        )
        return Measurements(measured, numbers, session.restarts, waited_share(loaded, now))

    def _record_now(self, measurements: Measurements) -> None:
        measured = measurements.rates
        if self._plan.artifact.shape is None or measured.requests == self._recorded:
            return
        if self._session.had_adapters:
            return  # memory and speed are those of both, which says nothing of the model alone
        if not all(map(os.path.exists, self._plan.artifact.paths)):
            return  # deleted while it runs: what was predicted is read from its files
        self._recorded = measured.requests
        run = self._run(measurements)
        learned = _learned(run, self._earlier, {run.rated_by: run.basis})
        run_log.record(self._machine, run)
        self.run, self.drifts = run, drifts(run, learned)
        for drift in self.drifts:
            if drift.quantity not in self._told:
                self._told.add(drift.quantity)
                log.info("%s; %s", explain.drift(drift), explain.drift_remedy(drift))

    @functools.cached_property
    def _machine(self) -> Machine:
        from edgellm.hardware.probe import probe

        return probe(measure=False)

    @functools.cached_property
    def _earlier(self) -> tuple[Run, ...]:
        """Runs before this one."""
        return run_log.read(self._machine).runs

    def _run(self, measurements: Measurements) -> Run:
        plan, settings, measured = self._plan, self._plan.settings, measurements.rates
        backend = plugins().backend(plan.backend)
        facts = facts_of(plan.backend, self._machine)
        place = place_of(plan, self._machine, facts)
        return Run(
            **run_log.about(plan, self._id),
            build=fingerprint.build(backend),
            basis=fingerprint.bases(backend, facts.calibration)[fingerprint.name(plan.backend, place)],
            threads=settings.n_threads,
            ctx=settings.n_ctx,
            slots=settings.n_slots,
            kv_type=settings.kv_type,
            gpu_layers=settings.gpu_layers,
            experts_away=settings.experts_away,
            place=place,
            depth=measured.decode_depth,
            requests=measured.requests,
            restarts=measurements.restarts,
            whole_batch=measured.longest_prefill >= WHOLE_BATCH * min(settings.n_batch, settings.n_ctx - 1),
            waited=measurements.waited,
            gpu_busy=self._gpu_busy,
            predicted=predicted(plan, self._machine, measured, facts),
            measured=measurements.numbers,
        )


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """A failure in here must not affect a request."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EROFS:  # as whoever mounted it wants
            log.debug("what was measured is not recorded: %s", error)
            return
        log.warning("what was measured could not be recorded: %s: %s", type(error).__name__, error)


def facts_of(backend: str, machine: Machine) -> BackendFacts:
    """What is known of the backend on this machine."""
    from edgellm.selection import backend_facts

    return backend_facts.facts_of(plugins().backend(backend), machine, plugins().backends().values())


def place_of(plan: LaunchPlan, machine: Machine, facts: BackendFacts) -> GpuPlace | None:
    """What of GPUs a run of the plan teaches; None = nothing."""
    if not plan.settings.gpu_layers:
        return None
    placed = gpu_run.placement_of(plan, machine, facts, weights_of(plan.artifact))
    return None if placed is None else placed.gpu_place


def predicted(plan: LaunchPlan, machine: Machine, measured: MeasuredRates, facts: BackendFacts) -> Numbers:
    """The prediction for what was measured: at its depth and its prompts, before corrections."""
    artifact, settings, shape = plan.artifact, plan.settings, plan.artifact.shape
    assert shape is not None
    backend = plugins().backend(plan.backend)
    # The plan's own footprint may be corrected already.
    memory = answers.footprint(backend, artifact, settings) or footprint.footprint(
        shape, artifact.bytes, settings.n_ctx, settings.n_slots, settings.kv_type
    )
    tensors = weights_of(artifact)
    if settings.gpu_layers:
        return gpu_run.numbers(plan, machine, measured, facts, tensors)
    # Requests under a grammar are few, and their tables stay.
    beside = memory.parent_bytes + memory.grammar_bytes
    resident_bytes = memory.resident_bytes - beside
    allocated_bytes = memory.allocated_bytes - beside - memory.process_bytes
    if tensors is None:
        return Numbers(resident_bytes=resident_bytes, allocated_bytes=allocated_bytes)
    kernels, kv_type, rates = priors_of(backend).rates, settings.kv_type, facts.calibration
    depth = measured.decode_depth or speed.REFERENCE_DEPTH
    decode = speed.decode(
        machine, shape, tensors, settings.n_threads, depth=depth, kv_type=kv_type, rates=rates, own=kernels
    ).tok_s
    tokens = measured.prefill_tokens or speed.BATCH
    prefill = speed.prefill(
        machine, shape, tensors, settings.n_threads_batch, tokens=tokens, kv_type=kv_type, rates=rates, own=kernels
    ).tok_s
    return Numbers(
        decode=decode,
        prefill=prefill,
        first_token_s=measured.prefill_tokens / prefill if measured.prefill_tokens else None,
        resident_bytes=resident_bytes,
        allocated_bytes=allocated_bytes,
    )


def weights_of(artifact: Artifact) -> weights.Weights | None:
    """From the header of the file itself where it is GGUF, else from its shape and the name of its type."""
    if artifact.format == "gguf":
        try:
            return _from_header(artifact)
        except ArtifactError:
            return None
    try:
        assert artifact.shape is not None
        return weights.weights(artifact.shape, 0, 0, artifact.quant).with_tensor_bytes(artifact.bytes)
    except KeyError:
        return None


def _from_header(artifact: Artifact) -> weights.Weights:
    from edgellm.formats.gguf import reader

    shape = artifact.shape
    assert shape is not None
    total_bytes = streamed_bytes = 0
    by_type: dict[str, int] = {}
    for tensor in reader.read_model(artifact.path).tensors:
        count = math.prod(tensor.dims)
        n_bytes = tensor.type.size_bytes(count)
        total_bytes += n_bytes
        if "_exps" in tensor.name and shape.n_expert:
            count, n_bytes = (n * shape.n_expert_used // shape.n_expert for n in (count, n_bytes))
        if tensor.name == "token_embd.weight" and not shape.tied_embeddings:
            continue
        streamed_bytes += n_bytes
        if len(tensor.dims) > 1:
            by_type[tensor.type.name] = by_type.get(tensor.type.name, 0) + count
    return weights.Weights(total_bytes, streamed_bytes, weights.ranked(by_type), exact=True)


def correction(plan: LaunchPlan, machine: Machine, facts: BackendFacts) -> Correction:
    """What earlier runs made of predictions like those for this plan."""
    bases = fingerprint.bases(plugins().backend(plan.backend), facts.calibration)
    place = place_of(plan, machine, facts)
    return (
        run_log.corrections(machine, bases, plan.settings.n_threads)
        .on(place)
        .of(plan.backend, plan.artifact.model_id, plan.artifact.quant, plan.settings.kv_type)
    )


def drifts(run: Run, learned: Correction) -> tuple[Drift, ...]:
    """Numbers that differ by more than DRIFT from their prediction, as it was corrected before the run."""
    ratios = run_log.quotients(run)
    # A short answer touches less memory than a long one will.
    resident = ratios["resident_bytes"] if run.whole_batch else max(1.0, ratios["resident_bytes"] or 1.0)
    waited = run.waited if (run.waited or 0) > run_log.BUSY else None
    gpu_busy = run.gpu_busy if run_log.is_gpu_busy(run) else None
    differences = []
    compared: tuple[tuple[Literal["decode", "prompts", "memory"], float | None, float, str], ...] = (
        ("decode", ratios["decode"], learned.decode, "decode"),
        ("prompts", ratios["prefill"], learned.prefill, "prefill"),
        ("memory", resident, learned.resident, "resident_bytes"),
    )
    for quantity, ratio, factor, name in compared:
        if ratio is not None and abs(ratio / factor - 1) > DRIFT:
            number, expected = getattr(run.measured, name), getattr(run.predicted, name) * factor
            differences.append(Drift(quantity, run.model, run.quant, number, expected, waited, gpu_busy))
    return tuple(differences)


def latest_drifts(runs: Sequence[Run], bases: Mapping[str, str]) -> tuple[Drift, ...]:
    """Drifts of the last run of each model and quantization, compared with what the runs before it had taught."""
    latest: list[Drift] = []
    last = {(run.backend, run.model, run.quant, run.kv_type, run.place): run for run in runs}
    for run in last.values():
        if run.model != run_log.CALIBRATION and run.basis == bases.get(run.rated_by):
            latest += drifts(run, _learned(run, runs[: runs.index(run)], bases))
    return tuple(latest)


def _learned(run: Run, earlier: Sequence[Run], bases: Mapping[str, str]) -> Correction:
    """What the runs before it had taught of what it ran."""
    learned = run_log.of_runs(earlier, bases, run.threads).on(run.place)
    return learned.of(run.backend, run.model, run.quant, run.kv_type)

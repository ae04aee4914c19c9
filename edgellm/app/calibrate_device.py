"""Measures a GPU with small models, and keeps that as runs there: what corrects predictions for it from then on."""

from __future__ import annotations

from collections.abc import Iterable

from edgellm.app import gpu_run
from edgellm.contract.backend import DeviceCalibrator
from edgellm.contract.manager import plugins
from edgellm.errors import BackendUnavailable
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights, ranked
from edgellm.history import calibrator, fingerprint, run_log
from edgellm.history.run_log import CALIBRATION, Numbers, Run
from edgellm.runtime.metrics import MeasuredRates
from edgellm.selection.backend_facts import BackendFacts
from edgellm.types.device_trial import DeviceTrial
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact, Shape
from edgellm.types.plan import LaunchPlan, Settings


def able(names: Iterable[str]) -> list[str]:
    """Those of the backends that measure GPUs.

    Raises:
        BackendUnavailable: none does.
    """
    chosen = [name for name in names if isinstance(plugins().backend(name), DeviceCalibrator)]
    if not chosen:
        raise BackendUnavailable(
            "no backend of these measures a GPU", hint="its first answers do; see `edgellm plugins`"
        )
    return chosen


def measured(facts: BackendFacts, machine: Machine, device: str) -> list[Run]:
    """One run for each type of weights, recorded; a later measurement of the device takes their place.

    Raises:
        BackendUnavailable, WorkerCrashed: see `calibrator.measure_device`. OSError: it cannot be kept.
    """
    backend = plugins().backend(facts.name)
    runs = [_run(trial, facts, machine, device) for trial in calibrator.measure_device(backend, device)]
    for run in runs:
        run_log.record(machine, run)
    return runs


def _run(trial: DeviceTrial, facts: BackendFacts, machine: Machine, device: str) -> Run:
    backend, weights = plugins().backend(facts.name), _weights(trial)
    settings = Settings(trial.tokens, gpu_layers=-1, devices=(device,))
    plan = LaunchPlan(facts.name, Artifact("gguf", (), CALIBRATION, trial.type, shape=_shape(trial)), settings)
    placed = gpu_run.placement_of(plan, machine, facts, weights)
    place = None if placed is None else placed.gpu_place
    rates = MeasuredRates(1, trial.decode_tok_s, trial.depth, trial.prefill_tok_s, trial.tokens)
    names = "" if place is None else place.gpus[0]
    return Run(
        **run_log.about(plan, f"calibration of {names}, {facts.name}, {trial.type}"),
        build=fingerprint.build(backend),
        basis=fingerprint.bases(backend, facts.calibration)[fingerprint.name(facts.name, place)],
        threads=settings.n_threads, ctx=settings.n_ctx, slots=1, kv_type=settings.kv_type, gpu_layers=-1, place=place,
        depth=trial.depth, requests=1,
        predicted=gpu_run.numbers(plan, machine, rates, facts, weights),
        measured=Numbers(decode=trial.decode_tok_s, prefill=trial.prefill_tok_s),
    )  # fmt: skip


def _shape(trial: DeviceTrial) -> Shape:
    cached = 2 * 2 * trial.layers * trial.n_head_kv * trial.head_dim
    return Shape(
        "llama", trial.layers, trial.width, trial.ffn, trial.n_head, trial.n_head_kv, trial.head_dim, trial.n_vocab,
        tied_embeddings=True, kv_full_bytes=cached,
    )  # fmt: skip


def _weights(trial: DeviceTrial) -> Weights:
    n = round(trial.n_bytes * 8 / TYPES[trial.type].bits_per_weight)
    return Weights(trial.n_bytes, trial.n_bytes, ranked({trial.type: n}), exact=True)

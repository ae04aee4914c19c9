"""Fit reports as plain data: `edgellm estimate --json`, described in docs/estimate-json.md, versioned by `schema`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgellm import explain
from edgellm.selection.decision_json import about_model, placement
from edgellm.selection.fit import FitReport
from edgellm.selection.scenario import Scenario
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate, Footprint, LaunchPlan, Rejection
from edgellm.types.reason import ContextLength, ContextUnknown
from edgellm.types.verdict import Fits

SCHEMA = 1
# Of a GGUF header: 0.76 MB at 32,000 tokens of vocabulary, 6.0 at 152,000, 6.5 at 262,000, 7.8 at 128,000 of llama's
# BPE. Source: docs/explain/memory-model.md.
HEADER_BYTES_PER_TOKEN = 40


@dataclass(frozen=True, slots=True)
class Size:
    basis: str  # of tensor_bytes: "exact" (read or published), "rule" (llama.cpp's rules), "estimate"
    file_bytes: int
    file_is_exact: bool
    own_types: str = ""  # where the publisher's mix is not what its name says, and how that is known


def size(card: ModelCard, report: FitReport) -> Size:
    """How large the file is, and how that is known."""
    file = file_of(card, report.candidate)
    read = file is not None and file.tensor_bytes is not None
    basis = "exact" if read else "rule" if report.exact_size else "estimate"
    own = explain.own_types(file) if file is not None else ""
    file_bytes, is_exact = file_size(card, report.candidate)
    return Size(basis, file_bytes, is_exact, own)


def to_dict(  # noqa: PLR0917
    card: ModelCard,
    basis: str,
    scenario: Scenario,
    reports: Sequence[FitReport],
    refused: Sequence[Rejection],
    chosen: str,
) -> dict[str, Any]:
    """Keys in a fixed order: equal reports give equal JSON."""
    return {
        **_head({**about_model(card), "facts": basis}, scenario),
        "chosen": chosen or None,
        "estimates": [_estimate(card, report) for report in reports],
        "not_predicted": [explain.fields(rejection, "quant", "reason") for rejection in refused],
    }


def _head(model: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    machine, request = scenario.machine, scenario.request
    return {
        "schema": SCHEMA,
        "model": model,
        "machine": {
            **explain.fields(machine, "id", "name"),
            "budget_bytes": scenario.budget_bytes,
            "budget": explain.budget(scenario.budget),
            "budget_facts": explain.facts(scenario.budget),
            "threads": scenario.threads,
            **explain.fields(machine.memory, "bandwidth_gb_s", "bandwidth_basis"),
        },
        "request": explain.fields(
            request, "task", "ctx", "slots", "kv_type", "max_memory_bytes", "backend", "gpu_layers", "thinking"
        ),
    }


def of_plan(plan: LaunchPlan, basis: str, scenario: Scenario, counted_bytes: int) -> dict[str, Any]:
    """The same keys of a model that only its backend knows, which tells its memory; null is what nobody knows."""
    artifact, run, footprint = plan.artifact, plan.settings, plan.footprint
    assert footprint is not None, "of a model without one nothing is told"
    about = ("kind", "params", "params_active", "ctx_train", "license", "license_restricts")
    free_bytes = scenario.budget_bytes - counted_bytes
    fits = Fits(free_bytes)
    return {
        **_head({"id": artifact.name, **dict.fromkeys(about), "facts": basis}, scenario),
        "chosen": None,
        "estimates": [{
            "quant": None,
            "source": f"file:{artifact.path}",
            "backend": plan.backend,
            **dict.fromkeys(("tensor_bytes", "tensor_bytes_basis", "own_types")),
            "file_bytes": artifact.bytes,
            "file_bytes_exact": True,
            "ctx": run.n_ctx,
            **explain.plain({"ctx_reason": length_of(plan)}),
            "slots": run.n_slots, "kv_type": run.kv_type, "threads": run.n_threads, "gpu_layers": run.gpu_layers,
            "memory": _memory(footprint, counted_bytes),
            **dict.fromkeys(("decode", "prefill", "busy", "set_aside", "placement", "quality", "kept")),
            "verdict": {
                "fits": True,
                "free_bytes": free_bytes,
                **dict.fromkeys(("fast_enough", "floor_tps", "rate_tps")),
                "problems": [], "problems_facts": [], "remedies": [],
                "text": explain.verdict(fits),
                "text_facts": explain.facts(fits),
            },
        }],
        "not_predicted": [],
    }  # fmt: skip


def length_of(plan: LaunchPlan) -> ContextLength | ContextUnknown:
    """Why a plan without a prediction has its context."""
    return next(fact for fact in plan.reasons if isinstance(fact, ContextLength | ContextUnknown))


def _memory(footprint: Footprint, counted_bytes: int) -> dict[str, Any]:
    return {
        "terms": explain.plain(footprint.terms()),
        **explain.fields(footprint, "allocated_bytes", "resident_bytes", "reclaimable_bytes", "device_bytes"),
        "counted_bytes": counted_bytes,
    }


def _estimate(card: ModelCard, report: FitReport) -> dict[str, Any]:
    candidate, footprint, weights = report.candidate, report.candidate.footprint, size(card, report)
    return {
        **explain.fields(candidate, "quant", "source"),
        "backend": candidate.backend or None,
        "tensor_bytes": candidate.tensor_bytes,
        "tensor_bytes_basis": weights.basis,
        "own_types": weights.own_types or None,
        "file_bytes": weights.file_bytes,
        "file_bytes_exact": weights.file_is_exact,
        "ctx": candidate.ctx,
        **explain.fields(report, "ctx_reason"),
        **explain.fields(candidate, "slots", "kv_type", "threads", "gpu_layers"),
        "memory": _memory(footprint, report.counted_bytes),
        **explain.fields(candidate, "decode", "prefill"),
        "busy": explain.facts(report.busy) if report.busy is not None else None,
        "set_aside": explain.facts(report.set_aside),
        "placement": placement(candidate),
        "quality": {
            "mid": candidate.quality,
            "low": candidate.quality_low,
            "high": candidate.quality_high,
            **explain.plain({"basis": report.ability}),
        },
        "kept": {
            **{end: round(getattr(report.kept, end), 4) for end in ("mid", "low", "high")},
            **explain.fields(report.kept, "basis"),
        },
        "verdict": {
            "fits": report.fits,
            "free_bytes": report.budget_bytes - report.counted_bytes,
            "fast_enough": report.is_fast_enough,
            **explain.fields(report, "floor_tps", "rate_tps"),
            "problems": list(map(explain.problem, report.problems)),
            "problems_facts": list(map(explain.facts, report.problems)),
            "remedies": explain.plain(report.remedies),
            "text": explain.verdict(report.verdict),
            "text_facts": explain.facts(report.verdict),
        },
    }


def file_size(card: ModelCard, candidate: Candidate) -> tuple[int, bool]:
    """Bytes of the file, and whether they are known exactly: otherwise its weights and about a header."""
    file = file_of(card, candidate)
    if file is not None and file.bytes is not None:
        return file.bytes, True
    vocabulary = card.shape.n_vocab if card.shape is not None else 0
    return candidate.tensor_bytes + HEADER_BYTES_PER_TOKEN * vocabulary, False


def file_of(card: ModelCard, candidate: Candidate) -> ModelFile | None:
    return next((f for f in card.files if (f.source, f.quant) == (candidate.source, candidate.quant)), None)

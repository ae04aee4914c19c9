"""Appraisals as plain data: `edgellm estimate --json`, described in docs/estimate-json.md, versioned by `schema`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgellm import explain
from edgellm.selection.decision_json import about_model, rate
from edgellm.selection.fit import FitReport
from edgellm.selection.scenario import Scenario
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate, Rejection

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


def size(card: ModelCard, a: FitReport) -> Size:
    """How large the file is, and how that is known."""
    file = _file(card, a.candidate)
    read = file is not None and file.tensor_bytes is not None
    basis = "exact" if read else "rule" if a.exact_size else "estimate"
    own = explain.own_types(file) if file is not None else ""
    if file is not None and file.bytes is not None:
        return Size(basis, file.bytes, True, own)
    vocabulary = card.shape.n_vocab if card.shape is not None else 0
    return Size(basis, a.candidate.tensor_bytes + HEADER_BYTES_PER_TOKEN * vocabulary, False, own)


def to_dict(  # noqa: PLR0917
    card: ModelCard,
    basis: str,
    scenario: Scenario,
    found: Sequence[FitReport],
    refused: Sequence[Rejection],
    chosen: str,
) -> dict[str, Any]:
    """Keys in a fixed order: equal reports give equal JSON."""
    machine, request = scenario.machine, scenario.request
    return {
        "schema": SCHEMA,
        "model": {**about_model(card), "facts": basis},
        "machine": {
            "id": machine.id,
            "name": machine.name,
            "budget_bytes": scenario.budget_bytes,
            "budget": explain.budget(scenario.budget),
            "budget_facts": explain.facts(scenario.budget),
            "threads": scenario.threads,
            "bandwidth_gb_s": machine.memory.bandwidth_gb_s,
            "bandwidth_basis": machine.memory.bandwidth_basis,
        },
        "request": {
            "task": request.task,
            "ctx": request.ctx,
            "slots": request.slots,
            "kv_type": request.kv_type,
            "max_memory_bytes": request.max_memory_bytes,
            "backend": request.backend,
            "gpu_layers": request.gpu_layers,
        },
        "chosen": chosen or None,
        "estimates": [_estimate(card, a) for a in found],
        "not_predicted": [_refused(r) for r in refused],
    }


def _refused(r: Rejection) -> dict[str, Any]:
    return {"quant": r.quant, "reason": explain.refusal(r.reason), "reason_facts": explain.facts(r.reason)}


def _estimate(card: ModelCard, a: FitReport) -> dict[str, Any]:
    c, weights = a.candidate, size(card, a)
    return {
        "quant": c.quant,
        "source": c.source,
        "backend": c.backend or None,
        "tensor_bytes": c.tensor_bytes,
        "tensor_bytes_basis": weights.basis,
        "own_types": weights.own_types or None,
        "file_bytes": weights.file_bytes,
        "file_bytes_exact": weights.file_is_exact,
        "ctx": c.ctx,
        "ctx_reason": explain.sentence(a.ctx_reason),
        "ctx_reason_facts": explain.facts(a.ctx_reason),
        "slots": c.slots,
        "kv_type": c.kv_type,
        "threads": c.threads,
        "gpu_layers": c.gpu_layers,
        "memory": {
            "terms": [
                {"name": t.name, "allocated_bytes": t.allocated_bytes, "resident_bytes": t.resident_bytes}
                for t in c.footprint.terms()
            ],
            "allocated_bytes": c.footprint.allocated_bytes,
            "resident_bytes": c.footprint.resident_bytes,
            "device_bytes": c.footprint.device_bytes,
            "counted_bytes": a.counted_bytes,
        },
        "decode": rate(c.decode),
        "prefill": rate(c.prefill),
        "quality": {
            "mid": c.quality,
            "low": c.quality_low,
            "high": c.quality_high,
            "basis": explain.basis(a.ability),
            "basis_facts": explain.facts(a.ability),
        },
        "kept": {
            "mid": round(a.kept.mid, 4),
            "low": round(a.kept.low, 4),
            "high": round(a.kept.high, 4),
            "basis": explain.basis(a.kept.basis),
            "basis_facts": explain.facts(a.kept.basis),
        },
        "verdict": {
            "fits": a.fits,
            "free_bytes": a.budget_bytes - a.counted_bytes,
            "fast_enough": a.is_fast_enough,
            "floor_tps": a.floor_tps,
            "rate_tps": a.rate_tps,
            "problems": list(map(explain.problem, a.problems)),
            "problems_facts": list(map(explain.facts, a.problems)),
            "remedies": [{"flags": list(r.flags), "counted_bytes": r.counted_bytes} for r in a.remedies],
            "text": explain.verdict(a.verdict),
        },
    }


def _file(card: ModelCard, c: Candidate) -> ModelFile | None:
    return next((f for f in card.files if (f.source, f.quant) == (c.source, c.quant)), None)

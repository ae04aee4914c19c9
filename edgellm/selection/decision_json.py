"""A decision as plain data (`edgellm auto-select --json`, the server's page) and as lines of text.

The form is documented in docs/auto-select-json.md and versioned by `schema`; a change that breaks readers raises it.
"""

from __future__ import annotations

from typing import Any

from edgellm import explain
from edgellm.selection.reasons import FREE_LICENSES
from edgellm.types.model import ModelCard
from edgellm.types.plan import Candidate, Decision, Footprint, Rate, Rejection
from edgellm.units import show_memory, show_params, show_rate, show_size

SCHEMA = 1


def to_dict(decision: Decision) -> dict[str, Any]:
    """Keys in a fixed order, numbers rounded where they are estimates: equal decisions give equal JSON."""
    return {
        "schema": SCHEMA,
        "choice": _candidate(decision.choice),
        "reasons": list(map(explain.sentence, decision.reasons)),
        "reasons_facts": list(map(explain.facts, decision.reasons)),
        "runners_up": [_candidate(c) for c in decision.runners_up],
        "rejected": [_rejection(r) for r in decision.rejected],
        "would_choose": _candidate(decision.would_choose),
        "budget_bytes": decision.budget_bytes,
        "inputs": decision.inputs,
    }


def about_model(card: ModelCard) -> dict[str, Any]:
    """What a row of the catalog says of the model itself."""
    return {
        "id": card.id,
        "kind": card.kind,
        "params": card.params,
        "params_active": card.params_active,
        "ctx_train": card.ctx_train,
        "license": card.license,
        "license_restricts": card.license not in FREE_LICENSES,
    }


def _candidate(c: Candidate | None) -> dict[str, Any] | None:
    if c is None:
        return None
    return {
        "model": c.model,
        "params": c.params,
        "quant": c.quant,
        "backend": c.backend,
        "ctx": c.ctx,
        "slots": c.slots,
        "threads": c.threads,
        "threads_batch": c.threads_batch,
        "gpu_layers": c.gpu_layers,
        "kv_type": c.kv_type,
        "tensor_bytes": c.tensor_bytes,
        "memory": _footprint(c.footprint),
        "decode": rate(c.decode),
        "prefill": rate(c.prefill),
        "quality": {"mid": c.quality, "low": c.quality_low, "high": c.quality_high},
        "source": c.source,
        "license": c.license,
    }


def _footprint(f: Footprint) -> dict[str, int]:
    return {
        "allocated_bytes": f.allocated_bytes,
        "resident_bytes": f.resident_bytes,
        "needed_bytes": f.needed_bytes,
        "weights_bytes": f.weights_bytes,
        "kv_bytes": f.kv_bytes,
        "compute_bytes": f.compute_bytes,
        "process_bytes": f.process_bytes,
        "repack_bytes": f.repack_bytes,
        "output_bytes": f.output_bytes,
        "adapter_bytes": f.adapter_bytes,
        "parent_bytes": f.parent_bytes,
        "reclaimable_bytes": f.reclaimable_bytes,
        "device_bytes": f.device_bytes,
    }


def rate(r: Rate) -> dict[str, Any]:
    """A rate with its basis in words and as facts."""
    basis, basis_facts = explain.basis(r.basis), explain.facts(r.basis)
    return {"tok_s": r.tok_s, "low": r.low, "high": r.high, "basis": basis, "basis_facts": basis_facts}


def _rejection(r: Rejection) -> dict[str, Any]:
    return {
        "model": r.model,
        "quant": r.quant,
        "kv_type": r.kv_type,
        "rule": r.rule,
        "reason": explain.refusal(r.reason),
        "reason_facts": explain.facts(r.reason),
    }


def one_line(c: Candidate, *, reads_only: bool = False) -> str:
    """`"qwen3.5-4b Q5_K_M (4.2B, 3.07 GB): 8,192 tokens of context, 9.1 tok/s, 3.92 GiB of memory"`."""
    speed = f"reads {show_rate(c.prefill.tok_s)} tok/s" if reads_only else f"{show_rate(c.decode.tok_s)} tok/s"
    cached = f" in {c.kv_type}" if c.kv_type != "f16" else ""
    return (
        f"{c.model} {c.quant} ({show_params(c.params)}, {show_size(c.tensor_bytes)}): {c.ctx:,} tokens of context"
        f"{cached}, {speed}, {show_memory(c.footprint.needed_bytes)} of memory"
    )

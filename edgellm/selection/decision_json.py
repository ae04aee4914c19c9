"""A decision as plain data (`edgellm auto-select --json`, the server's page) and as lines of text.

The form is documented in docs/auto-select-json.md and versioned by `schema`; a change that breaks readers raises it.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from edgellm import explain
from edgellm.selection.reasons import FREE_LICENSES
from edgellm.types.model import ModelCard
from edgellm.types.plan import Candidate, Decision
from edgellm.units import show_memory, show_params, show_rate, show_size

SCHEMA = 1
_MEMORY = (
    "allocated_bytes", "resident_bytes", "needed_bytes", "weights_bytes", "kv_bytes", "compute_bytes", "process_bytes",
    "repack_bytes", "output_bytes", "adapter_bytes", "parent_bytes", "grammar_bytes", "reclaimable_bytes",
    "device_bytes",
)  # fmt: skip


def to_dict(decision: Decision) -> dict[str, Any]:
    """Keys in a fixed order, numbers rounded where they are estimates: equal decisions give equal JSON."""
    return {
        "schema": SCHEMA,
        "choice": _candidate(decision.choice),
        **explain.fields(decision, "reasons"),
        "runners_up": list(map(_candidate, decision.runners_up)),
        "rejected": [
            explain.fields(rejection, "model", "quant", "kv_type", "rule", "reason") for rejection in decision.rejected
        ],
        "would_choose": _candidate(decision.would_choose),
        "budget_bytes": decision.budget_bytes,
        "inputs": decision.inputs,
    }


def text(decision: Decision) -> str:
    """What `--json` prints: `json.dumps(to_dict(decision), indent=2)` in a tenth of the time, as many are rejected."""
    report = to_dict(decision)
    encoded = msgspec.json.encode(report)
    indented = msgspec.json.format(encoded, indent=2).decode() if encoded.isascii() else json.dumps(report, indent=2)
    return indented + "\n"


def about_model(card: ModelCard) -> dict[str, Any]:
    """What a row of the catalog says of the model itself."""
    return {
        **explain.fields(card, "id", "kind", "params", "params_active", "ctx_train", "license"),
        "license_restricts": card.license not in FREE_LICENSES,
    }


def _candidate(choice: Candidate | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        **explain.fields(choice, "model", "params", "quant", "backend", "ctx", "slots", "threads", "threads_batch"),
        **explain.fields(choice, "gpu_layers", "kv_type", "tensor_bytes"),
        "memory": {**explain.fields(choice.footprint, *_MEMORY), "counted_bytes": choice.counted_bytes},
        **explain.fields(choice, "decode", "prefill"),
        "placement": placement(choice),
        "quality": {"mid": choice.quality, "low": choice.quality_low, "high": choice.quality_high},
        **explain.fields(choice, "source", "license"),
    }


def placement(choice: Candidate) -> dict[str, Any]:
    """Where it runs, and the next best places."""
    placed = explain.fields(choice, "parts", "gpu_layers", "experts_away", "ubatch")
    return {**placed, "others": explain.plain(choice.other_placements)}


def _of_gpu(choice: Candidate) -> str:
    held = choice.footprint.device_bytes
    return f" and {show_memory(held)} of the GPU's" if held else ", on the GPU" if choice.parts else ""


def one_line(choice: Candidate, *, reads_only: bool = False) -> str:
    """`"qwen3.5-4b Q5_K_M (4.2B, 3.07 GB): 8,192 tokens of context, 9.1 tok/s, 3.92 GiB of memory"`."""
    rate = choice.prefill if reads_only else choice.decode
    cache = f" in {choice.kv_type}" if choice.kv_type != "f16" else ""
    return (
        f"{choice.model} {choice.quant} ({show_params(choice.params)}, {show_size(choice.tensor_bytes)}): "
        f"{choice.ctx:,} tokens of context{cache}, {'reads ' if reads_only else ''}{show_rate(rate.tok_s)} tok/s, "
        f"{show_memory(choice.counted_bytes)} of memory{_of_gpu(choice)}"
    )

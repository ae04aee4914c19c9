"""A fleet's plan as plain data: `edgellm plan --json`, described in docs/plan-json.md, versioned by `schema`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgellm import explain
from edgellm.selection.decision_json import to_dict as decision_to_dict
from edgellm.selection.fit_json import HEADER_BYTES_PER_TOKEN
from edgellm.selection.fleet import Assigned, Shared, is_slow
from edgellm.types import reason
from edgellm.types.model import ModelFile
from edgellm.types.plan import Candidate, Decision

SCHEMA = 1
_TELLING = (reason.ChosenQuant, reason.Slow, reason.FewerBitsTaken, reason.ShorterContext, reason.LicenseRestricts)


@dataclass(frozen=True, slots=True)
class Download:
    """One file that boxes fetch."""

    source: str
    model: str
    quant: str
    n_bytes: int
    exact: bool  # published or read; otherwise the weights and about the header
    boxes: tuple[str, ...]
    copies: int  # machines that fetch it


def downloads(boxes: Sequence[Assigned]) -> list[Download]:
    """Every distinct file that is not on its box already, in the order of the boxes."""
    found: dict[str, Download] = {}
    for box in boxes:
        c = box.choice
        if c is None or c.source.startswith("file:") or c.source in box.site.context.stored:
            continue
        n_bytes, exact = _bytes(box, c)
        known = found.get(c.source, Download(c.source, c.model, c.quant, n_bytes, exact, (), 0))
        names, copies = (*known.boxes, box.site.name), known.copies + box.site.count
        found[c.source] = Download(c.source, c.model, c.quant, known.n_bytes, known.exact, names, copies)
    return list(found.values())


def _bytes(box: Assigned, c: Candidate) -> tuple[int, bool]:
    card = next(card for card in box.site.context.cards if card.id == c.model)
    file: ModelFile | None = next((f for f in card.files if (f.source, f.quant) == (c.source, c.quant)), None)
    if file is not None and file.bytes is not None:
        return file.bytes, True
    vocabulary = card.shape.n_vocab if card.shape is not None else 0
    return c.tensor_bytes + HEADER_BYTES_PER_TOKEN * vocabulary, False


def telling(decision: Decision, *, shared: bool) -> list[reason.Reason]:
    """The reasons for the model (where it was chosen for this box), its quantization, and what falls short."""
    kinds = _TELLING if shared else (reason.BestModel, *_TELLING)
    return [fact for fact in decision.reasons if isinstance(fact, kinds)]


def to_dict(name: str, profiles: Sequence[str], boxes: Sequence[Assigned], shared: Shared | None) -> dict[str, Any]:
    """Keys in a fixed order: equal plans give equal JSON."""
    files = downloads(boxes)
    return {
        "schema": SCHEMA,
        "fleet": name,
        "one_model": None if shared is None else _shared(shared),
        "boxes": [_box(box, profile) for box, profile in zip(boxes, profiles, strict=True)],
        "downloads": {
            "files": [
                {
                    "source": f.source,
                    "model": f.model,
                    "quant": f.quant,
                    "bytes": f.n_bytes,
                    "bytes_exact": f.exact,
                    "boxes": list(f.boxes),
                    "copies": f.copies,
                }
                for f in files
            ],
            "distinct_bytes": sum(f.n_bytes for f in files),
            "total_bytes": sum(f.n_bytes * f.copies for f in files),
        },
    }


def _shared(shared: Shared) -> dict[str, Any]:
    return {
        "model": shared.model,
        "quant": shared.quant or None,
        "quality_worst": shared.worst,
        "quality_mean": shared.mean,
        "slow_boxes": list(shared.slow),
        "low_bit_boxes": list(shared.low_bits),
        "limiting_box": shared.limit or None,
        "without_it": shared.without_limit or None,
        "runners_up": [
            {"model": r.model, "quality_worst": r.worst, "quality_mean": r.mean, "slow_boxes": list(r.slow)}
            for r in shared.runners_up
        ],
    }


def _box(box: Assigned, profile: str) -> dict[str, Any]:
    request, decision = box.site.request, box.decision
    whole = None if decision is None else decision_to_dict(decision)
    return {
        "name": box.site.name,
        "profile": profile,
        "machine": box.site.machine.name,
        "count": box.site.count,
        "task": request.task,
        "ctx": request.ctx,
        "slots": request.slots,
        "min_tps": request.min_tps,
        "max_memory_bytes": request.max_memory_bytes,
        "choice": whole["choice"] if whole is not None else None,
        "below_floor": is_slow(box),
        "budget_bytes": None if decision is None else decision.budget_bytes,
        "reasons": [] if decision is None else list(map(explain.sentence, decision.reasons)),
        "reasons_facts": [] if decision is None else list(map(explain.facts, decision.reasons)),
        "problem": box.problem or None,
    }

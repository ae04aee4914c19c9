"""A fleet's plan as plain data: `edgellm plan --json`, described in docs/plan-json.md, versioned by `schema`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgellm import explain
from edgellm.selection.decision_json import to_dict as decision_to_dict
from edgellm.selection.fit_json import file_size
from edgellm.selection.fleet import Assigned, Shared, is_slow
from edgellm.types import model_reason, reason
from edgellm.types.plan import Candidate, Decision

SCHEMA = 1
_TELLING = (
    model_reason.ChosenQuant,
    reason.Slow,
    model_reason.FewerBitsTaken,
    reason.ShorterContext,
    model_reason.LicenseRestricts,
)


@dataclass(frozen=True, slots=True)
class Download:
    """One file that boxes fetch."""

    source: str
    model: str
    quant: str
    bytes: int
    bytes_exact: bool  # published or read; otherwise the weights and about the header
    boxes: tuple[str, ...]
    copies: int  # machines that fetch it


def download_size(box: Assigned, choice: Candidate) -> tuple[int, bool]:
    """Bytes of the file that a box runs, and whether they are known exactly."""
    return file_size(next(card for card in box.site.context.cards if card.id == choice.model), choice)


def downloads(boxes: Sequence[Assigned]) -> list[Download]:
    """Every distinct file that is not on its box already, in the order of the boxes."""
    files: dict[str, Download] = {}
    for box in boxes:
        choice, context = box.choice, box.site.context
        if choice is None or choice.source.startswith("file:") or choice.source in context.stored:
            continue
        file = files.get(choice.source)
        if file is None:
            file = Download(choice.source, choice.model, choice.quant, *download_size(box, choice), (), 0)
        files[choice.source] = replace(file, boxes=(*file.boxes, box.site.name), copies=file.copies + box.site.count)
    return list(files.values())


def telling(decision: Decision, *, shared: bool) -> list[reason.Reason]:
    """The reasons for the model (where it was chosen for this box), its quantization, and what falls short."""
    kinds = _TELLING if shared else (model_reason.BestModel, *_TELLING)
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
            "files": explain.plain(files),
            "distinct_bytes": sum(file.bytes for file in files),
            "total_bytes": sum(file.bytes * file.copies for file in files),
        },
    }


def _shared(shared: Shared) -> dict[str, Any]:
    return {
        "model": shared.model,
        "quant": shared.quant or None,
        **explain.fields(shared, "quality_worst", "quality_mean", "slow_boxes", "low_bit_boxes"),
        "limiting_box": shared.limiting_box or None,
        "without_it": shared.without_it or None,
        "runners_up": explain.plain(shared.runners_up),
    }


def _box(box: Assigned, profile: str) -> dict[str, Any]:
    decision = None if box.decision is None else decision_to_dict(box.decision)
    return {
        "name": box.site.name,
        "profile": profile,
        "machine": box.site.machine.name,
        "count": box.site.count,
        **explain.fields(box.site.request, "task", "ctx", "slots", "min_tps", "max_memory_bytes"),
        "choice": None if decision is None else decision["choice"],
        "below_floor": is_slow(box),
        "budget_bytes": None if decision is None else decision["budget_bytes"],
        "reasons": [] if decision is None else decision["reasons"],
        "reasons_facts": [] if decision is None else decision["reasons_facts"],
        "problem": box.problem or None,
    }

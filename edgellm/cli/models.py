"""`edgellm models`: which models there are, which fit here or on another machine, and which are on this disk."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import models_dir, models_file, profile, say_unasked
from edgellm.cli.page import Column, examples, say, say_json, table
from edgellm.cli.words import TASK
from edgellm.errors import EdgeLLMError, NothingFits, UsageError
from edgellm.types.request import ALL_LAYERS
from edgellm.units import show_memory, show_params, show_rate, show_size

if TYPE_CHECKING:
    from edgellm.selection.context import SelectionContext
    from edgellm.store.manifest import StoredModel
    from edgellm.types.model import ModelCard
    from edgellm.types.request import SelectionRequest, Task

SCHEMA = 1
KINDS = ("chat", "embedding", "reranker", "base")  # in the order of the list
CATALOG = (
    Column("model"), Column("params", right=True), Column("ability", right=True),
    Column("context", right=True, spare=3), Column("here", spare=1), Column("kind", spare=2),
    Column("licence", spare=4), Column("on disk"),
)  # fmt: skip
FITTING = (
    Column("model"), Column("quant"), Column("quality", right=True), Column("weights", right=True, spare=2),
    Column("context", right=True, spare=3), Column("tok/s", right=True), Column("memory", right=True, spare=1),
)  # fmt: skip


@click.command(
    epilog=examples(
        "edgellm models",
        "edgellm models --fits --task code",
        "edgellm models --fits --profile raspberry-pi-5-8gb",
    )
)
@click.option("--task", type=TASK, help="Only models that this task chooses from.")
@click.option("--fits", is_flag=True, help="Only models that this machine runs well, and how it would run them.")
@profile("With --fits: another machine")
@click.option("--installed", is_flag=True, help="Only what is on this disk.")
@models_dir
@models_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/selection.md).")
def command(
    *, task: str | None, fits: bool, profile: str | None, installed: bool, models_file: Path | None, as_json: bool
) -> None:
    """List the catalog and what is on this disk."""
    from edgellm.app.context import of
    from edgellm.store.library import Library
    from edgellm.types.request import task_of

    if profile is not None and not fits:
        raise UsageError("--profile is about what fits", hint="add --fits", param="profile")
    asked = None if task is None else task_of(task)
    if installed:
        from edgellm.cli.list import show

        show(as_json)
        return
    # What the machine can do, whatever else it does in this minute.
    busy = of(profile, models_file=models_file)
    context = replace(busy, load=None, load_lasts=False)
    say_unasked()
    tasks: dict[str, Task] = {"chat": asked or "chat", "embedding": "embed"}  # by kind
    if asked is not None or fits:
        from edgellm.selection.scenario import TASK_NEEDS

        kind = TASK_NEEDS[asked or "chat"].kind
        tasks = {kind: asked or "chat"}
        context = replace(context, cards=tuple(card for card in context.cards if card.kind == kind))
    here = {} if as_json and not fits else _here(context, tasks)
    stored = Library().installed() if profile is None else []
    scores = _scores(context.cards, tasks)
    cards = sorted(context.cards, key=lambda card: _rank(card, here, scores))
    if fits:
        cards = [card for card in cards if here[card.id].is_good]
    listed = [_row(card, stored, scores[card.id], here[card.id] if fits else None) for card in cards]
    if as_json:
        say_json({"schema": SCHEMA, "models": listed})
    elif fits:
        _print_fitting(listed, asked or "chat", sum(one.word == "slow" for one in here.values()))
        if busy.load is not None:
            from edgellm import explain

            say(explain.all_busy(busy.load, busy.machine.cpu.threads))
    else:
        _print_rows(listed, here)


@dataclass(frozen=True, slots=True)
class Here:
    """How a model would be run on the machine."""

    word: str  # "chosen", "fits", "slow" or "" where it does not fit
    plan: dict[str, Any]

    @property
    def is_good(self) -> bool:
        return self.word in ("chosen", "fits")


def _here(context: SelectionContext, tasks: Mapping[str, Task]) -> dict[str, Here]:
    """Of each model that a task chooses from: one decision for each, and one for the task."""
    from edgellm.selection.decide import decide
    from edgellm.types.request import SelectionRequest

    here: dict[str, Here] = {}
    for kind, task in tasks.items():
        cards = [card for card in context.cards if card.kind == kind]
        request = SelectionRequest(task=task)
        # Scores that nobody published follow from those of relatives.
        scored = [replace(card, files=()) for card in cards if card.scores]
        for card in cards:
            relatives = (other for other in scored if other.id != card.id)
            here[card.id] = _decided(context.narrowed([card, *relatives]), request)
        with contextlib.suppress(EdgeLLMError):
            choice = decide(context.narrowed(cards), request).choice
            if choice is not None and here[choice.model].is_good:
                here[choice.model] = replace(here[choice.model], word="chosen")
    return here


def _decided(context: SelectionContext, request: SelectionRequest) -> Here:
    from edgellm.selection import decision_json
    from edgellm.selection.decide import decide
    from edgellm.types.reason import Slow

    try:
        decision = decide(context, request)
    except NothingFits:
        return Here("", {})
    choice = decision_json.to_dict(decision)["choice"]
    keys = ("quant", "backend", "ctx", "kv_type", "tensor_bytes", "decode", "prefill", "quality", "memory", "placement")
    plan = {key: choice[key] for key in keys}
    is_slow = any(isinstance(reason, Slow) for reason in decision.reasons)
    return Here("slow" if is_slow else "fits", plan)


def _scores(cards: Sequence[ModelCard], tasks: Mapping[str, Task]) -> dict[str, float]:
    """Expected ability before quantization, of 100."""
    from edgellm.estimate import quality

    scored = {card.id: card for card in cards if card.scores}
    return {card.id: quality.ability(card, scored, tasks.get(card.kind, "chat")).mid for card in cards}


def _rank(card: ModelCard, here: Mapping[str, Here], scores: Mapping[str, float]) -> tuple[object, ...]:
    """By kind; what is chosen before the rest; then the best first."""
    one = here.get(card.id)
    score = one.plan["quality"]["mid"] if one is not None and one.is_good else scores[card.id]
    return KINDS.index(card.kind), one is None or one.word != "chosen", -score, card.id


def _rate(task: str) -> str:
    """The key of the rate that a task is judged by."""
    return "prefill" if task == "embed" else "decode"


def _row(card: ModelCard, stored: Sequence[StoredModel], score: float, here: Here | None) -> dict[str, Any]:
    from edgellm.selection.decision_json import about_model

    row: dict[str, Any] = {
        **about_model(card),
        "score": round(score, 1),
        "quants": sorted({file.quant for file in card.files}),
        "installed": sorted({s.quant for s in stored if s.model_id == card.id and not s.problem}),
        "source": card.source,
        "trust": card.trust,
    }
    return row if here is None else {**row, "here": here.plan, "chosen": here.word == "chosen"}


def _print_rows(listed: Sequence[dict[str, Any]], here: Mapping[str, Here]) -> None:
    rows = []
    for row in listed:
        one = here.get(row["id"])
        kind = "" if row["kind"] == "chat" else row["kind"]
        length = f"{row['ctx_train']:,}" if row["ctx_train"] else "unknown"
        numbers = (show_params(row["params"]), f"{row['score']:.0f}", length)
        word = "" if one is None else one.word
        rows.append((row["id"] + _mark(row), *numbers, word, kind, row["license"], " ".join(row["installed"])))
    table(CATALOG, rows)
    say(f"\n{len(listed)} models, the best first; ability: before quantization, of 100.")
    say("The order counts what is left of it here: of what fits, after quantization, as `--fits` shows.")
    say("here: `edgellm models --fits` says how those that fit would run; chosen: by `edgellm auto-select`.")
    _print_licence_note(listed)


def _print_fitting(listed: Sequence[dict[str, Any]], task: Task, slow: int) -> None:
    """At most 80 columns for ids of up to 36 characters."""
    from edgellm.selection.scenario import TASK_NEEDS

    rows = []
    for row in listed:
        plan = row["here"]
        numbers = (f"{plan['quality']['mid']:.0f}", show_size(plan["tensor_bytes"]), f"{plan['ctx']:,}")
        speed = (show_rate(plan[_rate(task)]["tok_s"]), show_memory(plan["memory"]["counted_bytes"]))
        rows.append((("> " if row["chosen"] else "  ") + row["id"] + _mark(row), plan["quant"], *numbers, *speed))
    table(FITTING, rows, gap=1)
    floor = show_rate(TASK_NEEDS[task].floor_tps)
    more = f"; {slow} more fit but stay below {floor} tok/s" if slow else ""
    say(f"\n{len(listed)} models for {task}, the best first{more}.")
    say("quality: the ability that the quantization leaves, of 100.")
    _print_placed([row["here"]["placement"] for row in listed])
    say("> is chosen by `edgellm auto-select`. `edgellm estimate MODEL` tells more of one.")
    _print_licence_note(listed)


def _print_placed(placements: Sequence[dict[str, Any]]) -> None:
    """How many run on GPUs, where any does."""
    names = {", ".join(part["description"] for part in placed["parts"]) for placed in placements if placed["parts"]}
    if not names:
        return
    whole = sum(placed["gpu_layers"] == ALL_LAYERS and not placed["experts_away"] for placed in placements)
    alone = sum(not placed["parts"] for placed in placements)
    in_part = len(placements) - whole - alone
    say(f"On {' or '.join(sorted(names))}: {whole} whole, {in_part} in part; {alone} on the processor alone.")


def _mark(row: Mapping[str, Any]) -> str:
    return "*" if row["license_restricts"] else ""


def _print_licence_note(listed: Sequence[dict[str, Any]]) -> None:
    if any(row["license_restricts"] for row in listed):
        say("* the licence restricts use; read it before you build on it.")

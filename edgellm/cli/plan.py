"""`edgellm plan`: what each box of a fleet should run, each by itself or one model for all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.cli._options import models_dir, models_file, say_unasked
from edgellm.cli.page import examples, say, say_json
from edgellm.cli.placed import on_gpus
from edgellm.cli.progress import waiting
from edgellm.units import show_memory, show_rate, show_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm.app.fleet_file import Fleet
    from edgellm.selection.fleet import Assigned, Shared

SHOWN_RUNNERS_UP = 3
NOT_ALL = 3  # exit code of errors.NothingFits: a box has nothing to run


@click.command(
    epilog=examples(
        "edgellm plan --fleet fleet.toml",
        "edgellm plan --fleet fleet.toml --one-model --explain",
    )
)
@click.option(
    "--fleet", "file", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The boxes (TOML)."
)
@click.option("--one-model", is_flag=True, help="One model for all boxes, each in the quantization that suits it.")
@click.option("--one-file", is_flag=True, help="One model in one quantization for all boxes.")
@models_dir
@models_file
@click.option("--explain", is_flag=True, help="Show the whole reason of each choice.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/plan-json.md).")
def command(
    *, file: Path, one_model: bool, one_file: bool, models_file: Path | None, explain: bool, as_json: bool
) -> int:
    """Choose models for a fleet of machines, each by itself or one for all."""
    from edgellm.app import fleet_file
    from edgellm.selection import fleet

    description = fleet_file.load(file)
    with waiting(f"choosing for the boxes of {description.name}"):
        sites = fleet_file.sites(description, models_file)
        shared = fleet.plan_shared(sites, one_file=one_file) if one_model or one_file else None
        boxes = shared.boxes if shared is not None else fleet.plan(sites)
    say_unasked()
    if as_json:
        from edgellm.selection import fleet_json

        say_json(fleet_json.to_dict(description.name, [box.profile for box in description.boxes], boxes, shared))
    else:
        _show(description, boxes, shared, explain=explain)
    return 0 if all(box.choice is not None for box in boxes) else NOT_ALL


def _show(description: Fleet, boxes: Sequence[Assigned], shared: Shared | None, *, explain: bool) -> None:
    if shared is not None:
        _show_shared(shared)
    width = max(len(box.site.name) for box in boxes)
    for box in boxes:
        _show_box(box, width)
        for reason in _reasons(box, explain=explain, shared=shared is not None):
            say(reason, lead="  ", dim=True)
    _show_downloads(boxes)


def _show_shared(shared: Shared) -> None:
    name = " ".join(filter(None, (shared.model, shared.quant)))
    say(f"{name} for all boxes", bold=True, fg="green")
    worst, mean = shared.quality_worst, shared.quality_mean
    say(f"quality {worst:.1f} of 100 where it is least, {mean:.1f} on average")
    for sentence, names in (
        ("No model fits everywhere at 4 bits or more; below on", shared.low_bit_boxes),
        ("No model keeps every floor; slow on", shared.slow_boxes),
    ):
        if names:
            say(f"{sentence}: {', '.join(names)}", fg="yellow")
    if shared.limiting_box:
        alternative = (
            "the same model would do better" if shared.without_it == name else f"{shared.without_it} could run"
        )
        say(f"{shared.limiting_box} limits: without it {alternative}.")
    for other in shared.runners_up[:SHOWN_RUNNERS_UP]:
        slow = f"; slow on {', '.join(other.slow_boxes)}" if other.slow_boxes else ""
        numbers = f"{other.quality_worst:.1f} where it is least, {other.quality_mean:.1f} on average"
        say(f"next: {other.model}, {numbers}{slow}", lead="  ")
    say()


def _show_box(box: Assigned, width: int) -> None:
    from edgellm.estimate.footprint import counted_bytes
    from edgellm.selection.fleet import is_slow
    from edgellm.selection.fleet_json import download_size

    site, c = box.site, box.choice
    copies = f" x{site.count}" if site.count > 1 else ""
    say(f"{site.name:<{width}}{copies}  {site.machine.name}, {site.request.task}", bold=True)
    if c is None:
        say(f"nothing: {box.problem}", lead="  ", fg="red")
        return
    rate = c.prefill if site.request.task == "embed" else c.decode
    slow = ", below its floor" if is_slow(box) else ""
    cache = "" if c.kv_type == "f16" else f" in {c.kv_type}"
    slots = f", {c.slots} slots" if c.slots > 1 else ""
    budget = box.decision.budget_bytes if box.decision else 0
    say(
        f"{c.model} {c.quant}: {show_size(download_size(box, c)[0])}, {c.ctx:,} tokens{cache}{slots}, "
        f"{show_rate(rate.tok_s)} tok/s ({show_rate(rate.low)} to {show_rate(rate.high)}){slow}, "
        f"{show_memory(counted_bytes(c.footprint, site.machine))} of {show_memory(budget)}",
        lead="  ",
    )
    for line in on_gpus(c):
        say(line, lead="  ")
    say(f"from {c.source.split()[0]}", lead="  ")


def _reasons(box: Assigned, *, explain: bool, shared: bool) -> list[str]:
    from edgellm.explain import sentence
    from edgellm.selection.fleet_json import telling

    if box.decision is None:
        return []
    return list(map(sentence, box.decision.reasons if explain else telling(box.decision, shared=shared)))


def _show_downloads(boxes: Sequence[Assigned]) -> None:
    from edgellm.selection.fleet_json import downloads

    files = downloads(boxes)
    if not files:
        return
    distinct = show_size(sum(f.bytes for f in files))
    total = show_size(sum(f.bytes * f.copies for f in files))
    machines = sum(box.site.count for box in boxes)
    about = "" if all(f.bytes_exact for f in files) else "about "
    word = "file" if len(files) == 1 else "files"
    over_all = f"; over all {machines:,} machines {about}{total}" if machines > 1 else ""
    say(f"\n{len(files)} {word} to download, {about}{distinct}{over_all}.")

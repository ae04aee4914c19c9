"""`edgellm pull`: fetch a model without running it."""

from __future__ import annotations

from typing import Any

import click

from edgellm.cli._options import chooses, launch_options, make_plan, say_taken
from edgellm.cli.page import examples, say, say_json
from edgellm.units import show_size

SCHEMA = 1


@click.command(epilog=examples("edgellm pull", "edgellm pull qwen3-4b", "edgellm pull qwen3-4b:Q8_0 --max-rate 2MB/s"))
@chooses
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(*, model: str | None, as_json: bool, **options: Any) -> None:
    """Fetch a model without running it.

    MODEL is a catalog id, ID:QUANT or an address; "auto", or none, fetches the best model that this machine runs well.
    """
    from edgellm.contract.child import ended_with_us

    with ended_with_us():
        plan, decision = make_plan(model, launch_options(**options))
    say_taken(plan, decision, to_run=False)
    artifact = plan.artifact
    if as_json:
        row = {"id": artifact.name, "quant": artifact.quant, "bytes": artifact.bytes, "paths": artifact.paths}
        better = None if decision is None or (wish := decision.would_choose) is None else f"{wish.model}:{wish.quant}"
        say_json({"schema": SCHEMA, **row, "backend": plan.backend, "would_choose": better})
    elif not artifact.paths:
        say(f"{artifact.name} is built in: there is nothing to fetch.")
    else:
        name = " ".join(filter(None, (artifact.name, artifact.quant)))
        say(f"{name} is on this disk, {show_size(artifact.bytes)}: {artifact.path}")

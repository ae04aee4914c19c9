"""`edgellm adapters jobs`: tunings that were begun and never finished, and what of their data lies on this disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import examples, say, say_json
from edgellm.units import counted, show_moment, show_size

if TYPE_CHECKING:
    from edgellm.app.tune.jobs import TuneJobRecord, UnfinishedTuning

SCHEMA = 1


@click.command(
    name="jobs",
    epilog=examples(
        "edgellm adapters jobs",
        "edgellm adapters jobs --rm smollm2-135m-instruct:mail",
    ),
)
@click.option("--rm", "removed", multiple=True, metavar="JOB", help="Delete this one, with all that it holds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(*, removed: tuple[str, ...], as_json: bool) -> None:
    """List tunings that were never finished, or delete some.

    Their folders hold the tokens of the training data, and what was learned of them. JOB is as the list says, or
    BASE:NAME where only one is called so.
    """
    from edgellm.app.tune import jobs

    # A wrong name is told before anything is deleted.
    freed = {job.id: jobs.remove(job) for job in {jobs.find(name).id: jobs.find(name) for name in removed}.values()}
    left = jobs.unfinished()
    if as_json:
        gone = [{"job": name, "freed_bytes": n_bytes} for name, n_bytes in freed.items()]
        say_json({"schema": SCHEMA, "removed": gone, "jobs": list(map(_row, left))})
        return
    for name, n_bytes in freed.items():
        say(f"Removed {name}: {show_size(n_bytes)} are free.")
    if removed:
        return
    for job in left:
        say(f"{job.id}  {_state(job)}, {show_size(job.bytes)}")
        if job.record is not None:
            say(f"of {job.record.data}, begun {show_moment(job.record.began_at)}", lead="    ")
            say(f"go on: {_again(job.record)}", lead="    ")
        say(f"remove: edgellm adapters jobs --rm {job.id}", lead="    ")
    if not left:
        say("No tuning is unfinished.")


def _state(job: UnfinishedTuning) -> str:
    of = f" of {job.record.n_steps}" if job.record else ""
    return f"{'running' if job.is_running else 'ended'} after {counted(job.step, 'step')}{of}"


def _row(job: UnfinishedTuning) -> dict[str, Any]:
    import msgspec

    record = msgspec.to_builtins(job.record) if job.record else {}
    return {
        "job": job.id,
        "bytes": job.bytes,
        "step": job.step,
        "is_running": job.is_running,
        "folder": str(job.folder),
        **{name: record.get(name) for name in ("model", "name", "data", "options", "n_steps", "began_at")},
        "again": _again(job.record) if job.record else "",
    }


def _again(record: TuneJobRecord) -> str:
    """The command that goes on."""
    import shlex

    import msgspec

    from edgellm.errors import option
    from edgellm.types.tuning_options import TuneOptions

    usual = msgspec.structs.asdict(TuneOptions())
    asked = {**msgspec.structs.asdict(record.options), "name": record.name}
    flags = [option(name, value) for name, value in asked.items() if value != usual[name]]
    words = [shlex.quote(word) for flag in flags for word in flag.split(" ", 1)]
    return " ".join(["edgellm tune", shlex.quote(record.model), shlex.quote(record.data), *words])

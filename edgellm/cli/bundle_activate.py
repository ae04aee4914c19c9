"""`edgellm bundle activate` and `rollback`: which slot is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.bundle_slots import SCHEMA, BundleVerb, as_json_flag, root_option, row
from edgellm.cli.page import examples, say, say_json

if TYPE_CHECKING:
    from edgellm.app.bundle.activate import Activated

CHECKS = ("start", "template", "answers", "speed", "memory")


def gated(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags of the gate and of the service to a command, which gets them by `activate`'s names."""
    options = (
        click.option(
            "--skip", "skipped", multiple=True, type=click.Choice(CHECKS),
            help="Leave a check of the slot out; start = all of them (repeat).",
        ),
        click.option(
            "--deadline", "deadline_s", type=click.FloatRange(min=1), default=300.0, show_default=True,
            metavar="SECONDS", help="How long the slot, and the service, may take to be ready.",
        ),
        click.option(
            "--restart", default="", metavar="COMMAND",
            help="Start the service anew with it, and go back where it does not become healthy.",
        ),
        click.option("--url", default="", metavar="URL", help="Where the service answers (with --restart)."),
        click.option(
            "--watch", "watch_s", type=click.FloatRange(min=0), default=10.0, show_default=True, metavar="SECONDS",
            help="How long the service must stay healthy (with --restart).",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def activate(
    root: Path, name: str, *, skipped: tuple[str, ...], deadline_s: float, restart: str, url: str, watch_s: float,
    as_json: bool,
) -> Activated:  # fmt: skip
    """
    Raises:
        UnfitSlot: with `as_json` its checks are printed first.
    """
    from edgellm.app.bundle import activate as activating
    from edgellm.app.bundle.gate import GateOptions
    from edgellm.cli.progress import progress
    from edgellm.contract.child import ended_with_us
    from edgellm.errors import UnfitSlot, UsageError

    if url and not restart:
        raise UsageError("--url is of a service that is started anew", hint="add --restart COMMAND", param="url")
    service = None
    if restart:
        service = activating.Service(restart, url or activating.URL, deadline_s, watch_s)
    options = GateOptions(frozenset(skipped), deadline_s)  # type: ignore[arg-type]  # click checked the names
    try:
        with ended_with_us(), progress() as report:
            done = activating.activate(root, name, options, service, report)
    except UnfitSlot as error:
        if as_json:
            say_json({"schema": SCHEMA, "activated": False, "root": str(root), "checks": list(error.checks)})
        raise
    except (SystemExit, KeyboardInterrupt) as ending:
        for note in getattr(ending, "__notes__", ()):
            say(note, err=True)
        raise
    for check in done.checks:
        if check.state in ("skipped", "not recorded"):
            reason = "as --skip asks" if check.state == "skipped" else "the bundle does not say what to expect"
            say(f"Not checked: {check.name}, {reason}.", err=True)
    return done


@click.command(
    "activate", cls=BundleVerb, epilog=examples("edgellm bundle activate B --restart 'systemctl restart edgellm'")
)
@click.argument("slot", type=click.Choice(["A", "B"]))
@root_option
@gated
@as_json_flag
def activate_slot(*, slot: str, root: Path | None, as_json: bool, **gate: Any) -> None:
    """Serve a slot from the next start on, if it answers on trial as its bundle says.

    What runs goes on until it is restarted.
    """
    import msgspec

    from edgellm.app.bundle import install

    place = root or install.usual_root()
    done = activate(place, slot, as_json=as_json, **gate)
    if as_json:
        checks = msgspec.to_builtins(done.checks)
        say_json({"schema": SCHEMA, "activated": True, "checks": checks, **row(done.slot, place)})
        return
    _say_served(done.slot.name, place)


@click.command("rollback", cls=BundleVerb, epilog=examples("edgellm bundle rollback"))
@root_option
@as_json_flag
def roll_back(*, root: Path | None, as_json: bool) -> None:
    """Serve the other slot, which is what was served before, from the next start on.

    It is read first, and not asked: one that is damaged, has not served or was refused since stays unserved.
    """
    from edgellm.app.bundle import install
    from edgellm.cli.progress import progress

    place = root or install.usual_root()
    with progress() as report:
        slot = install.roll_back(place, report)
    if as_json:
        say_json({"schema": SCHEMA, **row(slot, place)})
        return
    _say_served(slot.name, place)


def _say_served(slot: str, place: Path) -> None:
    say(f"Slot {slot} is served from the next start on: {place / 'current' / 'run'}")

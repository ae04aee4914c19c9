"""`edgellm bundle install`, `slots`, `activate` and `rollback`: what a bundle becomes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import examples, say, say_json

if TYPE_CHECKING:
    from edgellm.bundle.slots import BundleSlot

SCHEMA = 1

as_json_flag = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/bundles.md)."
)
root_option = click.option(
    "--root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the slots (default: beside the store)."
)


@click.command("install", epilog=examples("edgellm bundle install pi.edgellm --key box.key.pub --activate"))
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@root_option
@click.option("--key", default="", metavar="FILE|KEY", help="Public key that it must be signed by.")
@click.option("--unsigned", is_flag=True, help="Install it whoever made it.")
@click.option("--target", default="", metavar="NAME", help="Which of its machines this is, where several fit.")
@click.option("--allow-older", is_flag=True, help="Also a smaller release than the one that is served.")
@click.option("--activate", "is_activated", is_flag=True, help="Serve it from the next start on.")
@as_json_flag
def install_bundle(
    *, file: Path, root: Path | None, key: str, unsigned: bool, target: str, allow_older: bool, is_activated: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Install a bundle beside what is served, which stays as it is until the other slot is activated."""
    from edgellm.app.bundle import install
    from edgellm.bundle import signature
    from edgellm.bundle.slots import RUN
    from edgellm.cli.progress import progress

    place = root or install.usual_root()
    checked_by = signature.public_key(key) if key else None
    options = install.InstallOptions(place, checked_by, unsigned, target, allow_older)
    with progress() as report:
        done = install.install(file, options, report)
    if is_activated:
        install.activate(place, done.slot.name)
    if as_json:
        say_json({"schema": SCHEMA, "new": done.is_new, "activated": is_activated, **_row(done.slot, place)})
        return
    what = f"{done.manifest.name} release {done.manifest.release}"
    verb = "is installed" if done.is_new else "was installed already"
    say(f"{what} {verb} in slot {done.slot.name} of {place}, for {done.target.name}.")
    if is_activated:
        say(f"serve it: {place / 'current' / RUN}", lead="  ")
    else:
        say(f"serve it from the next start on: edgellm bundle activate {done.slot.name} --root {place}", lead="  ")


@click.command("slots", epilog=examples("edgellm bundle slots", "edgellm bundle slots --json"))
@root_option
@as_json_flag
def show_slots(*, root: Path | None, as_json: bool) -> None:
    """Show what the two slots hold, and which of them is served."""
    from edgellm.app.bundle.install import usual_root
    from edgellm.bundle.slots import Slots

    place = root or usual_root()
    two = Slots(place)
    current = two.current()
    if as_json:
        rows = [_row(slot, place) for slot in two.all()]
        say_json({"schema": SCHEMA, "current": current.name if current else None, "slots": rows})
        return
    for slot in two.all():
        record = slot.record
        what = f"{record.name} release {record.release}, for {record.target}" if record else "nothing that is whole"
        served = "  served" if current and current.name == slot.name else ""
        say(f"{slot.name}  {what}{served}")


@click.command("activate", epilog=examples("edgellm bundle activate B"))
@click.argument("slot", type=click.Choice(["A", "B"]))
@root_option
@as_json_flag
def activate_slot(*, slot: str, root: Path | None, as_json: bool) -> None:
    """Serve a slot from the next start on. What runs goes on until it is restarted."""
    _activate(root, slot, as_json=as_json)


@click.command("rollback", epilog=examples("edgellm bundle rollback"))
@root_option
@as_json_flag
def roll_back(*, root: Path | None, as_json: bool) -> None:
    """Serve the other slot, which is what was served before, from the next start on."""
    _activate(root, "", as_json=as_json)


def _activate(root: Path | None, name: str, *, as_json: bool) -> None:
    from edgellm.app.bundle import install

    place = root or install.usual_root()
    slot = install.activate(place, name)
    if as_json:
        say_json({"schema": SCHEMA, **_row(slot, place)})
        return
    say(f"Slot {slot.name} is served from the next start on: {place / 'current' / 'run'}")


def _row(slot: BundleSlot, root: Path) -> dict[str, Any]:
    record = slot.record
    held: dict[str, Any] = {}
    if record is not None:
        held = {"name": record.name, "release": record.release, "sha256": record.sha256, "target": record.target}
    return {"slot": slot.name, "root": str(root), "folder": str(slot.folder), **held}

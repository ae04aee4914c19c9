"""`edgellm bundle install`: what a bundle becomes on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from edgellm.cli.bundle_activate import activate, gated
from edgellm.cli.bundle_slots import SCHEMA, BundleVerb, as_json_flag, root_option, row
from edgellm.cli.page import examples, say, say_json


@click.command(
    "install", cls=BundleVerb, epilog=examples("edgellm bundle install pi.edgellm --key box.key.pub --activate")
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@root_option
@click.option("--key", default="", metavar="FILE|KEY", help="Public key that it must be signed by.")
@click.option("--unsigned", is_flag=True, help="Install it whoever made it.")
@click.option("--target", default="", metavar="NAME", help="Which of its machines this is, where several fit.")
@click.option("--allow-older", is_flag=True, help="Also a smaller release than was served here.")
@click.option("--activate", "is_activated", is_flag=True, help="Serve it from the next start on.")
@gated
@as_json_flag
def install_bundle(
    *, file: Path, root: Path | None, key: str, unsigned: bool, target: str, allow_older: bool, is_activated: bool,
    as_json: bool, **gate: Any,
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
        activate(place, done.slot.name, as_json=as_json, **gate)
    if as_json:
        say_json(
            {
                "schema": SCHEMA,
                "new": done.is_new,
                "damaged": [{"slot": one.name, "problem": one.problem} for one in done.damaged],
                "unkept": done.unkept,
                "activated": is_activated,
                "serve": done.target.serve,
                **row(done.slot, place),
            }
        )
        return
    what = f"{done.manifest.name} release {done.manifest.release}"
    verb = "is installed" if done.is_new else "was installed already"
    say(f"{what} {verb} in slot {done.slot.name} of {place}, for {done.target.name}.")
    for one in done.damaged:
        say(f"Slot {one.name} had it and is damaged: {one.problem}. It was installed anew in slot {done.slot.name}.")
    if done.unkept:
        say(f"What was measured on such machines is not kept here ({done.unkept}): edgellm calibrate measures it.")
    say(f"edgellm serve {shlex.join(done.target.serve)}", lead="  serves: ")
    if is_activated:
        say(f"serve it: {place / 'current' / RUN}", lead="  ")
    else:
        say(f"serve it from the next start on: edgellm bundle activate {done.slot.name} --root {place}", lead="  ")

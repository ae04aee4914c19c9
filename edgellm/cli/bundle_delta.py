"""`edgellm bundle diff` and `patch`: only what a machine lacks is carried to it."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path

import click

from edgellm.cli.bundle_slots import BundleVerb, as_json_flag, root_option
from edgellm.cli.page import examples, say, say_json
from edgellm.units import show_size

SCHEMA = 1
_PATH = click.Path(path_type=Path)
_output = click.option("--output", "-o", required=True, type=_PATH, metavar="FILE", help="File to write.")
_force = click.option("--force", is_flag=True, help="Replace a file of that name.")


@click.command("diff", cls=BundleVerb, epilog=examples("edgellm bundle diff pi-1.edgellm pi-2.edgellm -o pi-1-2.delta"))
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@_output
@_force
@as_json_flag
def make_delta(*, old: Path, new: Path, output: Path, force: bool, as_json: bool) -> None:
    """Write what bundle NEW has and bundle OLD has not."""
    from edgellm.bundle import delta
    from edgellm.cli.progress import progress
    from edgellm.files import atomic_writer, require_free, writing

    require_free(output, force=force)
    with progress() as report, writing(output, param="output"), atomic_writer(output, replace=force) as file:
        head = delta.make(old, new, file, report)
    n_bytes = output.stat().st_size
    if as_json:
        say_json({
            "schema": SCHEMA, "path": str(output), "bytes": n_bytes, "new_bytes": head.new_bytes,
            "old": head.old, "new": head.new,
        })  # fmt: skip
        return
    say(f"Wrote {output}: {show_size(n_bytes)} instead of {show_size(head.new_bytes)}.")


@click.command(
    "patch", cls=BundleVerb,
    epilog=examples("edgellm bundle patch pi-1-2.delta -o pi-2.edgellm --root /opt/edgellm --key box.key.pub"),
)  # fmt: skip
@click.argument("file", type=_PATH, metavar="DELTA")
@click.option("--old", type=_PATH, metavar="FILE", help="The old bundle; unset: the slot that is served.")
@root_option
@click.option("--key", default="", metavar="FILE|KEY", help="Public key that the new bundle must be signed by.")
@click.option("--unsigned", is_flag=True, help="Whoever made it.")
@_output
@_force
@as_json_flag
def apply_delta(
    *, file: Path, old: Path | None, root: Path | None, key: str, unsigned: bool, output: Path, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Put a new bundle together, of DELTA and of what is installed, to be installed then."""
    from edgellm.app.bundle import install
    from edgellm.bundle import delta, reader, signature
    from edgellm.cli.progress import progress
    from edgellm.files import atomic_writer, require_free, require_room, writing

    checked_by = signature.public_key(key) if key else None
    install.require_asked(file, checked_by, unsigned=unsigned)
    require_free(output, force=force)
    with ExitStack() as opened:
        report = opened.enter_context(progress())
        source = opened.enter_context(reader.opened_file(file))
        head = delta.read_head(source)
        there: delta.Old
        if old is not None:
            there = delta.BundleFile(opened.enter_context(reader.opened(old)))
        else:
            there = delta.SlotFiles(install.served(root or install.usual_root()))
        delta.judge(there, source, head, file, checked_by)
        require_room(output.absolute().parent, head.new_bytes, "the new bundle", hint="name a file on another disk")
        opened.enter_context(writing(output, param="output"))
        with atomic_writer(output, sync=True, replace=force) as target:
            delta.put_together(there, source, head, target, report)
    if as_json:
        say_json({"schema": SCHEMA, "path": str(output), "bytes": head.new_bytes, "old": head.old, "new": head.new})
        return
    trust = ["--unsigned"] if unsigned else ["--key", key]
    place = ["--root", str(root)] if root is not None else []
    command = shlex.join(["edgellm", "bundle", "install", str(output), *trust, *place])
    say(f"Wrote {output}, {show_size(head.new_bytes)}. Install it: {command}")

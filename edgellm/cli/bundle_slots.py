"""`edgellm bundle slots`, and what all commands about slots say of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import examples, say, say_json
from edgellm.errors import EdgeLLMError, UnfitSlot

if TYPE_CHECKING:
    from edgellm.bundle.slots import BundleSlot

SCHEMA = 1

as_json_flag = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/bundles.md)."
)
root_option = click.option(
    "--root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the slots (default: beside the store)."
)


class BundleVerb(click.Command):
    """A verb that other programs call: with --json also what fails is one JSON object."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeLLMError as error:
            # An unfit slot was told with its checks.
            if ctx.params.get("as_json") and not isinstance(error, UnfitSlot):
                told = {"code": error.code, "message": error.message, "hint": error.hint}
                say_json({"schema": SCHEMA, "error": told})
            raise


@click.command("slots", cls=BundleVerb, epilog=examples("edgellm bundle slots", "edgellm bundle slots --json"))
@root_option
@as_json_flag
def show_slots(*, root: Path | None, as_json: bool) -> None:
    """Show what the two slots hold, and which of them is served."""
    from edgellm.app.bundle.install import require_root, usual_root
    from edgellm.bundle.slots import Slots

    place = root or usual_root()
    require_root(place)
    two = Slots(place)
    current = two.current()
    if as_json:
        rows = [row(slot, place) for slot in two.all()]
        say_json({"schema": SCHEMA, "current": current.name if current else None, "slots": rows})
        return
    for slot in two.all():
        record = slot.record
        what = f"{record.name} release {record.release}, for {record.target}" if record else "nothing that is whole"
        served = "  served" if current and current.name == slot.name else ""
        say(f"{slot.name}  {what}{served}")


def row(slot: BundleSlot, root: Path) -> dict[str, Any]:
    record = slot.record
    held: dict[str, Any] = {}
    if record is not None:
        held = {"name": record.name, "release": record.release, "sha256": record.sha256, "target": record.target}
    return {"slot": slot.name, "root": str(root), "folder": str(slot.folder), **held}

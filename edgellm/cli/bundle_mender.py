"""`edgellm bundle mender`: an update module, so that Mender's client installs bundles."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgellm.cli.bundle_slots import SCHEMA, BundleVerb, as_json_flag
from edgellm.cli.page import examples, say, say_json
from edgellm.errors import UsageError

_MODULES = "/usr/share/mender/modules/v3/edgellm-bundle"


@click.command(
    "mender",
    cls=BundleVerb,
    epilog=examples("edgellm bundle mender --key box.key.pub --restart 'systemctl restart edgellm' -o edgellm-bundle"),
)
@click.option("--key", required=True, metavar="FILE|KEY", help="Public key that bundles must be signed by.")
@click.option(
    "--root", type=click.Path(path_type=Path), default=Path("/opt/edgellm"), show_default=True, metavar="DIR",
    help="Folder of the slots on the machines.",
)  # fmt: skip
@click.option("--restart", default="", metavar="COMMAND", help="Starts the service there anew.")
@click.option("--url", default="", metavar="URL", help="Where the service answers there.")
@click.option("--edgellm", default="", metavar="PATH", help="EdgeLLM there (default: of the slot, or the one in PATH).")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="File to write (default: print).")
@as_json_flag
def write_module(
    *, key: str, root: Path, restart: str, url: str, edgellm: str, output: Path | None, as_json: bool
) -> None:
    """Write an update module for Mender's client, which installs bundles and activates them."""
    from edgellm.app.bundle.activate import URL
    from edgellm.bundle import mender, signature
    from edgellm.files import write_atomic, writing

    if as_json and output is None:
        raise UsageError("--json and the module both want standard output", hint="add -o FILE", param="output")
    text_key = signature.public_key(key).to_base64().decode()
    text = mender.update_module(root.absolute(), text_key, restart=restart, url=url or URL, edgellm=edgellm)
    if output is None:
        sys.stdout.write(text)
        return
    with writing(output, param="output"):
        write_atomic(output, text.encode())
        output.chmod(0o755)
    if as_json:
        say_json({"schema": SCHEMA, "path": str(output), "goes_to": _MODULES})
        return
    say(f"Wrote {output}. It goes to {_MODULES} on the machines.")

"""`edgellm bundle`: one file with everything that some machines need, for places without a network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli import bundle_activate, bundle_delta, bundle_install, bundle_mender, bundle_slots
from edgellm.cli._options import say_unasked
from edgellm.cli.bundle_slots import SCHEMA, BundleVerb, as_json_flag
from edgellm.cli.packing import bundle_options, packs
from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import PROFILE, WholeNumber
from edgellm.units import counted, show_memory, show_size

if TYPE_CHECKING:
    from edgellm.bundle.manifest import Manifest

_PATH = click.Path(path_type=Path)

bundle_file = click.argument("file", type=_PATH, metavar="FILE")
public_key = click.option(
    "--key", default="", metavar="FILE|KEY", help="Public key that it must be signed by: a file, or in one line."
)


@click.group(
    name="bundle",
    epilog=examples(
        "edgellm bundle key box.key",
        "edgellm bundle create --for raspberry-pi-5-8gb --wheels ./wheels --key box.key -o pi.edgellm",
        "edgellm bundle verify pi.edgellm --key box.key.pub",
        "edgellm bundle install pi.edgellm --key box.key.pub --activate",
    ),
)
def command() -> None:
    """Make, check and install bundles for machines without a network."""


for verb in (
    bundle_install.install_bundle, bundle_slots.show_slots, bundle_activate.activate_slot, bundle_activate.roll_back,
    bundle_delta.make_delta, bundle_delta.apply_delta, bundle_mender.write_module,
):  # fmt: skip
    command.add_command(verb)


@command.command("key", cls=BundleVerb, epilog=examples("edgellm bundle key box.key"))
@click.argument("file", type=_PATH)
@click.option("--password", is_flag=True, help="Ask for a password, which is then needed to sign.")
@as_json_flag
def make_key(*, file: Path, password: bool, as_json: bool) -> None:
    """Write a pair of keys: FILE signs bundles, FILE.pub checks them. The format is minisign's."""
    from edgellm.bundle import signature

    typed = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True) if password else ""
    public = file.with_name(f"{file.name}.pub")
    text = signature.make_keys(file, public, password=typed)
    if as_json:
        say_json({"schema": SCHEMA, "secret": str(file), "public": str(public), "key": text})
        return
    say(f"Wrote {file}, which signs (keep it to yourself), and {public}, which checks: {text}")


@command.command(
    "create",
    cls=BundleVerb,
    epilog=examples(
        "edgellm bundle create --for raspberry-pi-5-8gb --wheels ./wheels --key box.key -o pi.edgellm",
        "edgellm bundle create --for fleet.toml --wheels ./wheels --release 7",
        "edgellm bundle create --for intel-n100-16gb --model smollm2-135m-instruct:Q4_1",
    ),
)
@click.option(
    "--for", "machines", required=True, type=PROFILE, metavar="PROFILE|FLEET",
    help="The machines: a profile's name or file, or a fleet (TOML).",
)  # fmt: skip
@click.option("--output", "-o", type=_PATH, metavar="FILE", help="File to write (default: NAME-RELEASE.edgellm).")
@click.option("--name", default="", metavar="NAME", help="What it is called (default: as the profile or the fleet).")
@click.option(
    "--release", type=WholeNumber(1, 2**53), default=1, show_default=True, metavar="N",
    help="Its number; machines take no smaller one unasked.",
)  # fmt: skip
@click.option("--expires", default="", metavar="DATE", help="From this day on it is not installed, as 2027-01-31.")
@click.option("--key", "key_file", type=_PATH, metavar="FILE", help="Secret key to sign it with.")
@click.option(
    "--with-python", "interpreters", multiple=True, type=_PATH, metavar="FILE",
    help="A relocatable Python for machines without one, as .tar.gz (repeat: one for each processor).",
)  # fmt: skip
@click.option("--python", default="", metavar="3.N", help="Python of the machines (default: 3.11).")
@click.option("--glibc", default="", metavar="2.N", help="The oldest glibc of the machines (default: 2.28).")
@click.option("--musl", default="", metavar="1.N", help="The oldest musl of machines that have it in glibc's place.")
@click.option("--golden/--no-golden", default=True, help="Ask the model here what it must answer there (default).")
@packs
@click.option("--force", is_flag=True, help="Replace a file of that name.")
@as_json_flag
def create_bundle(
    *,
    machines: str,
    output: Path | None,
    key_file: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write one file with everything that a machine, or those of a fleet, need.

    What is chosen is what `edgellm auto-select --profile` chooses with the same flags.
    """
    from edgellm.app.bundle.create import create
    from edgellm.bundle import signature
    from edgellm.cli.progress import progress

    key = None if key_file is None else signature.secret_key(key_file, _password)
    with progress() as report:
        made = create(machines, output, bundle_options(options), key=key, force=force, progress=report)
    say_unasked()
    path, manifest = made.path, made.manifest
    for name, reason in made.unrecorded.items():
        say(f"No golden answers were recorded for {name}, so none are asked for there: {reason}", err=True)
    if as_json:
        say_json(
            {
                "schema": SCHEMA,
                "path": str(path),
                "file_bytes": path.stat().st_size,
                **_row(manifest),
                "unrecorded": made.unrecorded,
            }
        )
        return
    signed = "signed" if key else "not signed, so machines take it only with --unsigned"
    say(f"Wrote {path}, {show_size(path.stat().st_size)}, {signed}.")
    _show(manifest)


@command.command("verify", cls=BundleVerb, epilog=examples("edgellm bundle verify pi.edgellm --key box.key.pub"))
@bundle_file
@public_key
@as_json_flag
def verify_bundle(*, file: Path, key: str, as_json: bool) -> None:
    """Read a whole bundle and check every byte of it, and its signature where a key is given."""
    from edgellm.bundle import reader, signature

    checked_by = signature.public_key(key) if key else None
    with reader.opened(file, checked_by) as bundle:
        bundle.require_date()
        reader.verify(bundle)
    manifest = bundle.manifest
    state = "checked" if checked_by else "unchecked" if bundle.signature else "none"
    if as_json:
        say_json({
            "schema": SCHEMA, "path": str(file), "sha256": bundle.sha256, "signature": state,
            "key_id": signature.key_id(bundle.signature), **_row(manifest),
        })  # fmt: skip
        return
    words = {
        "checked": "its signature is right",
        "unchecked": f"its signature, by key {signature.key_id(bundle.signature)}, was not checked (--key)",
        "none": "it is not signed",
    }
    say(f"{file} is whole; {words[state]}.")
    _show(manifest)


def _password() -> str:
    return str(click.prompt("Password of the key", hide_input=True, err=True))


def _show(manifest: Manifest) -> None:
    n_files = counted(len(manifest.files), "file")
    until = f", until {manifest.expires}" if manifest.expires else ""
    say(f"{manifest.name} release {manifest.release}: {n_files}, {show_size(manifest.bytes)}{until}", lead="  ")
    for target in manifest.targets:
        library = f"musl {target.musl}" if target.musl else f"glibc {target.glibc}"
        python = f"; Python {target.python}, {library}" if target.wheels else "; without EdgeLLM itself"
        say(
            f"{target.name} ({target.os} {target.arch}{python}): {target.model.id} {target.model.quant}, "
            f"{show_memory(target.needed_bytes)} of memory",
            lead="  for ",
        )
        say(f"edgellm serve {shlex.join(target.serve)}", lead="    serves: ")
        if target.requires:
            say(", ".join(target.requires), lead="    installs: ")


def _row(manifest: Manifest) -> dict[str, Any]:
    import msgspec

    targets: Any = msgspec.to_builtins(manifest.targets)
    return {
        "name": manifest.name, "release": manifest.release, "expires": manifest.expires, "edgellm": manifest.edgellm,
        "files": len(manifest.files), "bytes": manifest.bytes, "targets": targets,
    }  # fmt: skip

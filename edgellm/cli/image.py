"""`edgellm image`: containers' images and models as artifacts, in OCI layouts, without a daemon or a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgellm.cli._options import chooses, launch_options, make_plan, say_taken, say_unasked
from edgellm.cli.packing import bundle_options, packs
from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import PROFILE
from edgellm.units import show_memory, show_size

SCHEMA = 1
_PATH = click.Path(path_type=Path)
TAG = "latest"

output_folder = click.option(
    "--output", "-o", required=True, type=_PATH, metavar="FOLDER", help="OCI layout to write, or to add to."
)
tag_option = click.option("--tag", default=TAG, show_default=True, metavar="TAG", help="What it is called in there.")
force_flag = click.option("--force", is_flag=True, help="Replace what has that tag.")
as_json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/images.md).")


@click.group(
    name="image",
    epilog=examples("edgellm image model smollm2-135m-instruct:Q4_1 -o ./model"),
)
def command() -> None:
    """Write images for containers, and models as artifacts."""


@command.command(
    "create",
    epilog=examples(
        "edgellm image create --for raspberry-pi-5-8gb --debian trixie --wheels ./dist -o ./pi",
        "edgellm image create --for intel-n100-16gb --root ./root --wheels ./dist --model qwen3-4b -o ./n100",
    ),
)
@click.option(
    "--for", "machine", required=True, type=PROFILE, metavar="PROFILE", help="The machine: a profile's name or file."
)
@output_folder
@click.option("--root", type=_PATH, metavar="FOLDER", help="Root to stand on: a folder with python3 and glibc in it.")
@click.option("--debian", default="", metavar="SUITE", help="Let mmdebstrap make the root, as of trixie.")
@click.option("--mirror", default="", metavar="URL", help="Where mmdebstrap fetches packages (default: as it chooses).")
@click.option("--root-licence", default="", metavar="NAME", help="Licence of what of the root does not state one.")
@tag_option
@force_flag
@packs
@as_json_flag
def create_image(
    *,
    machine: str,
    output: Path,
    root: Path | None,
    debian: str,
    mirror: str,
    root_licence: str,
    tag: str,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write an image for containers: a root, the model that is chosen for the machine, and EdgeLLM to serve it.

    What is chosen is what `edgellm auto-select --profile` chooses with the same flags.
    """
    from edgellm.app.image.create import ImageOptions, write_image
    from edgellm.cli.progress import progress

    image_options = ImageOptions(tag, root, debian, mirror, root_licence, force)
    with progress() as report:
        image = write_image(machine, output, bundle_options(options), image_options, report)
    say_unasked()
    if as_json:
        layers = [{"what": what, "digest": layer.digest, "bytes": layer.size} for layer, what in image.layers]
        say_json({
            "schema": SCHEMA, "path": str(output), "tag": tag, "digest": image.row.digest, "layers": layers,
            "model": image.choice.model, "quant": image.choice.quant, "needed_bytes": image.choice.counted_bytes,
            "serve": image.serve,
        })  # fmt: skip
        return
    n_bytes = sum(layer.size for layer, _ in image.layers)
    say(f"Wrote an image of {show_size(n_bytes)} to {output}, tagged {tag}: {image.row.digest}")
    for layer, what in image.layers:
        say(f"{what}, {show_size(layer.size)}: {layer.digest}", lead="  ")
    say(f"It needs {show_memory(image.choice.counted_bytes)} of memory, and an EDGELLM_API_KEY to start.")


@command.command("model", epilog=examples("edgellm image model qwen3-4b:Q4_K_M -o ./qwen3"))
@chooses
@output_folder
@tag_option
@force_flag
@as_json_flag
def write_model(*, model: str | None, output: Path, tag: str, force: bool, as_json: bool, **options: Any) -> None:
    """Write a model as an artifact of the CNCF's ModelPack, into an OCI layout.

    Registries and Kubernetes take it; `edgellm run` and `edgellm serve` take the folder.
    """
    from edgellm.app.image.model import write
    from edgellm.cli.progress import progress
    from edgellm.contract.child import ended_with_us

    with ended_with_us():
        plan, decision = make_plan(model, launch_options(**options))
    say_taken(plan, decision, to_run=False)
    artifact = plan.artifact
    with progress() as report:
        row = write(artifact, model or artifact.model_id, output, tag, force=force, progress=report)
    if as_json:
        say_json({
            "schema": SCHEMA, "path": str(output), "tag": tag, "digest": row.digest, "model": artifact.model_id,
            "quant": artifact.quant,
        })  # fmt: skip
        return
    say(f"Wrote {artifact.name} {artifact.quant} to {output}, tagged {tag}: {row.digest}")

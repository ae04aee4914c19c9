"""`edgellm image`: containers' images and models as artifacts, in OCI layouts, without a daemon or a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgellm.cli._options import chooses, launch_options, make_plan
from edgellm.cli.page import examples, say, say_json

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
        plan, _ = make_plan(model, launch_options(**options))
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

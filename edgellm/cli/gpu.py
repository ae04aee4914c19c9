"""`edgellm gpu setup`: a backend for GPUs, built beside the one for the processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import examples, say_json
from edgellm.units import show_memory, show_size

if TYPE_CHECKING:
    from edgellm.app.gpu_setup import Setup
    from edgellm.contract.device_build import BuiltDevices

SCHEMA = 1
LINE_EVERY_S = 20.0  # where no bar can be shown: a build takes many minutes


@click.group(name="gpu", epilog=examples("edgellm gpu setup --dry-run", "edgellm gpu setup --vulkan"))
def command() -> None:
    """Build what computes on this machine's GPU."""


@command.command(
    epilog=examples("edgellm gpu setup --dry-run", "edgellm gpu setup --vulkan", "edgellm gpu setup --cuda --arch 8.6")
)
@click.option("--vulkan", "api", flag_value="vulkan", help="For most GPUs: AMD, Intel, NVIDIA, Arm, Qualcomm.")
@click.option("--cuda", "api", flag_value="cuda", help="For NVIDIA. Untried.")
@click.option("--hip", "api", flag_value="hip", help="For AMD with ROCm. Untried.")
@click.option("--sycl", "api", flag_value="sycl", help="For Intel with oneAPI. Untried.")
@click.option("--metal", "api", flag_value="metal", help="For Apple, whose usual build has it. Untried.")
@click.option(
    "--arch", "architectures", multiple=True, metavar="NAME",
    help="GPU to compile for, as 8.6 (CUDA) or gfx1100 (HIP), instead of this machine's (repeat).",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be built and what is missing, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def setup(*, api: Any, architectures: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Build a GPU backend from the sources of the installed llama.cpp."""
    from edgellm.app import gpu_setup
    from edgellm.cli.progress import progress_line
    from edgellm.contract.child import ended_with_us

    planned = gpu_setup.plan(api, architectures)
    if not as_json:
        _tell(planned)
    built = None
    if not dry_run:
        try:
            with ended_with_us(), progress_line(f"building for {planned.build.api}", LINE_EVERY_S) as report:
                built = gpu_setup.build(planned, lambda done, steps, what: report(done / steps if steps else 0.0, what))
        except KeyboardInterrupt:
            click.echo("\nWhat was compiled is kept; the same command goes on from there.", err=True)
            raise
    if as_json:
        say_json(_answer(planned, built))
    elif built is not None:
        _done(built)


def _tell(planned: Setup) -> None:
    build = planned.build
    click.echo(f"{build.api} for the {planned.backend} backend, from {build.source}")
    click.echo("  the build for the processor stays as it is")
    if build.former:
        click.echo(f"  in the place of one that was built on {build.former}, which stays until this one works")
    for note in build.notes:
        click.echo(f"  {note}")
    for text in build.missing:
        click.echo(f"  missing: {text}")
    for line in build.get:
        click.echo(f"    {line}")
    click.echo(f"  {' '.join(build.configure)}")


def _done(built: BuiltDevices) -> None:
    click.echo(f"Built {built.path}, {show_size(built.n_bytes)}, in {built.seconds:.0f} s")
    for device in built.devices:
        click.echo(f"  it sees {device.name}, {device.description}, {show_memory(device.total_bytes)}")
    if built.problem:
        click.echo(f"  it sees no GPU yet: {built.problem} (`edgellm doctor` says more; the CPU computes until then)")


def _answer(planned: Setup, built: BuiltDevices | None) -> dict[str, Any]:
    from dataclasses import asdict

    build = planned.build
    answer: dict[str, Any] = {"schema": SCHEMA, "backend": planned.backend, **asdict(build), "built": None}
    if built is not None:
        answer["built"] = asdict(built)
    return answer

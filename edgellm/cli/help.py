"""`edgellm help`: what `--help` says, for those who look for it under this name."""

from __future__ import annotations

import click

from edgellm.cli.page import examples


@click.command(epilog=examples("edgellm help", "edgellm help run"))
@click.argument("name", required=False, metavar="[COMMAND]")
@click.pass_context
def command(ctx: click.Context, name: str | None) -> None:
    """List the commands, or explain one."""
    front = ctx.parent
    assert front is not None, "help is a command of edgellm"
    if name is None:
        click.echo(front.get_help())
        return
    assert isinstance(front.command, click.Group)
    _, explained, _ = front.command.resolve_command(front, [name])
    assert explained is not None, "resolve_command refuses unknown names"
    with click.Context(explained, front, name) as below:
        click.echo(below.get_help())

"""The command line's front door: names and one-line helps only, so that `edgellm --help` imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import click

from edgellm import __version__
from edgellm.cli.collector import look_seldom
from edgellm.contract.command import LazyCommand
from edgellm.errors import EdgeLLMError, speak_in_flags


class LazyGroup(click.Group):
    """Commands of plugins, the built-in ones among them. A `LazyCommand` is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = _commands().get(cmd_name)
        return command.load() if isinstance(command, LazyCommand) else command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps = [(name, command.get_short_help_str(200)) for name, command in sorted(_commands().items())]
        with formatter.section("Commands"):
            formatter.write_dl(helps)


def _commands() -> dict[str, click.Command]:
    from edgellm.contract.manager import plugins

    return plugins().commands()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="edgellm")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Put the best language model that this machine runs well on this machine, and say why."""
    ctx.call_on_close(partial(speak_in_flags, speak_in_flags()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status of `edgellm.errors`."""
    look_seldom()
    try:
        status = cli.main(args=arguments, prog_name="edgellm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except EdgeLLMError as error:
        click.echo(f"Error: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(error.exit_code)
    sys.exit(status if isinstance(status, int) else 0)

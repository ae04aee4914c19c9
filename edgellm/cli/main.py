"""The command line's front door: names and one-line helps only, so that `edgellm --help` imports nothing heavy.

Each command lives in `cli/<name>.py` (dashes become underscores) as a click command called `command`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from edgellm import __version__
from edgellm.errors import EdgeLLMError

# Name -> one-line help. The help is repeated from the command's docstring; a test keeps the two equal.
COMMANDS = {
    "auto-select": "Choose the best model that this machine runs well, and say why.",
    "bench": "Measure a model's speed, memory and quality on this machine.",
    "calibrate": "Measure how fast this CPU runs each quantization.",
    "convert": "Convert a model file or folder to another format.",
    "doctor": "Say what is used, what is not, why, and how to mend it.",
    "estimate": "Predict memory, speed and quality of a model without fetching it.",
    "models": "List the catalog and what is on this disk.",
    "plan": "Choose models for a fleet of machines, each by itself or one for all.",
    "plugins": "List plugins and what is wrong with them.",
    "profile": "Show or write what EdgeLLM knows of this machine.",
    "quantize": "Make another quantization of a GGUF model.",
    "quants": "Explain quantization names and what this CPU does with them.",
    "run": "Chat with a model in the terminal.",
    "serve": "Serve a model over HTTP on this machine.",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is called; plugin commands are added after the built-in ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *self._plugin_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"edgellm.cli.{cmd_name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        return self._plugin_commands().get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        added = {name: command.get_short_help_str() for name, command in self._plugin_commands().items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted({**added, **COMMANDS}.items()))

    def _plugin_commands(self) -> dict[str, click.Command]:
        from edgellm.contract.manager import plugins

        found: dict[str, click.Command] = {}

        def register(command: click.Command) -> None:
            if command.name is None or command.name in COMMANDS or command.name in found:
                raise ValueError(f"command name {command.name!r} is missing or already taken")
            found[command.name] = command

        plugins().call("register_commands", register=register)
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="edgellm")
def cli() -> None:
    """Put the best language model that this machine runs well on this machine, and say why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status of `edgellm.errors`."""
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

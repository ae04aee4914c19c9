"""The command line's front door: names and one-line helps only, so that `edgellm --help` imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import click

from edgellm import __version__
from edgellm.cli import own_output
from edgellm.cli.collector import look_seldom
from edgellm.cli.environment import check_environment
from edgellm.cli.system_error import of_system
from edgellm.contract.command import LazyCommand
from edgellm.contract.left_threads import rest_is_of_command
from edgellm.contract.registration import LONGEST_HELP
from edgellm.contract.streams import open_streams
from edgellm.errors import BackendError, EdgeLLMError, UsageError, speak_in_flags

# What other programs call it.
OTHER_WORDS = {
    "ask": "run", "chat": "run", "generate": "run", "start": "serve", "server": "serve",
    "download": "pull", "fetch": "pull", "get": "pull", "install": "pull",
    "delete": "rm", "remove": "rm", "uninstall": "rm", "ls": "list", "installed": "list",
    "info": "show", "inspect": "show", "search": "models", "catalog": "models",
    "auto": "auto-select", "choose": "auto-select", "recommend": "auto-select", "benchmark": "bench",
    "adapter": "adapters", "lora": "adapters", "loras": "adapters", "merge": "adapters",
}  # fmt: skip
# What is no command of its own, and how it is done.
OTHER_WAYS = {
    "ps": "what runs is in the terminals of `edgellm serve` and `edgellm run`; `edgellm list` tells what is stored",
    "stop": "Ctrl-C stops `edgellm serve` where it runs, and so does SIGTERM",
    "version": "`edgellm --version` tells it",
    "update": "`pip install --upgrade` brings a newer EdgeLLM, or `git pull` and `make setup` where it was cloned",
}
OTHER_WAYS |= {"kill": OTHER_WAYS["stop"], "upgrade": OTHER_WAYS["update"]}

EXPLAINING = ("doctor", "help", "completion")  # which run whatever the environment says
LOGGING = ("serve",)  # which tell in lines of a log what is wrong with it
READER_GONE = 128 + 13  # as of a program that SIGPIPE ends: who reads a pipe has had enough


class LazyGroup(click.Group):
    """Commands of plugins, the built-in ones among them. A `LazyCommand` is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = _commands().get(cmd_name)
        try:
            return command.load() if isinstance(command, LazyCommand) else command
        except BaseException as error:
            _tell_of_plugin(cmd_name, error)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            raise _unknown(name, self.list_commands(ctx))
        resolved = super().resolve_command(ctx, args)
        if not _is_builtin(name):
            own_output.give_back()  # how it prints is its own
            rest_is_of_command()
        return resolved

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # of which click makes status 1
            _end_by_system(error)
        except BaseException as error:  # a plugin may raise a class of its own
            _tell_of_plugin(ctx.invoked_subcommand, error)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps = [(name, command.get_short_help_str(LONGEST_HELP)) for name, command in sorted(_commands().items())]
        with formatter.section("Commands"):
            formatter.write_dl(helps)


def _is_builtin(name: str) -> bool:
    from edgellm.contract.manager import BUILTIN, plugins

    owner = plugins().owner("register_commands", name)
    return owner is not None and owner.name in BUILTIN


def _tell_of_plugin(name: str | None, error: BaseException) -> None:
    """Of a mistake in a plugin's command, whose it is; of one of ours a traceback is what helps.

    Raises:
        BackendError: it is a plugin's.
    """
    from edgellm.contract.answers import HINT
    from edgellm.contract.failure import told
    from edgellm.contract.manager import BUILTIN, plugins

    click_s = (click.ClickException, click.exceptions.Exit, click.exceptions.Abort)
    expected = (EdgeLLMError, OSError, KeyboardInterrupt, SystemExit, *click_s)
    owner = plugins().owner("register_commands", name or "")
    if owner is None or owner.name in BUILTIN or isinstance(error, expected):
        return
    plugins().blame(str(name), told(error), "register_commands")
    if os.environ.get("EDGELLM_LOG", "").upper() == "DEBUG":
        import traceback

        traceback.print_exception(error)
    what = f"command {name} of plugin {owner.name} ({owner.distribution}) failed: {told(error)}"
    raise BackendError(what, hint=f"{HINT}; EDGELLM_LOG=DEBUG shows the traceback") from error


def _unknown(name: str, names: Sequence[str]) -> UsageError:
    import difflib

    from edgellm.contract.manager import plugins

    if name.lower() in OTHER_WAYS:
        return UsageError(f"there is no command {name!r}", hint=OTHER_WAYS[name.lower()])
    word = OTHER_WORDS.get(name.lower(), "")
    close = [word] if word in names else difflib.get_close_matches(name.lower(), names, n=3)
    guess = f"did you mean {' or '.join(close)}? " if close else ""
    failed = plugins().suspects("register_commands")
    return UsageError(f"there is no command {name!r}", hint=f"{guess}`edgellm help` lists them all{failed}")


def _commands() -> dict[str, click.Command]:
    from edgellm.contract.manager import plugins

    return plugins().commands()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="edgellm")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Put the best language model that this machine runs well on this machine, and say why."""
    ctx.call_on_close(partial(speak_in_flags, speak_in_flags()))
    if ctx.invoked_subcommand not in (*EXPLAINING, *LOGGING):
        check_environment()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status of `edgellm.errors`."""
    open_streams()
    look_seldom()
    if own_output.is_one_object(sys.argv[1:] if arguments is None else arguments):
        own_output.keep()
    try:
        _run(arguments)
    finally:
        own_output.give_back()


def _run(arguments: Sequence[str] | None) -> NoReturn:
    try:
        status = cli.main(args=arguments, prog_name="edgellm", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        from edgellm.cli.page import cleaned

        # It may hold names of files, where a shell filled in a `*`.
        error.message = cleaned(error.message)  # type: ignore[misc]
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except EdgeLLMError as error:
        from edgellm.cli.page import say_error

        say_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        _end_by_system(error)
    sys.exit(status if isinstance(status, int) else 0)


def _end_by_system(error: OSError) -> NoReturn:
    from edgellm.cli.page import say_error

    # What is buffered for it cannot be written either, and Python would say so once more.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), own_output.own().fileno())
    if isinstance(error, BrokenPipeError):
        sys.exit(READER_GONE)
    told = of_system(error)
    say_error(told)
    sys.exit(told.exit_code)

"""What `edgellm serve` says: to people, or as lines of a log where --log-format asks for them, errors among them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Iterator, Sequence

import click
from click.core import ParameterSource

from edgellm.cli.environment import check_environment
from edgellm.cli.page import wrapped_lines
from edgellm.cli.stopping import Say
from edgellm.cli.system_error import of_system
from edgellm.contract.streams import STDERR, STDOUT

LEVELS = ("error", "warning", "info", "debug")
FORMATS = ("text", "json")
_log = logging.getLogger("edgellm.serve")


class EnvOption(click.Option):
    """An option that a variable sets, too. An error names the variable only where the value came from it."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        if ctx is not None and ctx.get_parameter_source(self.name or "") is not ParameterSource.ENVIRONMENT:
            return click.Parameter.get_error_hint(self, ctx)
        return super().get_error_hint(ctx)


class LoggedCommand(click.Command):
    """A command with --log-format: errors of the environment and of its options, too, are lines of that form."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from edgellm.errors import UsageError

        form = _form_in(args)
        try:
            check_environment()
            return super().parse_args(ctx, args)
        except (click.UsageError, UsageError) as error:
            if form is None:
                raise
            set_up(None, form)
            with errors_logged():
                if isinstance(error, UsageError):
                    raise
                raise UsageError(error.format_message(), hint=f"see `{ctx.command_path} --help`") from None
            raise


def _form_in(args: Sequence[str]) -> str | None:
    """The form that is asked for, of options that may not be understood as a whole, or of the environment."""
    given = [os.environ.get("EDGELLM_LOG_FORMAT", "")]
    given += [after for one, after in itertools.pairwise(args) if one == "--log-format"]
    given += [one.partition("=")[2] for one in args if one.startswith("--log-format=")]
    return given[-1] if given[-1] in FORMATS else None


def set_up(level: str | None, form: str | None) -> tuple[Say, Say]:
    """How to say what happens, and how to warn: both log where a form of lines is asked for."""
    from edgellm import settings
    from edgellm.runtime import logs

    given = {} if level is None else {"log": level.upper()}
    if form is not None:
        given["log_format"] = form
    # The worker's, too.
    click.get_current_context().with_resource(settings.override(**given))
    logs.set_up((level or ("warning" if form is None else "info")).upper(), settings.current().line_format)
    if form is None:
        return tell, functools.partial(tell, err=True)
    return _log.info, _log.warning


def tell(text: str, *, err: bool = False) -> None:
    """Say it to whoever reads. A server goes on where nobody does, or where the other end of a pipe was closed."""
    from edgellm.runtime.line_writer import writer

    lines = writer(STDERR if err else STDOUT)
    lines.tells_gone = functools.partial(_tell_gone, "error" if err else "output")
    lines.put(wrapped_lines(text, err=err))


def _tell_gone(which: str, error: OSError) -> None:
    _log.warning("standard %s is gone: %s; what is said there is lost", which, error)


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """What is printed directly behind the block comes behind what was said in it."""
    from edgellm.runtime.line_writer import writer

    try:
        yield
    finally:
        for descriptor in (STDOUT, STDERR):
            writer(descriptor).flush()


@contextlib.contextmanager
def errors_logged() -> Iterator[None]:
    """Whoever reads the log line by line reads the last one, too."""
    from edgellm.errors import EdgeLLMError

    try:
        yield
    except BrokenPipeError:
        raise
    except (EdgeLLMError, OSError) as error:
        told = of_system(error) if isinstance(error, OSError) else error
        _log.error("%s", told.message, extra={"facts": {"code": told.code, "hint": told.hint}})
        click.get_current_context().exit(told.exit_code)

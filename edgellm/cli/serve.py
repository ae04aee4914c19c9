"""`edgellm serve`: choose, fetch, load and answer over HTTP until stopped."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli import log_lines
from edgellm.cli._options import headline, launch_options, launches, make_plan, samples, short_contexts, slots
from edgellm.cli.log_lines import EnvOption
from edgellm.cli.page import examples
from edgellm.cli.stopping import INTERRUPTED, Say, ends_clean, hangups_refused, leaves_at_once, stop_on_hangup
from edgellm.cli.talk import thoughtless
from edgellm.cli.words import WholeNumber
from edgellm.units import counted

if TYPE_CHECKING:
    from socket import socket

    from edgellm.sdk.client import EdgeLLM
    from edgellm.server.listener import Listener
    from edgellm.types.options import LaunchOptions
    from edgellm.types.plan import LaunchPlan

PORT = 8642
# `docker stop` kills after 10 seconds. Cutting off what is left then takes 2, and leaving may take as long.
DRAIN_S = 6.0
GOOD_KEY = 16  # characters; of hexadecimal digits that is 64 bits


@click.command(
    cls=log_lines.LoggedCommand,
    epilog=examples(
        "edgellm serve",
        "edgellm serve qwen3-4b --ctx 32k --slots 4",
        "edgellm serve ./model.gguf --port 9000",
    ),
)
@launches
@slots
@samples
@click.option(
    "--host",
    default="127.0.0.1",
    cls=EnvOption,
    envvar="EDGELLM_HOST",
    show_envvar=True,
    show_default=True,
    help="Address to listen on; others need an API key.",
)
@click.option(
    "--port",
    type=WholeNumber(0, 65535),
    default=PORT,
    cls=EnvOption,
    envvar="EDGELLM_PORT",
    show_envvar=True,
    show_default=True,
    help="0 = any free port.",
)
@click.option(
    "--ollama-port",
    type=WholeNumber(0, 65535),
    cls=EnvOption,
    envvar="EDGELLM_OLLAMA_PORT",
    show_envvar=True,
    metavar="PORT",
    help="Listen on this port, too: 11434 is where clients of Ollama look.",
)
@click.option("--api-key", metavar="KEY", help="Ask for this key; better EDGELLM_API_KEY, which no process list shows.")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=DRAIN_S,
    show_default=True,
    metavar="SECONDS",
    help="How long running answers may go on after the first signal to stop.",
)
@click.option(
    "--strict-fields",
    is_flag=True,
    help="Refuse requests with unknown fields; otherwise the response names them (x-edgellm-ignored).",
)
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="NAME=auto",
    help="Answer to this name, too, as in --alias gpt-4o=auto; may be given several times.",
)
@click.option("--any-model", is_flag=True, help="Answer to every name of a model, for clients that insist on one.")
@click.option(
    "--allow-manage", is_flag=True, help="Programs may fetch and delete models, and load adapters; browsers never."
)
@click.option(
    "--log-level", type=click.Choice(log_lines.LEVELS), help="How much to log to standard error (default: warning)."
)
@click.option(
    "--log-format",
    type=click.Choice(log_lines.FORMATS),
    cls=EnvOption,
    envvar="EDGELLM_LOG_FORMAT",
    show_envvar=True,
    help="Write all output as log lines of this form, from level info up.",
)
def command(
    *,
    model: str | None,
    host: str,
    port: int,
    ollama_port: int | None,
    api_key: str | None,
    drain: float,
    strict_fields: bool,
    aliases: tuple[str, ...],
    any_model: bool,
    allow_manage: bool,
    log_level: str | None,
    log_format: str | None,
    isolate: bool,
    **options: Any,
) -> int:
    """Serve a model over HTTP on this machine.

    MODEL is a catalog id (see `edgellm models`), a path of a model file, or "echo"; "auto", or none, chooses the best
    model that this machine runs well, and fetches it.
    """
    say, warn = log_lines.set_up(log_level, log_format)
    with log_lines.in_order(), contextlib.nullcontext() if log_format is None else log_lines.errors_logged():
        return _serve(
            model,
            launch_options(**options),
            host=host,
            port=port,
            ollama_port=ollama_port,
            api_key=api_key,
            drain=drain,
            strict_fields=strict_fields,
            aliases=aliases,
            any_model=any_model,
            allow_manage=allow_manage,
            isolate=isolate,
            say=say,
            warn=warn,
            tell=None if log_format is None else say,
        )


def _say_why(plan: LaunchPlan, say: Say, warn: Say, *, named: bool) -> None:
    """The reasons of a plan; `named`: for who named the model."""
    from edgellm import explain
    from edgellm.types.reason import RulesUnasked

    for reason in plan.reasons:
        if isinstance(reason, RulesUnasked):
            warn(explain.sentence(reason))
        else:
            say(f"  {explain.sentence(reason)}")
    for text in short_contexts(plan) if named else ():
        warn(text)


def _serve(
    model: str | None,
    options: LaunchOptions,
    *,
    host: str,
    port: int,
    ollama_port: int | None,
    api_key: str | None,
    drain: float,
    strict_fields: bool,
    aliases: tuple[str, ...],
    any_model: bool,
    allow_manage: bool,
    isolate: bool,
    say: Say,
    warn: Say,
    tell: Say | None,
) -> int:
    from edgellm import settings
    from edgellm.contract.child import ended_with_us
    from edgellm.errors import UsageError
    from edgellm.server import access, listener

    if ollama_port and ollama_port == port:
        raise UsageError(
            f"--port and --ollama-port are both {port}",
            hint="leave one of them out: clients of Ollama are answered on --port, too",
            param="ollama_port",
        )
    key = api_key or settings.current().api_key
    access.check_bind(host, key)
    if key is not None and len(key) < GOOD_KEY:
        warn(f"The API key is shorter than {GOOD_KEY} characters: it can be guessed. `openssl rand -hex 16` makes one.")
    with log_lines.in_order():  # before progress
        _tell_strangers(warn)
    # The port first: one that is in use must not come out after a long download.
    with (
        ends_clean(),
        hangups_refused(warn),
        listener.bind(host, port) as bound,
        _bound_for_ollama(host, ollama_port, warn) as for_ollama,
        ended_with_us() as ending,
    ):
        plan, decision = make_plan(model, options, tell=tell)
        say(headline(plan))
        _say_why(plan, say, warn, named=decision is None)
        from edgellm.sdk.client import EdgeLLM
        from edgellm.server.app import create_app
        from edgellm.server.memory import limit_server
        from edgellm.server.names import ModelNames

        names = ModelNames.of(aliases, any_name=any_model, model=plan.served_as)
        llm = EdgeLLM(plan, decision=decision, isolate=isolate)
        try:
            server = listener.Listener(
                create_app(
                    llm,
                    api_key=key,
                    host=host,
                    strict_fields=strict_fields,
                    names=names,
                    allow_manage=allow_manage,
                ),
                started=lambda: _say_open(say, [bound, *for_ollama]),
                draining=functools.partial(_say_draining, warn, drain),
                overdue=llm.close,
                drain_s=drain,
            )
            failures = _watch_loading(llm, server, say, asked_to_think=options.thinking)
            stop_on_hangup(server)
            if ending.number:
                server.stop()
            if isolate:  # otherwise the model is in this process
                limit_server(settings.current().server_memory_bytes)
            server.run(sockets=[bound, *for_ollama])
            if server.told or ending.number:
                leaves_at_once()
        finally:
            llm.close()
    if failures:
        raise failures[0]
    if server.forced:
        warn("Stopped at once; what was not answered yet was cut off.")
    return INTERRUPTED if server.forced else 0


def _tell_strangers(warn: Say) -> None:
    from edgellm import settings
    from edgellm.contract.manager import plugins

    for name, near in settings.strangers(os.environ, plugins().backends()).items():
        warn(f"The variable {name} means nothing" + (f"; did you mean {near}?" if near else "."))


def _watch_loading(llm: EdgeLLM, server: Listener, say: Say, *, asked_to_think: bool) -> list[Exception]:
    """Say when the model is loaded. A model that cannot be loaded ends the server; the list then holds the reason."""
    failures: list[Exception] = []
    began = time.monotonic()

    def wait() -> None:
        try:
            _ = llm.info
        except Exception as error:
            if not server.should_exit:
                failures.append(error)
                server.stop()
        else:
            say(f"Ready after {time.monotonic() - began:.1f} s. Ctrl-C stops.")
            if asked_to_think and (why := thoughtless(llm)):
                say(why)

    threading.Thread(target=wait, name="edgellm-loading", daemon=True).start()
    return failures


@contextlib.contextmanager
def _bound_for_ollama(host: str, port: int | None, warn: Say) -> Iterator[list[socket]]:
    """The second socket, where one is asked for and the port is free."""
    from edgellm.errors import UsageError
    from edgellm.server import listener

    if port is None:
        yield []
        return
    try:
        bound = listener.bind(host, port)
    except UsageError as error:
        warn(f"Clients of Ollama are not answered on port {port}: {error.message}.")
        yield []
        return
    with bound:
        yield [bound]


def _say_open(say: Say, sockets: Sequence[socket]) -> None:
    from edgellm.server import listener

    url, *others = map(listener.url, sockets)
    say(f"Open {url} (API: {url}/v1)")
    if listener.listens_everywhere(sockets[0]):
        say("It listens on all addresses of this machine: other machines reach it, too.")
    for other in others:
        say(f"Clients of Ollama find it at {other}")


def _say_draining(warn: Say, drain: float, n_requests: int) -> None:
    warn(f"Finishing {counted(n_requests, 'request')}, for at most {drain:g} s; a second signal stops at once.")

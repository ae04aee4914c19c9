"""`edgellm serve`: choose, fetch, load and answer over HTTP until stopped."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import headline, launch_options, launches, make_plan, slots
from edgellm.units import counted

if TYPE_CHECKING:
    from edgellm.sdk.client import EdgeLLM
    from edgellm.server.listener import Listener

PORT = 8642
INTERRUPTED = 130
LEVELS = ("error", "warning", "info", "debug")


@click.command()
@launches
@slots
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need an API key.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 = any free port.")
@click.option("--api-key", metavar="KEY", help="Ask for this key; better EDGELLM_API_KEY, which no process list shows.")
@click.option("--log-level", type=click.Choice(LEVELS), help="How much to log to standard error (default: warning).")
def command(
    *,
    model: str | None,
    host: str,
    port: int,
    api_key: str | None,
    log_level: str | None,
    isolate: bool,
    **options: Any,
) -> int:
    """Serve a model over HTTP on this machine.

    MODEL is a catalog id (see `edgellm models`), a path of a model file, or "echo"; without it, the best model that
    this machine runs well is chosen and fetched.
    """
    from edgellm import explain, settings
    from edgellm.contract.child import ended_with_us
    from edgellm.server import listener, middleware

    key = api_key or settings.current().api_key
    middleware.check_bind(host, key)
    _set_up_logging(log_level)
    # Taken first: a port that is in use must not come out after a long download.
    with listener.bind(host, port) as socket:
        with ended_with_us():
            plan, decision = make_plan(model, launch_options(**options))
        click.echo(headline(plan))
        for reason in plan.reasons:
            click.echo(f"  {explain.sentence(reason)}")
        from edgellm.sdk.client import EdgeLLM
        from edgellm.server.app import create_app

        llm = EdgeLLM(plan, decision=decision, isolate=isolate)
        try:
            server = listener.Listener(
                create_app(llm, api_key=key, host=host),
                started=lambda: click.echo(f"Open {listener.url(socket)} (API: {listener.url(socket)}/v1)"),
                draining=_say_draining,
                access_log=log_level in ("info", "debug"),
            )
            failures = _watch_loading(llm, server)
            server.run(sockets=[socket])
        finally:
            llm.close()
    if failures:
        raise failures[0]
    return INTERRUPTED if server.forced else 0


def _set_up_logging(level: str | None) -> None:
    logging.basicConfig(level=(level or "warning").upper(), format="%(levelname)s %(name)s: %(message)s")
    if level is not None:
        from edgellm import settings

        # The worker's, too.
        click.get_current_context().with_resource(settings.override(log=level.upper()))


def _watch_loading(llm: EdgeLLM, server: Listener) -> list[Exception]:
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
            click.echo(f"Ready after {time.monotonic() - began:.1f} s. Ctrl-C stops.")

    threading.Thread(target=wait, name="edgellm-loading", daemon=True).start()
    return failures


def _say_draining(n_requests: int) -> None:
    click.echo(f"Finishing {counted(n_requests, 'request')}; Ctrl-C again stops at once.", err=True)

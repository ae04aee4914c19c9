"""`edgellm plugins`: who is installed, what each adds, and what is wrong with it."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import examples, say, say_json
from edgellm.errors import EdgeLLMError

if TYPE_CHECKING:
    from edgellm.contract.manager import Plugins

SCHEMA = 1


@click.command(epilog=examples("edgellm plugins", "edgellm plugins --json"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/plugins.md).")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List plugins and what is wrong with them."""
    rows = collect(ctx)
    if as_json:
        say_json({"schema": SCHEMA, "plugins": rows})
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(f"{row['status']:<5}  {row['distribution']}", lead=f"{row['name']:<{width}}  ")
        say(row["error"] or ", ".join(row["registers"]) or "registers nothing", lead=" " * (width + 2))


def collect(ctx: click.Context) -> list[dict[str, Any]]:
    """One row per plugin, after its hooks were called, so that their errors are known."""
    from edgellm import settings
    from edgellm.app import context
    from edgellm.cli.main import cli
    from edgellm.contract import answers
    from edgellm.contract.asked_tuner import asked_tuner
    from edgellm.contract.manager import BUILTIN, plugins
    from edgellm.hardware.probe import probe
    from edgellm.selection.backend_facts import backend_facts
    from edgellm.store.sources.registry import sources

    host = plugins()
    # That a thing lacks a method, or that its name is taken, is noticed when it is registered.
    for register in (host.backends, host.converters, sources, context.rules, partial(context.cards, here=False)):
        register()
    for name in cli.list_commands(ctx):
        owner = host.owner("register_commands", name)
        if owner is not None and owner.name not in BUILTIN:
            _load_command(cli, ctx, name, host)
    # What a backend says of this machine is asked by every choice, here of all its GPUs.
    with settings.override(devices=None):
        backend_facts(host.backends().values(), probe(measure=False))
    for backend in host.backends().values():
        answers.describe(backend)
    for tuner in host.tuners().values():
        with suppress(EdgeLLMError):  # its row has it
            asked_tuner(tuner).missing()
    added = host.registrations()
    return [
        {
            "name": row.name,
            "status": "off" if not row.allowed else "error" if row.error else "ok",
            "distribution": row.distribution,
            "module": row.module,
            "registers": [] if row.error else list(added.get(row.name, ())),
            "error": row.error,
        }
        for row in host.rows()
    ]


def _load_command(group: click.Group, ctx: click.Context, name: str, host: Plugins) -> None:
    """Where it cannot be, its plugin's row has it, whatever the module of the command raises."""
    from edgellm.contract.failure import told

    try:
        with redirect_stdout(sys.stderr):
            group.get_command(ctx, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        host.blame(name, told(error), "register_commands")

"""What edgellm-shout adds: a backend and a command. Every `edgellm` command imports this file, so it stays light."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from edgellm.contract.hookspecs import hookimpl

if TYPE_CHECKING:
    from edgellm.contract.backend import Backend
    from edgellm.contract.engine import Engine
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact
    from edgellm.types.plan import Footprint, LaunchPlan, Settings


class ShoutBackend:
    """The light half of a backend: answers questions about itself in the parent process."""

    name = "shout"
    formats = frozenset({"shout"})
    quants: frozenset[str] | None = None  # whatever the format holds

    def check(self, machine: Machine) -> list[str]:
        return []  # runs anywhere

    def supports(self, artifact: Artifact) -> list[str]:
        return [] if artifact.format in self.formats else [f"format {artifact.format!r} is not shout"]

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint | None:
        return None  # the core's estimate stands

    def open(self, plan: LaunchPlan) -> Engine:
        from edgellm_shout.engine import ShoutEngine  # numpy comes with it: in the worker only

        return ShoutEngine(plan.settings)

    def describe(self) -> dict[str, str]:
        return {"library": "none: capital letters need no weights"}


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(ShoutBackend())


@click.command()
@click.argument("text")
def shout(text: str) -> None:
    """Say TEXT in capital letters."""
    click.echo(text.upper())


@hookimpl
def register_commands(register: Callable[[click.Command], None]) -> None:
    register(shout)

"""What this plugin registers: one command. Ray is imported when it is called, not for `--help`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

hookimpl = pluggy.HookimplMarker("edgellm")


@hookimpl
def register_commands(register: Callable[[click.Command], None]) -> None:
    from edgellm.contract.command import LazyCommand

    register(LazyCommand("cluster", "Answer on several machines together, by Ray Serve.", "edgellm_ray.commands"))

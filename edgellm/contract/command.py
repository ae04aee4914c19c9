"""Contract: a command of the command line that is not imported before it is called (`hookspecs.register_commands`)."""

from __future__ import annotations

import importlib
import reprlib

import click


class LazyCommand(click.Command):
    """A name and a one-line help that stand for the command `attribute` of `module`: `edgellm --help` imports neither.

    register(LazyCommand("serve", "Serve a model over HTTP on this machine.", "edgellm.cli.serve"))
    """

    def __init__(self, name: str, short_help: str, module: str, attribute: str = "command") -> None:
        super().__init__(name, short_help=short_help)
        self._module = module
        self._attribute = attribute

    def load(self) -> click.Command:
        """The command itself.

        Raises:
            TypeError: what stands there is none. Others: as importing it.
        """
        command: object = getattr(importlib.import_module(self._module), self._attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self._module}.{self._attribute} is {reprlib.repr(command)}, a click.Command is expected")
        return command

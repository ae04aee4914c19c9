"""A selection rule on the plugin manager that runs, as if a plugin had registered it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from edgellm.contract.hookspecs import hookimpl
from edgellm.contract.manager import PluginRow, plugins


@contextlib.contextmanager
def running_rule(rule: Callable[..., Any], plugin: str) -> Iterator[None]:
    """Until the block ends. The plugin's package is called `edgellm-PLUGIN`, its module `edgellm_PLUGIN`."""

    class Rules:
        @hookimpl
        def register_rules(self, register: Callable[[Any], None]) -> None:
            register(rule)

    host = plugins()
    host._manager.register(Rules(), plugin)
    host._rows[plugin] = PluginRow(plugin, f"edgellm-{plugin} 1.0", f"edgellm_{plugin}")
    try:
        yield
    finally:
        host._manager.unregister(name=plugin)
        del host._rows[plugin]

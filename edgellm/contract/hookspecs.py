"""Everything a plugin can add to EdgeLLM. Entry-point group: `edgellm.v1`.

Every hook receives `register` and calls it once per thing it adds; the host validates at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from edgellm.contract.backend import Backend
    from edgellm.contract.converter import Converter
    from edgellm.types.machine import Accelerator, Machine
    from edgellm.types.model import ModelCard

GROUP = "edgellm.v1"

hookspec = pluggy.HookspecMarker("edgellm")
hookimpl = pluggy.HookimplMarker("edgellm")


@hookspec
def register_backends(register: Callable[[Backend], None]) -> None:
    """Add backends: objects with the methods of `edgellm.contract.backend.Backend`."""


@hookspec
def register_models(register: Callable[[ModelCard], None]) -> None:
    """Add catalog rows. A row with the id of an earlier one replaces it."""


@hookspec
def register_sources(register: Callable[[str, Any], None]) -> None:
    """Add a model source for a URI scheme: `register("s3", source)` with the methods of `store.sources.Source`."""


@hookspec
def register_rules(register: Callable[[Any], None]) -> None:
    """Add selection rules: callables as in `edgellm.selection.rules`, run after the built-in ones."""


@hookspec
def register_quants(register: Callable[[Any], None]) -> None:
    """Add quantization names: `edgellm.estimate.quants.Quant` values."""


@hookspec
def register_converters(register: Callable[[str, str, Converter], None]) -> None:
    """Add ways of `edgellm convert`: `register(from_format, to_format, converter)` (`edgellm.contract.converter`)."""


@hookspec
def register_commands(register: Callable[[click.Command], None]) -> None:
    """Add command-line commands. Import what they need inside them."""


@hookspec
def probe_accelerators(register: Callable[[Accelerator], None], machine: Machine) -> None:
    """Add accelerators that the built-in probes do not know."""

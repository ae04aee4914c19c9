"""Everything a plugin can add to EdgeLLM. Entry-point group: `edgellm.v1`.

Every hook receives `register` and calls it once per thing it adds; the host validates at that moment. Plugins are
called one after the other, the built-in ones first, then this project's, then by name: `tryfirst`, `trylast` and
wrappers are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from edgellm.contract.backend import Backend
    from edgellm.contract.converter import Converter
    from edgellm.contract.source import Source
    from edgellm.contract.tuner import Tuner
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
def register_sources(register: Callable[[str, Source], None]) -> None:
    """Add a model source for a URI scheme: `register("s3", source)` (`edgellm.contract.source`)."""


@hookspec
def register_rules(register: Callable[[object], None]) -> None:
    """Add selection rules: callables as in `edgellm.selection.constraints`, run after the built-in ones."""


@hookspec
def register_quants(register: Callable[[object], None]) -> None:
    """Add quantization names: `edgellm.estimate.quants.Quant` values."""


@hookspec
def register_converters(register: Callable[[str, str, Converter], None]) -> None:
    """Add ways of `edgellm convert`: `register(from_format, to_format, converter)` (`edgellm.contract.converter`)."""


@hookspec
def register_tuners(register: Callable[[Tuner], None]) -> None:
    """Add tuners: objects with the methods of `edgellm.contract.tuner.Tuner`."""


@hookspec
def register_commands(register: Callable[[click.Command], None]) -> None:
    """Add commands. Import what they need inside them, or register `edgellm.contract.command.LazyCommand`s."""


@hookspec
def probe_accelerators(register: Callable[[Accelerator], None], machine: Machine) -> None:
    """Add accelerators that the built-in probes do not know."""

"""Flags of `edgellm bundle create` and `edgellm image create`: what goes in, and what is chosen for the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellm.cli._options import gpu_layers, kv, models_dir, models_file, slots, think, threads
from edgellm.cli.words import BACKEND, MODEL, TASK, TOKENS

if TYPE_CHECKING:
    from edgellm.app.bundle.asked import BundleOptions

F = TypeVar("F", bound=Callable[..., Any])
_UNSET = ("", None, ())

_PACKING = (
    click.option(
        "--wheels", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
        help="Folder with wheels to choose from (repeat).",
    ),
    click.option("--model", default="", type=MODEL, metavar="MODEL", help="This model, instead of the best one."),
    click.option(
        "--adapter", "adapters", multiple=True, metavar="NAME", help="A stored adapter to go with it (repeat)."
    ),
    click.option(
        "--licences", multiple=True, metavar="NAMES", help="The only ones that may be in it, as MIT,Apache-2.0."
    ),
    click.option("--task", type=TASK, help="What the model is for (default: chat)."),
    click.option("--ctx", type=TOKENS, metavar="TOKENS", help="Context per slot that it must hold, as 8192 or 32k."),
    click.option("--min-tps", type=float, metavar="RATE", help="Slowest acceptable rate, tokens per second."),
    click.option("--max-memory", metavar="SIZE", help="Most memory it may take, as 700MiB or 2GiB."),
    click.option("--backend", type=BACKEND, help="Only models for this backend."),
    slots,
    threads,
    gpu_layers,
    kv,
    think,
    models_dir,
    models_file,
)  # fmt: skip


def packs(command: F) -> F:
    """Adds them to a command, which hands their values to `bundle_options`."""
    for option in reversed(_PACKING):
        command = option(command)
    return command


def bundle_options(options: dict[str, Any]) -> BundleOptions:
    """What values of `packs` mean, and of other flags that are called as fields of `BundleOptions`."""
    from edgellm.app.bundle.asked import BundleOptions
    from edgellm.types.options import SelectionOptions

    names = [field.name for field in fields(BundleOptions) if field.name in options]
    given = {name: value for name in names if (value := options.pop(name)) not in _UNSET}
    licences = tuple(name.strip() for text in given.pop("licences", ()) for name in text.split(",") if name.strip())
    return BundleOptions(**given, licences=licences, selection=SelectionOptions.of(**options))

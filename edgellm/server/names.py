"""The names by which clients ask for the model that is served. Some of them cannot be told another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgellm.errors import UsageError

ALWAYS = ("default", "edgellm")
MAX_ALIASES = 64
_TAG = ":latest"  # that Ollama's clients put behind a name without a tag


class ModelNames(NamedTuple):
    """`aliases`: further names, in the order in which they are listed. `any`: every name means this model."""

    aliases: tuple[str, ...] = ()
    any: bool = False

    @classmethod
    def of(cls, aliases: Sequence[str], *, any_name: bool, model: str) -> ModelNames:
        """Of `NAME=MODEL` texts, where MODEL is "auto" or the id of the one model that is served.

        Raises:
            UsageError: another model is meant, or a name is none.
        """
        if len(aliases) > MAX_ALIASES:
            raise UsageError(f"{len(aliases)} aliases", hint=f"at most {MAX_ALIASES}", param="alias")
        return cls(tuple(dict.fromkeys(_name(alias, model) for alias in aliases)), any_name)

    def include(self, name: str, model: str) -> bool:
        """Whether `name` means the model with the id `model`."""
        return self.any or name.removesuffix(_TAG) in (model, *ALWAYS, *self.aliases)


def _name(alias: str, model: str) -> str:
    name, _, target = alias.partition("=")
    name = name.removesuffix(_TAG)
    if not name or len(name) > 128 or not name.isprintable() or name != name.strip():
        raise UsageError(f"--alias {alias[:80]!r} has no name", hint="write --alias NAME=auto", param="alias")
    if target not in ("", "auto", model):
        hint = f"one model is served: write --alias {name}=auto, or serve {target[:60]}"
        raise UsageError(f"--alias {alias[:80]}: {target[:60]!r} is not served, {model} is", hint=hint, param="alias")
    return name

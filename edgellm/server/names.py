"""The names by which clients ask for the model that is served. Some of them cannot be told another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgellm.errors import UsageError

ALWAYS = ("default", "edgellm")
MAX_ALIASES = 64
MAX_LENGTH = 128  # of a name
TAG = ":latest"  # that Ollama's clients put behind a name without a tag


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

    def with_alias(self, alias: str) -> ModelNames:
        """
        Raises:
            UsageError: it is no name, or there are too many.
        """
        name = _checked(alias, hint="send 1 to 128 letters, without a blank at either end")
        if len(self.aliases) >= MAX_ALIASES:
            raise UsageError(f"there are {MAX_ALIASES} aliases already", hint="delete one", param="destination")
        return self._replace(aliases=tuple(dict.fromkeys((*self.aliases, name))))

    def without_alias(self, alias: str) -> ModelNames:
        """These, where it is none of the aliases."""
        gone = alias.removesuffix(TAG)
        return self._replace(aliases=tuple(name for name in self.aliases if name != gone))

    def include(self, name: str, model: str) -> bool:
        """Whether `name` means the model with the id `model`."""
        return self.any or name.removesuffix(TAG) in (model, *ALWAYS, *self.aliases)


def _name(alias: str, model: str) -> str:
    name, _, target = alias.partition("=")
    name = _checked(name, hint="write --alias NAME=auto")
    if target not in ("", "auto", model):
        hint = f"one model is served: write --alias {name}=auto, or serve {target[:60]}"
        raise UsageError(f"--alias {alias[:80]}: {target[:60]!r} is not served, {model} is", hint=hint, param="alias")
    return name


def _checked(alias: str, *, hint: str) -> str:
    name = alias.removesuffix(TAG)
    if not name or len(name) > MAX_LENGTH or not name.isprintable() or name != name.strip():
        raise UsageError(f"{alias[:80]!r} is no name for a model", hint=hint, param="alias")
    return name

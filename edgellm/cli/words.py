"""Types of arguments and flags: how each is written, what its help names, and what a shell completes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from edgellm.errors import EdgeLLMError
from edgellm.units import parse_tokens

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _ParamType = click.ParamType[Any, Any]
else:  # generic since click 8.4
    _ParamType = click.ParamType


Names = Callable[[str], Iterable[str]]  # what may stand there, of what was typed so far


class Words(_ParamType):
    """One of some words. What takes the value checks it, so that it is refused in the same words everywhere."""

    def __init__(self, name: str, words: Names, *, or_file: bool = False, few: bool = False) -> None:
        """`or_file`: a path may stand there instead. `few`: the help names all of them."""
        self.name = name
        self._words = words
        self._or_file = or_file
        self._few = few

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        return f"[{'|'.join(self._words(''))}]" if self._few else None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        words: list[str] = []
        with contextlib.suppress(EdgeLLMError):  # the command itself says what is wrong
            words = [word for word in self._words(incomplete) if word.lower().startswith(incomplete.lower())]
        if not words and self._or_file:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(word) for word in words]


class WholeNumber(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"  # as in "'0x' is not a valid whole number"


class TokenCount(_ParamType):
    """A number of tokens, as 8192 or 32k."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else parse_tokens(value)


def _tasks(_incomplete: str) -> Iterable[str]:
    from edgellm.types.request import TASKS

    return TASKS


def _caches(_incomplete: str) -> Iterable[str]:
    from edgellm.types.request import KV_TYPES

    return ("auto", *(kind for kind in KV_TYPES if kind != "f32"))  # which only a few backends hold


def _backends(_incomplete: str) -> Iterable[str]:
    from edgellm.contract.manager import plugins

    return plugins().backends()


def _profiles(_incomplete: str) -> Iterable[str]:
    from edgellm.hardware import profiles

    return profiles.names()


def _quants(_incomplete: str) -> Iterable[str]:
    from edgellm.estimate import quants

    return quants.QUANTS


def _models(incomplete: str) -> Iterable[str]:
    """Ids; behind a colon, the quantizations of that id."""
    from edgellm.app.context import cards

    model_id, colon, _ = incomplete.lower().partition(":")
    rows = cards()
    if colon:
        return sorted({f"{row.id}:{file.quant}" for row in rows if row.id == model_id for file in row.files})
    return sorted(row.id for row in rows)


def _stored(incomplete: str) -> Iterable[str]:
    from edgellm.store.library import Library

    installed = Library().installed()
    return sorted({f"{s.model_id}:{s.quant}" if ":" in incomplete else s.model_id for s in installed})


def _adapters(_incomplete: str) -> Iterable[str]:
    from edgellm.store.adapters import AdapterStore

    return sorted(stored.label for stored in AdapterStore().installed())


def _methods(_incomplete: str) -> Iterable[str]:
    from edgellm.types.tuning import METHODS

    return METHODS


def _tune_devices(_incomplete: str) -> Iterable[str]:
    from edgellm.types.tune_device import DEVICE_KINDS

    return ("auto", *DEVICE_KINDS)


TASK = Words("task", _tasks, few=True)
WRITING_TASK = Words("task", lambda incomplete: [task for task in _tasks(incomplete) if task != "embed"], few=True)
METHOD = Words("method", _methods, few=True)
TUNE_DEVICE = Words("device", _tune_devices)
KV = Words("kv", _caches, few=True)
BACKEND = Words("backend", _backends, few=True)
PROFILE = Words("profile", _profiles, or_file=True)
QUANT = Words("quant", _quants)
MODEL = Words("model", _models, or_file=True)
STORED = Words("stored", _stored)
ADAPTER = Words("adapter", _adapters, or_file=True)
STORED_ADAPTER = Words("stored adapter", _adapters)
TOKENS = TokenCount()

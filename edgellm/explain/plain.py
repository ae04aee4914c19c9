"""What holds facts as plain data: each fact as its sentence, and beside it, under KEY_facts, as an object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec

from edgellm.explain.bases import basis
from edgellm.explain.reasons import sentence
from edgellm.explain.refusals import refusal
from edgellm.explain.verdicts import drift, verdict
from edgellm.types.basis import Basis, Fact
from edgellm.types.drift import Drift
from edgellm.types.quantize_note import QuantizeNote
from edgellm.types.reason import Reason
from edgellm.types.refusal import Refusal
from edgellm.types.verdict import Verdict

_SENTENCES: dict[type, Callable[[Any], str]] = {
    kind: say
    for kinds, say in (
        (Basis, basis),
        (Refusal, refusal),
        (Reason, sentence),
        (QuantizeNote, sentence),
        (Verdict, verdict),
        (Drift, drift),
    )
    for kind in (get_args(kinds) or (kinds,))
}


def facts(fact: Fact | None) -> Any:
    """A fact as an object of JSON: its `kind` and its numbers; None for None."""
    return msgspec.json.decode(msgspec.json.encode(fact))


def plain(value: Any) -> Any:
    """A dataclass, struct, mapping or sequence as JSON has it, as `msgspec.to_builtins` makes it of all but facts.

    What is `reason` or `basis` in it is a sentence, and `reason_facts` or `basis_facts` beside it the data.
    """
    if dataclasses.is_dataclass(value):
        return _plain_items({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, msgspec.Struct) and not isinstance(value, Fact):
        return _plain_items({name: getattr(value, name) for name in value.__struct_fields__})
    if isinstance(value, Mapping):
        return _plain_items(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return _SENTENCES[type(value)](value) if isinstance(value, Fact) else msgspec.to_builtins(value)


def fields(value: Any, *names: str) -> dict[str, Any]:
    """The named fields of a value, in that order, as `plain` makes them."""
    return _plain_items({name: getattr(value, name) for name in names})


def _plain_items(items: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in items.items():
        made[name] = plain(value)
        if isinstance(value, Fact) or (isinstance(value, tuple) and value and isinstance(value[0], Fact)):
            made[f"{name}_facts"] = msgspec.json.decode(msgspec.json.encode(value))
    return made

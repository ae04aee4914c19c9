"""vLLM's structural tags: free text, in which a trigger begins a structure that has to be followed to its end."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.types.grammar import MAX_TREE_BYTES, Grammar
from edgellm.types.grammar_tree import AnyText, Json, OneOf, Repeat, TextUntil, sequence
from edgellm.types.json_counts import check_counts
from edgellm.types.message import MAX_TOOLS

Trigger = Annotated[str, Meta(min_length=1, max_length=256)]
Triggers = Annotated[list[Trigger], Meta(min_length=1, max_length=MAX_TOOLS)]


class TagStructure(Fields, kw_only=True):
    """`begin`, JSON under the schema, `end`."""

    begin: str
    schema: dict[str, Any] | None = None  # None: any JSON
    end: str = ""


Structures = Annotated[list[TagStructure], Meta(min_length=1, max_length=MAX_TOOLS)]


class StructuralTag(Fields, kw_only=True):
    """The form with structures and triggers; the one with a `format` is not served."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"format": ()}

    type: Literal["structural_tag"] = "structural_tag"
    structures: Structures
    triggers: Triggers

    @classmethod
    def of_json(cls, text: str, param: str) -> StructuralTag:
        """
        Raises:
            UsageError: it is too large, nested too deeply, or no structural tag.
        """
        encoded = text.encode()
        if len(encoded) > MAX_TREE_BYTES:
            hint = f"{MAX_TREE_BYTES} are allowed"
            raise UsageError(f"{param} has {len(encoded)} bytes", hint=hint, param=param)
        check_counts(encoded, what=param, param=param)
        try:
            return msgspec.json.decode(encoded, type=cls)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UsageError(f"{param} is wrong: {error}"[:200], hint="send JSON", param=param) from None

    def grammar(self, param: str) -> Grammar:
        """
        Raises:
            UsageError: a trigger begins no structure, a structure has none, all together is too large, or a schema is
            refused.
        """
        idle = [one.begin for one in self.structures if not one.begin.startswith(tuple(self.triggers))]
        idle += [
            trigger for trigger in self.triggers if not any(one.begin.startswith(trigger) for one in self.structures)
        ]
        if idle:
            hint = "each structure begins with a trigger, and each trigger begins a structure"
            raise UsageError(f"{idle[0][:60]!r} in {param} is never used", hint=hint, param=param)
        self._check_size(param)
        begun = tuple(sequence(TextUntil(trigger), self._behind(trigger)) for trigger in self.triggers)
        return Grammar.of_tree(sequence(Repeat(OneOf(begun)), AnyText()), param)

    def _check_size(self, param: str) -> None:
        """Before it is made: a structure stands behind each trigger that begins it."""
        n_bytes = 0
        for one in self.structures:
            n_triggers = sum(one.begin.startswith(trigger) for trigger in self.triggers)
            n_bytes += n_triggers * (len(one.begin) + len(one.end) + len(msgspec.json.encode(one.schema)))
        if n_bytes > MAX_TREE_BYTES:
            hint = f"{MAX_TREE_BYTES} are allowed; each structure counts behind each trigger that begins it"
            raise UsageError(f"{param} has {n_bytes} bytes", hint=hint, param=param)

    def _behind(self, trigger: str) -> OneOf:
        return OneOf(
            tuple(
                sequence(one.begin.removeprefix(trigger), Json(one.schema or {}), one.end)
                for one in self.structures
                if one.begin.startswith(trigger)
            )
        )

"""The fields of a body that say what the answer has to look like: OpenAI's, vLLM's and llama-server's."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import Fields, NeutralValues
from edgellm.server.schemas.sampling import SamplingBody
from edgellm.server.schemas.structural_tag import StructuralTag, Structures, Triggers
from edgellm.types.grammar import ANY_OBJECT, MAX_CHOICES, Grammar


class JsonSchema(Fields, kw_only=True):
    """OpenAI's json_schema. Answers always keep to the schema, `strict` or not."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Fields, kw_only=True):
    """OpenAI's: free text, any JSON object, or JSON under a schema; vLLM's structural tags."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"format": ()}

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    schema: Annotated[
        dict[str, Any] | None,
        Meta(description="Extension, llama-server's: of json_object. Objects have the listed properties only."),
    ] = None
    structures: Annotated[Structures | None, Meta(description="Extension, vLLM's.")] = None
    triggers: Annotated[Triggers | None, Meta(description="Extension, vLLM's.")] = None

    def grammar(self) -> Grammar | None:
        if self.type == "structural_tag":
            if not self.structures or not self.triggers:
                hint = 'send {"type": "structural_tag", "structures": [...], "triggers": [...]}'
                raise UsageError("response_format has no structures or triggers", hint=hint, param="response_format")
            tag = StructuralTag(structures=self.structures, triggers=self.triggers)
            return tag.grammar("response_format")
        if self.type == "text":
            return None
        if self.type == "json_object" and self.schema is not None:
            return Grammar.of_schema(self.schema, "response_format.schema", closed=True)
        if self.type == "json_object":
            return Grammar("json_schema", ANY_OBJECT, "response_format")
        if self.json_schema is None or self.json_schema.schema is None:
            where = "response_format.json_schema.schema"
            raise UsageError(f"{where} is required", hint='send a schema, or the type "json_object"', param=where)
        return Grammar.of_schema(self.json_schema.schema, "response_format.json_schema.schema")


class StructuredOutputs(Fields, kw_only=True):
    """vLLM's: one of its fields."""

    NOT_SUPPORTED: ClassVar[NeutralValues] = {"json_object": (False,)}

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(max_length=MAX_CHOICES)] | None = None
    grammar: str | None = None
    structural_tag: StructuralTag | str | None = None

    def grammars(self) -> list[Grammar]:
        param, grammars = "structured_outputs", []
        if self.json is not None:
            grammars.append(_of_schema(self.json, f"{param}.json"))
        if self.regex is not None:
            grammars.append(Grammar("regex", self.regex, f"{param}.regex"))
        if self.choice is not None:
            grammars.append(Grammar("choice", json.dumps(self.choice, ensure_ascii=False), f"{param}.choice"))
        if self.grammar is not None:
            grammars.append(Grammar("gbnf", self.grammar, f"{param}.grammar"))
        if self.structural_tag is not None:
            grammars.append(_of_tag(self.structural_tag, f"{param}.structural_tag"))
        return grammars


class StructuredBody(SamplingBody, kw_only=True):
    """The fields themselves; bodies inherit them."""

    response_format: ResponseFormat | None = None
    structured_outputs: Annotated[
        StructuredOutputs | None, Meta(description="Extension, vLLM's. What the answer has to look like.")
    ] = None
    json_schema: Annotated[
        dict[str, Any] | None, Meta(description="Extension, llama-server's. Objects have the listed properties only.")
    ] = None
    grammar: Annotated[
        str | None, Meta(description="Extension, llama-server's. A grammar in GBNF, or in llguidance's Lark.")
    ] = None

    def wanted_grammar(self) -> Grammar | None:
        """
        Raises:
            UsageError: more than one is asked for, or one cannot be read.
        """
        grammars = self.structured_outputs.grammars() if self.structured_outputs else []
        if self.json_schema is not None:
            grammars.append(Grammar.of_schema(self.json_schema, "json_schema", closed=True))
        if self.grammar:
            grammars.append(Grammar("gbnf", self.grammar, "grammar"))
        if self.response_format is not None and (wanted := self.response_format.grammar()) is not None:
            grammars.append(wanted)
        if len(grammars) > 1:
            both = f"{grammars[0].param} and {grammars[1].param}"
            raise UsageError(f"{both} both say what the answer looks like", hint="send one", param=grammars[1].param)
        return grammars[0] if grammars else None


def _of_tag(tag: StructuralTag | str, param: str) -> Grammar:
    return (StructuralTag.of_json(tag, param) if isinstance(tag, str) else tag).grammar(param)


def _of_schema(schema: dict[str, Any] | str, param: str) -> Grammar:
    return Grammar("json_schema", schema, param) if isinstance(schema, str) else Grammar.of_schema(schema, param)

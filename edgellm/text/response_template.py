"""The `response_template` of a Hugging Face folder as a row: its author's word on how answers are marked.

The format is that of transformers 5.13 and later (`transformers.utils.chat_parsing`): fields of a message, each with
the texts around it, or patterns, and how what is between them is read. It is hostile: bounded, and nothing of it is
run. Where a row cannot say one thing of it, nothing of it is taken. Looser than transformers: text outside of all
fields is text, and what closes a content that nothing opens is left to the tokens that end the model's answer.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from edgellm.text.mark_patterns import Marks, alternatives
from edgellm.text.response_fields import FieldReader, ResponseTemplate, Untranslatable, abridged
from edgellm.types.markup import (
    AnswerMarkup,
    CallMarkup,
    HarmonyCalls,
    JsonCalls,
    LiteralCalls,
    Markup,
    NamedCalls,
    ReasoningMarkup,
    TaggedCalls,
)
from edgellm.types.sampling_defaults import UnusedKey

MAX_CHARS = 64 * 1024  # of its JSON: those of seven families have 500 to 1,000
_KEY = "response_template"
_REASONING = ("reasoning_content", "reasoning", "thinking")
_CONTENT, _CALLS = "content", "tool_calls"
_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
_VALUE_PARSERS = (None, {"name": "text"}, {"name": "json", "args": {"allow_non_json": True}})  # the schema says which


def declared_markup(text: str) -> Markup | UnusedKey:
    """The row of a `response_template` (JSON), or what in it is more than a row can say."""
    if len(text) > MAX_CHARS:
        return UnusedKey(_KEY, f"{len(text)} characters")
    try:
        return _markup(msgspec.json.decode(text, type=ResponseTemplate))
    except Untranslatable as problem:
        return UnusedKey(f"{_KEY}.{problem.where}", problem.value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        return UnusedKey(_KEY, abridged(str(problem)))


def _markup(template: ResponseTemplate) -> Markup:
    fields = template.fields
    other = next((name for name in fields if name not in (*_REASONING, _CONTENT, _CALLS)), None)
    thoughts = [_Reader(name, fields[name]) for name in _REASONING if name in fields]
    if other is not None or len(thoughts) > 1 or not fields:
        raise Untranslatable("fields", list(fields)[:8])
    calls = _Reader(_CALLS, fields[_CALLS]).calls() if _CALLS in fields else None
    reasoning = thoughts[0].reasoning() if thoughts else None
    # Channels of gpt-oss say by themselves what an answer is.
    is_marked = _CONTENT in fields and not isinstance(calls, HarmonyCalls)
    return Markup(reasoning, calls, _Reader(_CONTENT, fields[_CONTENT]).answer() if is_marked else None)


class _Function(NamedTuple):
    """Where the parts of a call are in what was read: `content.name`, or the part of a pattern."""

    name: str
    arguments: str
    id: str


class _Reader(FieldReader):
    """Reads one field as a row."""

    # Thoughts and answers

    def _check_text(self) -> None:
        field = self._field
        if field.content != "text" or field.content_args.keys() - {"strip"}:
            raise self._refusal("content" if field.content != "text" else "content_args")
        if field.transform is not None:
            raise self._refusal("transform")
        if field.repeats != (field.join == ""):  # others make a list of them
            raise self._refusal("join")

    def reasoning(self) -> ReasoningMarkup:
        """`^` stands for a prompt that opens the thought."""
        self._check_text()
        close = self._text("close")
        if not close:
            raise self._refusal("close")
        return ReasoningMarkup(self._text("open"), close, again=self._field.repeats)

    def answer(self) -> AnswerMarkup | None:
        self._check_text()
        start = self._text("open")
        return AnswerMarkup(start, self._text("close")) if start else None

    # Calls

    def calls(self) -> CallMarkup:
        field = self._field
        start, close = self._row("open"), self._text("close")
        if not start[0].strip():
            raise self._refusal("open" if field.open_pattern is None else "open_pattern")
        if field.repeats == field.transform_each or field.join is not None:  # one call, or a list of lists
            raise self._refusal("repeats")
        function = self._function()
        if field.transform_each:
            return self._list(start, close, function)
        if field.content == "xml-inline":
            return self._tagged(start, close, function)
        if field.content != "json":
            raise self._refusal("content")
        return self._named(start, close, function) if len(start) > 1 else self._objects(start, close, function)

    def _function(self) -> _Function:
        transform = self._field.transform
        if not isinstance(transform, dict) or transform.keys() - {"type", "function", "id"}:
            raise self._refusal("transform")
        function = transform.get("function")
        if function == "{content}":
            function = {"name": "{content.name}", "arguments": "{content.arguments}"}
        if not isinstance(function, dict) or function.keys() != {"name", "arguments"}:
            raise self._refusal("transform")
        places = [function["name"], function["arguments"], transform.get("id", "{id}")]
        paths = [_PLACEHOLDER.fullmatch(place) if isinstance(place, str) else None for place in places]
        if None in paths or transform.get("type", "function") != "function":
            raise self._refusal("transform")
        name, arguments, id_ = (path[1] for path in paths if path)
        return _Function(name, arguments, id_ if "id" in transform else "")

    def _list(self, start: Marks, close: str, function: _Function) -> CallMarkup:
        """A list of all calls of an answer."""
        if len(start) > 1 or self._field.content_args:
            raise self._refusal("open_pattern" if len(start) > 1 else "content_args")
        if self._field.content == "python-call-list" and function[:2] == ("name", "arguments"):
            return LiteralCalls(start[0].strip(), "[", f"]{close}", brackets="()", assign="=", quote='"', listed=True)
        if self._field.content != "json" or "." in "".join(function):
            raise self._refusal("transform" if self._field.content == "json" else "content")
        name, arguments, id_ = function
        return JsonCalls("", "", start[0], close, array=True, name_key=name, arguments_key=arguments, id_key=id_)

    def _objects(self, start: Marks, close: str, function: _Function) -> CallMarkup:
        if self._field.content_args:
            raise self._refusal("content_args")
        keys = [path.split(".") for path in function if path]
        wrapper = keys[0][1:-1]
        if any(key[0] != "content" or len(key) < 2 for key in keys) or keys[1][1:-1] != wrapper or len(wrapper) > 1:
            raise self._refusal("transform")
        return JsonCalls(
            start[0],
            close,
            wrapper="".join(wrapper),
            name_key=keys[0][-1],
            arguments_key=keys[1][-1],
            id_key=keys[2][-1] if function.id else "",
        )

    def _named(self, start: Marks, close: str, function: _Function) -> CallMarkup:
        parts = start[1::2]
        if parts[0] != function.name or function.arguments != "content" or function.id not in ("", *parts[1:]):
            raise self._refusal("transform")
        if "<|channel|>" in start[0] and start[0].endswith(" to=functions.") and start[-1].endswith("<|message|>"):
            return HarmonyCalls()
        arguments = dict(self._field.content_args)
        delimiters, bare = arguments.pop("string_delims", []), arguments.pop("unquoted_keys", False)
        if bare and len(start) == 3 and not arguments:
            return self._literal(start, close, delimiters)
        if arguments or delimiters or bare:
            raise self._refusal("content_args")
        if len(start) > 5 or "" in parts or (len(parts) > 1 and not start[2].strip()):
            raise self._refusal("open_pattern")
        return NamedCalls(start[0], start[-1], close, id_open=start[2] if len(parts) > 1 else "")

    def _literal(self, start: Marks, close: str, delimiters: Any) -> CallMarkup:
        match delimiters:
            case [[str(quote), str(end)]] if quote == end and len(quote) > 1 and not start[-1].strip():
                section, mark, head = start[0].strip().rpartition(">")
                return LiteralCalls(section + mark, head, close, brackets="{}", assign=":", quote=quote)
            case _:
                raise self._refusal("content_args")

    def _tagged(self, start: Marks, close: str, function: _Function) -> CallMarkup:
        arguments = dict(self._field.content_args)
        pattern, parser = arguments.pop("tag_pattern", ""), arguments.pop("value_parser", None)
        rows = alternatives(pattern) if isinstance(pattern, str) else None
        row = rows[0] if rows and len(rows) == 1 else ()
        between = row[2].split() if row[1::2] == ("key", "value") else []
        if arguments or parser not in _VALUE_PARSERS or not row or not row[0].strip() or not row[-1].strip():
            raise self._refusal("content_args")
        if len(start) != 3 or start[1:2] != function[:1] or function.arguments != "content":
            raise self._refusal("open_pattern")
        if len(between) == 2:
            key_close, value_open = between
        elif len(between) == 1:
            key_close, value_open = row[2], ""
        else:
            raise self._refusal("content_args")
        close = _closing(start[0]) + close if _closing(start[0]).strip() not in close else close
        return TaggedCalls(start[0], start[2], row[0], key_close, row[-1], value_open, close)


def _closing(start: str) -> str:
    """Of `<function=` that ends a text: transformers passes over it where only the outer mark is named."""
    tag = re.search(r"<([\w:]+)=$", start)
    return f"</{tag[1]}>\n" if tag else ""

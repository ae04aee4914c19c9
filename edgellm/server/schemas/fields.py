"""How the body of a request is read: one decoding, closed lists of fields, and errors that name the field.

Nothing is dropped silently. A schema lists the fields that change the answer (its struct fields), the ones that would
but are not served, which are refused by name, and the ones that are about the caller and accepted without effect. Any
other field is accepted and named in the response (`schemas.unknown`). Ranges are checked by `edgellm.types.request`,
so that HTTP, the command line and the SDK refuse a value with the same words.
"""

from __future__ import annotations

import contextlib
import difflib
import operator
import re
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar, get_args, get_origin

import msgspec

from edgellm.errors import UnsupportedField, UsageError
from edgellm.server.schemas.unknown import UnknownFields
from edgellm.types.json_counts import MAX_VALUES, check_counts

# Python's float() makes an infinity of 1e999, which the range of its field then refuses by name; msgspec would not.
_decode = msgspec.json.Decoder(float_hook=float).decode
# msgspec gives the place of a wrong value only as the end of its message.
_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_PLACE = re.compile(r"(.*) - at (?:`key` in )?`\$(.*)`", re.DOTALL)

MEDIA = frozenset({"images", "image_url", "input_audio", "file", "file_data"})  # of which an error shows nothing
NeutralValues = Mapping[str, tuple[object, ...]]  # by field
FieldValues = Mapping[str, tuple[str, ...]]


class Fields(msgspec.Struct, kw_only=True):
    """An object in a request. Types are not converted: "5" is not 5."""

    # Fields that would change the answer: the values, beside null, with which each asks for nothing.
    NOT_SUPPORTED: ClassVar[NeutralValues] = {}
    # Values of supported fields that have a meaning elsewhere, but none here yet.
    NOT_SUPPORTED_VALUES: ClassVar[FieldValues] = {}
    # Fields about the caller, billing, caching or telemetry: accepted with any value, without effect.
    IGNORED: ClassVar[tuple[str, ...]] = ()


class RequestBody(Fields, kw_only=True):
    """The body of a request."""

    text_field: ClassVar[str]  # the field with the text that the model reads
    example: ClassVar[str]  # shown when a body is not an object
    max_values: ClassVar[int] = MAX_VALUES
    # What the fields of our requests are called here, where not the same: the names that errors tell.
    OWN_NAMES: ClassVar[Mapping[str, str]] = {}

    model: Annotated[
        str | None,
        msgspec.Meta(description="An id of /v1/models; absent, `default` or `edgellm`: the model that is served."),
    ] = None

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """What is wrong with a field in the block is told by the name that it was sent by."""
        try:
            yield
        except UsageError as error:
            own = self.OWN_NAMES.get(error.param, "")
            if own and self._has(own) and not self._has(error.param):
                error.rename(own)
            raise

    def _has(self, place: str) -> bool:
        try:
            return operator.attrgetter(place)(self) is not None
        except AttributeError:
            return False

    @classmethod
    def read(cls, body: bytes, unknown: UnknownFields | None = None) -> Self:
        """Decode and check a body. Names that are in no list go to `unknown`; None = they are refused.

        Raises:
            UnsupportedField, UsageError: with the name of the field.
        """
        unknown = unknown or UnknownFields(strict=True)
        check_counts(body, max_values=cls.max_values)
        try:
            fields = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0]
            if half := _HALF_PAIR.search(body):
                # Near the end of a body the decoder takes it for a truncated one.
                reason = f"{half[0].decode()} is half of a surrogate pair"
            raise UsageError(f"the body is not JSON: {reason}", hint="send a JSON object") from None
        if not isinstance(fields, dict):
            raise UsageError("the body is not a JSON object", hint=f"send {cls.example}")
        for name, path in cls.take_out(fields):
            if unknown.strict:
                raise UnsupportedField(f"{path}: {shortened(name)} is not supported", hint="leave it out", param=path)
            unknown.add(name, path)
        _check(fields, cls, "", unknown)
        _prepare(cls)
        try:
            read = msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise _wrong_value(error) from None
        for name, path in read.without_effect():
            unknown.add(name, path)
        return read

    @classmethod
    def take_out(cls, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Replace with null what changes nothing here and may have any form; as `without_effect`, for the rest."""
        return iter(())

    def without_effect(self) -> Iterator[tuple[str, str]]:
        """Parts of this body that change nothing here, beside unknown fields: a name, and the place that holds it."""
        return iter(())


Body = TypeVar("Body", bound=RequestBody)
_prepared: set[type[RequestBody]] = set()
_preparing = threading.Lock()


def _prepare(body: type[RequestBody]) -> None:
    """msgspec looks at a type when it is first used. Two threads that look at the same time crash the process."""
    if body not in _prepared:
        with _preparing:
            msgspec.json.Decoder(body)
            _prepared.add(body)


class Field(NamedTuple):
    """A supported field of a schema."""

    required: bool
    schema: type[Fields] | None  # of the object that it holds, or of each in the list that it holds
    in_list: bool
    choices: tuple[str, ...]  # the texts that it may be; empty: any


@cache
def supported(schema: type[Fields]) -> dict[str, Field]:
    """The supported fields of a schema by name."""
    return {
        field.name: Field(field.required, *_schema_in(field.type), _choices_in(field.type))
        for field in msgspec.structs.fields(schema)
    }


def schemas_in(schema: type[Fields]) -> Iterator[type[Fields]]:
    """`schema` and the schemas of all objects inside it."""
    yield schema
    for field in supported(schema).values():
        if field.schema is not None:
            yield from schemas_in(field.schema)


def shortened(value: object, *, quote: bool = True) -> str:
    """A client's value for an error text, as JSON unless it is a name that needs no quotes; at most 60 characters."""
    text = msgspec.json.encode(value).decode() if quote else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check(fields: dict[str, Any], schema: type[Fields], path: str, unknown: UnknownFields) -> None:
    """Refuse unsupported and missing fields of an object at `path` ("" = the body), and collect unknown ones."""
    supported_fields = supported(schema)
    for name, value in fields.items():
        if name in schema.NOT_SUPPORTED:
            _check_neutral(value, schema, name, path)
        if name in supported_fields:
            _check_value(value, schema, name, path, unknown)
    for name in _required(schema):
        if name not in fields:
            where = _join(path, name)
            raise UsageError(f"{where} is required", hint="see /docs", param=where)
    for name in fields:
        if name in supported_fields or name in schema.NOT_SUPPORTED or name in schema.IGNORED:
            continue
        if unknown.strict:
            where = _join(path, name)
            raise UsageError(f"there is no field {where}", hint=_suggestion(name, schema, path), param=where)
        unknown.add(name, path)


@cache
def _required(schema: type[Fields]) -> tuple[str, ...]:
    return tuple(name for name, field in supported(schema).items() if field.required)


def _check_neutral(value: object, schema: type[Fields], name: str, path: str) -> None:
    neutral = schema.NOT_SUPPORTED[name]
    if value is None or (type(value) is str and value in neutral):
        return
    # 1 == True in Python, but not in JSON.
    if not any(type(value) is type(one) and value == one for one in neutral):
        raise _unsupported(value, schema, name, _join(path, name))


def _check_value(value: object, schema: type[Fields], name: str, path: str, unknown: UnknownFields) -> None:
    """Check a choice, or the objects that a field holds; msgspec checks the types."""
    field = supported(schema)[name]
    if value in schema.NOT_SUPPORTED_VALUES.get(name, ()):
        raise _unsupported(value, schema, name, _join(path, name))
    if field.choices and isinstance(value, str) and value not in field.choices:
        where, choices = _join(path, name), ", ".join(filter(None, field.choices))
        raise UsageError(f"{where}: {shortened(value)} is unknown", hint=f"send one of: {choices}", param=where)
    if field.schema is None:
        return
    where = _join(path, name)
    if isinstance(value, list) and field.in_list:
        for index, item in enumerate(value):
            if isinstance(item, dict):
                _check(item, field.schema, f"{where}[{index}]", unknown)
    elif isinstance(value, dict) and not field.in_list:
        _check(value, field.schema, where, unknown)


def _unsupported(value: object, schema: type[Fields], name: str, where: str) -> UnsupportedField:
    choices = supported(schema)[name].choices if name in supported(schema) else ()
    only = f", only {', '.join(filter(None, choices))}" if choices else ""
    what = where if name in MEDIA else f"{where}: {shortened(value)}"
    return UnsupportedField(f"{what} is not supported{only}", hint="leave it out", param=where)


def _wrong_value(error: msgspec.ValidationError) -> UsageError:
    """What msgspec says of a value of the wrong type, with the place as OpenAI writes it: `messages[0].content`."""
    match = _PLACE.fullmatch(str(error))
    reason, path = match.groups() if match else (str(error), "")
    where = path.removeprefix(".").removesuffix("[...]")
    return UsageError(f"{where}: {reason[:1].lower()}{reason[1:]}", hint="see /docs", param=where)


def _suggestion(name: str, schema: type[Fields], path: str) -> str:
    names = [*supported(schema), *schema.NOT_SUPPORTED, *schema.IGNORED]
    # A name can be as long as the body, and comparing takes time.
    near = [] if path or len(name) > 60 else difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else "see /docs for the fields there are"


def _join(path: str, name: str) -> str:
    name = shortened(name, quote=False)
    return f"{path}.{name}" if path else name


def _schema_in(annotation: Any) -> tuple[type[Fields] | None, bool]:
    """The schema in the type of a field, and whether a list holds it."""
    if isinstance(annotation, type) and issubclass(annotation, Fields):
        return annotation, False
    for argument in get_args(annotation):
        schema, in_list = _schema_in(argument)
        if schema is not None:
            return schema, in_list or get_origin(annotation) is list
    return None, False


def _choices_in(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next(filter(None, map(_choices_in, get_args(annotation))), ())

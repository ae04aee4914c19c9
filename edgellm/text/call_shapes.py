"""The shape of calls, found in what a template makes of one and of two of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from edgellm.types.markup import CallMarkup, JsonCalls, NamedCalls, TaggedCalls

_UNIT = re.compile(r"<[^<>]*>?|\[[^\[\]]*\]?|\s+|[^<>\[\]\s]+|.", re.DOTALL)
MAX_BODY = 4096  # characters: what is longer is no call


class Probe(NamedTuple):
    """What the calls hold that were rendered."""

    names: tuple[str, str]
    arguments: Mapping[str, str]  # of both
    ids: tuple[str, str]


class _Around(NamedTuple):
    section_open: str
    open: str
    close: str
    section_close: str


def calls_of(one: str, two: str | None, probe: Probe) -> CallMarkup | None:
    """The markup of which `one` is one call and `two` are two. None: it is none of the known shapes."""
    if max(len(one), len(two or "")) > MAX_BODY:
        return None
    name = probe.names[0]
    if whole := _object_with(one, name):
        return _json_calls(one, two, whole, probe)
    end = one.index(name) + len(name)
    if arguments := _object_with(one, next(iter(probe.arguments)), end):
        return _named_calls(one, two, arguments, probe)
    return _tagged_calls(one, two, probe)


# Objects


class _Json(NamedTuple):
    start: int
    end: int
    value: Any


def _object_with(text: str, needle: str, start: int = 0) -> _Json | None:
    """The largest JSON with the needle in it, from `start` on."""
    place = text.find(needle, start)
    for match in re.finditer(r"[\[{]", text[:place] if place >= 0 else ""):
        if match.start() < start:
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if end > place:
            return _Json(match.start(), end, value)
    return None


def _json_calls(one: str, two: str | None, found: _Json, probe: Probe) -> JsonCalls | None:
    array = isinstance(found.value, list)
    call = found.value[0] if array else found.value
    keys = _keys(call, probe)
    if keys is None:
        return None
    before, after = one[: found.start], one[found.end :]
    if array:
        return JsonCalls(section_open=before.strip(), section_close=after.strip(), array=True, **keys)
    second = _object_with(two, probe.names[1], found.end) if two else None
    if two is None or second is None:
        return JsonCalls(open=before.strip(), close=after.strip(), **keys)
    around = _around(before, two[found.end : second.start], after)
    return JsonCalls(around.open, around.close, around.section_open, around.section_close, **keys)


def _keys(call: Any, probe: Probe) -> dict[str, Any] | None:
    """Which keys of a call stand for what."""
    if not isinstance(call, dict):
        return None
    name, call_id = probe.names[0], probe.ids[0]
    if name in call:
        return {"name_is_key": True}
    for wrapper, inner in [("", call), *((k, v) for k, v in call.items() if isinstance(v, dict))]:
        name_key = next((key for key, value in inner.items() if value == name), None)
        if name_key is None:
            continue
        for key, value in inner.items():
            if value == dict(probe.arguments) or (isinstance(value, str) and value.startswith("{")):
                id_key = next((k for k, v in {**call, **inner}.items() if v == call_id), "")
                return {"wrapper": wrapper, "name_key": name_key, "arguments_key": key, "id_key": id_key}
    return None


# Names in marks


def _named_calls(one: str, two: str | None, found: _Json, probe: Probe) -> NamedCalls | None:
    before, behind_name = _split(one[: found.start], probe.names[0])
    after = one[found.end :]
    if probe.ids[0] in before:
        return None
    id_open, marked, after_name = behind_name.partition(probe.ids[0])
    if not marked:
        id_open, after_name = "", id_open
    around = _Around("", before.strip(), after.strip(), "")
    if two:
        around = _around(before, two[found.end : two.index(probe.names[1])], after)
    if not around.open:
        return None
    return NamedCalls(
        around.open, after_name.strip(), around.close, around.section_open, around.section_close, id_open.strip()
    )


# Arguments in marks


def _tagged_calls(one: str, two: str | None, probe: Probe) -> TaggedCalls | None:
    before, rest = _split(one, probe.names[0])
    needles = [text for item in probe.arguments.items() for text in item]
    pieces = []
    for needle in needles:
        piece, rest = _split(rest, needle)
        pieces.append(piece)
    head, key_end, between, _ = pieces
    key_open = shared_tail(head, between).lstrip()
    value_close = between[: len(between) - len(key_open)].rstrip()
    after_name = head[: len(head) - len(key_open)]
    after = rest.removeprefix(value_close)
    key_close, value_open = _split_marks(key_end)
    around = _Around("", before.strip(), after.strip(), "")
    if two:
        between_calls = _split(two, needles[-1])[1].partition(probe.names[1])[0]
        around = _around(before, between_calls.removeprefix(value_close), after)
    if not (around.open and key_open and key_close and value_close.strip()):
        return None
    return TaggedCalls(
        open=around.open,
        after_name=after_name.strip(),
        key_open=key_open,
        key_close=key_close,
        value_close=value_close,
        value_open=value_open,
        close=around.close,
        section_open=around.section_open,
        section_close=around.section_close,
    )


def _split(text: str, needle: str) -> tuple[str, str]:
    before, _, behind = text.partition(needle)
    return before, behind


def _split_marks(text: str) -> tuple[str, str]:
    """`</key><value>` are two marks."""
    match = re.fullmatch(r"\s*(\S.*?>)\s*(<.*\S)\s*", text, re.DOTALL)
    return (match[1], match[2]) if match else (text.strip(), "")


# What stands around calls


def _around(before: str, between: str, after: str) -> _Around:
    """Which of the marks around calls stand around each of them, and which around all."""
    close = shared_head(between.lstrip(), after.lstrip())
    rest = between.lstrip()[len(close) :]
    opening = shared_tail(rest.rstrip(), before.rstrip())
    section_open = before.rstrip()[: len(before.rstrip()) - len(opening)]
    section_close = after.lstrip()[len(close) :]
    return _Around(section_open.strip(), opening.strip(), close.strip(), section_close.strip())


def shared_head(first: str, second: str) -> str:
    """What both texts begin with; no mark is cut in two."""
    return "".join(_shared(_UNIT.findall(first), _UNIT.findall(second)))


def shared_tail(first: str, second: str) -> str:
    """What both texts end with."""
    return "".join(_shared(reversed(_UNIT.findall(first)), reversed(_UNIT.findall(second)))[::-1])


def _shared(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return [unit for unit, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))]

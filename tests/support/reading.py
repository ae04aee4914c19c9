"""Answers read in every way that their text may be cut."""

from edgellm.text.known_markup import known_markup
from edgellm.text.readers import reader_of
from edgellm.types.markup import Reading
from edgellm.types.message import Tool

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "place": {"type": "object", "properties": {"lat": {"type": "number"}, "name": {"type": "string"}}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
}
WEATHER = Tool("weather", parameters=SCHEMA)
PING = Tool("ping")
FIND = Tool("maps.find-2")


def of_template(template, opened="", tools=(WEATHER, PING, FIND)):
    """How the answers of a model are read in whose template this stands."""
    return Reading(known_markup(template), opened, tools)


def read(reading, *pieces):
    reader = reader_of(reading)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    whole = []
    for part in parts:
        if whole and part.kind != "call_name" and (whole[-1].kind, whole[-1].call) == (part.kind, part.call):
            whole[-1] = whole[-1]._replace(text=whole[-1].text + part.text)
        else:
            whole.append(part)
    return whole


def everyway(reading, text):
    """(kind, text) read whole, by characters, and cut once at each place: all the same. Calls have a number behind."""
    parts = read(reading, text)
    assert read(reading, *text) == parts
    for i in range(1, len(text)):
        assert read(reading, text[:i], text[i:]) == parts, f"cut at {i}"
    return [tuple(part) if part.kind.startswith("call") else tuple(part)[:2] for part in parts]

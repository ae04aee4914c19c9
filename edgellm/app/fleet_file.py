"""A fleet: boxes that are planned together, as `fleet.toml` describes them (docs/cli.md, `edgellm plan`).

Trusts nothing: every error names the file, the line of the box, and the field.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from edgellm import tables
from edgellm.errors import UsageError
from edgellm.tables import Place
from edgellm.types.request import TASKS, SelectionRequest, cache_type, layers_on_gpu
from edgellm.units import parse_bytes

THIS_MACHINE = "this machine"
MOST_BOXES = 1000
MOST_COPIES = 1_000_000
_HINT = "docs/cli.md describes the format; docs/examples/fleet.toml is one"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a box. None = as selection would choose it. `[defaults]` may state any of them."""

    task: str | None = None
    ctx: int | None = None  # tokens per slot
    slots: int | None = None
    min_tps: float | None = None
    max_memory: str | None = None  # "3GiB"
    backend: str | None = None
    kv: str | None = None
    gpu_layers: int | str | None = None


@dataclass(frozen=True, slots=True)
class _Row(Wishes):
    """A box as it stands in the file."""

    name: str = ""
    profile: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Box:
    """Some machines of one kind with one purpose."""

    name: str
    profile: str  # a profile's name, the path of a TOML file, or THIS_MACHINE
    count: int
    request: SelectionRequest
    place: Place  # in the file, for errors found later

    @property
    def is_here(self) -> bool:
        return self.profile == THIS_MACHINE


@dataclass(frozen=True, slots=True)
class Fleet:
    name: str
    boxes: tuple[Box, ...]


def load(path: Path) -> Fleet:
    """The fleet in a file.

    Raises:
        UsageError: it cannot be read or is malformed, with file, line and field.
    """
    text = tables.read_text(path, _HINT)
    document = tables.parse_toml(text, path, _HINT)
    whole = Place(str(path), hint=_HINT)
    for key in document.keys() - {"name", "defaults", "boxes"}:
        whole.refuse("unknown key; known are name, defaults and boxes", field=key)
    name = document.get("name", path.stem)
    if not isinstance(name, str) or not name.isprintable():
        whole.refuse("no text", field="name")
    defaults = tables.convert(document.get("defaults", {}), Wishes, Place(str(path), "defaults", _HINT))
    boxes: dict[str, Box] = {}
    for place, table in tables.toml_rows(text, document, "boxes", path, _HINT):
        box = _box(tables.convert(table, _Row, place), defaults, place, path.parent)
        if box.name in boxes:
            place.refuse(f"{box.name!r} stands in the file twice", field="name")
        boxes[box.name] = box
    if not boxes:
        whole.refuse("no boxes; each stands under a line [[boxes]]")
    if len(boxes) > MOST_BOXES:
        whole.refuse(f"{len(boxes)} boxes, at most {MOST_BOXES} are planned at once", field="boxes")
    return Fleet(name, tuple(boxes.values()))


def _box(row: _Row, defaults: Wishes, place: Place, folder: Path) -> Box:
    if not row.name or not row.name.isprintable():
        place.refuse("must be a text on one line", field="name")
    if not row.profile:
        place.refuse(f"must name a profile, a TOML file, or {THIS_MACHINE!r}", field="profile")
    if not 1 <= row.count <= MOST_COPIES:
        place.refuse(f"{row.count} is out of range (1 to {MOST_COPIES})", field="count")
    profile = row.profile
    if profile.endswith(".toml"):
        # As seen from the file that names it.
        profile = str(folder / Path(profile).expanduser())
    wishes = {f.name: _first(getattr(row, f.name), getattr(defaults, f.name)) for f in fields(Wishes)}
    return Box(row.name, profile, row.count, _request(wishes, place), place)


def _first(own: object, default: object) -> object:
    return default if own is None else own


def _request(wishes: dict[str, object], place: Place) -> SelectionRequest:
    def value(name: str, usual: object) -> object:
        return usual if wishes[name] is None else wishes[name]

    field = ""
    try:
        field = "max_memory"
        memory = None if wishes["max_memory"] is None else parse_bytes(str(wishes["max_memory"]))
        field = "gpu_layers"
        layers = layers_on_gpu(value("gpu_layers", "auto"))  # type: ignore[arg-type]
        field = "" if wishes["task"] in (None, *TASKS) else "task"
        return SelectionRequest(
            task=value("task", "chat"),  # type: ignore[arg-type]  # refused there
            ctx=wishes["ctx"],  # type: ignore[arg-type]
            min_tps=wishes["min_tps"],  # type: ignore[arg-type]
            max_memory_bytes=memory,
            backend=wishes["backend"],  # type: ignore[arg-type]
            slots=value("slots", 1),  # type: ignore[arg-type]
            gpu_layers=layers,
            kv_type=cache_type(str(value("kv", "auto"))),
        )
    except UsageError as error:
        raise UsageError(
            f"{place.path}: {place.row}: {field or error.param or 'request'}: {error.message}", hint=error.hint
        ) from None

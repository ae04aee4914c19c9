"""A fleet: boxes that are planned together, as `fleet.toml` describes them (docs/cli.md, `edgellm plan`).

Trusts nothing: every error names the file, the line of the box, and the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgellm import tables
from edgellm.app import context as app_context
from edgellm.contract.manager import plugins
from edgellm.errors import UsageError
from edgellm.files import expanded
from edgellm.hardware import profiles
from edgellm.selection.context import SelectionContext
from edgellm.selection.fleet import Site
from edgellm.tables import Place
from edgellm.types.calibration import Calibration
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard
from edgellm.types.options import SelectionOptions
from edgellm.types.request import SelectionRequest
from edgellm.units import parse_bytes, parse_tokens

THIS_MACHINE = "this machine"
MOST_BOXES = 1000
MOST_COPIES = 1_000_000
_HINT = "docs/cli.md describes the format; docs/examples/fleet.toml is one"


@dataclass(frozen=True, slots=True)
class _BoxDefaults:
    """What is asked of a box. `[defaults]` may state any of it."""

    task: str = "chat"
    ctx: int | str | None = None  # tokens per slot, or text such as "8k"; None = as selection chooses it
    slots: int | str = "auto"
    min_tps: float | None = None  # None = the task's speed floor
    max_memory: str | None = None  # "3GiB"
    backend: str | None = None
    kv: str = "auto"
    gpu_layers: int | str = "auto"
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class _Row(_BoxDefaults):
    """A box as it stands in the file."""

    name: str = ""
    profile: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Box:
    """Some machines of one kind with one purpose."""

    name: str
    profile: str  # a profile's name, the path of a file, or THIS_MACHINE
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
    defaults = document.get("defaults", {})
    of_defaults = tables.toml_table(text, "defaults", path, _HINT)
    _request(tables.convert(defaults, _BoxDefaults, of_defaults), of_defaults)
    boxes: dict[str, Box] = {}
    for place, table in tables.toml_rows(text, document, "boxes", path, _HINT):
        row = {**defaults, **table} if isinstance(table, dict) else table
        box = _box(tables.convert(row, _Row, place), place, path.parent)
        if box.name in boxes:
            place.refuse(f"{box.name!r} stands in the file twice", field="name")
        boxes[box.name] = box
    if not boxes:
        whole.refuse("no boxes; each stands under a line [[boxes]]")
    if len(boxes) > MOST_BOXES:
        whole.refuse(f"{len(boxes)} boxes, at most {MOST_BOXES} are planned at once", field="boxes")
    return Fleet(name, tuple(boxes.values()))


def sites(fleet: Fleet, models_file: Path | None = None) -> list[Site]:
    """Every box with its context. Boxes of one kind share the context, so that they are decided once.

    Raises:
        UsageError: a profile is not there or not valid; names the box.
    """

    @cache
    def context(profile: str | None) -> SelectionContext:
        if profile is None:
            return app_context.here(models_file)
        machine, measured = machines[profile]
        return app_context.of_machine(machine, published(), measured)

    @cache
    def published() -> list[ModelCard]:
        return app_context.cards(models_file, here=False)

    machines: dict[str, tuple[Machine, dict[str, Calibration]]] = {}
    for box in fleet.boxes:
        if not box.is_here and box.profile not in machines:
            machines[box.profile] = _described(box)
    return [
        Site(box.name, box.count, context(None if box.is_here else box.profile), box.request) for box in fleet.boxes
    ]


def _described(box: Box) -> tuple[Machine, dict[str, Calibration]]:
    try:
        return app_context.described(box.profile)
    except UsageError as error:
        file = f"{box.profile}.toml"
        is_beside = not profiles.is_path(box.profile) and (Path(box.place.path).parent / file).is_file()
        hint = f"a file is named with its ending: profile = {file!r}" if is_beside else error.hint
        what = f"{box.place.path}: {box.place.row}: profile: {error.message}"
        raise UsageError(what, hint=hint, param="profile") from None


def _box(row: _Row, place: Place, folder: Path) -> Box:
    if not row.name or not row.name.isprintable():
        place.refuse("must be a text on one line", field="name")
    if not row.profile:
        place.refuse(f"must name a profile, a file of one, or {THIS_MACHINE!r}", field="profile")
    if not 1 <= row.count <= MOST_COPIES:
        place.refuse(f"{row.count} is out of range (1 to {MOST_COPIES})", field="count")
    profile = row.profile
    if profiles.is_path(profile):
        # As seen from the file that names it.
        profile = str(folder / expanded(profile))
    return Box(row.name, profile, row.count, _request(row, place), place)


def _request(row: _BoxDefaults, place: Place) -> SelectionRequest:
    with place.located("max_memory"):
        memory = None if row.max_memory is None else parse_bytes(row.max_memory)
    with place.located("backend"):
        if row.backend is not None:
            plugins().backend(row.backend)
    with place.located():
        asked = {name: getattr(row, name) for name in _BoxDefaults.__dataclass_fields__}
        ctx = parse_tokens(row.ctx) if isinstance(row.ctx, str) else row.ctx
        return SelectionOptions(**asked | {"max_memory": memory, "ctx": ctx}).request()

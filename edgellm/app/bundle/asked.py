"""What a bundle is to be: for which machines, by what name, with which wheels and adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgellm import tables
from edgellm.app import fleet_file
from edgellm.app.fleet_file import Box, Fleet
from edgellm.errors import UsageError
from edgellm.hardware import profiles
from edgellm.tables import Place
from edgellm.types.options import SelectionOptions

AS_USUAL = SelectionOptions(slots="auto")  # as `edgellm auto-select` asks
PYTHON, GLIBC = "3.11", "2.28"  # the oldest that EdgeLLM and its wheels run with


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What `create` is asked for beside the machines."""

    name: str = ""  # "" = the profile's or the fleet's
    release: int = 1
    expires: str = ""  # "2027-01-31"; "" = never
    model: str = ""  # "" = what selection chooses for each machine
    adapters: tuple[str, ...] = ()
    wheels: tuple[Path, ...] = ()  # folders; () = machines that have EdgeLLM already
    interpreters: tuple[Path, ...] = ()  # tars, one for each processor; () = machines that have a Python
    python: str = ""  # of the machines; "" = the one that goes along, else PYTHON
    glibc: str = ""  # "" = GLIBC, or the machines have musl
    musl: str = ""  # "1.2", the oldest of the machines; "" = they have glibc
    licences: tuple[str, ...] = ()  # the only ones that may be in it; () = any
    golden: bool = True  # the models are asked here what they must answer there
    models_file: Path | None = None
    selection: SelectionOptions = AS_USUAL  # of a profile; a fleet states its own

    @property
    def oldest_glibc(self) -> str:
        """ "" where the machines have musl."""
        return "" if self.musl else self.glibc or GLIBC


def machines(name_or_path: str, options: BundleOptions) -> Fleet:
    """The machines that a profile's name, a profile's file or a fleet's file means; one profile is a fleet of one box.

    Raises:
        UsageError, UnknownProfile: there is none, it is malformed, or it means the machine that is here.
    """
    if profiles.is_path(name_or_path) and _is_fleet(Path(name_or_path)):
        if options.selection != AS_USUAL:
            hint = "write it into the file, under [defaults] or in a box"
            raise UsageError("what is asked of a fleet stands in its file", hint=hint, param="for")
        fleet = fleet_file.load(Path(name_or_path))
    else:
        machine = profiles.load(name_or_path)
        place = Place(name_or_path)
        box = Box(machine.id, name_or_path, 1, options.selection.request(), place)
        fleet = Fleet(machine.id, (box,))
    if here := [box.name for box in fleet.boxes if box.is_here]:
        message = f"{here[0]} is the machine that is here, and a bundle is for another one"
        raise UsageError(message, hint="`edgellm profile --out FILE` writes a profile of it, to be named", param="for")
    return fleet


def _is_fleet(path: Path) -> bool:
    hint = "name a profile of `edgellm profile --list`, or a file of a profile or a fleet"
    return path.suffix == ".toml" and "boxes" in tables.parse_toml(tables.read_text(path, hint), path, hint)

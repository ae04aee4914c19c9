"""Two places for what bundles bring, and one link that says which of them is served. Nothing ever writes into that one.

    ROOT/
      A/ B/           the slots
        bundle/       files of the bundle, its manifest among them
        home/         EDGELLM_HOME of what is served from here; measurements are those of both slots
        python/       the bundle's Python, where it brings one
        venv/         EdgeLLM from the bundle's wheels, where it has any
        run           serves the slot; flags may follow
        edgellm.service  a unit of systemd that runs it
        installed.json  what lay in all of these but bundle/ then
        slot.json     what it is; written last, so that a slot without it is not whole
        unproven      until the service was seen well with it: the sha256 of what was served before, or nothing
        unserved      until it is served, and again where it is refused: nobody goes back to it unasked
      current -> A    changed by one rename
      cache/          measurements of this machine
      releases.json   the highest release of each name that was served

A process may be killed at any byte: `current` leads to a whole slot before and after.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgellm.bundle import inventory
from edgellm.bundle.manifest import NAME, Manifest, decode
from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.files import DamagedRecord, locked, read_json_record, read_regular, write_atomic

SLOTS = ("A", "B")
CURRENT, CACHE, RECORD, FILES, HOME, VENV, RUN = "current", "cache", "slot.json", "bundle", "home", "venv", "run"
PYTHON, UNIT, INSTALLED, RELEASES = "python", "edgellm.service", "installed.json", "releases.json"
UNPROVEN, UNSERVED = "unproven", "unserved"
_REFUSED = b"refused"  # in UNSERVED
_LISTED = (RUN, UNIT, HOME, PYTHON, VENV)
SCHEMA = 1
_MAX_BYTES = 64 * 1024
_MAX_RELEASES_BYTES = 16 * 1024**2


class SlotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole slot holds."""

    name: str  # of the bundle
    release: int
    sha256: str  # of its manifest
    target: str
    installed: str = ""  # sha256 of the list of what was installed; "" = there is none, as in slots of before
    marked: bool = False  # whether UNSERVED tells if it has served; slots of before have no such mark
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class BundleSlot:
    """One of the two. `record` is None where it is not whole."""

    name: str
    folder: Path
    record: SlotRecord | None

    @property
    def files(self) -> Path:
        return self.folder / FILES

    def manifest(self) -> Manifest:
        """Of the bundle that it was installed from.

        Raises:
            OSError, ArtifactError: it is not whole.
        """
        from edgellm.bundle import manifest

        return decode(read_regular(self.files / NAME, manifest.MAX_BYTES))


class Slots:
    """The slots under `root`. `held` is for whoever changes them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> list[BundleSlot]:
        return [self.slot(name) for name in SLOTS]

    def slot(self, name: str) -> BundleSlot:
        folder = self.root / name
        try:
            record = read_json_record(folder / RECORD, SlotRecord, _MAX_BYTES)
        except (OSError, DamagedRecord):
            record = None
        return BundleSlot(name, folder, record)

    def current(self) -> BundleSlot | None:
        """The one that is served, however the link to it is written; None where nothing is yet.

        Raises:
            UsageError: something else stands there, so that nobody knows which one may be emptied.
        """
        link = self.root / CURRENT
        if not os.path.lexists(link):
            return None
        if link.is_symlink():
            if (name := os.readlink(link)) in SLOTS:
                return self.slot(name)
            target = os.path.realpath(link)
            for name in SLOTS:
                if os.path.realpath(self.root / name) == target:
                    return self.slot(name)
        hint = f"find out which slot is served, remove {link}, and make a link to it: ln -s A {link}"
        raise UsageError(f"{link} is no link to slot A or B of {self.root}", hint=hint, param="root")

    def spare(self) -> BundleSlot:
        """The one that is not served, to be written.

        Raises:
            UsageError: as `current`.
        """
        current = self.current()
        return self.slot(SLOTS[1] if current is not None and current.name == SLOTS[0] else SLOTS[0])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else changes slots meanwhile.

        Raises:
            UsageError: somebody does.
        """

        def busy() -> None:
            raise UsageError(f"another process changes the slots in {self.root}", hint="try again later", param="root")

        with locked(self.root / ".lock", busy):
            yield

    def clear(self, slot: BundleSlot) -> None:
        """Empty a slot that is not served. It is not whole from the first step on.

        Raises:
            UsageError: a link lies where a folder of ours belongs: what it leads to is not ours to empty or to fill.
        """
        for folder in (*(self.root / name for name in SLOTS), self.root / CACHE):
            if folder.is_symlink():
                hint = "remove the link; what it leads to was not touched"
                raise UsageError(f"{folder} is a link, where a folder belongs", hint=hint, param="root")
        (slot.folder / RECORD).unlink(missing_ok=True)
        if slot.folder.exists():
            sync_folder(slot.folder)
        shutil.rmtree(slot.folder, ignore_errors=True)
        for left in self.root.glob(f".{CURRENT}.*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        slot.folder.mkdir(parents=True)

    def finish(self, slot: BundleSlot, record: SlotRecord) -> BundleSlot:
        """From now on it is whole, with a list of what was installed into it, and has not served.

        Raises:
            OSError: a file cannot be read or written.
        """
        listed = inventory.taken(slot.folder, _LISTED)
        write_atomic(slot.folder / INSTALLED, listed, sync=True)
        record = msgspec.structs.replace(record, installed=hashlib.sha256(listed).hexdigest(), marked=True)
        (slot.folder / UNSERVED).touch()
        content = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
        os.sync()  # what pip wrote
        write_atomic(slot.folder / RECORD, content, sync=True)
        sync_folder(slot.folder)
        sync_folder(self.root)
        return BundleSlot(slot.name, slot.folder, record)

    def activate(self, slot: BundleSlot, *, instead_of: str | None = None, goes_back: bool = False) -> None:
        """Serve this one. `instead_of`: until it is `proven`, the sha256 of what was served before; "" = nothing was;
        None = it needs no proof. `goes_back`: what is current now was not seen well, and does not count as served.

        Raises:
            UnsupportedArtifact: it is not whole.
        """
        if slot.record is None:
            hint = f"install a bundle first: {installing(self.root)}"
            raise UnsupportedArtifact(f"slot {slot.name} in {self.root} holds nothing that is whole", hint=hint)
        current = self.current()
        if current is not None and current.name != slot.name and not goes_back and not _is_refused(current):
            # Also where a process was killed before it could: it may have served for weeks since.
            self._has_served(current)
        if instead_of is None:
            self._keep_release(slot)
            _remove(slot, UNPROVEN)
        else:
            write_atomic(slot.folder / UNPROVEN, instead_of.encode(), sync=True)
            sync_folder(slot.folder)
        link = self.root / f".{CURRENT}.{uuid.uuid4().hex[:8]}"
        os.symlink(slot.name, link)
        os.replace(link, self.root / CURRENT)
        sync_folder(self.root)
        if instead_of is None:
            _remove(slot, UNSERVED)
        if goes_back and current is not None and current.name != slot.name:
            _remove(current, UNPROVEN)

    def proven(self, slot: BundleSlot) -> None:
        """The service was seen well with it."""
        self._has_served(slot)
        _remove(slot, UNPROVEN)

    def refused(self, slot: BundleSlot) -> None:
        """It failed when it was to be served: nobody goes back to it unasked, even if it has served before."""
        with contextlib.suppress(OSError):  # why it was refused is told all the same
            (slot.folder / UNSERVED).write_bytes(_REFUSED)
            sync_folder(slot.folder)

    def has_served(self, slot: BundleSlot) -> bool:
        """Whether a whole slot has served, and was not refused since. One of before there were marks has, unless
        `releases` knows better.
        """
        if slot.record is None or (slot.folder / UNSERVED).exists():
            return False
        try:
            highest = self.releases().get(slot.record.name)
        except UsageError:
            highest = None
        return slot.record.marked or highest is None or slot.record.release <= highest

    def _has_served(self, slot: BundleSlot) -> None:
        self._keep_release(slot)
        _remove(slot, UNSERVED)

    def releases(self) -> dict[str, int]:
        """Name -> the highest release that was served here.

        Raises:
            UsageError: nobody knows any more.
        """
        path = self.root / RELEASES
        try:
            return read_json_record(path, dict[str, int], _MAX_RELEASES_BYTES)
        except FileNotFoundError:
            return {}
        except (OSError, DamagedRecord) as error:
            hint = "remove it; then a release is compared with the one that is served now"
            raise UsageError(f"{path} cannot be read: {error}", hint=hint, param="root") from None

    def highest(self, name: str) -> int:
        """The highest release of that name that was served here, or is; 0 = none.

        Raises:
            UsageError: as `releases` and `current`.
        """
        current = self.current()
        served = current.record if current is not None else None
        return max(self.releases().get(name, 0), served.release if served and served.name == name else 0)

    def is_older(self, slot: BundleSlot) -> bool:
        """Whether what a slot holds would be refused as older, were it installed again."""
        with contextlib.suppress(UsageError):
            current = self.current()
            if slot.record is not None and (current is None or current.name != slot.name):
                return slot.record.release < self.highest(slot.record.name)
        return False

    def _keep_release(self, slot: BundleSlot) -> None:
        try:
            releases = self.releases()
        except UsageError:  # `install` tells it; what is served can be changed all the same
            return
        if (record := slot.record) is not None and record.release > releases.get(record.name, 0):
            releases[record.name] = record.release
            write_atomic(self.root / RELEASES, msgspec.json.encode(releases) + b"\n", sync=True)

    def is_unproven(self, slot: BundleSlot) -> bool:
        return (slot.folder / UNPROVEN).exists()

    def before(self, slot: BundleSlot) -> BundleSlot | None:
        """What was served before an unproven slot; None where nothing was, or where it was replaced since."""
        try:
            sha256 = read_regular(slot.folder / UNPROVEN, _MAX_BYTES).decode()
        except (OSError, UnicodeDecodeError):
            return None
        others = (one for one in self.all() if one.name != slot.name and one.record is not None)
        return next((one for one in others if one.record is not None and one.record.sha256 == sha256), None)


def installing(root: Path, *flags: str) -> str:
    """The command that installs a bundle below `root`."""
    return shlex.join(["edgellm", "bundle", "install", "FILE", "--key", "KEY", "--root", str(root), *flags])


def _is_refused(slot: BundleSlot) -> bool:
    """Nothing was there to go back to, so it is the one that is served all the same."""
    try:
        return (slot.folder / UNSERVED).read_bytes() == _REFUSED
    except OSError:
        return False


def _remove(slot: BundleSlot, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        (slot.folder / name).unlink()
        sync_folder(slot.folder)


def sync_folder(folder: Path) -> None:
    """Force names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
